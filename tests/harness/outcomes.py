"""Checks of how a run ended, for the tests of the model."""

from __future__ import annotations

from collections.abc import Callable

from app.settings import Settings
from tests.harness.frames import DONE, Frame, answer, types

MakeSettings = Callable[..., Settings]
KEY = "test-key-0123456789"
TEXT = "".join(f"{number}번째 문장은 여기에서 끝납니다. " for number in range(20))


def failed(frames: list[Frame], error_type: str, code: str, *, retryable: bool) -> str:
    """The message of a run that ended with exactly this."""
    assert types(frames)[-3:] == ["error", "end", DONE]
    error, end, _ = frames[-3:]
    assert (error["errorType"], error["errorCode"], error["retryable"]) == (error_type, code, retryable)
    assert end["status"] == "failed"
    assert not any(frame["chunk"] is False for frame in frames if frame.type == "content"), "an end that is none"
    assert "Traceback" not in error["message"]
    return str(error["message"])


def completed(frames: list[Frame], text: str = TEXT) -> None:
    assert frames[-2]["status"] == "completed"
    assert "error" not in types(frames)
    assert answer(frames) == text
    chunks = [frame["chunk"] for frame in frames if frame.type == "content"]
    assert chunks == [True] * (len(chunks) - 1) + [False]
