"""The guard against instructions in text that others wrote (prompt injection).

A mail, a web page or the result of a foreign server can contain instructions, and the model may follow them. So once
such text is in a run, or in its thread's history, a tool that sends something to others needs a person's approval,
whatever its own mark says. The context of the user's screen does not count: it is cut and fenced (`prompt.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from statemachine.call import ArgumentWarning, ResolvedCall, ToolCall
from statemachine.checkpoint import Checkpoint

WARNING_CODE = "outside_text"
_MAX_SOURCES = 10
_MAX_NAMED = 3


def needs_approval(checkpoint: Checkpoint, call: ResolvedCall) -> bool:
    """Return whether a person must approve the call: for its tool, or because the run has read text from outside."""
    return call.needs_approval or (call.outward and bool(checkpoint.outside_text))


def guarded(checkpoint: Checkpoint, call: ToolCall) -> ToolCall:
    """Return the call with the need of an approval that the run adds, and with the warning that names the cause."""
    if not call.outward or not checkpoint.outside_text:
        return call
    return replace(call, needs_approval=True, warnings=(_warning(checkpoint.outside_text), *call.warnings))


def warning_of(call: ResolvedCall) -> tuple[ArgumentWarning, ...]:
    """Return the warning of `guarded`, which stays when a person has edited the arguments; empty without one."""
    return tuple(warning for warning in call.warnings if warning.code == WARNING_CODE)


def source_of(call: ToolCall) -> str:
    """Return the name of a tool as people read it in the warning, such as `업무 자료 검색 (search_workspace)`."""
    return f"{call.title} ({call.name})" if call.title else call.name


def joined(*groups: Iterable[str]) -> tuple[str, ...]:
    """Return the sources of several groups, each once, in their order and at most ten."""
    return tuple(dict.fromkeys(source for group in groups for source in group))[:_MAX_SOURCES]


def _warning(sources: tuple[str, ...]) -> ArgumentWarning:
    named = ", ".join(sources[:_MAX_NAMED])
    more = f" 외 {len(sources) - _MAX_NAMED}건" if len(sources) > _MAX_NAMED else ""
    message = (
        f"이 작업은 외부에서 온 글을 읽었습니다: {named}{more}."
        " 그 글의 지시를 따른 것이 아닌지, 받는 곳과 내용을 확인하세요."
    )
    return ArgumentWarning(WARNING_CODE, "", message)
