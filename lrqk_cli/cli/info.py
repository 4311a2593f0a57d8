"""``lrqk info``: this machine and the catalog, or the memory that a model and a context need."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lrqk_cli.chat.printable import to_json
from lrqk_cli.cli import footprint, options
from lrqk_cli.cli.attention_options import ALS_OPTIONS, AttentionChoices, with_attention_options
from lrqk_cli.cli.failures import warn_of_transformers
from lrqk_cli.cli.footprint_view import print_card, print_footprint
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.memory.footprint import FootprintRequest
from lrqk_cli.memory.units import format_bytes
from lrqk_cli.terminal.console import stdout_console
from lrqk_cli.upstream import installed_version

Model = Annotated[
    str | None,
    options.model_option(
        "--model",
        "Model to describe: as for chat, or the name of a published one, such as llama-3.1-8b.",
        "MODEL",
    ),
]
Context = Annotated[int | None, options.context_length("the model's limit")]
Dtype = Annotated[
    options.DType, options.data_type("which is bfloat16 with --vram and what suits the device without")
]
Vram = Annotated[
    int | None,
    options.memory_size(
        "--vram",
        "Memory of the card to plan for, such as 24GiB. (default: what is free on this machine's GPU)",
    ),
]
Ram = Annotated[
    int | None,
    options.memory_size(
        "--ram",
        "CPU memory to plan for. (default: no limit with --vram, else seven eighths of what is free)",
    ),
]
# The options that act without a model or a card.
_OF_THE_MACHINE = frozenset({"device", "as_json", "debug"})


@with_attention_options(without=ALS_OPTIONS)
def info(
    context: typer.Context,
    *,
    model: Model = None,
    ctx: Context = None,
    vram: Vram = None,
    ram: Ram = None,
    attention: AttentionChoices,
    device: options.Device = None,
    dtype: Dtype = "auto",
    weights: options.Weights = "auto",
    offload_weights: options.OffloadWeights = False,
    as_json: options.Json = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Show this machine, or what a model needs (--model), or which models fit a card (--vram)."""
    warn_of_transformers()
    attention.refuse_idle()
    config, wanted = attention.config, attention.said
    number_format = None if dtype == "auto" else dtype
    if model is not None:
        asked = FootprintRequest(
            model, ctx, config, wanted, device, number_format, vram, ram, weights, offload_weights
        )
        taken = footprint.of_model(asked)
        plain, show = asdict(taken), partial(print_footprint, taken)
    elif vram is not None:
        options.refuse_without(context, {"ctx", "device"}, "--model")
        fitting = footprint.of_card(vram, ram, number_format, weights, wanted, may_offload=offload_weights)
        plain, show = asdict(fitting), partial(print_card, fitting)
    else:
        options.refuse_without(context, context.params.keys() - _OF_THE_MACHINE, "--model or --vram")
        plain = {"machine": _machine(device), "models": _models()}
        show = partial(_print_machine, plain)
    if as_json:
        typer.echo(to_json(plain, indent=2))
    else:
        show(stdout_console())


def _machine(device: str | None) -> dict[str, Any]:
    import torch

    from lrqk_cli.memory import probe
    from lrqk_cli.memory.limits import free_host_bytes
    from lrqk_cli.models.devices import choose_device, choose_dtype

    chosen = choose_device(device)
    on_gpu = chosen.type == "cuda"
    return {
        "device": str(chosen),
        "device_name": torch.cuda.get_device_name(chosen) if on_gpu else None,
        "device_bytes": probe.total_device_bytes(chosen),
        "device_free_bytes": probe.free_device_bytes(chosen),
        "link_bytes_per_s": probe.link_bandwidth(chosen),
        "host_bytes": probe.total_host_bytes(),
        "host_free_bytes": free_host_bytes(),
        "dtype": dtype_name(choose_dtype(None, chosen)),
        "versions": {name: installed_version(name) for name in ("lrqk", "torch", "transformers", "triton")},
    }


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


def _print_machine(report: dict[str, Any], console: Console) -> None:
    machine = report["machine"]
    grid = Table.grid(padding=(0, 2))
    name = f" ({machine['device_name']})" if machine["device_name"] else ""
    grid.add_row("Device", f"{machine['device']}{name}, computing in {machine['dtype']}")
    grid.add_row("Device memory", _free_of(machine["device_free_bytes"], machine["device_bytes"]))
    grid.add_row("Host memory", _free_of(machine["host_free_bytes"], machine["host_bytes"]))
    if machine["link_bytes_per_s"]:
        grid.add_row("From host memory", f"{machine['link_bytes_per_s'] / 1e9:.1f} GB/s, measured")
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
    console.print(grid)
    console.print()
    console.print(table)


def _free_of(free: int, total: int) -> str:
    return f"{format_bytes(free)} free of {format_bytes(total)}"
