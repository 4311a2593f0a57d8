"""Reads files of many formats into documents with pages. Imports no model and no terminal code."""

from lrqk_cli.documents.document import Document, Page, Section, Span
from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.documents.pages import PageSelection
from lrqk_cli.documents.readers import ReadProgress, ReadStage, read_documents

__all__ = [
    "Document",
    "Page",
    "PageSelection",
    "ReadProgress",
    "ReadStage",
    "Section",
    "Span",
    "read_documents",
    "shown_name",
]
