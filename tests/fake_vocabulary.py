"""The vocabulary of ``fake_chat``, in which a token is a character."""

from __future__ import annotations

from lrqk_cli.server.vocabulary import Vocabulary


class FakeVocabulary(Vocabulary):
    def __init__(self) -> None:
        pass

    def check(self) -> None:
        pass

    def bytes_of(self, token: int) -> bytes:
        return chr(token).encode()
