"""What the routes answer that list and describe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelEntry(BaseModel):
    """The model that is served; ``reasons`` if it can do so before it answers."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["lrqk"] = "lrqk"
    context_length: int
    reasons: bool


class ModelList(BaseModel):
    """The answer of ``/v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class FileEntry(BaseModel):
    """An uploaded document; ``pages`` is 0 if it has none."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    pages: int
    warnings: list[str]


class FileList(BaseModel):
    """The answer of ``/v1/files``."""

    object: Literal["list"] = "list"
    data: list[FileEntry]
    has_more: Literal[False] = False


class FileDeleted(BaseModel):
    """The answer to the deletion of a file."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class Health(BaseModel):
    """The answer of ``/health``."""

    status: Literal["ok"] = "ok"
    waiting: int
