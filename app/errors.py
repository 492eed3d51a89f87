"""The errors of the service, and the one table that maps them to an HTTP status and a code (CONTRACT §1.4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from statemachine.events import ErrorType
from statemachine.messages import ModelFailure

_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)\]]+"  # a URL
    r"|\[[0-9a-f:]{3,}\](:\d+)?|(?<![\d.])\d{1,3}(\.\d{1,3}){3}(?![\d.])(:\d+)?"  # an IP address
    r"|(host='?|host )[\w.-]+'?(,? ?port=?\d+)?|\blocalhost(:\d+)?|\b[a-z]\w*([.-]\w+)+:\d{2,5}\b"  # host and port
    r"|(?<=\b(to|at|on) )[a-z]\w*:\d{4,5}\b",
    re.IGNORECASE,
)

_MAX_TEXT_CHARACTERS = 4000

_PLACE = re.compile(
    r"(?<![@\w.-])[\w-]+(\.[\w-]+)*\.[a-z]{2,}\b(?![\w.-]*@)"  # the name of a host, not the end of a mail address
    r"|(?<![\w./])/[\w.+-]+(/[\w.+-]*)+",  # the path of a file
    re.IGNORECASE,
)


def without_addresses(text: str, hosts: Iterable[str] = ()) -> str:
    """Return the text with every address replaced by `…`, those of `hosts` also where they stand alone.

    A longer text is cut: a client reads a line, and the search takes the square of the length.
    """
    text = _ADDRESS.sub("…", text[:_MAX_TEXT_CHARACTERS])
    for host in hosts:
        text = text.replace(host, "…")
    return text


def without_places(text: str, hosts: Iterable[str] = ()) -> str:
    """Return the text also without names of hosts and paths of files, for what servers and libraries say.

    Mail addresses stay. Versions and file names that look like the name of a host are removed too.
    """
    return _PLACE.sub("…", without_addresses(text, hosts))


_NAMED_RIGHTS = 8


class AuraError(Exception):
    """The base class of the service's errors.

    `message` is what a client receives: the platform's Korean text (`prefix`), then the precise `cause`. It has no
    address, host, path or URL of ours: those belong to `detail`, which is for the log alone (CONTRACT §1.4).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "E1000"
    error_type: ClassVar[ErrorType] = "InternalError"
    retryable: ClassVar[bool] = False
    prefix: ClassVar[str] = "내부 서버 오류가 발생했습니다."
    retry_after_seconds: int | None = None

    def __init__(self, cause: str = "", *, detail: str = "") -> None:
        self.cause = cause
        self.detail = detail
        self.message = f"{self.prefix} {cause}".strip()
        super().__init__(self.message)

    @property
    def log_cause(self) -> str:
        """The cause as the log names it: with its details where there are any."""
        return f"{self.cause} [{self.detail}]" if self.detail else self.cause


class AuthenticationRequired(AuraError):
    status, code, error_type = 401, "E2000", "AuthenticationError"
    prefix = "인증이 필요합니다."


class TokenExpired(AuraError):
    status, code, error_type = 401, "E2002", "AuthenticationError"
    prefix = "토큰이 만료되었습니다."


class TokenInvalid(AuraError):
    status, code, error_type = 401, "E2003", "AuthenticationError"
    prefix = "유효하지 않은 토큰입니다."


class PermissionDenied(AuraError):
    status, code, error_type = 403, "E2001", "PermissionError"
    prefix = "권한이 없습니다."


class TenantMissing(AuraError):
    status, code, error_type = 400, "E2006", "ValidationError"
    prefix = "테넌트 정보가 필요합니다."


class RequestMalformed(AuraError):
    """The body is not JSON, or not the JSON that is required."""

    status, code, error_type = 400, "E1001", "ValidationError"
    prefix = "잘못된 요청입니다."


class FieldInvalid(AuraError):
    """A field fails validation; the cause names the field."""

    status, code, error_type = 400, "E4000", "ValidationError"
    prefix = "입력값이 올바르지 않습니다."


class BodyTooLarge(AuraError):
    status, code, error_type = 413, "E4001", "ValidationError"
    prefix = "요청 본문이 너무 큽니다."

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body has more than {limit_bytes} bytes, the limit")


class UrlTooLong(AuraError):
    status, code, error_type = 414, "E4002", "ValidationError"
    prefix = "요청 주소가 너무 깁니다."


class NotFound(AuraError):
    status, code, error_type = 404, "E1004", "ValidationError"
    prefix = "요청한 리소스를 찾을 수 없습니다."


class MethodNotAllowed(AuraError):
    status, code, error_type = 405, "E1002", "ValidationError"
    prefix = "허용되지 않은 메서드입니다."


class RequestTimedOut(AuraError):
    """The body did not arrive in time."""

    status, code, error_type, retryable = 408, "E1003", "ValidationError", True
    prefix = "요청 시간이 초과되었습니다."


class QuotaExceeded(AuraError):
    """The user or the tenant has as much as a setting allows. `setting` is its name; the cause says whose limit it is
    and how much it allows. `is_of_tenant`: other users of the tenant are refused too. `is_timed`: there is no room
    before the time to wait has passed; else there is when a run or a stream ends."""

    status, code, error_type, retryable = 429, "E1005", "LimitExceeded", True
    prefix = "사용 한도를 초과했습니다."
    retry_after_seconds = 1  # at least; each error has its own

    def __init__(
        self,
        setting: str,
        cause: str,
        retry_after_seconds: int,
        *,
        is_of_tenant: bool = False,
        is_timed: bool = True,
    ) -> None:
        super().__init__(f"{setting}: {cause}; send the request again in {retry_after_seconds} s")
        self.setting = setting
        self.is_of_tenant = is_of_tenant
        self.is_timed = is_timed
        self.retry_after_seconds = retry_after_seconds
        self._allowed = cause

    def in_seconds(self, retry_after_seconds: int) -> QuotaExceeded:
        """Return the same error with another time to wait."""
        return QuotaExceeded(self.setting, self._allowed, retry_after_seconds, is_of_tenant=self.is_of_tenant)


class ThreadBusy(AuraError):
    """The last run of the thread still waits for a person; a second prompt must not overtake it."""

    status, code, error_type = 409, "E1006", "ValidationError"
    prefix = "이 대화에는 아직 결정되지 않은 승인 요청이 있습니다."

    def __init__(self, request_id: str, session_id: str) -> None:
        super().__init__(f"decide request {request_id} of session {session_id} first, or cancel that run")


class RunEnded(AuraError):
    """The operation is possible only while the run is active."""

    status, code, error_type = 409, "E1007", "ValidationError"
    prefix = "이미 종료된 실행입니다."


class RunsActive(AuraError):
    """A person's data can be erased only when none of its runs is active."""

    def __init__(self, session_ids: Sequence[str]) -> None:
        named, more = ", ".join(session_ids[:_NAMED_RIGHTS]), len(session_ids) - _NAMED_RIGHTS
        super().__init__(
            f"these runs have not ended: {named}{f' and {more} more' if more > 0 else ''}; wait for their ends, or add"
            " --cancel"
        )


class FormatUnavailable(AuraError):
    """This machine cannot produce the requested format; the cause names what is missing."""

    status, code, error_type = 501, "E1008", "ValidationError"
    prefix = "이 형식은 지금 제공할 수 없습니다."


class ServiceBusy(AuraError):
    """This replica accepts no new runs: it is shutting down or has reached a limit."""

    status, code, error_type, retryable = 503, "E5003", "LimitExceeded", True
    prefix = "지금은 요청을 처리할 수 없습니다."
    retry_after_seconds = 1


class StorageUnavailable(AuraError):
    """Redis, the search server or the archive did not answer in time. Repeating the operation is safe."""

    status, code, error_type, retryable = 503, "E5002", "StorageUnavailable", True
    prefix = "저장소에 연결할 수 없습니다."
    retry_after_seconds = 2


class StorageForbidden(AuraError):
    """Redis answers, but its user has not all the rights that the service needs: no run could be carried out."""

    status, code, error_type, retryable = 503, "E5004", "StorageUnavailable", True
    prefix = "저장소 사용 권한이 부족합니다."
    retry_after_seconds = 30

    def __init__(self, missing: Sequence[str]) -> None:
        named, more = ", ".join(missing[:_NAMED_RIGHTS]), len(missing) - _NAMED_RIGHTS
        super().__init__(
            f"the Redis user of this service may not: {named}{f' and {more} more' if more > 0 else ''};"
            " grant it (ACL SETUSER)"
        )


class RunNotArchivable(AuraError):
    """The archive refuses what a run contains. Repeating the operation does not help; other runs are not concerned."""


class RunLost(AuraError):
    """This node must stop writing the run: another node owns it now (newer `epoch`), or its data has expired."""

    def __init__(self, session_id: str, cause: str) -> None:
        super().__init__(f"run {session_id}: {cause}")


class RunDamaged(AuraError):
    """Redis no longer has the last writes of the run, for example after a failover, so it cannot be continued."""

    status, code, error_type, retryable = 503, "E5002", "StorageUnavailable", True
    prefix = "실행 기록의 일부가 저장소에서 사라졌습니다."

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the last writes of run {session_id} are gone from Redis; send the request again")


class EventsGone(AuraError):
    """Redis no longer has the event after which a reader of a run under way continues, for example after a failover.

    What follows would not fit what the reader has. It is sent as `error` and `end` frames, status 200; a GET gets 404,
    so that an `EventSource` does not come back.
    """

    status, code, error_type, retryable = 200, "E5002", "StorageUnavailable", True
    prefix = RunDamaged.prefix

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the last events of run {session_id} are gone from Redis; attach again without Last-Event-ID")


class RecordChanged(AuraError):
    """What this service stored was changed by another program, so nothing of it may run (CONTRACT §5)."""

    status, code, error_type = 403, "E2001", "PermissionError"
    prefix = "저장된 기록이 다른 프로그램에 의해 변경되어 작업을 중단했습니다."


class RunExists(AuraError):
    """The session id is taken; the caller creates another one."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"run {session_id} exists")


class ModelError(AuraError):
    """A model turn failed; `kind` is the cause (`statemachine.messages.ModelFailure`).

    The user reads `cause`, which has no addresses. `detail` is for the log alone: address, status, body, system error.
    `server_status` is the HTTP status of the server's response, or the one that an error in a stream names.
    """

    status, code, error_type = 502, "E5000", "ModelError"
    prefix = "AI 모델 호출에 실패했습니다."

    def __init__(
        self,
        kind: ModelFailure,
        cause: str,
        retry_after_seconds: float | None = None,
        *,
        detail: str = "",
        server_status: int | None = None,
    ) -> None:
        super().__init__(cause, detail=detail)
        self.kind = kind
        self.model_retry_after_seconds = retry_after_seconds
        self.server_status = server_status


class ToolError(AuraError):
    """A tool failed; the cause is sent to the model and to the user, and holds no secret and no address."""

    status, code, error_type = 502, "E5000", "ToolError"
    prefix = "도구 실행에 실패했습니다."


class OutcomeUnknown(ToolError):
    """A call was sent to its service, then something failed: it may have taken effect."""


class ConfigurationError(AuraError):
    """The settings do not allow the start. The message is one line that names the setting and the remedy."""

    prefix = ""
