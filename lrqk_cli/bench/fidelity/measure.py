"""One conversation: full attention's greedy answers, and the distributions of a mode along these answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.observe import LayerObserver, Observed
from lrqk_cli.bench.fidelity.cases import Case
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class Reference:
    """Full attention's answer in one turn.

    Attributes:
        answer: its tokens, a stop token included.
        log_probabilities: of the next token at each step, ``[steps, vocab]`` on the CPU.
    """

    answer: tuple[int, ...]
    log_probabilities: Tensor


@dataclass(frozen=True, slots=True)
class Comparison:
    """A mode compared with full attention in one turn; tensors are on the CPU.

    Attributes:
        first_position: position of the answer's first token in the conversation.
        divergence: nats, full attention against the mode; ``[steps]``.
        full_top, own_top: the likeliest token of each; ``[steps]``.
        rows_fetched: mean per decode step, layer and KV head.
        observed: the losses of every layer, by its number; empty without observation.
    """

    first_position: int
    divergence: Tensor
    full_top: Tensor
    own_top: Tensor
    rows_fetched: float
    observed: Mapping[int, Observed]


def full_attention(engine: Engine, loaded: LoadedModel, case: Case, new_tokens: int) -> list[Reference]:
    """Return full attention's answer to every turn, each up to a stop token or ``new_tokens``.

    Args:
        engine: an engine with full attention; it is reset first.
    """
    references = []
    engine.reset()
    for turn in case.turns:
        _prefill(engine, turn)
        answer: list[int] = []
        distributions = []
        while len(answer) < new_tokens and not loaded.stop_ids.issuperset(answer[-1:] or [-1]):
            distributions.append(_log_probabilities(engine))
            answer.append(int(distributions[-1].argmax()))
            _append(engine, answer[-1], loaded)
        references.append(Reference(tuple(answer), torch.stack(distributions).cpu()))
    return references


def compare(
    engine: Engine,
    loaded: LoadedModel,
    case: Case,
    references: Sequence[Reference],
    *,
    observe: bool,
) -> list[Comparison]:
    """Feed full attention's conversation to a mode and return the comparison for every turn.

    Args:
        engine: an engine with the mode's settings; it is reset first.
        observe: compare the outputs of all layers too.
    """
    comparisons = []
    engine.reset()
    observers = _observers(engine) if observe else {}
    try:
        for turn, reference in zip(case.turns, references, strict=True):
            _prefill(engine, turn)
            comparisons.append(_turn(engine, loaded, reference, observers))
    finally:
        for observer in observers.values():
            observer.detach()
    return comparisons


def _turn(
    engine: Engine, loaded: LoadedModel, reference: Reference, observers: Mapping[int, LayerObserver]
) -> Comparison:
    position = engine.length
    engine.cache.counters.take()
    divergence, tops = [], []
    expectations = reference.log_probabilities.to(engine.device)
    for token, expected in zip(reference.answer, expectations, strict=True):
        own = _log_probabilities(engine)
        divergence.append((expected.exp() * (expected - own)).sum())
        tops.append(own.argmax())
        _append(engine, token, loaded)
    stats = engine.cache.counters.take()
    # The first distribution comes from the prefill.
    steps = max(1, len(reference.answer) - 1)
    return Comparison(
        first_position=position,
        divergence=torch.stack(divergence).cpu(),
        full_top=reference.log_probabilities.argmax(-1),
        own_top=torch.stack(tops).cpu(),
        rows_fetched=stats.rows_fetched / max(1, stats.row_sets) / steps,
        observed={number: observer.take() for number, observer in observers.items()},
    )


def _observers(engine: Engine) -> dict[int, LayerObserver]:
    layers = range(engine.spec.num_layers)
    observed = [n for n in layers if isinstance(engine.cache.attention_layers[n], LrqkLayer)]
    return {number: LayerObserver(engine.cache, number) for number in observed}


def _prefill(engine: Engine, tokens: Sequence[int]) -> None:
    for _ in engine.prefill(tokens):
        pass


def _append(engine: Engine, token: int, loaded: LoadedModel) -> None:
    """Append a token; a stop token ends the answer and is not part of the conversation."""
    if token not in loaded.stop_ids:
        engine.append(token)


def _log_probabilities(engine: Engine) -> Tensor:
    return engine.next_logits().float().log_softmax(-1)
