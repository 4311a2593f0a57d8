"""What a user types: numbers, pages, lines of a chat, and the config file."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable
from pathlib import Path
from random import Random

from talk import Talk

from fuzz.command_line import lrqk, own_folders
from fuzz.mutations import BOUNDARIES, mutated
from lrqk_cli.chat.chat_session import ChatSession
from lrqk_cli.cli import values
from lrqk_cli.documents import PageSelection
from lrqk_cli.errors import LrqkError
from lrqk_cli.models import catalog
from lrqk_cli.terminal.command_context import ChatExit
from lrqk_cli.terminal.commands import COMMANDS

_PARSERS: tuple[Callable[[str], object], ...] = (
    *(values.parse_bytes, values.parse_tokens, values.parse_integer, values.parse_number, values.parse_think),
    *(values.parse_penalties, values.parse_names),
    *(catalog.find, lambda text: PageSelection.parse(text).numbers(9, "a.pdf")),
)
_PIECES = (
    *(str(number) for number in BOUNDARIES),
    *(
        "64k",
        "1m",
        "12GiB",
        "1.5",
        "e",
        "E5",
        ".",
        ",",
        "-",
        "_",
        " ",
        "\t",
        "\n",
        "inf",
        "nan",
        "on",
        "off",
        "\u2013",
    ),
    *(
        "9" * 400,
        "9" * 5000,
        "0x10",
        "\u0663",
        "\u00b2",
        "\uff11",
        "\0",
        "\udcff",
        "\x1b",
        "'",
        '"',
        "\\",
        "3-",
        "-3",
    ),
)
_WORDS = (
    *_PIECES,
    *(
        "top-k",
        "top-p",
        "temperature",
        "seed",
        "think",
        "max-new-tokens",
        "lookup",
        "all",
        "a.pdf",
        "tiny",
        "notes.txt",
    ),
    *(
        "chat.md",
        "chat.html",
        "chat.json",
        "chat.svg",
        "--pages",
        "--",
        "on",
        "off",
        "*",
        "~",
        "$HOME",
        "x" * 300,
    ),
    *("Sources?", "\u202eabc", "\U0001f600", "<document>", "[Page 3]", "<", "|", ">", '"""', "a=1", "=", "!"),
)


class Values:
    """Numbers of bytes and tokens, pages, names of the catalog, and the other values of options."""

    def prepare(self, folder: Path) -> None: ...

    def run(self, number: int, rng: Random) -> str:
        text = "".join(rng.choices(_PIECES, k=rng.randint(1, 4)))
        try:
            rng.choice(_PARSERS)(text)
        except LrqkError as error:
            assert error.message
            assert error.hint
            return "refused"
        return "taken"


class Lines:
    """Lines of a chat, of which each leaves the chat going on; the conversation is recorded."""

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        (folder / "notes.txt").write_text("Some notes.")
        os.environ["HOME"] = str(folder)
        webbrowser.open = lambda *_, **__: False

    def run(self, number: int, rng: Random) -> str:
        lines = [self._line(rng) for _ in range(6)]
        with Talk(chat_session=ChatSession(None)) as chat:
            said = chat.say(*lines, "/clear", "Last?")
            assert "Unexpected" not in said, (lines, said)
            if chat.chat_exit != ChatExit() or any(line.strip().lower() in _LEAVING for line in lines):
                return "left"
            assert chat.questions == ["Last?"], (lines, said)
        return "went on, some refused" if "Error: " in said else "went on"

    def _line(self, rng: Random) -> str:
        # No slash in a word, so that nothing is written outside of the working folder.
        words = [word.replace("/", "") for word in rng.choices(_WORDS, k=rng.choice((0, 1, 1, 2, 3)))]
        start = (
            rng.choice([command.name for command in COMMANDS]) if rng.random() < 0.9 else rng.choice(_WORDS)
        )
        return f"{start}{rng.choice((' ', ' ', '  ', ''))}{' '.join(words)}"


_LEAVING = frozenset({"/quit", "/exit", "/bye", "quit", "exit", "bye"})

_CONFIG = """\
[chat]
model = "smollm2-135m"
ctx = "8k"
top-k = 256
pages = ["1-3", "7"]

[cache]
cache-size = "1GiB"

[info]
vram = "24GiB"
json = true

[models]
ram = 64
"""


class Config:
    """The config file, in front of commands of which it has a table."""

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        self._file = folder / "config.toml"
        os.environ["LRQK_CONFIG"] = str(self._file)

    def run(self, number: int, rng: Random) -> str:
        self._file.write_bytes(_mutated_toml(_CONFIG, rng))
        command = rng.choice((("cache",), ("cache", "list"), ("info",), ("models",), ("chat", "none.txt")))
        return lrqk(*command).answer


def _mutated_toml(text: str, rng: Random) -> bytes:
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(lines))
        key = lines[place].partition("=")[0]
        lines[place] = rng.choice(
            (
                *(
                    f"{key}= {value}"
                    for value in ("[" * 2000, "{a=" * 2000, "9" * 5000, "nan", "[[]]", "{}", "true")
                ),
                *(f"{key}= {number}" for number in BOUNDARIES),
                *(
                    f"{key}= 1979-05-27",
                    f'{key}= "\\u0000"',
                    f'{key}= ["x", 1]',
                    f'{key}= "{"x" * 9999}"',
                    "",
                ),
                *(f"[{'a.' * 3000}b]", "[chat]", "[[chat]]", "[info.x]", "x = 1", lines[place - 1]),
            )
        )
    data = "\n".join(lines).encode()
    return mutated(data, rng, [data]) if rng.random() < 0.4 else data
