"""GGUF files: reads the configuration once, and loads the weights from the file itself."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.errors import LrqkError, ModelError, OutOfMemoryError
from lrqk_cli.memory.exhaustion import memory_errors
from lrqk_cli.models.classes import meta_model
from lrqk_cli.models.failures import message_of
from lrqk_cli.models.gguf_index import FileVersion, GgufIndex, load_index, read_index, version_of
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.sanity import check_plausible

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from lrqk_cli.models.gguf_weights import Survey

OnTensors = Callable[[int, int], None]

# File in the prepared folder; it exists if the weights are loaded from the GGUF file.
INDEX = "gguf.json"


def read_config(file: Path) -> PreTrainedConfig:
    """The configuration in a GGUF file's header, with transformers' keys.

    Raises:
        ModelError: the file is not a GGUF that can be read.
    """
    from transformers import AutoConfig

    with quiet_transformers(), _readable(file):
        settings = copy.deepcopy(_settings(file, version_of(file)))
        config: PreTrainedConfig = AutoConfig.for_model(**settings)
    # This key marks the weights as packed in GGUF blocks.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


@lru_cache(maxsize=2)
def _settings(file: Path, _: FileVersion) -> dict[str, Any]:
    """Return the configuration in a header; takes seconds, because the whole vocabulary is read."""
    from transformers import PreTrainedConfig

    from lrqk_cli.models.gguf_families import FAMILIES
    from lrqk_cli.models.gguf_families.supplements import supplements
    from lrqk_cli.models.gguf_reader import HeaderValues, lent_header

    index = read_index(file)
    if (family := FAMILIES.get(index.architecture)) is not None:
        settings = family.settings(HeaderValues(file))
    else:
        with lent_header(file):
            settings = PreTrainedConfig.get_config_dict(str(file.parent), gguf_file=file.name)[0]
        # ``rope_parameters`` has it too.
        settings.pop("rope_theta", None)
        settings |= index.expert_sizes() | supplements(HeaderValues(file), settings)
    check_plausible(settings)
    return settings


def prepare(file: Path, folder: Path, config: Mapping[str, Any], on_tensors: OnTensors) -> bool:
    """Write the configuration, the tokenizer and an index of a GGUF file into ``folder``.

    If the file lacks weights under their known names, all weights are unpacked into ``folder`` too, in
    bfloat16: its rounding is a small fraction of the error of the 4 to 8 bit blocks.

    Args:
        config: the model's published configuration; empty to use the header's.
        on_tensors: called with the number of tensors unpacked so far and of all tensors.

    Returns:
        Whether the weights are to be loaded from the file.

    Raises:
        ModelError: the file is not a GGUF that can be read.
    """
    import torch
    from transformers import AutoConfig, GenerationConfig

    from lrqk_cli.models.gguf_families import FAMILIES
    from lrqk_cli.models.gguf_reader import HeaderValues, freed_header
    from lrqk_cli.models.gguf_stops import stop_tokens
    from lrqk_cli.models.gguf_tokenizer import read_tokenizer
    from lrqk_cli.models.gguf_weights import survey

    settings = dict(config)
    with quiet_transformers():
        with _readable(file), freed_header():
            target = AutoConfig.for_model(**settings) if settings else read_config(file)
            target.dtype = torch.bfloat16
            index = read_index(file)
            found = survey(index, target)
            if found.lacking and index.architecture in FAMILIES:
                raise ValueError(f"it lacks {min(found.lacking)}")
            # Before weights are unpacked, which takes minutes: it refuses what it cannot split.
            header = HeaderValues(file)
            tokenizer = read_tokenizer(file, header)
            generation = GenerationConfig.from_model_config(target)
            if not settings:
                generation.eos_token_id = stop_tokens(header) or None
            plain = _unpacked(file, target, on_tensors) if found.lacking else None
        # From here on only writing to the disk can fail.
        tokenizer.save_pretrained(folder)
        if plain is not None:
            plain.generation_config = generation
            plain.save_pretrained(folder)
            return False
        target.save_pretrained(folder)
        generation.save_pretrained(folder)
    replace(index, weights=found.weights).save(folder / INDEX)
    return True


def survey_file(file: Path) -> Survey:
    """Return the survey of a file that has not been prepared.

    Raises:
        ModelError: the file is not a GGUF that can be read.
    """
    from lrqk_cli.models.gguf_weights import survey

    config = read_config(file)
    with quiet_transformers(), _readable(file):
        return survey(read_index(file), config)


def prepared_index(folder: Path) -> GgufIndex | None:
    """Return the index of a prepared file; None if ``prepare`` unpacked its weights.

    Raises:
        ModelError: the index is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    with _readable(path):
        return load_index(path)


def load(
    file: Path,
    folder: Path,
    config: PreTrainedConfig,
    places: Mapping[str, Any],
    dtype: torch.dtype,
    *,
    packed: bool,
    experts_on_host: bool = False,
) -> PreTrainedModel:
    """Build the model from a prepared file.

    Args:
        places: the device of each module, by its path, as torch or accelerate name it; "" for all others.
        folder: the prepared folder.
        packed: keep matrices packed if a kernel can multiply their format.
        experts_on_host: packed experts stay in host memory, which the devices can read.

    Raises:
        ModelError: the file does not hold the model.
    """
    import torch
    from transformers import GenerationConfig

    from lrqk_cli.models.gguf_weights import load_weights

    devices = {path: torch.device(place) for path, place in places.items()}
    with quiet_transformers(), _readable(file):
        index = load_index(folder / INDEX)
        model = load_weights(
            file, index, config, devices, dtype, packed=packed, experts_on_host=experts_on_host
        )
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model


def spread(config: PreTrainedConfig, dtype: torch.dtype, max_memory: Mapping[Any, int]) -> dict[str, Any]:
    """Return the device of each module, by accelerate's rules and names: the first with room.

    Args:
        max_memory: bytes of each device, in the order of filling.

    Raises:
        OutOfMemoryError: the modules do not all fit.
    """
    from accelerate import infer_auto_device_map

    skeleton = meta_model(config)
    whole = list(getattr(skeleton, "_no_split_modules", None) or ())
    found: dict[str, Any] = infer_auto_device_map(
        skeleton, dict(max_memory), no_split_module_classes=whole, dtype=dtype
    )
    if "disk" in found.values():
        raise OutOfMemoryError(
            "The weights do not fit into the memory of all devices together.", "Use a smaller model."
        )
    return found


def _unpacked(file: Path, target: PreTrainedConfig, on_tensors: OnTensors) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    with _unpacking_progress(on_tensors):
        weights = _read_weights(file, target)
    # transformers marks a model read from GGUF as quantised and refuses to save it, although it is unpacked:
    # move the weights into a new model.
    with torch.device("meta"):
        plain: PreTrainedModel = AutoModelForCausalLM.from_config(target)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    return plain


def _read_weights(file: Path, target: PreTrainedConfig) -> dict[str, Any]:
    """All weights of ``target``'s model, unpacked.

    A file may hold a tied matrix twice; the output's copy has finer blocks and is used for both.
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


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        with memory_errors():
            yield
    except LrqkError:
        raise
    except Exception as error:  # the readers of weights and tokenizers may raise anything
        raise ModelError(
            f"'{file.name}' is not a GGUF model that lrqk can read: {message_of(error)}.",
            "Use a complete file of a supported architecture, or a folder with safetensors weights.",
        ) from None


@contextmanager
def _unpacking_progress(on_tensors: OnTensors) -> Iterator[None]:
    """Call ``on_tensors`` from the bar of transformers' GGUF reader, and hide the bar.

    The reader has no callback and no switch for its bar, so this replaces the bar's class while it runs.
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
