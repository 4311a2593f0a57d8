"""Numbers: queries, keys and values that no usual text has, up to the limits of their dtype, and beyond."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.config import AlsConfig, LrqkConfig
from lrqk_cli.engine.failures import compute_errors
from lrqk_cli.errors import ModelError
from lrqk_cli.model_spec import ModelSpec

_CONTEXT = 320
_CPU = torch.device("cpu")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Products of three larger numbers, and sums of them, are infinite in float32.
_LARGEST = 1e10
# An error of the logits above this may turn the weights over.
_LOGIT_ERROR = 0.05
# Of a number in 8 bits, as a share of the largest of its head.
_ROUNDED = 0.15


@dataclass
class Rows:
    """Queries ``[KV, G, n, d]``, keys and values ``[KV, n, d]`` of n tokens."""

    query: Tensor
    key: Tensor
    value: Tensor

    @property
    def count(self) -> int:
        return self.key.shape[1]

    def then(self, other: Rows) -> Rows:
        parts = zip(vars(self).values(), vars(other).values(), strict=True)
        return Rows(*(torch.cat(pair, -2) for pair in parts))


class Numbers:
    """The attention of one layer over turns: segments, steps, drafts, and taking back."""

    def prepare(self, _: Path) -> None:
        """Do nothing: a case makes all that it needs."""

    def run(self, _: int, rng: Random) -> str:
        spec = _spec(rng)
        dtype = rng.choice(_DTYPES)
        config = _config(rng, spec)
        has_steps = config.attention == "dense" or (
            config.attention == "lrqk" and config.solver == "joint" and config.hot_policy != "refetch"
        )
        on_device = has_steps and rng.random() < 0.5

        def new_cache() -> LrqkCache:
            with patch("lrqk_cli.attention.cache.has_device_steps", lambda *_: on_device):
                return LrqkCache(spec, config, _CONTEXT, dtype, _CPU)

        sinks = rng.choice((None, None, 0.0, 1e4, -1e4, -math.inf))
        params = AttentionParams(
            rng.choice((spec.head_dim**-0.5, 1.0, 1e-3)),
            rng.choice((None, None, 5.0, 1e-3)),
            None if sinks is None else torch.full((spec.num_heads,), sinks, dtype=dtype),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run = _Run(new_cache(), params, dtype, rng)
            if rng.random() < 0.25:
                return run.poison(new_cache)
            run.play()
        return "all resident" if run.is_resident else "rows travel"


def _spec(rng: Random) -> ModelSpec:
    heads, group, width = rng.choice((1, 2)), rng.choice((1, 3)), rng.choice((4, 16))
    kind = "sliding" if rng.random() < 0.15 else "full"
    return ModelSpec("t", "t", (kind,), heads * group, heads, width, 96, 64, 97, _CONTEXT, _CONTEXT, 1,
                     sliding_window=rng.choice((1, 2, 24)) if kind == "sliding" else None)  # fmt: skip


def _config(rng: Random, spec: ModelSpec) -> LrqkConfig:
    attention = rng.choice(("lrqk",) * 6 + ("dense", "offload"))
    hot = rng.choice((_CONTEXT, _CONTEXT, 1, 8, 40))
    changes: dict[str, Any] = {
        "attention": attention,
        "hot": hot,
        "top_k": rng.choice((1, max(1, hot // 2), hot)),
        "recent": rng.choice((1, 4, 16)),
        "rank": rng.choice((2, 4, spec.head_dim)),
        "index_bits": rng.choice((4, 4, 8, 16)),
        "tail": rng.choice(("linear", "mean", "none")),
        "solver": rng.choice(("joint", "joint", "als")),
        "grouping": rng.choice(("kv", "kv", "head")),
        "hot_policy": rng.choice(("sticky", "sticky", "exact", "refetch")),
        "als": AlsConfig(rng.choice(("randn", "top", "topcol"))),
        "aggregate": rng.choice(("sum", "max")),
        "kv_dtype": "bf16" if attention == "dense" else rng.choice(("bf16", "bf16", "fp8", "int8")),
    }
    return LrqkConfig(**changes)


def _numbers(rng: Random, dtype: torch.dtype, *shape: int) -> Tensor:
    """Return numbers of one kind, ``[KV, …, n, d]``, which may be equal, repeated, huge, tiny or rare."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    usual = torch.randn(shape, generator=generator)
    limit = torch.finfo(dtype)
    kinds: dict[str, Callable[[], Tensor]] = {
        "usual": lambda: usual,
        "zero": lambda: torch.zeros(shape),
        "equal": lambda: usual[..., :1, :].expand(shape),
        "all one": lambda: torch.full(shape, 0.1),
        "repeated": lambda: usual[..., torch.arange(shape[-2]) % 3, :],
        "same heads": lambda: usual[:1].expand(shape),
        "one dimension": lambda: usual * torch.eye(1, shape[-1]),
        "multiples": lambda: usual[..., :1] * usual[..., :1, :],
        "far": lambda: usual + 1e3,
        "large": lambda: usual * 300,
        "huge": lambda: usual.sign() * min(limit.max, _LARGEST),
        "wide": lambda: usual.sign() * 2.0 ** (usual * 10).clamp(-60, 15),
        "tiny": lambda: usual * limit.tiny,
        "below the normal": lambda: usual * limit.smallest_normal * limit.eps,
        "outlier": lambda: usual * torch.where(torch.arange(shape[-2]) == shape[-2] // 2, 1e3, 1.0)[:, None],
        "rare": lambda: usual * (torch.rand(shape, generator=generator) < 0.05),
    }
    chosen = rng.choice(tuple(kinds.values()) + (kinds["usual"],) * 4)
    return chosen().to(dtype).contiguous()


class _Run:
    """A text that grows and shrinks in a cache, beside an oracle that has all its rows."""

    def __init__(self, cache: LrqkCache, params: AttentionParams, dtype: torch.dtype, rng: Random) -> None:
        self.cache, self.params, self.dtype, self.rng = cache, params, dtype, rng
        self.text = self._make(0)
        self.is_resident = True
        self._points: list[Any] = []

    def play(self) -> None:
        for _ in range(self.rng.randrange(1, 9)):
            if self.cache.position.length > _CONTEXT - 90:
                break
            kind = self.rng.choice(("segment", "segment", "steps", "steps", "drafts", "back"))
            if kind == "segment" or not self.text.count:
                self._segments(self._make(self.rng.choice((1, 1, 2, 3, 17, 64, 80))))
            elif kind == "steps":
                rows = self._make(self.rng.choice((1, 3, 12)))
                for place in range(rows.count):
                    self._step(_part(rows, place, place + 1))
            elif kind == "drafts":
                self._verify()
            else:
                self._back()

    def _make(self, count: int) -> Rows:
        spec = self.cache.spec
        heads, width = spec.num_kv_heads, spec.head_dim
        return Rows(
            _numbers(self.rng, self.dtype, heads, spec.group_size, max(1, count), width)[:, :, :count],
            _numbers(self.rng, self.dtype, heads, max(1, count), width)[:, :count],
            _numbers(self.rng, self.dtype, heads, max(1, count), width)[:, :count],
        )

    def _segments(self, rows: Rows) -> None:
        size, ends = self.rng.choice((rows.count, 7, 30)), self.rng.random() < 0.7
        for start in range(0, rows.count, size):
            part = _part(rows, start, start + size)
            is_last = ends and start + size >= rows.count
            with self.cache.prefilling(ends=is_last):
                output = self.feed(part)
                if is_last:
                    self.cache.finish_prefill()
            self.text = self.text.then(part)
            self._check(output, part.count, is_exact=True)

    def _step(self, rows: Rows) -> None:
        output = self.feed(rows)
        self.text = self.text.then(rows)
        self._check(output, 1)

    def _verify(self) -> None:
        drafts = self.cache.draft_tokens
        if not drafts:
            return
        rows, accepted = self._make(1 + drafts), self.rng.randrange(drafts + 1)
        with self.cache.verifying():
            output = self.feed(rows)
        for _ in range(accepted):
            self.cache.accept_draft()
        self.cache.settle()
        self.text = self.text.then(_part(rows, 0, accepted + 1))
        self._check(output[:, :, : accepted + 1], accepted + 1)

    def _back(self) -> None:
        if self._points and self.rng.random() < 0.5:
            point, length = self.rng.choice(self._points)
            self._points = [pair for pair in self._points if pair[0].number <= point.number]
            self.cache.rewind(point)
            self.text = _part(self.text, 0, length)
        else:
            self._points.append((self.cache.rewind_point(), self.text.count))

    def feed(self, rows: Rows) -> Tensor:
        self.cache.update(rows.key.unsqueeze(0), rows.value.unsqueeze(0), 0)
        return self.cache.attend(0, rows.query, rows.key, rows.value, self.params)

    def _check(self, output: Tensor, count: int, *, is_exact: bool = False) -> None:
        """Compare the outputs of the newest tokens with full attention in float64, and with the values."""
        layer, config = self.cache.attention_layers[0], self.cache.config
        assert self.cache.position.length == self.text.count
        assert bool(torch.isfinite(output).all()), "an output is not finite"
        key, value = self.text.key, self.text.value
        if config.kv_dtype != "bf16" and not layer.is_sliding:
            kept = [torch.cat(part, 1) for part in zip(*_stored(layer.store, self.text.count), strict=True)]
            for own, other in zip(kept, (key, value), strict=True):
                most = other.float().abs().amax((1, 2), keepdim=True)
                assert bool(((own.float() - other.float()).abs() <= _ROUNDED * most + 1e-30).all()), (
                    "a row is lost"
                )
            key, value = kept
        limit = torch.finfo(self.dtype)
        # The smallest number that the processor does not take for zero, or the dtype cannot tell from it.
        least = max(limit.smallest_normal * limit.eps, 2e-38)
        rounding = (4 * limit.eps + 2.0**-19) * float(value.abs().max()) + least
        candidates = self.text.count - config.recent
        if config.attention == "lrqk" and not layer.is_sliding and not is_exact:
            is_resident = candidates <= layer.hot.size
            self.is_resident = self.is_resident and is_resident
        else:
            is_resident = True
        if not is_resident:
            outside, span = _outside(output, value, has_sinks=self.params.sinks is not None)
            # A linear tail predicts values, and only the codes of an integer index have limits.
            reach = {"linear": math.inf if config.index_bits == 16 else span}.get(config.tail, 0.0)
            assert outside <= rounding + reach, f"an output is {outside:.3g} outside of the values"
            return
        expected, error = _full_attention(self.text.query, key, value, count, self.params, layer)
        worst = float((output.double() - expected).abs().max())
        assert worst <= rounding + error, f"differs by {worst:.3g}, and rounding by {rounding + error:.3g}"

    def poison(self, new_cache: Callable[[], LrqkCache]) -> str:
        """Feed a number that is not finite; after a rewind or a reset nothing may be left of it."""
        clean, more = self._make(40), self._make(20)
        fresh = _Run(new_cache(), self.params, self.dtype, self.rng)
        expected = self._replay(fresh.cache, clean, more)
        bad = self._make(9)
        part = self.rng.choice((bad.query, bad.key, bad.value))
        part[..., self.rng.randrange(9), 0] = self.rng.choice((math.nan, math.inf, -math.inf))
        point = None
        if self.rng.random() < 0.5:
            with self.cache.prefilling():
                self.feed(clean)
            point = self.cache.rewind_point()
        answer = "seen"
        try:
            with compute_errors(), self.cache.prefilling(ends=True):
                output = self.feed(bad)
                self.cache.finish_prefill()
            if not bool(torch.isfinite(output[:, :, -1]).all()):
                answer = "not finite"
            for _ in range(3):
                self.feed(self._make(1))
        except ModelError:
            answer = "refused"
        if point is None:
            self.cache.reset()
            found = self._replay(self.cache, clean, more)
        else:
            self.cache.rewind(point)
            found = self._replay(self.cache, None, more)
            expected = expected[-len(found) :]
        for own, other in zip(found, expected, strict=True):
            assert torch.equal(own, other), "something is left of what was not finite"
        return answer

    def _replay(self, cache: LrqkCache, clean: Rows | None, more: Rows) -> list[Tensor]:
        run = _Run(cache, self.params, self.dtype, self.rng)
        found = []
        if clean is not None:
            with cache.prefilling():
                found.append(run.feed(clean))
        with cache.prefilling(ends=True):
            found.append(run.feed(_part(more, 0, 10)))
            cache.finish_prefill()
        return found + [run.feed(_part(more, place, place + 1)) for place in range(10, 20)]


def _part(rows: Rows, start: int, stop: int) -> Rows:
    return Rows(*(part[..., start:stop, :] for part in vars(rows).values()))


def _stored(store: Any, count: int) -> list[tuple[Tensor, Tensor]]:
    return [(key.clone(), value.clone()) for key, value in store.stream(0, count)]


def _outside(output: Tensor, value: Tensor, *, has_sinks: bool) -> tuple[float, float]:
    """Return how far outputs are outside of the range of the values, in any channel, and the widest range."""
    least, most = (part.unsqueeze(1) for part in torch.aminmax(value.double(), dim=1, keepdim=True))
    if has_sinks:
        least, most = least.clamp(max=0.0), most.clamp(min=0.0)
    outside = max(0.0, float((output - most).max()), float((least - output).max()))
    return outside, float((most - least).max())


def _full_attention(
    query: Tensor, key: Tensor, value: Tensor, count: int, params: AttentionParams, layer: Any
) -> tuple[Tensor, float]:
    """Return the outputs of the newest tokens, and how far rounding of the logits may move them."""
    total = key.shape[1]
    query = query[:, :, -count:].double()
    logits = query @ key.double().unsqueeze(1).mT * params.scaling
    sizes = query.abs() @ key.double().abs().unsqueeze(1).mT * abs(params.scaling)
    if params.softcap is not None:
        logits = params.softcap * torch.tanh(logits / params.softcap)
    place = torch.arange(total)
    newest = torch.arange(total - count, total)[:, None]
    visible = place <= newest
    if layer.is_sliding:
        visible &= place > newest - layer.ring.size
    logits = logits.masked_fill(~visible, -torch.inf)
    moved = 2.0**-22 * float(sizes.max())
    if params.softcap is not None:
        moved = min(moved, 2 * params.softcap) + 2.0**-22 * params.softcap
    if params.sinks is not None:
        column = params.sinks.double().view(*query.shape[:2], 1, 1).expand(-1, -1, count, 1)
        weights = torch.cat((logits, column), -1).softmax(-1)[..., :-1]
    else:
        weights = logits.softmax(-1)
    spread = float(value.double().abs().max())
    share = min(2.0, 4 * moved if moved < _LOGIT_ERROR else 2.0)
    return weights @ value.double().unsqueeze(1), share * spread
