"""What reports of the suite speed have, by context and mode, and how the pages write it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from reports import MixedReportsError, Reports, Row, model_of, of_suite

from lrqk_cli.bench.speed.results import SpeedResult
from lrqk_cli.memory.estimate import CUDA_CONTEXT_BYTES

_KNOWN = {field.name for field in fields(SpeedResult)}
# In the order of the pages.
MODES = ("lrqk", "dense", "dense-eager", "paper", "paper-no-hit-miss", "offload")
_FORMS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Measured:
    """One mode at one context.

    Attributes:
        report: the name of its report.
        weights: their form as ``--weights`` names it; None if the report does not say.
        settings: of the mode.
    """

    report: str
    model: str
    weights: str | None
    device: str
    settings: dict[str, Any]
    figures: SpeedResult

    @property
    def label(self) -> str:
        """The model and the form of its weights."""
        return self.model if self.weights is None else f"{self.model}, {self.weights}"


def measured(reports: Reports) -> list[Measured]:
    """Return all results by context, then by mode.

    Raises:
        MixedReportsError: a report is of another suite.
    """
    found = []
    for name, report in of_suite(reports, "speed").items():
        facts = report["environment"]
        weights = facts.get("weights")
        for line in report["results"]:
            found.append(
                Measured(
                    name,
                    model_of(report),
                    _FORMS.get(weights, weights),
                    facts["device"],
                    report["modes"].get(line["mode"], report["settings"]),
                    SpeedResult(**{key: value for key, value in line.items() if key in _KNOWN}),
                )
            )
    return sorted(found, key=lambda each: (each.figures.ctx, MODES.index(each.figures.mode)))


def check_alike(found: Sequence[Measured], *names: str) -> None:
    """Refuse results whose table has no column for their difference.

    Args:
        names: of the attributes that they must have in common.

    Raises:
        MixedReportsError: they differ.
    """
    for each in found:
        for name in names:
            own, first = getattr(each, name), getattr(found[0], name)
            if own != first:
                raise MixedReportsError(
                    f"{each.report} and {found[0].report} differ in {name}: {own}, {first}."
                )


def check_settings(found: Iterable[Measured], but: str | None = None) -> None:
    """Refuse results of the mode lrqk with different settings.

    Args:
        but: the setting that may differ.

    Raises:
        MixedReportsError: others differ.
    """
    own = [each for each in found if each.figures.mode == "lrqk"]
    for each in own:
        first = own[0].settings
        differing = [key for key in first if key != but and first[key] != each.settings.get(key)]
        if differing:
            named = ", ".join(f"{key} {each.settings.get(key)}, {first[key]}" for key in differing)
            raise MixedReportsError(f"{each.report} and {own[0].report} have other settings: {named}.")


def check_once(found: Iterable[Measured], line: Callable[[Measured], Hashable]) -> None:
    """Refuse two results that would be the same line of a table.

    Args:
        line: returns what tells lines apart.

    Raises:
        MixedReportsError: there are two.
    """
    seen: dict[Hashable, str] = {}
    for each in found:
        if (key := line(each)) in seen:
            both = f"{seen[key]} and {each.report}"
            raise MixedReportsError(f"{both} have {each.figures.mode} at {each.figures.ctx:,} tokens twice.")
        seen[key] = each.report


def mean(value: float | None, deviation: float | None, decimals: int) -> str:
    """Return a mean and its standard deviation, if there is one."""
    spread = "" if deviation is None else f" ± {deviation:,.{decimals}f}"
    return "" if value is None else f"{value:,.{decimals}f}{spread}"


def decode(figures: SpeedResult) -> str:
    """Return the tokens per second of decode, or that there are none because it does not fit."""
    if figures.error is not None:
        return "does not fit"
    return mean(figures.decode_tokens_per_s, figures.decode_tokens_per_s_std, 1)


def prefill(figures: SpeedResult) -> str:
    """Return the tokens per second of prefill."""
    return mean(figures.prefill_tokens_per_s, figures.prefill_tokens_per_s_std, 0)


def scaled(size: float | None, unit: float, decimals: int = 2) -> str:
    """Return bytes in a unit."""
    return "" if size is None else f"{size / unit:,.{decimals}f}"


def card(allowed: int) -> str:
    """Return the card's memory, as ``--vram`` names it, of which torch may allocate so many bytes."""
    return f"{(allowed + CUDA_CONTEXT_BYTES) / 2**30:.3g} GiB"


def seconds(value: float | None) -> str:
    """Return seconds with three digits."""
    if value is None:
        return ""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"


def share(value: float | None) -> str:
    """Return a share in per cent."""
    return "" if value is None else f"{value:.0%}"


def beyond(figures: SpeedResult) -> str:
    """Return how far the predicted peak lies above the measured one."""
    peak, predicted = figures.peak_device_bytes, figures.predicted_device_bytes
    return "" if peak is None or predicted is None else f" ({predicted / peak - 1:+.2%})"


def grouped(rows: Iterable[Row], columns: int) -> list[Row]:
    """Return the lines with those of their first cells blank that repeat what stands above them."""
    shown, above = [], tuple[str, ...]()
    for row in rows:
        same = 0
        while same < min(columns, len(above)) and row[same] == above[same]:
            same += 1
        shown.append(("",) * same + row[same:])
        above = row
    return shown
