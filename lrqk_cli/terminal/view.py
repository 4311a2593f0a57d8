"""Progress bars, statistics and warnings, all on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lrqk_cli.chat.events import Answer, Message, Notice, Remark
from lrqk_cli.chat.printable import printable
from lrqk_cli.chat.summary import plan_line, settings_label, statistics_line
from lrqk_cli.documents import ReadProgress, ReadStage
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.memory.plan import Plan
from lrqk_cli.memory.units import format_bytes
from lrqk_cli.models.progress import OnProgress, PullProgress
from lrqk_cli.naming import COMMAND_LINE, Surface
from lrqk_cli.terminal.console import print_message
from lrqk_cli.terminal.live import SteadyLive
from lrqk_cli.terminal.reading import LONG_S, ReadingAnnouncer

_STAGES: dict[str, str] = {
    "wait": "Waiting for another lrqk to fetch",
    "fetch": "Fetching",
    "join": "Checking",
    "prepare": "Preparing",
}
_READING: dict[ReadStage, str] = {"fetch": "Fetching", "read": "Opening", "recognise": "Recognising"}
_LOOKING_UP = "Looking up"
_BYTE_STAGES = frozenset({"fetch", "join"})
_ENDINGS = {
    "length": "The answer stopped at `max_new_tokens`.",
    "context": "The answer stopped because the context is full. A larger `context` holds more.",
}


class StatusLine:
    """A line in reverse video whose text is computed at every drawing.

    Args:
        text: returns the line for a width in columns.
    """

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self._text(options.max_width), style="reverse", no_wrap=True)


class _TokenSpeed(ProgressColumn):
    """Tokens per second, as the engine reports them."""

    def render(self, task: Task) -> Text:
        speed = task.fields.get("speed", 0.0)
        return Text(f"{speed:,.0f} tokens/s" if speed else "")


class _TimeLeft(ProgressColumn):
    """Time left at the engine's reported speed, counted down between two reports."""

    def render(self, task: Task) -> Text:
        ends_at = task.fields.get("ends_at")
        if ends_at is None:
            return Text("-:--")
        minutes, seconds = divmod(max(0, round(ends_at - time.monotonic())), 60)
        return Text(f"{minutes}:{seconds:02}")


class _Amount(ProgressColumn):
    """Amount done and total; in bytes if the task says so."""

    def render(self, task: Task) -> Text:
        write = format_bytes if task.fields.get("as_bytes") else "{:,.0f}".format
        return Text(f"{write(task.completed)}/{write(task.total)}" if task.total else "")


class View:
    """The output of a run beside its answers.

    Args:
        console: the console on stderr.
        quiet: show warnings only.
        bell: ring at the end of long work.

    Attributes:
        attention: label of the settings in the statistics; empty until they are known.
        surface: what settings are called where this is read.
    """

    def __init__(self, console: Console, quiet: bool = False, bell: bool = True) -> None:
        self.console = console
        self.quiet = quiet
        self.attention = ""
        self.surface: Surface = COMMAND_LINE
        self._bell = bell
        self._bar_on_screen: SteadyLive | None = None

    @property
    def is_live(self) -> bool:
        """Whether to draw bars: on a terminal that can redraw a line, unless quiet."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.quiet

    def ring(self, seconds: float) -> None:
        """Ring the terminal's bell if work took longer than ``LONG_S``."""
        if self._bell and not self.quiet and seconds >= LONG_S:
            self.console.bell()

    def warn(self, message: str) -> None:
        """Print a warning; also when quiet."""
        print_message(self.console, "Warning", "yellow", self.surface.message(message))

    def note(self, message: str) -> None:
        """Print a less important message; not when quiet."""
        if not self.quiet:
            text = Text(self.surface.message(message), style="dim")
            self.console.print(text, soft_wrap=not self.console.is_terminal)

    def tell(self, event: Message) -> None:
        """Show a message of a conversation."""
        if isinstance(event, Notice):
            self.warn(event.message)
        elif isinstance(event, Remark):
            self.note(event.message)
        else:
            self.note(f"{event.tokens:,} of {event.total:,} tokens were read before and are restored.")

    def planned(self, plan: Plan) -> None:
        """Print a plan; the statistics name its settings from now on."""
        self.attention = settings_label(plan.config)
        self.note(plan_line(plan))

    @contextmanager
    def reading(self) -> Iterator[Callable[[ReadProgress], None]]:
        """A bar for the pages of files; ``ask_password`` may be called meanwhile."""

        def report(item: ReadProgress) -> None:
            label = f"{_READING[item.stage]} {item.title}"
            label += f" ({item.file} of {item.files})" if item.files > 1 else ""
            if item.stage == "fetch":
                if not self.is_live and not item.done:
                    self.note(f"{label}.")
                label += f", {format_bytes(item.done)}"
            progress.update(task, description=label, completed=item.fraction)

        progress = self._bar(TimeRemainingColumn(compact=True))
        task = progress.add_task("Opening", total=1)
        with self._drawing(progress) as self._bar_on_screen:
            yield report
        self._bar_on_screen = None

    @contextmanager
    def drawing_pages(self) -> Iterator[Callable[[int, int], None]]:
        """A bar for pages that are drawn; its value is called with those that are drawn, and all."""
        progress = self._bar(_Amount(), TimeRemainingColumn(compact=True))
        task = progress.add_task("Drawing pages", total=None)
        with self._drawing(progress):
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def ask_password(self, title: str, is_repeated: bool) -> str | None:
        """Ask for a document's password on the terminal, hidden; None if none is given."""
        from getpass import getpass

        bar = self._bar_on_screen
        if bar is not None:
            bar.stop()
        try:
            return getpass(f"{'Wrong. ' if is_repeated else ''}Password of {printable(title)}: ") or None
        except EOFError:
            return None
        finally:
            if bar is not None:
                bar.start()

    @contextmanager
    def pulling(self, name: str, otherwise: str = _LOOKING_UP) -> Iterator[OnProgress]:
        """A bar for every stage of fetching a model; without bars, one line a stage.

        ``otherwise`` labels the work outside the stages. Any thread may call the context's value.
        """
        tasks: dict[str, TaskID] = {}

        def report(item: PullProgress) -> None:
            if item.stage not in tasks:
                label = f"{_STAGES[item.stage]} {name}"
                tasks[item.stage] = progress.add_task(label, as_bytes=item.stage in _BYTE_STAGES)
                if not self.is_live:
                    self.note(f"{label}.")
            goes_on = not item.total or item.done < item.total
            for stage, task in tasks.items():
                progress.update(task, visible=goes_on and stage == item.stage)
            progress.update(outside, visible=not goes_on)
            progress.update(tasks[item.stage], completed=item.done, total=item.total or None)

        progress = self._bar(_Amount(), TimeRemainingColumn(compact=True))
        outside = progress.add_task(f"{otherwise} {name}", total=None)
        if not self.is_live and otherwise != _LOOKING_UP:
            self.note(f"{otherwise} {name}.")
        with self._drawing(progress):
            yield report

    @contextmanager
    def prefilling(
        self, label: str, status: Callable[[int], str] | None = None
    ) -> Iterator[Callable[[PrefillProgress], None]]:
        """A bar of tokens with speed and time left, above an optional status line; without bars, lines.

        ``status`` returns the status line for a width in columns; it is called a few times a second.
        """
        progress = self._bar(_Amount(), _TokenSpeed(), _TimeLeft())
        task = progress.add_task(label, total=None)
        parts: list[RenderableType] = [progress] if status is None else [progress, StatusLine(status)]
        announcer = ReadingAnnouncer(self.note, goes_on=not self.is_live)

        def update(item: PrefillProgress) -> None:
            left = item.seconds_left
            ends_at = None if left is None else time.monotonic() + left
            progress.update(
                task, completed=item.done, total=item.total, speed=item.tokens_per_second, ends_at=ends_at
            )
            announcer.tell(item)

        with self._drawing(Group(*parts)):
            yield update

    def statistics(self, answer: Answer) -> None:
        """Print why the answer stopped early or is empty, if so, and then its statistics."""
        if message := _ENDINGS.get(answer.finish_reason):
            self.note(message)
        elif answer.reasoning and not answer.text and answer.finish_reason == "stop":
            self.note("The model ended with its reasoning, without an answer.")
        self.note(statistics_line(answer, self.attention))

    def _bar(self, *columns: ProgressColumn) -> Progress:
        # Drawn by ``_drawing``, not by itself.
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *columns,
            console=self.console,
            auto_refresh=False,
            expand=True,
        )

    def _drawing(self, content: RenderableType) -> AbstractContextManager[SteadyLive | None]:
        return SteadyLive(content, self.console) if self.is_live else nullcontext()
