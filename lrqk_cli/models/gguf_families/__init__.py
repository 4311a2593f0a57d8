"""Architectures of GGUF files that lrqk reads by tables of its own, beside those of transformers' tables."""

from __future__ import annotations

from collections.abc import Mapping

from lrqk_cli.models.gguf_families.base import GgufFamily
from lrqk_cli.models.gguf_families.delta_nets import QWEN3_NEXT, QWEN35, QWEN35_MIXTURE
from lrqk_cli.models.gguf_families.gemma4 import GEMMA4

# Where both have an architecture, these are used, so that a file gives the same model with each release of
# transformers; and transformers describes changes of tensors in a form that unpacks their blocks.
FAMILIES: Mapping[str, GgufFamily] = {
    "qwen35": QWEN35,
    "qwen35moe": QWEN35_MIXTURE,
    "qwen3next": QWEN3_NEXT,
    "gemma4": GEMMA4,
}
