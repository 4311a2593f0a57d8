"""``lrqk chat --think`` with a tiny random model, whose reasoning ends at its limit."""

from __future__ import annotations

import json
import shutil

import pytest
from refused import fails_with

pytestmark = pytest.mark.short

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.reasoning_content is defined and loop.last %}"
    "<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>{% endif %}{% endif %}"
)
WORDS = "The revenue of the year was 48.2 million. "
# Behind its limit, the end of the reasoning is a byte a token; blanks may follow.
REASONING = range(5 + len("</think>"), 20)


@pytest.fixture
def thinking_model(tiny_model, tmp_path):
    folder = tmp_path / "thinking"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def chat(run, thinking_model, tmp_path):
    document = tmp_path / "notes.txt"
    document.write_text(WORDS * 10, encoding="utf-8")

    def run_chat(*arguments):
        options = "--model", thinking_model, document, "--max-new-tokens", "8"
        result = run("chat", *options, *arguments)
        assert result.code == 0, result.err
        return result

    return run_chat


def test_json_has_the_reasoning_in_a_field_of_its_own(chat, tmp_path):
    said = chat("--think", "5", "--json", "--prompt", "How much?", "--prompt", "Sure?")
    first, second = map(json.loads, said.out.splitlines())
    assert list(first)[:3] == ["prompt", "answer", "reasoning"]
    for report in (first, second):
        assert report["reasoning"]
        assert report["reasoning_tokens"] in REASONING
        assert report["new_tokens"] == 8
    # Of the first turn, question and answer are read again, and not the document.
    assert second["timing"]["prefill_tokens"] < 80 < first["timing"]["prefill_tokens"]
    off = json.loads(chat("--json", "--prompt", "How much?").out)
    assert (off["reasoning"], off["reasoning_tokens"]) == (None, 0)
    questions, answers = tmp_path / "questions.txt", tmp_path / "answers.jsonl"
    questions.write_text("How much?\n")
    chat("--think", "5", "--prompts-file", questions, "--answers-file", answers)
    assert json.loads(answers.read_text())["reasoning"] == first["reasoning"]


def test_the_answer_alone_is_on_stdout(chat):
    loud, quiet = (chat("--think", "5", "--prompt", "How much?", *flags) for flags in ((), ("--quiet",)))
    report = json.loads(chat("--think", "5", "--prompt", "How much?", "--json").out)
    assert loud.out == quiet.out
    assert "Reasoning:\n│ " in loud.err
    assert f"{report['reasoning_tokens']} of reasoning" in loud.err
    assert report["new_tokens"] == 8
    assert "Reasoning:" not in quiet.err


def test_what_cannot_act_is_refused(chat, run, tiny_model):
    fails_with(run("chat", "--model", tiny_model, "--think", "on", "--prompt", "x"), 2, "does not reason")
    fails_with(run("chat", "--think", "maybe", "--prompt", "x"), 2, "on, off or a number")
    assert "Reasoning" not in chat("--think", "off", "--prompt", "x").err


def test_the_config_file_and_a_session_keep_the_setting(chat, run, tmp_path, monkeypatch):
    file = tmp_path / "lrqk.toml"
    file.write_text("[chat]\nthink = 5\n")
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    chat("--session", "talk", "--prompt", "How much?")
    monkeypatch.delenv("LRQK_CONFIG")
    report = json.loads(chat("--session", "talk", "--prompt", "Sure?", "--json").out)
    assert report["reasoning_tokens"] in REASONING
    exported = run("sessions", "export", "talk")
    assert exported.code == 0, exported.err
    assert "</think>" not in exported.out
    saved = json.loads(exported.out)
    assert saved["generation"]["think"] == 5
    answers = [entry["answer"] for entry in saved["entries"] if "answer" in entry]
    assert [list(answer) for answer in answers] == [["text", "finish_reason", "new_tokens"]] * 2
    assert answers[1]["text"] == report["answer"]
