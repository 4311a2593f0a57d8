"""``lrqk chat`` with a tiny random model: documents in, an answer out, and every way to fail."""

from __future__ import annotations

import json
import os
import sys

import pytest
from refused import fails_with

from lrqk_cli.chat.printable import printable

pytestmark = pytest.mark.short

WORDS = "The revenue of the year was 48.2 million. "


@pytest.fixture
def document(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text(WORDS * 10, encoding="utf-8")
    return file


@pytest.fixture
def chat(run, tiny_model):
    def run_chat(*arguments, stdin=""):
        return run("chat", "--model", tiny_model, "--max-new-tokens", "8", *arguments, stdin=stdin)

    return run_chat


def test_the_answer_is_on_stdout_and_the_statistics_on_stderr(chat, document):
    result = chat("--file", document, "--prompt", "How much?")
    assert result.code == 0, result.err
    assert result.out.endswith("\n")
    assert len(result.out) > 1
    assert "8 out" in result.err
    assert "--max-new-tokens" in result.err
    assert "\x1b" not in result.out + result.err


def test_documents_need_no_flag(chat, document, tmp_path, monkeypatch):
    other = tmp_path / "other.txt"
    other.write_text("More of it.")

    def read(*arguments):
        result = chat(*arguments, "--prompt", "How much?", "--json")
        assert result.code == 0, result.err
        return [use["path"] for use in json.loads(result.out)["documents"]]

    assert read(document, other) == [str(document), str(other)]
    assert read(other, "--file", document) == [str(document), str(other)]
    monkeypatch.setenv("LRQK_FILE", str(document))
    assert read(other) == [str(other)]
    assert read() == [str(document)]


def test_a_document_without_a_flag_that_is_not_there_ends_in_3(run):
    fails_with(run("chat", "absent.pdf", "--prompt", "x"), 3, "absent.pdf")


def test_a_document_may_be_piped_without_a_flag(chat):
    piped = chat("-", "--prompt", "How much?", "--json", stdin=WORDS)
    assert json.loads(piped.out)["documents"][0]["path"] == "-"
    fails_with(chat("-", stdin=WORDS), 2, "standard input")


@pytest.mark.parametrize("way", ["flag", "variable", "config"])
def test_automatic_attention_can_be_said(chat, document, monkeypatch, tmp_path, way):
    """It says no more than nothing does, and overrules what stands elsewhere."""
    file = tmp_path / "lrqk.toml"
    file.write_text('[chat]\nattention = "auto"\n' if way == "config" else '[chat]\nattention = "offload"\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    if way == "variable":
        monkeypatch.setenv("LRQK_ATTENTION", "auto")
    flags = ("--attention", "auto") if way == "flag" else ()
    asked = (document, "--prompt", "How much?", "--json", *flags)
    on_cpu = chat(*asked)
    assert json.loads(on_cpu.out)["attention"]["attention"] == "lrqk", on_cpu.err
    on_card = chat(*asked, "--vram", "12GiB")
    assert json.loads(on_card.out)["attention"]["attention"] == "dense", on_card.err


def test_quiet_leaves_the_answer_only(chat, document):
    loud, quiet = (chat("--file", document, "--prompt", "How much?", *flags) for flags in ((), ("--quiet",)))
    assert quiet.out == loud.out
    assert quiet.err == ""


def test_a_piped_question_is_the_same_as_prompt(chat, document):
    piped = chat("--file", document, stdin="How much?\n")
    assert piped.code == 0
    assert piped.out == chat("--file", document, "--prompt", "How much?").out


def test_a_question_is_piped_where_a_minus_stands(chat, document):
    first = "--prompt", "Who?"
    expected = chat(document, *first, "--prompt", "And then?")
    assert expected.out
    assert chat(document, *first, "--prompt", "-", stdin="And then?\n").out == expected.out
    fails_with(chat(document, "--prompt", "-", "--prompt", "-", stdin="Who?"), 2, "Only one question")
    fails_with(chat("-", "--prompt", "-", stdin="Who?"), 2, "The document and the question cannot both come")
    fails_with(chat(document, "--prompt", "-"), 2, "The question is empty.")


def test_questions_are_piped_where_a_minus_stands(chat, document):
    lines = 'Who?\n{"prompt": "Where?", "id": "w"}\n'
    result = chat(document, "--prompts-file", "-", stdin=lines)
    assert result.code == 0, result.err
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == [1, "w"]
    fails_with(chat("-", "--prompts-file", "-", stdin=lines), 2, "cannot both come from standard input")
    fails_with(chat("--prompts-file", "-", stdin="{"), 2, "Line 1 of standard input is not valid JSON.")


def test_a_piped_document_is_the_same_as_a_file(chat, tmp_path, monkeypatch, document):
    piped = chat("--file", "-", "--prompt", "How much?", "--json", stdin=WORDS * 10)
    assert piped.code == 0, piped.err
    report = json.loads(piped.out)
    assert report["documents"][0]["path"] == "-"
    assert report["documents"][0]["tokens"] > len(WORDS) * 10


def test_json_is_one_object_with_every_field(chat, document):
    result = chat("--file", document, "--prompt", "How much?", "--json", "--hot", "64", "--top-k", "8")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert list(report) == [
        "prompt", "answer", "reasoning", "finish_reason", "model", "attention", "plan", "prompt_tokens",
        "new_tokens", "reasoning_tokens", "documents", "sources", "timing", "memory", "cache",
    ]  # fmt: skip
    assert report["prompt"] == "How much?"
    assert report["finish_reason"] == "length"
    assert report["sources"] is None
    assert report["new_tokens"] == 8
    assert report["attention"]["hot"] == 64
    assert report["attention"]["attention"] == "lrqk"
    assert list(report["documents"][0]) == ["path", "pages", "tokens"]
    assert report["documents"][0]["path"] == str(document)
    assert report["prompt_tokens"] > report["documents"][0]["tokens"] > 400
    assert list(report["timing"]) == [
        "load_s", "prefill_tokens", "prefill_s", "prefill_tokens_per_s", "ttft_s", "decode_tokens_per_s",
    ]  # fmt: skip
    assert all(value > 0 for value in report["timing"].values())
    assert report["timing"]["ttft_s"] >= report["timing"]["prefill_s"]
    assert list(report["memory"]) == [
        "device", "peak_device_bytes", "host_kv_bytes", "index_bytes", "hot_bytes",
    ]  # fmt: skip
    assert report["memory"]["device"] == "cpu"
    rows = ["hit_rate", "miss_rate", "rows_fetched_per_step", "bytes_fetched"]
    assert list(report["cache"]) == [*rows, "drafts_offered", "drafts_accepted"]
    assert report["cache"]["hit_rate"] + report["cache"]["miss_rate"] == pytest.approx(1)


@pytest.mark.parametrize("mode", ["dense", "offload"])
def test_the_baselines_answer_as_lrqk_does_with_everything_resident(chat, document, mode):
    exact = chat("--file", document, "--prompt", "How much?", "--attention", mode)
    assert exact.code == 0, exact.err
    assert exact.out == chat("--file", document, "--prompt", "How much?").out


def test_a_seed_repeats_a_sampled_answer(chat):
    sampled = [
        chat("--prompt", "Tell.", "--temperature", "5", "--seed", seed).out for seed in ("1", "1", "2")
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_segments_make_no_difference(chat, document):
    whole = chat("--file", document, "--prompt", "How much?")
    assert chat("--file", document, "--prompt", "How much?", "--segment", "37").out == whole.out


def test_the_system_text_takes_its_place(chat):
    plain, with_system = (
        json.loads(chat("--prompt", "Hi", "--json", *flags).out)["prompt_tokens"]
        for flags in ((), ("--system", "Be short."))
    )
    assert with_system > plain


def test_settings_come_from_the_config_file(chat, monkeypatch, tmp_path, document):
    file = tmp_path / "lrqk.toml"
    file.write_text(f'[chat]\nhot = "32"\ntop-k = 4\nfile = ["{document}"]\njson = true\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    report = json.loads(chat("--prompt", "How much?").out)
    assert (report["attention"]["hot"], report["attention"]["top_k"]) == (32, 4)
    assert report["documents"][0]["path"] == str(document)


def test_a_document_that_is_not_there_ends_in_3_before_the_model_is_looked_at(run):
    fails_with(run("chat", "--model", "nowhere", "--file", "absent.pdf", "--prompt", "x"), 3, "absent.pdf")


def test_an_encrypted_document_without_a_password_ends_in_3(chat, shared_data):
    file = shared_data / "pdfs" / "libreoffice-writer-password.pdf"
    fails_with(chat("--file", file, "--prompt", "x"), 3, file.name, "--password")


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_the_password_opens_it(chat, shared_data, monkeypatch, way):
    arguments = ["--file", shared_data / "pdfs" / "libreoffice-writer-password.pdf", "--prompt", "x"]
    if way == "flag":
        arguments += ["--password", "openpassword"]
    else:
        monkeypatch.setenv("LRQK_PASSWORD", "openpassword")
    assert chat(*arguments).code == 0


def test_pictures_only_end_in_3_naming_the_pages(chat, shared_data):
    file = shared_data / "pdfs" / "imagemagick-images.pdf"
    fails_with(chat("--file", file, "--prompt", "x"), 3, file.name, "page")


def test_bad_pages_end_in_2(chat, document):
    fails_with(chat("--file", document, "--pages", "x", "--prompt", "x"), 2, "--pages")


@pytest.mark.parametrize(
    ("flag", "variable", "value"),
    [("--read-timeout", "LRQK_READ_TIMEOUT", "0.001"), ("--read-memory", "LRQK_READ_MEMORY", "1MiB")],
)
def test_a_limit_of_reading_ends_in_3_and_names_its_setting(
    chat, monkeypatch, document, flag, variable, value
):
    fails_with(chat("--file", document, flag, value, "--prompt", "x"), 3, "notes.txt", f"Raise {flag} if")
    monkeypatch.setenv(variable, value)
    fails_with(chat("--file", document, "--prompt", "x"), 3, "notes.txt", flag)


@pytest.mark.parametrize(
    "arguments", [("--read-timeout", "0"), ("--read-timeout", "x"), ("--read-memory", "-1")]
)
def test_a_limit_that_is_none_ends_in_2(chat, document, arguments):
    fails_with(chat("--file", document, *arguments, "--prompt", "x"), 2, arguments[0])


def test_a_url_that_is_not_of_the_web_ends_in_3(chat):
    fails_with(chat("--file", "ftp://example.org/a.pdf", "--prompt", "x"), 3, "is a URL", "curl -LO ftp://")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_and_questions_that_cannot_be_decoded_do_no_harm(chat, tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9.txt")
    file.write_text(WORDS, encoding="utf-8")
    arguments = ("--file", file, "--prompt", os.fsdecode(b"How much, caf\xe9?"), "--system", "\udce9")
    for flags in ((), ("--json",), ("--sources",)):
        result = chat(*arguments, *flags)
        assert result.code == 0, result.err


@pytest.mark.parametrize("model", ["no-such-model", "./no-such-folder", "no.gguf", "someone/nothing"])
def test_a_model_that_cannot_be_had_ends_in_4(run, model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fails_with(run("chat", "--model", model, "--prompt", "x"), 4, model)


def test_a_model_without_weights_ends_in_4(run, changed_model):
    folder = changed_model()
    (folder / "model.safetensors").write_bytes(b"not a model")
    fails_with(run("chat", "--model", folder, "--prompt", "x"), 4, str(folder))


def test_an_unsupported_feature_ends_in_4(run, changed_model):
    folder = changed_model(model_type="mamba", architectures=["MambaForCausalLM"])
    fails_with(run("chat", "--model", folder, "--prompt", "x"), 4)


def test_a_context_beyond_memory_ends_in_5(run, changed_model):
    folder = changed_model(max_position_embeddings=1 << 44)
    asked = ("chat", "--model", folder, "--prompt", "x", "--max-new-tokens", 4)
    fails_with(run(*asked, "--ctx", 1 << 40), 5, "host memory", "--ctx")
    assert run(*asked).code == 0


def test_a_text_beyond_the_context_ends_in_6_before_anything_is_read(chat, document):
    result = chat("--file", document, "--prompt", "How much?", "--ctx", "256")
    fails_with(result, 6, "context holds 256", "% of notes.txt")


@pytest.mark.parametrize("flags", [("--ctx", "256"), ()], ids=["asked", "of the model"])
def test_a_text_beyond_the_context_is_refused_before_the_model_is_loaded(chat, tmp_path, flags, monkeypatch):
    monkeypatch.setattr("lrqk_cli.models.loading.load", lambda *_, **__: pytest.fail("it was loaded"))
    file = tmp_path / "notes.txt"
    file.write_text("The plant employs 412 people. " * 2000)
    fails_with(chat("--file", file, "--prompt", "How much?", *flags), 6, "context holds", "% of notes.txt")


def test_the_pages_that_would_fit_are_named_and_do_fit(chat, shared_data):
    file = shared_data / "pdfs" / "pdflatex-4-pages.pdf"
    result = chat("--file", file, "--prompt", "What?", "--ctx", "4k")
    fails_with(result, 6, "--pages")
    pages = result.err.split("--pages ")[1].split(",")[0]
    assert chat("--file", file, "--prompt", "What?", "--ctx", "4k", "--pages", pages).code == 0


def test_more_context_than_the_model_allows_ends_in_2(chat):
    fails_with(chat("--prompt", "x", "--ctx", "8k"), 2, "8,192", "4,096")


@pytest.mark.parametrize(("flags", "shown"), [(("--threads", 0), "--threads"), (("--hot", 9), "--top-k 99")])
def test_a_setting_is_named_by_its_option(chat, flags, shown):
    result = chat("--prompt", "x", *flags, "--top-k", 99)
    fails_with(result, 2, shown)
    assert "`" not in result.err


def test_the_bell_can_be_switched_off_everywhere(chat, monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr("lrqk_cli.terminal.view.View.ring", lambda view, _: told.append(view._bell))
    config = tmp_path / "lrqk.toml"
    config.write_text("[chat]\nbell = false\n")
    chat("--prompt", "x")
    chat("--prompt", "x", "--no-bell")
    monkeypatch.setenv("LRQK_BELL", "0")
    chat("--prompt", "x")
    monkeypatch.delenv("LRQK_BELL")
    monkeypatch.setenv("LRQK_CONFIG", str(config))
    chat("--prompt", "x")
    chat("--prompt", "x", "--bell")
    assert told == [True, False, False, False, True]


def test_an_unknown_device_ends_in_2(chat):
    fails_with(chat("--prompt", "x", "--device", "toaster"), 2, "toaster")


def test_several_prompts_are_one_conversation_over_one_prefill(chat, document):
    result = chat("--file", document, "--prompt", "How much?", "--prompt", "And then?", "--json")
    assert result.code == 0, result.err
    first, second = map(json.loads, result.out.splitlines())
    assert [first["prompt"], second["prompt"]] == ["How much?", "And then?"]
    assert first == {**json.loads(chat("--file", document, "--prompt", "How much?", "--json").out), **{
        name: first[name] for name in ("timing", "memory", "plan", "attention")}}  # fmt: skip
    assert second["prompt_tokens"] > first["prompt_tokens"] + first["new_tokens"]
    assert second["timing"]["prefill_tokens_per_s"] > 0
    plain = chat("--file", document, "--prompt", "How much?", "--prompt", "And then?")
    assert plain.out == printable(f"{first['answer']}\n\n{second['answer']}\n")


@pytest.mark.parametrize("way", ["variable", "config"])
def test_a_prompt_with_blanks_comes_whole_from_elsewhere(chat, document, monkeypatch, tmp_path, way):
    if way == "variable":
        monkeypatch.setenv("LRQK_PROMPT", "How  much was it?")
    else:
        file = tmp_path / "lrqk.toml"
        file.write_text('[chat]\nprompt = "How  much was it?"\n')
        monkeypatch.setenv("LRQK_CONFIG", str(file))
    expected = chat("--file", document, "--prompt", "How  much was it?", "--json")
    found = chat("--file", document, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["prompt_tokens"] == json.loads(expected.out)["prompt_tokens"]


def test_a_file_of_questions_is_answered_one_by_one_and_resumed(chat, document, tmp_path):
    questions, answers = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    questions.write_text('"How much?"\n{"id": "two", "prompt": "Who?", "page": 4}\n{"prompt": "When?"}\n')
    arguments = ("--file", document, "--prompts-file", questions)
    result = chat(*arguments, "--answers-file", answers)
    assert result.code == 0, result.err
    assert result.out == ""
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [(line["id"], line["prompt"]) for line in lines] == [
        (1, "How much?"),
        ("two", "Who?"),
        (3, "When?"),
    ]
    assert lines[1]["page"] == 4
    # Each is asked by itself: the second sees nothing of the first.
    for line in lines:
        alone = json.loads(chat("--file", document, "--prompt", line["prompt"], "--json").out)
        assert (line["answer"], line["prompt_tokens"]) == (alone["answer"], alone["prompt_tokens"])
    kept = answers.read_text().splitlines(keepends=True)
    answers.write_text(kept[0] + kept[1][:40])
    assert chat(*arguments, "--answers-file", answers).code == 0
    again = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [line["answer"] for line in again] == [line["answer"] for line in lines]
    done = chat(*arguments, "--answers-file", answers)
    assert (done.code, "All questions have been answered" in done.err) == (0, True)
    assert [json.loads(line)["id"] for line in chat(*arguments).out.splitlines()] == [1, "two", 3]


def test_a_file_of_plain_lines_is_answered(chat, document, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("How much?\n\nWho?\n")
    result = chat("--file", document, "--prompts-file", questions)
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [(line["id"], line["prompt"]) for line in lines] == [(1, "How much?"), (3, "Who?")]
    questions.write_text('How much?\n{"prompt": "Who?"\n')
    fails_with(chat("--file", document, "--prompts-file", questions), 2, "Line 2", "not valid JSON")


def test_a_question_that_does_not_fit_is_told_and_the_others_are_asked(chat, document, tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps("x" * 900) + '\n"How much?"\n')
    result = chat("--file", document, "--prompts-file", questions, "--ctx", "1024")
    assert result.code == 6
    first, second = map(json.loads, result.out.splitlines())
    assert "1,024" in first["error"]
    assert second["answer"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--prompts-file", "none.jsonl"),
        ("--answers-file", "a.jsonl"),
        ("--prompts-file", "q", "--prompt", "x"),
    ],
)
def test_contradicting_or_missing_questions_end_in_2(chat, arguments):
    fails_with(chat(*arguments), 2)


def test_no_command_shows_a_traceback_in_a_process_of_its_own(run_process, tiny_model, document):
    arguments = ("chat", "--model", tiny_model, "--file", document, "--prompt", "x", "--max-new-tokens", "4")
    good = run_process(*arguments)
    assert good.code == 0, good.err
    assert good.out
    fails_with(run_process(*arguments, "--ctx", "64"), 6)
