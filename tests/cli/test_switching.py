"""/model on a real terminal: another model is looked up before this one is given up."""

from __future__ import annotations

import json
import re
import shutil

import pytest

pexpect = pytest.importorskip("pexpect")
if not hasattr(pexpect, "spawn"):
    pytest.skip("pseudo-terminals need a Unix system", allow_module_level=True)

pytest.importorskip("pyte")

from screen import Terminal  # noqa: E402


@pytest.fixture
def start(tiny_model, tmp_path):
    def run(*options: object) -> Terminal:
        command = ["-m", "lrqk_cli", "chat", "--model", tiny_model, "--max-new-tokens", "4", *options]
        terminal = Terminal(command, 200, variables={"XDG_STATE_HOME": str(tmp_path / "state")})
        terminal.wait("Ask a question", timeout=60)
        terminal.idle()
        return terminal

    return run


def say(terminal: Terminal, line: str, shows: str) -> str:
    """Type a line; return what stands below it once the pattern is there once more."""
    times = len(re.findall(shows, terminal.text()))
    terminal.type(line + "\r")
    terminal.wait(f"(?s)(?:{shows}.*){{{times + 1}}}", timeout=60)
    terminal.idle()
    return terminal.text().rpartition(f"> {line}")[2]


@pytest.fixture
def variants(tiny_model, tmp_path):
    """Folders beside the tiny model: unsupported, without a tokenizer, too short, with damaged weights."""

    def copy(name: str, **changes: object):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        config = folder / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
        return folder

    copy("unsupported", attention_bias="softcap", architectures=["MambaForCausalLM"], model_type="mamba")
    for file in copy("mute").glob("token*"):
        file.unlink()
    copy("short", max_position_embeddings=64)
    (copy("damaged") / "model.safetensors").write_bytes(b"nothing")
    copy("other")
    return tmp_path


def test_a_model_is_looked_up_before_this_one_is_given_up(start, variants):
    terminal = start("--ctx", "1024")
    say(terminal, "First?", "4 out")
    for name in ("nope", variants / "unsupported", variants / "mute", variants / "short", "~nouser/x"):
        shown = say(terminal, f"/model {name}", "Hint: ")
        assert "Error: " in shown
        for word in ("Planned", "The chat goes on", "Ask a question", "Unexpected"):
            assert word not in shown
    # Nothing of the conversation has to be read again, but the newest token.
    assert "tokens, 0 to be read" in say(terminal, "/stats", "to be read")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_model_that_fails_while_it_is_loaded_gives_the_chat_back(start, variants):
    terminal = start()
    say(terminal, "First?", "4 out")
    shown = say(terminal, f"/model {variants / 'damaged'}", "Ask a question")
    assert "Error: " in shown
    assert "The chat goes on with" in shown
    assert "Planned: " in say(terminal, f"/model {variants / 'other'}", "Ask a question")
    assert "other." in say(terminal, "/model", "The model is")
    say(terminal, "/undo", r"Forgotten: First\?")
    terminal.type("\x04")
    assert terminal.end() == 0
