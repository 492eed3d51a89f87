"""Every key and channel name (§5).

All keys of one user's runs share a hash tag, so that a commit is one script on one slot of a cluster and the ids of a
user's events come from one counter (§3). The tag is read off the session id, so a key can be found from it alone.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from statemachine.sessions import key_safe_user_id, user_id_of


def checkpoint(session_id: str) -> str:
    return f"checkpoint:{{{user_id_of(session_id)}}}:{session_id}"


def events(session_id: str) -> str:
    return f"aura:{{{user_id_of(session_id)}}}:events:{session_id}"


def run(session_id: str) -> str:
    return f"aura:{{{user_id_of(session_id)}}}:run:{session_id}"


def event_ids(session_id: str) -> str:
    """The last event id given to this user."""
    return f"aura:{{{user_id_of(session_id)}}}:ids"


def runs_of(tenant_id: str, user_id: str) -> str:
    """A user's runs, scored by their first event id."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:runs:{_owner(tenant_id, user_id)}"


def active_of(tenant_id: str, user_id: str) -> str:
    """A user's runs that have not ended."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:active:{_owner(tenant_id, user_id)}"


def thread(tenant_id: str, user_id: str, thread_id: str) -> str:
    """The runs of a conversation, scored by their first event id."""
    return f"aura:{{{key_safe_user_id(user_id)}}}:thread:{_owner(tenant_id, user_id, thread_id)}"


def tenant_runs(tenant_id: str) -> str:
    """A tenant's runs, scored by when they began (ms); one whose data is gone is no longer listed."""
    return f"aura:tenant:{_owner(tenant_id)}:runs"


def idempotency(tenant_id: str, user_id: str, key: str) -> str:
    return f"aura:{{{key_safe_user_id(user_id)}}}:idempotency:{_owner(tenant_id, user_id, key)}"


@lru_cache(maxsize=1024)  # every commit names its owner's keys
def _owner(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:24]


def wake(session_id: str) -> str:
    """Channel: the run's log has grown."""
    return f"aura:wake:{session_id}"


_LEFT = ":left"

NODES = "aura:nodes"
"""Living nodes, scored by the end of their lease (ms since the epoch, Redis' clock)."""


def left_by(node_id: str) -> str:
    """In place of a node: the owner of runs that theirs has left. It never lives, so that anybody takes them over."""
    return node_id + _LEFT


def real_node(node_id: str) -> str:
    """The node itself, of either name."""
    return node_id.removesuffix(_LEFT)


def runs_on(node_id: str) -> str:
    """The runs of a node, scored by when they began (ms)."""
    return f"aura:node:{node_id}:runs"


def node(node_id: str) -> str:
    """Channel: what a node is asked to do with its runs."""
    return f"aura:node:{node_id}"


def pulse(node_id: str) -> str:
    """Channel: a node hears itself on it, or knows that its Pub/Sub connection is dead."""
    return f"aura:pulse:{node_id}"


TASKS = "aura:tasks"
"""Runs whose task may not know of their end yet, scored by when somebody should look (ms)."""


def ticket(session_id: str) -> str:
    """What is kept of a run's caller, sealed."""
    return f"aura:{{{user_id_of(session_id)}}}:ticket:{session_id}"


def hitl_task(task_id: str) -> str:
    """The open approval request of a task (§6)."""
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
    """A tenant's events and their vectors; one slot with what is below it."""
    return f"aura:{{knowledge-{_owner(tenant_id)}}}:log"


def knowledge_seen(tenant_id: str) -> str:
    """The ids of the events in the log, scored by their position (ms, and 1024ths for the sequence)."""
    return f"aura:{{knowledge-{_owner(tenant_id)}}}:seen"


KNOWLEDGE_TENANTS = "aura:knowledge:tenants"
"""Tenants that have a log, scored by when it was last written (ms)."""

KNOWLEDGE_CHANNEL = "aura:knowledge:changed"
"""Channel: the tenant whose log has grown; empty: every index has to be made again."""

KNOWLEDGE_GENERATION = "aura:knowledge:generation"

KNOWLEDGE_LEADER = "aura:knowledge:leader"
"""The node that makes vectors."""

KNOWLEDGE_REFUSED = "aura:{knowledge}:refused"
"""How many messages were malformed, by reason."""


def knowledge_refusal(digest: str) -> str:
    """A malformed message that was counted just now."""
    return f"aura:{{knowledge}}:refusal:{digest}"


DOMAIN_CHANNELS = ("dwp:events:all", "dwp:events:mail", "dwp:events:approval")
