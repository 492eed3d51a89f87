"""`search_workspace`: searches the user's events of mail, approvals and other services, by words and meaning.

Tenant and user come from the run, never from the model. The events may be written by anybody, so the result presents
them as data, truncated.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.errors import AuraError, ToolError
from app.ports.knowledge import Hit, Query, Searcher, WorkspaceSearch
from app.ports.tools import CitedResult, ToolContext
from app.tools.results import DATA_NOTICE
from statemachine.stored import JsonObject

_NOTICE = (
    "Records that this user may see: their own, those that name them, and those for the whole organisation. Records of"
    " other people are not searched, so a record that is not found may exist."
    f" {DATA_NOTICE} Cite the ids of those you use."
)
_MAX_TITLE_CHARACTERS = 80
_MAX_TYPE_CHARACTERS = 64


def _iso_8601(text: str | None) -> str | None:
    if text is not None:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("not a date; use ISO 8601 like 2024-01-16 or 2024-01-16T09:00:00+09:00") from None
    return text


class SearchArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=500, description="what to look for, in the language of the records")
    since: Annotated[str | None, AfterValidator(_iso_8601)] = Field(
        default=None, max_length=40, description="only records from this ISO 8601 date or time on"
    )
    types: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default_factory=list, max_length=10, description="only records of these kinds, e.g. mail, approval"
    )


class SearchWorkspace:
    """Search the user's workspace: the mails, approvals and other events that the user may see. Use it before answering
    questions about them."""

    name: str = "search_workspace"
    title: str = "업무 자료 검색"
    arguments: type[BaseModel] = SearchArguments
    needs_approval: bool = False
    idempotent: bool = True
    untrusted: bool = True
    timeout_seconds: float | None = 15

    def __init__(self, workspace: WorkspaceSearch) -> None:
        self._workspace = workspace

    def question(self, arguments: SearchArguments) -> str:
        return f"업무 자료에서 '{arguments.query[:100]}'을(를) 검색하시겠습니까?"

    async def run(self, arguments: SearchArguments, context: ToolContext) -> CitedResult:
        since = datetime.fromisoformat(arguments.since) if arguments.since else None
        if since is not None:
            since = since.replace(tzinfo=since.tzinfo or UTC)
        query = Query(arguments.query, since.timestamp() if since else None, tuple(arguments.types))
        searcher = Searcher(context.tenant_id, context.user_id, context.email)
        try:
            found = await self._workspace.search(searcher, query)
        except AuraError as error:
            raise ToolError("the workspace cannot be searched at the moment; try again later") from error
        result: JsonObject = {"notice": _NOTICE, "items": [_item(hit) for hit in found.hits]}
        if not found.is_complete:
            result["incomplete"] = "The newest records may be missing: the index is still being built."
        return CitedResult(result, tuple(_source(hit) for hit in found.hits))


def _item(hit: Hit) -> JsonObject:
    event = hit.event
    return {
        "id": event.id,
        "type": event.type,
        "timestamp": _iso_time(event.at),
        "title": event.title,
        "text": hit.excerpt,
    }


def _source(hit: Hit) -> JsonObject:
    """Returns a small source: a thought shows it (§2.2)."""
    event = hit.event
    title = event.title or hit.excerpt
    return {
        "id": event.id,
        "type": event.type[:_MAX_TYPE_CHARACTERS],
        "title": title if len(title) <= _MAX_TITLE_CHARACTERS else f"{title[:_MAX_TITLE_CHARACTERS]}…",
        "timestamp": _iso_time(event.at),
    }


def _iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
