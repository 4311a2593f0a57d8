"""Architectures of GGUF files that lrqk reads by tables of its own, beside those of transformers' tables."""

from __future__ import annotations

from collections.abc import Mapping

from lrqk_cli.models.gguf_families.base import GgufFamily
from lrqk_cli.models.gguf_families.delta_nets import QWEN3_NEXT, QWEN35, QWEN35_MIXTURE
from lrqk_cli.models.gguf_families.gemma4 import GEMMA4
from lrqk_cli.models.gguf_families.gpt_oss import GPT_OSS
from lrqk_cli.models.gguf_families.latent import DEEPSEEK2
from lrqk_cli.models.gguf_families.lfm2 import LFM2, LFM2_MIXTURE
from lrqk_cli.models.gguf_families.mamba import FALCON_H1, GRANITE_HYBRID, NEMOTRON_H

# Where both have an architecture, these are used, so that a file gives the same model with each release of
# transformers; and transformers describes changes of tensors in a form that unpacks their blocks.
FAMILIES: Mapping[str, GgufFamily] = {
    "qwen35": QWEN35,
    "qwen35moe": QWEN35_MIXTURE,
    "qwen3next": QWEN3_NEXT,
    "gemma4": GEMMA4,
    "gpt-oss": GPT_OSS,
    "lfm2": LFM2,
    "lfm2moe": LFM2_MIXTURE,
    "deepseek2": DEEPSEEK2,
    "granitehybrid": GRANITE_HYBRID,
    "falcon-h1": FALCON_H1,
    "nemotron_h": NEMOTRON_H,
    "nemotron_h_moe": NEMOTRON_H,
}
