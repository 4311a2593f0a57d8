from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from refused import fails_with

from lrqk_cli import __version__
from lrqk_cli.cli import app as app_module
from lrqk_cli.cli.failures import report
from lrqk_cli.cli.options import Invocation
from lrqk_cli.errors import LrqkError
from lrqk_cli.terminal.console import escape_unknown_characters

pytestmark = pytest.mark.short


def test_the_version(run):
    assert run("--version").out == f"lrqk {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("--help",), ("chat", "--help"), ("models", "--help")])
def test_help_is_on_stdout(run, arguments):
    result = run(*arguments)
    assert result.code == 0
    assert "Usage:" in result.out
    assert result.err == ""


def test_help_imports_neither_torch_nor_transformers(run_process):
    result = run_process("--help", before=("-X", "importtime"))
    modules = {line.rsplit("|", 1)[-1].strip() for line in result.err.splitlines()}
    assert result.code == 0
    assert "lrqk_cli.cli.app" in modules
    assert not {name for name in modules if name.split(".")[0] in ("torch", "transformers", "numpy", "pypdf")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("chta",), ("chta", "chat")),
        (("chat", "--rnak", "3"), ("--rnak", "--rank")),
        (("chat", "--rank"), ("--rank",)),
        (("chat", "--rank", "x"), ("'--rank'", "'x' is not a whole number")),
        (("chat", "--rank", "0"), ("--rank must be at least 1",)),
        (("chat", "--ctx", "64q"), ("'--ctx'", "64k")),
        (("chat", "--attention", "sparse"), ("'--attention'", "'sparse'", "'auto'", "'dense'")),
        (("chat", "--vram", "24"), ("'--vram'", "24 bytes", "Hint: Did you mean 24GiB?")),
        (("info", "--model", "llama-3.1-8b", "--vram", "24"), ("'--vram'", "24GiB?")),
        (("chat", "--ram", "1.5"), ("'--ram'", "1.5GiB?")),
        (("bench", "--memory-cap", "24"), ("'--memory-cap'", "24GiB?")),
        (("chat", "--index-bits", "5"), ("5 bits", "4, 8 or 16")),
        (("chat", "--rank", "33"), ("even", "33")),
        (("chat", "--top-k", "9000"), ("--top-k 9000", "--hot")),
        (("chat", "--top-p", "2"), ("--top-p",)),
        (("chat", "--temperature", "-1"), ("--temperature",)),
        (("chat",), ("question is empty", "--prompt")),
        (("chat", "--json", "--prompt", "  "), ("question is empty",)),
        (("chat", "--file", "-"), ("standard input", "--prompt")),
        (("models", "fetch", "x"), ("fetch",)),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(run, arguments, words):
    fails_with(run(*arguments), 2, *words)


@pytest.mark.parametrize("command", ["pull", "path", "remove"])
def test_an_unknown_model_is_told_with_the_nearest(run, command):
    fails_with(run("models", command, "smollm2-135"), 4, "smollm2-135m")


@pytest.mark.parametrize("command", ["path", "remove"])
def test_a_model_that_is_not_here_is_told(run, command):
    fails_with(run("models", command, "smollm2-135m"), 4, "smollm2-135m")


def test_models_alone_lists_the_catalog(run):
    result = run("models", "--vram", "12GiB")
    assert result.code == 0
    assert "qwen2.5-coder-0.5b" in result.out
    assert result.out == run("models", "list", "--vram", "12GiB").out
    assert "Longest document: tokens, on " in run("models").out


def test_models_tell_for_how_long_a_document_they_fit(run):
    def rows(card):
        listed = json.loads(run("models", "--vram", card, "--json").out)
        return {row["name"]: row for row in listed}

    small, large = rows("8GiB"), rows("24GiB")
    assert small["llama-3.1-8b-instruct"]["longest_context"] == 131072
    assert small["qwen2.5-32b-instruct"]["longest_context"] == 0
    for name, row in small.items():
        assert row["longest_context"] <= large[name]["longest_context"] <= row["context"]
    # What is told is what a plan of this model says.
    described = json.loads(
        run("info", "--model", "qwen3-4b-instruct", "--vram", "8GiB", "--ctx", "8k", "--json").out
    )
    assert described["longest_context"] == small["qwen3-4b-instruct"]["longest_context"]
    recommended = {
        card: run("models", "--vram", card).out.splitlines()[-1] for card in ("2GiB", "8GiB", "24GiB")
    }
    assert recommended == {
        "2GiB": "Recommended here: qwen2.5-coder-0.5b",
        "8GiB": "Recommended here: qwen3-8b-instruct",
        "24GiB": "Recommended here: qwen2.5-32b-instruct",
    }


def test_options_of_the_list_belong_behind_it(run):
    fails_with(run("models", "--vram", "8GiB", "path", "smollm2-135m"), 2, "--vram before path")


def test_a_bad_variable_is_named(run, monkeypatch):
    monkeypatch.setenv("LRQK_RANK", "many")
    fails_with(run("chat", "--prompt", "x"), 2, "'many'", "LRQK_RANK")


def test_a_variable_that_nothing_reads_is_named(run, monkeypatch):
    for name in ("LRQK_TOPK", "LRQK_ZZZ", "LRQK_TEST_DATA", "LRQK_RECORD", "LRQK_LIMIT", "LRQK_YES"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LRQK_API_KEY", "mine")
    monkeypatch.setenv("LRQK_MANAGED_MEMORY", "0")
    result = run("cache", "--json")
    assert (result.code, json.loads(result.out)["entries"]) == (0, [])
    assert result.err.splitlines() == [
        "Warning: The variable LRQK_TOPK sets no option. Did you mean LRQK_TOP_K?",
        "Warning: The variable LRQK_ZZZ sets no option. 'lrqk COMMAND --help' has the options.",
    ]
    for name in ("LRQK_TOPK", "LRQK_ZZZ"):
        monkeypatch.delenv(name)
    assert run("cache", "--json").err == ""


def test_the_table_of_a_group_in_the_config_file_is_for_its_commands_too(run, monkeypatch, tmp_path):
    file = tmp_path / "lrqk.toml"
    file.write_text('[models]\nvram = "8GiB"\njson = true\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    assert run("models", "list").out == run("models").out
    assert json.loads(run("models", "list").out)


def test_a_bad_value_in_the_config_file_is_told_as_such(run, monkeypatch, tmp_path):
    file = tmp_path / "lrqk.toml"
    file.write_text('[chat]\nrank = "many"\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    fails_with(run("chat", "--prompt", "x"), 2, "'many'", "config file")


def test_a_flag_wins_over_a_variable_and_that_over_the_config_file(run, monkeypatch, tmp_path):
    file = tmp_path / "lrqk.toml"
    file.write_text("[chat]\nhot = 11\ntop-k = 90000\n")
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    assert "--hot 11 rows" in run("chat").err
    monkeypatch.setenv("LRQK_HOT", "12")
    assert "--hot 12 rows" in run("chat").err
    assert "--hot 13 rows" in run("chat", "--hot", "13").err


def test_the_config_file_may_write_sizes_as_people_do(run, monkeypatch, tmp_path):
    file = tmp_path / "lrqk.toml"
    file.write_text('[chat]\nhot = "2k"\ntop_k = "1m"\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    assert "--top-k 1048576 rows cannot be resident in --hot 2048 rows" in run("chat").err


@pytest.mark.parametrize("where", ["flag before", "flag after", "variable"])
def test_debug_shows_the_traceback_wherever_it_stands(run, monkeypatch, where):
    arguments = ["models", "path", "nope"]
    if where == "variable":
        monkeypatch.setenv("LRQK_DEBUG", "1")
    elif where == "flag before":
        arguments.insert(0, "--debug")
    else:
        arguments = ["chat", "--debug", "--rank", "0"]
    result = run(*arguments)
    assert "Traceback" in result.err
    assert "Error: " in result.err


def test_an_unexpected_failure_is_one_sentence_too(capfd):
    code = report(ZeroDivisionError("division by zero"), Invocation())
    error = capfd.readouterr().err
    assert code == 1
    assert error.startswith("Error: Unexpected ZeroDivisionError: division by zero.\nHint: ")
    assert "--debug" in error


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), LrqkError("It broke.", "Mend it.")])
def test_a_failure_of_any_command_ends_in_its_code(run, monkeypatch, failure):
    def fail(*arguments, **options):
        raise failure

    monkeypatch.setattr(app_module, "app", fail)
    result = run("chat")
    if isinstance(failure, KeyboardInterrupt):
        assert (result.code, result.err) == (130, "Interrupted.\n")
    else:
        fails_with(result, 1, "It broke.", "Mend it.")


def test_a_closed_pipe_is_quiet(capfd):
    assert report(BrokenPipeError(), Invocation()) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_that_the_disk_does_not_take_is_a_sentence(monkeypatch, capsys):
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as stop:
            app_module.main(["--version"])
    shown = capsys.readouterr().err
    assert stop.value.code == 1
    assert "Error: A file cannot be read or written: the disk is full." in shown
    assert "Unexpected" not in shown


def test_what_an_encoding_lacks_is_escaped_as_in_json(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", output)
    escape_unknown_characters()
    output.write('"\u00e4 \u4f60 \U0001f600"')
    output.flush()
    written = output.buffer.getvalue()
    assert written == b'"\xe4 \\u4f60 \\ud83d\\ude00"'
    assert json.loads(written.decode("cp1252")) == "\u00e4 \u4f60 \U0001f600"
