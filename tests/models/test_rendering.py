"""Chat templates are rendered as transformers does it, and stopped where they take too much."""

from __future__ import annotations

import time

import pytest
from transformers import PreTrainedTokenizerFast

from lrqk_cli.errors import ModelError
from lrqk_cli.models import rendering
from lrqk_cli.models.prompt import ChatPrompt
from lrqk_cli.models.rendering import TemplateFailure, render

QUESTION = [{"role": "user", "content": "Hello"}]
EVERYTHING = (
    "{%- set ns = namespace(n=0) %}\n"
    "{% for m in messages %}\n    {% generation %}{{ m | tojson }}{% endgeneration %}\n"
    "{% if loop.index > 9 %}{% break %}{% endif %}{% set ns.n = ns.n + 1 %}\n{% endfor %}\n"
    "{{ eos_token }} {{ ns.n }} {{ '\u00e9<' | tojson }} {{ strftime_now('%Y') }}"
)


@pytest.mark.parametrize("template", ["", EVERYTHING], ids=["chatml", "everything"])
def test_templates_are_rendered_as_transformers_does_it(tokenizer: PreTrainedTokenizerFast, template: str):
    template = template or str(tokenizer.chat_template)
    chats = [QUESTION, [{"role": "system", "content": "Be\n brief."}, *QUESTION]]
    expected = [
        tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for chat in chats
    ]
    variables = {**tokenizer.special_tokens_map, "enable_thinking": False}
    assert render(template, [(chat, variables) for chat in chats]) == expected


def test_what_a_template_says_is_handed_on():
    assert render("{{ raise_exception('no chat') }}", [(QUESTION, {})]) == [TemplateFailure("no chat")]


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of computing is enough to see that more is not given."""
    monkeypatch.setattr(rendering, "_CPU_SECONDS", 1)


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}much text{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'x' * 10 ** 11 }}",
        "{{ 'x' | center(10 ** 11) }}",
        "{{ 'x' * 2 ** 21 }}",
        "{% set ns = namespace(x='xx') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
    ids=["loops", "text in loops", "power", "product", "padding", "a long text", "doubling"],
)
def test_a_template_that_takes_too_much_is_stopped(tokenizer: PreTrainedTokenizerFast, template: str):
    tokenizer.chat_template = template
    began = time.monotonic()
    with pytest.raises(ModelError, match="chat template was stopped") as caught:
        ChatPrompt(tokenizer)
    assert caught.value.hint
    assert time.monotonic() - began < 30


def test_a_template_is_rendered_once(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    tokenizer.chat_template += "{# once #}"
    first = ChatPrompt(tokenizer, "Be brief.")
    monkeypatch.setattr("subprocess.run", None)
    assert first.with_system("Be long.").closing() == first.closing()


def test_nothing_in_the_current_folder_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    (tmp_path / "jinja2.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert render("{{ messages[0].content }}, here", [(QUESTION, {})]) == ["Hello, here"]
