"""``lrqk info``: this machine and the catalog, or what a model and a context take."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrqk_cli.cli import method, options
from lrqk_cli.config import LrqkConfig, default_top_k

if TYPE_CHECKING:
    from lrqk_cli.config import ModelSpec

_SETTINGS = LrqkConfig()

Model = Annotated[
    str | None,
    options.option(
        "--model", help="What to describe; without it, this machine.", panel=options.MODEL, metavar="MODEL"
    ),
]


def info(
    model: Model = None,
    ctx: options.Context = None,
    attention: options.Attention = _SETTINGS.attention,
    rank: options.Rank = _SETTINGS.rank,
    index_bits: options.IndexBits = _SETTINGS.index_bits,
    hot: options.Hot = _SETTINGS.hot,
    top_k: options.TopK = None,
    recent: options.Recent = _SETTINGS.recent,
    solver: method.Solver = _SETTINGS.solver,
    grouping: method.Grouping = _SETTINGS.grouping,
    hot_policy: method.Policy = _SETTINGS.hot_policy,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    as_json: options.Json = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Show this machine; with --model, the memory that a model and a context take, from its config alone."""
    settings = LrqkConfig(
        attention,
        rank,
        index_bits,
        hot,
        top_k or default_top_k(hot),
        recent,
        solver=solver,
        grouping=grouping,
        hot_policy=hot_policy,
    )
    if model is None:
        report: dict[str, Any] = {"machine": _machine(device), "models": _models()}
    else:
        report = _footprint(model, ctx, settings, device, None if dtype == "auto" else dtype)
    if as_json:
        from lrqk_cli.chat.report import to_json

        typer.echo(to_json(report))
    elif model is None:
        _print_machine(report)
    else:
        _print_footprint(report)


def _machine(device: str | None) -> dict[str, Any]:
    import torch

    from lrqk_cli.memory import probe
    from lrqk_cli.models.devices import choose_device, choose_dtype

    chosen = choose_device(device)
    on_gpu = chosen.type == "cuda"
    return {
        "device": str(chosen),
        "device_name": torch.cuda.get_device_name(chosen) if on_gpu else None,
        "device_bytes": probe.total_device_bytes(chosen),
        "device_free_bytes": probe.free_device_bytes(chosen),
        "host_bytes": probe.total_host_bytes(),
        "host_free_bytes": probe.free_host_bytes(),
        "dtype": str(choose_dtype(None, chosen)).removeprefix("torch."),
        "versions": {name: _version(name) for name in ("lrqk", "torch", "transformers", "triton")},
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _models() -> list[dict[str, Any]]:
    from lrqk_cli.models import store

    return [
        {
            "name": stored.entry.alias,
            "context": stored.entry.context,
            "download_bytes": stored.entry.size_bytes,
            "pulled": stored.pulled,
        }
        for stored in store.list_models()
    ]


def _footprint(
    model: str, ctx: int | None, settings: LrqkConfig, device: str | None, dtype: str | None
) -> dict[str, Any]:
    import torch

    from lrqk_cli.chat.opening import reserved_context
    from lrqk_cli.memory import accounting
    from lrqk_cli.models.devices import choose_device, choose_dtype
    from lrqk_cli.models.loading import load_spec, resolve

    config, spec = load_spec(resolve(model))
    context = reserved_context(ctx, spec)
    published = config.dtype if isinstance(config.dtype, torch.dtype) else None
    name = str(choose_dtype(dtype, choose_device(device), published)).removeprefix("torch.")
    kv = accounting.kv_bytes(spec, settings, context, name)
    weights = accounting.weight_bytes(spec, name)
    return {
        "model": model,
        "architecture": spec.architecture,
        "parameters": spec.num_parameters,
        "shape": _shape(spec),
        "ctx": context,
        "dtype": name,
        "attention": asdict(settings),
        "device_memory": {
            "weights": weights,
            "kv_rows": kv.device_kv,
            "index": kv.index,
            "hot_rows": kv.hot,
            "sliding_windows": kv.sliding,
            "bookkeeping": kv.bookkeeping,
            "total": weights + kv.device,
        },
        "host_memory": {"kv_rows": kv.host_kv},
        "full_attention_device_memory": weights + kv.full_attention,
    }


def _shape(spec: ModelSpec) -> dict[str, Any]:
    return {
        "layers": spec.num_layers,
        "full_attention_layers": spec.num_full_layers,
        "heads": spec.num_heads,
        "kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "max_context": spec.max_context,
        "trained_context": spec.trained_context,
    }


_ITEMS = {
    "weights": "Weights",
    "kv_rows": "KV rows of all tokens",
    "index": "Low-rank index",
    "hot_rows": "Hot rows and recent window",
    "sliding_windows": "Sliding windows",
    "bookkeeping": "Tables and factors",
    "total": "Together",
}


def _print_footprint(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lrqk_cli.chat.rendering import format_bytes

    shape = report["shape"]
    console = Console(highlight=False)
    console.print(
        f"{report['model']}: {report['architecture']}, {report['parameters']:,} parameters, "
        f"{shape['layers']} layers ({shape['full_attention_layers']} full attention), "
        f"{shape['heads']} heads, {shape['kv_heads']} KV heads of {shape['head_dim']}"
    )
    console.print(
        f"{report['ctx']:,} tokens of at most {shape['max_context']:,}, {report['dtype']}, "
        f"--attention {report['attention']['attention']}\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("on the device")
    table.add_column("memory", justify="right")
    for key, label in _ITEMS.items():
        size = report["device_memory"][key]
        if size:
            table.add_row(label, format_bytes(size), style="bold" if key == "total" else None)
    table.add_section()
    table.add_row("Full attention instead", format_bytes(report["full_attention_device_memory"]))
    console.print(table)
    console.print(f"\nIn host memory: {format_bytes(report['host_memory']['kv_rows'])} of KV rows.")
    console.print("Not counted: activations of a segment, and what the allocator and the driver take.")


def _print_machine(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lrqk_cli.chat.rendering import format_bytes

    machine = report["machine"]
    grid = Table.grid(padding=(0, 2))
    name = f" ({machine['device_name']})" if machine["device_name"] else ""
    grid.add_row("Device", f"{machine['device']}{name}, computing in {machine['dtype']}")
    grid.add_row("Device memory", _free_of(machine["device_free_bytes"], machine["device_bytes"]))
    grid.add_row("Host memory", _free_of(machine["host_free_bytes"], machine["host_bytes"]))
    for package, found in machine["versions"].items():
        grid.add_row(package, found or "not installed")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    table.add_column("context", justify="right")
    table.add_column("download", justify="right")
    table.add_column("here")
    for model in report["models"]:
        here = "yes" if model["pulled"] else "no"
        table.add_row(model["name"], f"{model['context']:,}", format_bytes(model["download_bytes"]), here)
    console = Console(highlight=False)
    console.print(grid)
    console.print()
    console.print(table)


def _free_of(free: int, total: int) -> str:
    from lrqk_cli.chat.rendering import format_bytes

    return f"{format_bytes(free)} free of {format_bytes(total)}"
