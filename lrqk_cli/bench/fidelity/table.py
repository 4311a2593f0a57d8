"""The results for a person: a table, notes and a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from lrqk_cli.bench.fidelity.results import FidelityResult, LayerResult, Overall
from lrqk_cli.bench.plot import Chart, Point
from lrqk_cli.bench.report import Table

_COLUMNS = ("task", "mode", "ctx", "samples", "steps", "KL mean", "KL max", "top-1", "rows/step", "share")
_TURN = 2
_WORST_LAYERS = 3


def table(results: Sequence[FidelityResult], together: Sequence[Overall]) -> Table:
    """Return one line per result and per mean over several tasks; it has turns if any is beyond the first."""
    lines = [*map(_cells, results), *map(_overall_cells, _of_several(together))]
    columns = (*_COLUMNS[:_TURN], "turn", *_COLUMNS[_TURN:])
    if all(found.turn == 1 for found in results):
        columns, lines = _COLUMNS, [(*line[:_TURN], *line[_TURN + 1 :]) for line in lines]
    return Table(columns, tuple(lines))


def notes(results: Sequence[FidelityResult], together: Sequence[Overall]) -> list[str]:
    """Return sentences: the means over all tasks, where each mode fails most, and what was skipped."""
    return [
        *map(_overall_sentence, _of_several(together)),
        *_worst_steps(results),
        *_worst_layers(results),
        *_skipped(results),
    ]


def chart(together: Sequence[Overall]) -> Chart:
    """Return mean divergence against bytes: one point per mode, one colour per context and turn."""
    points = tuple(
        Point(line.mode, line.device_share, line.kl_mean, f"{line.ctx:,} tokens, turn {line.turn}")
        for line in together
    )
    return Chart("Distance from full attention", "mean KL over all tasks, nats", points, logarithmic=True)


def _of_several(together: Sequence[Overall]) -> list[Overall]:
    """Return the means that are over more than one task."""
    return [line for line in together if len(line.tasks) > 1]


def _cells(found: FidelityResult) -> tuple[str, ...]:
    """Return the cells of one line; the notes say why a line has no figures."""
    head = (found.task, found.mode, str(found.turn), f"{found.ctx:,}", str(found.samples))
    if found.skipped is not None:
        return (*head, "skipped", *([""] * 5))
    return (
        *head,
        str(found.steps),
        f"{found.kl_mean:.5f}",
        f"{found.kl_max:.4f}",
        f"{found.top1_agreement:.1%}",
        f"{found.rows_fetched_per_step:.1f}",
        f"{found.device_share:.1%}",
    )


def _overall_cells(line: Overall) -> tuple[str, ...]:
    return (
        "all",
        line.mode,
        str(line.turn),
        f"{line.ctx:,}",
        "",
        "",
        f"{line.kl_mean:.5f}",
        "",
        f"{line.top1_agreement:.1%}",
        f"{line.rows_fetched_per_step:.1f}",
        f"{line.device_share:.1%}",
    )


def _overall_sentence(line: Overall) -> str:
    return (
        f"{line.mode} at {line.ctx:,} tokens, turn {line.turn}, over {len(line.tasks)} tasks: "
        f"KL {line.kl_mean:.5f}, top-1 {line.top1_agreement:.1%}, "
        f"worst {line.worst_task} with {line.worst_kl_mean:.5f}."
    )


def _worst_steps(results: Sequence[FidelityResult]) -> Iterator[str]:
    for mode in dict.fromkeys(found.mode for found in results):
        worst = max(
            (found for found in results if found.mode == mode and found.worst is not None),
            key=lambda found: found.kl_max or 0.0,
            default=None,
        )
        if worst is None or worst.worst is None:
            continue
        step = worst.worst
        yield (
            f"Worst step of {mode}: {worst.task} at {worst.ctx:,} tokens, turn {worst.turn}, sample "
            f"{step.sample}, step {step.step} (position {step.position:,}): KL {step.kl:.4f}, full attention "
            f"holds {step.full_token!r} likeliest, {mode} {step.own_token!r}."
        )


def _worst_layers(results: Sequence[FidelityResult]) -> Iterator[str]:
    for mode in dict.fromkeys(found.mode for found in results if found.layers):
        by_layer: dict[int, list[LayerResult]] = {}
        for layer in (layer for found in results if found.mode == mode for layer in found.layers):
            by_layer.setdefault(layer.layer, []).append(layer)
        errors = {number: fmean(r.output_error for r in found) for number, found in by_layer.items()}
        worst = sorted(errors, key=lambda number: -errors[number])[:_WORST_LAYERS]
        listed = ", ".join(
            f"layer {number} (output error {errors[number]:.4f}, captured mass "
            f"{fmean(r.captured_mass for r in by_layer[number]):.1%})"
            for number in worst
        )
        yield f"Worst layers of {mode}: {listed}."


def _skipped(results: Sequence[FidelityResult]) -> Iterator[str]:
    modes: dict[tuple[str, int, str], list[str]] = {}
    for found in results:
        if found.skipped is not None:
            modes.setdefault((found.task, found.ctx, found.skipped), []).append(found.mode)
    for (task, context, reason), names in modes.items():
        yield f"{task} at {context:,} tokens, skipped for {', '.join(names)}: {reason}."
