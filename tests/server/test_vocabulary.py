"""Constraints of JSON schemas, over a tokenizer whose tokens are bytes, with hostile schemas among them."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import numpy as np
import pytest
from thinking import thinking_tokenizer

from lrqk_cli.errors import UsageError
from lrqk_cli.server import schema_check
from lrqk_cli.server.vocabulary import Vocabulary

pytestmark = pytest.mark.short

DEEP = 5000
CHAIN: dict[str, Any] = {f"a{n}": {"items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(DEEP)}

NESTED: dict[str, Any] = {}
for _ in range(DEEP):
    NESTED = {"items": NESTED}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = thinking_tokenizer("")
    return Vocabulary(tokenizer, {int(tokenizer.eos_token_id), len(tokenizer) + 5})


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_model_prefers_its_answer_obeys_the_schema(vocabulary: Vocabulary, seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": ["integer", "null"]}, "maxItems": 4},
            "b": {"type": "string", "pattern": "^[a-é]{2,5}$"},
            "c": {"$ref": "#/$defs/tree"},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"tree": {"enum": ["x", 1.5, None]}},
    }
    constraint, chance, said = vocabulary.constraint(schema), random.Random(seed), b""
    while (token := chance.choice(np.flatnonzero(constraint.allowed()).tolist())) not in vocabulary._stop_ids:
        constraint.accept(token)
        said += vocabulary.bytes_of(token)
        assert len(said) < 5000
    constraint.check()
    found = json.loads(said)
    assert {"a", "b"} <= found.keys() <= {"a", "b", "c"}
    assert len(found["a"]) <= 4
    assert all(value is None or isinstance(value, int) for value in found["a"])
    assert 2 <= len(found["b"]) <= 5
    assert found.get("c") in ("x", 1.5, None)


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of computing is enough to see that more is not given."""
    monkeypatch.setattr(schema_check, "_CPU_SECONDS", 1)


@pytest.mark.usefixtures("short_limit")
@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "nothing"}, "nothing"),
        ({"not": {}}, "Unimplemented keys"),
        ({"$ref": "https://example.com/x"}, "example.com"),
        ({"type": "string", "pattern": "(" * 500}, "regex"),
        ({"enum": ["x" * 1000] * 300}, "characters"),
        (NESTED, "JSON schema"),
        ({"maxLength": float("nan")}, "JSON schema"),
        ({"enum": ["\ud800"]}, "JSON schema"),
        ({"$defs": {**CHAIN, f"a{DEEP}": {}}, "$ref": "#/$defs/a0"}, "seconds"),
        ({"type": "integer", "multipleOf": 1234567}, "seconds"),
        ({"allOf": [{"type": "string", "pattern": f".*(a|b)*a(a|b){{{n}}}.*"} for n in range(50, 70)]}, "."),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_a_schema_that_cannot_be_used_is_refused_soon(
    vocabulary: Vocabulary, schema: dict[str, Any], words: str
) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=words):
        vocabulary.constraint(schema)
    assert time.monotonic() - began < 20


def test_a_tokenizer_without_an_end_of_answers_is_refused() -> None:
    with pytest.raises(UsageError, match="tokenizer"):
        Vocabulary(thinking_tokenizer(""), ()).check()


def test_an_answer_that_leaves_its_grammar_can_only_end(vocabulary: Vocabulary) -> None:
    constraint = vocabulary.constraint({"type": "boolean"})
    constraint.accept(5)
    assert np.flatnonzero(constraint.allowed()).tolist() == vocabulary._stop_ids
    with pytest.raises(UsageError, match="became too complex"):
        constraint.check()
