"""What a user sees of the prefix cache: an entry for each text that was read, with its label."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrqk_cli.errors import LrqkError, UsageError, did_you_mean
from lrqk_cli.prefix_cache.store import PrefixStore, StoredFile
from lrqk_cli.prefix_cache.tensor_file import read_metadata

# Letters of a key that are shown, and the least that name an entry.
SHOWN_LETTERS = 8
_LEAST_LETTERS = 4
# What a label says is cut to this many characters, and numbers to what 64 bits hold.
_LONGEST_TEXT = 200
_LARGEST_NUMBER = 1 << 63


@dataclass(frozen=True, slots=True)
class LabelledDocument:
    """A document as its label names it: the title on one line, pages, and tokens."""

    title: str
    pages: int
    tokens: int


@dataclass(frozen=True, slots=True)
class PrefixLabel:
    """What a file says of the text it belongs to; empty where it says nothing that can be read."""

    model: str = ""
    documents: tuple[LabelledDocument, ...] = ()
    session: str = ""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A prefix that was read: the end of a chain of blocks, and its states.

    Attributes:
        key: hash of the whole prefix.
        label: of its newest readable file that has one.
        tokens: of the whole prefix.
        nbytes: bytes of all its files, those of shared blocks included.
        own_bytes: bytes that are free again when it is removed.
        used: when it was last used, in seconds since the epoch.
        is_damaged: whether a block is missing, or a file's header cannot be read. What comes behind the
            headers is checked when it is used.
    """

    key: str
    label: PrefixLabel
    tokens: int
    nbytes: int
    own_bytes: int
    used: float
    is_damaged: bool

    @property
    def short_key(self) -> str:
        """The first letters of the key."""
        return self.key[:SHOWN_LETTERS]


def entries(store: PrefixStore) -> list[CacheEntry]:
    """Return all entries, the last used first; opens every file, and reads its header.

    There is one for each block that has a state or that no other block follows. Every file of the store
    belongs to at least one.

    Raises:
        OSError: the folder cannot be read.
    """
    listing = _Listing(store.files())
    metadata = {file.path: _metadata(file.path) for file in listing.files}
    found = [listing.entry(key, metadata) for key in listing.chains]
    return sorted(found, key=lambda entry: (-entry.used, entry.key))


def find(store: PrefixStore, name: str) -> CacheEntry:
    """Return the entry that ``name`` means: the first letters of its key, or the title of a document.

    Args:
        name: at least 4 letters of a key, or a whole title; case does not count.

    Raises:
        UsageError: there is no such entry, or several.
        OSError: the folder cannot be read.
    """
    known, wanted = entries(store), _line(name).casefold()
    found = [
        entry
        for entry in known
        if (len(wanted) >= _LEAST_LETTERS and entry.key.casefold().startswith(wanted))
        or wanted in (document.title.casefold() for document in entry.label.documents)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(entry.short_key for entry in found)
        raise UsageError(
            f"'{name}' means {len(found)} entries of the cache.", f"Choose one by its key: {keys}."
        )
    names = [entry.short_key for entry in known]
    names += dict.fromkeys(document.title for entry in known for document in entry.label.documents)
    raise UsageError(
        f"There is no '{name}' in the cache.",
        did_you_mean(name, names, "See what there is with: lrqk cache list", is_long=True),
    )


def remove(store: PrefixStore, entry: CacheEntry) -> int:
    """Delete an entry's states, and its blocks that no other entry needs; return the freed bytes.

    Raises:
        OSError: the folder cannot be read.
    """
    listing = _Listing(store.files())
    return store.delete(listing.own_files(entry.key)) if entry.key in listing.chains else 0


class _Listing:
    """The files of a store by entry.

    Attributes:
        files: all of them.
        chains: key of an entry -> keys of its blocks, the last first.
    """

    def __init__(self, files: list[StoredFile]) -> None:
        self.files = files
        self.chains: dict[str, tuple[str, ...]] = {}
        self._blocks = defaultdict[str, list[StoredFile]](list)
        self._states = defaultdict[str, list[StoredFile]](list)
        for file in files:
            (self._states if file.is_state else self._blocks)[file.key].append(file)
        followed = {file.needs for file in files if not file.is_state}
        for key in [*self._states, *(key for key in self._blocks if key not in followed)]:
            self.chains[key] = self._chain(key)
        # Names that were tampered with may form a circle, which has no end.
        covered = {key for chain in self.chains.values() for key in chain}
        for key in sorted(self._blocks.keys() - covered):
            if key not in covered:
                self.chains[key] = self._chain(key)
                covered.update(self.chains[key])
        self._users = Counter(key for chain in self.chains.values() for key in chain)

    def entry(self, key: str, metadata: dict[Path, dict[str, str] | None]) -> CacheEntry:
        """Return the entry of a key, given the metadata of every file, None for those that are damaged."""
        chain = self.chains[key]
        ends = [*self._states[key], *(self._blocks[key] if chain else ())]
        files = [*self._states[key], *self._blocks_of(chain)]
        blocks = [file.block for file in self._blocks_of(chain) if file.block is not None]
        is_whole = bool(blocks) and blocks[-1].is_first and len(blocks) == len(chain)
        labels = [_label(metadata[file.path]) for file in sorted(ends, key=lambda file: -file.used)]
        return CacheEntry(
            key=key,
            label=next((label for label in labels if label != PrefixLabel()), PrefixLabel()),
            tokens=sum(block.tokens for block in blocks),
            nbytes=sum(file.size for file in files),
            own_bytes=sum(file.size for file in self.own_files(key)),
            used=max(file.used for file in ends),
            is_damaged=not is_whole or any(metadata[file.path] is None for file in files),
        )

    def own_files(self, key: str) -> list[StoredFile]:
        """Return the files of an entry that no other needs, in an order that leaves no gaps."""
        own = [block for block in self.chains[key] if self._users[block] == 1]
        return [*self._states[key], *self._blocks_of(own)]

    def _blocks_of(self, keys: Iterable[str]) -> list[StoredFile]:
        return [file for key in keys for file in self._blocks[key]]

    def _chain(self, key: str) -> tuple[str, ...]:
        chain = dict[str, None]()
        while key in self._blocks and key not in chain:
            chain[key] = None
            key = self._blocks[key][0].needs
        return tuple(chain)


def _metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of a file; None if its header cannot be read."""
    try:
        return read_metadata(path)
    except (LrqkError, OSError):
        return None


def _label(metadata: object) -> PrefixLabel:
    """Return the label of a file; it is a file's content, so that anything may stand in it."""
    try:
        label = json.loads(metadata["label"])  # type: ignore[index]
    except (ValueError, KeyError, TypeError, RecursionError):
        return PrefixLabel()
    if not isinstance(label, dict):
        return PrefixLabel()
    documents = label.get("documents")
    named = [item for item in documents if isinstance(item, dict)] if isinstance(documents, list) else []
    model, session = _line(label.get("model")), _line(label.get("session"))
    return PrefixLabel(model, tuple(map(_document, named)), session)


def _document(item: dict[str, Any]) -> LabelledDocument:
    return LabelledDocument(_line(item.get("title")), _number(item.get("pages")), _number(item.get("tokens")))


def _line(text: object) -> str:
    """Return a text on one line, cut where it is too long; an empty one for anything else."""
    return " ".join(text.split())[:_LONGEST_TEXT] if isinstance(text, str) else ""


def _number(value: object) -> int:
    return value if type(value) is int and 0 <= value < _LARGEST_NUMBER else 0
