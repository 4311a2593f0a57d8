"""The options that choose between the paper's method and ours, part by part."""

from __future__ import annotations

from typing import Annotated

from lrqk_cli.cli.options import option
from lrqk_cli.cli.values import parse_integer, parse_number, parse_penalties
from lrqk_cli.config import AlsInit, AlsPenalties, GroupingMode, HotPolicy, SolverName

_METHOD = "The method of the paper, for comparison"

Solver = Annotated[
    SolverName,
    option(
        "--solver",
        help="joint solves for the index in closed form; als alternates, and adapts in every step.",
        panel=_METHOD,
        metavar="NAME",
    ),
]
Grouping = Annotated[
    GroupingMode,
    option(
        "--grouping", help="One index and hot set per kv head or query head.", panel=_METHOD, metavar="MODE"
    ),
]
Policy = Annotated[
    HotPolicy,
    option(
        "--hot-policy",
        help="sticky keeps --hot rows; exact the best --top-k; refetch does too, and fetches them anew.",
        panel=_METHOD,
        metavar="MODE",
    ),
]
Init = Annotated[
    AlsInit,
    option("--als-init", help="How als begins: randn, top or topcol.", panel=_METHOD, metavar="NAME"),
]
Iterations = Annotated[
    int,
    option("--als-iterations", help="Alternations at most.", panel=_METHOD, parse=parse_integer, metavar="N"),
]
Tolerance = Annotated[
    float,
    option(
        "--als-tolerance",
        help="als ends early when its factors move less.",
        panel=_METHOD,
        parse=parse_number,
        metavar="X",
    ),
]
Penalties = Annotated[
    AlsPenalties,
    option(
        "--als-penalties",
        help="Weights of als for Q, K, the new token, the resident tokens.",
        panel=_METHOD,
        parse=parse_penalties,
        metavar="W,W,W,W",
        show_default="1,1,1,1",
    ),
]
