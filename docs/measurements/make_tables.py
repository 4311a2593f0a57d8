"""Make the tables of README and docs/ from the reports in the folders beside this script.

    python docs/measurements/make_tables.py           # rewrites the pages
    python docs/measurements/make_tables.py --check   # fails if a page has other tables

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; a page need not have all of its tables.
A page whose reports are in two folders has the second's tables by ``folder/name``.
The reports of a folder are all of one state of the sources, and the table ``provenance`` names the commit:
the one whose package has the digest that they carry. Reports of several states are refused.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import family_tables
import lookup_tables
import memory_tables
import profile_tables
import qa_tables
import quality_tables
import speed_tables
from reports import MixedReportsError, Report, Reports, Row, Table, commit_of, provenance, read, sources

HERE = Path(__file__).parent
QUALITY, SPEED, LOOKUP, FAMILIES = (HERE / name for name in ("quality", "speed", "lookup", "families"))

_MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PROVENANCE = "provenance"


@dataclass(frozen=True)
class Page:
    """A page, and a folder of reports that tables of it are made from."""

    path: Path
    folder: Path
    tables: Mapping[str, Table]

    def takes(self, report: str) -> bool:
        """Return whether a table of the page is made from a report of that name."""
        return any(re.fullmatch(table.pattern, report) for table in self.tables.values())

    def filled(self, text: str, reports: Reports, commit: str) -> str:
        """Return the text of the page with its tables replaced.

        Args:
            commit: that the reports are of.

        Raises:
            MixedReportsError: there is no such table, or it has no reports.
        """

        def table(match: re.Match[str]) -> str:
            head, *lines = self._made(match[2], reports, commit)
            rows = [head, tuple("---" for _ in head), *lines]
            return match[1] + "".join("| " + " | ".join(row) + " |\n" for row in rows) + match[3]

        return _MARKED.sub(table, text)

    def _made(self, name: str, reports: Reports, commit: str) -> list[Row]:
        if name == _PROVENANCE:
            own = {report: facts for report, facts in reports.items() if self.takes(report)}
            if own:
                return list(provenance(own, commit))
            raise MixedReportsError(f"{self.path.name} has no reports to name.")
        if name not in self.tables:
            raise MixedReportsError(f"{self.path.name} has no table '{name}', only {', '.join(self.tables)}.")
        return self.tables[name].made_from(reports)

    def named_commit(self, text: str) -> str:
        """Return the commit that the text of the page names."""
        match = re.search(rf"<!-- table: {_PROVENANCE} -->\n.*\n.*\n\| (\w+) ", text)
        return match[1] if match else "unknown"


_PERFORMANCE = {**speed_tables.TABLES, **profile_tables.TABLES}
PAGES = (
    Page(HERE.parents[1] / "README.md", SPEED, speed_tables.README_TABLES),
    Page(HERE.parent / "performance.md", SPEED, _PERFORMANCE),
    Page(HERE.parent / "memory.md", SPEED, memory_tables.TABLES),
    Page(HERE.parent / "lookup.md", LOOKUP, lookup_tables.TABLES),
    Page(HERE.parent / "models.md", FAMILIES, family_tables.TABLES),
    Page(HERE.parent / "quality.md", QUALITY, {**quality_tables.TABLES, **qa_tables.TABLES}),
)


def read_all() -> dict[Path, dict[str, Report]]:
    """Return the reports of all folders.

    Raises:
        MixedReportsError: a folder has reports that do not belong together, or one that no page takes.
    """
    found = {folder: read(folder) for folder in dict.fromkeys(page.folder for page in PAGES)}
    for folder, reports in found.items():
        for name in reports:
            if not any(page.takes(name) for page in PAGES if page.folder == folder):
                raise MixedReportsError(f"No table is made from {folder.name}/{name}: is its name wrong?")
    return found


def main() -> None:
    """Rewrite the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    made: dict[Path, str] = {}
    try:
        for folder, reports in read_all().items():
            commit = commit_of(sources(reports)) if reports else ""
            for page in (page for page in PAGES if page.folder == folder):
                text = made.get(page.path) or page.path.read_text(encoding="utf-8")
                if (filled := page.filled(text, reports, commit)) != text:
                    made[page.path] = filled
    except MixedReportsError as error:
        sys.exit(str(error))
    if is_check and made:
        names = ", ".join(path.name for path in made)
        sys.exit(f"Other tables than the reports give: {names}. Run this without --check.")
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
