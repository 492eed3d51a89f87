"""Liveness, readiness, and what this is (§1)."""

from __future__ import annotations

import importlib.metadata

from quart import Blueprint, Response

from app.errors import ServiceBusy, StorageUnavailable
from app.ports import DecisionBus, Journal, Model
from app.routes.answers import Answers
from app.runs import RunService
from statemachine.states import State

VERSION = importlib.metadata.version("aura-platform")


def health_routes(
    answers: Answers, runs: RunService, journal: Journal, decisions: DecisionBus, model: Model
) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/health")
    @routes.get("/aura/health")
    async def health() -> Response:
        return answers.success({"status": "UP"}, message="살아 있습니다.")

    @routes.get("/ready")
    async def ready() -> Response:
        if runs.is_draining:
            raise ServiceBusy("this replica is shutting down")
        await journal.ping()
        if not runs.is_alive:
            raise StorageUnavailable("this node has no lease at the moment")
        hints = {"hints": decisions.hints} if decisions.hints else {}  # ready all the same: others' decisions do arrive
        return answers.success({"status": "UP", **hints}, message="준비되었습니다.")

    @routes.get("/aura/info")
    async def info() -> Response:
        states = [state.value for state in State]
        return answers.success(
            {"name": "aura-platform", "version": VERSION, "model": model.name, "states": states},
            message="Aura-Platform",
        )

    return routes
