"""Texts that say nothing: one token, one token thousands of times, blanks, and lengths at the hot set's."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tiny import save_tiny_chat_model

from fuzz.command_line import lrqk, own_folders
from fuzz.model_targets import llama_gguf

_CONTEXT = 8192
_RECENT = 64


class DegenerateTexts:
    """Questions to a tiny model in each type of numbers; also to full attention, if all rows are resident."""

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        plain = save_tiny_chat_model(folder / "plain")
        config = json.loads((plain / "config.json").read_text())
        (plain / "config.json").write_text(json.dumps({**config, "max_position_embeddings": _CONTEXT}))
        packed = [llama_gguf(folder / f"{kind}.gguf", kind) for kind in ("Q8_0", "Q4_0")]
        self._forms: list[tuple[Path, int, tuple[str, ...]]] = [
            *(
                (plain, _CONTEXT, ("--dtype", dtype))
                for dtype in ("float32", "float32", "bfloat16", "float16")
            ),
            *((file, 2048, ()) for file in packed),
        ]

    def run(self, _: int, rng: Random) -> str:
        model, context, options = rng.choice(self._forms)
        hot = rng.choice((8, 64, 500, 1000))
        count = rng.choice((1, 2, hot + _RECENT - 40 + rng.randrange(40), 1500, context - 300))
        text = rng.choice(("a", "ab", "\n", " \t", "\u200b", "\u00ad", "0", "\u00e9"))
        text = (text * count)[: max(1, count // len(text.encode()))]
        arguments = (
            *("chat", "--model", model, "--prompt", text, "--max-new-tokens", 4, "--temperature", 0),
            *("--ctx", context, *options),
        )
        of_lrqk = (
            *("--attention", "lrqk", "--recent", _RECENT, "--hot", hot, "--top-k", max(1, hot // 4)),
            *("--rank", rng.choice((4, 8)), "--solver", rng.choice(("joint", "als"))),
        )
        found = lrqk(*arguments, *of_lrqk)
        if found.code == 0 and hot + _RECENT >= count + 100 and options == ("--dtype", "float32"):
            expected = lrqk(*arguments, "--attention", "dense")
            assert found.out == expected.out, (found.out, expected.out)
            return f"{found.answer} as by full attention"
        return found.answer
