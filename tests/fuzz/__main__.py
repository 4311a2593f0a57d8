"""Prints what came of the cases of each target, and how to run again those that failed."""

from __future__ import annotations

import argparse
import math
import sys

from fuzz.campaign import Tally, campaign
from fuzz.targets import TARGETS

_LINE = "{:10} {:>7} {:>9} {:>9} {:>10} {:>10} {:>9}  {}\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=f"of {', '.join(TARGETS)}"
    )
    parser.add_argument("--cases", type=int, default=1000, help="for each target")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of a target at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of a single case")
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.cases)
    if arguments.only is not None:
        numbers = range(arguments.only, arguments.only + 1)
    sys.stdout.write(
        _LINE.format(
            "target", "cases", "failures", "slowest s", "peak MiB", "grown MiB", "seconds", "answers"
        )
    )
    failed = False
    for name in arguments.targets or TARGETS:
        tally = campaign(TARGETS[name](), name, numbers, arguments.seed, 60 * arguments.minutes)
        sys.stdout.write(_line(name, tally))
        # One of each kind: many cases may show one fault.
        for failure in {failure.what.splitlines()[-1]: failure for failure in tally.failures}.values():
            sys.stdout.write(f"\n{name} --seed {arguments.seed} --only {failure.number}\n{failure.what}\n")
        sys.stdout.flush()
        failed = failed or bool(tally.failures)
    return int(failed)


def _line(name: str, tally: Tally) -> str:
    answers = ", ".join(f"{count:,} {answer}" for answer, count in tally.answers.most_common())
    numbers = (
        f"{tally.slowest:.1f}",
        f"{tally.peak >> 20:,}",
        f"{tally.grown >> 20:,}",
        f"{tally.seconds:.0f}",
    )
    return _LINE.format(name, f"{tally.cases:,}", len(tally.failures), *numbers, answers)


if __name__ == "__main__":
    sys.exit(main())
