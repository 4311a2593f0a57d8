"""``lrqk bench --suite qa`` through its entry point, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lrqk_cli.bench.qa.data import read_set
from lrqk_cli.bench.qa.prompts import document_prompt
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models import loading
from lrqk_cli.models.prompt import ChatPrompt

TEXT = "The mill stood on the hill, and the miller had two sons. "


@pytest.fixture
def tales(tmp_path: Path) -> Path:
    documents = [
        {
            "instructions": ["Where did the mill stand?", "How many sons?\n(A) one (B) two"],
            "outputs": ["on the hill", "(B) two"],
            "input": TEXT * repeats,
            "source": "tales",
            "evaluation": evaluation,
        }
        for repeats, evaluation in ((6, "f1"), (3, "exam"), (40, "f1"))
    ]
    path = tmp_path / "tales.jsonl"
    path.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    return path


@pytest.fixture
def qa(run, tiny_model):
    small = ("--hot", 64, "--top-k", 16, "--rank", 4, "--dtype", "float32", "--quiet")
    return lambda *arguments: run("bench", "--suite", "qa", "--model", tiny_model, *small, *arguments)


def report_of(result: Any) -> dict[str, Any]:
    assert result.code == 0, result.err
    report: dict[str, Any] = json.loads(result.out)
    return report


def test_every_question_is_answered_as_if_it_were_the_only_one(qa, tales, tiny_model):
    """Each document is read once; what a question and its answer leave behind is taken back."""
    report = report_of(qa("--qa-data", tales, "--ctx", "1k", "--modes", "lrqk,dense", "--output", "json"))
    lrqk, dense = report["results"]
    assert (lrqk["mode"], dense["mode"], lrqk["name"]) == ("lrqk", "dense", "tales")
    assert (lrqk["documents"], lrqk["questions"], lrqk["cut"]) == (3, 6, 1)
    assert report["suite"]["qa_data"] == ["tales.jsonl"]
    assert {answer["metric"] for answer in lrqk["answers"]} == {"f1", "choice"}
    assert lrqk["score"] == pytest.approx(100 * sum(a["score"] for a in lrqk["answers"]) / 6)
    loaded = loading.load(loading.resolve(str(tiny_model)), torch.device("cpu"), torch.float32)
    prompt = ChatPrompt(loaded.tokenizer)
    alone = []
    for document in read_set(tales).documents:
        tokens = document_prompt(document, 1024, prompt)
        assert tokens is not None
        for question, asked in zip(document.questions, tokens.questions, strict=True):
            with Engine(loaded.model, loaded.spec, LrqkConfig(attention="dense"), 1024) as engine:
                list(engine.prefill([*tokens.head, *asked]))
                most = 8 if question.metric == "choice" else 96
                assert engine.length + most <= 1024
                steps = engine.generate(GenerationConfig(max_new_tokens=most), loaded.stop_ids)
                new = [step.token for step in steps if step.finish_reason != "stop"]
                alone.append(loaded.tokenizer.decode(new, skip_special_tokens=True).strip())
    assert [answer["text"] for answer in dense["answers"]] == alone


def test_a_document_that_is_too_long_keeps_both_ends(tales, tiny_model):
    loaded = loading.load(loading.resolve(str(tiny_model)), torch.device("cpu"), torch.float32)
    prompt, document = ChatPrompt(loaded.tokenizer), read_set(tales).documents[2]
    whole = document_prompt(document, 100_000, prompt)
    cut = document_prompt(document, 700, prompt)
    assert whole is not None
    assert cut is not None
    assert (whole.is_cut, cut.is_cut) == (False, True)
    assert len(cut.head) + max(map(len, cut.questions)) + 96 == 700
    assert cut.head[:200] == whole.head[:200]
    assert cut.head[-200:] == whole.head[-200:]
    assert document_prompt(document, 150, prompt) is None


def test_documents_are_limited_and_differences_are_stated(qa, tales):
    result = qa("--qa-data", tales, "--ctx", "1k", "--samples", 1, "--modes", "lrqk,resident,dense")
    assert result.code == 0, result.err
    (resident,) = [line.split() for line in result.out.splitlines() if line.startswith("tales resident")]
    assert resident[:4] == ["tales", "resident", "1,024", "2"]
    assert "difference +0.0 (+0.0 to +0.0); 100% of the answers are the same." in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--suite qa needs documents with questions."),
        (["--qa-data", "none.jsonl"], 3, "cannot be read"),
        (["--tasks", "vt"], 2, "--tasks has no meaning for --suite qa"),
        (["--samples", "0"], 2, "--samples must be at least 1"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(run, arguments, code, message):
    result = run("bench", "--suite", "qa", "--model", "none", *arguments)
    assert result.code == code
    assert message in result.err


def test_fidelity_is_measured_along_the_answers_too(run, tiny_model, tales):
    small = ("--hot", 64, "--top-k", 16, "--rank", 4, "--quiet", "--ctx", "1k", "--new-tokens", 8)
    bench = ("bench", "--suite", "fidelity", "--model", tiny_model, *small, "--output", "json")
    report = report_of(run(*bench, "--tasks", "qa", "--qa-data", tales, "--samples", 2))
    assert [(line["task"], line["mode"]) for line in report["results"]] == [
        ("qa", "lrqk"),
        ("qa", "resident"),
    ]
    assert all(0 <= line["kl_mean"] < 0.1 for line in report["results"])
    skipped = report_of(run(*bench, "--tasks", "qa"))["results"][0]["skipped"]
    assert skipped == "no --qa-data in the form of L-Eval or LongBench"
