"""Runs with a named agent: which one they get, what the model receives, and that they end with what they began with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from app.cli import main
from app.client import AuraClient, Credentials
from app.client.events import End
from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.errors import ConfigurationError
from app.redis import keys
from app.settings import Settings
from statemachine.agent import Agent
from statemachine.instructions import INSTRUCTIONS
from tests.harness.approvals import FINAL_ANSWER
from tests.harness.frames import Frame, answer, check
from tests.harness.logged import Written, entries
from tests.harness.mcp import raw
from tests.harness.raw import MakeSettings
from tests.harness.service import Aura, headers, running
from tests.harness.stored import checkpoint
from tests.harness.tools import NoteTool, calling, risky
from tests.harness.waiting import eventually

MAIL = "당신은 메일 도우미입니다. " * 40
LATER = "You are another helper now. " * 40
HELLO = ScriptedTurn(text="안녕하세요.")

FILE = f"""
default = "general"

[agents.general]
prompt = "You help."

[agents.mail]
prompt = "{MAIL}"
model = "mail-model"
options = {{ temperature = 0, seed = 7 }}
tools = ["send_note"]
apps = ["mail"]
limits = {{ turns = 3, on_reject = "replan" }}

[agents.sales]
prompt = "You sell."
tenants = ["acme"]
"""
CHANGED = f"""
[agents.mail]
prompt = "{LATER}"
model = "later-model"
tools = ["write_note"]
apps = ["mail"]
"""


def write(folder: Path, text: str = FILE) -> str:
    path = folder / "agents.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def system_prompt(request: dict[str, Any]) -> str:
    return str(request["messages"][0]["content"])


def tools_of(request: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in request["tools"]]


async def run(aura: Aura, *, tenant: str = "tenant1", **body: Any) -> str:
    """Run a prompt to its end, and return the session id."""
    async with aura.stream(body={"prompt": "질문", **body}, headers=headers(tenant=tenant)) as stream:
        frames = await stream.rest()
    check(frames)
    return str(frames[0]["sessionId"])


async def start_waiting(aura: Aura, model: ScriptedModelServer) -> Frame:
    """Start a run of the agent `mail`, which waits for an approval."""
    model.play(calling(("send_note", {"to": "김"})))
    async with aura.stream(body={"prompt": "메모를 보내줘", "agent": "mail"}) as stream:
        return await stream.until("hitl")


async def approve(aura: Aura, hitl: Frame) -> list[Frame]:
    await eventually(lambda: aura.service.runs.owns(hitl["sessionId"]))
    assert (await aura.decide("approve", hitl["requestId"])).status_code == 200
    async with aura.stream(method="GET", params={"sessionId": hitl["sessionId"]}) as stream:
        return await stream.rest()


async def details(aura: Aura, session_id: str, **as_: str) -> dict[str, Any]:
    response = await aura.client.get(f"/aura/runs/{session_id}", headers=headers(**as_))
    found: dict[str, Any] = response.json()["data"]
    return found


async def test_the_model_gets_what_the_agent_defines(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    made = settings(aura_agents=write(tmp_path), aura_model_options={"top_p": 0.9, "temperature": 0.5})
    async with running(made, tools=[NoteTool(), risky()]) as aura:
        model.play(HELLO, HELLO)
        session_id = await run(aura, context={"activeApp": "mail"})
        await run(aura)
        shown = await details(aura, session_id)
        listed = (await aura.client.get("/aura/runs", headers=headers())).json()["data"]["runs"]
    mail, general = model.requests
    assert system_prompt(mail).startswith(MAIL.strip())
    assert (mail["model"], mail["temperature"], mail["seed"], mail["top_p"]) == ("mail-model", 0, 7, 0.9)
    assert tools_of(mail) == ["send_note", "update_plan"]
    assert system_prompt(general) == "You help."
    assert (general["model"], general["temperature"], "seed" in general) == (made.openai_model, 0.5, False)
    assert tools_of(general) == ["write_note", "send_note", "update_plan"]
    assert (shown["agent"], shown["modelTurns"][0]["model"]) == ("mail", "mail-model")
    assert shown["agentVersion"] == aura.service.agents.choose("mail", None, "t").agent.version  # type: ignore[union-attr]
    assert (shown["limits"]["turns"], shown["limits"]["on_reject"]) == (3, "replan")
    assert [entry["agent"] for entry in listed] == ["general", "mail"]


@pytest.mark.parametrize(
    ("tenant", "body", "expected"),
    [
        ("acme", {"agent": "sales", "context": {"activeApp": "mail"}}, "You sell."),
        ("acme", {"agent": ""}, "You help."),
        ("globex", {"agent": None, "context": {"activeApp": "calendar"}}, "You help."),
        ("globex", {"agent": "mail"}, MAIL.strip()),
    ],
)
async def test_a_request_names_its_agent(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path, tenant: str, body: dict[str, Any], expected: str
) -> None:
    async with running(settings(aura_agents=write(tmp_path)), tools=[risky()]) as aura:
        model.play(HELLO)
        await run(aura, tenant=tenant, **body)
    assert system_prompt(model.requests[0]).startswith(expected)


async def test_a_url_names_its_agent(settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path) -> None:
    async with running(settings(aura_agents=write(tmp_path)), tools=[risky()]) as aura:
        model.play(HELLO)
        async with aura.stream(method="GET", params={"prompt": "질문", "agent": "mail"}) as stream:
            check(await stream.rest())
    assert model.requests[0]["model"] == "mail-model"


async def test_the_client_names_its_agent(settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path) -> None:
    async with running(settings(aura_agents=write(tmp_path)), tools=[risky()]) as aura:
        model.play(HELLO)
        token = headers()["Authorization"].removeprefix("Bearer ")
        async with AuraClient(aura.url, Credentials.from_token(token)) as client:
            events = [received.event async for received in client.run("질문", agent="mail").events()]
    assert isinstance(events[-1], End)
    assert model.requests[0]["model"] == "mail-model"


def test_the_agent_of_an_existing_run_cannot_be_chosen() -> None:
    result = CliRunner().invoke(main, ["ask", "--attach", "session_1", "--agent", "mail"])
    assert result.exit_code == 2
    assert "--agent needs a PROMPT: the agent of an existing run is fixed" in result.output


@pytest.mark.parametrize(
    ("agent", "cause"),
    [
        ("sales", "agent: there is no agent 'sales'; available: general, mail"),
        ("nobody", "agent: there is no agent 'nobody'; available: general, mail"),
        ("x" * 65, "agent: String should have at most 64 characters"),
        (5, "agent: Input should be a valid string"),
    ],
)
async def test_an_agent_that_the_tenant_does_not_have_is_refused(
    settings: MakeSettings, tmp_path: Path, agent: object, cause: str
) -> None:
    async with running(settings(aura_agents=write(tmp_path)), tools=[risky()]) as aura:
        sent = headers(tenant="globex", Accept="application/json")
        response = await aura.client.post("/aura/test/stream", json={"prompt": "p", "agent": agent}, headers=sent)
    assert (response.status_code, response.json()["errorCode"]) == (400, "E4000")
    assert f"{cause} (trace id" in response.json()["message"]


async def test_without_a_file_an_agent_is_refused_and_runs_are_as_before(
    settings: MakeSettings, model: ScriptedModelServer
) -> None:
    async with running(settings(), tools=[risky()]) as aura:
        sent = headers(Accept="application/json")
        response = await aura.client.post("/aura/test/stream", json={"prompt": "p", "agent": "mail"}, headers=sent)
        assert response.status_code == 400
        assert "this service has no agents (AURA_AGENTS is not set); leave the field out" in response.text
        model.play(HELLO)
        session_id = await run(aura, context={"activeApp": "mail"})
        shown = await details(aura, session_id)
    assert system_prompt(model.requests[0]).startswith(INSTRUCTIONS)
    assert ("agent" in shown, shown["agentVersion"]) == (False, None)


async def test_an_idempotency_key_belongs_to_the_request_with_its_agent(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    path = write(tmp_path)
    async with running(settings(aura_agents=path), tools=[NoteTool(), risky()]) as aura:
        model.play(HELLO)
        sent = headers(**{"Idempotency-Key": "key-1"})
        body = {"prompt": "질문", "agent": "sales"}
        acme = {**sent, **headers(tenant="acme"), "Idempotency-Key": "key-1"}
        async with aura.stream(body=body, headers=acme) as stream:
            session_id = (await stream.rest())[0]["sessionId"]
        write(tmp_path, CHANGED)
        assert await aura.service.agents.reload()
        async with aura.stream(body=body, headers=acme) as stream:  # its agent is gone, but its run is there
            assert (await stream.rest())[0]["sessionId"] == session_id
        other = await aura.client.post("/aura/test/stream", json={**body, "agent": "mail"}, headers=acme)
        assert other.status_code == 400
        assert "Idempotency-Key" in other.text


async def test_a_call_of_a_tool_that_the_agent_may_not_use_is_refused_to_the_model(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    tool = NoteTool()
    async with running(settings(aura_agents=write(tmp_path)), tools=[tool, risky()]) as aura:
        model.play(calling(("write_note", {"to": "김"})), FINAL_ANSWER)
        await run(aura, agent="mail")
    refusal = model.requests[1]["messages"][-1]["content"]
    assert refusal == "The tool 'write_note' does not exist. Available tools: send_note, update_plan."
    assert tool.ran == []


async def test_an_agent_has_the_tools_of_a_server_that_its_patterns_name(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    path = write(tmp_path, "[agents.a]\ntools = ['raw__e*', 'update_plan']\n[agents.b]\ntools = ['crm__*']")
    async with running(settings(aura_agents=path, aura_mcp_servers=(raw(),))) as aura:
        await eventually(lambda: any(tool.name == "raw__echo" for tool in aura.service.tools.registry.select()))
        model.play(calling(("raw__write", {"path": "x"})), HELLO, HELLO)
        await run(aura, agent="a")
        await run(aura, agent="b")
    first, after_call, other = model.requests
    assert "raw__echo" in tools_of(first)
    assert all(name.startswith("raw__e") or name == "update_plan" for name in tools_of(first))
    assert "'raw__write' does not exist" in after_call["messages"][-1]["content"]
    assert tools_of(other) == ["update_plan"]


async def test_a_run_under_way_ends_with_the_agent_that_it_began_with(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path, written: Written
) -> None:
    async with running(settings(aura_agents=write(tmp_path)), tools=[NoteTool(), risky()]) as aura:
        hitl = await start_waiting(aura, model)
        write(tmp_path, CHANGED)
        assert await aura.service.agents.reload()
        model.play(HELLO, FINAL_ANSWER)
        await run(aura, agent="mail")
        frames = await approve(aura, hitl)
    check(frames)
    assert answer(frames) == "보냈습니다."
    first, new, last = model.requests
    assert [system_prompt(it)[: len(MAIL) - 1] for it in (first, last)] == [MAIL.strip()] * 2
    assert [(it["model"], tools_of(it)) for it in (first, last)] == [("mail-model", ["send_note", "update_plan"])] * 2
    assert system_prompt(new).startswith(LATER.strip())
    assert (new["model"], tools_of(new)) == ("later-model", ["write_note", "update_plan"])
    (loaded,), (reloaded,) = entries(written, "agents.loaded"), entries(written, "agents.reloaded")
    assert list(loaded["agents"]) == ["general", "mail", "sales"]
    old, later = loaded["agents"]["mail"], reloaded["agents"]["mail"]
    started = [(line["agent"], line["agentVersion"]) for line in entries(written, "run.started")]
    assert started == [("mail", old), ("mail", later)]
    assert len(old) == 12
    assert MAIL[:20] not in written()


async def test_a_replica_with_another_file_ends_a_run_with_the_agent_that_it_began_with(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path, redis_client: redis.Redis
) -> None:
    tools = [NoteTool(), risky()]
    async with running(settings(aura_agents=write(tmp_path)), tools=tools) as aura:
        hitl = await start_waiting(aura, model)
    saved = checkpoint(redis_client, hitl["sessionId"])
    definition = str(redis_client.get(keys.shared_text(saved["agent_version"])))
    assert Agent.from_definition(definition).model == "mail-model"
    assert MAIL[:100] not in json.dumps(saved, ensure_ascii=False)
    model.play(FINAL_ANSWER)
    async with running(settings(aura_agents=write(tmp_path, CHANGED)), tools=tools) as aura:
        frames = await approve(aura, hitl)
        shown = await details(aura, hitl["sessionId"])
    check(frames)
    assert [(it["model"], it["seed"], tools_of(it)) for it in model.requests] == [
        ("mail-model", 7, ["send_note", "update_plan"])
    ] * 2
    assert system_prompt(model.requests[1]).startswith(MAIL.strip())
    assert (shown["agent"], shown["agentVersion"]) == ("mail", saved["agent_version"])


async def test_a_replica_without_agents_ends_a_run_with_the_agent_that_it_began_with(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    tools = [NoteTool(), risky()]
    async with running(settings(aura_agents=write(tmp_path)), tools=tools) as aura:
        hitl = await start_waiting(aura, model)
    model.play(FINAL_ANSWER)
    async with running(settings(), tools=tools) as aura:
        check(await approve(aura, hitl))
    assert [request["model"] for request in model.requests] == ["mail-model"] * 2


@pytest.mark.parametrize("stored", [None, '{"model":"their-model","name":"mail"}'])
async def test_a_run_whose_definition_is_gone_or_changed_ends_and_runs_nothing(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path, redis_client: redis.Redis, stored: str | None
) -> None:
    tool = risky()
    async with running(settings(aura_agents=write(tmp_path)), tools=[tool]) as aura:
        hitl = await start_waiting(aura, model)
    key = keys.shared_text(checkpoint(redis_client, hitl["sessionId"])["agent_version"])
    redis_client.delete(key)
    if stored is not None:
        redis_client.set(key, stored)
    async with running(settings(), tools=[tool]) as aura:
        async with aura.stream(method="GET", params={"sessionId": hitl["sessionId"]}) as stream:
            frames = await stream.rest()
    assert frames[-2]["status"] == "failed"
    assert tool.ran == []


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[agents.mail]\nmodle = 'x'", "agents.mail.modle: there is no such key; did you mean model?"),
        ("[agents.mail]\ntools = ['send_nota']", "'send_nota' is not a tool; did you mean send_note?"),
        (None, "does not exist"),
    ],
)
async def test_a_file_that_cannot_be_used_keeps_the_agents_as_they_were(
    settings: MakeSettings,
    model: ScriptedModelServer,
    tmp_path: Path,
    written: Written,
    text: str | None,
    cause: str,
) -> None:
    path = write(tmp_path)
    async with running(settings(aura_agents=path), tools=[risky()]) as aura:
        write(tmp_path, text or "")
        if text is None:
            (tmp_path / "agents.toml").rename(tmp_path / "moved.toml")
        assert not await aura.service.agents.reload()
        model.play(HELLO)
        await run(aura, agent="mail")
    assert model.requests[0]["model"] == "mail-model"
    (failed,) = entries(written, "agents.reload_failed")
    assert cause in failed["cause"]
    with pytest.raises(ConfigurationError, match="AURA_AGENTS: "):
        async with running(settings(aura_agents=path), tools=[risky()]):
            pass


async def test_a_tool_that_a_server_may_offer_later_is_logged(
    settings: MakeSettings, tmp_path: Path, written: Written
) -> None:
    path = write(tmp_path, "[agents.a]\ntools = ['crm__*', 'github_get_pr']")
    async with running(settings(aura_agents=path), tools=[risky()]):
        pass
    causes = [line["cause"] for line in entries(written, "agents.tool_missing")]
    assert causes == [
        "agents.a.tools: 'crm__*' is a tool of the MCP server 'crm', which is not in AURA_MCP_SERVERS",
        "agents.a.tools: 'github_get_pr' is not offered here: its service is not configured",
    ]


async def test_many_reloads_leave_a_run_its_texts(
    settings: MakeSettings, model: ScriptedModelServer, tmp_path: Path
) -> None:
    """A process remembers a limited number of earlier texts; what it has forgotten it reads from Redis again."""
    async with running(settings(aura_agents=write(tmp_path)), tools=[NoteTool(), risky()]) as aura:
        hitl = await start_waiting(aura, model)
        for number in range(250):
            write(tmp_path, CHANGED.replace("later-model", f"model-{number}"))
            assert await aura.service.agents.reload()
        model.play(FINAL_ANSWER)
        check(await approve(aura, hitl))
    assert model.requests[1]["model"] == "mail-model"
    assert system_prompt(model.requests[1]).startswith(MAIL.strip())


def test_the_setting_is_the_path_of_a_file(tmp_path: Path) -> None:
    environment = {"JWT_SECRET": "a secret of at least thirty-two bytes, for tests", "AURA_AGENTS": write(tmp_path)}
    assert Settings.from_environment(environment).aura_agents == str(tmp_path / "agents.toml")
