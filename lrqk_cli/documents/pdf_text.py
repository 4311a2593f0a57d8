"""Extracts the visible text of one PDF page."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

# fontTools drops code 0 of a CFF font's own encoding, where the fonts of TeX have these glyphs.
_CODE_ZERO = {"CMSY": "\u2212", "CMR": "\u0393", "CMEX": "("}
# Pieces of tall brackets and bullets, which Adobe's Symbol and Wingdings have in the private use area.
_PRIVATE_USE = str.maketrans(
    dict(
        zip(
            map(chr, (*range(0xF8EB, 0xF8F5), *range(0xF8F6, 0xF8FF), 0xF0B7, 0xF0A7)),
            "⎛⎜⎝⎡⎢⎣⎧⎨⎩⎪⎞⎟⎠⎤⎥⎦⎫⎬⎭•▪",
            strict=True,
        )
    )
)
# TeX draws "not equal" as a slash over the next sign; NFC composes the two where Unicode has a character.
_STRUCK_OUT = re.compile("\u2044([=∈∋⊂⊃⊆⊇≡∼≃≅≈<>≤≥∃|∥⇐⇒⇔←→])")
# Of a choice field; longer lists, such as of all countries, are counted.
_MOST_OPTIONS = 20
_LEADERS = re.compile(r"(?: ?\.){6,}")
# Text in drawing order has gaps within lines, and single spaces before them.
_GAP = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")
_FIRST_SPACE = re.compile(r"^ (?=\S)", re.MULTILINE)


@dataclass(slots=True)
class _Fragments:
    """Collects the text fragments that pypdf passes to ``visitor_text``."""

    box: tuple[float, float, float, float]
    texts: list[str] = field(default_factory=list)
    visible: bool = False

    def __call__(self, text: str, cm: list[float], tm: list[float], font: Any, size: float) -> None:
        if "\0" in text:
            text = text.replace("\0", _code_zero(font))
        self.texts.append(text)
        if text.strip():
            x, y = _origin(cm, tm)
            left, bottom, right, top = self.box
            self.visible |= left - size <= x <= right and bottom - size <= y <= top


def page_text(page: Any) -> str:
    """The text of a ``pypdf.PageObject``, form fields and text boxes included; empty if none is visible."""
    box = page.cropbox
    _leave_out_paths(page)
    fragments = _Fragments((float(box.left), float(box.bottom), float(box.right), float(box.top)))
    text: str = page.extract_text(visitor_text=fragments)
    # Repairs keep the length; if the lengths differ, fragments are missing, and the text stays as it is.
    repaired = "".join(fragments.texts)
    if len(repaired) == len(text):
        text = repaired
    # Inside a form XObject pypdf reports positions in the form's own space, so the box cannot be compared.
    if not fragments.visible and not _has_forms(page):
        text = ""
    text = _STRUCK_OUT.sub("\\1\u0338", text.translate(_PRIVATE_USE))
    text = _FIRST_SPACE.sub("", _GAP.sub(" ", _LEADERS.sub(" ...", text)))
    try:
        return "\n".join([text, *_annotation_texts(page)])
    except MemoryError:
        raise
    # A malformed annotation must not lose the page's text.
    except Exception:
        return text


def _leave_out_paths(page: Any) -> None:
    from lrqk_cli.documents.pdf_paths import leave_out_paths

    try:
        leave_out_paths(page)
    except MemoryError:
        raise
    # As in ``pdf._open``. What is left only takes longer, and pypdf says what it cannot read.
    except Exception:
        return


def _origin(cm: list[float], tm: list[float]) -> tuple[float, float]:
    """The origin of a text matrix in the page's space."""
    x, y = tm[4], tm[5]
    return cm[0] * x + cm[2] * y + cm[4], cm[1] * x + cm[3] * y + cm[5]


def _code_zero(font: Any) -> str:
    name = str(font.get("/BaseFont", "")) if font else ""
    family = re.match(r"/(?:[A-Z]{6}\+)?([A-Z]+)[0-9]", name)
    return _CODE_ZERO.get(family[1], "\0") if family else "\0"


def _has_forms(page: Any) -> bool:
    resources: Any = page.get("/Resources") or {}
    objects: Any = resources.get("/XObject") or {}
    return any(item.get_object().get("/Subtype") == "/Form" for item in objects.values())


def _annotation_texts(page: Any) -> list[str]:
    """The texts of text boxes and filled-in text fields, one line each."""
    found = []
    for reference in page.get("/Annots") or []:
        annotation = reference.get_object()
        if annotation.get("/Subtype") == "/FreeText":
            found.append(str(annotation.get("/Contents", "")))
        elif annotation.get("/Subtype") == "/Widget":
            found.append(_field_text(annotation))
    return [text for text in found if text.strip()]


def _field_text(widget: Any) -> str:
    """``name: value`` of a text or choice field, of the latter with what there is to choose from.

    Empty for buttons, signatures, and fields with neither a value nor options.
    """
    node, name = widget, ""
    for _ in range(16):  # in a damaged file, parents may form a cycle
        name = name or str(node.get("/T", ""))
        if "/FT" in node or "/Parent" not in node:
            break
        node = node["/Parent"].get_object()
    kind = node.get("/FT")
    if kind not in ("/Tx", "/Ch"):
        return ""
    value, listed = (_entry(widget, node, key) for key in ("/V", "/Opt"))
    options = _options(listed) if kind == "/Ch" else {}
    values = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
    chosen = ", ".join(options.get(each, each) for each in values if each.strip())
    offered = f"{len(options):,} options" if len(options) > _MOST_OPTIONS else ", ".join(options.values())
    text = " ".join(part for part in (chosen, f"(of {offered})" if offered else "") if part)
    return f"{name}: {text}" if name and text else text


def _entry(widget: Any, field: Any, key: str) -> Any:
    """What a widget, or else its field, has under a key; None for nothing."""
    value = widget.get(key, field.get(key))
    return None if value is None else value.get_object()


def _options(listed: Any) -> dict[str, str]:
    """The options of a choice field as they are shown, by the values that they stand for."""
    options = dict[str, str]()
    for item in listed or []:
        option = item.get_object()
        value, *shown = option if isinstance(option, list) else [option]
        options[str(value)] = str(shown[0] if shown else value)
    return options
