"""A model from a folder of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import WeightForm
from lrqk_cli.errors import ModelError
from lrqk_cli.models.failures import load_errors
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.weights import check_finite, check_weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


# Methods whose packed weights only their own libraries read.
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
    name: str, folder: Path, options: dict[str, Any], form: WeightForm | None
) -> PreTrainedModel:
    """Load a folder of safetensors.

    Args:
        name: what the user called the model.
        options: of ``from_pretrained``, the configuration among them.
        form: into which the weights are packed meanwhile; None for plain numbers.

    Raises:
        ModelError: weights are missing, damaged, or not of the model that the configuration describes.
    """
    from transformers import AutoModelForCausalLM

    check_weight_files(name, folder)
    _check_quantisation(name, options["config"], form)
    # With this key a config names another file or index.
    options["config"].transformers_weights = None
    if form is not None:
        from lrqk_cli.models import on_load

        options["quantization_config"] = on_load.quantisation(form)
    with load_errors(name), quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            trust_remote_code=False,
            use_safetensors=True,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    model: PreTrainedModel
    model, report = loaded
    mismatched = {str(key[0]) for key in report["mismatched_keys"]}
    if form is not None:
        mismatched |= on_load.finish(model)
    if mismatched:
        raise ModelError(
            f"The weights of '{name}' do not have the shapes that its configuration says, "
            f"such as {min(mismatched)}.",
            "Fetch it again, or check that config.json and the weights belong together.",
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"The model '{name}' lacks {len(missing)} of its weights, such as {missing[0]}.",
            "Fetch it again, or check that config.json and the weights belong together.",
        )
    check_finite(name, model)
    model.requires_grad_(False)
    return model


def _check_quantisation(name: str, config: PreTrainedConfig, form: WeightForm | None) -> None:
    stated = getattr(config, "quantization_config", None)
    if not stated:
        return
    method = str(stated.get("quant_method") if isinstance(stated, dict) else stated.quant_method)
    method = method.rpartition(".")[2].lower().replace("_", "-")
    if form is None and method not in _FOREIGN:  # transformers unpacks it
        return
    raise ModelError(
        f"The weights of '{name}' are packed by {method} already, which lrqk does not "
        + ("read." if form is None else f"pack in {form}."),
        "Use a GGUF file, or the checkpoint that it was made from with --weights q4.",
    )
