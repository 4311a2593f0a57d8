"""``lrqk chat --sources`` with a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

REPORT = Path(__file__).parents[2] / "docs" / "samples" / "report.pdf"


@pytest.fixture
def chat(run, tiny_model):
    def run_chat(*arguments, stdin=""):
        options = "--max-new-tokens", "4", "--file", REPORT, "--pages", "2-3"
        return run("chat", "--model", tiny_model, *options, *arguments, stdin=stdin)

    return run_chat


@pytest.mark.parametrize("mode", [("--hot", "256", "--top-k", "32"), ("--attention", "offload")])
def test_json_carries_the_pages_with_share_and_passage(chat, mode):
    result = chat("--prompt", "Who?", "--json", "--sources", *mode)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    sources = report["sources"]
    assert 1 <= len(sources) <= 2
    assert {source["page"] for source in sources} <= {2, 3}
    shares = [source["share"] for source in sources]
    assert shares == sorted(shares, reverse=True)
    assert 0.0 < sum(shares) <= 1.0001
    for source in sources:
        assert list(source) == ["document", "page", "share", "passage", "by_ocr"]
        assert source["document"] == report["documents"][0]["path"]
        assert source["passage"]


def test_pages_are_shown_beside_an_answer_that_stays_the_same(chat):
    plain, ours = chat("--prompt", "Who?"), chat("--prompt", "Who?", "--sources")
    assert ours.code == 0, ours.err
    assert ours.out == plain.out
    assert "report.pdf, page" in ours.err
    assert "report.pdf, page" not in plain.err
    assert chat("--prompt", "Who?", "--sources", "--quiet").err == ""


def test_each_answer_of_a_file_has_its_own(chat, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('"Who?"\n"Where?"\n', encoding="utf-8")
    result = chat("--prompts-file", questions, "--sources")
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert all(line["sources"] for line in lines)
