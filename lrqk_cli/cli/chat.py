"""``lrqk chat``: documents in, answers out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lrqk_cli.cli import method, options, planning
from lrqk_cli.config import AlsConfig, GenerationConfig, LrqkConfig, default_top_k
from lrqk_cli.errors import UsageError
from lrqk_cli.models.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from lrqk_cli.chat.opening import OpenSession
    from lrqk_cli.chat.rendering import View
    from lrqk_cli.documents import Document

_SETTINGS = LrqkConfig()
_GENERATION = GenerationConfig()
_STDIN = Path("-")


def chat(
    context: typer.Context,
    model: options.Model = DEFAULT_MODEL,
    file: options.File = [],  # noqa: B006 - typer only reads it
    pages: options.Pages = None,
    password: options.Password = None,
    prompt: options.Prompt = None,
    system: options.System = None,
    ctx: options.Context = None,
    vram: planning.Vram = None,
    ram: planning.Ram = None,
    attention: options.Attention = _SETTINGS.attention,
    rank: options.Rank = _SETTINGS.rank,
    index_bits: options.IndexBits = _SETTINGS.index_bits,
    hot: options.Hot = _SETTINGS.hot,
    top_k: options.TopK = None,
    recent: options.Recent = _SETTINGS.recent,
    tail: options.Tail = _SETTINGS.tail,
    segment: options.Segment = _SETTINGS.segment,
    solver: method.Solver = _SETTINGS.solver,
    grouping: method.Grouping = _SETTINGS.grouping,
    hot_policy: method.Policy = _SETTINGS.hot_policy,
    als_init: method.Init = _SETTINGS.als.init,
    als_iterations: method.Iterations = _SETTINGS.als.iterations,
    als_tolerance: method.Tolerance = _SETTINGS.als.tolerance,
    als_penalties: method.Penalties = _SETTINGS.als.penalties,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    offload_weights: options.OffloadWeights = False,
    max_new_tokens: options.MaxNewTokens = _GENERATION.max_new_tokens,
    temperature: options.Temperature = _GENERATION.temperature,
    top_p: options.TopP = _GENERATION.top_p,
    sample_top_k: options.SampleTopK = _GENERATION.sample_top_k,
    repetition_penalty: options.RepetitionPenalty = _GENERATION.repetition_penalty,
    seed: options.Seed = _GENERATION.seed,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Chat about documents, or ask one question with --prompt."""
    als = AlsConfig(als_init, als_iterations, als_tolerance, als_penalties)
    demanded = top_k or default_top_k(hot)
    settings = LrqkConfig(
        attention, rank, index_bits, hot, demanded, recent, tail, segment, solver, grouping, hot_policy, als
    )
    generation = GenerationConfig(max_new_tokens, temperature, top_p, sample_top_k, repetition_penalty, seed)
    question = _read_question(prompt, file, as_json)

    from lrqk_cli.chat.console import stderr_console
    from lrqk_cli.chat.opening import ModelRequest, open_session
    from lrqk_cli.chat.rendering import View

    view = View(stderr_console(), quiet)
    documents = _read_documents(file, pages, password, view)
    wanted = planning.said_settings(context, settings)
    number_format = None if dtype == "auto" else dtype
    request = ModelRequest(model, device, number_format, offload_weights, ctx, vram, ram, wanted)
    questions = None if question is None else [question]
    with open_session(request, documents, system, generation, view, questions) as opened:
        if question is None:
            _converse(opened, view)
        else:
            _answer(opened, question, view, as_json)


def _read_question(prompt: str | None, files: Sequence[Path], as_json: bool) -> str | None:
    """The one question that was asked; None for a chat on the terminal.

    Raises:
        UsageError: there is none, or it would have to come from where a document comes from.
    """
    if prompt is None and not sys.stdin.isatty():
        if _STDIN in files:
            raise UsageError(
                "The document and the question cannot both come from standard input.",
                "Give the question with --prompt.",
            )
        prompt = sys.stdin.read()
    if prompt is None:
        if as_json or _STDIN in files or not sys.stdout.isatty():
            reason = "--json prints one answer" if as_json else "A chat needs a terminal on both sides"
            raise UsageError(f"{reason}, and there is no question.", "Give the question with --prompt.")
        return None
    if not prompt.strip():
        raise UsageError("The question is empty.", "Give it with --prompt, or pipe it in.")
    return prompt.strip()


def _read_documents(
    files: Sequence[Path], pages: str | None, password: str | None, view: View
) -> list[Document]:
    """Read all documents, with a bar; warn of what they say about themselves."""
    if not files:
        return []
    from lrqk_cli.documents import PageSelection, read_documents

    asked: set[Path] = set()

    def ask(path: Path) -> str | None:
        is_repeated = path in asked
        asked.add(path)
        return view.ask_password(path.name, is_repeated) if sys.stdin.isatty() else None

    selection = PageSelection.parse(pages) if pages is not None else None
    with view.reading() as report:
        documents = read_documents(files, pages=selection, password=password or ask, on_progress=report)
    for document in documents:
        for warning in document.warnings:
            view.warn(warning)
    return documents


def _answer(opened: OpenSession, question: str, view: View, as_json: bool) -> None:
    """Ask one question; the answer goes to stdout, as text while it comes or as one JSON object."""
    from lrqk_cli.chat.oneshot import answer_once
    from lrqk_cli.chat.report import build_report, to_json

    answer = answer_once(opened.session, question, view, streams=not as_json)
    if as_json:
        report = build_report(
            answer,
            model=opened.model,
            settings=opened.settings,
            plan=opened.plan,
            documents=opened.session.documents,
            load_s=opened.load_s,
        )
        typer.echo(to_json(report))
    view.statistics(answer)
    if answer.finish_reason == "interrupted":
        raise KeyboardInterrupt


def _converse(opened: OpenSession, view: View) -> None:
    from rich.console import Console

    from lrqk_cli.chat.repl import Repl

    Repl(opened.session, view, Console(highlight=False)).run()
