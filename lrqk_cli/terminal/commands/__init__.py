"""Slash commands of the interactive loop: a registry, and a module for each kind."""

from lrqk_cli.terminal.commands import (
    conversation,
    documents,
    files,
    information,
    sessions,
    settings,
    sources,
)
from lrqk_cli.terminal.commands.registry import Registry

# tests/terminal/test_commands.py lists the names too.
COMMANDS = Registry(
    (
        *information.COMMANDS,
        *sources.COMMANDS,
        *documents.COMMANDS,
        *conversation.COMMANDS,
        *settings.COMMANDS,
        *sessions.COMMANDS,
        *files.COMMANDS,
        *information.LAST_COMMANDS,
    )
)
