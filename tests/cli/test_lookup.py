"""``--lookup`` through the command line, on a tiny random model whose answers fall into loops."""

from __future__ import annotations

import json

import pytest

TEXT = "The mill stood on the hill, and the miller had two sons. "


@pytest.fixture
def document(tmp_path):
    file = tmp_path / "tale.txt"
    file.write_text(TEXT * 6, encoding="utf-8")
    return file


@pytest.fixture
def chat(run, tiny_model):
    def run_chat(*arguments, stdin=""):
        small = "--hot", "2048", "--dtype", "float32", "--attention", "lrqk"
        return run("chat", "--model", tiny_model, *small, *arguments, stdin=stdin)

    return run_chat


def test_the_answer_is_the_same_with_and_without(chat, document):
    found = []
    for drafts in (3, 0):
        result = chat(document, "--prompt", "Where?", "--json", "--max-new-tokens", "256", "--lookup", drafts)
        assert result.code == 0, result.err
        report = json.loads(result.out)
        assert report["attention"]["lookup"] == drafts
        assert (report["cache"]["drafts_accepted"] > 50) == (drafts > 0)
        assert report["cache"]["drafts_offered"] >= report["cache"]["drafts_accepted"]
        found.append(report["answer"])
    assert found[0] == found[1]


def test_a_negative_number_is_refused(chat, document):
    result = chat(document, "--prompt", "Where?", "--lookup", "-1")
    assert result.code == 2
    assert "`lookup` cannot be negative" in result.err.replace("--lookup", "`lookup`")
