"""The tables of docs/quality.md: of the reports beside them, all of one state of the sources."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from measurements import script
from tiny import VOCABULARY, random_tokens, tiny_model

from lrqk_cli.bench.fidelity import measure
from lrqk_cli.bench.fidelity.cases import Case
from lrqk_cli.bench.fidelity.measure import Reference
from lrqk_cli.config import LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config


@pytest.fixture(scope="module")
def make_tables() -> ModuleType:
    return script("make_tables")


@pytest.mark.parametrize("name", script("schedules").SCHEDULES)
def test_every_schedule_can_be_put_in_force(name: str) -> None:
    schedules = script("schedules")
    model = tiny_model("llama")
    settings = LrqkConfig(rank=8, hot=64, top_k=16, recent=8, segment=40)
    conversation = Case("text", (random_tokens(190).tolist(),))
    reference = Reference(tuple(random_tokens(3, 1).tolist()), torch.zeros(3, VOCABULARY).log_softmax(-1))
    loaded: Any = SimpleNamespace(stop_ids=frozenset())
    spec = spec_from_config(model.config, "tiny")
    with schedules.in_force(schedules.SCHEDULES[name]), Engine(model, spec, settings, 200) as engine:
        (found,) = measure.compare(engine, loaded, conversation, [reference], observe=False)
        assert engine.length == 193
    assert found.divergence.isfinite().all()
    # Nothing of it stays.
    assert LrqkConfig().sink_tokens > 0


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


def report(lines: list[dict[str, Any]], sources: str = "abc", *, complete: bool = True, hot: int = 64) -> str:
    environment = {"sources": sources, "model": "smollm2-135m"}
    return json.dumps(
        {
            "environment": environment,
            "complete": complete,
            "settings": {"hot": hot},
            "modes": {},
            "results": lines,
        }
    )


def test_the_page_has_the_tables_of_its_reports(make_tables: ModuleType) -> None:
    page = make_tables.PAGE.read_text(encoding="utf-8")
    made = make_tables.filled(page, make_tables.read(make_tables.REPORTS), make_tables.named_commit(page))
    assert made == page
    assert page.count("<!-- table: ") == page.count("<!-- end -->") > 5
    assert "| --- |" in page


def test_the_commit_is_the_one_whose_package_has_the_digest(make_tables: ModuleType, tmp_path: Path) -> None:
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
        states.append((make_tables.digest(package), git("rev-parse", "--short", "HEAD")))
    for state, commit in states:
        assert make_tables.commit_of(state, tmp_path) == commit
    with pytest.raises(make_tables.MixedReportsError, match="No commit has the sources 0123"):
        make_tables.commit_of("0123", tmp_path)


def test_reports_of_several_states_are_refused(make_tables: ModuleType, tmp_path: Path) -> None:
    for name, sources in (("one", "abc"), ("two", "abd")):
        (tmp_path / f"{name}.json").write_text(report([], sources), encoding="utf-8")
    with pytest.raises(make_tables.MixedReportsError, match=r"2 states of the sources .*one.*two"):
        make_tables.read(tmp_path)


def test_a_report_that_ended_early_is_refused(make_tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(report([], complete=False), encoding="utf-8")
    with pytest.raises(make_tables.MixedReportsError, match="Ended early: cut"):
        make_tables.read(tmp_path)


def test_the_cases_of_two_seeds_count_by_their_steps(make_tables: ModuleType, tmp_path: Path) -> None:
    parts = [[(10, 0.5, 1.0), (30, 0.1, 0.5)], [(60, 0.0, 1.0)]]
    for seed, cases in enumerate(parts):
        (tmp_path / f"smol-8k-seed{seed}.json").write_text(
            report([line("vt", "lrqk", cases)]), encoding="utf-8"
        )
    (found,) = make_tables.found_in(make_tables.read(tmp_path), r"smol-8k-seed\d")
    assert found.steps == (10, 30, 60)
    assert found.mean(found.kl) == pytest.approx((10 * 0.5 + 30 * 0.1) / 100)
    together = make_tables.Together.of([found], lambda f: f.top1)
    assert together.mean == pytest.approx(0.85)
    assert 0.5 <= together.low < 0.85 < together.high <= 1.0


def test_seeds_with_other_settings_are_refused(make_tables: ModuleType, tmp_path: Path) -> None:
    for seed, hot in enumerate((64, 128)):
        text = report([line("vt", "lrqk", [(1, 0.0, 1.0)])], hot=hot)
        (tmp_path / f"smol-8k-seed{seed}.json").write_text(text, encoding="utf-8")
    with pytest.raises(make_tables.MixedReportsError, match="other settings"):
        make_tables.found_in(make_tables.read(tmp_path), r"smol-8k-seed\d")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_turned_model_computes_the_same_from_other_numbers(family: str) -> None:
    weights = script("weights")
    model = tiny_model(family, tie_word_embeddings=True)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.5, 1.5)
    tokens = random_tokens(50).unsqueeze(0)
    before = weights.log_probabilities(model, tokens)
    matrix = model.model.layers[1].mlp.up_proj.weight.clone()
    weights.turn(model)
    torch.testing.assert_close(weights.log_probabilities(model, tokens), before, atol=1e-4, rtol=1e-4)
    assert (model.model.layers[1].mlp.up_proj.weight - matrix).norm() > matrix.norm()
    weights.packed(model, "q8", weights.ours)
    after = weights.log_probabilities(model, tokens)
    assert "| lrqk | q8 | 0.0" in weights.line("lrqk", "q8", before, after)
    assert not torch.equal(after, before)
