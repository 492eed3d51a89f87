"""Every key and channel name in Redis (CONTRACT §5).

All keys of the runs of one user share a hash tag, so that a commit is one script on one slot of a cluster and the event
ids of a user come from one counter (CONTRACT §3). The session id contains the tag: each key of a run follows from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

from statemachine.sessions import is_session_id, key_safe_user_id, user_id_of


def sessions(members: Iterable[bytes]) -> list[str]:
    """Return the session ids among the members of a list of runs: other programs can write anything into it."""
    return [text for raw in members if is_session_id(text := raw.decode("utf-8", "replace"))]


def checkpoint(session_id: str) -> str:
    return f"checkpoint:{{{user_id_of(session_id)}}}:{session_id}"


def events(session_id: str) -> str:
    return f"aura:{{{user_id_of(session_id)}}}:events:{session_id}"


def run(session_id: str) -> str:
    return f"aura:{{{user_id_of(session_id)}}}:run:{session_id}"


ANY_RUN = "aura:{*}:run:*"
"""The pattern of the keys that `run` returns."""


def event_ids(session_id: str) -> str:
    """The last event id of any run of this user."""
    return f"aura:{{{user_id_of(session_id)}}}:ids"


def runs_of(tenant_id: str, user_id: str) -> str:
    """Sorted set: the runs of a user, scored by their first event id."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:runs:{_owner(tenant_id, user_id)}"


def active_of(tenant_id: str, user_id: str) -> str:
    """Sorted set: the runs of a user that have not ended. The score is a time in ms, such as the first event id; for a
    run that waits for a person it is the deadline, as a negative number."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:active:{_owner(tenant_id, user_id)}"


def summary(session_id: str) -> str:
    """What a list shows of a run, as JSON: `statemachine.views.summary`."""
    return f"aura:{{{user_id_of(session_id)}}}:summary:{session_id}"


def stored_of(tenant_id: str, user_id: str) -> str:
    """Hash: the bytes of a user's runs, by the time (Unix s) at which they expire."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:stored:{_owner(tenant_id, user_id)}"


def streams_of(tenant_id: str, user_id: str) -> str:
    """Hash: the number of a user's open streams, by the node that serves them."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:streams:{_owner(tenant_id, user_id)}"


def thread(tenant_id: str, user_id: str, thread_id: str) -> str:
    """Sorted set: the runs of a conversation, scored by their first event id."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:thread:{_owner(tenant_id, user_id, thread_id)}"


def tenant_runs(tenant_id: str) -> str:
    """Sorted set: the runs of a tenant, scored by their creation (ms); a run whose data has expired is removed."""
    return f"aura:tenant:{_owner(tenant_id)}:runs"


def tenant_stored(tenant_id: str) -> str:
    """Hash: the bytes of a tenant's runs, by the time (Unix s) at which they expire."""
    return f"aura:tenant:{_owner(tenant_id)}:stored"


def idempotency(tenant_id: str, user_id: str, key: str) -> str:
    """The session id that an idempotency key created, and the digest of its prompt."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:idempotency:{_owner(tenant_id, user_id, key)}"


@lru_cache(maxsize=1024)  # every commit needs the keys of its owner
def _owner(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:24]


def wake(session_id: str) -> str:
    """Channel: the log of a run has new events; the message is the id of the last one. It is in the slot of the run's
    keys, so that a cluster can keep its messages there (`app.redis.wake_ups`)."""
    return f"aura:wake:{{{user_id_of(session_id)}}}:{session_id}"


ANY_WAKE = "aura:wake:*"
"""The pattern of these channels."""


def shared_text(digest: str) -> str:
    """A text with which the system prompts of many runs begin."""
    return f"aura:text:{digest}"


_RELEASED = ":left"

NODES = "aura:nodes"
"""Sorted set: the nodes, scored by the end of their lease (ms since the epoch, by the clock of Redis)."""


def released_by(node_id: str) -> str:
    """The owner of the runs that this node has released. It is never alive, so that any node takes them over."""
    return node_id + _RELEASED


def real_node(node_id: str) -> str:
    """The node itself, for the id of a node and for `released_by` of it."""
    return node_id.removesuffix(_RELEASED)


def runs_on(node_id: str) -> str:
    """Sorted set: the runs of a node, scored by their creation (ms)."""
    return f"aura:node:{node_id}:runs"


def node(node_id: str) -> str:
    """Channel: requests to a node that concern its runs, as JSON."""
    return f"aura:node:{node_id}"


def keep_alive(node_id: str) -> str:
    """Channel: keeps the Pub/Sub connection of a node subscribed where nothing else is."""
    return f"aura:pulse:{node_id}"


TASKS = "aura:tasks"
"""Sorted set: the runs whose task may not know of their end yet, scored by when to look them up (ms)."""


ARCHIVE = "aura:archive"
"""Sorted set: the runs that are not in the archive yet, scored by when to look them up (ms)."""


def ticket(session_id: str) -> str:
    """The encrypted token of the caller who started a run."""
    return f"aura:{{{user_id_of(session_id)}}}:ticket:{session_id}"


def hitl_task(task_id: str) -> str:
    """The id of the open approval request of a task (CONTRACT §6)."""
    return f"hitl:task:{task_id}"


def hitl_request(request_id: str) -> str:
    return f"hitl:request:{request_id}"


def hitl_session(session_id: str) -> str:
    return f"hitl:session:{session_id}"


def hitl_signal(session_id: str) -> str:
    return f"hitl:signal:{session_id}"


def hitl_channel(session_id: str) -> str:
    return f"hitl:channel:{session_id}"


def knowledge_log(tenant_id: str) -> str:
    """Stream: the events of a tenant and their vectors; in the same slot as `knowledge_seen`."""
    return f"aura:{{knowledge-{_owner(tenant_id)}}}:log"


def knowledge_seen(tenant_id: str) -> str:
    """Sorted set: the ids of the events in the log, scored by their position (ms plus sequence / 1024)."""
    return f"aura:{{knowledge-{_owner(tenant_id)}}}:seen"


KNOWLEDGE_TENANTS = "aura:knowledge:tenants"
"""Sorted set: the tenants that have a log, scored by its last write (ms)."""

KNOWLEDGE_CHANNEL = "aura:knowledge:changed"
"""Channel: the id of the tenant whose log has new entries; an empty message: rebuild every index."""

KNOWLEDGE_GENERATION = "aura:knowledge:generation"
"""A counter: with a new number every index is rebuilt."""

KNOWLEDGE_LEADER = "aura:knowledge:leader"
"""The node that computes vectors."""

KNOWLEDGE_REFUSED = "aura:{knowledge}:refused"
"""Hash: the number of malformed messages by reason."""


def knowledge_refusal(digest: str) -> str:
    """A mark that this malformed message has been counted, so that no other process counts it too."""
    return f"aura:{{knowledge}}:refusal:{digest}"


def audit_chain(tenant_id: str, chain: str) -> str:
    """Stream: one chain of the record of decisions; in the same slot as `audit_chains`."""
    return f"aura:audit:{{audit-{_owner(tenant_id)}}}:{chain}"


def audit_chains(tenant_id: str) -> str:
    """Sorted set: the names of a tenant's chains, scored by their last write (ms)."""
    return f"aura:audit:{{audit-{_owner(tenant_id)}}}:{_CHAINS}"


_CHAINS = "chains"
_AUDIT_CHAIN = re.compile(r"aura:audit:\{audit-([0-9a-f]{24})\}:(.+)", re.DOTALL)
ANY_AUDIT_CHAIN = "aura:audit:{audit-*}:*"
"""The pattern of the keys that `audit_chain` and `audit_chains` return."""


def read_audit_chain(key: str) -> tuple[str, str] | None:
    """The owner (`audit_owner`) and the name of the chain at this key; None where it is no chain's key."""
    found = _AUDIT_CHAIN.fullmatch(key)
    return (found[1], found[2]) if found is not None and found[2] != _CHAINS else None


def audit_owner(tenant_id: str) -> str:
    """What the keys of a tenant's chains have instead of its id."""
    return _owner(tenant_id)


AUDIT_TENANTS = "aura:audit:tenants"
"""Sorted set: the tenants that have a chain, scored by its last write (ms)."""

AUDIT_FAILURES = "aura:audit:failures"
"""Stream of bounded length: failed authentications."""
