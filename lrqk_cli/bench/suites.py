"""All suites, and the check that a suite has the given options."""

from __future__ import annotations

from collections.abc import Collection

from lrqk_cli.bench.fidelity.suite import FidelitySuite
from lrqk_cli.bench.lookup.suite import LookupSuite
from lrqk_cli.bench.qa.suite import QaSuite
from lrqk_cli.bench.ruler.suite import RulerSuite
from lrqk_cli.bench.speed.suite import SpeedSuite
from lrqk_cli.bench.suite import Suite
from lrqk_cli.errors import UsageError
from lrqk_cli.naming import flag

# ``SuiteName`` in ``cli.bench_options`` lists the names too.
SUITES: dict[str, type[Suite]] = {
    kind.name: kind for kind in (SpeedSuite, FidelitySuite, RulerSuite, QaSuite, LookupSuite)
}


def refuse_idle(name: str, given: Collection[str]) -> None:
    """Raise if an option is for other suites than ``name`` only.

    Args:
        given: the options on the command line, by the names of their parameters.

    Raises:
        UsageError: one of them belongs to other suites.
    """
    for option in sorted(given):
        owners = [other for other, kind in SUITES.items() if option in kind.options]
        if owners and name not in owners:
            raise UsageError(
                f"{flag(option)} has no meaning for --suite {name}.",
                f"Leave it out, or choose --suite {' or '.join(owners)}.",
            )
