"""Quality against bytes, or speed over context, as an SVG or PNG picture. Needs the extra ``plot``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.system_errors import reason_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUFFIXES = (".svg", ".png")
_INCHES = (8.0, 5.0)
_DOTS_PER_INCH = 150
# Points whose shares differ by less count as one column.
_SAME_SHARE = 0.05
# The ends of an axis of scores; the margin keeps the mark of a perfect score whole.
_SCORES = (0.0, 105.0)


@dataclass(frozen=True, slots=True)
class Point:
    """One mode.

    Attributes:
        share: bytes of index and hot rows as a share of the KV cache.
        quality: in the unit of the chart.
        series: name of the points of one colour.
    """

    label: str
    share: float
    quality: float
    series: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A scatter chart of quality over bytes.

    Attributes:
        quality: label of the vertical axis; ``logarithmic``: whether its scale is.
        limits: both ends of the vertical axis; None fits it to the points.
    """

    title: str
    quality: str
    points: Sequence[Point]
    logarithmic: bool = False
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class LinePoint:
    """One mode at one context.

    Attributes:
        context: tokens.
        value: in the unit of the chart; ``spread`` is its standard deviation.
        series: the line that it belongs to.
    """

    context: int
    value: float
    spread: float
    series: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """A line chart over the context, one line per series.

    Attributes:
        value: label of the vertical axis, which begins at zero.
    """

    title: str
    value: str
    points: Sequence[LinePoint]


@dataclass(frozen=True, slots=True)
class Scored:
    """A part of a suite, such as a task, in one mode at one context.

    Attributes:
        score, share: as ``quality`` and ``share`` of a point; None if the mode could not do the part.
    """

    part: str
    mode: str
    ctx: int
    score: float | None
    share: float | None


def mean_scores(title: str, results: Sequence[Scored]) -> Chart:
    """Return the mean score against bytes, over the parts for which all modes have a score."""
    points = []
    for context in dict.fromkeys(result.ctx for result in results):
        here = [result for result in results if result.ctx == context]
        missing = {result.part for result in here if result.score is None}
        for mode in dict.fromkeys(result.mode for result in here):
            own = [result for result in here if result.mode == mode and result.part not in missing]
            if own:
                share = fmean(result.share for result in own if result.share is not None)
                score = fmean(result.score for result in own if result.score is not None)
                points.append(Point(mode, share, score, f"{context:,} tokens"))
    return Chart(title, "mean score", tuple(points), limits=_SCORES)


def check_plot(path: Path) -> None:
    """Raise before a long run if ``write_plot`` could not write the file.

    Raises:
        UsageError: the name ends in neither ``.svg`` nor ``.png``, or its folder does not exist.
        LrqkError: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"'{path}' is neither an SVG nor a PNG file.", "Let --plot end in .svg or .png.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder of '{path}' does not exist.", "Check the path after --plot.")
    if find_spec("matplotlib") is None:
        raise LrqkError("--plot needs matplotlib, which is not installed.", "Run: pip install 'lrqk[plot]'")


def write_plot(chart: Chart | LineChart | Sequence[Chart], path: Path) -> None:
    """Write the chart, or several one above the other, to ``path``, in the format of its suffix.

    Raises:
        LrqkError: the file cannot be written.
    """
    # Not pyplot, which would look for a screen and keep the figure in memory.
    from matplotlib.figure import Figure

    charts = [chart] if isinstance(chart, (Chart, LineChart)) else list(chart)
    width, height = _INCHES
    figure = Figure(figsize=(width, height * len(charts)), layout="constrained")
    drawings = figure.subplots(len(charts), sharex=True, squeeze=False).flat
    for axes, each in zip(drawings, charts, strict=True):
        if isinstance(each, LineChart):
            _draw_lines(axes, each)
        else:
            _draw_points(axes, each)
    try:
        figure.savefig(path, dpi=_DOTS_PER_INCH)
    except OSError as error:
        raise LrqkError(
            f"'{path}' cannot be written: {reason_of(error)}.", "Check the path after --plot."
        ) from None


def _draw_points(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    for series in dict.fromkeys(point.series for point in chart.points):
        points = [point for point in chart.points if point.series == series]
        axes.scatter([point.share for point in points], [point.quality for point in points], label=series)
    for point, right in _sides(chart.points):
        axes.annotate(
            point.label,
            (point.share, point.quality),
            xytext=(6 if right else -6, 0),
            textcoords="offset points",
            horizontalalignment="left" if right else "right",
            verticalalignment="center",
            fontsize="small",
        )
    if chart.logarithmic and all(point.quality > 0 for point in chart.points):
        axes.set_yscale("log")
    if all(point.share > 0 for point in chart.points):  # shares are 0 where all rows are streamed
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.margins(x=0.2, y=0.1)
    if chart.limits is not None:
        axes.set_ylim(*chart.limits)
    axes.grid(alpha=0.3)
    axes.set(title=chart.title, xlabel="GPU bytes: index and hot rows, of the KV cache", ylabel=chart.quality)
    axes.legend()


def _sides(points: Sequence[Point]) -> Iterator[tuple[Point, bool]]:
    """Yield each point, and whether its label stands on its right; sides alternate within a column."""
    column, last = 0, -1.0
    columns: dict[Point, int] = {}
    for point in sorted(points, key=lambda point: point.share):
        if point.share > last * (1 + _SAME_SHARE):
            column, last = column + 1, point.share
        columns[point] = column
    ordered = sorted(columns, key=lambda point: (columns[point], point.quality))
    for _, of_column in groupby(ordered, key=columns.__getitem__):
        for number, point in enumerate(of_column):
            yield point, number % 2 == 0


def _draw_lines(axes: Axes, chart: LineChart) -> None:
    for series in dict.fromkeys(point.series for point in chart.points):
        points = sorted(
            (point for point in chart.points if point.series == series), key=lambda point: point.context
        )
        axes.errorbar(
            [point.context for point in points],
            [point.value for point in points],
            yerr=[point.spread for point in points],
            marker="o",
            capsize=3,
            label=series,
        )
    contexts = sorted({point.context for point in chart.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [_tokens(context) for context in contexts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set(title=chart.title, xlabel="context, tokens", ylabel=chart.value)
    axes.legend()


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count % 1024 == 0 else f"{count:,}"
