"""`GET /aura/audit`: auditors read the record of their own tenant, page by page."""

from __future__ import annotations

from typing import Any

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun
from tests.harness.audit import StoredRecord
from tests.harness.service import Aura, headers, running
from tests.harness.tools import NoteTool, calling
from tests.harness.waiting import eventually

AUDITOR = headers("eve", role="auditor")


async def pages(aura: Aura, limit: int, **query: Any) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await aura.client.get("/aura/audit", params={"limit": limit, **query, **cursor}, headers=AUDITOR)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        found.append(data["entries"])
        if "nextCursor" not in data:
            return found
        cursor = {"cursor": data["nextCursor"]}


async def test_an_auditor_reads_the_record_of_the_tenant_page_by_page(
    settings: MakeSettings, waiting_run: StartWaitingRun, model: ScriptedModelServer
) -> None:
    async with waiting_run(FINAL_ANSWER) as run:
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()
    async with running(settings(), tools=[NoteTool()]) as aura:  # another node, so another chain
        model.play(calling(("write_note", {"to": "kim"})), ScriptedTurn(text="했습니다."))
        async with aura.stream("메모") as stream:
            await stream.rest()
        await aura.client.get("/aura/runs/none", headers=headers("mallory"))
        await aura.client.get("/aura/audit", params={"cursor": "x"}, headers=AUDITOR)
        found = await pages(aura, 2)
        entries = [entry for page in found for entry in page]
        assert len({entry["chain"] for entry in entries}) == 2
        assert [entry["at"] for entry in entries] == sorted((entry["at"] for entry in entries), reverse=True)
        positions = {(entry["chain"], entry["sequence"]) for entry in entries}
        assert len(positions) == len(entries) >= 9
        (decision,) = [entry for page in await pages(aura, 5, kind="decision") for entry in page]
        assert decision["details"]["user"] == "user1"
        of_run = [entry for page in await pages(aura, 3, sessionId=run.session_id) for entry in page]
        assert len(of_run) == 5


async def test_only_auditors_read_the_record_and_only_that_of_their_tenant(
    settings: MakeSettings, waiting_run: StartWaitingRun
) -> None:
    async with waiting_run(FINAL_ANSWER, aura_auditor_roles=frozenset({"auditor"})) as run:
        client = run.aura.client
        for role in (None, "approver", "admin"):
            answer = await client.get("/aura/audit", headers=headers("user1", role=role))
            assert (answer.status_code, answer.json()["errorCode"]) == (403, "E2001")
        assert (await client.get("/aura/audit")).status_code == 401
        other = await client.get("/aura/audit", headers=headers("eve", "tenant2", "auditor"))
        assert other.json()["data"] == {"entries": []}
        await run.aura.decide("approve", run.request_id)
        await run.expect_completed()


async def test_a_cursor_that_is_none_is_refused(settings: MakeSettings, record: StoredRecord) -> None:
    async with running(settings()) as aura:
        for cursor in ("x", "1-2", "1-2-", "-1-1-a", "9" * 50 + "-1-a"):
            answer = await aura.client.get("/aura/audit", params={"cursor": cursor}, headers=AUDITOR)
            assert (answer.status_code, answer.json()["errorCode"]) == (400, "E4000")
        await eventually(lambda: record.chain_names() != [])  # the refusals
        before_all = await aura.client.get("/aura/audit", params={"cursor": "0-0-0"}, headers=AUDITOR)
        assert before_all.json()["data"] == {"entries": []}
