"""What packed weights cost: logits with them beside those of plain numbers, as a Markdown table.

    python weights.py MODEL TEXT --tokens 1500 [--ggml libggml-base.so]

``--ggml`` names ggml's shared library, whose quantisers are then measured on the same matrices, without an
importance matrix. The models that are at hand come from blocks of few bits, on whose grid every quantiser
would find them again. So the model is changed first into one that computes the same from other numbers: the
weights of its norms move into the matrices behind them, and the hidden states are turned by a random
orthogonal matrix (as in QuaRot, arXiv 2404.00456). The first line of the table is what that changes.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrqk_cli.config import WeightForm
from lrqk_cli.formats import PackedFormat
from lrqk_cli.kernels.unpack_rows.reference import unpack_rows
from lrqk_cli.models.loading import load, resolve
from lrqk_cli.models.matrices import formats_of
from lrqk_cli.models.mixes import ON_LOAD
from lrqk_cli.models.quantise import quantise

RoundTrip = Callable[[PackedFormat, Tensor], Tensor]


def ours(format: PackedFormat, weights: Tensor) -> Tensor:
    """Return what the packed matrix stands for."""
    found = torch.empty_like(weights)
    unpack_rows(found, quantise(format, weights), torch.arange(len(weights), device=weights.device))
    return found


def by_ggml(library: Path) -> RoundTrip:
    """Return the same by ggml."""
    # Symbols of its other parts need not be there.
    ggml = ctypes.CDLL(str(library), mode=os.RTLD_LAZY)
    pack = ggml.ggml_quantize_chunk
    pack.restype = ctypes.c_size_t
    pack.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def round_trip(format: PackedFormat, weights: Tensor) -> Tensor:
        rows, width = weights.shape
        numbers = np.ascontiguousarray(weights.numpy(), dtype=np.float32)
        blocks = np.zeros((rows, width // format.block * format.block_bytes), dtype=np.uint8)
        kind = GGMLQuantizationType[format.name]
        written = pack(int(kind), numbers.ctypes.data, blocks.ctypes.data, 0, rows, width, None)
        assert written == blocks.size
        return torch.from_numpy(dequantize(blocks, kind))

    return round_trip


@torch.no_grad()
def turn(model: PreTrainedModel) -> None:
    """Give a model of Llama's or Qwen2's layout other numbers that compute the same."""
    width = model.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    embedding, output, inner = model.get_input_embeddings(), model.get_output_embeddings(), model.model
    # Where they are one, they no longer are.
    output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=False)
    embedding.weight = nn.Parameter((embedding.weight.double() @ rotation).float(), requires_grad=False)
    model.config.tie_word_embeddings = False
    behind = [(inner.norm, (output,))]
    for layer in inner.layers:
        attention, mlp = layer.self_attn, layer.mlp
        behind.append((layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)))
        behind.append((layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)))
        for ahead in (attention.o_proj, mlp.down_proj):
            ahead.weight.copy_((rotation.T @ ahead.weight.double()).float())
    for norm, followers in behind:
        for follower in followers:
            follower.weight.copy_((follower.weight.double() * norm.weight.double() @ rotation).float())
        norm.weight.fill_(1.0)


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return those of every next token, ``[n, vocabulary]``."""
    found: Tensor = model(tokens).logits[0].float().log_softmax(-1)
    return found


def line(label: str, form: str, expected: Tensor, found: Tensor) -> str:
    """Return a line of the table."""
    divergence = (expected.exp() * (expected - found)).sum(-1).mean()
    same = (expected.argmax(-1) == found.argmax(-1)).float().mean()
    return f"| {label} | {form} | {divergence:.5f} | {same:.1%} |"


@torch.no_grad()
def packed(model: PreTrainedModel, form: WeightForm, round_trip: RoundTrip) -> None:
    """Replace all matrices by what they stand for in a form."""
    for path, format in formats_of(model, form, is_tied=False).items():
        weight = model.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        weight.copy_(round_trip(format, weight.detach().clone()))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--ggml", type=Path)
    asked = parser.parse_args()
    loaded = load(resolve(asked.model), torch.device("cpu"), torch.float32)
    text = asked.text.read_text(encoding="utf-8")[: 8 * asked.tokens]
    tokens = torch.tensor(loaded.tokenizer.encode(text))[: asked.tokens].unsqueeze(0)
    before = log_probabilities(loaded.model, tokens)
    turn(loaded.model)
    expected = log_probabilities(loaded.model, tokens)
    kept = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    lines = ["| quantiser | form | mean KL | top-1 |", "|---|---|---|---|"]
    lines.append(line("none, turned", "float32", before, expected))
    quantisers = {"lrqk": ours}
    if asked.ggml is not None:
        quantisers["llama.cpp"] = by_ggml(asked.ggml)
    for form in ON_LOAD:
        for label, round_trip in quantisers.items():
            packed(loaded.model, form, round_trip)
            lines.append(line(label, form, expected, log_probabilities(loaded.model, tokens)))
            loaded.model.load_state_dict(kept)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
