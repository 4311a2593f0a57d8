"""Commands that show or change settings and the model."""

from __future__ import annotations

from dataclasses import fields, replace

from lrqk_cli.config import THINK_WORDS, GenerationConfig, LrqkConfig
from lrqk_cli.errors import UsageError, did_you_mean
from lrqk_cli.naming import COMMAND_LINE, Surface
from lrqk_cli.terminal.command_context import ChatExit, CommandContext
from lrqk_cli.terminal.commands.registry import Command

_INTEGERS = ("max-new-tokens", "sample-top-k", "seed", "think", "top-k")
_NONE: dict[str, int | None] = {"none": None}
# Values that are no numbers.
_WORDS = {"max-new-tokens": _NONE, "seed": _NONE, "think": THINK_WORDS}
_NUMBERS = ("temperature", "top-p", "repetition-penalty")
SAMPLING = tuple(field.name.replace("_", "-") for field in fields(GenerationConfig))
HOT_SET = ("top-k", "tail")
# What no command changes is an option.
IN_A_CHAT = Surface(
    {
        **COMMAND_LINE.names,
        **{name.replace("-", "_"): f"/set {name}" for name in (*SAMPLING, *HOT_SET)},
        **{name: f"/{name}" for name in ("file", "model", "pages", "undo")},
        "prompt": "",
    },
    note="Options are given when a chat starts.",
)
_FIXED = tuple(name for field in fields(LrqkConfig) if (name := field.name.replace("_", "-")) not in HOT_SET)


def parse_value(name: str, text: str) -> int | float | str | None:
    """Read the value of a setting.

    Raises:
        UsageError: the setting needs a number and the text is none.
    """
    words = _WORDS.get(name, {})
    if text in words:
        return words[text]
    try:
        if name in _INTEGERS:
            return int(text.replace(",", ""))
        return float(text) if name in _NUMBERS else text
    except ValueError:
        hint = "Write " + "".join(f"{word}, " for word in words) + "or " * bool(words) + "a number."
        raise UsageError(f"'{text}' is no value for {name}.", hint) from None


def _set(ctx: CommandContext, argument: str) -> None:
    name, _, text = argument.partition(" ")
    name = name.lower().replace("_", "-")
    if not argument:
        _show_all(ctx)
        return
    if ctx.config is None and name in (*HOT_SET, *_FIXED):
        raise UsageError(f"{name} is set on the server.", "/set alone shows what can be set here.")
    known = SAMPLING if ctx.config is None else (*SAMPLING, *HOT_SET)
    if name not in known and name not in _FIXED:
        raise UsageError(f"There is no setting '{name}'.", did_you_mean(name, known))
    if name in _FIXED and text.strip():
        raise UsageError(
            f"{name} cannot change while the conversation goes on: the cache was made for it.",
            f"/save the conversation, start again with --{name}, and /load it.",
        )
    if text.strip():
        _change(ctx, name, text.strip())
    ctx.say(f"{name} {_value(ctx, name)}")
    if name == "think":
        # Some templates say in the system text, which stands before the documents, whether to reason.
        ctx.say_what_is_unread()


def _change(ctx: CommandContext, name: str, text: str) -> None:
    change = {name.replace("-", "_"): parse_value(name, text)}
    if name in SAMPLING:
        ctx.session.set_generation(replace(ctx.session.generation, **change))  # type: ignore[arg-type]
    elif ctx.config is not None:
        ctx.session.adjust(replace(ctx.config, **change))  # type: ignore[arg-type]
        ctx.chat_session.wanted = {**ctx.chat_session.wanted, **change}


def _value(ctx: CommandContext, name: str) -> object:
    if name == "attention" and ctx.attention == "auto" and ctx.config is not None:
        return f"auto, which chose {ctx.config.attention}"
    owner = ctx.session.generation if name in SAMPLING else ctx.config
    value = getattr(owner, name.replace("-", "_"))
    words = {meaning: word for word, meaning in _WORDS.get(name, _NONE).items()}
    return words.get(value, value)


def _show_all(ctx: CommandContext) -> None:
    names = SAMPLING if ctx.config is None else (*SAMPLING, *HOT_SET, "attention")
    values = {name: _value(ctx, name) for name in names}
    width = max(map(len, values))
    for name, value in values.items():
        ctx.say(f"{name:<{width}}  {value}")


def _model(ctx: CommandContext, argument: str) -> None:
    if not argument or argument == ctx.model:
        ctx.say(f"The model is {ctx.model}.")
        return
    saved = ctx.archive()
    ctx.look_up(argument, saved, ctx.session)
    ctx.chat_exit = ChatExit(argument, saved)


COMMANDS = (
    Command("/set", "Show the settings, or change one.", _set, "[NAME VALUE]", "setting"),
    Command(
        "/model",
        "Show the model, or go on with another.",
        _model,
        "[NAME]",
        "model",
    ),
)
