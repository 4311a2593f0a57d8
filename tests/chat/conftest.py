"""Fakes of an engine and of documents, see ``fake_chat``."""

from __future__ import annotations

from collections.abc import Callable

import fake_chat
import pytest

from lrqk_cli.chat.session import Session


@pytest.fixture
def fake_document() -> type[fake_chat.FakeDocument]:
    return fake_chat.FakeDocument


@pytest.fixture
def fake_engine() -> type[fake_chat.FakeEngine]:
    return fake_chat.FakeEngine


@pytest.fixture
def new_session() -> Callable[..., Session]:
    return fake_chat.new_session
