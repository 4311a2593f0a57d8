"""What sets options beside flags: variables, and the config file.

The file is TOML with one table per command, whose keys are the command's options.

.. code-block:: toml

    [chat]
    model = "smollm2-135m"
    ctx = "8k"
    top-k = 256
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lrqk_cli.errors import UsageError, did_you_mean
from lrqk_cli.system_errors import reason_of
from lrqk_cli.user_folders import expanded, user_folder

CONFIG_VARIABLE = "LRQK_CONFIG"
_PREFIX = "LRQK_"
# Of a variable that may have been meant: names such as VERSION and SESSION have much in common.
_LIKENESS = 0.8
# Variables that are no option's. The last two are of lrqk's tests.
_OTHERS = (CONFIG_VARIABLE, "LRQK_CACHE_DIR", "LRQK_MANAGED_MEMORY", "LRQK_RECORD", "LRQK_TEST_DATA")


def unread_variables(of_options: Iterable[str]) -> list[str]:
    """Return a warning for each variable of lrqk's that nothing reads.

    In the config file that is a failure; but other versions of lrqk may share the environment.

    Args:
        of_options: the variables of the options of all commands.
    """
    known = {name.removeprefix(_PREFIX) for name in (*of_options, *_OTHERS)}
    set_here = {name.removeprefix(_PREFIX) for name in os.environ if name.startswith(_PREFIX)}
    warnings = []
    for name in sorted(set_here - known):
        close = get_close_matches(name, sorted(known), 1, _LIKENESS)
        hint = f"Did you mean {_PREFIX}{close[0]}?" if close else "'lrqk COMMAND --help' has the options."
        warnings.append(f"The variable {_PREFIX}{name} sets no option. {hint}")
    return warnings


def config_path() -> Path:
    """Return the path of the config file: ``LRQK_CONFIG``, else one in the platform's config folder."""
    if named := os.environ.get(CONFIG_VARIABLE):
        return expanded(Path(named))
    return user_folder("config") / "config.toml"


def load_defaults(path: Path, options: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Read the defaults of every command.

    Args:
        path: the config file; a missing one means no defaults, unless ``LRQK_CONFIG`` names it.
        options: command -> name of an option, such as ``top-k`` -> click's name for it.

    Returns:
        command -> click's name of an option -> value: a click ``default_map``.

    Raises:
        UsageError: the file cannot be read, or a table or key is unknown.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get(CONFIG_VARIABLE):
            raise UsageError(
                f"There is no config file '{path}'.", f"Correct or unset {CONFIG_VARIABLE}."
            ) from None
        return {}
    except OSError as error:
        raise UsageError(
            f"The config file '{path}' cannot be read: {reason_of(error)}.",
            "Check the path and its permissions.",
        ) from error
    # A number of thousands of digits is a ValueError of its own.
    except ValueError as error:
        raise UsageError(
            f"The config file '{path}' is not valid TOML: {error}.", "Correct that line."
        ) from error
    except RecursionError as error:
        raise UsageError(
            f"The config file '{path}' has values in one another too deeply.", "Correct or remove it."
        ) from error
    return {command: _read_table(path, command, table, options) for command, table in tables.items()}


def _read_table(
    path: Path, command: str, table: object, options: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(
            f"'{command}' stands outside a table in the config file '{path}'.",
            f"Write it below the name of its command, such as [{next(iter(options))}].",
        )
    if command not in options:
        raise _unknown(path, command, options, "table")
    known = options[command]
    defaults = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in known:
            raise _unknown(path, key, known, f"[{command}] setting")
        defaults[known[name]] = value
    return defaults


def _unknown(path: Path, key: str, known: Iterable[str], kind: str) -> UsageError:
    hint = did_you_mean(key.replace("_", "-"), known)
    return UsageError(f"The config file '{path}' has an unknown {kind} '{key}'.", hint)
