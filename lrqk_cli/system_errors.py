"""Why the system refused to read or write a file, in words."""

from __future__ import annotations

import errno

from lrqk_cli.errors import LrqkError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What befalls any file: the disk, its permissions, the limits of the process. Others show a fault of lrqk.
_REFUSALS = frozenset(
    {
        *_FULL,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOLCK,
    }
)


def reason_of(error: OSError) -> str:
    """Return the reason of a failure in a few words, as the end of a sentence."""
    if error.errno in _FULL:
        return "the disk is full"
    return (error.strerror or str(error) or "unknown reason").lower().rstrip(".")


def refusal_of(error: BaseException) -> LrqkError | None:
    """Return the error to show for a file that the system refuses, whichever it is; None for any other."""
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    return LrqkError(
        f"{error.filename or 'A file'} cannot be read or written: {reason_of(error)}.",
        "Check the disk and its permissions, then do it again.",
    )
