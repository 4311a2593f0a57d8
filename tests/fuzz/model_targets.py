"""Models: GGUF files, and folders with a config, an index of the weights and a tokenizer."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from random import Random

import torch
from converted import converted
from gguf import MODEL_ARCH, get_tensor_name_map
from gguf_files import PLAIN_ADDED, VOCABULARY, write_gguf
from safetensors.torch import load_file
from tiny import save_tiny_chat_model, tiny_model

from fuzz.command_line import lrqk, own_folders
from fuzz.mutations import BOUNDARIES, mutated, mutated_value

# A chat loads the weights too, which takes longer than to describe the model.
_CHATS = 4
_TOKENS = len(VOCABULARY) + len(PLAIN_ADDED)


class Gguf:
    """GGUF files of a family that transformers reads and of one that lrqk reads itself."""

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        self._file = folder / "case.gguf"
        _, hybrid = converted("lfm2", folder / "hybrid.gguf")
        files = (
            llama_gguf(folder / "plain.gguf", None),
            llama_gguf(folder / "packed.gguf", "Q8_0"),
            hybrid,
        )
        self._found = [file.read_bytes() for file in files]

    def run(self, number: int, rng: Random) -> str:
        data = rng.choice(self._found)
        self._file.write_bytes(
            _mutated_header(data, rng) if rng.random() < 0.7 else mutated(data, rng, self._found)
        )
        found = lrqk("info", "--model", self._file, "--json").answer
        if number % _CHATS == 0:
            found += (
                ", chat " + lrqk("chat", "--model", self._file, "--prompt", "x", "--max-new-tokens", 1).answer
            )
        return found


def llama_gguf(path: Path, kind: str | None) -> Path:
    sizes = {"vocab_size": _TOKENS, "hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": True}
    model = tiny_model("llama", **sizes)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, 2)
    tensors = [
        (names.get_name(name, (".weight",)), tensor.to(torch.float32))
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    ]
    values = {"block_count": 2, "context_length": 2048, "embedding_length": 64, "feed_forward_length": 96}
    values |= {"attention.head_count": 4, "attention.head_count_kv": 2, "rope.freq_base": 10000.0}
    values["attention.layer_norm_rms_epsilon"] = 1e-5
    return write_gguf(path, "llama", values, [(name, tensor) for name, tensor in tensors if name], kind)


def _mutated_header(data: bytes, rng: Random) -> bytes:
    """Change the counts, a length, a type or a value, after the name of a key or of a tensor."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        if rng.random() < 0.15:
            start, width = rng.choice(((4, 4), (8, 8), (16, 8)))
        else:
            marks = (
                b"llama.",
                b"lfm2.",
                b"tokenizer.ggml.",
                b"general.",
                b"blk.",
                b"_norm.weight",
                b"token_embd",
            )
            mark = rng.choice([mark for mark in marks if mark in data])
            place = data.index(mark, rng.randrange(data.rindex(mark) + 1))
            start, width = place + rng.randrange(-8, 64), rng.choice((1, 4, 8))
        number = rng.choice((*BOUNDARIES, *range(40))) % (1 << 8 * width)
        data = data[:start] + struct.pack("<Q", number)[:width] + data[start + width :]
    return data


class Folders:
    """A model's folder of which one JSON file, or the header of the weights, has changed."""

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        self._case, self._model = folder / "case", save_tiny_chat_model(folder / "tiny")
        weights = self._model / "model.safetensors"
        names = dict.fromkeys(load_file(weights), "model-00001-of-00001.safetensors")
        weights.rename(self._model / "model-00001-of-00001.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": names}
        (self._model / "model.safetensors.index.json").write_text(json.dumps(index))

    def run(self, number: int, rng: Random) -> str:
        shutil.rmtree(self._case, ignore_errors=True)
        shutil.copytree(self._model, self._case)
        file = rng.choice(sorted(self._case.iterdir()))
        data = file.read_bytes()
        if file.suffix == ".json" and rng.random() < 0.7:
            data = json.dumps(mutated_value(json.loads(data), rng)).encode()
        elif file.suffix == ".safetensors" and rng.random() < 0.7:
            data = self._with_header(data, rng)
        else:
            data = mutated(data, rng, [data])
        file.write_bytes(data)
        found = lrqk("info", "--model", self._case, "--json").answer
        if number % _CHATS == 0:
            found += (
                ", chat " + lrqk("chat", "--model", self._case, "--prompt", "x", "--max-new-tokens", 1).answer
            )
        return found

    def _with_header(self, data: bytes, rng: Random) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.dumps(mutated_value(json.loads(data[8 : 8 + length]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + length :]
