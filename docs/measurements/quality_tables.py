"""The tables of docs/quality.md about the distance from full attention, from the suite fidelity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from reports import MixedReportsError, Reports, Row, Table, model_of

_RESAMPLES = 10_000

_BESIDE_NOISE = ("KL", "top-1", "noise: KL", "top-1", "rows", "worst task")


@dataclass(frozen=True)
class Found:
    """The cases of one task with one mode, of one report or of several that differ in their seed.

    Attributes:
        settings: of the mode.
        steps, kl, top1: of each case; the last two are means over its steps.
    """

    model: str
    ctx: int
    task: str
    mode: str
    turn: int
    settings: dict[str, Any]
    share: float
    rows: float
    steps: tuple[int, ...]
    kl: tuple[float, ...]
    top1: tuple[float, ...]
    largest: float

    def mean(self, values: Sequence[float]) -> float:
        """Return the mean over all steps of what is given for each case."""
        return float(np.average(values, weights=self.steps))


@dataclass(frozen=True)
class Together:
    """The mean over tasks, which weigh alike, with the 95% interval of a bootstrap over their cases."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, tasks: Sequence[Found], values: Callable[[Found], Sequence[float]]) -> Together:
        """Resample the cases of every task."""
        random = np.random.default_rng(0)
        total = np.zeros(_RESAMPLES)
        for found in tasks:
            chosen = random.integers(len(found.steps), size=(_RESAMPLES, len(found.steps)))
            steps, of_case = np.array(found.steps)[chosen], np.array(values(found))[chosen]
            total += (steps * of_case).sum(1) / steps.sum(1)
        low, high = np.percentile(total / len(tasks), [2.5, 97.5])
        mean = float(np.mean([found.mean(values(found)) for found in tasks]))
        return cls(mean, float(low), float(high))


def found_in(reports: Reports) -> list[Found]:
    """Return what the reports have, those of several seeds together."""
    pooled: dict[tuple[str, int, str, str, int], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for report in reports.values():
        for line in report["results"]:
            key = (model_of(report), line["ctx"], line["task"], line["mode"], line["turn"])
            pooled.setdefault(key, []).append((line, report["modes"].get(line["mode"], report["settings"])))
    return [_pool(key, parts) for key, parts in pooled.items()]


def _pool(key: tuple[str, int, str, str, int], parts: list[tuple[dict[str, Any], dict[str, Any]]]) -> Found:
    model, ctx, task, mode, turn = key
    lines, settings = zip(*parts, strict=True)
    if any(other != settings[0] for other in settings):
        raise MixedReportsError(f"Mode {mode} of {model} has other settings in another report.")
    cases = [case for line in lines for case in line["by_sample"]]
    return Found(
        model,
        ctx,
        task,
        mode,
        turn,
        settings[0],
        share=lines[0]["device_share"],
        rows=float(np.mean([line["rows_fetched_per_step"] for line in lines])),
        steps=tuple(case["steps"] for case in cases),
        kl=tuple(case["kl_mean"] for case in cases),
        top1=tuple(case["top1_agreement"] for case in cases),
        largest=max(line["kl_max"] for line in lines),
    )


def overview(reports: Reports) -> Iterator[Row]:
    """Give one line for each model and settings, all tasks together."""
    yield ("model", "context", "share", "hot rows", *_BESIDE_NOISE)
    found = found_in(reports)
    for tasks in _by(found, lambda f: (f.model, f.ctx, f.mode) if f.mode != "resident" else None):
        noise = [
            f for f in found if f.mode == "resident" and (f.model, f.ctx) == (tasks[0].model, tasks[0].ctx)
        ]
        yield (
            tasks[0].model,
            f"{tasks[0].ctx // 1024}K",
            f"{tasks[0].share:.2%}",
            f"{tasks[0].settings['hot']:,}",
            *_beside_noise(tasks, noise),
        )


def by_task(reports: Reports) -> Iterator[Row]:
    """Give one line a task and one column for each of the settings."""
    found = found_in(reports)
    columns = list(dict.fromkeys((f.mode, f"{f.share:.1%}") for f in found))
    heads = [("noise" if mode == "resident" else share) for mode, share in columns]
    yield (
        "task",
        "prompts",
        "steps",
        *(f"{head}: KL" for head in heads),
        *(f"{head}: top-1" for head in heads),
    )
    for tasks in _by(found, lambda f: f.task):
        ordered = [next(f for f in tasks if f.mode == mode) for mode, _ in columns]
        yield (
            tasks[0].task,
            str(len(tasks[0].steps)),
            str(sum(tasks[0].steps)),
            *(f"{f.mean(f.kl):.5f}" for f in ordered),
            *(f"{f.mean(f.top1):.1%}" for f in ordered),
        )


def turns(reports: Reports) -> Iterator[Row]:
    """Give one line for each model and turn."""
    yield ("model", "context", "turn", *_BESIDE_NOISE)
    for tasks in _by(found_in(reports), lambda f: (f.model, f.turn)):
        own = [f for f in tasks if f.mode == "lrqk"]
        noise = [f for f in tasks if f.mode == "resident"]
        yield (
            own[0].model,
            f"{own[0].ctx // 1024}K",
            str(own[0].turn),
            *_beside_noise(own, noise),
        )


def modes(reports: Reports) -> Iterator[Row]:
    """Give one line a mode and one column a task, with the largest step of all."""
    found = found_in(reports)
    tasks = list(dict.fromkeys(f.task for f in found))
    yield ("setting", "share", *tasks, "mean", "largest step", "top-1", "rows")
    for of_mode in _by(found, lambda f: f.mode):
        by_name = {f.task: f for f in of_mode}
        # Of a schedule, the share that was asked for is of rows of 16 bits.
        yield (
            of_mode[0].mode.partition("%, ")[2] or of_mode[0].mode,
            f"{of_mode[0].share:.1%}",
            *(f"{by_name[task].mean(by_name[task].kl):.5f}" for task in tasks),
            f"{Together.of(of_mode, lambda f: f.kl).mean:.5f}",
            f"{max(f.largest for f in of_mode):.3f}",
            f"{Together.of(of_mode, lambda f: f.top1).mean:.1%}",
            f"{np.mean([f.rows for f in of_mode]):.0f}",
        )


def layers(reports: Reports) -> Iterator[Row]:
    """Give one line for each of the layers that lose most, and their median; mean over the tasks."""
    (report,) = reports.values()
    shares: dict[str, dict[int, list[dict[str, float]]]] = {}
    for line in report["results"]:
        for layer in line["layers"]:
            shares.setdefault(f"{line['device_share']:.1%}", {}).setdefault(layer["layer"], []).append(layer)
    heads = [(f"{s}: error", f"{s}: largest", f"{s}: mass") for s in shares]
    yield ("layer", *(head for three in heads for head in three))

    def cells(of_layer: Iterable[list[dict[str, float]]]) -> Iterator[str]:
        for parts in of_layer:
            yield f"{np.mean([p['output_error'] for p in parts]):.2%}"
            yield f"{max(p['output_error_max'] for p in parts):.1%}"
            yield f"{np.mean([p['captured_mass'] for p in parts]):.1%}"

    smallest = list(shares.values())[-1]
    worst = sorted(smallest, key=lambda n: -np.mean([p["output_error"] for p in smallest[n]]))
    for number in worst[:6]:
        yield (str(number), *cells(of_share[number] for of_share in shares.values()))
    middle: list[str] = []
    for of_share in shares.values():
        errors = [np.mean([p["output_error"] for p in parts]) for parts in of_share.values()]
        masses = [np.mean([p["captured_mass"] for p in parts]) for parts in of_share.values()]
        middle += [f"{np.median(errors):.2%}", "", f"{np.median(masses):.1%}"]
    yield (f"median of {len(smallest)}", *middle)


def _by(found: Sequence[Found], key: Callable[[Found], Any]) -> Iterator[list[Found]]:
    groups: dict[Any, list[Found]] = {}
    for each in found:
        if (name := key(each)) is not None:
            groups.setdefault(name, []).append(each)
    yield from groups.values()


def _beside_noise(tasks: Sequence[Found], noise: Sequence[Found]) -> Row:
    """Give the cells that ``_BESIDE_NOISE`` heads, all tasks together."""
    worst = max(tasks, key=lambda f: f.mean(f.kl))
    rows = f"{np.mean([f.rows for f in tasks]):.0f}"
    return (
        _kl(tasks),
        _top1(tasks),
        _kl(noise),
        _top1(noise),
        rows,
        f"{worst.task} {worst.mean(worst.kl):.5f}",
    )


def _kl(tasks: Sequence[Found]) -> str:
    kl = Together.of(tasks, lambda f: f.kl)
    return f"{kl.mean:.5f} ({kl.low:.5f} to {kl.high:.5f})"


def _top1(tasks: Sequence[Found]) -> str:
    top1 = Together.of(tasks, lambda f: f.top1)
    return f"{top1.mean:.1%} ({top1.low:.1%} to {top1.high:.1%})"


TABLES = {
    "overview": Table(r"\w+-\d+k-seed\d", overview),
    "tasks-qwen": Table(r"qwen-32k-seed\d", by_task),
    "tasks-smollm2": Table(r"smol-8k-seed\d", by_task),
    "turns": Table(r".*-turns-seed\d", turns),
    "schedules": Table(r"smol-5k-schedules", modes),
    "settings": Table(r"smol-8k-vary", modes),
    "paper": Table(r"smol-8k-paper", modes),
    "layers": Table(r"smol-8k-layers", layers),
}
