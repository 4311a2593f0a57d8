"""``lrqk chat``: documents in, answers out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import typer

from lrqk_cli.cli import chat_options, chat_sessions, endpoints, options, questions
from lrqk_cli.cli.attention_options import AttentionChoices, with_attention_options
from lrqk_cli.cli.failures import warn_of_transformers
from lrqk_cli.config import GenerationConfig
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import Location, locate, split_variable
from lrqk_cli.errors import UsageError
from lrqk_cli.models.catalog import DEFAULT_MODEL
from lrqk_cli.terminal.console import stderr_console

if TYPE_CHECKING:
    from lrqk_cli.chat.chat_model import ChatModel
    from lrqk_cli.documents import Document, PageSelection
    from lrqk_cli.terminal.view import View

_GENERATION = GenerationConfig()
_LIMITS = ReadLimits()
_FOR_DOCUMENTS = {"fetch_size", "pages", "password", "read_memory", "read_timeout"}


@with_attention_options()
def chat(
    context: typer.Context,
    *,
    files: chat_options.Files = [],  # noqa: B006 - typer only reads it
    model: options.Model = DEFAULT_MODEL,
    endpoint: endpoints.Endpoint = None,
    no_server: endpoints.NoServer = False,
    file: chat_options.File = [],  # noqa: B006
    pages: chat_options.Pages = None,
    password: chat_options.Password = None,
    read_timeout: options.ReadTimeout = _LIMITS.timeout,
    read_memory: options.ReadMemory = _LIMITS.memory,
    fetch_size: chat_options.FetchSize = _LIMITS.fetch_size,
    prompt: chat_options.Prompt = [],  # noqa: B006
    prompts_file: chat_options.PromptsFile = None,
    answers_file: chat_options.AnswersFile = None,
    system: chat_options.System = None,
    ctx: options.Context = None,
    vram: options.Vram = None,
    ram: options.Ram = None,
    cache_size: options.CacheSize = None,
    no_cache: options.NoCache = False,
    attention: AttentionChoices,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    weights: options.Weights = "auto",
    offload_weights: options.OffloadWeights = False,
    max_new_tokens: chat_options.MaxNewTokens = _GENERATION.max_new_tokens,
    think: chat_options.Think = _GENERATION.think,
    temperature: chat_options.Temperature = _GENERATION.temperature,
    top_p: chat_options.TopP = _GENERATION.top_p,
    sample_top_k: chat_options.SampleTopK = _GENERATION.sample_top_k,
    repetition_penalty: chat_options.RepetitionPenalty = _GENERATION.repetition_penalty,
    seed: chat_options.Seed = _GENERATION.seed,
    as_json: chat_options.Json = False,
    quiet: options.Quiet = False,
    sources: chat_options.Sources = False,
    bell: chat_options.Bell = True,
    session: chat_options.SessionName = None,
    continue_: chat_options.Continue = False,
    no_history: chat_options.NoHistory = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Chat about documents; with --prompt or --prompts-file, print answers and exit."""
    if no_history and (session is not None or continue_):
        raise UsageError(
            "--no-history records nothing, and --session and --continue record the conversation.",
            "Leave one of them out, as a variable and in the config file too.",
        )
    if endpoint:
        chosen: ChatModel = endpoints.model_at(context, endpoint, model)
    else:
        warn_of_transformers()
        from lrqk_cli.chat.local_model import LocalModel
        from lrqk_cli.chat.opening import ModelRequest

        number_format = None if dtype == "auto" else dtype
        if session is None and not continue_:  # otherwise its settings count too
            attention.refuse_idle()
        cache, wanted = options.cache_choice(context, no_cache, cache_size), attention.said
        request = ModelRequest(
            model, device, number_format, offload_weights, ctx, vram, ram, wanted, threads, weights, cache
        )
        chosen = LocalModel(request, uses_server=not no_server)
    generation = GenerationConfig(
        max_new_tokens, temperature, top_p, sample_top_k, repetition_penalty, seed, think
    )
    limits = ReadLimits(read_timeout, read_memory, fetch_size)
    paths = _paths(context, file, files)
    asked = questions.read_asked(context, prompt, prompts_file, answers_file, paths, as_json)
    if not paths:
        idle = {"pages"} if asked is None else _FOR_DOCUMENTS  # /file reads within the same limits
        options.refuse_without(context, idle, "a document")

    from lrqk_cli.documents import PageSelection
    from lrqk_cli.terminal.view import View

    view = View(stderr_console(), quiet, bell)
    if asked is not None and asked.is_answered:
        view.note("All questions have been answered.")
        return
    read = partial(_read_documents, password=password, limits=limits, view=view)
    waits = not options.on_command_line(context, {"pages"})
    documents = read(paths, PageSelection.parse(pages, waits=waits) if pages is not None else None)
    keeps = asked is None and not no_history
    with chat_sessions.opened(context, session, continue_, documents, keeps=keeps, view=view) as kept:
        begun = chat_sessions.go_on(context, kept, chosen, attention, system, generation)
        if asked is not None:
            questions.refuse_unsampled(context, begun[2])
            with chat_sessions.conversation(kept, *begun, documents, view, asked.to_reserve()) as opened:
                opened.session.note_sources(sources)
                asked.answer(opened, view, partial(kept.record, opened))
            return
        from lrqk_cli.terminal.interactive import converse
        from lrqk_cli.terminal.line_reader import history_path

        chosen, system, generation = begun
        history = None if no_history else history_path()
        traces = context.ensure_object(options.Invocation).debug
        converse(chosen, documents, system, generation, view, read, limits, history, sources, traces, kept)


def _paths(context: typer.Context, named: Sequence[str], files: Sequence[str]) -> list[Location]:
    """Return what is to be read; the command line overrides a variable and the config file.

    Raises:
        DocumentError: a URL cannot be fetched.
    """
    source = context.get_parameter_source("file")
    if source is not None and source.name == "ENVIRONMENT":  # which click splits at blanks
        named = split_variable(os.environ["LRQK_FILE"], os.pathsep)
    is_flag = bool(options.on_command_line(context, {"file"}))
    words = [*named, *files] if is_flag or not files else files
    return [locate(word) for word in words]


def _read_documents(
    files: Sequence[Location],
    pages: PageSelection | None,
    *,
    password: str | None,
    limits: ReadLimits,
    view: View,
) -> list[Document]:
    """Read all documents with a progress bar, and show their warnings."""
    if not files:
        return []
    from lrqk_cli.documents import read_documents, shown_name

    asked: set[Location] = set()

    def ask(path: Location) -> str | None:
        is_repeated = path in asked
        asked.add(path)
        return view.ask_password(shown_name(path.name), is_repeated) if sys.stdin.isatty() else None

    with view.reading() as report:
        documents = read_documents(
            files, pages=pages, password=password or ask, limits=limits, on_progress=report
        )
    for document in documents:
        for warning in document.warnings:
            view.warn(warning)
    return documents
