"""Solve for the factors and tails of layers in background threads, while the device reads the text.

A task works on copies in host memory and changes nothing. It returns a function that installs the solution
without waiting for the device; the thread that feeds the device calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeAlias

from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.rotation import Growth
from lrqk_cli.memory.tensors import arrival
from lrqk_cli.solver_pool import SolverPool, take_results

SolveTask: TypeAlias = Callable[[], Callable[[], None]]

# Layers that the device has in its queue while the host finishes earlier ones, so that it need not wait.
_LAYERS_QUEUED = 4


def ahead_task(layer: LrqkLayer, growth: Growth | None) -> SolveTask | None:
    """Return a task that solves for the maps of a layer's whole text, with the tokens that are still to come.

    The next segment then builds the index from the keys that it attends to. None if the current fit suffices,
    or the growth is unknown.
    """
    if growth is None or not layer.fit.is_outgrown(growth.tokens):
        return None
    solve = layer.fit.solve_ahead(growth)
    if solve is None:
        return None

    def solve_for_index() -> Callable[[], None]:
        replace = solve()
        return lambda: layer.index_anew(replace)

    return solve_for_index


def solve_ahead(
    layers: Iterable[tuple[LrqkLayer, Growth | None]],
) -> SolverPool[Callable[[], None]] | None:
    """Start fitting to the tokens so far and the expected rest of the prefill, in background threads.

    Call each result before the last segment to install its fit: that segment then indexes all keys while it
    attends to them. Otherwise they would cross the link once more.

    Args:
        layers: each with the tokens that are still to come.

    Returns:
        None if the current fits suffice, or no layer's growth is known.
    """
    tasks = [ahead_task(layer, growth) for layer, growth in layers if layer.is_unsolved]
    begun = [task for task in tasks if task is not None]
    return SolverPool(begun) if begun else None


def final_task(layer: LrqkLayer) -> SolveTask | None:
    """Return a task that solves for all that ``LrqkLayer.solve`` fits, from the sums as they are now.

    The task waits for its copies alone, and not for what the device is given after them. The solution is not
    installed if the layer has changed meanwhile. None if there is nothing to solve for.
    """
    prefill, fit, tail, projector = layer.prefill, layer.fit, layer.tail, layer.projector
    is_outgrown, observed = fit.is_outgrown(), fit.observed
    if prefill is None or not (is_outgrown or tail is not None):
        return None
    # Another segment, a rewind and a reset replace them, or change what is observed.
    newest = prefill.newest
    grams = projector.grams.on_cpu(non_blocking=True)
    maps = () if is_outgrown else (projector.key_map, projector.key_centre())
    current = [part.to("cpu", copy=True, non_blocking=True) for part in maps]
    await_copies = arrival(layer.store.device)

    def solve() -> Callable[[], None]:
        await_copies()
        moments = grams.moments()
        solved = projector.solve(moments) if is_outgrown else None
        key_map, key_centre = current if solved is None else (solved.key_map, solved.key_centre)
        tail_fit = None if tail is None else tail.solve(grams, moments, key_map, key_centre)

        def install() -> None:
            is_same = layer.prefill is prefill and prefill.newest is newest and fit.observed == observed
            if not is_same or layer.tail is not tail:
                return
            if solved is not None:
                layer.index_anew(lambda indexed: fit.install(solved.install, observed, indexed))
            if tail is not None and tail_fit is not None:
                tail.install(tail_fit)
            prefill.is_solved = True

        return install

    return solve


class EarlySolves:
    """Solves that begin as soon as their layer has attended in the last segment, while others still attend.

    So the device can build the first layers' indices while the last layers are solved for. After a text that
    fits the hot set they begin during decode steps, and may wait for further ones. There are no threads
    before the first ``begin``, and none after ``close``.
    """

    def __init__(self) -> None:
        self._pool: SolverPool[Callable[[], None]] | None = None
        self._begun: dict[LrqkLayer, Future[Callable[[], None]]] = {}
        # For each of them, in their order: waits until it has attended.
        self._attended: list[Callable[[], object]] = []

    def __contains__(self, layer: LrqkLayer) -> bool:
        return layer in self._begun

    def begin(self, layer: LrqkLayer) -> None:
        """Begin to solve for a layer that has just attended; an earlier solve of it is forgotten."""
        self._begun.pop(layer, None)
        task = final_task(layer) if layer.is_unsolved else None
        if task is not None:
            if self._pool is None:
                self._pool = SolverPool()
            self._begun[layer] = self._pool.submit(task)
            self._attended.append(arrival(layer.store.device))

    def begin_next(self, layers: Iterable[LrqkLayer]) -> None:
        """Begin with the first layer that is not begun with; all at once would hold up the device."""
        layer = next((layer for layer in layers if layer not in self), None)
        if layer is not None:
            self.begin(layer)
        elif all(solve.done() for solve in self._begun.values()):
            self._end_threads()

    def finish_solved(self, length: int) -> None:
        """Index and seed the layers that are solved for, in their order, for a text of ``length`` tokens.

        So the device does that between later layers; after the last one it would wait for the host at every
        launch. The host, which would launch all layers at once, waits for the device here, but not for the
        solves.
        """
        if len(self._attended) > _LAYERS_QUEUED:
            self._attended[-1 - _LAYERS_QUEUED]()
        for layer in list(self._begun):
            if not self._begun[layer].done():
                return
            self.install(layer)
            layer.index_and_seed(length)

    def install(self, layer: LrqkLayer) -> None:
        """Install what was solved for; do nothing without ``begin``. Raises what the solve has raised."""
        solves = [self._begun.pop(layer)] if layer in self._begun else []
        for install in take_results(solves):
            install()

    def close(self) -> None:
        """Forget all solves, wait for those that run, and end the threads."""
        self._begun.clear()
        self._attended.clear()
        self._end_threads()

    def _end_threads(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            with pool:
                pass
