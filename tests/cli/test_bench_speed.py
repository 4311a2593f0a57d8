"""``lrqk bench``, the speed suite, through its entry point, on a tiny random model."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch

import lrqk_cli
from lrqk_cli.bench import environment
from lrqk_cli.bench.plot import check_plot
from lrqk_cli.bench.speed import measure
from lrqk_cli.models import shapes

SMALL = ("--dtype", "float32", "--ctx", "300", "--new-tokens", 3, "--repeat", 2, "--quiet")
SETTINGS = ("--hot", 64, "--recent", 16, "--rank", 4)
SHAPE = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.fixture
def speed(run, tiny_model):
    return lambda *arguments: run("bench", "--model", tiny_model, *SMALL, *SETTINGS, *arguments)


@pytest.fixture
def speed_of_shape(run, monkeypatch):
    monkeypatch.setattr(shapes, "shapes", lambda: {"tiny": SHAPE})
    return lambda *arguments: run("bench", "--shape", "tiny", *SMALL, *SETTINGS, *arguments)


def test_json_has_samples_bandwidth_and_the_build(speed):
    result = speed("--output", "json", "--modes", "lrqk,dense-eager")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    where = report["environment"]
    assert (where["device_type"], where["dtype"], where["weights"]) == ("cpu", "float32", "float32")
    assert where["sources"] == environment.digest(Path(lrqk_cli.__file__).parent)
    assert {"lrqk", "git_commit", "torch", "transformers", "triton", "cuda", "driver"} <= set(where)
    assert report["complete"]
    assert report["suite"]["memory_bytes_per_s"] > 0
    assert report["suite"]["random_weights"] is False
    assert report["modes"]["lrqk"]["hot"] == 64
    lrqk, eager = report["results"]
    for line in (lrqk, eager):
        assert (line["ctx"], line["prefill_test"], line["decode_test"]) == (300, "pp300", "tg3 @ d300")
        assert len(line["decode_samples_ms"]) == 6
        assert len(line["prefill_samples_s"]) == len(line["ttft_samples_s"]) == 2
        assert line["decode_tokens_per_s_std"] >= 0
        assert line["roofline_share"] > 0
        assert line["peak_device_bytes"] > 0
    assert lrqk["host_kv_bytes"] > 0
    assert lrqk["roofline_bytes_per_token"] < eager["roofline_bytes_per_token"]
    assert 0 < lrqk["miss_rate"] < 1
    assert (eager["host_kv_bytes"], eager["miss_rate"]) == (0, 0.0)


def test_table_markdown_and_csv_compare_lrqk_with_dense(speed):
    table = speed()
    assert table.code == 0, table.err
    lines = table.out.splitlines()
    assert lines[0].split()[:3] == ["mode", "test", "tokens/s"]
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["lrqk", "pp300"],
        ["lrqk", "tg3"],
        ["dense", "pp300"],
        ["dense", "tg3"],
    ]
    assert all("±" in line for line in lines[1:5])
    assert lines[5].startswith("Measured bandwidth of memory: ")
    markdown = speed("--output", "md", "--modes", "lrqk,offload").out
    assert markdown.startswith("| mode | test | tokens/s |")
    assert "| offload | tg3 @ d300 |" in markdown
    assert "Mode offload: attention offload." in markdown
    rows = list(csv.DictReader(io.StringIO(speed("--output", "csv").out)))
    assert [(row["mode"], row["decode_test"], row["hot"]) for row in rows] == [
        ("lrqk", "tg3 @ d300", "64"),
        ("dense", "tg3 @ d300", "64"),
    ]
    assert float(rows[0]["decode_tokens_per_s"]) > 0


def test_a_terminal_of_80_columns_holds_every_line_of_the_table(speed, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    result = speed("--modes", "lrqk,dense-eager")
    assert result.code == 0, result.err
    lines = re.sub(r"\x1b\[[0-9;]*m", "", result.out).splitlines()
    assert max(map(len, lines)) <= 80
    # Two lines of headings, and none of the results is broken.
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["lrqk", "pp300"],
        ["lrqk", "tg3"],
        ["dense-eager", "pp300"],
        ["dense-eager", "tg3"],
    ]


def test_the_papers_settings_with_and_without_its_hot_set(run, tiny_model):
    arguments = (*SMALL, "--ctx", 2200, "--new-tokens", 2, "--repeat", 1, "--output", "json")
    modes = ("--modes", "paper,paper-no-hit-miss")
    report = json.loads(run("bench", "--model", tiny_model, *arguments, *modes).out)
    paper, without = report["results"]
    assert report["modes"]["paper-no-hit-miss"]["hot_policy"] == "refetch"
    assert paper["miss_rate"] < without["miss_rate"] == 1.0
    # 2,048 rows of K and V of 8 floats, for 4 query heads in 2 layers.
    assert without["bytes_fetched_per_token"] == 2048 * 2 * 8 * 4 * 4 * 2


def test_a_shape_is_measured_and_its_misses_are_called_unrepresentative(speed_of_shape):
    result = speed_of_shape("--output", "json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["environment"]["model"] == "tiny (random weights)"
    assert report["suite"]["random_weights"] is True
    assert report["suite"]["text"] == "random tokens"
    # Beyond the shape's own limit of 128 tokens.
    assert [line["prompt_tokens"] for line in report["results"]] == [300, 300]
    assert any("not representative" in note for note in report["notes"])
    for output in ("table", "md"):
        assert "not representative" in speed_of_shape("--output", output).out


def test_a_shape_from_a_variable_yields_to_a_model_on_the_command_line(speed, monkeypatch):
    monkeypatch.setenv("LRQK_SHAPE", "no-such-shape")
    assert speed("--modes", "lrqk").code == 0


def test_the_plot_has_a_line_for_each_mode(speed, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.svg"
    check_plot(path)
    assert speed("--ctx", "64,128", "--plot", path).code == 0
    drawn = path.read_text(encoding="utf-8")
    for text in ("lrqk", "dense", "tokens/s", "64", "128"):
        assert f"<!-- {text} -->" in drawn


def test_interrupting_prints_what_there_is(speed, monkeypatch):
    real = measure.open_runner

    def stop_at_dense(mode, *arguments):
        if mode == "dense":
            raise KeyboardInterrupt
        return real(mode, *arguments)

    monkeypatch.setattr(measure, "open_runner", stop_at_dense)
    result = speed("--output", "json")
    assert (result.code, result.err.strip()) == (130, "Interrupted.")
    report = json.loads(result.out)
    assert not report["complete"]
    assert [line["mode"] for line in report["results"]] == ["lrqk"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modes", "sparse"), "no mode 'sparse'"),
        (("--repeat", 0), "--repeat must be at least 1"),
        (("--tasks", "vt"), "--tasks has no meaning for --suite speed"),
        (("--memory-cap", "24GiB", "--device", "cpu"), "--memory-cap needs a CUDA device"),
        (("--memory-cap", "24GiB", "--modes", "dense"), "--modes leaves out"),
        (("--memory-cap", "much"), "'much' is not a number of bytes"),
        (("--shape", "llama-3.1-8b"), "--shape and --model exclude each other"),
        (("--suite", "ruler", "--shape", "llama-3.1-8b"), "--shape has no meaning for --suite ruler"),
        (("--plot", "speed.pdf"), ".svg or .png"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(run, arguments, message):
    result = run("bench", "--model", "no-such-model", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "Traceback" not in result.err


def test_so_many_threads_compute_as_are_asked_for(speed_of_shape, monkeypatch):
    before = torch.get_num_threads()
    try:
        report = json.loads(speed_of_shape("--threads", 2, "--output", "json").out)
        assert report["environment"]["threads"] == 2
        monkeypatch.setenv("LRQK_THREADS", "0")
        result = speed_of_shape()
    finally:
        torch.set_num_threads(before)
    assert (result.code, result.out) == (2, "")
    assert "--threads must be at least 1" in result.err


def test_an_unknown_shape_and_a_text_for_a_shape_are_refused(run):
    unknown = run("bench", "--shape", "llama-3.1-7b")
    assert (unknown.code, unknown.out) == (2, "")
    assert "Did you mean llama-3.1-8b" in unknown.err
    text = run("bench", "--shape", "llama-3.1-8b", "--text", "book.txt")
    assert text.code == 2
    assert "--shape and --text exclude each other" in text.err


def test_sources_that_differ_in_a_name_or_in_content_have_other_digits(tmp_path):
    def digest(**files):
        package = tmp_path / str(len(list(tmp_path.iterdir())))
        (package / "within").mkdir(parents=True)
        for name, content in files.items():
            (package / "within" / f"{name}.py").write_text(content, encoding="utf-8")
        (package / "within" / "a.pyc").write_bytes(package.name.encode())
        return environment.digest(package)

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1", b="2"), digest(a="1", c="2"), digest(a="1", b="3"), digest(a="1")}) == 4


def test_the_commit_is_told_of_a_checkout_only(tmp_path):
    package = tmp_path / "site-packages" / "lrqk_cli"
    package.mkdir(parents=True)
    assert environment.git_commit(package) is None
    (tmp_path / "site-packages" / ".git").mkdir()  # no repository after all
    assert environment.git_commit(package) is None
