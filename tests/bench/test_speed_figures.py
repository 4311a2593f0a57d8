"""From samples to means, deviations, shares of the roofline, and the table."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_model

from lrqk_cli.bench.speed import measure, table
from lrqk_cli.bench.speed.results import Run, SpeedResult, empty_result, with_figures
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.events import MemoryUse
from lrqk_cli.memory import probe
from lrqk_cli.memory.estimate import estimate
from lrqk_cli.memory.roofline import Bandwidth
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


@pytest.mark.parametrize(("bandwidth", "share"), [(1e12, True), (1.0, False)])
def test_a_model_that_caches_hold_has_no_share_of_the_bandwidth(bandwidth, share):
    """Twice the roofline is no utilization, but a sign that memory was not what was read."""
    model = SimpleNamespace(device="cpu", dtype=torch.float32)
    spec = spec_from_config(tiny_model("llama").config, "llama")
    subject = measure.SpeedSubject(model, spec, {}, [], Bandwidth(bandwidth, None))
    plan = SimpleNamespace(new_tokens=2)
    found = measure._with_roofline(result(*RUNS), subject, LrqkConfig(), plan)
    cells = table.table([found]).lines[1]
    notes = table.notes([found], subject.bandwidth, random_weights=False)
    assert found.roofline_bytes_per_token
    assert (found.roofline_share is not None) == share == cells[-1].endswith("%")
    assert any("caches" in note for note in notes) != share


@pytest.mark.parametrize(
    ("mode", "free_before"), [("lrqk", 9 << 30), ("lrqk", None), ("dense-eager", 9 << 30)]
)
def test_a_gpu_has_its_prediction_and_what_cuda_took(monkeypatch, mode, free_before):
    """Of 9 GiB that were free 2 are left, and 6 are torch's."""
    monkeypatch.setattr(probe, "peak_reserved_bytes", lambda _: 7 << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 << 30, 10 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 6 << 30)
    model = SimpleNamespace(device="cuda:0", dtype=torch.bfloat16)
    spec = spec_from_config(tiny_model("llama").config, "llama")
    subject = measure.SpeedSubject(model, spec, {}, [], Bandwidth(1.0, 1.0), free_before)
    head = SpeedResult(mode, 500, 500, "pp500", "tg2 @ d500")
    found = measure._with_memory(head, subject, LrqkConfig(), 503)
    assert found.peak_reserved_bytes == 7 << 30
    assert found.driver_bytes == (None if free_before is None else 1 << 30)
    expected = estimate(spec, LrqkConfig(), 503, "bfloat16")
    if mode == "dense-eager":
        assert (found.predicted_device_bytes, found.predicted_total_bytes) == (None, None)
    else:
        assert found.predicted_device_bytes == expected.allocated
        assert found.predicted_total_bytes == expected.total
        assert "predicted GiB" in table.table([found]).columns
        notes = table.notes([found], Bandwidth(1.0, 1.0), random_weights=False)
        assert any("peak_reserved_bytes" in note for note in notes)
