"""The body of a chat completion request, and the features that a server may refuse in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from statemachine.provider_fields import conversation_for
from statemachine.stored import JsonObject

OPTIONAL_FEATURES = ("stream_options", "parallel_tool_calls", "logprobs", "tools")
"""What a request can do without, in the order in which it is left out. Some servers refuse a request that has it."""

_REFUSALS = {
    "stream_options": re.compile(r"stream[_ ]options|include_usage", re.IGNORECASE),
    "parallel_tool_calls": re.compile(r"parallel[_ ](tool|function)[_ ]call", re.IGNORECASE),
    "logprobs": re.compile(r"log[_ ]?probs", re.IGNORECASE),
    # An error in the schema of a tool names the tools as well, but nothing is won by leaving them out then.
    "tools": re.compile(
        r"not support[^.]{0,40}(tool|function)|unsupported[^.]{0,40}(tool|function)"
        r"|(tool|function)[^.]{0,80}(not|n't)( be| been| currently| yet)? (support|enabled|available|allowed|permitted)"
        r"|(unknown|unrecognized|unexpected|extra)[^.]{0,60}\btools\b|\btools\b[^.]{0,80}(unknown|unexpected|extra_forbid)"
        r"|tools? (param|choice)[^.]{0,20} requires|support(s|ing)? tool use",
        re.IGNORECASE,
    ),
}
"""How servers refuse a feature, in the body of the error."""


def encode_request(
    model: str,
    messages: Sequence[JsonObject],
    tools: Sequence[JsonObject],
    *,
    origin: str,
    options: JsonObject,
    without: frozenset[str],
) -> tuple[bytes, frozenset[str]]:
    """Return the body of the request for one streamed turn, as JSON, and the names of the features that it has.

    `options` are merged into it. `without` names the features that are left out for this server.
    """
    body: JsonObject = {
        "model": model,
        "messages": conversation_for(origin, messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    if tools:
        body["tools"] = tools
    else:
        body.pop("parallel_tool_calls", None)
        body.pop("tool_choice", None)
    for feature in without:
        body.pop(feature, None)
    if "tools" in without:
        body.pop("tool_choice", None)
        body.pop("parallel_tool_calls", None)
    return msgspec.json.encode(body), frozenset(body).intersection(OPTIONAL_FEATURES)


def refused_feature(error_body: str, sent: frozenset[str]) -> str | None:
    """Return the feature that an error refuses, out of those that were sent; None if it refuses none of them."""
    return next((name for name in OPTIONAL_FEATURES if name in sent and _REFUSALS[name].search(error_body)), None)
