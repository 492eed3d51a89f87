"""The only wiring: it builds the parts of the service and connects them. Tests pass parts of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from quart import Quart
from structlog.contextvars import bind_contextvars

from app.bootstrap.agents import make_agents
from app.bootstrap.audit import make_audit
from app.bootstrap.keys import make_purpose_keys
from app.bootstrap.knowledge import make_knowledge
from app.bootstrap.model import make_model
from app.bootstrap.service import Service
from app.bootstrap.stores import make_stores
from app.bootstrap.tools import make_tools
from app.clock import SystemClock
from app.crypto.purpose_keys import PurposeKeys
from app.integrations.agent_task import agent_step
from app.integrations.main_service import MainService
from app.integrations.task_reporter import MainServiceReporter
from app.integrations.token_cipher import TokenCipher
from app.ports.agents import AgentChooser
from app.ports.clock import Clock
from app.ports.journal import RunReader
from app.redis.nodes import RedisNodes
from app.redis.open_streams import RedisStreamQuota
from app.redis.tasks import RedisTaskOutbox
from app.runs.access import AccessPolicy
from app.runs.admission import AdmissionQueue
from app.runs.approvals import ApprovalService
from app.runs.creation import RunFactory
from app.runs.effects import Effects
from app.runs.queries import RunQueries
from app.runs.resume import RunLocator
from app.runs.service import RunService
from app.runs.task import RunPorts
from app.settings import Settings
from app.tools.loading import Loaded
from app.web.auth import Authenticator
from app.web.connection import HttpConnection
from app.web.cors import CorsPolicy
from app.web.identifiers import check_path_ids
from app.web.load_shedding import shed_load
from app.web.one_time_codes import OneTimeCodes
from app.web.refusals import RefusalRecorder
from app.web.requests import BodyBudget
from app.web.responses import BODY_LIMIT_BYTES, ResponseBuilder
from app.web.routes.approvals import approval_routes
from app.web.routes.audit import audit_routes
from app.web.routes.console import console_routes
from app.web.routes.diagram import diagram_routes
from app.web.routes.documents import document_routes
from app.web.routes.health import health_routes
from app.web.routes.hitl import hitl_routes
from app.web.routes.runs import run_routes
from app.web.routes.stream import stream_routes
from app.web.sse import EventStreams
from app.web.token_keys import TokenRules


def create_app(
    settings: Settings | None = None,
    *,
    clock: Clock | None = None,
    tools: Sequence[Loaded] | None = None,
    one_time_codes: OneTimeCodes | None = None,
) -> Quart:
    """Build the service as an ASGI app. Nothing connects before it serves; `app.extensions["aura"]` is its `Service`.

    `one_time_codes` are the codes of the links that open the console, where there are any.
    """
    settings = settings or Settings.from_environment()
    clock = clock or SystemClock()
    service = _build_service(settings, clock, tools)
    refusals = RefusalRecorder(service.audit.trail, clock)
    names = settings.aura_event_names
    responses = ResponseBuilder(clock, settings.aura_event_shape, refusals.record, names=names)
    cors = CorsPolicy(settings.aura_cors_origins)
    app = Quart("app", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT_BYTES
    app.asgi_http_class = partial(  # type: ignore[assignment]
        HttpConnection,
        shed_load=cors.covers(shed_load(service.admission, responses)),
        bodies=BodyBudget(int(settings.aura_body_megabytes * 1024 * 1024)),
    )
    _register_routes(app, service, settings, clock, responses, one_time_codes)
    responses.install(app)
    cors.install(app)

    async def bind_node() -> None:
        bind_contextvars(nodeId=service.stores.nodes.node_id)

    app.before_request(bind_node)
    app.before_request(check_path_ids)
    app.extensions["aura"] = service
    app.before_serving(service.start)
    app.after_serving(service.stop)
    return app


def _register_routes(
    app: Quart,
    service: Service,
    settings: Settings,
    clock: Clock,
    responses: ResponseBuilder,
    one_time_codes: OneTimeCodes | None,
) -> None:
    stores, runs = service.stores, service.runs
    access = AccessPolicy(settings.aura_approver_roles, settings.aura_auditor_roles)
    rules = TokenRules(*settings.token_rules)
    auth = Authenticator(settings.token_secrets, clock, leeway_seconds=settings.aura_jwt_leeway_seconds, rules=rules)
    locator = RunLocator(stores.reader, access)
    queries = RunQueries(stores.reader, stores.requests, clock, access, agent_step)
    approvals = ApprovalService(
        stores.requests, stores.journal, service.tools.registry, clock, access, service.audit.trail
    )
    app.register_blueprint(stream_routes(auth, runs, locator, service.streams))
    app.register_blueprint(approval_routes(auth, approvals, responses))
    app.register_blueprint(hitl_routes(auth, approvals, responses))
    app.register_blueprint(run_routes(auth, runs, queries, locator, responses))
    app.register_blueprint(audit_routes(auth, access, service.audit.queries, responses))
    app.register_blueprint(diagram_routes(auth, queries, locator))
    app.register_blueprint(
        health_routes(
            responses,
            runs,
            stores.nodes,
            stores.journal,
            stores.rights,
            stores.decisions,
            service.model,
            None if stores.archive is None else stores.archive.archiver.status,
        )
    )
    app.register_blueprint(document_routes(settings.aura_event_shape))
    if settings.aura_console:
        app.register_blueprint(console_routes(responses, one_time_codes))


def _build_service(settings: Settings, clock: Clock, tools: Sequence[Loaded] | None) -> Service:
    keys = make_purpose_keys(settings)
    stores = make_stores(settings, keys, clock)
    connection, pubsub = stores.connection, stores.pubsub
    knowledge = make_knowledge(settings, connection, pubsub, stores.node_id, clock) if settings.aura_knowledge else None
    model, tool_parts = make_model(settings), make_tools(settings, keys, clock, knowledge, tools)
    agents = make_agents(settings, tool_parts.registry, stores.checkpoints)
    outbox = RedisTaskOutbox(connection, stores.checkpoints)
    task_reporter = _task_reporter(settings, stores.nodes, outbox, keys, clock)
    audit = make_audit(settings, connection, stores.node_id, clock, tool_parts.registry)
    effects = Effects(model, tool_parts.registry, stores.requests, clock, audit.trail, stores.waiting)
    ports = RunPorts(
        journal=stores.journal,
        decisions=stores.decisions,
        requests=stores.requests,
        nodes=stores.nodes,
        effects=effects,
        audit=audit.trail,
        clock=clock,
        shape=settings.aura_event_shape,
        task_reporter=task_reporter,
        log_content=settings.aura_log_content,
    )
    return Service(
        stores=stores,
        replicas=settings.aura_redis_replicas,
        model=model,
        tools=tool_parts,
        agents=agents,
        runs=_run_service(settings, ports, stores.reader, agents),
        streams=_streams(settings, stores.reader, stores.open_streams),
        knowledge=knowledge,
        task_reporter=task_reporter,
        audit=audit,
    )


def _streams(settings: Settings, reader: RunReader, quota: RedisStreamQuota) -> EventStreams:
    return EventStreams(
        reader,
        settings.aura_event_shape,
        heartbeat_seconds=settings.aura_heartbeat_seconds,
        quota=quota,
        names=settings.aura_event_names,
    )


def _run_service(settings: Settings, ports: RunPorts, reader: RunReader, agents: AgentChooser) -> RunService:
    factory = RunFactory(ports, agents, index=reader, thread_tokens=settings.aura_thread_tokens)
    return RunService(
        ports,
        factory,
        AdmissionQueue(max_wait_seconds=settings.aura_max_wait_seconds),
        max_runs=settings.aura_max_runs,
        drain_seconds=settings.aura_drain_seconds,
    )


def _task_reporter(
    settings: Settings, nodes: RedisNodes, outbox: RedisTaskOutbox, keys: PurposeKeys, clock: Clock
) -> MainServiceReporter | None:
    """Return None where no Main Service is configured: then nothing is stored or sent for it."""
    if settings.main_service_url is None:
        return None
    return MainServiceReporter(
        MainService(settings.main_service_url, timeout_seconds=settings.aura_main_service_timeout_seconds),
        outbox,
        TokenCipher(keys),
        clock,
        is_owner=lambda: nodes.has_lease,
        reservation_seconds=2 * settings.aura_lease_seconds,
    )
