"""The tables of docs/performance.md, and README's, from reports of the suite speed."""

from __future__ import annotations

from collections.abc import Iterator

from reports import MixedReportsError, Reports, Row, Table, context_name
from speed_results import (
    Measured,
    card,
    check_alike,
    check_once,
    check_settings,
    decode,
    grouped,
    measured,
    prefill,
    scaled,
    seconds,
    share,
)

from lrqk_cli.models.describe import describe_shape
from lrqk_cli.models.shapes import shapes

_GB, _MB = 1e9, 1e6
_PAGE_TOKENS = 500
_KV_DTYPES = ("bf16", "int8", "fp8")  # in the order of the page


def decode_packed(reports: Reports) -> Iterator[Row]:
    """Give one line for each context of the mode lrqk."""
    yield (
        "context",
        "decode, tokens/s",
        "prefill, tokens/s",
        "peak, GiB",
        "predicted",
        "roofline",
    )
    found = _of_lrqk(reports)
    check_alike(found, "model", "weights", "device")
    check_settings(found)
    check_once(found, lambda each: each.figures.ctx)
    for each in found:
        figures = each.figures
        yield (
            context_name(figures.ctx),
            decode(figures),
            prefill(figures),
            scaled(figures.peak_device_bytes, 2**30),
            scaled(figures.predicted_device_bytes, 2**30),
            share(figures.roofline_share),
        )


def full_attention(reports: Reports) -> Iterator[Row]:
    """Give one line for each context and mode; ratios are to ``dense`` of the same report.

    A report may repeat ``dense`` for its own ratios. The line of ``dense`` is that beside ``lrqk``.
    """
    yield (
        "context",
        "mode",
        "decode, tokens/s",
        "against dense",
        "prefill, tokens/s",
        "against dense",
        "first token, s",
        "peak, GiB",
        "roofline",
    )
    found = measured(reports)
    check_alike(found, "model", "weights", "device")
    check_settings(found)
    others = [each for each in found if each.figures.mode != "dense"]
    check_once(others, lambda each: (each.figures.ctx, each.figures.mode))
    dense = {(each.report, each.figures.ctx): each for each in found if each.figures.mode == "dense"}
    beside_lrqk = {each.report for each in found if each.figures.mode == "lrqk"}
    shown: dict[tuple[int, str], Measured] = {}
    for each in found:
        place = each.figures.ctx, each.figures.mode
        if place not in shown or shown[place].report not in beside_lrqk:
            shown[place] = each
    lines = (_compared(each, dense.get((each.report, each.figures.ctx))) for each in shown.values())
    yield from grouped(lines, 1)


def beside(each: Measured, dense: Measured | None) -> tuple[str, str]:
    """Return the ratios of decode and of prefill to those of full attention."""
    if dense is None or dense is each:
        return "", ""
    own, full = each.figures, dense.figures
    return (
        _ratio(own.decode_tokens_per_s, full.decode_tokens_per_s),
        _ratio(own.prefill_tokens_per_s, full.prefill_tokens_per_s),
    )


def _compared(each: Measured, dense: Measured | None) -> Row:
    figures, (decoded, read) = each.figures, beside(each, dense)
    return (
        context_name(figures.ctx),
        figures.mode,
        decode(figures),
        decoded,
        prefill(figures),
        read,
        seconds(figures.ttft_s),
        scaled(figures.peak_device_bytes, 2**30),
        share(figures.roofline_share),
    )


def _ratio(own: float | None, full: float | None) -> str:
    return "" if own is None or full is None else f"{own / full:.2f}×"


def kv_dtype(reports: Reports) -> Iterator[Row]:
    """Give one line for each model, context and type of the rows in host memory."""
    yield (
        "shape, weights (head size)",
        "context",
        "`--kv-dtype`",
        "decode, tokens/s",
        "prefill, tokens/s",
        "rows in host memory, GB",
        "read over the link, MB a token",
        "peak on the device, GB",
    )
    found = _of_lrqk(reports)
    check_alike(found, "device")
    check_once(found, lambda each: (each.label, each.figures.ctx, each.settings["kv_dtype"]))
    lines = []
    for label in dict.fromkeys(each.label for each in found):
        own = [each for each in found if each.label == label]
        check_settings(own, but="kv_dtype")
        own.sort(key=lambda each: (each.figures.ctx, _KV_DTYPES.index(each.settings["kv_dtype"])))
        lines += [_with_rows(each) for each in own]
    yield from grouped(lines, 2)


def _with_rows(each: Measured) -> Row:
    figures = each.figures
    return (
        each.label + _head_size(each.model),
        context_name(figures.ctx),
        each.settings["kv_dtype"],
        decode(figures),
        prefill(figures),
        scaled(figures.host_kv_bytes, _GB),
        scaled(figures.bytes_fetched_per_token, _MB, 1),
        scaled(figures.peak_device_bytes, _GB),
    )


def _head_size(model: str) -> str:
    return f" ({describe_shape(model).spec.head_dim})" if model in shapes() else ""


def headline(reports: Reports) -> Iterator[Row]:
    """Give one line for each text, for somebody who has not read of contexts."""
    yield ("text", "pages", "`--vram`", "until the answer begins", "then")
    found = _of_lrqk(reports)
    check_alike(found, "model", "weights", "device")
    for each in found:
        figures = each.figures
        if figures.ttft_s is None or figures.decode_tokens_per_s is None:
            raise MixedReportsError(f"{each.report} has no figures at {figures.ctx:,} tokens.")
        cap = figures.memory_cap_bytes
        used = f"all ({scaled(figures.peak_device_bytes, 2**30, 1)} GiB used)"
        yield (
            f"{context_name(figures.ctx)} tokens",
            str(round(figures.ctx / _PAGE_TOKENS)),
            used if cap is None else card(cap),
            f"{figures.ttft_s:.{0 if figures.ttft_s >= 10 else 1}f} s",
            f"{figures.decode_tokens_per_s:.0f} tokens/s",
        )


def _of_lrqk(reports: Reports) -> list[Measured]:
    return [each for each in measured(reports) if each.figures.mode == "lrqk"]


TABLES = {
    "decode-packed": Table(r"8b-q4-.*", decode_packed),
    "full-attention": Table(r"8b-bf16-.*", full_attention),
    "kv-dtype": Table(r"kv-.*", kv_dtype),
}
README_TABLES = {"headline": Table(r".*-headline", headline)}
