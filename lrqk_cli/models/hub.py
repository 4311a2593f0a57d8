"""Turn the hub's many failures into one sentence and one hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lrqk_cli.errors import ModelError


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Raise a ModelError for whatever the hub, or the lack of a network, answers inside the block."""
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
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.IncompleteSnapshotError):
        offline = constants.HF_HUB_OFFLINE
        raise ModelError(
            f"The model '{repository}' is not in the local Hugging Face cache, and "
            + ("HF_HUB_OFFLINE forbids fetching it." if offline else "Hugging Face cannot be reached."),
            "Unset HF_HUB_OFFLINE to fetch it." if offline else "Check the network, or name a local folder.",
        ) from None
    except (errors.HfHubHTTPError, ConnectionError, TimeoutError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"The model '{repository}' could not be fetched: {reason[0].rstrip('.')}.",
            "Check the network, then run the same command again; finished files are kept.",
        ) from None
