"""What storing a document costs while it is read, and how soon it answers when it is restored, as JSON.

    python restore.py llama-3.1-8b --weights q4 --ctx 32k,128k --folder /fast/disk > restore.json

The model has the architecture of a published one with random weights, or is a file (``--model``); the text
is random tokens. Each context is read without the prefix cache, read and stored, and restored; the question
of 32 tokens and 32 tokens of the answer follow each time. After the restored answer its tokens are compared
with those of the stored run. Times are seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path

import torch

from lrqk_cli.bench.environment import environment
from lrqk_cli.cli.values import parse_tokens
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.prefix import PrefixKeeper
from lrqk_cli.models import shapes
from lrqk_cli.models.devices import choose_device
from lrqk_cli.models.loading import load, resolve
from lrqk_cli.prefix_cache.store import PrefixStore

QUESTION, ANSWER = 32, GenerationConfig(max_new_tokens=32, temperature=0.0)


def synchronize(engine: Engine) -> None:
    """Wait for the device."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def answer(engine: Engine, question: list[int], began: float) -> tuple[float, list[int], float]:
    """Return the time to the first token, the tokens, and the decode steps per second."""
    list(engine.prefill(question))
    steps = engine.generate(ANSWER, stop_ids=())
    tokens = [next(steps).token]
    first = time.perf_counter()
    tokens += [step.token for step in steps]
    return first - began, tokens, (len(tokens) - 1) / (time.perf_counter() - first)


def read(engine: Engine, text: list[int], keeper: PrefixKeeper | None) -> float:
    """Read a text up to its end, and return the seconds."""
    began = time.perf_counter()
    for _ in engine.prefill(text):
        if keeper is not None:
            keeper.segment_done(is_end=engine.length == len(text), expected_tokens=1, expected_seconds=1e9)
    synchronize(engine)
    return time.perf_counter() - began


def measure(engine: Engine, folder: Path, context: int) -> dict[str, object]:
    """Return the figures of one context."""
    draw = random.Random(0)
    vocabulary = range(engine.spec.vocab_size)
    text, question = draw.choices(vocabulary, k=context), draw.choices(vocabulary, k=QUESTION)

    def new_keeper() -> PrefixKeeper:
        return PrefixKeeper(
            engine, PrefixStore(folder, 1 << 50), lambda: {"weights": "random"}, worth_seconds=0.0
        )

    # Compiles the kernels of all three ways, and warms up.
    engine.reset()
    shutil.rmtree(folder, ignore_errors=True)
    keeper = new_keeper()
    read(engine, text, keeper)
    answer(engine, question, 0.0)
    keeper.writer.close()
    engine.reset()
    keeper = new_keeper()
    keeper.restore([*text, *question])
    answer(engine, question, 0.0)
    keeper.writer.close()
    found: dict[str, object] = {"context": context}
    for name in ("plain", "stored", "plain", "stored"):
        engine.reset()
        shutil.rmtree(folder, ignore_errors=True)
        keeper = new_keeper() if name == "stored" else None
        began = time.perf_counter()
        found[f"{name}_read_s"] = [*found.get(f"{name}_read_s", ()), read(engine, text, keeper)]
        first, expected, _ = answer(engine, question, began)
        found[f"{name}_first_token_s"] = [*found.get(f"{name}_first_token_s", ()), first]
        if keeper is not None:
            began = time.perf_counter()
            keeper.writer.close()
            found["wait_for_disk_s"] = time.perf_counter() - began
    found["bytes"] = PrefixStore(folder).size()
    for _ in range(2):
        engine.reset()
        keeper = new_keeper()
        began = time.perf_counter()
        found["restored_tokens"] = keeper.restore([*text, *question])
        found["until_question_s"] = time.perf_counter() - began
        first, tokens, speed = answer(engine, question, began)
        found["restored_first_token_s"] = [*found.get("restored_first_token_s", ()), first]
        keeper.writer.close()
        found["same_answer"] = tokens == expected
        found["decode_tokens_per_s"] = speed
    shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure all contexts, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", nargs="?")
    parser.add_argument("--kv-dtype", default="bf16")
    parser.add_argument("--model")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--attention", default="lrqk")
    parser.add_argument("--ctx", default="32k")
    parser.add_argument("--folder", type=Path, required=True)
    asked = parser.parse_args()
    contexts = [parse_tokens(part) for part in asked.ctx.split(",")]
    room = max(contexts) + QUESTION + 64
    device = choose_device()
    if asked.model:
        loaded = load(resolve(asked.model), device, form="gguf" if device.type == "cuda" else None)
    else:
        loaded = shapes.build(asked.shape, room, device, torch.bfloat16, form=asked.weights)
    results = list[dict[str, object]]()
    config = LrqkConfig(attention=asked.attention, kv_dtype=asked.kv_dtype)
    with Engine(loaded.model, loaded.spec, config, room) as engine:
        for context in contexts:
            results.append(measure(engine, asked.folder / "restore", context))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    name = asked.model or asked.shape
    print(
        json.dumps(
            {
                "environment": environment(loaded, name),
                "results": results,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
