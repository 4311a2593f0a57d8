"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable

from fuzz import (
    degenerate_texts,
    ending_targets,
    interrupt_targets,
    kept_targets,
    memory_targets,
    model_targets,
    network_targets,
    number_targets,
    read_targets,
    surroundings_targets,
    typed_targets,
)
from fuzz.campaign import Target

TARGETS: dict[str, Callable[[], Target]] = {
    "pdf": read_targets.pdf,
    "drawing": read_targets.Drawings,
    "office": read_targets.office,
    "text": read_targets.text,
    "gguf": model_targets.Gguf,
    "folder": model_targets.Folders,
    "cache": kept_targets.PrefixCache,
    "sessions": kept_targets.Sessions,
    "saved": kept_targets.SavedFiles,
    "values": typed_targets.Values,
    "lines": typed_targets.Lines,
    "config": typed_targets.Config,
    "numbers": number_targets.Numbers,
    "degenerate": degenerate_texts.DegenerateTexts,
    "disk": surroundings_targets.FailingDisk,
    "folders": surroundings_targets.StrangeFolders,
    "clock": surroundings_targets.JumpingClock,
    "network": network_targets.Network,
    "interrupts": interrupt_targets.ChatSignals,
    "endings": ending_targets.CommandSignals,
    "memory": memory_targets.Memory,
}
