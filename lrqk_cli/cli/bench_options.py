"""The options of ``lrqk bench`` alone: the measurement and its output."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from lrqk_cli.bench.suite import Suite
from lrqk_cli.cli.options import model_option, option, output_option
from lrqk_cli.cli.values import parse_bytes, parse_integer, parse_tokens
from lrqk_cli.errors import UsageError, flag

Output = Literal["table", "md", "json", "csv"]
SuiteName = Literal["speed", "ruler", "fidelity"]

_option = partial(option, panel="Measurement")

SuiteOption = Annotated[
    SuiteName,
    _option(
        "--suite",
        help="speed; fidelity: distance from full attention; ruler: the 13 tasks of RULER, scored.",
        metavar="SUITE",
    ),
]
Contexts = Annotated[
    str,
    _option(
        "--ctx",
        help="Context lengths in tokens, such as 4k,16k; in speed, lengths of the prompts.",
        metavar="TOKENS,…",
    ),
]
Modes = Annotated[
    str | None,
    _option(
        "--modes",
        help="speed: lrqk, dense, dense-eager, offload, paper, paper-no-hit-miss. "
        "fidelity: lrqk, resident (lrqk with all rows on the GPU), paper. "
        "ruler: lrqk, resident, paper, dense, offload.",
        metavar="MODE,…",
    ),
]
NewTokens = Annotated[
    int,
    _option(
        "--new-tokens",
        help="speed, fidelity: tokens to decode after each prefill.",
        parse=parse_tokens,
        metavar="N",
    ),
]
Repeat = Annotated[
    int,
    _option("--repeat", help="speed: number of runs to average.", parse=parse_integer, metavar="N"),
]
Shape = Annotated[
    str | None,
    model_option(
        "--shape",
        help="speed: measure a published model's shape with random weights, such as llama-3.1-8b.",
        metavar="NAME",
    ),
]
MemoryCap = Annotated[
    int | None,
    _option(
        "--memory-cap",
        help="speed: limit of the GPU memory that mode lrqk may allocate, such as 24GiB; others have none.",
        parse=parse_bytes,
        metavar="BYTES",
    ),
]
Text = Annotated[
    Path | None,
    _option(
        "--text",
        help="speed, fidelity: text file to measure on. (default: generated sentences, easier than prose)",
        metavar="PATH",
    ),
]
Tasks = Annotated[
    str | None,
    _option(
        "--tasks",
        help="ruler: its tasks, such as niah_single_1,vt (default: all). fidelity: text (default) and these.",
        metavar="TASK,…",
    ),
]
Samples = Annotated[
    int,
    _option("--samples", help="fidelity, ruler: prompts per task.", parse=parse_integer, metavar="N"),
]
Turns = Annotated[
    int,
    _option(
        "--turns",
        help="fidelity: turns of a conversation, each measured separately.",
        parse=parse_integer,
        metavar="N",
    ),
]
Vary = Annotated[
    list[str],
    _option(
        "--vary",
        help="fidelity, ruler: also measure with one setting changed, such as top-k=512,1024. Repeat for "
        "more.",
        metavar="NAME=V,…",
    ),
]
Layers = Annotated[
    bool,
    _option(
        "--layers",
        help="fidelity: also measure the attention mass and the output error of each layer. Slow.",
        metavar="",
    ),
]
Haystack = Annotated[
    Path | None,
    _option(
        "--haystack",
        help="RULER tasks: text to hide the needles in. (default: generated sentences)",
        metavar="PATH",
    ),
]
QaData = Annotated[
    list[Path],
    _option(
        "--qa-data",
        help="RULER tasks: questions in SQuAD format (qa_1) or HotpotQA format (qa_2). Repeat for both.",
        metavar="PATH",
    ),
]
Seed = Annotated[
    int,
    _option("--seed", help="RULER tasks: random seed of the prompts.", parse=parse_integer, metavar="N"),
]
Plot = Annotated[
    Path | None,
    output_option(
        "--plot",
        help="Also draw a chart as .svg or .png: decode speed over context, or quality over GPU memory.",
        metavar="PATH",
    ),
]
Format = Annotated[
    Output,
    output_option("--output", help="Output format: table, md, json or csv.", metavar="FORMAT"),
]


def chosen_shape(suite: Suite, shape: str | None) -> str | None:
    """Return the shape to measure; None for a model.

    Raises:
        UsageError: the command line has a shape with a model, or with a text, which needs a tokenizer.
    """
    if shape is None or "shape" not in suite.options:
        return None
    others = sorted(suite.asked.given & {"model", "text"})
    if "shape" not in suite.asked.given:  # a flag overrides a variable and the config file
        return None if others else shape
    for name in others:
        raise UsageError(f"--shape and {flag(name)} exclude each other.", "Leave one of them out.")
    return shape
