"""Uses of the prefix cache that need processes; test_prefix_crashes.py runs it.

    python prefix_processes.py killed FOLDER COUNT
    python prefix_processes.py crowd FOLDER COUNT

``killed`` kills COUNT writers at random moments. Each writer is a fork that reads one of some texts and
stores it. After each kill this process must be able to use what is there: it restores the text, reads the
rest, and compares the answer with the right one.

In ``crowd`` two processes read and answer COUNT times, while a third one deletes files.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)

from tiny import random_tokens, tiny_model  # noqa: E402

from lrqk_cli.config import GenerationConfig, LrqkConfig  # noqa: E402
from lrqk_cli.engine import prefix  # noqa: E402
from lrqk_cli.engine.generate import Engine  # noqa: E402
from lrqk_cli.engine.prefix import PrefixKeeper  # noqa: E402
from lrqk_cli.models.support import spec_from_config  # noqa: E402
from lrqk_cli.prefix_cache.store import PrefixStore  # noqa: E402
from lrqk_cli.prefix_cache.tensor_file import DamagedFileError  # noqa: E402

prefix.BLOCK_TOKENS = 32
MODEL = tiny_model("llama")
# Everything resident, so that a text restored in part gives the same answer.
CONFIG = LrqkConfig(hot=280, top_k=280, recent=8, rank=8, segment=16)
QUESTION = random_tokens(9, 77).tolist()
TEXTS = [random_tokens(count, count).tolist() for count in (60, 130, 200)]


def read(engine: Engine, folder: Path, text: list[int]) -> int:
    """Read a text as a conversation does; return how many tokens were restored."""
    keeper = PrefixKeeper(engine, PrefixStore(folder, 1 << 30), dict, worth_seconds=0.0)
    restored = keeper.restore([*text, *QUESTION])
    for _ in engine.prefill(text[restored:]):
        keeper.segment_done(is_end=engine.length == len(text), expected_tokens=1, expected_seconds=1.0)
    keeper.writer.close()
    return restored


def answer(engine: Engine) -> list[int]:
    list(engine.prefill(QUESTION))
    generation = GenerationConfig(max_new_tokens=12, temperature=0.0)
    return [step.token for step in engine.generate(generation, stop_ids=())]


def new_engine() -> Engine:
    return Engine(MODEL, spec_from_config(MODEL.config, "tiny"), CONFIG, 300)


def killed(folder: Path, count: int) -> str:
    draw = random.Random(0)
    engine = new_engine()
    expected, longest = [], 0.0
    for text in TEXTS:
        engine.reset()
        began = time.perf_counter()
        list(engine.prefill(text))
        longest = max(longest, time.perf_counter() - began)
        expected.append(answer(engine))
    reused = kills = number = 0
    while kills < count:
        number += 1
        chosen = draw.randrange(len(TEXTS))
        # Otherwise all is written soon, and no writer lives long enough to be killed.
        if number % 3 == 0:
            PrefixStore(folder).clear()
        engine.reset()
        writer = os.fork()
        if not writer:
            read(engine, folder, TEXTS[chosen])
            os._exit(0)
        time.sleep(draw.uniform(0, 3 * longest))
        os.kill(writer, signal.SIGKILL)
        kills += os.waitpid(writer, 0)[1] == signal.SIGKILL
        # Half of the time what is there is used without being completed.
        if number % 2:
            reused += read(engine, folder, TEXTS[chosen]) > 0
            assert answer(engine) == expected[chosen], number
    engine.close()
    return f"{number} {reused}"


def crowd(folder: Path, count: int) -> str:
    engine = new_engine()
    expected = []
    for text in TEXTS:
        engine.reset()
        list(engine.prefill(text))
        expected.append(answer(engine))

    def use(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(count):
            chosen = draw.randrange(len(TEXTS))
            engine.reset()
            with suppress(DamagedFileError):  # a conversation then tries again
                read(engine, folder, TEXTS[chosen])
                assert answer(engine) == expected[chosen]

    def delete(seed: int) -> None:
        draw, store = random.Random(seed), PrefixStore(folder, 40_000)
        while True:
            time.sleep(draw.uniform(0, 0.05))
            draw.choice([store.prune, store.clear, store.files])()

    users = [fork(use, 1), fork(use, 2)]
    deleter = fork(delete, 3)
    codes = [os.waitpid(user, 0)[1] for user in users]
    assert not os.waitpid(deleter, os.WNOHANG)[0], "the deleting process has failed"
    os.kill(deleter, signal.SIGKILL)
    os.waitpid(deleter, 0)
    engine.close()
    assert codes == [0, 0], codes
    return "2 users"


def fork(do: Callable[[int], None], seed: int) -> int:
    """Return the number of a new process that does something."""
    child = os.fork()
    if not child:
        try:
            do(seed)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


if __name__ == "__main__":
    do = {"killed": killed, "crowd": crowd}[sys.argv[1]]
    sys.stdout.write(do(Path(sys.argv[2]), int(sys.argv[3])))
