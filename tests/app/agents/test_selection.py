"""Which agent a request gets: the requested one, that of the app, the tenant's default, the file's default."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agents.definitions import AgentDefinition, Agents
from app.agents.selection import choose
from app.errors import FieldInvalid
from statemachine.agent import Agent
from statemachine.checkpoint import Limits

TENANTS, APPS, NAMES = ("acme", "globex", "initech"), ("mail", "calendar"), ("a", "b", "c")


def agent(name: str, apps: tuple[str, ...] = (), tenants: tuple[str, ...] | None = None) -> AgentDefinition:
    return AgentDefinition(
        Agent.of(name=name),
        Limits(),
        "You help.",
        apps=frozenset(apps),
        tenants=None if tenants is None else frozenset(tenants),
    )


def agents(*definitions: AgentDefinition, default: str | None = None, **tenant_defaults: str) -> Agents:
    return Agents({each.name: each for each in definitions}, default, tenant_defaults)


FILE = agents(
    agent("general"),
    agent("mail", apps=("mail",)),
    agent("sales", apps=("crm",), tenants=("acme",)),
    agent("house", tenants=("globex",)),
    default="general",
    globex="house",
)


@pytest.mark.parametrize(
    ("requested", "app", "tenant", "expected"),
    [
        ("sales", "mail", "acme", "sales"),
        ("general", "mail", "globex", "general"),
        (None, "mail", "acme", "mail"),
        (None, "mail", "globex", "mail"),
        (None, "crm", "acme", "sales"),
        (None, "crm", "initech", "general"),  # the agent of the app belongs to another tenant
        (None, "crm", "globex", "house"),
        (None, "unknown", "acme", "general"),
        (None, None, "acme", "general"),
        (None, ["mail"], "acme", "general"),
        (None, {"mail": 1}, "globex", "house"),
    ],
)
def test_the_first_rule_that_names_a_usable_agent_counts(
    requested: str | None, app: object, tenant: str, expected: str
) -> None:
    chosen = choose(FILE, requested, app, tenant)
    assert chosen is not None
    assert chosen.name == expected


def test_a_file_without_a_default_leaves_a_run_without_an_agent() -> None:
    assert choose(agents(agent("mail", apps=("mail",))), None, "calendar", "acme") is None
    assert choose(agents(agent("house", tenants=("globex",)), default="house"), None, None, "acme") is None
    assert choose(agents(), None, "mail", "acme") is None


@pytest.mark.parametrize("name", ["sales", "nobody"])
def test_an_agent_of_another_tenant_is_refused_as_one_that_does_not_exist(name: str) -> None:
    with pytest.raises(FieldInvalid) as refused:
        choose(FILE, name, None, "globex")
    assert refused.value.cause == f"agent: there is no agent {name!r}; available: general, mail, house"


def test_where_a_tenant_may_use_no_agent_none_is_available() -> None:
    with pytest.raises(FieldInvalid, match="available: none"):
        choose(agents(agent("house", tenants=("globex",))), "house", None, "acme")


FILES = st.builds(
    agents,
    st.builds(agent, st.just("a"), st.sets(st.sampled_from(APPS)).map(tuple), st.none() | st.just(("acme",))),
    st.builds(agent, st.just("b"), st.sets(st.sampled_from(APPS)).map(tuple), st.just(("globex", "initech"))),
    st.builds(agent, st.just("c"), st.just(()), st.sets(st.sampled_from(TENANTS)).map(tuple)),
    default=st.none() | st.sampled_from(NAMES),
    acme=st.sampled_from(NAMES),
    globex=st.sampled_from(NAMES),
)


@given(FILES, st.none() | st.sampled_from((*NAMES, "d")), st.none() | st.sampled_from(APPS), st.sampled_from(TENANTS))
def test_nobody_gets_or_sees_an_agent_that_the_tenant_may_not_use(
    file: Agents, requested: str | None, app: str | None, tenant: str
) -> None:
    usable = file.usable_by(tenant)
    if requested is not None and requested not in usable:
        with pytest.raises(FieldInvalid) as refused:
            choose(file, requested, app, tenant)
        assert refused.value.cause.endswith(f"available: {', '.join(usable) or 'none'}")
        return
    chosen = choose(file, requested, app, tenant)
    assert chosen is None or chosen.name in usable
    assert requested is None or (chosen is not None and chosen.name == requested)
