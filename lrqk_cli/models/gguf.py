"""GGUF files: read the configuration, unpack the blocks once to what ``from_pretrained`` reads plainly."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.errors import LrqkError, ModelError
from lrqk_cli.memory.exhaustion import memory_errors
from lrqk_cli.models.failures import reason_of
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.sanity import check_plausible

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OnTensors = Callable[[int, int], None]


def read_config(file: Path) -> PreTrainedConfig:
    """The configuration in a GGUF file's header, in transformers' words.

    Raises:
        ModelError: the file is not a GGUF that transformers can read.
    """
    from transformers import AutoConfig, PreTrainedConfig

    with quiet_transformers(), _readable(file):
        settings, _ = PreTrainedConfig.get_config_dict(str(file.parent), gguf_file=file.name)
        check_plausible(settings)
        config: PreTrainedConfig = AutoConfig.for_model(**settings)
    return _plain(config)


def unpack(file: Path, folder: Path, config: Mapping[str, Any], on_tensors: OnTensors) -> None:
    """Write weights, configuration, tokenizer and generation settings of ``file`` into ``folder``.

    The weights are kept in bfloat16: its rounding is a small fraction of the error of the 4 to 8 bit blocks
    that they come from, and it halves the folder.

    Args:
        config: the model's published configuration; empty to take what the header says.
        on_tensors: called with the tensors unpacked so far and their number.

    Raises:
        ModelError: the file is not a GGUF that transformers can read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    settings = dict(config)
    with quiet_transformers():
        with _readable(file), _unpacking_progress(on_tensors):
            target = AutoConfig.for_model(**settings) if settings else read_config(file)
            target.dtype = torch.bfloat16
            weights = _read_weights(file, target)
            # A model read from GGUF counts as quantised and refuses to be saved, although its blocks are
            # unpacked: move the weights into a fresh one.
            with torch.device("meta"):
                plain = AutoModelForCausalLM.from_config(target)
            plain.load_state_dict(weights, assign=True)
            plain.tie_weights()
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        # What fails from here on is the disk.
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _read_weights(file: Path, target: PreTrainedConfig) -> dict[str, Any]:
    """All weights of ``target``'s model, unpacked.

    A file may hold a tied matrix twice, the output's copy in the finer blocks: that one serves for both.
    """
    from transformers import AutoModelForCausalLM

    untied = copy.deepcopy(target)
    untied.tie_word_embeddings = False
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, config=untied, dtype=target.dtype, output_loading_info=True
    )
    model, report = loaded
    missing = set(report["missing_keys"])
    if target.tie_word_embeddings:
        output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if "lm_head.weight" in missing:
            output.weight = embedding.weight
            missing.discard("lm_head.weight")
        else:
            embedding.weight = output.weight
    if missing:
        raise ValueError(f"it lacks {min(missing)}")
    weights: dict[str, Any] = model.state_dict()
    return weights


def _plain(config: PreTrainedConfig) -> PreTrainedConfig:
    """Drop what says that the weights still lie in GGUF blocks."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        with memory_errors():
            yield
    except LrqkError:
        raise
    except Exception as error:  # the readers of weights and tokenizers raise whatever they stumble over
        raise ModelError(
            f"'{file.name}' is not a GGUF model that transformers can read: {reason_of(error)}.",
            "Use a complete file of a supported architecture, or a folder with safetensors weights.",
        ) from None


@contextmanager
def _unpacking_progress(on_tensors: OnTensors) -> Iterator[None]:
    """Hear of the unpacked tensors from the bar of transformers' GGUF reader, and keep it off the screen.

    The reader has no callback and no switch for its bar, so the name it calls is replaced while it runs.
    """
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")

    def counted(tensors: Iterable[Any], **_: Any) -> Iterator[Any]:
        listed = list(tensors)
        for number, tensor in enumerate(listed):
            yield tensor
            on_tensors(number + 1, len(listed))

    original = reader.tqdm
    reader.tqdm = counted
    try:
        yield
    finally:
        reader.tqdm = original
