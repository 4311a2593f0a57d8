"""The output of /sources and --sources."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lrqk_cli.chat.events import AnswerSources
from lrqk_cli.chat.summary import source_label
from lrqk_cli.terminal.charts import levels_for, sparkline


def sources_view(sources: AnswerSources, console: Console) -> RenderableType:
    """Return pages with their share and passage, best first, and a strip of heat for each document."""
    if not sources.pages:
        return Text("There are no documents that the answer could rest on.")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(16, console.width // 3))
    table.add_column(overflow="fold")
    for source in sources.pages:
        table.add_row(f"{source.share:.0%}", source_label(source), source.passage)
    strips = Table(box=None, show_header=False, pad_edge=False)
    longest = max((len(strip.heat) for strip in sources.strips), default=0)
    strips.add_column(no_wrap=True, overflow="crop")
    strips.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, console.width - longest - 2))
    levels = levels_for(console)
    for strip in sources.strips:
        strips.add_row(sparkline(strip.heat, levels), strip.document.title)
    return Group(table, Text(), strips)
