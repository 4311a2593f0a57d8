"""Stop texts, wherever the pieces of an answer are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.server.stopping import StopTexts

texts = st.text("ab.", max_size=12)


@given(st.lists(texts, max_size=8), st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3))
def test_an_answer_ends_before_the_first_stop_text(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    stopping, passed, at_once = StopTexts(stops), "", ""
    for piece in pieces:
        passed += stopping.push(piece)
        # Nothing that is passed on has to be taken back.
        assert whole.startswith(passed)
        at_once += piece
        if not stopping.is_hit and not any(stop[:1] == at_once[-1:] for stop in stops) and len(stops) < 1:
            assert passed == at_once
    passed += stopping.flush()
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert stopping.is_hit is bool(ends)
    if not ends:
        assert passed == whole
    else:
        # A stop text that comes with the first may begin before it, but never after.
        assert not any(stop in passed for stop in stops)
        assert whole.startswith(passed)


def test_text_is_held_back_only_while_it_may_be_a_stop_text() -> None:
    stopping = StopTexts(["\n\nUser:"])
    assert stopping.push("One.\n\nU") == "One."
    assert stopping.push("nder it.") == "\n\nUnder it."
    assert not stopping.is_hit
    assert stopping.push("\n\nUser: again") == ""
    assert stopping.is_hit
    assert stopping.push("more") == stopping.flush() == ""
