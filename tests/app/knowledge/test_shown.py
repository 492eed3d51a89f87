"""The sources of a thought, as `aura ask` prints them."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from app.client.events import Thought
from app.client.frames import ReceivedEvent
from app.dev.ask.view import View


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        (
            {"id": "evt-1", "type": "mail.received", "title": "견적서\x1b[31m", "timestamp": "2024-01-16"},
            "    ↳ 견적서[31m  (mail.received, 2024-01-16, evt-1)\n",
        ),
        ("https://example.com", "    ↳ https://example.com\n"),
        ({"page": 3}, '    ↳ {"page": 3}\n'),
    ],
)
def test_each_source_is_printed_on_a_line_below_its_thought(source: Any, printed: str) -> None:
    out = StringIO()
    thought = Thought(thought_type="analysis", content="찾았습니다.", sources=(source,))
    View(Console(file=out, width=120)).show(ReceivedEvent(1, "thought", {}, thought))
    assert out.getvalue() == f"  ✻ 찾았습니다.\n{printed}"
