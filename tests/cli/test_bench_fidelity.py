"""``lrqk bench --suite fidelity`` through its entry point, on a tiny random model."""

from __future__ import annotations

import csv
import io
import json

import pytest

from lrqk_cli.bench.fidelity import run as fidelity_run
from lrqk_cli.bench.plot import check_plot

SMALL = ("--ctx", "3k", "--samples", 1, "--new-tokens", 6, "--rank", 4, "--quiet")
SETTINGS = ("--hot", 64, "--top-k", 16, "--recent", 16, "--index-bits", 8)


@pytest.fixture
def fidelity(run, tiny_model):
    def run_fidelity(*arguments, settings=SETTINGS):
        return run("bench", "--suite", "fidelity", "--model", tiny_model, *SMALL, *settings, *arguments)

    return run_fidelity


def test_text_is_the_default_and_the_noise_stands_beside(fidelity):
    result = fidelity("--output", "json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["suite"]["tasks"] == ["text"]
    assert report["complete"]
    lrqk, resident = report["results"]
    assert [(r["task"], r["mode"], r["turn"]) for r in (lrqk, resident)] == [
        ("text", "lrqk", 1),
        ("text", "resident", 1),
    ]
    assert abs(resident["kl_mean"]) < 1e-4
    assert report["modes"]["resident"]["hot"] == 3072
    assert 0 < lrqk["hot_bytes"] < resident["hot_bytes"]
    assert lrqk["worst"]["kl"] == lrqk["kl_max"]
    assert lrqk["layers"] == []


def test_tasks_turns_layers_and_variations_together(fidelity):
    arguments = (
        "--tasks",
        "text,vt,qa_2",
        "--turns",
        2,
        "--modes",
        "lrqk",
        "--vary",
        "top-k=8,16",
        "--layers",
    )
    result = fidelity(*arguments, "--output", "json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    found = {(r["task"], r["mode"], r["turn"]): r for r in report["results"]}
    modes = ("lrqk", "top-k=8", "top-k=16")
    assert list(found) == [
        *((task, mode, turn) for task in ("text", "vt") for mode in modes for turn in (1, 2)),
        *(("qa_2", mode, 1) for mode in modes),
    ]
    assert found["qa_2", "lrqk", 1]["skipped"] == "no --qa-data in the form of HotpotQA"
    assert report["modes"]["top-k=8"]["top_k"] == 8
    for task in ("text", "vt"):
        for turn in (1, 2):
            # The same settings under another name.
            assert found[task, "lrqk", turn]["kl_mean"] == found[task, "top-k=16", turn]["kl_mean"]
            assert found[task, "top-k=8", turn]["rows_fetched_per_step"] <= 8
            assert [layer["layer"] for layer in found[task, "lrqk", turn]["layers"]] == [0, 1]
    for line in report["summary"]:
        own = [found[task, line["mode"], line["turn"]]["kl_mean"] for task in ("text", "vt")]
        assert line["tasks"] == ["text", "vt"]
        assert line["kl_mean"] == pytest.approx(sum(own) / 2)
        assert line["worst_kl_mean"] == max(own)


def test_table_has_a_line_for_all_tasks_and_says_where_it_fails(fidelity):
    result = fidelity("--tasks", "text,vt", "--layers")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split()[:3] == ["task", "mode", "ctx"]
    assert [line.split()[:2] for line in lines[5:7]] == [["all", "lrqk"], ["all", "resident"]]
    assert sum(line.startswith("Worst step of") for line in lines) == 2
    assert sum(line.startswith("Worst layers of lrqk: layer ") for line in lines) == 1
    assert "over 2 tasks: KL " in result.out
    assert "turn" in fidelity("--turns", 2).out.splitlines()[0].split()


def test_a_task_that_cannot_be_is_skipped_with_the_reason(fidelity):
    result = fidelity("--ctx", "1k", "--tasks", "vt,qa_1", "--modes", "lrqk", "--plot", "absent.svg")
    assert result.code == 0, result.err
    assert [line.split()[:2] for line in result.out.splitlines()[1:3]] == [["vt", "lrqk"], ["qa_1", "lrqk"]]
    assert "vt at 1,024 tokens, skipped for lrqk: vt needs at least" in result.out
    assert "qa_1 at 1,024 tokens, skipped for lrqk: no --qa-data" in result.out
    assert "No figures to draw" in result.err


def test_csv_has_the_settings_of_each_mode(fidelity):
    lines = list(csv.DictReader(io.StringIO(fidelity("--tasks", "qa_1,text", "--output", "csv").out)))
    assert [(line["task"], line["mode"], line["hot"]) for line in lines] == [
        ("qa_1", "lrqk", "64"),
        ("qa_1", "resident", "3072"),
        ("text", "lrqk", "64"),
        ("text", "resident", "3072"),
    ]
    assert lines[0]["skipped"]
    assert (lines[0]["worst.kl"], lines[0]["kl_max"]) == ("", "")
    assert float(lines[2]["worst.kl"]) == float(lines[2]["kl_max"]) > 0
    assert lines[0]["als.init"] == "randn"


def test_markdown_names_what_differs_in_a_mode(fidelity):
    result = fidelity("--vary", "recent=8", "--output", "md")
    assert result.out.startswith("| task | mode | ctx |")
    assert "Mode resident: hot 3072." in result.out
    assert "Mode recent=8: recent 8." in result.out
    assert "Mode lrqk" not in result.out


def test_the_plot_has_a_point_for_each_mode(fidelity, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "kl.svg"
    check_plot(path)
    result = fidelity("--vary", "hot=128", "--plot", path)
    assert result.code == 0, result.err
    drawn = path.read_text(encoding="utf-8")
    for mode in ("lrqk", "resident", "hot=128"):
        assert f"<!-- {mode} -->" in drawn


def test_interrupting_prints_what_there_is(fidelity, monkeypatch):
    real = fidelity_run.compare

    def stop_at_vt(loaded, settings, case, *arguments, **options):
        if case.task == "vt":
            raise KeyboardInterrupt
        return real(loaded, settings, case, *arguments, **options)

    monkeypatch.setattr(fidelity_run, "compare", stop_at_vt)
    result = fidelity("--tasks", "text,vt", "--output", "json")
    assert result.code == 130
    assert result.err.strip() == "Interrupted."
    report = json.loads(result.out)
    assert not report["complete"]
    assert [r["task"] for r in report["results"]] == ["text", "text"]


def test_a_failure_halfway_prints_what_there_is_and_then_itself(fidelity, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(fidelity_run, "ruler_cases", fail)
    result = fidelity("--tasks", "text,vt")
    assert result.code == 1
    assert "Unexpected RuntimeError: broken." in result.err
    assert result.out.splitlines()[1].split()[:2] == ["text", "lrqk"]


def test_interrupting_before_there_is_anything_prints_nothing(fidelity, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fidelity_run, "full_attention", stop)
    result = fidelity()
    assert (result.code, result.out) == (130, "")


def test_progress_goes_to_stderr_line_by_line_where_there_is_no_terminal(run, tiny_model):
    arguments = [part for part in SMALL if part != "--quiet"]
    result = run("bench", "--suite", "fidelity", "--model", tiny_model, *arguments, *SETTINGS)
    assert "text at 3,072 tokens, 1 of 1: full attention\n" in result.err
    assert "text at 3,072 tokens, 1 of 1: resident\n" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "niah_single_9"), "niah_single_9"),
        (("--tasks", "texts"), "Did you mean text?"),
        (("--turns", 0), "--turns must be at least 1"),
        (("--modes", "dense"), "no mode 'dense'"),
        (("--repeat", 2), "--repeat has no meaning for --suite fidelity"),
        (("--seed", 2), "--seed has no meaning for --tasks text"),
        (("--tasks", "vt", "--text", "book.txt"), "--text has no meaning for --tasks vt"),
        (("--vary", "topk=8"), "Did you mean top-k?"),
        (("--plot", "kl.pdf"), ".svg or .png"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(run, arguments, message):
    result = run("bench", "--suite", "fidelity", "--model", "no-such-model", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "Traceback" not in result.err


def test_ruler_takes_variations_and_the_modes_of_fidelity(run, tiny_model, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "score.png"
    result = run(
        *("bench", "--suite", "ruler", "--model", tiny_model, "--ctx", "3k", "--samples", 1, "--quiet"),
        *("--tasks", "vt", "--modes", "lrqk,dense,resident,paper", "--vary", "hot=32,128", "--plot", path),
        *("--hot", 64, "--recent", 16, "--rank", 4, "--output", "json"),
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    modes = ["lrqk", "dense", "resident", "paper", "hot=32", "hot=128"]
    assert [line["mode"] for line in report["results"]] == modes
    found = {line["mode"]: line for line in report["results"]}
    assert found["hot=32"]["device_share"] < found["lrqk"]["device_share"] < found["hot=128"]["device_share"]
    assert found["dense"]["device_share"] == 1.0
    assert report["modes"]["hot=32"]["top_k"] == 8
    assert found["resident"]["answers"] == found["dense"]["answers"]
    assert path.read_bytes().startswith(b"\x89PNG")
