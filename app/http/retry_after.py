"""How long a server wants its clients to wait before a retry, read from the headers of its response."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_NUMBER = re.compile(r"\d{1,15}(\.\d*)?", re.ASCII)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds until a retry is welcome, at least 0; None if the headers do not name a valid time.

    Reads `retry-after-ms` (milliseconds, as OpenAI and Azure send it), then `Retry-After` (seconds or an HTTP date,
    RFC 9110 §10.2.3). A date is compared with the response's own `Date`, so that clocks may differ. The mapping must
    ignore the case of names.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(value):
        return float(value)
    retry_at = _http_date(value)
    if retry_at is None:
        return None
    responded_at = _http_date(headers.get("date", ""))
    return max(0.0, retry_at - (time.time() if responded_at is None else responded_at))


def _http_date(text: str) -> float | None:
    """Returns the Unix time in seconds, or None if the text is not a date."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, IndexError):
        return None
