from __future__ import annotations

import io

import pytest
from rich.console import Console

from lrqk_cli.terminal.markdown import MarkdownStream, split_finished

TEXT = """\
# Title

A paragraph with **bold**
over two lines.

- one
- two

  still two

1. a

2. b

| x | y |
|---|---|
| 1 | 2 |

```python
print("one")

print("two")
```

> quoted

The end, [a link](https://example.org)."""


@pytest.mark.parametrize("size", [1, 2, 5, 17])
def test_pieces_make_the_same_blocks_as_the_whole(size):
    whole, rest = split_finished(TEXT)
    blocks, open_ = [], ""
    for start in range(0, len(TEXT), size):
        finished, open_ = split_finished(open_ + TEXT[start : start + size])
        blocks += finished
    finished, open_ = split_finished(open_)
    assert "".join([*blocks, *finished, open_]) == TEXT
    assert [block.strip() for block in (*blocks, *finished)] == [block.strip() for block in whole]
    assert rest == open_


@pytest.mark.parametrize(
    "text",
    [
        "word",
        "a\nb",
        "- a\n- b\n",
        "- a\n\n-",
        "1. a\n\n2",
        "```\na\n\nb\n",
        "| a |\n|---|\n| 1 |\n",
        "title\n--",
    ],
)
def test_what_may_still_change_stays_open(text):
    assert split_finished(text) == ([], text)


def shown(text: str, pieces: int, height: int = 20) -> str:
    out = io.StringIO()
    console = Console(file=out, width=60, height=height, force_terminal=False, highlight=False)
    with MarkdownStream(console, lambda _: "the status") as stream:
        for start in range(0, len(text), pieces):
            stream.add(text[start : start + pieces])
    return out.getvalue()


@pytest.mark.parametrize("pieces", [1, 3, 50, 1000])
@pytest.mark.parametrize("height", [5, 60])
def test_the_pieces_and_the_height_make_no_difference(pieces, height):
    assert shown(TEXT, pieces, height) == shown(TEXT, 1000)


def test_every_word_is_shown_once():
    text = shown(TEXT, 4)
    for word in ("Title", "bold", "still two", "print", "quoted", "https://example.org", "The end"):
        assert text.count(word) == (2 if word == "print" else 1)


def test_tags_are_shown_as_they_are():
    text = shown("a <b>bold</b> one\n\n<table>\n<tr><td>cell</td></tr>\n</table>\n", 7)
    for word in ("<b>bold</b>", "<table>", "<td>cell</td>"):
        assert word in text


def test_control_characters_do_not_reach_the_terminal():
    assert "\x1b" not in shown("a \x1b[2J b", 1)
