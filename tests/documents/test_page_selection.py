from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.documents import PageSelection
from lrqk_cli.errors import DocumentError, UsageError

ranges = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 500) | st.none()).map(
        lambda pair: (pair[0], None if pair[1] is None else pair[0] + pair[1])
    ),
    min_size=1,
).map(tuple)


@given(ranges)
def test_what_it_prints_parses_to_the_same_pages(ranges: tuple[tuple[int, int | None], ...]) -> None:
    selection = PageSelection(ranges)
    assert PageSelection.parse(str(selection)) == selection


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", [3]),
        ("3-5,9", [3, 4, 5, 9]),
        (" 9 , 3 - 5 ", [3, 4, 5, 9]),
        ("3–5", [3, 4, 5]),
        ("2-4,3-5", [2, 3, 4, 5]),
        ("8-", [8, 9, 10]),
        ("-3", [1, 2, 3]),
        ("10-", [10]),
    ],
)
def test_selected_numbers_are_ascending_and_each_once(text: str, numbers: list[int]) -> None:
    assert PageSelection.parse(text).numbers(10, "a.pdf") == numbers


@pytest.mark.parametrize(
    "text", ["", "a", "20-3", "0", "0-4", "-0", "-", "3,,4", "3-4-5", "3 4", "-3-", "1.5", "٣"]
)
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="`pages`") as caught:
        PageSelection.parse(text)
    assert caught.value.hint


def test_a_backward_range_is_turned_round_in_the_hint() -> None:
    with pytest.raises(UsageError, match="backwards") as caught:
        PageSelection.parse("20-3")
    assert caught.value.hint == "Write 3-20."


@pytest.mark.parametrize("text", ["15", "3-20", "11-", "2,-12"])
def test_pages_beyond_the_end_name_the_number_of_pages(text: str) -> None:
    with pytest.raises(DocumentError, match=r"a\.pdf has 10 pages"):
        PageSelection.parse(text).numbers(10, "a.pdf")
