"""An option that would do nothing is refused, in every command that takes it, before a model is loaded."""

from __future__ import annotations

import pytest
from refused import fails_with

NOWHERE = ("--model", "no-such-model")


@pytest.mark.parametrize("command", ["chat", "serve", "bench"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("--als-iterations", 3), ("--als-init", "top"), ("--als-tolerance", 0), ("--als-penalties", "1,1,2,1")],
)
def test_what_one_solver_reads_is_refused_with_another(run, command, option, value):
    result = run(command, *NOWHERE, option, value)
    fails_with(result, 2, f"Error: {option} has no meaning without --solver als.\n")
    assert f"Hint: Add --solver als, or leave {option} out.\n" in result.err


@pytest.mark.parametrize("command", ["chat", "serve", "info"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hot-policy", "exact", "--hot", 512), "--hot has no meaning without --hot-policy sticky."),
        (("--hot-policy", "exact", "--lookup", 5), "--lookup has no meaning without --hot-policy sticky."),
        (("--solver", "als", "--lookup", 5), "--lookup has no meaning without --solver joint."),
        (("--attention", "dense", "--rank", 32), "--rank has no meaning without --attention lrqk."),
        (("--attention", "offload", "--tail", "none"), "--tail has no meaning without --attention lrqk."),
    ],
)
def test_what_another_setting_makes_meaningless_is_refused(run, command, arguments, message):
    fails_with(run(command, *NOWHERE, *arguments), 2, f"Error: {message}\n")


@pytest.mark.parametrize("command", ["chat", "serve", "bench"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("--als-iterations", 2, "--als-init", "randn"),
        ("--als-iterations", 3, "--solver", "als"),
        ("--solver", "als", "--lookup", 3),
        ("--solver", "als", "--lookup", 0),
    ],
)
def test_what_acts_or_is_the_default_is_taken(run, command, arguments):
    result = run(command, *NOWHERE, *arguments, *(["--prompt", "Who?"] if command == "chat" else []))
    fails_with(result, 4, "no-such-model")


def test_a_variable_and_the_config_file_may_wait_for_runs_in_which_they_act(run, monkeypatch, tmp_path):
    file = tmp_path / "lrqk.toml"
    file.write_text('[chat]\nals-iterations = 5\ncache-size = "1GiB"\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    monkeypatch.setenv("LRQK_ALS_TOLERANCE", "1")
    monkeypatch.setenv("LRQK_PAGES", "3")
    asked = ("chat", *NOWHERE, "--prompt", "Who?")
    fails_with(run(*asked, "--no-cache"), 4, "no-such-model")
    fails_with(run(*asked, "--als-init", "top"), 2, "--als-init has no meaning without --solver als")
    monkeypatch.setenv("LRQK_SOLVER", "als")
    fails_with(run(*asked, "--als-init", "top"), 4, "no-such-model")


@pytest.mark.parametrize(
    "variables",
    [
        {"LRQK_PAGES": "1"},
        {"LRQK_ANSWERS_FILE": "answers.jsonl"},
        {"LRQK_KV_DTYPE": "int8", "LRQK_ATTENTION": "dense"},
    ],
)
@pytest.mark.parametrize("way", ["variable", "file"])
def test_what_is_idle_in_a_variable_or_the_config_file_is_no_failure(
    run, monkeypatch, tmp_path, variables, way
):
    document, file = tmp_path / "notes.txt", tmp_path / "lrqk.toml"
    document.write_text("Something.")
    keys = {name.removeprefix("LRQK_").lower(): value for name, value in variables.items()}
    lines = [f'{name} = "{value}"' for name, value in keys.items()]
    file.write_text("\n".join(["[chat]", *lines]))
    for name, value in {"LRQK_CONFIG": str(file)}.items() if way == "file" else variables.items():
        monkeypatch.setenv(name, value)
    fails_with(run("chat", *NOWHERE, document, "--prompt", "Who?"), 4, "no-such-model")


def test_pages_of_a_variable_are_chosen_where_there_are_some(run, monkeypatch, tmp_path):
    from fake_chat import REPORT

    monkeypatch.setenv("LRQK_PAGES", "40")
    words = "Page 40 was asked for", "--pages comes from the variable LRQK_PAGES."
    fails_with(run("chat", *NOWHERE, REPORT, "--prompt", "Who?"), 3, words[0])
    monkeypatch.setenv("LRQK_PAGES", "none")
    fails_with(run("chat", *NOWHERE, REPORT, "--prompt", "Who?"), 2, words[1])


@pytest.mark.parametrize(
    ("variable", "value", "words", "reason"),
    [
        ("LRQK_THINK", "on", (), "--think"),
        ("LRQK_CTX", "1m", (), "--ctx"),
        ("LRQK_NO_CACHE", "1", ("--cache-size", "1GiB"), "--no-cache"),
        ("LRQK_ATTENTION", "dense", ("--kv-dtype", "int8"), "--attention"),
        ("LRQK_TOP_K", "5000", ("--hot", "1000"), "--top-k"),
    ],
)
def test_a_value_that_cannot_be_says_where_it_comes_from(
    run, tiny_model, monkeypatch, tmp_path, variable, value, words, reason
):
    asked = "chat", "--model", tiny_model, *words, "--prompt", "Who?"
    monkeypatch.setenv(variable, value)
    fails_with(run(*asked), 2, f"{reason} comes from the variable {variable}.\n")
    monkeypatch.delenv(variable)
    file = tmp_path / "lrqk.toml"
    file.write_text(f'[chat]\n{reason.removeprefix("--")} = "{value}"\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    fails_with(run(*asked), 2, f"{reason} comes from the config file.\n")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--attention", "dense", "--rank", 32), "Choose --attention lrqk, or leave --rank out."),
        (("--hot-policy", "exact", "--hot", 64), "Choose --hot-policy sticky, or leave --hot out."),
        (("--temperature", -1), "Choose 0 or more, such as 0.7."),
        (("--repetition-penalty", 0), "Choose a number from 0.01 to 100, such as 1.1; 1 switches it off."),
        (("--attention", "dense", "--kv-dtype", "int8"), "Choose another --attention, or leave"),
    ],
)
def test_a_hint_says_what_can_be_done(run, arguments, hint):
    result = run("chat", *NOWHERE, *arguments, "--prompt", "Who?")
    fails_with(result, 2, f"Hint: {hint}")
    assert "`" not in result.err


def test_a_variable_that_is_only_a_little_like_another_is_not_taken_for_it(run, monkeypatch):
    monkeypatch.setenv("LRQK_VERSION", "1")
    monkeypatch.setenv("LRQK_TOPK", "1")
    shown = run("models").err
    assert "LRQK_VERSION sets no option. 'lrqk COMMAND --help' has the options." in shown
    assert "LRQK_TOPK sets no option. Did you mean LRQK_TOP_K?" in shown


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_a_size_of_a_cache_that_is_off_is_refused(run, command):
    result = run(command, *NOWHERE, "--no-cache", "--cache-size", "1GiB")
    fails_with(result, 2, "--no-cache stores nothing, and --cache-size limits it.")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--pages", 3),
        ("--password", "x"),
        ("--read-timeout", 9),
        ("--read-memory", 1e9),
        ("--fetch-size", 1e9),
    ],
)
def test_what_is_for_documents_is_refused_where_none_is_read(run, option, value):
    result = run("chat", *NOWHERE, "--prompt", "Who?", option, value)
    fails_with(result, 2, f"Error: {option} has no meaning without a document.\n")


@pytest.mark.parametrize(("option", "value"), [("--top-p", 0.9), ("--sample-top-k", 40)])
def test_limits_of_sampling_are_refused_where_nothing_is_sampled(run, option, value):
    asked = ("chat", *NOWHERE, "--prompt", "Who?", option, value)
    fails_with(run(*asked), 2, f"Error: {option} has no meaning without a --temperature above 0.\n")
    fails_with(run(*asked, "--temperature", 0.7), 4, "no-such-model")
    default = ("--top-p", 1, "--sample-top-k", 0, "--seed", 1)
    fails_with(run("chat", *NOWHERE, "--prompt", "Who?", *default), 4, "no-such-model")


def test_questions_of_a_file_are_no_session_wherever_they_are_named(run, monkeypatch, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("Who?\n")
    monkeypatch.setenv("LRQK_PROMPTS_FILE", str(questions))
    fails_with(run("chat", *NOWHERE, "--session", "talk"), 2, "A session is one conversation", "variable")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modes", "dense", "--rank", 32), "--rank does nothing in the modes that --modes names."),
        (("--modes", "dense", "--kv-dtype", "int8"), "--kv-dtype does nothing in the modes"),
        (("--modes", "paper,dense", "--index-bits", 8), "--index-bits does nothing in the modes"),
        (("--modes", "paper", "--solver", "als", "--als-init", "top"), "--als-init does nothing in the"),
        (("--suite", "ruler", "--modes", "resident", "--hot", 512), "--hot does nothing in the modes"),
        (("--hot-policy", "exact", "--hot", 512), "--hot has no meaning without --hot-policy sticky."),
        (("--lookup", 5), "--lookup has no meaning for --suite speed."),
        (("--suite", "fidelity", "--lookup", 5), "--lookup has no meaning for --suite fidelity."),
        (("--suite", "fidelity", "--vary", "lookup=0"), "--lookup has no meaning for --suite fidelity."),
        (("--suite", "qa", "--read-timeout", 5), "--read-timeout has no meaning for --suite qa."),
        (("--suite", "lookup", "--plot", "a.svg"), "--plot has no meaning for --suite lookup."),
        (("--suite", "ruler", "--tasks", "vt", "--qa-data", "a"), "--qa-data has no meaning for --tasks vt."),
        (("--suite", "fidelity", "--tasks", "qa", "--haystack", "a"), "--haystack has no meaning for"),
        (("--suite", "fidelity", "--tasks", "qa", "--seed", 1), "--seed has no meaning for --tasks qa."),
        (("--suite", "fidelity", "--vary", "als-init=top"), "--als-init has no meaning without --solver"),
    ],
)
def test_a_measurement_takes_what_it_measures(run, arguments, message):
    fails_with(run("bench", *NOWHERE, *arguments), 2, f"Error: {message}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--modes", "dense", "--rank", 64, "--lookup", 0),
        ("--modes", "dense,offload", "--kv-dtype", "int8"),
        ("--modes", "paper,lrqk", "--index-bits", 8),
        ("--modes", "paper", "--segment", 512),
        ("--suite", "ruler", "--modes", "dense", "--lookup", 3),
        ("--suite", "ruler", "--modes", "dense", "--vary", "tail=none", "--rank", 32),
        ("--suite", "fidelity", "--vary", "solver=als", "--als-iterations", 3),
        ("--suite", "ruler", "--tasks", "vt,qa_1", "--seed", 1),
    ],
)
def test_what_some_mode_reads_is_taken(run, arguments):
    fails_with(run("bench", *NOWHERE, *arguments), 4, "no-such-model")
