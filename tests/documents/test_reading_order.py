"""Lines found on a picture of a page come in the order in which people read them."""

from __future__ import annotations

import random

from lrqk_cli.documents.reading_order import TextLine, text_in_order


def line(left: float, top: float, text: str, width: float = 300) -> TextLine:
    return TextLine(left, top, left + width, top + 20, text)


def column(left: float, name: str, rows: int = 5, top: float = 100) -> list[TextLine]:
    return [line(left, top + 30 * row, f"{name}{row}") for row in range(rows)]


def read(lines: list[TextLine]) -> list[str]:
    """The rows of a page, whatever the order in which its lines were found."""
    shuffled = random.Random(0).sample(lines, len(lines))
    text = text_in_order(shuffled)
    assert text == text_in_order(lines)
    return text.split("\n")


def test_a_page_of_one_column_is_read_from_the_top() -> None:
    assert read(column(50, "a")) == ["a0", "a1", "a2", "a3", "a4"]
    assert text_in_order([]) == ""


def test_columns_are_read_one_after_the_other_between_what_crosses_them() -> None:
    title, footer = line(200, 40, "Title", 340), line(360, 700, "7", 20)
    wide = line(50, 300, "Across both", 640)
    above = column(50, "a") + column(390, "b")
    below = column(50, "c", top=340) + column(390, "d", top=340)
    assert read([title, *above, wide, *below, footer]) == [
        "Title", *(f"a{n}" for n in range(5)), *(f"b{n}" for n in range(5)), "Across both",
        *(f"c{n}" for n in range(5)), *(f"d{n}" for n in range(5)), "7",
    ]  # fmt: skip


def test_three_columns_are_columns_too() -> None:
    found = read([*column(50, "a"), *column(390, "b"), *column(730, "c")])
    assert found == [f"{name}{row}" for name in "abc" for row in range(5)]


def test_the_rows_of_a_table_stay_whole() -> None:
    cells = [
        line(left, 100 + 30 * row, f"{row}{name}", 80)
        for row in range(4)
        for left, name in ((50, "a"), (300, "b"))
    ]
    assert read(cells) == ["0a 0b", "1a 1b", "2a 2b", "3a 3b"]


def test_parts_of_a_row_need_not_stand_at_the_same_height() -> None:
    assert read([line(50, 100, "1.2"), TextLine(400, 96, 500, 118, "Spaces"), line(600, 104, "6", 20)]) == [
        "1.2 Spaces 6"
    ]
