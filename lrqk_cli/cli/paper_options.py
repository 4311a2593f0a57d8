"""The options that choose between the paper's method and ours, part by part."""

from __future__ import annotations

from typing import Annotated

from lrqk_cli.cli.options import option
from lrqk_cli.cli.values import parse_integer, parse_number, parse_penalties
from lrqk_cli.config import AlsInit, AlsPenalties, GroupingMode, HotPolicy, SolverName

_METHOD = "The method of the LRQK paper, for comparison"

Solver = Annotated[
    SolverName,
    option(
        "--solver",
        help="How the index is computed. joint: in closed form. als: by the paper's alternating least "
        "squares, updated at every step.",
        panel=_METHOD,
        metavar="NAME",
    ),
]
Grouping = Annotated[
    GroupingMode,
    option(
        "--grouping",
        help="kv: one index and hot set for each KV head. head: one for each query head.",
        panel=_METHOD,
        metavar="MODE",
    ),
]
Policy = Annotated[
    HotPolicy,
    option(
        "--hot-policy",
        help="sticky: keep --hot rows and replace the lowest-scoring. exact: keep the best --top-k only. "
        "refetch: as exact, but fetch all of them at every step.",
        panel=_METHOD,
        metavar="MODE",
    ),
]
Init = Annotated[
    AlsInit,
    option(
        "--als-init",
        help="Initial factors of als: randn at random; top or topcol from columns of Q and K.",
        panel=_METHOD,
        metavar="NAME",
    ),
]
Iterations = Annotated[
    int,
    option(
        "--als-iterations",
        help="Maximum number of als iterations.",
        panel=_METHOD,
        parse=parse_integer,
        metavar="N",
    ),
]
Tolerance = Annotated[
    float,
    option(
        "--als-tolerance",
        help="als stops once the mean squared change of its factors is below this.",
        panel=_METHOD,
        parse=parse_number,
        metavar="X",
    ),
]
Penalties = Annotated[
    AlsPenalties,
    option(
        "--als-penalties",
        help="Penalty weights of als for Q, K, the new token and the tokens on the GPU.",
        panel=_METHOD,
        parse=parse_penalties,
        metavar="W,W,W,W",
        show_default="1,1,1,1",
    ),
]
