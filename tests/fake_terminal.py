"""A chat with a fake engine, as a program: tests run it on a pseudo-terminal."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fake_chat import MARKS, PASSAGE, FakeDocument, FakeEngine, FakePrompt, new_session, report_document

from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.events import PrefillProgress, Step
from lrqk_cli.errors import LrqkError, ModelError
from lrqk_cli.terminal import view
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands import COMMANDS
from lrqk_cli.terminal.completion import ChatCompleter
from lrqk_cli.terminal.console import stderr_console, stdout_console
from lrqk_cli.terminal.line_reader import LineReader, open_history
from lrqk_cli.terminal.repl import Repl
from lrqk_cli.terminal.toolbar import status_line
from lrqk_cli.terminal.view import View

MARKDOWN = """\
## Findings

The plant at **Brannock** employs `412` people, *most* of them in the foundry, which was built in 1974 and \
has been enlarged twice since.

1. Turbines
2. Pumps

| plant | people |
|---|---|
| Brannock | 412 |
| Hale | 97 |

```python
total = 412 + 97
```

That is all.$"""

THOUGHT = """\
{The user asks how many people work at the plant. Page 8 has a table of the plants, \
and the first row says Brannock, 412.

- Brannock: 412
- Hale: 97, which is not asked for

\x1b[31mSo the answer is 412.
}

"""


@dataclass
class SlowEngine(FakeEngine):
    """Takes its time."""

    pause: float = 0.0
    read_pause: float = 0.0

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        finishes: bool = True,
        on_layer: Callable[[int], None] | None = None,
    ) -> Generator[PrefillProgress, None, None]:
        for progress in super().prefill(tokens, finishes=finishes, on_layer=on_layer):
            time.sleep(self.read_pause)
            yield progress

    def generate(
        self, generation: GenerationConfig, stop_ids: Collection[int], *demands: object
    ) -> Generator[Step, None, None]:
        for step in super().generate(generation, stop_ids, *demands):
            time.sleep(self.pause)
            yield step


def read_documents(paths: Sequence[Path], _: object) -> list[FakeDocument]:
    return [FakeDocument(path.name, ["more text", "and more"]) for path in paths]


def look_up(model: str, *_: object) -> None:
    if model != "huge":
        raise ModelError(f"There is no model '{model}'.", "Choose another.")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--read-pause", type=float, default=0.0)
    parser.add_argument("--think", action="store_true")
    parser.add_argument("--cites", action="store_true", help="answers rest on page 8 of a real file")
    parser.add_argument("--history", type=Path)
    parser.add_argument("--long-after", type=float, default=view.LONG_S)
    arguments = parser.parse_args()
    view.LONG_S = arguments.long_after
    thinks = arguments.think
    engine = SlowEngine(answer=THOUGHT * thinks + MARKDOWN, context=100_000, segment=16)
    engine.pause, engine.read_pause = arguments.pause, arguments.read_pause
    session = new_session(
        engine,
        [report_document() if arguments.cites else FakeDocument("report.pdf", ["x" * 200] * 4)],
        GenerationConfig(think=None if thinks else 0),
        trained_context=100_000,
        prompt=FakePrompt(marks=MARKS, thinks=thinks),
    )
    if arguments.cites:
        engine.looks_at = PASSAGE
        session.note_sources(True)
    console = stdout_console()
    ctx = CommandContext(
        session=session,
        model="tiny",
        view=View(stderr_console()),
        console=console,
        read_documents=read_documents,
        look_up=look_up,
        threads=4,
    )
    toolbar: Callable[[], str] = lambda: status_line(session.status(), console.width, "tiny")  # noqa: E731
    completer = ChatCompleter(COMMANDS, lambda: ["tiny", "huge"])
    try:
        Repl(ctx, LineReader(open_history(arguments.history), completer, toolbar)).run()
    except KeyboardInterrupt:
        return 130
    except LrqkError as error:
        sys.stderr.write(error.message)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
