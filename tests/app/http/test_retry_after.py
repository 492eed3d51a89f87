"""The time until a retry, in each form that servers send it."""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx2
import pytest

from app.http.retry_after import retry_after_seconds

DATE = "Tue, 16 Jan 2024 09:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After-Ms": "250", "Retry-After": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"Retry-After": "Tue, 16 Jan 2024 09:00:30 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Tue, 16 Jan 2024 08:00:00 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "1_0"}, None),
        ({"Retry-After": "later"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
    ],
)
def test_each_form_gives_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(httpx2.Headers(headers)) == seconds


def test_a_date_is_compared_with_our_clock_where_the_response_has_no_date() -> None:
    headers = httpx2.Headers({"Retry-After": formatdate(time.time() + 60, usegmt=True)})
    assert retry_after_seconds(headers) == pytest.approx(60, abs=5)
