"""The picture of quality against bytes."""

from __future__ import annotations

import importlib.util
from xml.etree import ElementTree

import pytest

from lrqk_cli.bench import plot
from lrqk_cli.bench.plot import Chart, Point, Scored, check_plot, mean_scores, write_plot
from lrqk_cli.errors import LrqkError, UsageError

pytest.importorskip("matplotlib")

POINTS = (
    Point("lrqk", 0.25, 0.004, "turn 1"),
    Point("hot=64", 0.4, 0.001, "turn 1"),
    Point("lrqk", 0.25, 0.006, "turn 2"),
)


def test_every_point_is_in_the_picture_with_its_name_and_its_series(tmp_path):
    path = tmp_path / "quality.svg"
    check_plot(path)
    write_plot(Chart("Distance", "KL, nats", POINTS, logarithmic=True), path)
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg")
    # Letters are drawn as outlines; what they say stands in comments beside them.
    drawn = path.read_text(encoding="utf-8")
    assert drawn.count("<!-- lrqk -->") == 2
    for text in ("hot=64", "turn 1", "turn 2", "Distance", "KL, nats"):
        assert f"<!-- {text} -->" in drawn


def test_labels_of_points_above_one_another_take_turns():
    points = [Point("c", 0.2003, 3.0, "b"), Point("a", 0.2, 1.0, "a"), Point("d", 0.3, 1.0, "a")]
    points.append(Point("b", 0.2001, 2.0, "a"))
    sides = {point.label: right for point, right in plot._sides(points)}
    assert sides == {"a": True, "b": False, "c": True, "d": True}


def test_several_charts_share_one_picture_and_one_horizontal_axis(tmp_path):
    path = tmp_path / "quality.svg"
    scores = Chart("RULER", "score", [Point("dense", 1.0, 90.0, "full")], limits=(0.0, 105.0))
    write_plot([Chart("Distance", "KL, nats", POINTS), scores], path)
    drawn = path.read_text(encoding="utf-8")
    for text in ("Distance", "RULER", "hot=64", "dense"):
        assert f"<!-- {text} -->" in drawn
    # The axis of scores begins at 0 though all are at 90, and the shares of both stand under the last.
    assert "<!-- 80 -->" in drawn
    assert drawn.count("<!-- 50% -->") == 1


def test_scores_are_averaged_over_what_all_modes_have():
    """Each context has its own parts; at the second one a mode could not do one of them."""
    found = [
        Scored("vt", "lrqk", 4096, 80.0, 0.4),
        Scored("cwe", "lrqk", 4096, 60.0, 0.2),
        Scored("vt", "dense", 4096, 90.0, 1.0),
        Scored("cwe", "dense", 4096, 70.0, 1.0),
        Scored("vt", "lrqk", 8192, None, None),
        Scored("cwe", "lrqk", 8192, 50.0, 0.2),
        Scored("vt", "dense", 8192, 100.0, 1.0),
        Scored("cwe", "dense", 8192, 30.0, 1.0),
    ]
    chart = mean_scores("Scores", found)
    points = [(point.label, point.share, point.quality, point.series) for point in chart.points]
    assert points == [
        ("lrqk", pytest.approx(0.3), 70.0, "4,096 tokens"),
        ("dense", 1.0, 80.0, "4,096 tokens"),
        ("lrqk", 0.2, 50.0, "8,192 tokens"),
        ("dense", 1.0, 30.0, "8,192 tokens"),
    ]
    assert mean_scores("Scores", found[4:5]).points == ()


def test_nothing_has_to_be_positive(tmp_path):
    """With all rows streamed nothing is on the device, and rounding can leave a divergence below zero."""
    path = tmp_path / "quality.PNG"
    points = (Point("offload", 0.0, -1e-9, "a"), Point("lrqk", 0.2, 1e-3, "a"))
    write_plot(Chart("Distance", "KL", points, logarithmic=True), path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["quality.pdf", "quality", "absent/quality.svg"])
def test_a_path_that_cannot_be_is_refused_at_once(tmp_path, name):
    with pytest.raises(UsageError):
        check_plot(tmp_path / name)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(LrqkError, match="matplotlib") as caught:
        check_plot(tmp_path / "quality.svg")
    assert "lrqk[plot]" in caught.value.hint
    assert importlib.util.find_spec("matplotlib") is not None


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    folder = tmp_path / "folder.svg"
    folder.mkdir()
    with pytest.raises(LrqkError, match="cannot be written"):
        write_plot(Chart("Distance", "KL", POINTS), folder)
