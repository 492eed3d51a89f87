"""The agent of a run: it is saved as a reference to its definition, which many runs share, and never changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from statemachine.agent import Agent
from statemachine.checkpoint import Checkpoint
from statemachine.errors import CheckpointUnreadable, SharedTextMissing
from statemachine.instructions import text_digest
from statemachine.states import State
from tests.statemachine.runs import Run, in_state, safe

AGENT = Agent.of(
    name="mail",
    model="small-model",
    options={"temperature": 0, "stop": ["끝"]},
    tools=("send_email", "crm__*"),
    language="ko",
    instructions=text_digest("You help."),
    limits={"turns": 3},
)
SHARED = {AGENT.version: AGENT.definition}


def test_the_version_is_the_digest_of_the_definition() -> None:
    assert AGENT.version == text_digest(AGENT.definition)
    assert "version" not in json.loads(AGENT.definition)
    assert Agent.from_definition(AGENT.definition) == AGENT
    assert replace(AGENT, version="").definition == AGENT.definition
    assert Agent.of(name="mail").definition == '{"name":"mail"}'  # a field that is added later changes no version


def test_a_run_is_saved_with_a_reference_to_the_definition_of_its_agent() -> None:
    run = replace(in_state(State.AWAITING_APPROVAL).checkpoint, agent=AGENT)
    saved = run.to_json(SHARED)
    assert json.loads(saved)["agent_version"] == AGENT.version
    assert b"small-model" not in saved
    assert Checkpoint.from_json(saved, SHARED) == run


def test_a_run_whose_definition_is_not_shared_is_saved_whole() -> None:
    run = replace(Run().checkpoint, agent=AGENT)
    saved = run.to_json()
    assert "agent_version" not in json.loads(saved)
    assert Checkpoint.from_json(saved) == run
    assert b"agent" not in Run().checkpoint.to_json(SHARED).replace(b"agent_id", b"")


def test_a_definition_that_is_not_at_hand_is_named_by_its_digest() -> None:
    saved = replace(Run().checkpoint, agent=AGENT).to_json(SHARED)
    with pytest.raises(SharedTextMissing) as missing:
        Checkpoint.from_json(saved)
    assert missing.value.digest == AGENT.version


@pytest.mark.parametrize("text", ["", "[]", '{"name":5}', '{"name":"a","unheard_of":1}'])
def test_a_text_that_is_no_definition_cannot_be_read(text: str) -> None:
    saved = replace(Run().checkpoint, agent=AGENT).to_json(SHARED)
    with pytest.raises(CheckpointUnreadable):
        Checkpoint.from_json(saved, {AGENT.version: text})


def test_a_run_keeps_its_agent_from_fact_to_fact() -> None:
    run = Run()
    run.checkpoint = replace(run.checkpoint, agent=AGENT)
    run.request_tools(safe())
    run.finish_call()
    assert run.checkpoint.agent is AGENT


def test_the_agent_of_a_saved_run_keeps_its_version() -> None:
    """Where this fails, a field of `Agent` has another name or default than when the run was saved."""
    saved = Path(__file__).parents[2] / "fixtures" / "checkpoints" / "v6_planning.json"
    agent = Checkpoint.from_json(saved.read_bytes()).agent
    assert agent is not None
    assert (agent.name, agent.model, agent.tools) == ("reviewer", "large-model", ("github_get_pr", "search_*"))
    assert agent.version == text_digest(agent.definition)
    assert Checkpoint.from_json((saved.parent / "v6_tool.json").read_bytes()).agent is None
