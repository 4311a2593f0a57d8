"""docs/design.md lists the functions between a question and the attention over residents: they are these."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from unittest.mock import patch

import lrqk_cli
from lrqk_cli import kernels
from lrqk_cli.engine.decode import FixedStep

PACKAGE = Path(lrqk_cli.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"


def listed() -> list[tuple[str, str]]:
    """Return the files and functions of the table."""
    section = DESIGN.read_text(encoding="utf-8").split("**The way through.**")[1]
    return re.findall(r"^\| `(\S+\.py)` \| `(\S+)` \|", section, flags=re.MULTILINE)


def test_the_way_through_is_the_stack_of_a_decode_step(run, tiny_model, tmp_path) -> None:
    document = tmp_path / "notes.txt"
    document.write_text("The revenue of the year was 48.2 million. " * 10, encoding="utf-8")
    stacks: list[list[tuple[str, str]]] = []
    attend = kernels.attend_residents

    def note(*args, **kwargs):
        frames = [(Path(frame.filename), frame.frame.f_code.co_qualname) for frame in inspect.stack()[1:]]
        own = [(str(path.relative_to(PACKAGE)), name) for path, name in frames if PACKAGE in path.parents]
        stacks.append(own[::-1])
        attend(*args, **kwargs)

    with (
        patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: True),
        patch.object(FixedStep, "_capture", lambda _: None),  # there are no graphs on a CPU
        patch.object(kernels, "attend_residents", note),
    ):
        options = "--attention", "lrqk", "--hot", "64", "--top-k", "16", "--max-new-tokens", "3"
        result = run("chat", "--model", tiny_model, document, "--prompt", "How much?", *options)
    assert result.code == 0, result.err
    table = listed()
    assert len(table) <= 12
    assert len({file for file, _ in table}) <= 8
    assert stacks
    for stack in stacks:
        assert stack[stack.index(table[0]) :] == table
