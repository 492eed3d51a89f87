"""The screen's context: the model gets a bounded part of it, and only that part stays after the run."""

from __future__ import annotations

import pytest

from statemachine.checkpoint import Limits
from statemachine.messages import AnswerFinished, CancelRequested, Fact
from statemachine.prompt import system_prompt, used_context
from statemachine.workflow import advance, begin
from tests.statemachine.runs import NOW, request

LARGE = {"remoteState": {"rows": ["x" * 1000] * 250}}


def test_only_what_the_model_gets_is_used() -> None:
    context = {"activeApp": "mail", "selectedItemIds": [1, 2], "metadata": {"folder": "inbox"}, "language": "ko"}
    assert used_context({**context, **LARGE}) == {
        key: context[key] for key in ("activeApp", "selectedItemIds", "metadata")
    }
    assert used_context(LARGE) == {}


def test_long_values_are_cut_to_one_limit_for_all() -> None:
    context = {
        "selectedItemIds": ["가" * 500] * 100,
        "title": "나" * 10_000,
        "metadata": {str(n): "다" * 500 for n in range(50)},
    }
    used = used_context(context)
    assert sum(len(text) for text in used.values()) < 8100
    assert used["selectedItemIds"].endswith("…")
    assert len(system_prompt(context)) < 9000


@pytest.mark.parametrize("fact", [AnswerFinished("네.", "네."), CancelRequested("user1")])
def test_a_context_of_256_kib_is_gone_when_its_run_has_ended(fact: Fact) -> None:
    context = {"activeApp": "mail", **LARGE}
    step = begin(request(context=context), [{"role": "user", "content": "질문"}], Limits(), NOW)
    assert step.checkpoint.request.context == context
    ended = advance(step.checkpoint, fact, NOW).checkpoint
    assert ended.request.context == {"activeApp": "mail"}
    assert len(ended.to_json()) < 2000
