"""Puts the lines of text that were found on a picture of a page in the order in which people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# What stands side by side is two columns of a text if each has some lines that are long for their height, and
# few other lines cross the gap. The cells of a table are short, and are read row by row.
_LEAST_LINES = 3
_LEAST_ASPECT = 8.0
_MOST_CROSSING = 0.4
# Lines that share more than this part of the lower one's height stand in one row.
_SAME_ROW = 0.5


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text, or a part of one.

    Attributes:
        left, top, right, bottom: its box, in pixels; ``top`` is the smaller one.
    """

    left: float
    top: float
    right: float
    bottom: float
    text: str

    @property
    def middle(self) -> float:
        """The height of its middle, in pixels from the top."""
        return (self.top + self.bottom) / 2

    @property
    def height(self) -> float:
        """Its height in pixels, at least one."""
        return max(1.0, self.bottom - self.top)

    @property
    def aspect(self) -> float:
        """Its width in heights."""
        return (self.right - self.left) / self.height


def text_in_order(lines: Sequence[TextLine]) -> str:
    """The text of a page, a row a line: columns one after the other, and what crosses them in its place."""
    gap = _gap(lines)
    if gap is None:
        return "\n".join(_rows(lines))
    crossing = sorted((line for line in lines if line.left < gap < line.right), key=lambda line: line.middle)
    beside = [line for line in lines if not line.left < gap < line.right]
    parts, top = list[str](), float("-inf")
    for bottom, text in [*((line.middle, line.text) for line in crossing), (float("inf"), "")]:
        band = [line for line in beside if top <= line.middle < bottom]
        for column in (
            [line for line in band if line.right <= gap],
            [line for line in band if line.left >= gap],
        ):
            parts.append(text_in_order(column))
        parts.append(text)
        top = bottom
    return "\n".join(part for part in parts if part)


def _gap(lines: Sequence[TextLine]) -> float | None:
    """Where the gap between two columns is that the fewest lines cross; None without columns."""
    best, best_place = (0, 0), None
    for place in sorted({line.left for line in lines}):
        left = [line for line in lines if line.right <= place]
        right = [line for line in lines if line.left >= place]
        least, count = min(len(left), len(right)), len(left) + len(right)
        if least < _LEAST_LINES or len(lines) - count > _MOST_CROSSING * len(lines):
            continue
        if (count, least) > best and min(map(_usual_aspect, (left, right))) >= _LEAST_ASPECT:
            best, best_place = (count, least), place
    return best_place


def _usual_aspect(lines: Sequence[TextLine]) -> float:
    return median(line.aspect for line in lines)


def _rows(lines: Sequence[TextLine]) -> list[str]:
    """The text of each row, from the top; within a row from the left."""
    rows = list[list[TextLine]]()
    for line in sorted(lines, key=lambda line: line.middle):
        if rows:
            top, bottom = max(each.top for each in rows[-1]), min(each.bottom for each in rows[-1])
            shared = min(bottom, line.bottom) - max(top, line.top)
            if shared > _SAME_ROW * min(max(1.0, bottom - top), line.height):
                rows[-1].append(line)
                continue
        rows.append([line])
    return [" ".join(part.text for part in sorted(row, key=lambda part: part.left)) for row in rows]
