"""Loads a model from a folder of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import WeightForm
from lrqk_cli.errors import ModelError
from lrqk_cli.models.classes import causal_model_class
from lrqk_cli.models.failures import load_errors
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.weights import check_finite, check_weight_files, damaged_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


# Quantisation methods whose packed weights only their own libraries can read.
_FOREIGN = (
    "aqlm",
    "auto-round",
    "awq",
    "bitnet",
    "bitsandbytes",
    "eetq",
    "gptq",
    "higgs",
    "hqq",
    "spqr",
    "vptq",
)


def load_checkpoint(
    name: str,
    folder: Path,
    options: dict[str, Any],
    form: WeightForm | None,
    *,
    experts_on_host: bool = False,
) -> PreTrainedModel:
    """Load a folder of safetensors.

    Args:
        name: the user's name of the model.
        options: keyword arguments of ``from_pretrained``, ``config`` included.
        form: the form into which loading packs the weights; None for plain numbers.
        experts_on_host: packed experts stay in host memory, which the model's device can read.

    Raises:
        ModelError: weights are missing or damaged, or do not match the configuration.
    """
    check_weight_files(name, folder)
    # This key could redirect loading to another file or index.
    options["config"].transformers_weights = None
    packer = None
    if form is not None:
        from lrqk_cli.models import on_load

        packer = on_load.quantisation(form, experts_on_host=experts_on_host)
        options["quantization_config"] = packer
    with load_errors(name), quiet_transformers():
        try:
            loaded: Any = causal_model_class(options["config"]).from_pretrained(
                str(folder),
                trust_remote_code=False,
                use_safetensors=True,
                weights_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
        except RuntimeError:
            if packer is None or packer.failure is None:
                raise
            raise packer.failure from None
    model: PreTrainedModel
    model, report = loaded
    mismatched = {str(key[0]) for key in report["mismatched_keys"]}
    missing = set(report["missing_keys"])
    if packer is not None:
        packing = on_load.finish(model)
        mismatched |= packing.mismatched
        missing -= packing.tied
        if packing.damaged:
            raise damaged_weights(name, min(packing.damaged))
    if mismatched:
        raise ModelError(
            f"The weights of '{name}' do not have the shapes that its configuration says, "
            f"such as {min(mismatched)}.",
            "Fetch it again, or check that config.json and the weights belong together.",
        )
    if missing:
        raise ModelError(
            f"The model '{name}' lacks {len(missing)} of its weights, such as {min(missing)}.",
            "Fetch it again, or check that config.json and the weights belong together.",
        )
    check_finite(name, model)
    model.requires_grad_(False)
    return model


def check_quantisation(name: str, config: PreTrainedConfig, form: WeightForm | None) -> None:
    """Refuse a checkpoint whose weights another tool has packed, unless transformers unpacks them.

    Raises:
        ModelError: the message names the method.
    """
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return
    method = str(stated.get("quant_method") if isinstance(stated, dict) else stated.quant_method)
    method = method.rpartition(".")[2].lower().replace("_", "-")
    if form is None and method not in _FOREIGN:  # transformers unpacks it
        return
    raise ModelError(
        f"The weights of '{name}' are packed by {method} already, which lrqk does not "
        + ("read." if form is None else f"pack in {form}."),
        "Use a GGUF file, or the checkpoint that it was made from with `weights` q4.",
    )
