"""``lrqk bench --suite ruler`` through its entry point, on a tiny random model."""

from __future__ import annotations

import csv
import io
import json

import pytest

QA = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "The mill stood on the hill.",
                    "qas": [{"question": "Where did the mill stand?", "answers": [{"text": "on the hill"}]}],
                }
            ]
        }
    ]
}
SMALL = ("--ctx", "2k", "--samples", 2, "--hot", 64, "--top-k", 16, "--rank", 4, "--quiet")


@pytest.fixture
def ruler(run, tiny_model):
    return lambda *arguments: run("bench", "--suite", "ruler", "--model", tiny_model, *SMALL, *arguments)


def test_json_has_environment_settings_and_results(ruler, tmp_path):
    haystack = tmp_path / "essay.txt"
    haystack.write_text("It rained. Nobody came to the harbour that day. " * 20)
    result = ruler(
        "--ctx", "3k", "--tasks", "niah_single_2,vt,qa_2", "--haystack", haystack, "--output", "json"
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["environment"]["device_type"] == "cpu"
    assert report["settings"]["hot"] == 64
    assert report["suite"]["haystack"] == "essay.txt"
    assert (report["suite"]["seed"], report["suite"]["samples"]) == (0, 2)
    results = {(line["task"], line["mode"]): line for line in report["results"]}
    assert list(results) == [
        (task, mode) for task in ("niah_single_2", "vt", "qa_2") for mode in ("lrqk", "dense")
    ]
    for task, new_tokens in (("niah_single_2", 128), ("vt", 30)):
        lrqk, dense = results[task, "lrqk"], results[task, "dense"]
        assert [a["references"] for a in lrqk["answers"]] == [a["references"] for a in dense["answers"]]
        assert lrqk["prompt_tokens"] == dense["prompt_tokens"] <= 3072 - new_tokens
        assert lrqk["score"] == 100 * sum(a["recall"] for a in lrqk["answers"]) / lrqk["samples"]
        assert lrqk["score_low"] <= lrqk["score"] <= lrqk["score_high"]
        assert 0 < lrqk["hot_bytes"] < lrqk["host_kv_bytes"]
        assert lrqk["rows_fetched_per_step"] > 0
        assert (dense["hot_bytes"], dense["miss_rate"]) == (0, 0.0)
    assert results["qa_2", "lrqk"]["skipped"] == "no --qa-data in the form of HotpotQA"
    assert results["qa_2", "lrqk"]["score"] is None


def test_a_haystack_is_read_within_limits(ruler, tmp_path):
    haystack = tmp_path / "essay.txt"
    haystack.write_text("It rained.")
    result = ruler("--haystack", haystack, "--read-memory", "1MiB")
    assert result.code == 3
    assert "essay.txt takes more memory to read than --read-memory allows" in result.err


def test_table_csv_and_markdown(run, tiny_model, tmp_path):
    def ruler(*options):
        small = ("--samples", 2, "--model", tiny_model, "--quiet")
        return run("bench", "--suite", "ruler", *small, *options)

    qa = tmp_path / "squad.json"
    qa.write_text(json.dumps(QA))
    arguments = ("--modes", "dense", "--tasks", "qa_1,vt", "--qa-data", qa, "--ctx", "1k")
    table = ruler(*arguments)
    assert table.code == 0, table.err
    assert table.out.splitlines()[0].split()[:5] == ["task", "mode", "ctx", "samples", "score"]
    assert "skipped: vt needs at least" in table.out
    lines = list(csv.DictReader(io.StringIO(ruler(*arguments, "--output", "csv").out)))
    assert [(line["task"], line["mode"], line["samples"]) for line in lines] == [
        ("qa_1", "dense", "2"),
        ("vt", "dense", "0"),
    ]
    assert lines[0]["dtype"]
    markdown = ruler(*arguments, "--output", "md").out
    assert markdown.startswith("| task | mode | ctx |")
    assert "qa_data squad.json" in markdown


def test_a_context_too_short_for_a_task_is_skipped_with_the_reason(ruler):
    result = ruler("--ctx", "300", "--tasks", "vt", "--modes", "lrqk", "--output", "json")
    assert result.code == 0, result.err
    (line,) = json.loads(result.out)["results"]
    assert line["skipped"].startswith("vt needs at least")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--tasks", "niah_single_9"), 2, "niah_single_9"),
        (("--samples", 0), 2, "--samples"),
        (("--repeat", 2), 2, "--repeat has no meaning for --suite ruler"),
        (("--modes", "sparse"), 2, "sparse"),
        (("--haystack", "absent.txt"), 3, "absent.txt"),
        (("--qa-data", "absent.json"), 3, "absent.json"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(run, arguments, code, message):
    result = run("bench", "--suite", "ruler", "--model", "no-such-model", *arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "Traceback" not in result.err


def test_two_files_of_questions_of_one_form_are_refused(run, tmp_path):
    qa = tmp_path / "squad.json"
    qa.write_text(json.dumps(QA))
    result = run("bench", "--suite", "ruler", "--qa-data", qa, "--qa-data", qa)
    assert result.code == 2
    assert "SQuAD" in result.err
