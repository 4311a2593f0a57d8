"""Guided by coverage, with atheris: ``cd tests; python -m fuzz.guided PARSER FOLDER -max_total_time=300``.

For parsers that are lrqk's own Python. What follows the name of the parser is libFuzzer's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lrqk_cli", "gguf"]):
    from lrqk_cli.chat.archive import load
    from lrqk_cli.cli import values
    from lrqk_cli.documents import PageSelection
    from lrqk_cli.errors import LrqkError
    from lrqk_cli.models.gguf import _readable, read_index
    from lrqk_cli.prefix_cache.tensor_file import TensorFile


def _tensors(path: Path) -> None:
    with TensorFile(path) as file:
        for name in file._entries:
            with suppress(LrqkError):
                file.tensor(name)


def _gguf(path: Path) -> None:
    with _readable(path):
        read_index(path)


def _values(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    parsers = (values.parse_bytes, values.parse_tokens, values.parse_think, values.parse_penalties)
    for parse in (*parsers, PageSelection.parse):
        with suppress(LrqkError):
            parse(text)


_PARSERS: dict[str, Callable[[Path], object]] = {
    **{"tensors": _tensors, "gguf": _gguf, "values": _values, "saved": load},
}


def main() -> None:
    parse, options = _PARSERS[sys.argv[1]], sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="lrqk-fuzz-") as folder:
        path = Path(folder) / "case"

        def run(data: bytes) -> None:
            path.write_bytes(data)
            with suppress(LrqkError):
                parse(path)

        atheris.Setup([sys.argv[0], *options], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
