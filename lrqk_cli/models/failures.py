"""Turn failures of the hub, transformers and safetensors into one sentence and one hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from lrqk_cli.errors import LrqkError, ModelError, UnsupportedModelError, UsageError
from lrqk_cli.memory.exhaustion import memory_errors

_CONFIG_HINT = "Check its config.json, or fetch the model again."
_HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
# The most characters of a library's message.
_LONGEST_REASON = 200


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Raise a ModelError if the hub or the network fails inside the block."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(
            f"The model '{repository}' is gated: its owner must grant access first.",
            f"Ask for access at https://huggingface.co/{repository}, then log in with: hf auth login.",
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ModelError(
            f"There is no model '{repository}' on Hugging Face, or it is private.",
            "Check the name, or log in with: hf auth login.",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"The model '{repository}' has no such revision.", "Check the branch, tag or commit."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        offline = constants.HF_HUB_OFFLINE
        raise ModelError(
            f"The model '{repository}' is not in the local Hugging Face cache, and "
            + ("HF_HUB_OFFLINE forbids fetching it." if offline else "Hugging Face cannot be reached."),
            "Unset HF_HUB_OFFLINE to fetch it." if offline else "Check the network, or name a local folder.",
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise ModelError(
            f"The model '{repository}' lacks a file that lrqk needs.",
            "It needs config.json, weights as safetensors and a tokenizer; a GGUF file of a repository is "
            "named as in owner/name:Q4_K_M.",
        ) from None
    except Exception as error:
        # The hub's HTTP client differs between releases, and each client has its own exceptions. A file that
        # came in part is an OSError that is none of the system.
        is_client = type(error).__module__.partition(".")[0] in _HTTP_CLIENTS
        is_partial = isinstance(error, OSError) and error.errno is None
        if (
            is_client
            or is_partial
            or isinstance(error, (errors.HfHubHTTPError, ConnectionError, TimeoutError))
        ):
            reason = message_of(error)
        elif isinstance(error, (ValueError, TypeError, LookupError, AttributeError)):
            reason = "what answers is not Hugging Face"  # but the page of a network to sign in, for instance
        else:
            raise
        raise ModelError(
            f"The model '{repository}' could not be fetched: {reason}.",
            "Check the network, then run the same command again; finished files are kept. "
            "Or name a local folder.",
        ) from None


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Raise an LrqkError if transformers or safetensors fail on a model inside the block.

    They may raise any exception, because they do not validate configurations.
    """
    from safetensors import SafetensorError

    try:
        with memory_errors():
            yield
    except LrqkError:
        raise
    except SafetensorError as error:
        raise ModelError(
            f"A weight file of '{name}' is damaged: {message_of(error)}.", "Fetch the model again."
        ) from None
    except Exception as error:
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise ModelError(
                f"The model '{name}' needs code from its own repository, which lrqk never runs.",
                "Use a model whose architecture transformers knows.",
            ) from None
        raise ModelError(
            f"The model '{name}' cannot be loaded: {message_of(error)}.",
            "It needs config.json, weights as safetensors and a tokenizer that this transformers knows.",
        ) from None


@contextmanager
def config_errors() -> Iterator[None]:
    """Raise a ModelError if reading a configuration fails inside the block."""
    try:
        with memory_errors():
            yield
    except UsageError as error:
        # The bad settings are the model's, not the user's.
        raise ModelError(error.message, error.hint or _CONFIG_HINT) from None
    except LrqkError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model's configuration cannot be read: {message_of(error)}.", _CONFIG_HINT
        ) from None


def message_of(error: Exception) -> str:
    """Return an exception's message as the end of a sentence, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[:2] if lines[0].endswith(":") else lines[:1]
    text = " ".join(line.strip() for line in said).rstrip(".:")
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"


def refuse(feature: str, where: str) -> NoReturn:
    """Raise ``UnsupportedModelError``: the model has a feature that the engine does not implement."""
    raise UnsupportedModelError(
        f"The model has {feature} ({where}), which lrqk does not support.",
        "Use a model with full or sliding-window attention, such as Llama, Qwen, Mistral, Phi-3 or Gemma.",
    )
