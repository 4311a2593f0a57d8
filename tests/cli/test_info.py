"""``lrqk info`` and ``lrqk bench`` through the entry point; what is stated is what is allocated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from allocated import device_kv_bytes, sliding_bytes

from lrqk_cli.__main__ import main
from lrqk_cli.attention import layer_list
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.cli import footprint_view
from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import budget, machine
from lrqk_cli.memory.estimate import estimate, transient_bytes
from lrqk_cli.models import catalog, loading, shapes


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("alias", catalog.catalog())
@pytest.mark.parametrize("mode", ["lrqk", "dense", "offload"])
def test_stated_bytes_are_the_allocated_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, alias: str, mode: str
) -> None:
    """For every model of the catalog, from its entry alone: nothing is fetched."""
    monkeypatch.setenv("LRQK_HOT", "512")  # an option would be refused in modes without a hot set
    flags = ["--ctx", "2k", "--attention", mode, "--dtype", "bfloat16", "--device", "cpu"]
    report = json.loads(output_of(capsys, "info", "--model", alias, *flags, "--json"))
    _, spec = loading.load_spec(loading.resolve(alias))
    settings = LrqkConfig(attention=mode, hot=512, top_k=128)
    cache = LrqkCache(spec, settings, 2048, torch.bfloat16, torch.device("cpu"))
    device = report["device_memory"]
    assert report["host_memory"]["kv_rows"] == layer_list.host_kv_bytes(cache.attention_layers)
    assert device["kv_rows"] == device_kv_bytes(cache)
    assert device["index"] == layer_list.index_bytes(cache.attention_layers)
    assert device["hot_rows"] == layer_list.hot_bytes(cache.attention_layers)
    assert device["sliding_windows"] == sliding_bytes(cache)
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


def test_every_item_of_an_estimate_has_a_label() -> None:
    _, spec = loading.load_spec(loading.resolve("qwen2.5-coder-0.5b"))
    shape = spec, LrqkConfig(), 16384, "bfloat16"
    assert {*estimate(*shape).items, *transient_bytes(*shape), "total"} == set(footprint_view._ITEMS)


@pytest.mark.model
def test_bench_measures_a_model_of_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    modes = ["lrqk", "dense", "offload"]
    flags = [
        "--modes",
        ",".join(modes),
        "--ctx",
        "128",
        "--new-tokens",
        "3",
        "--repeat",
        "1",
        "--hot",
        "64",
        "--output",
        "json",
        "--quiet",
        # Many processors compute it faster than 16 bits.
        "--dtype",
        "float32",
    ]
    report = json.loads(output_of(capsys, "bench", "--model", "smollm2-135m", *flags))
    assert [result["mode"] for result in report["results"]] == modes
    for result in report["results"]:
        assert len(result["decode_samples_ms"]) == 3
        assert result["prefill_tokens_per_s"] > 0
    assert report["results"][0]["miss_rate"] < 1.0
    assert report["results"][2]["miss_rate"] == 1.0


def shown_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = output_of(capsys, "info", *arguments)
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    return shown


def test_settings_follow_from_the_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model", "llama-3.1-8b", "--ctx", "128k", "--vram", "24GiB", "--ram", "32GiB"]
    flags += ["--dtype", "bfloat16"]
    report = json.loads(output_of(capsys, "info", *flags, "--json"))
    assert report["attention"]["attention"] == "lrqk"
    assert report["device_memory"]["total"] <= report["budget"] == 24 << 30
    assert report["longest_context"] == 131072
    assert report["full_attention_device_memory"] > report["budget"]
    cards = {(cell["device_bytes"] >> 30, cell["ctx"]): cell for cell in report["cards"]}
    assert len(cards) == 42
    assert (cards[24, 8192]["attention"], cards[24, 8192]["weights"]) == ("dense", "bf16")
    assert (cards[8, 8192]["attention"], cards[8, 8192]["weights"]) == ("dense", "q4")
    assert cards[6, 8192]["attention"] is cards[6, 8192]["weights"] is None
    shown = shown_at_80_columns(capsys, monkeypatch, *flags)
    bar = next(line for line in shown.splitlines() if line.startswith("[#"))
    assert len(bar) == 62
    assert f"--hot {report['attention']['hot']} " in shown
    assert "As many hot rows as are worth reading." in shown


@pytest.fixture
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, whose CPU does not multiply bfloat16, with little memory."""
    found = machine.Machine("cpu", None, None, None, has_bfloat16=False, bandwidth=None)
    monkeypatch.setattr(machine, "detect_machine", lambda _=None: found)
    monkeypatch.setattr(budget, "free_host_bytes", lambda **_: 6 << 30)


@pytest.mark.usefixtures("slow_cpu")
def test_a_card_is_planned_for_in_16_bits_whatever_this_machine_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model", "llama-3.1-8b", "--ctx", "128k", "--vram", "24GiB"]
    report = json.loads(output_of(capsys, "info", *flags, "--json"))
    assert (report["dtype"], report["cards_dtype"]) == ("bfloat16", "bfloat16")
    assert report["longest_context"] == 131072
    shown = shown_at_80_columns(capsys, monkeypatch, *flags)
    assert "In host memory: 16.0 GiB of KV rows. This machine has 5.25 GiB for them." in shown
    assert "in bfloat16:" in shown
    with pytest.raises(SystemExit) as stop:
        main(["info", *flags, "--dtype", "float32", "--weights", "bf16"])
    assert stop.value.code == 5


def test_experts_may_stay_in_host_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model", "qwen3-30b-a3b", "--ctx", "32k", "--vram", "8GiB"]
    with pytest.raises(SystemExit) as stop:
        main(["info", *flags])
    assert stop.value.code == 5
    assert "--offload-weights" in capsys.readouterr().err
    report = json.loads(output_of(capsys, "info", *flags, "--offload-weights", "--json"))
    assert report["weights"] == "q4"
    assert report["device_memory"]["total"] <= 8 << 30
    assert report["host_memory"]["weights"] > 15 << 30
    # The link's bandwidth is not known here.
    assert report["predicted"] is None
    shown = shown_at_80_columns(capsys, monkeypatch, *flags, "--offload-weights")
    assert " GiB of experts." in shown
    assert "^: with the experts in host memory." in shown
    card = output_of(capsys, "info", "--vram", "8GiB", "--offload-weights", "--weights", "q4")
    assert "q4^" in card


@pytest.mark.usefixtures("slow_cpu")
def test_the_table_of_cards_is_in_16_bits_beside_a_cpu_in_32(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "llama-3.1-8b", "--ctx", "128k", "--json"]
    report = json.loads(output_of(capsys, "info", *flags))
    assert (report["dtype"], report["cards_dtype"]) == ("float32", "bfloat16")
    assert report["device_memory"]["weights"] == 4 * report["parameters"]
    assert {cell["attention"] for cell in report["cards"]} == {None, "dense", "lrqk"}
    wide = json.loads(output_of(capsys, "info", *flags, "--dtype", "float32"))
    assert wide["cards_dtype"] == "float32"
    assert {cell["weights"] for cell in wide["cards"]} == {None, "q8", "q4"}


def test_a_card_alone_shows_what_fits_on_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def longest(*flags: str) -> dict[str, int]:
        report = json.loads(output_of(capsys, "info", *flags, "--json"))
        return {model["name"]: model["longest_context"] for model in report["models"]}

    found = longest("--vram", "8GiB")
    # A shape of unknown layout takes seconds to describe.
    plain = [name for name, shape in shapes.shapes().items() if shape["model_type"] != "qwen3_5_text"]
    assert list(found) == [*catalog.catalog(), *plain]
    assert found["qwen2.5-14b"] == 0
    assert found["llama-3.1-8b"] == 131072
    assert longest("--vram", "8GiB", "--weights", "bf16")["llama-3.1-8b"] == 0
    flags = ["--model", "llama-3.2-3b", "--ctx", "8k", "--vram", "8GiB", "--json"]
    assert found["llama-3.2-3b"] == json.loads(output_of(capsys, "info", *flags))["longest_context"]
    wide = longest("--vram", "8GiB", "--dtype", "float32", "--weights", "bf16")
    assert wide["llama-3.2-3b"] == 0
    assert 0 < longest("--vram", "8GiB", "--ram", "2GiB")["llama-3.2-3b"] < found["llama-3.2-3b"]
    full = longest("--vram", "8GiB", "--attention", "dense")["llama-3.2-3b"]
    report = json.loads(output_of(capsys, "info", "--vram", "8GiB", "--json"))
    assert {model["weights"] for model in report["models"]} == {"gguf", "bf16", "q8", "q4"}
    rows = {model["name"]: model for model in report["models"]}
    assert rows["llama-3.2-3b"]["longest_full_attention"] == full < found["llama-3.2-3b"]
    shown = shown_at_80_columns(capsys, monkeypatch, "--vram", "8GiB")
    assert "on a card of 8.00 GiB, in bfloat16" in shown


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--ctx", "64k"], "--ctx"),
        (["--ram", "8GiB"], "--ram"),
        (["--hot", "2k"], "--hot"),
        (["--dtype", "float32"], "--dtype"),
        (["--vram", "24GiB", "--ctx", "64k"], "--ctx"),
        (["--vram", "24GiB", "--device", "cpu"], "--device"),
    ],
)
def test_what_would_not_act_without_a_model_is_refused(
    capsys: pytest.CaptureFixture[str], flags: list[str], word: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["info", *flags])
    output = capsys.readouterr()
    assert (stop.value.code, output.out) == (2, "")
    assert f"Error: {word} has no meaning without --model" in output.err
    assert f"leave {word} out" in output.err


def test_what_was_asked_for_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRQK_RANK", "32")
    flags = ["--model", "llama-3.1-8b", "--vram", "24GiB", "--ram", "64GiB", "--dtype", "bfloat16"]
    report = json.loads(output_of(capsys, "info", *flags, "--hot", "2048", "--json"))
    assert (report["attention"]["hot"], report["attention"]["rank"]) == (2048, 32)
    assert report["attention"]["attention"] == "lrqk"


def test_what_does_not_fit_is_refused_with_what_does(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "qwen3-4b", "--ctx", "40k", "--vram", "10GiB", "--ram", "2GiB"]
    flags += ["--dtype", "bfloat16", "--weights", "bf16"]
    with pytest.raises(SystemExit) as stop:
        main(["info", *flags])
    assert stop.value.code == 5
    error = capsys.readouterr().err
    assert "needs at least" in error
    assert "Choose --ctx" in error


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only torch knows the machine")
@pytest.mark.parametrize(
    "asked",
    [
        "--model llama-3.1-8b --ctx 64k --device cpu",
        "--model llama-3.1-8b --vram 24GiB --ram 64GiB --device cpu",
        "--model qwen2.5-coder-0.5b --device cpu --json",
        "--vram 12GiB",
    ],
)
def test_a_model_is_described_without_torch(asked: str) -> None:
    """Which is why it takes less than a second."""
    program = (
        "import sys\nfrom lrqk_cli.__main__ import main\n"
        f"try: main('info {asked}'.split())\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_folder_is_described_by_its_config_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = {**shapes.shapes()["llama-3.2-1b"], "torch_dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = json.loads(output_of(capsys, "info", "--model", str(tmp_path), "--ctx", "8k", "--json"))
    assert report["parameters"] == 1_235_814_400


@pytest.mark.parametrize(
    ("config", "code"), [("{", 4), ('{"model_type": "no-such-model"}', 4), ('{"model_type": "mamba"}', 4)]
)
def test_a_config_that_cannot_be_served_is_a_plain_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: str, code: int
) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(SystemExit) as stop:
        main(["info", "--model", str(tmp_path), "--ctx", "8k"])
    assert stop.value.code == code
    assert "Traceback" not in capsys.readouterr().err
