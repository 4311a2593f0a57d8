"""One question, one answer."""

from __future__ import annotations

import time
from contextlib import ExitStack

from lrqk_cli.chat.events import Answer, Notice, TextDelta
from lrqk_cli.chat.session import Session
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.terminal.interrupts import Interrupts
from lrqk_cli.terminal.streaming import PlainStream
from lrqk_cli.terminal.view import View


def answer_once(session: Session, question: str, view: View, *, streams: bool) -> Answer:
    """Ask one question, with progress on stderr.

    Args:
        session: the conversation.
        question: the question.
        view: shows progress and warnings.
        streams: write the answer to stdout while it is generated.

    Returns:
        The answer; ``interrupted`` if Ctrl-C stopped it.

    Raises:
        ContextLengthError: the documents and the question do not fit.
        KeyboardInterrupt: Ctrl-C before the answer began, or twice.
    """
    add = None

    def leave() -> None:
        # Before the answer begins, Ctrl-C leaves at once; after that it only sets the flag. If a library's
        # callback swallows the exception, the flag stops the session after the segment.
        if add is None:
            raise KeyboardInterrupt

    began = time.monotonic()
    interrupts = Interrupts(leave)
    with interrupts, ExitStack() as bar, ExitStack() as stream:
        update = bar.enter_context(view.prefilling("Reading"))
        session.watch_reading(update)
        for event in session.ask(question, interrupts):
            if isinstance(event, PrefillProgress):
                update(event)
            elif isinstance(event, Notice):
                view.warn(event.message)
            elif isinstance(event, TextDelta):
                if add is None:
                    bar.close()
                    add = stream.enter_context(PlainStream()).add if streams else _discard
                add(event.text)
            elif add is None and interrupts():
                raise KeyboardInterrupt
            else:
                if not interrupts():
                    view.ring(time.monotonic() - began)
                return event
    raise AssertionError("A session ends with an answer.")


def _discard(text: str) -> None:
    """Show nothing: the caller prints the whole answer at the end."""
