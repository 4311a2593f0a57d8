"""The options of ``lrqk chat`` alone: what is read, what is asked, and how answers are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lrqk_cli.cli.options import MODEL, OUTPUT, option
from lrqk_cli.cli.values import parse_integer, parse_number, parse_tokens

_DOCUMENTS = "Documents"
_ANSWER = "Answer"

File = Annotated[
    list[Path],
    option(
        "--file",
        help="A document, a folder, or - for stdin. Repeat it for more.",
        panel=_DOCUMENTS,
        metavar="PATH",
    ),
]
Pages = Annotated[
    str | None, option("--pages", help="Pages to read, such as 3-20,25.", panel=_DOCUMENTS, metavar="PAGES")
]
Password = Annotated[
    str | None, option("--password", help="Opens encrypted documents.", panel=_DOCUMENTS, metavar="TEXT")
]
OffloadWeights = Annotated[
    bool,
    option(
        "--offload-weights",
        help="Spread a model that the device cannot hold over CPU memory.",
        panel=MODEL,
        metavar="",
    ),
]
Prompt = Annotated[
    list[str],
    option(
        "--prompt",
        help="Ask and leave; repeat it to go on asking. Else the question is read from a pipe, else a chat "
        "begins.",
        panel=_ANSWER,
        metavar="TEXT",
    ),
]
PromptsFile = Annotated[
    Path | None,
    option(
        "--prompts-file",
        help="Ask each question of a JSONL file by itself, after the documents.",
        panel=_ANSWER,
        metavar="PATH",
    ),
]
AnswersFile = Annotated[
    Path | None,
    option(
        "--answers-file",
        help="Append the answers here as JSONL; questions that it answers already are skipped. "
        "(default: stdout)",
        panel=_ANSWER,
        metavar="PATH",
    ),
]
System = Annotated[
    str | None,
    option("--system", help="Instructions that stand before everything.", panel=_ANSWER, metavar="TEXT"),
]
MaxNewTokens = Annotated[
    int | None,
    option(
        "--max-new-tokens",
        help="Tokens of an answer at most. (default: what the context holds)",
        panel=_ANSWER,
        parse=parse_tokens,
        metavar="TOKENS",
    ),
]
Temperature = Annotated[
    float,
    option(
        "--temperature", help="0 takes the likeliest token.", panel=_ANSWER, parse=parse_number, metavar="T"
    ),
]
TopP = Annotated[
    float,
    option(
        "--top-p",
        help="Sample from this share of the probability.",
        panel=_ANSWER,
        parse=parse_number,
        metavar="P",
    ),
]
SampleTopK = Annotated[
    int,
    option(
        "--sample-top-k",
        help="Sample from the N likeliest tokens; 0 from all.",
        panel=_ANSWER,
        parse=parse_integer,
        metavar="N",
    ),
]
RepetitionPenalty = Annotated[
    float,
    option(
        "--repetition-penalty",
        help="Above 1 discourages repetition.",
        panel=_ANSWER,
        parse=parse_number,
        metavar="X",
    ),
]
Seed = Annotated[
    int | None,
    option("--seed", help="Makes sampling repeatable.", panel=_ANSWER, parse=parse_integer, metavar="N"),
]
Sources = Annotated[
    bool,
    option(
        "--sources", help="Tell which pages of the documents each answer rests on.", panel=OUTPUT, metavar=""
    ),
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
    bool, option("--no-history", help="Do not remember what is asked in a chat.", panel=OUTPUT, metavar="")
]
