"""Reads the text on pictures of pages with RapidOCR and its models of PP-OCRv6, from the extra ``ocr``.

Chosen by its errors: docs/ocr.md has the measurements.
"""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from typing import Any

from lrqk_cli.documents.normalise import normalise

_PACKAGES = ("onnxruntime", "pypdfium2", "rapidocr")
_POINTS_PER_INCH = 72
# At 150 and more, lines of neighbouring columns are taken for one; below 75, letters are confused.
_DPI = 120
# A page of A3 has this many at 102 dpi. Bounds time and memory where a page is measured in its scan's pixels.
_MOST_PIXELS = 1700
# Below it there is nothing to be read, as on one-pixel pictures that only give a background.
_LEAST_PIXELS = 16

# Of one process, at the largest picture and one thread.
PROCESS_BYTES = 768 << 20


def is_installed() -> bool:
    """Whether the extra ``ocr`` is."""
    return all(find_spec(name) is not None for name in _PACKAGES)


class PageRecogniser:
    """Recognises the text of a PDF file's pages from what they look like.

    The first page loads the models, so that a fork made before has its own.

    Args:
        data: the PDF file.
        password: that opens it; empty if none is needed.
        threads: CPU threads that compute.
    """

    def __init__(self, data: bytes, password: str, threads: int) -> None:
        self._data = data
        self._password = password
        self._threads = threads

    def __call__(self, number: int) -> str | None:
        """The text of a page, counted from 1; empty if it has none, None if it cannot be drawn or read."""
        try:
            return normalise(self._recognise(number))
        except MemoryError:
            raise
        # A page that cannot be drawn, or on which a library fails, must not lose the others.
        except Exception:
            return None

    def _recognise(self, number: int) -> str:
        import numpy as np

        from lrqk_cli.documents.reading_order import TextLine, text_in_order

        picture = np.ascontiguousarray(self._draw(number))
        if min(picture.shape[:2]) < _LEAST_PIXELS or picture.min() == picture.max():
            return ""
        found = self._engine(picture)
        if found.boxes is None:
            return ""
        lines = []
        for box, text in zip(found.boxes, found.txts, strict=True):
            # The four corners of a box, which may be skewed.
            (left, top), (right, bottom) = box.min(axis=0), box.max(axis=0)
            lines.append(TextLine(float(left), float(top), float(right), float(bottom), text))
        return text_in_order(lines)

    def _draw(self, number: int) -> Any:
        """The picture of a page: ``[height, width, 3]``, bytes of blue, green and red."""
        page = self._document[number - 1]
        scale = min(_DPI / _POINTS_PER_INCH, _MOST_PIXELS / max(page.get_size()))
        return page.render(scale=scale).to_numpy()

    @cached_property
    def _document(self) -> Any:
        import pypdfium2

        return pypdfium2.PdfDocument(self._data, password=self._password or None)

    @cached_property
    def _engine(self) -> Any:
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(self._threads)
        return RapidOCR(
            params={
                "EngineConfig.onnxruntime.intra_op_num_threads": self._threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Global.log_level": "critical",
                "Global.use_cls": False,  # it would tell whether a line is upside down
                "Det.use_dilation": False,  # it joins lines of neighbouring columns
                "Rec.rec_batch_num": 1,  # less memory than with 6, in the same time
            }
        )
