"""From samples to means, deviations, shares of the roofline, and the table."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_model

from lrqk_cli.bench.speed import table
from lrqk_cli.bench.speed.results import Run, SpeedResult, empty_result, with_figures
from lrqk_cli.bench.speed.roofline import Bandwidth, StepBytes, step_bytes, weight_bytes
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.memory import accounting
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.telemetry.stats import DecodeTotals

MEMORY = MemoryUse("cpu", 1, 3 << 30, 1, 5 << 30, 7, 11)
RUNS = (
    Run((1, 2, 3), 2.0, 2.5, (0.1, 0.3), DecodeTotals(2, rows_wanted=10, rows_fetched=1, bytes_fetched=100)),
    Run((1, 2, 3), 4.0, 4.5, (0.2, 0.8), DecodeTotals(2, rows_wanted=30, rows_fetched=4, bytes_fetched=300)),
)


def result(*runs: Run) -> SpeedResult:
    return with_figures(empty_result("lrqk", 1024, 1000, 2), runs, MEMORY)


def test_means_and_deviations_are_those_of_the_runs():
    found = result(*RUNS)
    assert found.prefill_tokens_per_s == pytest.approx(375)  # 500 and 250
    assert found.prefill_tokens_per_s_std == pytest.approx(250 / math.sqrt(2))
    assert (found.ttft_s, found.ttft_s_std) == (pytest.approx(3.5), pytest.approx(math.sqrt(2)))
    assert found.decode_tokens_per_s == pytest.approx(3.5)  # 5 and 2
    assert found.decode_tokens_per_s_std == pytest.approx(3 / math.sqrt(2))
    assert found.decode_samples_ms == pytest.approx((100, 300, 200, 800))
    assert (found.prefill_samples_s, found.ttft_samples_s) == ((2.0, 4.0), (2.5, 4.5))
    assert found.miss_rate == 5 / 40
    assert found.bytes_fetched_per_token == 100
    assert found.peak_device_bytes == 3 << 30


def test_one_run_has_no_deviation():
    found = result(RUNS[0])
    assert found.decode_tokens_per_s_std is found.prefill_tokens_per_s_std is found.ttft_s_std is None


def test_the_table_has_a_line_for_each_test():
    dense = empty_result("dense", 1024, 1000, 2)
    lines = table.table([result(*RUNS), result(RUNS[0]), dense]).lines
    assert lines[0][:4] == ("lrqk", "pp1000", "375.0 ± 176.8", "3.50")
    assert lines[1][:3] == ("lrqk", "tg2 @ d1000", "3.500 ± 2.121")
    assert lines[1][4:8] == ("3.00", "5.00", "12.5%", "0.00")
    assert lines[2][2] == "500.0"


def test_what_does_not_fit_says_so_in_the_table_and_why_below():
    failed = SpeedResult("dense", 8192, 8192, "pp8192", "tg2 @ d8192", error="does not fit: No room.")
    assert [line[2] for line in table.table([failed]).lines] == ["does not fit"] * 2
    found = table.notes([failed], Bandwidth(3e12, 5.5e10), random_weights=True)
    assert found[0] == "dense at 8,192 tokens does not fit: No room."
    assert found[1] == "Measured bandwidth of memory: 3,000.0 GB/s, of the link 55.0 GB/s."
    assert found[2].startswith("MBU")
    assert "not representative" in found[3]
    assert table.chart([failed]).points == []


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_reads_all_weights_but_an_embedding_of_its_own(tied: bool):
    model = tiny_model("llama", tie_word_embeddings=tied)
    everything = 4 * sum(parameter.numel() for parameter in model.parameters())
    embedding = 4 * 97 * 32
    assert weight_bytes(model) == everything - (0 if tied else embedding)


def test_each_mode_has_bytes_of_its_own():
    model = tiny_model("gemma3")
    spec = spec_from_config(model.config, "gemma3")
    weights = weight_bytes(model)
    assert weights is not None
    settings = LrqkConfig(hot=32, top_k=16, recent=8, rank=4)
    found = {
        mode: step_bytes(model, spec, LrqkConfig(mode, hot=32, top_k=16, recent=8, rank=4), 500)
        for mode in ("lrqk", "dense", "offload")
    }
    sizes = accounting.kv_bytes(spec, settings, 500, "float32")
    rows = 500 * 2 * 2 * 16 * 4  # one full layer, 2 KV heads, K and V of 16 floats
    window = 24 * 2 * 2 * 16 * 4
    assert found["lrqk"] == StepBytes(weights + sizes.index + sizes.hot + window, 0)
    assert found["dense"] == StepBytes(weights + rows + window, 0)
    assert found["offload"] == StepBytes(weights + window, rows)


def test_experts_have_no_roofline():
    model = tiny_model("gpt-oss")
    spec = spec_from_config(model.config, "gpt-oss")
    assert step_bytes(model, spec, LrqkConfig(), 500) is None


def test_the_slower_of_memory_and_link_is_the_limit():
    bytes_ = StepBytes(device=300, link=10)
    assert bytes_.tokens_per_second(Bandwidth(100, 5)) == pytest.approx(1 / 3)
    assert bytes_.tokens_per_second(Bandwidth(100, 2)) == pytest.approx(1 / 5)
    assert bytes_.tokens_per_second(Bandwidth(100, None)) == pytest.approx(100 / 310)


def test_bandwidth_of_this_machine():
    found = Bandwidth.of(torch.device("cpu"))
    assert found.memory > 0
    assert found.link is None
