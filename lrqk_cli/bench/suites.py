"""All suites, and the one that was asked for."""

from __future__ import annotations

from lrqk_cli.bench.fidelity.suite import FidelitySuite
from lrqk_cli.bench.ruler.suite import RulerSuite
from lrqk_cli.bench.speed.suite import SpeedSuite
from lrqk_cli.bench.suite import Suite, SuiteOptions
from lrqk_cli.errors import UsageError

SUITES: dict[str, type[Suite]] = {kind.name: kind for kind in (SpeedSuite, FidelitySuite, RulerSuite)}


def make_suite(name: str, asked: SuiteOptions) -> Suite:
    """Return the suite of a name, which has checked what it is asked for.

    Raises:
        UsageError: an option on the command line belongs to other suites; and as ``Suite``.
        DocumentError: as ``Suite``.
    """
    for option in sorted(asked.given - SUITES[name].options):
        if owners := [other for other, kind in SUITES.items() if option in kind.options]:
            raise UsageError(
                f"--{option.replace('_', '-')} has no meaning for --suite {name}.",
                f"Leave it out, or choose --suite {' or '.join(owners)}.",
            )
    return SUITES[name](asked)
