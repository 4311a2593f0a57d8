"""The index of a GGUF file's tensors, read from its header once and saved beside the tokenizer.

The header lists every token of the vocabulary, so reading it takes seconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lrqk_cli.model_spec import WeightBytes

_ARCHITECTURE = "general.architecture"
# Configuration fields that equal the rows of a tensor; transformers does not read them from the header.
_EXPERT_ROWS = {
    "ffn_gate_exps.weight": "moe_intermediate_size",
    "ffn_gate_shexp.weight": "shared_expert_intermediate_size",
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a file.

    Attributes:
        name, type: its name in the file, and ggml's name of its type.
        shape: its shape, rows first.
        start, size: bytes in the file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufIndex:
    """The tensors of a file, and the name of its architecture.

    Attributes:
        weights: packed bytes of the weights on a device; None until they are counted.
    """

    architecture: str
    tensors: tuple[TensorEntry, ...]
    weights: WeightBytes | None = None

    def expert_sizes(self) -> dict[str, int]:
        """Return the configuration fields of the experts' sizes; empty without experts."""
        ends = {
            tensor.name.split(".", 2)[-1]: tensor.shape[-2] for tensor in self.tensors if tensor.shape[1:]
        }
        return {field: ends[end] for end, field in _EXPERT_ROWS.items() if end in ends}

    def save(self, path: Path) -> None:
        """Write the index to a file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class FileVersion(NamedTuple):
    """Size and time of a file, which change with its content."""

    size: int
    mtime_ns: int


def version_of(file: Path) -> FileVersion:
    """Return the current version of a file."""
    status = file.stat()
    return FileVersion(status.st_size, status.st_mtime_ns)


def read_index(file: Path) -> GgufIndex:
    """Read the header of a GGUF file, once for each version of it.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is no GGUF, names no architecture, or has the other byte order.
    """
    return _read_index(file, version_of(file))


@lru_cache(maxsize=2)
def _read_index(file: Path, _: FileVersion) -> GgufIndex:
    from lrqk_cli.models.gguf_reader import header_of

    reader = header_of(file)
    if reader.byte_order != "I":
        raise ValueError("its numbers have the other byte order")
    field = reader.get_field(_ARCHITECTURE)
    if field is None:
        raise ValueError("it names no architecture")
    return GgufIndex(
        str(field.contents()),
        tuple(
            TensorEntry(
                tensor.name,
                tensor.tensor_type.name,
                tuple(int(size) for size in reversed(tensor.shape)),
                int(tensor.data_offset),
                int(tensor.n_bytes),
            )
            for tensor in reader.tensors
        ),
    )


def load_index(path: Path) -> GgufIndex:
    """Read an index that ``save`` has written.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is missing, or is not such an index.
    """
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    tensors = ({**entry, "shape": tuple(entry["shape"])} for entry in stored["tensors"])
    weights = WeightBytes(**{"form": "gguf", **stored["weights"]})
    return GgufIndex(stored["architecture"], tuple(TensorEntry(**entry) for entry in tensors), weights)
