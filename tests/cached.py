"""A prefix cache with small files, as an engine leaves them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from lrqk_cli.prefix_cache.store import Block, PrefixStore, next_block, root_of
from lrqk_cli.prefix_cache.tensor_file import write_tensors

ROOT = root_of({"model": "tiny"})


def label(*titles: str, model: str = "tiny") -> dict[str, object]:
    return {"model": model, "documents": [{"title": title, "pages": 2, "tokens": 30} for title in titles]}


def chain_of(tokens: Sequence[int], ends: Iterable[int], root: str = ROOT) -> list[Block]:
    """Return the blocks of ``tokens`` that end at ``ends``."""
    chain = list[Block]()
    for start, stop in pairwise([0, *ends]):
        chain.append(next_block(chain[-1].key if chain else root, tokens[start:stop]))
    return chain


def add(
    store: PrefixStore,
    tokens: Sequence[int],
    ends: Iterable[int],
    *,
    text: object = None,
    states: Sequence[str] = (),
    used: float | None = None,
    root: str = ROOT,
) -> list[Block]:
    """Write the blocks of a text and the states of its end, unless they are there; return the chain."""
    chain = chain_of(tokens, ends, root)
    paths = [*map(store.path, chain), *(store.state_path(chain[-1].key, name) for name in states)]
    for path in paths:
        write(store, path, label() if text is None else text)
        if used is not None:
            os.utime(path, (used, used))
    return chain


def write(store: PrefixStore, path: Path, text: object) -> None:
    """Write a file of the store with this label."""
    store.make_folder()
    if not store.has(path):
        metadata = {"format": "1", "label": json.dumps(text), "tokens": "0"}
        write_tensors(path, {"rows": torch.arange(24.0)}, metadata)


def damage(path: Path) -> None:
    """Change a letter of a file's header."""
    content = bytearray(path.read_bytes())
    content[content.index(b"format")] ^= 1
    path.write_bytes(content)
