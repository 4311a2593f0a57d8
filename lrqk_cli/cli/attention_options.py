"""The attention options, defined once for all commands that take them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import partial, wraps
from inspect import Signature, signature
from typing import Annotated, Any, Literal

import typer

from lrqk_cli.cli.options import on_command_line, option
from lrqk_cli.cli.values import parse_integer, parse_number, parse_penalties, parse_tokens
from lrqk_cli.config import (
    AlsConfig,
    AlsInit,
    AlsPenalties,
    AttentionMode,
    GroupingMode,
    HotPolicy,
    KvDtype,
    LrqkConfig,
    SolverName,
    TailMode,
    asks,
    default_top_k,
    missing_for,
)
from lrqk_cli.errors import UsageError

_option = partial(option, panel="Attention")
_paper_option = partial(option, panel="The method of the LRQK paper, for comparison")
_DEFAULT = LrqkConfig()

Command = Callable[..., None]


def _config(
    *,
    attention: Annotated[
        Literal["auto", AttentionMode],
        _option(
            "--attention",
            "auto: dense if it fits on the GPU and is not slow, else lrqk; on a CPU lrqk. dense: full "
            "attention, KV cache on the GPU. offload: full attention, KV cache streamed from CPU memory.",
            "MODE",
        ),
    ] = "auto",
    rank: Annotated[int, _option("--rank", "Rank of the index of keys.", "N", parse_integer)] = _DEFAULT.rank,
    index_bits: Annotated[
        Literal[4, 8, 16],
        _option("--index-bits", "Bits of each number in the index.", "4|8|16", parse_integer),
    ] = _DEFAULT.index_bits,
    hot: Annotated[
        int,
        _option(
            "--hot",
            "Size of the hot set: KV rows kept on the GPU for each KV head. Fewer if memory is short.",
            "ROWS",
            parse_tokens,
        ),
    ] = _DEFAULT.hot,
    top_k: Annotated[
        int | None,
        _option(
            "--top-k",
            "Highest-scoring rows that each step needs in the hot set; missing ones are fetched. "
            "(default: a quarter of --hot)",
            "ROWS",
            parse_tokens,
        ),
    ] = None,
    recent: Annotated[
        int, _option("--recent", "Most recent rows, always kept on the GPU as well.", "ROWS", parse_tokens)
    ] = _DEFAULT.recent,
    tail: Annotated[
        TailMode,
        _option(
            "--tail",
            "Rows outside the hot set: linear adds a prediction of what they contribute, mean adds the "
            "mean value, none leaves them out.",
            "MODE",
        ),
    ] = _DEFAULT.tail,
    kv_dtype: Annotated[
        KvDtype,
        _option(
            "--kv-dtype",
            "KV rows in CPU memory and on the disk: bf16 as the model computes them, int8 or fp8 in half the "
            "space.",
            "TYPE",
        ),
    ] = _DEFAULT.kv_dtype,
    lookup: Annotated[
        int,
        _option(
            "--lookup",
            "Tokens that a step may copy from earlier text, where the model would write the same. 0: none.",
            "N",
            parse_integer,
        ),
    ] = _DEFAULT.lookup,
    segment: Annotated[
        int | None,
        _option(
            "--segment",
            "Tokens in each step of prefill. (default: 8192, or fewer to fit; 512 on a CPU)",
            "TOKENS",
            parse_tokens,
        ),
    ] = _DEFAULT.segment,
    solver: Annotated[
        SolverName,
        _paper_option(
            "--solver",
            "How the index is computed. joint: in closed form. als: by the paper's alternating least "
            "squares, updated at every step.",
            "NAME",
        ),
    ] = _DEFAULT.solver,
    grouping: Annotated[
        GroupingMode,
        _paper_option(
            "--grouping", "kv: one index and hot set for each KV head. head: one for each query head.", "MODE"
        ),
    ] = _DEFAULT.grouping,
    hot_policy: Annotated[
        HotPolicy,
        _paper_option(
            "--hot-policy",
            "sticky: keep --hot rows and replace the lowest-scoring. exact: keep the best --top-k only. "
            "refetch: as exact, but fetch all of them at every step.",
            "MODE",
        ),
    ] = _DEFAULT.hot_policy,
    als_init: Annotated[
        AlsInit,
        _paper_option(
            "--als-init",
            "Initial factors of als: randn at random; top or topcol from columns of Q and K.",
            "NAME",
        ),
    ] = _DEFAULT.als.init,
    als_iterations: Annotated[
        int, _paper_option("--als-iterations", "Maximum number of als iterations.", "N", parse_integer)
    ] = _DEFAULT.als.iterations,
    als_tolerance: Annotated[
        float,
        _paper_option(
            "--als-tolerance",
            "als stops once the mean squared change of its factors is below this.",
            "X",
            parse_number,
        ),
    ] = _DEFAULT.als.tolerance,
    als_penalties: Annotated[
        AlsPenalties,
        _paper_option(
            "--als-penalties",
            "Penalty weights of als for Q, K, the new token and the tokens on the GPU. (default: 1,1,1,1)",
            "W,W,W,W",
            parse_penalties,
            show_default=False,
        ),
    ] = _DEFAULT.als.penalties,
) -> LrqkConfig:
    return LrqkConfig(
        attention=_DEFAULT.attention if attention == "auto" else attention,
        rank=rank,
        index_bits=index_bits,
        hot=hot,
        top_k=top_k or default_top_k(hot),
        recent=recent,
        tail=tail,
        kv_dtype=kv_dtype,
        lookup=lookup,
        segment=segment,
        solver=solver,
        grouping=grouping,
        hot_policy=hot_policy,
        als=AlsConfig(als_init, als_iterations, als_tolerance, als_penalties),
    )


_OPTIONS = signature(_config, eval_str=True).parameters
ATTENTION_OPTIONS = frozenset(_OPTIONS)
ALS_OPTIONS = frozenset(name for name in _OPTIONS if name.startswith("als_"))


def setting_of(option: str) -> str:
    """Return the setting of an option's parameter: ``als.init`` of ``als_init``."""
    return option.replace("als_", "als.") if option in ALS_OPTIONS else option


class AttentionChoices:
    """The values of a command's attention options."""

    def __init__(
        self, context: typer.Context, values: Mapping[str, Any], said: Collection[str] | None = None
    ) -> None:
        self._context = context
        self._given = frozenset(on_command_line(context, values))
        self._said = set(filter(self._is_said, values) if said is None else said)
        if values.get("attention") == "auto":
            self._said.discard("attention")
        if values.get("attention") == "dense" and "kv_dtype" not in self._given:
            # It waits for runs with rows in host memory.
            values = {**values, "kv_dtype": _DEFAULT.kv_dtype}
            self._said.discard("kv_dtype")
        self._values = values

    @property
    def config(self) -> LrqkConfig:
        """The settings of options and defaults; under ``--attention auto`` the planner chooses the mode.

        Raises:
            UsageError: the options contradict each other.
        """
        return _config(**self._values)

    @property
    def said(self) -> dict[str, Any]:
        """The fields of ``config`` that the user set: by a flag, a variable or the config file.

        ``--attention auto`` sets none. Whether they contradict each other is left to ``config``.
        """
        said = {name: self._values[name] for name in self._said - ALS_OPTIONS}
        if self._said & ALS_OPTIONS:
            said["als"] = AlsConfig(**{name.removeprefix("als_"): self._values[name] for name in ALS_OPTIONS})
        return {field.name: said[field.name] for field in fields(LrqkConfig) if field.name in said}

    @property
    def asked(self) -> list[str]:
        """The options on the command line that ask for something, see ``config.asks``."""
        config = self.config
        return [name for name in sorted(self._given) if asks(config, setting_of(name))]

    def going_on(self, kept: Mapping[str, Any]) -> AttentionChoices:
        """Return the choices for a conversation that goes on: its own, and those of the command line.

        Args:
            kept: what was ``said`` for it so far.
        """
        own = {name: value for name, value in kept.items() if name != "als"}
        if als := kept.get("als"):
            own |= {f"als_{field.name}": getattr(als, field.name) for field in fields(als)}
        given = {name: self._values[name] for name in self._given}
        defaults = {name: parameter.default for name, parameter in _OPTIONS.items()}
        return AttentionChoices(self._context, {**defaults, **own, **given}, own.keys() | given.keys())

    def refuse_idle(self) -> None:
        """Refuse an option on the command line that another setting makes meaningless.

        In a variable or the config file it may stand for runs in which it acts.

        Raises:
            UsageError: there is one, or the options contradict each other.
        """
        for name in map(setting_of, self.asked):
            if missing := missing_for(self.config, name):
                verb = "Choose" if missing.split("`")[1] in self._given else "Add"
                raise UsageError(
                    f"`{name}` has no meaning without {missing}.",
                    f"{verb} {missing}, or leave `{name}` out.",
                )

    def _is_said(self, name: str) -> bool:
        source = self._context.get_parameter_source(name)
        return source is not None and source.name != "DEFAULT"


def with_attention_options(without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Replace a command's parameter of the type ``AttentionChoices`` by the attention options.

    Args:
        without: parameters of options that the command lacks.
    """
    added = [parameter for name, parameter in _OPTIONS.items() if name not in without]

    def decorate(command: Command) -> Command:
        own = list(signature(command, eval_str=True).parameters.values())
        (at,) = (number for number, parameter in enumerate(own) if parameter.annotation is AttentionChoices)

        @wraps(command)
        def run(context: typer.Context, **values: Any) -> None:
            chosen = {parameter.name: values.pop(parameter.name) for parameter in added}
            command(context, **values, **{own[at].name: AttentionChoices(context, chosen)})

        # typer reads the signature.
        run.__signature__ = Signature([*own[:at], *added, *own[at + 1 :]])  # type: ignore[attr-defined]
        return run

    return decorate
