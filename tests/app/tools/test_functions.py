"""Decorated functions as tools: what is taken from the signature, resources, and errors that name the place."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr, field_serializer

from app.tools import ToolContext, resource, tool
from app.tools.definitions import DefinitionInvalid, ToolDefinition
from app.tools.functions import Dependencies, FunctionTool
from app.tools.registry import ToolRegistry
from statemachine.call import CallStatus, Confidence, Grant, ToolCall
from statemachine.messages import ToolFinished
from statemachine.stored import digest

CONTEXT = ToolContext(session_id="s1", tenant_id="t1", user_id="kim", idempotency_key="s1:c1")


class Period(BaseModel):
    """An argument whose serializer fails for 0 days."""

    days: int

    @field_serializer("days")
    def _serialize(self, days: int) -> int:
        return 365 // days


class Pool:
    """A resource of tests."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


@dataclass
class Order:
    item: str
    count: int
    by: str
    pool_size: int


@tool(needs_approval=True, question="재고를 {count}개 주문하시겠습니까?", outward=True, timeout_seconds=5)
async def order_stock(
    item: str, count: Annotated[int, Field(gt=0)], context: ToolContext, pool: Pool, note: str = "없음"
) -> Order:
    """Order items for
    the stock.

    Only whole boxes can be ordered.

    Args:
        item: The name of the item,
            as the catalogue has it.
        note: For the supplier.
    """
    return Order(item, count, context.user_id, pool.size)


@tool(name="log_in", title="로그인", untrusted=True, idempotent=True)
async def sign_in(password: SecretStr, copy: bool = False) -> str:
    return password.get_secret_value() + ("!" if copy else "")


def made(definition: ToolDefinition[..., Any], *provided: type) -> FunctionTool:
    values = Dependencies({})
    for kind in provided:
        values.declare(kind)
        values.put(kind, kind())
    return FunctionTool(definition, values)


async def execute(registry: ToolRegistry, name: str, arguments: str) -> ToolFinished:
    requested = registry.resolve("c1", name, arguments)
    assert requested.refusal is None
    grant = Grant(request_id="r1", arguments_digest=digest(requested.arguments), decided_at=0)
    call = ToolCall.of(requested, id="c1", confidence=Confidence.UNKNOWN, turn=1)
    values = {name: getattr(call, name) for name in ToolCall.__struct_fields__}
    return await registry.execute(ToolCall(**values | {"status": CallStatus.STARTED, "grant": grant}), CONTEXT)


def test_the_model_reads_the_signature_and_the_docstring() -> None:
    (schema, _) = ToolRegistry([made(order_stock, Pool)]).schemas()
    assert schema["function"] == {
        "name": "order_stock",
        "description": "Order items for the stock.",
        "parameters": {
            "additionalProperties": False,
            "type": "object",
            "properties": {
                "item": {"type": "string", "description": "The name of the item, as the catalogue has it."},
                "count": {"type": "integer", "exclusiveMinimum": 0},
                "note": {"type": "string", "default": "없음", "description": "For the supplier."},
            },
            "required": ["item", "count"],
        },
    }


def test_the_marks_are_those_of_the_decorator() -> None:
    (order, log_in) = ToolRegistry([made(order_stock, Pool), made(sign_in)]).select()
    assert (order.needs_approval, order.outward, order.untrusted, order.tool.timeout_seconds) == (True, True, False, 5)
    assert (log_in.needs_approval, log_in.outward, log_in.untrusted, log_in.tool.idempotent) == (
        False,
        False,
        True,
        True,
    )
    assert (order.tool.title, log_in.tool.title) == ("order stock", "로그인")
    assert order.source.startswith(f"{__name__}:order_stock (tools/test_functions.py line ")


async def test_it_runs_with_its_arguments_the_context_and_its_resources() -> None:
    finished = await execute(ToolRegistry([made(order_stock, Pool)]), "order_stock", '{"item": "볼트", "count": 3}')
    assert finished.result == {"item": "볼트", "count": 3, "by": "kim", "pool_size": 1}


async def test_secrets_are_masked_and_reach_the_function() -> None:
    registry = ToolRegistry([made(sign_in)])
    requested = registry.resolve("c1", "log_in", '{"password": "hunter2-hunter2", "copy": true}')
    assert requested.shown_arguments == {"password": "***", "copy": True}
    finished = await execute(registry, "log_in", '{"password": "hunter2-hunter2", "copy": true}')
    assert finished.result == "hunter2-hunter2!"


async def test_secrets_of_every_type_are_masked_and_reach_the_function() -> None:
    @tool()
    async def sign(key: SecretBytes, pin: Secret[int], more: list[Secret[str]]) -> int:
        return len(key.get_secret_value()) + pin.get_secret_value() + len(more[0].get_secret_value())

    registry = ToolRegistry([made(sign)])
    requested = registry.resolve("c1", "sign", '{"key": "abc", "pin": 40, "more": ["four"]}')
    assert requested.shown_arguments == {"key": "***", "pin": "***", "more": ["***"]}
    assert (await execute(registry, "sign", '{"key": "abc", "pin": 40, "more": ["four"]}')).result == 47


def test_arguments_whose_serializer_fails_are_refused_to_the_model() -> None:
    @tool()
    async def forecast(period: Period) -> int:
        return period.days

    requested = ToolRegistry([made(forecast)]).resolve("c1", "forecast", '{"period": {"days": 0}}')
    assert requested.refusal is not None
    assert "cannot be written as JSON (PydanticSerializationError)" in requested.refusal


def test_the_question_has_the_arguments() -> None:
    requested = ToolRegistry([made(order_stock, Pool)]).resolve("c1", "order_stock", '{"item": "볼트", "count": 3}')
    assert requested.question == "재고를 3개 주문하시겠습니까?"


def test_without_a_question_the_title_is_one() -> None:
    tool = made(sign_in)
    assert tool.question(tool.arguments(password="x")) == "로그인: 실행하시겠습니까?"


@pytest.mark.parametrize("arguments", ['{"item": "x", "count": 0}', '{"item": "x", "count": 1, "pool": 1}', "{}"])
def test_arguments_that_do_not_fit_are_refused_to_the_model(arguments: str) -> None:
    assert ToolRegistry([made(order_stock, Pool)]).resolve("c1", "order_stock", arguments).refusal is not None


async def test_the_function_can_be_called_in_its_own_tests() -> None:
    assert await order_stock("볼트", 3, CONTEXT, Pool(2)) == Order("볼트", 3, "kim", 2)
    assert repr(order_stock).startswith(f"<tool order_stock of {__name__}:order_stock (")


def test_a_style_of_docstring_that_is_unknown_describes_nothing() -> None:
    @tool()
    async def search(query: str) -> str:
        """Search.

        Args:
            query
        """
        return query

    assert made(search).description == "Search."


class Stored(BaseModel):
    """It has a part that is never written, so nobody can read it again."""

    kept: str
    lost: str = Field(exclude=True)


def test_arguments_that_cannot_be_read_again_are_refused_before_anybody_approves_them() -> None:
    @tool(needs_approval=True)
    async def keep(value: Stored) -> str:
        return value.lost

    requested = ToolRegistry([made(keep)]).resolve("c1", "keep", '{"value": {"kept": "a", "lost": "b"}}')
    assert requested.refusal is not None
    assert "cannot be stored as JSON and read again (value.lost: Field required)" in requested.refusal


# --- what cannot be a tool --------------------------------------------------------------------------------------------


async def no_type(item) -> str:  # type: ignore[no-untyped-def]
    return str(item)


async def many(*items: str) -> str:
    return str(items)


async def any_names(**items: str) -> str:
    return str(items)


async def private(_item: str) -> str:
    return _item


async def unknown_type(item: Missing) -> str:  # type: ignore[name-defined]  # noqa: F821
    return str(item)


async def needs_pool(pool: Pool) -> str:
    return str(pool)


async def reserved(model_config: str) -> str:
    return model_config


async def bad_default(count: Annotated[int, Field(gt="x")]) -> int:
    return count


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (no_type, "the parameter `item` has no type: add one, such as `item: str`"),
        (many, "the parameter *items: 'str' has no name that a model could give"),
        (any_names, "the parameter **items: 'str' has no name that a model could give"),
        (private, "the parameter `_item` begins with `_`: rename it"),
        (reserved, "the parameter `model_config` has a name that pydantic uses: rename it"),
        (unknown_type, "the type of a parameter cannot be resolved: NameError"),
        (needs_pool, "the parameter `pool` has the type Pool, which JSON does not have: use a type that it has, or"),
        (bad_default, "the parameter `count` has no JSON schema: "),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_named_with_its_line(function: Any, cause: str) -> None:
    with pytest.raises(DefinitionInvalid) as raised:
        made(tool()(function))
    assert raised.value.cause.startswith(f"{__name__}:{function.__name__} (tools/test_functions.py line ")
    assert cause in raised.value.cause


@pytest.mark.parametrize(
    ("default", "cause"),
    [
        (None, r"the default of `note` does not fit its type: .*string; correct it, or write `note: … \| None`"),
        (7, "the default of `note` does not fit its type"),
        (lambda: "now", "the default of `note` does not fit its type"),
    ],
)
def test_a_default_that_does_not_fit_its_type_is_refused(default: Any, cause: str) -> None:
    async def write(note: str = default) -> str:
        return note

    with pytest.raises(DefinitionInvalid, match=cause):
        made(tool()(write))


def test_a_default_of_any_kind_that_fits_is_accepted() -> None:
    @tool()
    async def write(
        note: str | None = None,
        tags: list[str] = Field(default_factory=list),  # noqa: B008 - what is tested
        period: Period = Period(days=1),  # noqa: B008
    ) -> str:
        return f"{note} {tags} {period.days}"

    assert ToolRegistry([made(write)]).resolve("c1", "write", "{}").arguments == {
        "note": None,
        "tags": [],
        "period": {"days": 365},
    }


def test_decorators_refuse_what_they_cannot_use() -> None:
    with pytest.raises(DefinitionInvalid, match=r"write `@tool\(\)`, with parentheses"):
        tool(private)
    with pytest.raises(DefinitionInvalid, match="it has no name of its own: write an `async def` that calls it"):
        tool()(functools.partial(private, "x"))

    def plain() -> None: ...

    async def fine(count: int) -> int:
        return count

    decorate: Any = tool()
    with pytest.raises(DefinitionInvalid, match="write `async def`"):
        decorate(plain)
    with pytest.raises(DefinitionInvalid, match="'주문' cannot be offered to models"):
        tool(name="주문")(fine)
    with pytest.raises(DefinitionInvalid, match="timeout_seconds is 0: it must be a number above 0"):
        tool(timeout_seconds=0)(fine)
    with pytest.raises(
        DefinitionInvalid, match=r"the question names \{item\}, which is not an argument; there are: \{count\}"
    ):
        made(tool(question="{item}?")(fine))
    with pytest.raises(DefinitionInvalid, match="is not a format text"):
        made(tool(question="{count")(fine))
    not_a_generator: Any = fine
    with pytest.raises(DefinitionInvalid, match="a resource is an asynchronous generator"):
        resource(not_a_generator)
