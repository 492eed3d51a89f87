"""`GET /aura/audit`: auditors read the record of their own tenant, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from tests.harness.approvals import FINAL_ANSWER, MakeSettings, StartWaitingRun
from tests.harness.audit import Rows, StoredRecord
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


@pytest.mark.parametrize("forgery", ["edited", "appended", "moved"])
async def test_an_entry_that_was_forged_is_marked(
    waiting_run: StartWaitingRun, record: StoredRecord, forgery: str
) -> None:
    def forge(rows: Rows) -> Rows:
        id, fields = rows[1]
        if forgery == "edited":
            return [rows[0], (id, {**fields, b"b": fields[b"b"].replace(b"user1", b"boss1")}), *rows[2:]]
        if forgery == "appended":
            return [*rows, ("99999999999999-1", {b"b": b'{"kind":"decision","user":"ceo"}', b"h": b"", b"m": b""})]
        return [*rows, ("99999999999999-2", fields)]

    async with waiting_run(FINAL_ANSWER) as run:
        await run.aura.decide("approve", run.request_id)
        await run.stream.rest()
        await eventually(lambda: "tool.ended" in record.kinds())
        (entries,) = await pages(run.aura, 50)
        assert [entry["intact"] for entry in entries] == [True] * 6
        record.rewrite(forge)
        (entries,) = await pages(run.aura, 50)
        forged = [entry for entry in entries if not entry["intact"]]
        assert [entry["kind"] for entry in forged] == ["decision" if forgery == "appended" else "request.opened"]
