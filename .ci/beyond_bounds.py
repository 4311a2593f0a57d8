"""Prints what lrqk needs, with every upper bound one release higher than in pyproject.toml, a line each.

A bound ``<5.25`` becomes ``<5.26``: what the canary installs is the newest release of everything that a user
could have today, or could have after the next raise of a bound.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def beyond(requirement: Requirement) -> Requirement:
    """Return the requirement with the last part of its upper bound one higher."""
    parts = []
    for specifier in requirement.specifier:
        *first, last = specifier.version.split(".")
        raised = ".".join([*first, str(int(last) + 1)])
        parts.append(f"<{raised}" if specifier.operator == "<" else str(specifier))
    requirement.specifier = SpecifierSet(",".join(parts))
    return requirement


project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
# transformers would call the kernels of ``recurrence`` on a CPU too, where they fail.
extras = [lines for name, lines in project["optional-dependencies"].items() if name != "recurrence"]
lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
for line in lines:
    if not line.startswith(("lrqk", "torch>")):  # torch is installed first, in the one build that is tested
        print(beyond(Requirement(line)))  # noqa: T201
