"""Tables of speed, memory and questions, from reports as the suites write them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from measurements import bench_report, script

from lrqk_cli.bench.lookup.questions import Kind
from lrqk_cli.bench.lookup.results import LookupResult, kind_means
from lrqk_cli.bench.qa.results import MarkedAnswer, SetResult, differences
from lrqk_cli.bench.speed.results import SpeedResult
from lrqk_cli.bench.speed.suite import SpeedSuite
from lrqk_cli.config import LrqkConfig

speed_tables, memory_tables, qa_tables = script("speed_tables"), script("memory_tables"), script("qa_tables")
family_tables = script("family_tables")
MixedReportsError = script("reports").MixedReportsError
GIB = 2**30


def result(mode: str = "lrqk", ctx: int = 65536, decode: float = 100.0, **figures: Any) -> SpeedResult:
    found = SpeedResult(
        mode,
        ctx,
        ctx,
        f"pp{ctx}",
        f"tg64 @ d{ctx}",
        prefill_tokens_per_s=11674.4,
        ttft_s=5.704,
        decode_tokens_per_s=decode,
        peak_device_bytes=7 * GIB,
        predicted_device_bytes=int(7.07 * GIB),
        peak_reserved_bytes=8 * GIB,
        host_kv_bytes=8_600_000_000,
        bytes_fetched_per_token=35.81e6,
        roofline_share=0.37,
    )
    return replace(found, **figures)


def speed(*results: SpeedResult, **facts: Any) -> dict[str, Any]:
    return bench_report("speed", results, **facts)


def rows(tables: Any, name: str, **reports: Any) -> list[tuple[str, ...]]:
    """Return the lines of a table, from reports whose names have ``_`` for ``-``."""
    named = {key.replace("_", "-"): report for key, report in reports.items()}
    _, *lines = tables[name].made_from(named)
    return lines


def test_packed_decode_has_a_line_for_each_context_of_all_reports() -> None:
    spread = {"decode_tokens_per_s_std": 0.94, "prefill_tokens_per_s_std": 13.2}
    assert rows(
        speed_tables.TABLES,
        "decode-packed",
        **{
            "8b_q4_256k": speed(result(ctx=262144, decode=118.31)),
            "8b_q4_short": speed(
                result(decode=177.9, **spread), result("dense"), result(ctx=8192, decode=254.0)
            ),
            "kv_8b": speed(result(ctx=4096)),
        },
    ) == [
        ("8K", "254.0", "11,674", "7.00", "7.07", "37%"),
        ("64K", "177.9 ± 0.9", "11,674 ± 13", "7.00", "7.07", "37%"),
        ("256K", "118.3", "11,674", "7.00", "7.07", "37%"),
    ]


@pytest.mark.parametrize("eager_first", [False, True])
def test_ratios_are_to_dense_of_the_same_report(eager_first: bool) -> None:
    plain = {"weights": "bfloat16"}
    no_room = result("offload", 131072, error="does not fit: no room", decode_tokens_per_s=None)
    reports = {
        "8b_bf16_a": speed(result("dense", decode=50.0, ttft_s=4.93), result(decode=60.0), **plain),
        "8b_bf16_b": speed(result("dense-eager", decode=10.0), result("dense", decode=40.0), **plain),
        "8b_bf16_c": speed(result("paper", decode=3.7, ttft_s=18.13), **plain),
        "8b_bf16_d": speed(no_room, **plain),
    }
    if eager_first:
        reports = {"8b_bf16_b": reports.pop("8b_bf16_b"), **reports}
    lines = rows(speed_tables.TABLES, "full-attention", **reports)
    assert [line[:4] for line in lines] == [
        ("64K", "lrqk", "60.0", "1.20×"),
        ("", "dense", "50.0", ""),
        ("", "dense-eager", "10.0", "0.25×"),
        ("", "paper", "3.7", ""),
        ("128K", "offload", "does not fit", ""),
    ]
    assert lines[0][4:] == ("11,674", "1.00×", "5.70", "7.00", "37%")
    assert [line[6] for line in lines] == ["5.70", "4.93", "5.70", "18.1", "5.70"]


def test_every_mode_of_the_suite_has_its_place() -> None:
    assert set(script("speed_results").MODES) == set(SpeedSuite.known_modes)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"device": "NVIDIA H100"}, "8b-q4-2 and 8b-q4-1 differ in device: NVIDIA H100, NVIDIA H200"),
        ({"weights": "bfloat16"}, "differ in weights: bf16, q4"),
        ({"model": "llama-3.2-1b (random weights)"}, "differ in model"),
        ({"settings": LrqkConfig(hot=4096)}, "8b-q4-2 and 8b-q4-1 have other settings: hot 4096, 8384"),
        ({"ctx": 65536}, "8b-q4-1 and 8b-q4-2 have lrqk at 65,536 tokens twice"),
    ],
)
def test_what_a_table_would_not_tell_apart_is_refused(other: dict[str, Any], message: str) -> None:
    second = speed(result(ctx=other.pop("ctx", 131072)), **other)
    with pytest.raises(MixedReportsError, match=message):
        rows(speed_tables.TABLES, "decode-packed", **{"8b_q4_1": speed(result()), "8b_q4_2": second})


def test_a_report_of_another_suite_is_refused() -> None:
    with pytest.raises(MixedReportsError, match="8b-q4-1 is of the suite fidelity, not of speed"):
        rows(speed_tables.TABLES, "decode-packed", **{"8b_q4_1": bench_report("fidelity", [])})


def test_types_of_rows_stand_below_one_another_for_each_shape_and_context() -> None:
    small = {"model": "llama-3.2-1b (random weights)", "weights": "bfloat16"}
    lines = rows(
        speed_tables.TABLES,
        "kv-dtype",
        kv_8b_bf16=speed(result(), result(ctx=131072)),
        kv_8b_fp8=speed(result(), settings=LrqkConfig(kv_dtype="fp8")),
        kv_8b_int8=speed(result(host_kv_bytes=4_370_000_000), settings=LrqkConfig(kv_dtype="int8")),
        kv_small=speed(result(), settings=LrqkConfig(hot=4096), **small),
    )
    assert [line[:3] for line in lines] == [
        ("llama-3.1-8b, q4 (128)", "64K", "bf16"),
        ("", "", "int8"),
        ("", "", "fp8"),
        ("", "128K", "bf16"),
        ("llama-3.2-1b, bf16 (64)", "64K", "bf16"),
    ]
    assert lines[1][3:] == ("100.0", "11,674", "4.37", "35.8", "7.52")


def test_a_model_without_a_shape_has_no_head_size() -> None:
    facts = {"model": "/models/qwen2.5-coder-0.5b.gguf", "weights": "gguf"}
    (line,) = rows(speed_tables.TABLES, "kv-dtype", kv_qwen=speed(result(), **facts))
    assert line[0] == "Qwen2.5-Coder 0.5B, gguf"


def test_the_headline_speaks_of_pages_and_cards() -> None:
    cap = 8 * GIB - (800 << 20)
    long = result(ctx=131072, decode=159.4, ttft_s=20.3, memory_cap_bytes=cap)
    lines = rows(
        speed_tables.README_TABLES,
        "headline",
        **{
            "8b_q4_64k_headline": speed(result(decode=177.9)),
            "vram_8gib_headline": speed(long, settings=LrqkConfig(hot=4096, top_k=1024)),
        },
    )
    assert lines == [
        ("64K tokens", "131", "all (7.0 GiB used)", "5.7 s", "178 tokens/s"),
        ("128K tokens", "262", "8 GiB", "20 s", "159 tokens/s"),
    ]
    failed = replace(long, error="does not fit: no room", ttft_s=None)
    with pytest.raises(MixedReportsError, match="a-headline has no figures at 131,072 tokens"):
        rows(speed_tables.README_TABLES, "headline", a_headline=speed(failed))


def test_predictions_stand_beside_peaks_for_each_context() -> None:
    no_room = result("dense", 131072, error="does not fit", peak_device_bytes=None)
    lines = rows(
        memory_tables.TABLES,
        "predicted",
        peak_8b=speed(result(), result(ctx=131072), result("dense"), no_room),
        peak_small=speed(
            result(), settings=LrqkConfig(hot=4096, top_k=1024, rank=32, index_bits=8, segment=2048)
        ),
    )
    assert lines == [
        (
            "llama-3.1-8b, q4",
            "8,384 hot rows, rank 64 in 4 bits",
            "7,168 (+1.00%)",
            "7,168 (+1.00%)",
        ),
        ("", "dense", "7,168 (+1.00%)", "does not fit"),
        ("", "4,096 hot rows, rank 32 in 8 bits, segments of 2,048", "7,168 (+1.00%)", ""),
    ]


def test_runs_that_a_card_limits_name_the_card() -> None:
    runs = {
        f"vram_{card}": speed(result(memory_cap_bytes=card * GIB - (800 << 20)), settings=LrqkConfig(hot=hot))
        for card, hot in ((16, 8384), (8, 4096))
    }
    lines = rows(memory_tables.TABLES, "limits", **runs)
    assert [line[0] for line in lines] == ["8 GiB", "16 GiB"]
    assert lines[0][1:5] == ("llama-3.1-8b, q4", "64K", "4,096 hot rows, rank 64 in 4 bits", "7,392")
    assert lines[0][5:] == ("7,168", "7,240 (+1.00%)", "8,192", "11,674", "100.0")
    with pytest.raises(MixedReportsError, match="vram-all was not held to a card's memory"):
        rows(memory_tables.TABLES, "limits", vram_all=speed(result()))


def answers(*scores: float) -> tuple[MarkedAnswer, ...]:
    return tuple(
        MarkedAnswer(number, "?", str(score), ("!",), "rouge_l", score) for number, score in enumerate(scores)
    )


def test_questions_have_the_figures_of_the_suite() -> None:
    own, full = (
        SetResult(
            "tales",
            mode,
            8192,
            3,
            3,
            score=score,
            prompt_tokens=5000.4,
            device_share=0.375,
            answers=answers(*scores),
        )
        for mode, score, scores in (("lrqk", 50.0, (0.0, 1.0, 0.5)), ("dense", 66.7, (0.5, 1.0, 0.5)))
    )
    (found,) = differences([own, full])
    report = bench_report("qa", [own, full], [found], model="smollm2-135m")
    report["modes"] = {"lrqk": {"hot": 1984}, "dense": {"hot": 1984}}
    (line,) = rows(qa_tables.TABLES, "qa", qa_smol=report)
    bounds = f"({found.difference_low:+.1f} to {found.difference_high:+.1f})"
    assert line == (
        *("tales", "SmolLM2 135M", "3", "3", "5,000", "66.7", "1,984", "37.5%", "50.0"),
        *(f"-16.7 {bounds}", "67%", "ROUGE-L"),
    )
    assert found.difference_low < -16.7 < found.difference_high
    alone = bench_report("qa", [own])
    assert rows(qa_tables.TABLES, "qa", qa_smol=alone) == []


def test_a_step_has_a_line_for_each_costly_kernel() -> None:
    launch = script("profile_steps").Launch
    results = [
        launch("lrqk", ctx, f"_kernel_{n}", 32.0, 40.0 - n, 5.24)
        for ctx in (65536, 262144)
        for n in range(20)
    ]
    results.append(launch("lrqk", 262144, "only_there", 1.0, 5000.0, 5.24))
    lines = rows(script("profile_tables").TABLES, "step-kernels", profile_8b=bench_report("profile", results))
    assert lines[0] == ("`only_there`", "1", "", "", "5000.0", "5,000")
    assert lines[1] == ("`kernel_0`", "32", "40.0", "1,280", "40.0", "1,280")
    assert lines[-1][3::2] == ("5,240", "5,240")
    total = sum(32 * (40 - n) for n in range(20))
    assert lines[-2][3::2] == (f"{total:,}", f"{total + 5000:,}")
    shown = sum(float(line[3].replace(",", "")) for line in lines[:-2] if line[3])
    assert shown == total


def test_two_profiles_are_refused() -> None:
    report = bench_report("profile", [])
    with pytest.raises(MixedReportsError, match="One profile"):
        rows(script("profile_tables").TABLES, "step-kernels", profile_a=report, profile_b=report)


def test_lookup_has_a_line_for_each_kind_of_question() -> None:
    def answered(kind: Kind, ratio: float, identical: bool) -> LookupResult:
        return LookupResult(
            kind,
            "?",
            "once",
            "lrqk",
            16384,
            9000,
            256,
            identical,
            256,
            600.0,
            600.0 * ratio,
            ratio,
            180,
            90,
            0.75,
            "!",
        )

    results = [answered("quote", 1.5, True), answered("quote", 1.7, False), answered("free", 1.0, True)]
    report = bench_report("lookup", results, kind_means(results))
    assert rows(script("lookup_tables").TABLES, "lookup", lookup_qwen=report) == [
        ("llama-3.1-8b", "16K", "quote a passage", "2", "256", "600", "960", "1.60×", "50%", "75%", "1"),
        ("llama-3.1-8b", "16K", "a free answer", "1", "256", "600", "600", "1.00×", "50%", "", "1"),
    ]


def test_families_are_beside_full_attention_of_their_own_report() -> None:
    beside = speed(result("lrqk", decode=69.1), result("dense", decode=66.8), flash_linear_attention="0.6.0")
    found = rows(family_tables.TABLES, "families", recurrence_llama=beside, offloaded_llama=speed(result()))
    label, kind = "`llama-3.1-8b`", ", with flash-linear-attention"
    assert [(line[0], line[2], line[4], line[-1]) for line in found] == [
        (f"{label}, experts in main memory", "lrqk", "", "35.8"),
        (label + kind, "lrqk", "1.03×", "35.8"),
        ("", "dense", "", ""),
    ]
    with pytest.raises(MixedReportsError, match="llama is with flash-linear-attention"):
        rows(family_tables.TABLES, "families", llama=beside)


def test_kernels_of_a_library_are_added_up() -> None:
    launches = [
        script("profile_steps").Launch("lrqk", 65536, kernel, 10, us, 0.5)
        for kernel, us in (("_score", 20.0), ("void at::native::copy<4>", 3.0), ("void at::native::add", 4.0))
    ]
    found = rows(family_tables.TABLES, "family-steps", profile_llama=bench_report("profile", launches))
    assert ("`score`", "200") in found
    assert ("torch's own kernels", "70") in found
    assert found[-2:] == [("launches", "30"), ("a step, without a profiler", "500")]
