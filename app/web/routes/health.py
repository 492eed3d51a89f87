"""Liveness, readiness and information about the service (§1)."""

from __future__ import annotations

import importlib.metadata

from quart import Blueprint, Response

from app.errors import ServiceBusy, StorageForbidden, StorageUnavailable
from app.ports.archive import ArchiveStatus
from app.ports.decisions import DecisionBus
from app.ports.journal import Journal
from app.ports.model import Model
from app.ports.nodes import Nodes
from app.ports.responses import HealthStatus, ServiceInfo
from app.ports.storage import StorageRights
from app.runs.service import RunService
from app.web.openapi.operations import operation
from app.web.responses import ResponseBuilder
from statemachine.states import State

VERSION = importlib.metadata.version("aura-platform")


def health_routes(
    responses: ResponseBuilder,
    runs: RunService,
    nodes: Nodes,
    journal: Journal,
    rights: StorageRights,
    decisions: DecisionBus,
    model: Model,
    archive: ArchiveStatus | None,
) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/health")
    @routes.get("/aura/health")
    @operation("Return whether the process is alive.", data=HealthStatus, access="public")
    async def health() -> Response:
        return responses.success({"status": "UP"}, message="살아 있습니다.")

    @routes.get("/ready")
    @operation(
        "Return whether this replica is ready: it can use Redis and is not shutting down.",
        data=HealthStatus,
        access="public",
        errors=(ServiceBusy, StorageForbidden, StorageUnavailable),
    )
    async def ready() -> Response:
        await _check_ready(runs, nodes, journal, rights)
        # The replica is ready in spite of hints: decisions of correctly configured senders arrive.
        hints = {"hints": decisions.sender_hints} if decisions.sender_hints else {}
        return responses.success({"status": "UP", **hints}, message="준비되었습니다.")

    @routes.get("/aura/info")
    @operation("Return the name, version, model and states of the service.", data=ServiceInfo, access="public")
    async def info() -> Response:
        about: ServiceInfo = {"name": "aura-platform", "version": VERSION, "model": model.name, "states": list(State)}
        if archive is not None:
            about["archive"] = {"status": "UP" if archive.is_up else "DOWN", "due": archive.due, "lost": archive.lost}
        return responses.success(about, message="Aura-Platform")

    return routes


async def _check_ready(runs: RunService, nodes: Nodes, journal: Journal, rights: StorageRights) -> None:
    """Raise `ServiceBusy` while the replica drains, `StorageUnavailable` without Redis or a lease, and
    `StorageForbidden` where Redis does not allow what runs need."""
    if runs.is_draining:
        raise ServiceBusy("this replica is shutting down; send the request to another one")
    await journal.ping()
    await rights.check()
    if not nodes.has_lease:
        raise StorageUnavailable("this node has lost its lease in Redis and is acquiring a new one")
