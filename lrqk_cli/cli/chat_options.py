"""The options of ``lrqk chat`` alone: what is read, what is asked, and how answers are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrqk_cli.cli.options import DOCUMENTS, MODEL, OUTPUT, option
from lrqk_cli.cli.values import parse_integer, parse_number, parse_tokens

_ANSWER = "Answer"

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Documents and folders to read; - for standard input.",
        metavar="FILE",
        show_default=False,
    ),
]
File = Annotated[
    list[Path],
    option(
        "--file",
        help="The same as FILE, and read before those. Repeat it for more.",
        panel=DOCUMENTS,
        metavar="PATH",
    ),
]
Pages = Annotated[
    str | None, option("--pages", help="Pages to read, such as 3-20,25.", panel=DOCUMENTS, metavar="PAGES")
]
Password = Annotated[
    str | None,
    option("--password", help="Password of encrypted documents.", panel=DOCUMENTS, metavar="TEXT"),
]
OffloadWeights = Annotated[
    bool,
    option(
        "--offload-weights",
        help="Keep weights that do not fit on the GPU in CPU memory, which is slow.",
        panel=MODEL,
        metavar="",
    ),
]
Prompt = Annotated[
    list[str],
    option(
        "--prompt",
        help="Ask this, print the answer and exit; repeat it for follow-up questions. Without it, a piped "
        "text is the question, and on a terminal a chat starts.",
        panel=_ANSWER,
        metavar="TEXT",
    ),
]
PromptsFile = Annotated[
    Path | None,
    option(
        "--prompts-file",
        help="Ask each question of this file separately: one a line, as text or as a JSON object with "
        "prompt and id.",
        panel=_ANSWER,
        metavar="PATH",
    ),
]
AnswersFile = Annotated[
    Path | None,
    option(
        "--answers-file",
        help="Append the answers to this file as JSON Lines, and skip questions that it answers already. "
        "(default: standard output)",
        panel=_ANSWER,
        metavar="PATH",
    ),
]
System = Annotated[
    str | None,
    option("--system", help="System prompt: instructions to the model.", panel=_ANSWER, metavar="TEXT"),
]
MaxNewTokens = Annotated[
    int | None,
    option(
        "--max-new-tokens",
        help="Maximum length of an answer in tokens. (default: what is left of the context)",
        panel=_ANSWER,
        parse=parse_tokens,
        metavar="TOKENS",
    ),
]
Temperature = Annotated[
    float,
    option(
        "--temperature",
        help="Sampling temperature; 0 always takes the most likely token.",
        panel=_ANSWER,
        parse=parse_number,
        metavar="T",
    ),
]
TopP = Annotated[
    float,
    option(
        "--top-p",
        help="Nucleus sampling: sample from the most likely tokens that together have this probability.",
        panel=_ANSWER,
        parse=parse_number,
        metavar="P",
    ),
]
SampleTopK = Annotated[
    int,
    option(
        "--sample-top-k",
        help="Sample from the N most likely tokens; 0 means all.",
        panel=_ANSWER,
        parse=parse_integer,
        metavar="N",
    ),
]
RepetitionPenalty = Annotated[
    float,
    option(
        "--repetition-penalty",
        help="Values above 1 discourage repetition.",
        panel=_ANSWER,
        parse=parse_number,
        metavar="X",
    ),
]
Seed = Annotated[
    int | None,
    option(
        "--seed",
        help="Random seed, for repeatable sampling.",
        panel=_ANSWER,
        parse=parse_integer,
        metavar="N",
    ),
]
Json = Annotated[
    bool,
    option(
        "--json",
        help="Print JSON: one object, or JSON Lines for several questions.",
        panel=OUTPUT,
        metavar="",
    ),
]
Sources = Annotated[
    bool,
    option("--sources", help="List the pages that each answer is based on.", panel=OUTPUT, metavar=""),
]
Bell = Annotated[
    bool,
    option(
        "--bell/--no-bell",
        help="Ring the terminal's bell after reading and answering for more than half a minute.",
        panel=OUTPUT,
        metavar="",
    ),
]
NoHistory = Annotated[
    bool,
    option("--no-history", help="Do not save the questions of a chat in a file.", panel=OUTPUT, metavar=""),
]
