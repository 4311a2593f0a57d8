"""The options of ``lrqk bench`` alone: the measurement and its output."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from lrqk_cli.bench.suite import Suite
from lrqk_cli.cli.options import model_option, option, output_option
from lrqk_cli.cli.values import parse_bytes, parse_integer, parse_tokens
from lrqk_cli.errors import UsageError
from lrqk_cli.naming import flag

Output = Literal["table", "md", "json", "csv"]
SuiteName = Literal["speed", "ruler", "fidelity", "qa", "lookup"]

_option = partial(option, panel="Measurement")

SuiteOption = Annotated[
    SuiteName,
    _option(
        "--suite",
        "speed; fidelity: distance from full attention; ruler: the 13 tasks of RULER, scored; qa: questions "
        "about documents, scored; lookup: speed with and without --lookup.",
        "SUITE",
    ),
]
Contexts = Annotated[
    str,
    _option(
        "--ctx", "Context lengths in tokens, such as 4k,16k; in speed, lengths of the prompts.", "TOKENS,…"
    ),
]
Modes = Annotated[
    str | None,
    _option(
        "--modes",
        "speed: lrqk, dense, dense-eager, offload, paper, paper-no-hit-miss. "
        "fidelity: lrqk, resident (lrqk with all rows on the GPU), paper. "
        "ruler: lrqk, resident, paper, dense, offload. lookup: lrqk, resident.",
        "MODE,…",
    ),
]
NewTokens = Annotated[
    int,
    _option(
        "--new-tokens",
        "speed, fidelity: tokens to decode after each prefill. lookup: tokens of an answer, at most (256).",
        "N",
        parse_tokens,
    ),
]
Repeat = Annotated[int, _option("--repeat", "speed: number of runs to average.", "N", parse_integer)]
Shape = Annotated[
    str | None,
    model_option(
        "--shape",
        "speed: measure a published model's shape with random weights, such as llama-3.1-8b.",
        "NAME",
    ),
]
MemoryCap = Annotated[
    int | None,
    _option(
        "--memory-cap",
        "speed: limit of the GPU memory that mode lrqk may allocate, such as 24GiB; others have none.",
        "BYTES",
        parse_bytes,
    ),
]
Text = Annotated[
    Path | None,
    _option(
        "--text",
        "speed, fidelity: text file to measure on. (default: generated sentences, easier than prose)",
        "PATH",
    ),
]
Tasks = Annotated[
    str | None,
    _option(
        "--tasks",
        "ruler: its tasks, such as niah_single_1,vt (default: all). fidelity: text (default) and these.",
        "TASK,…",
    ),
]
Samples = Annotated[
    int,
    _option(
        "--samples", "fidelity, ruler: prompts per task. qa: documents per file, at most.", "N", parse_integer
    ),
]
Turns = Annotated[
    int,
    _option("--turns", "fidelity: turns of a conversation, each measured separately.", "N", parse_integer),
]
Vary = Annotated[
    list[str],
    _option(
        "--vary",
        "fidelity, ruler, qa: also measure with a setting changed, such as top-k=512,1024. Repeat for more.",
        "NAME=V,…",
    ),
]
Layers = Annotated[
    bool,
    _option(
        "--layers", "fidelity: also measure the attention mass and the output error of each layer. Slow."
    ),
]
Haystack = Annotated[
    Path | None,
    _option(
        "--haystack",
        "RULER tasks: text to hide the needles in. lookup: text to copy from. (default: generated sentences)",
        "PATH",
    ),
]
QaData = Annotated[
    list[Path],
    _option(
        "--qa-data",
        "qa: documents with questions, .jsonl of L-Eval or LongBench. RULER tasks: questions in SQuAD format "
        "(qa_1) or HotpotQA format (qa_2). Repeat for more.",
        "PATH",
    ),
]
Seed = Annotated[
    int, _option("--seed", "RULER tasks, lookup: random seed of the prompts.", "N", parse_integer)
]
Plot = Annotated[
    Path | None,
    output_option(
        "--plot",
        "Also draw a chart as .svg or .png: decode speed over context, or quality over GPU memory.",
        "PATH",
    ),
]
Format = Annotated[Output, output_option("--output", "Output format: table, md, json or csv.", "FORMAT")]


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
