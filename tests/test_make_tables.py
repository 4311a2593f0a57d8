"""The tables of the docs: of the reports beside them, all of one state of the sources."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from measurements import bench_report, script

from lrqk_cli.bench.environment import digest

make_tables, reports, quality_tables = script("make_tables"), script("reports"), script("quality_tables")


def line(task: str, mode: str, cases: list[tuple[int, float, float]]) -> dict[str, Any]:
    names = ("steps", "kl_mean", "top1_agreement")
    return {
        "task": task,
        "mode": mode,
        "turn": 1,
        "ctx": 8192,
        "device_share": 0.375,
        "rows_fetched_per_step": 7.0,
        "kl_max": max(kl for _, kl, _ in cases),
        "by_sample": [dict(zip(names, case, strict=True)) for case in cases],
    }


def report(lines: list[dict[str, Any]], sources: str = "abc", hot: int = 64) -> str:
    environment = {"sources": sources, "model": "smollm2-135m"}
    return json.dumps(
        {
            "environment": environment,
            "complete": True,
            "settings": {"hot": hot},
            "modes": {},
            "results": lines,
        }
    )


def written(folder: Path, named: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in named.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("page", make_tables.PAGES, ids=lambda page: page.path.name)
def test_a_page_has_the_tables_of_its_reports(page: Any) -> None:
    text = page.path.read_text(encoding="utf-8")
    assert page.filled(text, make_tables.read_all()[page.folder], page.named_commit(text)) == text
    assert text.count("<!-- table: ") == text.count("<!-- end -->")


def test_quality_has_tables() -> None:
    text = make_tables.PAGES[-1].path.read_text(encoding="utf-8")
    assert text.count("<!-- table: ") > 5
    assert "| --- |" in text


def test_the_commit_is_the_one_whose_package_has_the_digest(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)
        return done.stdout.decode().strip()

    package = tmp_path / "lrqk_cli"
    package.mkdir()
    git("init", "-q")
    states = []
    for content in ("one", "two"):
        (package / "module.py").write_text(content, encoding="utf-8")
        git("add", ".")
        git("commit", "-qm", content)
        states.append((digest(package), git("rev-parse", "--short", "HEAD")))
    for state, commit in states:
        assert reports.commit_of(state, tmp_path) == commit
    with pytest.raises(reports.MixedReportsError, match="No commit has the sources 0123"):
        reports.commit_of("0123", tmp_path)


def test_reports_of_several_states_are_refused(tmp_path: Path) -> None:
    written(tmp_path, {"one": report([], "abc"), "two": report([], "abd")})
    with pytest.raises(reports.MixedReportsError, match=r"2 states of the sources .*one.*two"):
        reports.read(tmp_path)


def test_a_report_that_ended_early_is_refused(tmp_path: Path) -> None:
    written(tmp_path, {"cut": bench_report("speed", [], ended_by=RuntimeError())})
    with pytest.raises(reports.MixedReportsError, match="Ended early: cut"):
        reports.read(tmp_path)


def test_a_folder_that_is_not_there_has_no_reports(tmp_path: Path) -> None:
    assert reports.read(tmp_path / "speed") == {}


def lines_of(reports: Any) -> Iterator[tuple[str, ...]]:
    yield ("report", "suite")
    for name, report in reports.items():
        yield (name, report["suite"]["name"])


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The only page, which has reports but no text yet."""
    speed = written(tmp_path / "speed", {"a-1": bench_report("speed", [])})
    found = make_tables.Page(tmp_path / "page.md", speed, {"all": reports.Table(r"a-\d", lines_of)})
    monkeypatch.setattr(make_tables, "PAGES", (found,))
    monkeypatch.setattr(make_tables, "commit_of", lambda state: f"commit of {state}")
    monkeypatch.setattr(sys, "argv", ["make_tables.py"])
    return found


ALL, PROVENANCE = ("<!-- table: all -->\n<!-- end -->\n", "<!-- table: provenance -->\n<!-- end -->\n")


def test_the_script_fills_what_a_page_marks(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page.path.write_text(f"Text.\n\n{ALL}\n{PROVENANCE}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--check"])
    with pytest.raises(SystemExit, match=r"Other tables than the reports give: page\.md"):
        make_tables.main()
    assert "a-1" not in page.path.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_tables.py"])
    make_tables.main()
    text = page.path.read_text(encoding="utf-8")
    assert "| report | suite |\n| --- | --- |\n| a-1 | speed |\n<!-- end -->" in text
    assert "| commit of abc | abc | NVIDIA H200 | 2.11.0 | 3.6.0 | 5.24.0 | a-1 |" in text
    monkeypatch.setattr(sys, "argv", ["make_tables.py", "--check"])
    make_tables.main()


def test_a_page_need_not_have_its_tables(page: Any) -> None:
    page.path.write_text("Text.\n", encoding="utf-8")
    make_tables.main()
    assert page.path.read_text(encoding="utf-8") == "Text.\n"


def test_a_page_names_only_its_own_reports(page: Any) -> None:
    others = {**reports.read(page.folder), "b-1": bench_report("speed", [])}
    assert page.filled(PROVENANCE, others, "1234567").count("a-1 |") == 1
    assert "b-1" not in page.filled(PROVENANCE, others, "1234567")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: al -->\n<!-- end -->\n", "has no table 'al', only all"),
        (ALL, r"There is no report a-\\d"),
        (PROVENANCE, "has no reports to name"),
    ],
)
def test_a_table_that_cannot_be_made_is_refused(page: Any, text: str, message: str) -> None:
    (page.folder / "a-1.json").unlink()
    page.path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        make_tables.main()


def test_a_report_that_no_table_takes_is_refused(page: Any) -> None:
    written(page.folder, {"a1": bench_report("speed", [])})
    with pytest.raises(SystemExit, match="No table is made from speed/a1"):
        make_tables.main()


def test_the_cases_of_two_seeds_count_by_their_steps(tmp_path: Path) -> None:
    parts = [[(10, 0.5, 1.0), (30, 0.1, 0.5)], [(60, 0.0, 1.0)]]
    for seed, cases in enumerate(parts):
        (tmp_path / f"smol-8k-seed{seed}.json").write_text(
            report([line("vt", "lrqk", cases)]), encoding="utf-8"
        )
    (found,) = quality_tables.found_in(reports.read(tmp_path))
    assert found.steps == (10, 30, 60)
    assert found.mean(found.kl) == pytest.approx((10 * 0.5 + 30 * 0.1) / 100)
    together = quality_tables.Together.of([found], lambda f: f.top1)
    assert together.mean == pytest.approx(0.85)
    assert 0.5 <= together.low < 0.85 < together.high <= 1.0


def test_seeds_with_other_settings_are_refused(tmp_path: Path) -> None:
    for seed, hot in enumerate((64, 128)):
        text = report([line("vt", "lrqk", [(1, 0.0, 1.0)])], hot=hot)
        (tmp_path / f"smol-8k-seed{seed}.json").write_text(text, encoding="utf-8")
    with pytest.raises(reports.MixedReportsError, match="other settings"):
        quality_tables.found_in(reports.read(tmp_path))
