"""The sample report holds each fact that its questions ask for once, on the page they name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
QUESTIONS: list[dict[str, Any]] = json.loads((SAMPLES / "questions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages() -> list[str]:
    """The text of each page, with every run of white space as one space."""
    return [" ".join(page.extract_text().split()) for page in PdfReader(SAMPLES / "report.pdf").pages]


def test_report_is_long_enough(pages: list[str]) -> None:
    assert len(pages) >= 12
    assert all(pages)


def test_pages_end_with_their_own_number(pages: list[str]) -> None:
    assert [page.rsplit(maxsplit=2)[1:] for page in pages[1:]] == [
        ["Page", str(number)] for number in range(2, len(pages) + 1)
    ]


def test_a_table_row_stays_on_one_line() -> None:
    text = "\n".join(page.extract_text() for page in PdfReader(SAMPLES / "report.pdf").pages)
    lines = [line.strip() for line in text.splitlines()]
    assert "Goodwill 389.4 318.2" in lines
    assert "Port Selwick Tide gauges, buoys 14,200 m²" in lines


def test_questions_differ_and_spread_over_pages() -> None:
    assert len({item["question"] for item in QUESTIONS}) == len(QUESTIONS) >= 12
    assert len({item["page"] for item in QUESTIONS}) >= 10
    assert len({item["page"] for item in QUESTIONS[:5]}) == 5


@pytest.mark.parametrize("item", QUESTIONS, ids=lambda item: item["question"])
def test_answer_stands_once_on_its_page(item: dict[str, Any], pages: list[str]) -> None:
    spellings = "|".join(map(re.escape, sorted(item["answer"], key=len, reverse=True)))
    found = [
        number
        for number, page in enumerate(pages, start=1)
        for _ in re.finditer(rf"(?<![\w.,])(?:{spellings})(?!\w|[.,]\d)", page)
    ]
    assert found == [item["page"]]


def test_readme_table_is_the_question_list() -> None:
    rows = re.findall(r"^\| (.+\?) \| (.+?) \| (\d+) \|$", (SAMPLES / "README.md").read_text("utf-8"), re.M)
    assert rows == [(item["question"], item["answer"][0], str(item["page"])) for item in QUESTIONS]
