"""``lrqk info`` and ``lrqk bench`` through the entry point; what is stated is what is allocated."""

from __future__ import annotations

import json

import pytest
import torch

from lrqk_cli.__main__ import main
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.config import LrqkConfig
from lrqk_cli.models import catalog, loading


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("alias", catalog.catalog())
@pytest.mark.parametrize("mode", ["lrqk", "dense", "offload"])
def test_stated_bytes_are_the_allocated_ones(
    capsys: pytest.CaptureFixture[str], alias: str, mode: str
) -> None:
    """For every model of the catalog, from its entry alone: nothing is fetched."""
    flags = ["--ctx", "2k", "--attention", mode, "--hot", "512", "--dtype", "bfloat16", "--device", "cpu"]
    report = json.loads(output_of(capsys, "info", "--model", alias, *flags, "--json"))
    _, spec = loading.load_spec(loading.resolve(alias))
    settings = LrqkConfig(attention=mode, hot=512, top_k=128)
    cache = LrqkCache(spec, settings, 2048, torch.bfloat16, torch.device("cpu"))
    device = report["device_memory"]
    assert report["host_memory"]["kv_rows"] == cache.host_kv_bytes
    assert device["kv_rows"] == cache.device_kv_bytes
    assert device["index"] == cache.index_bytes
    assert device["hot_rows"] == cache.hot_bytes
    assert device["sliding_windows"] == cache.sliding_bytes
    assert device["total"] == sum(size for name, size in device.items() if name != "total")
    assert report["attention"]["top_k"] == 128


def test_the_machine_and_the_catalog_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(output_of(capsys, "info", "--json"))
    assert report["machine"]["host_bytes"] >= report["machine"]["host_free_bytes"] > 0
    assert [model["name"] for model in report["models"]] == list(catalog.catalog())
    shown = output_of(capsys, "info")
    assert all(name in shown for name in ("Host memory", *catalog.catalog()))


def test_a_model_is_described_in_eighty_columns_without_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = output_of(capsys, "info", "--model", "qwen2.5-coder-0.5b", "--ctx", "16k")
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    assert "16,384 tokens of at most 32,768" in shown
    assert "Full attention instead" in shown


@pytest.mark.model
@pytest.mark.parametrize("alias", catalog.catalog())
def test_bench_measures_every_model_of_the_catalog(capsys: pytest.CaptureFixture[str], alias: str) -> None:
    flags = [
        "--ctx",
        "192",
        "--new-tokens",
        "3",
        "--repeat",
        "1",
        "--hot",
        "64",
        "--output",
        "json",
        "--quiet",
    ]
    report = json.loads(output_of(capsys, "bench", "--model", alias, *flags))
    assert [result["mode"] for result in report["results"]] == ["lrqk", "dense", "offload"]
    for result in report["results"]:
        assert len(result["decode_samples_ms"]) == 3
        assert result["prefill_tokens_per_s"] > 0
    assert report["results"][0]["miss_rate"] < 1.0
    assert report["results"][2]["miss_rate"] == 1.0
