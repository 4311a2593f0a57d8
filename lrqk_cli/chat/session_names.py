"""Names of sessions: never a path, and safe to print."""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections.abc import Container
from itertools import count

from lrqk_cli.chat.printable import printable
from lrqk_cli.errors import UsageError

_LONGEST = 100
# Characters of the first document's title in a name that was not given.
_LONGEST_TITLE = 30


def session_name(text: str) -> str:
    """Return the name that a user gave, in Unicode's composed form and without blanks around it.

    Raises:
        UsageError: it is empty, a path, an option or too long, or has control characters.
    """
    name = unicodedata.normalize("NFC", text).strip()
    hint = "Type a plain name, such as: talk"
    if not name or name in (".", "..") or {"/", "\\", os.sep} & set(name) or name.startswith(("~", "-")):
        raise UsageError(f"'{text}' is not the name of a session.", hint)
    if printable(name) != name or "\n" in name or "\t" in name:
        raise UsageError("The name of a session cannot have control characters.", hint)
    if len(name) > _LONGEST:
        raise UsageError(f"The name of a session has at most {_LONGEST} characters.", hint)
    return name


def new_name(title: str | None, taken: Container[str], now: float | None = None) -> str:
    """Return a name that is not taken: the date, the time, and the title of the first document."""
    words = "-".join(re.findall(r"\w+", (title or "").rpartition(".")[0] or title or ""))
    moment = time.strftime("%Y-%m-%d-%H%M", time.localtime(now))
    start = "-".join(filter(None, (moment, words[:_LONGEST_TITLE].strip("-"))))
    name = session_name(start)
    return next(
        found for number in count(1) if (found := f"{name}-{number}" if number > 1 else name) not in taken
    )
