"""Map queries and keys to the low-rank space of the index: one interface, one class per solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from lrqk_cli.attention import als
from lrqk_cli.attention.factors import GramAccumulator, Moments, solve_joint
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.tensor_cores import tensor_cores
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty, staged
from lrqk_cli.model_spec import ModelSpec

# Fixed, so that a random start is the same in every run.
_SEED = 0


class QueryCodes(NamedTuple):
    """Queries in the low-rank space.

    Attributes:
        codes: q̂, ``[sets, N, r]``.
        offset: added to ``q̂ k̂ᵀ`` of every key, ``[sets, N]``.
    """

    codes: Tensor
    offset: Tensor


class ActiveRows(NamedTuple):
    """The resident tokens Ω: their keys ``[sets, n, d]`` and their codes in the index ``[sets, n, r]``."""

    keys: Tensor
    codes: Tensor


class SolvedMaps(NamedTuple):
    """Maps that a projector has been solved for, and that are not in force yet.

    Attributes:
        key_map: as it will be in force, ``[sets, d, r]``; in host memory if the solver runs there.
        key_centre: subtracted from keys before mapping, ``[KV, d]``, there too.
        install: puts the maps in force, and returns the root mean square ``[sets, 1, r]`` of the codes of all
            keys, computed from their Gram matrix, without the keys.
    """

    key_map: Tensor
    key_centre: Tensor
    install: Callable[[], Tensor]


class Projector(Protocol):
    """Fits maps to the prefill's segments, and maps queries and keys.

    Attributes:
        grams: the sums over the observed segments.
        query_map, key_map: of the last fit, ``[sets, d, r]``; their addresses never change.
    """

    grams: GramAccumulator
    query_map: Tensor
    key_map: Tensor

    def observe(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Add a segment to the sums: queries ``[KV, G, S, d]``, keys and values ``[KV, S, d]``."""

    def solve(self, moments: Moments) -> SolvedMaps:
        """Solve for the maps of these queries and keys; this does not change the projector."""

    def fit(self) -> Tensor:
        """Install the maps of all observed segments; return what ``SolvedMaps.install`` returns."""

    def project_keys(self, key: Tensor) -> Tensor:
        """Return the codes ``[sets, S, r]`` of keys ``[KV, S, d]``, by the maps of the last fit."""

    def key_centre(self) -> Tensor:
        """Return the vector subtracted from keys before mapping, ``[KV, d]``; its address never changes."""

    def project_queries(self, query: Tensor) -> QueryCodes:
        """Return the codes of queries ``[sets, N, d]``, by the maps of the last fit."""

    def step(self, query: Tensor, key: Tensor, active: Callable[[], ActiveRows]) -> tuple[QueryCodes, Tensor]:
        """Return the codes of a decode step's queries, and those of its key ``[sets, 1, r]``.

        May adapt the projector to them.

        Args:
            query: ``[sets, N, d]``.
            key: ``[KV, 1, d]``.
            active: returns the tokens that are resident before this step.
        """

    def reset(self) -> None:
        """Forget all segments."""

    def summed(self) -> tuple[Tensor, ...]:
        """Return all tensors that ``observe`` changes in place; they do not depend on a fit."""

    def adapted(self) -> tuple[Tensor, ...]:
        """Return all tensors that ``step`` changes in place."""

    def fitted(self) -> tuple[Tensor, ...]:
        """Return all tensors that only ``fit`` changes in place."""


def make_projector(spec: ModelSpec, config: LrqkConfig, device: torch.device) -> Projector:
    """Return the projector of ``config.solver``."""
    return (JointProjector if config.solver == "joint" else AlsProjector)(spec, config, device)


class JointProjector:
    """The closed form: ``q̂ = q W_Q``, ``k̂ = (k − μ) W_K``; decode steps change nothing."""

    def __init__(self, spec: ModelSpec, config: LrqkConfig, device: torch.device) -> None:
        self.grams = GramAccumulator(spec, config, device)
        self.query_map = empty(accounting.factor(spec, config), device)
        self.key_map = empty(accounting.factor(spec, config), device)
        self.key_mean = empty(accounting.head_vector(spec), device)

    def observe(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """See ``Projector``."""
        self.grams.add(query, key, value)

    def solve(self, moments: Moments) -> SolvedMaps:
        """See ``Projector``; runs on the CPU and does not wait for the device."""
        key_gram = moments.centred_key
        sets, _, rank = self.key_map.shape
        query_map, key_map = solve_joint(moments.query, per_set(key_gram, sets), rank)
        deviations = _code_deviations(key_gram, moments.count, key_map.float())
        solved = query_map, key_map, moments.mean, deviations
        *maps, deviations = [staged(part, self.key_map.device) for part in solved]

        def install() -> Tensor:
            for tensor, part in zip(self.fitted(), maps, strict=True):
                tensor.copy_(part, non_blocking=True)
            return deviations.to(self.key_map.device, non_blocking=True)

        return SolvedMaps(maps[1], maps[2], install)

    def fit(self) -> Tensor:
        """See ``Projector``."""
        return self.solve(self.grams.on_cpu().moments()).install()

    def project_keys(self, key: Tensor) -> Tensor:
        """See ``Projector``."""
        # Codes have few bits, so the 11 of TF32 are enough.
        with tensor_cores():
            return _map_keys(key - self.key_mean.unsqueeze(1), self.key_map)

    def key_centre(self) -> Tensor:
        """See ``Projector``."""
        return self.key_mean

    def project_queries(self, query: Tensor) -> QueryCodes:
        """See ``Projector``; the offset is ``q μᵀ``."""
        query = query.float()
        mean = per_set(self.key_mean, query.shape[0])
        return QueryCodes(query @ self.query_map, (query @ mean.unsqueeze(2)).squeeze(2))

    def step(self, query: Tensor, key: Tensor, _: Callable[[], ActiveRows]) -> tuple[QueryCodes, Tensor]:
        """See ``Projector``."""
        return self.project_queries(query), self.project_keys(key)

    def reset(self) -> None:
        """See ``Projector``."""
        self.grams.reset()

    def summed(self) -> tuple[Tensor, ...]:
        """See ``Projector``."""
        return self.grams.sums

    def adapted(self) -> tuple[Tensor, ...]:
        """See ``Projector``."""
        return ()

    def fitted(self) -> tuple[Tensor, ...]:
        """See ``Projector``."""
        return self.query_map, self.key_map, self.key_mean


class AlsProjector:
    """The paper's alternating least squares, and its solve and basis update in every decode step.

    Attributes:
        query_map, key_map: M_Q and M_K of the last fit, ``[sets, d, r]``.
        query_basis, key_basis: B_Q and B_K, adapted by the decode steps, ``[sets, r, d]``.
    """

    def __init__(self, spec: ModelSpec, config: LrqkConfig, device: torch.device) -> None:
        self.grams = GramAccumulator(spec, config, device)
        self.query_map = empty(accounting.factor(spec, config), device)
        self.key_map = empty(accounting.factor(spec, config), device)
        self.query_basis = empty(accounting.basis(spec, config), device)
        self.key_basis = empty(accounting.basis(spec, config), device)
        self.query_magnitude = empty(accounting.set_vector(spec, config), device).zero_()
        self.key_magnitude = empty(accounting.head_vector(spec), device).zero_()
        self._config = config.als
        self._group = spec.num_heads // self.query_map.shape[0]

    def observe(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """See ``Projector``."""
        self.grams.add(query, key, value)
        sets = self.query_magnitude.shape[0]
        self.query_magnitude += query.float().abs().sum(2).reshape(sets, -1, query.shape[-1]).sum(1)
        self.key_magnitude += key.float().abs().sum(1)

    def solve(self, moments: Moments) -> SolvedMaps:
        """See ``Projector``."""
        grams = moments.query, per_set(moments.key, self.query_map.shape[0])
        counts = int(moments.count) * self._group, int(moments.count)
        solved = als.solve_als(*grams, counts, self._start(grams, counts), self._config)

        def install() -> Tensor:
            self.query_map.copy_(solved.query_map)
            self.key_map.copy_(solved.key_map)
            self.query_basis.copy_(solved.query_basis)
            self.key_basis.copy_(solved.key_basis)
            return _code_deviations(moments.key, moments.count, self.key_map)

        return SolvedMaps(solved.key_map, self.key_centre(), install)

    def fit(self) -> Tensor:
        """See ``Projector``."""
        return self.solve(self.grams.moments()).install()

    def _start(self, grams: tuple[Tensor, Tensor], counts: tuple[int, int]) -> tuple[als.Sketch, als.Sketch]:
        sets, _, rank = self.query_map.shape
        if self._config.init == "randn":
            random = np.random.default_rng(_SEED)
            return (
                als.random_sketch(grams[0], counts[0], rank, random),
                als.random_sketch(grams[1], counts[1], rank, random),
            )
        # Means, so that the queries of a group do not outweigh the keys that they share.
        query = self.query_magnitude.double() / counts[0]
        key = per_set(self.key_magnitude.double() / counts[1], sets)
        if self._config.init == "topcol":
            query = key = query + key
        return (
            als.column_sketch(grams[0], query.topk(rank).indices),
            als.column_sketch(grams[1], key.topk(rank).indices),
        )

    def project_keys(self, key: Tensor) -> Tensor:
        """See ``Projector``."""
        return _map_keys(key.float(), self.key_map)

    def key_centre(self) -> Tensor:
        """See ``Projector``."""
        return torch.zeros_like(self.grams.shift)

    def project_queries(self, query: Tensor) -> QueryCodes:
        """See ``Projector``."""
        return _without_offset(query.float() @ self.query_map)

    def step(self, query: Tensor, key: Tensor, active: Callable[[], ActiveRows]) -> tuple[QueryCodes, Tensor]:
        """See ``Projector``; adapts both bases."""
        bases = self.query_basis, self.key_basis
        solved = als.solve_step(query, per_set(key, query.shape[0]), bases, active(), self._config)
        self.query_basis.copy_(solved.query_basis)
        self.key_basis.copy_(solved.key_basis)
        return _without_offset(solved.query_code.float()), solved.key_code.float()

    def reset(self) -> None:
        """See ``Projector``."""
        self.grams.reset()
        self.query_magnitude.zero_()
        self.key_magnitude.zero_()

    def summed(self) -> tuple[Tensor, ...]:
        """See ``Projector``."""
        return *self.grams.sums, self.query_magnitude, self.key_magnitude

    def adapted(self) -> tuple[Tensor, ...]:
        """See ``Projector``."""
        return self.query_basis, self.key_basis

    def fitted(self) -> tuple[Tensor, ...]:
        """See ``Projector``."""
        return self.query_map, self.key_map


def per_set(tensor: Tensor, sets: int) -> Tensor:
    """Repeat a tensor ``[KV, …]`` for the row sets of each KV head, ``[sets, …]``."""
    return tensor.repeat_interleave(sets // tensor.shape[0], 0)


def _map_keys(key: Tensor, maps: Tensor) -> Tensor:
    """Map keys ``[KV, S, d]`` by the maps ``[sets, d, r]`` of the row sets that share them."""
    heads = key.shape[0]
    shared = maps.view(heads, maps.shape[0] // heads, *maps.shape[1:])
    return (key.unsqueeze(1) @ shared).flatten(0, 1)


def _code_deviations(key_gram: Tensor, count: float, key_map: Tensor) -> Tensor:
    maps = key_map.double()
    squares = (per_set(key_gram, maps.shape[0]) @ maps * maps).sum(1, keepdim=True)
    return (squares / max(1, count)).clamp(min=0.0).sqrt().float()


def _without_offset(codes: Tensor) -> QueryCodes:
    return QueryCodes(codes, codes.new_zeros(codes.shape[:2]))
