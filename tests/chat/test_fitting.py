from __future__ import annotations

import pytest

from lrqk_cli.chat.fitting import page_ranges


@pytest.mark.parametrize(
    ("pages", "text"),
    [([1], "1"), ([1, 2, 3], "1-3"), ([1, 2, 3, 7, 9, 10], "1-3,7,9-10"), ([4, 4, 5], "4-5"), ([], "")],
)
def test_page_numbers_are_written_as_ranges(pages, text):
    assert page_ranges(pages) == text
