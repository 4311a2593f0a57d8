"""The tables of docs/models.md, from reports of the suite speed and of profile_steps.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from reports import MixedReportsError, Report, Reports, Row, Table, context_name, model_of, of_suite
from speed_results import Measured, decode, measured, prefill, scaled, share
from speed_tables import beside

_KINDS = {
    "recurrence-": ", with flash-linear-attention",
    "offloaded-": ", experts in main memory",
}
_SHOWN = 9  # kernels
_LIBRARIES = {"at::native": "torch's own kernels", "nvjet": "cuBLAS", "cublas": "cuBLAS", "gemv": "cuBLAS"}


def families(reports: Reports) -> Iterator[Row]:
    """Give one line for each shape, context and mode; ratios are to ``dense`` of the same report."""
    yield (
        "shape",
        "context",
        "mode",
        "decode, tokens/s",
        "against dense",
        "prefill, tokens/s",
        "against dense",
        "peak, GiB",
        "predicted",
        "roofline",
        "rows fetched, MB a token",
    )
    for name in sorted(reports, key=lambda name: (model_of(reports[name]), name)):
        found = measured({name: reports[name]})
        dense = {each.figures.ctx: each for each in found if each.figures.mode == "dense"}
        label = _label(name, reports[name])
        for each in found:
            yield (label, *_line(each, dense.get(each.figures.ctx)))
            label = ""


def _label(name: str, report: Report) -> str:
    is_with = bool(report["environment"].get("flash_linear_attention"))
    if is_with != name.startswith("recurrence-"):
        raise MixedReportsError(f"{name} is {'with' if is_with else 'without'} flash-linear-attention.")
    kind = next((words for prefix, words in _KINDS.items() if name.startswith(prefix)), "")
    return f"`{model_of(report)}`{kind}"


def _line(each: Measured, dense: Measured | None) -> Row:
    figures = each.figures
    fetched = figures.bytes_fetched_per_token if figures.mode == "lrqk" else None
    decoded, read = beside(each, dense)
    return (
        context_name(figures.ctx),
        figures.mode,
        decode(figures),
        decoded,
        prefill(figures),
        read,
        scaled(figures.peak_device_bytes, 2**30),
        scaled(figures.predicted_device_bytes, 2**30),
        share(figures.roofline_share),
        scaled(fetched, 1e6, 1),
    )


def family_steps(reports: Reports) -> Iterator[Row]:
    """Give one line for each of the costliest kernels, and the microseconds of each shape's step in them."""
    own = of_suite(reports, "profile")
    labels, spent, steps = [], [], []
    for name in sorted(own):
        report, contexts = own[name], {each["ctx"] for each in own[name]["results"]}
        if len(contexts) > 1:
            raise MixedReportsError(f"{name} has several contexts.")
        labels.append(f"{_label(name.removeprefix('profile-'), report)}, {context_name(contexts.pop())}")
        times = Counter[str]()
        for each in report["results"]:
            times[_kernel(each["kernel"])] += each["launches"] * each["us"]
        spent.append(times)
        steps.append((report["results"][0]["step_ms"], sum(each["launches"] for each in report["results"])))
    yield ("kernel, µs in all", *labels)
    shown = [name for name, _ in sum(spent, Counter[str]()).most_common(_SHOWN)]
    for kernel in shown:
        yield (f"`{kernel}`" if " " not in kernel else kernel, *(_micros(times[kernel]) for times in spent))
    yield ("others", *(_micros(times.total() - sum(times[each] for each in shown)) for times in spent))
    yield ("launches", *(f"{launches:,.0f}" for _, launches in steps))
    yield ("a step, without a profiler", *(_micros(1e3 * milliseconds) for milliseconds, _ in steps))


def _kernel(name: str) -> str:
    return next(
        (words for part, words in _LIBRARIES.items() if part in name and "packed" not in name),
        name.lstrip("_"),
    )


def _micros(value: float) -> str:
    return f"{value:,.0f}" if value else ""


TABLES = {
    "families": Table(r"(?!profile-).*", families),
    "family-steps": Table(r"profile-.*", family_steps),
}
