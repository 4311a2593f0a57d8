"""Pictures on a terminal, by the protocol of kitty or as sixels.

kitty's protocol: https://sw.kovidgoyal.net/kitty/graphics-protocol/. Sixels: VT330/VT340 Programmer Reference
Manual, volume 2, chapter 14. No library encodes them here: textual-image 0.12 asks the terminal whenever it
likes, also as it is imported, and loses keys that come with the answers; term-image 0.7 has no sixels.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from lrqk_cli.documents.drawing import Canvas, Mark, PageDrawing
from lrqk_cli.terminal.graphics_query import Graphics

if TYPE_CHECKING:
    from PIL.Image import Image

# The colour of a marked passage, by which the page's colours are multiplied.
_MARK = (255, 232, 140)
# Rows of the screen that stay free: for a label, the input line, its status line and a blank one.
_FREE_ROWS = 4
# The most that kitty takes at once.
_CHUNK = 4096
# A row of sixels is six pixels high. Shorter runs are as long written out.
_BAND = 6
_RUN = re.compile(rb"(.)\1{3,}", re.DOTALL)


def canvas_of(console: Console, graphics: Graphics) -> Canvas:
    """Return the pixels of a console's width and of most of its height."""
    width = console.width * graphics.cell_width
    height = max(1, console.height - _FREE_ROWS) * graphics.cell_height
    return Canvas(min(width, graphics.width or width), min(height, graphics.height or height), "rgb")


def with_marks(drawing: PageDrawing, marks: Sequence[Mark]) -> Image:
    """Return a page that was drawn in RGB as a picture on which passages are marked."""
    from PIL import Image, ImageChops

    picture = Image.frombytes("RGB", (drawing.width, drawing.height), drawing.image)
    for mark in marks:
        box = (
            int(mark.left * picture.width),
            int(mark.top * picture.height),
            round((mark.left + mark.width) * picture.width) + 1,
            round((mark.top + mark.height) * picture.height) + 1,
        )
        part = picture.crop(box)
        picture.paste(ImageChops.multiply(part, Image.new("RGB", part.size, _MARK)), box)
    return picture


def show_picture(console: Console, picture: Image, graphics: Graphics) -> None:
    """Draw a picture, and leave the cursor on the line below it."""
    rows = -(-picture.height // graphics.cell_height)
    drawn = kitty(picture) if graphics.protocol == "kitty" else sixels(picture, graphics.colours)
    # Terminals leave the cursor at different places after a picture. So the screen scrolls first, and the
    # cursor is put back where it was then.
    console.file.write("\n" * rows + f"\x1b7\x1b[{rows}A{drawn}\x1b8")
    console.file.flush()


def kitty(picture: Image) -> str:
    """Return a picture in kitty's protocol: shown at once, and not answered (``q=2``)."""
    content = b64encode(zlib.compress(picture.tobytes())).decode("ascii")
    starts = range(0, len(content), _CHUNK)
    keys = f"a=T,f=24,o=z,s={picture.width},v={picture.height},C=1,"
    return "".join(
        f"\x1b_G{keys * (start == 0)}q=2,m={int(start != starts[-1])};{content[start : start + _CHUNK]}\x1b\\"
        for start in starts
    )


def sixels(picture: Image, colours: int) -> str:
    """Return a picture as sixels of at most so many colours."""
    indexed = picture.quantize(colours)
    palette = [value * 100 // 255 for value in indexed.getpalette() or ()]
    colour_table = zip(palette[::3], palette[1::3], palette[2::3], strict=True)
    registers = (
        f"#{number};2;{red};{green};{blue}" for number, (red, green, blue) in enumerate(colour_table)
    )
    # With P2 = 1 a pixel that no sixel sets stays as it is: those below a picture's last row.
    start = f'\x1bP0;1q"1;1;{picture.width};{picture.height}'
    return f"{start}{''.join(registers)}{''.join(_bands(indexed))}\x1b\\"


def _bands(indexed: Image) -> Iterator[str]:
    """Yield rows of sixels: for each colour that a row has, one character for each six pixels of a column."""
    import numpy as np

    pixels = np.asarray(indexed)
    for top in range(0, len(pixels), _BAND):
        band = pixels[top : top + _BAND]
        bits = 1 << np.arange(len(band))
        layers = []
        for colour in np.unique(band):
            codes = (bits @ (band == colour) + ord("?")).astype(np.uint8).tobytes().rstrip(b"?")
            layers.append(f"#{colour}{_RUN.sub(_repeated, codes).decode('ascii')}")
        yield "$".join(layers) + "-"


def _repeated(run: re.Match[bytes]) -> bytes:
    return b"!%d%b" % (len(run[0]), run[1])
