"""The only wiring: it builds the parts of the service and connects them. Tests pass parts of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from quart import Quart

from app.clock import SystemClock
from app.integrations.main_service import MainService
from app.integrations.task_reporter import MainServiceReporter
from app.integrations.token_cipher import TokenCipher
from app.knowledge.embeddings import OpenAIEmbeddings
from app.knowledge.service import Knowledge
from app.knowledge.sqlite.index import SqliteIndex
from app.knowledge.vectors import Vectors
from app.model.chat import OpenAIModel
from app.model.fallbacks import FallbackModel
from app.ports.clock import Clock
from app.ports.knowledge import KnowledgeIndex
from app.ports.quotas import Quotas
from app.ports.tools import Tool
from app.redis.approval_requests import RedisApprovalRequests
from app.redis.decisions import RedisDecisions
from app.redis.journal import RedisJournal
from app.redis.knowledge import RedisKnowledgeLog
from app.redis.nodes import RedisNodes, new_node_id
from app.redis.open_streams import RedisStreamQuota
from app.redis.quotas import MEGABYTE, RedisTenants, RedisWaitingQuota
from app.redis.sender_diagnostics import SenderDiagnostics
from app.redis.tasks import RedisTaskOutbox
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
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
from app.tools import KNOWN_TOOL_NAMES, configured_tools
from app.tools.registry import ToolRegistry
from app.web.auth import Authenticator
from app.web.connection import HttpConnection
from app.web.identifiers import check_path_ids
from app.web.load_shedding import shed_load
from app.web.one_time_codes import OneTimeCodes
from app.web.requests import BodyBudget
from app.web.responses import BODY_LIMIT_BYTES, ResponseBuilder
from app.web.routes.console import console_routes
from app.web.routes.diagram import diagram_routes
from app.web.routes.documents import document_routes
from app.web.routes.health import health_routes
from app.web.routes.hitl import hitl_routes
from app.web.routes.runs import run_routes
from app.web.routes.stream import stream_routes
from app.web.sse import EventStreams
from statemachine.prompt import INSTRUCTIONS

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """Counts of one process, logged when it stops."""

    starting_runs: int
    active_runs: int
    waiting_runs: int
    open_streams: int
    ignored_signals: int


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one process that are started and stopped, in the order in which they start."""

    connection: Connection
    pubsub: PubSub
    journal: RedisJournal
    open_streams: RedisStreamQuota
    requests: RedisApprovalRequests
    decisions: RedisDecisions
    nodes: RedisNodes
    model: OpenAIModel | FallbackModel
    toolbox: ToolRegistry
    runs: RunService
    streams: EventStreams
    knowledge: Knowledge | None
    task_reporter: MainServiceReporter | None

    @property
    def admission(self) -> AdmissionQueue:
        return self.runs.admission

    async def start(self) -> None:
        for advice in await self.connection.configuration_advice():
            log.warning("redis.advised", advice=advice)
        await self.pubsub.start()
        await self.journal.start()
        await self.open_streams.start()
        await self.decisions.start()
        self.runs.start_deadlines()
        await self.nodes.start()
        if self.knowledge is not None:
            await self.knowledge.start()
        if self.task_reporter is not None:
            await self.task_reporter.start()

    async def drain(self) -> None:
        """Stop the runs first, so that readers get their last committed step; then end the lease, so that other nodes
        continue at once; then end the streams, whose clients reconnect to another replica."""
        await self.runs.drain()
        await self.nodes.stop()
        self.journal.drain()

    async def stop(self) -> None:
        if not self.runs.is_draining:
            await self.drain()
        if self.knowledge is not None:
            await self.knowledge.stop()
        if self.task_reporter is not None:
            await self.task_reporter.stop()
        await self.decisions.stop()
        await self.journal.stop()
        await self.open_streams.stop()
        await self.pubsub.stop()
        await self.model.close()
        await self.connection.close()
        await asyncio.sleep(0)
        stats = self.stats()
        log.info("service.stopped", ignoredSignals=stats.ignored_signals, openStreams=stats.open_streams)

    def stats(self) -> ServiceStats:
        counts = self.runs.counts()
        return ServiceStats(
            starting_runs=counts.starting,
            active_runs=counts.active,
            waiting_runs=counts.waiting,
            open_streams=len(self.streams),
            ignored_signals=self.decisions.ignored_signals,
        )


def create_app(
    settings: Settings | None = None,
    *,
    clock: Clock | None = None,
    tools: Sequence[Tool] | None = None,
    one_time_codes: OneTimeCodes | None = None,
) -> Quart:
    """Build the service as an ASGI app. Nothing connects before it serves; `app.extensions["aura"]` is its `Service`.

    `one_time_codes` are the codes of the links that open the console, where there are any.
    """
    settings = settings or Settings.from_environment()
    clock = clock or SystemClock()
    service = _build_service(settings, clock, tools)
    responses = ResponseBuilder(clock, settings.aura_event_shape)
    app = Quart("app", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT_BYTES
    app.asgi_http_class = partial(  # type: ignore[assignment]
        HttpConnection,
        shed_load=shed_load(service.admission, responses),
        bodies=BodyBudget(int(settings.aura_body_megabytes * 1024 * 1024)),
    )
    _register_routes(app, service, settings, clock, responses, one_time_codes)
    responses.install(app)
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
    journal, runs, access = service.journal, service.runs, AccessPolicy(settings.aura_approver_roles)
    auth = Authenticator(settings.jwt_secret.get_secret_value(), clock, leeway_seconds=settings.aura_jwt_leeway_seconds)
    locator = RunLocator(journal, access)
    queries = RunQueries(journal, service.requests, clock, access)
    approvals = ApprovalService(service.requests, journal, service.toolbox, clock, access)
    app.register_blueprint(stream_routes(auth, runs, locator, service.streams))
    app.register_blueprint(hitl_routes(auth, approvals, responses))
    app.register_blueprint(run_routes(auth, runs, queries, locator, responses))
    app.register_blueprint(diagram_routes(auth, queries, locator))
    app.register_blueprint(health_routes(responses, runs, service.nodes, journal, service.decisions, service.model))
    app.register_blueprint(document_routes(settings.aura_event_shape))
    if settings.aura_console:
        app.register_blueprint(console_routes(responses, one_time_codes))


def _build_service(settings: Settings, clock: Clock, tools: Sequence[Tool] | None) -> Service:
    node_id = new_node_id()
    connection, pubsub = _connect(settings, node_id)
    diagnostics = SenderDiagnostics(connection, clock)
    requests = RedisApprovalRequests(connection, diagnostics, clock)
    decisions = RedisDecisions(connection, pubsub, requests, diagnostics, clock)
    nodes = _nodes(settings, connection, pubsub, node_id)
    quotas = _quotas(settings)
    tenants = RedisTenants(connection, clock, quotas, retention_seconds=settings.aura_retention_seconds)
    journal = RedisJournal(connection, pubsub, nodes, tenants, quotas)
    open_streams = RedisStreamQuota(connection, lambda: nodes.node_id, quotas.streams_per_user)
    knowledge = make_knowledge(settings, connection, pubsub, node_id, clock) if settings.aura_knowledge else None
    model, toolbox = _model(settings), _toolbox(settings, clock, knowledge, tools)
    task_reporter = _task_reporter(settings, connection, nodes, clock)
    ports = RunPorts(
        journal=journal,
        decisions=decisions,
        requests=requests,
        nodes=nodes,
        effects=Effects(model, toolbox, requests, clock, RedisWaitingQuota(connection, clock, quotas.waiting_per_user)),
        clock=clock,
        shape=settings.aura_event_shape,
        task_reporter=task_reporter,
        log_content=settings.aura_log_content,
    )
    return Service(
        connection=connection,
        pubsub=pubsub,
        journal=journal,
        open_streams=open_streams,
        requests=requests,
        decisions=decisions,
        nodes=nodes,
        model=model,
        toolbox=toolbox,
        runs=_run_service(settings, ports),
        streams=_streams(settings, journal, open_streams),
        knowledge=knowledge,
        task_reporter=task_reporter,
    )


def _connect(settings: Settings, node_id: str) -> tuple[Connection, PubSub]:
    connection = Connection(settings.redis_address, timeout_seconds=settings.aura_redis_timeout_seconds)
    return connection, PubSub(connection, node_id, timeout_seconds=settings.aura_redis_timeout_seconds)


def _nodes(settings: Settings, connection: Connection, pubsub: PubSub, node_id: str) -> RedisNodes:
    return RedisNodes(
        connection,
        pubsub,
        node_id=node_id,
        lease_seconds=settings.aura_lease_seconds,
        takeover_limit=settings.aura_takeover_limit,
    )


def _quotas(settings: Settings) -> Quotas:
    return Quotas(
        runs_per_minute_user=settings.aura_runs_per_minute_user,
        runs_per_minute_tenant=settings.aura_runs_per_minute_tenant,
        runs_per_user=settings.aura_max_runs_per_user,
        waiting_per_user=settings.aura_max_waiting_per_user,
        stored_bytes_user=int(settings.aura_stored_megabytes_user * MEGABYTE),
        stored_bytes_tenant=int(settings.aura_stored_megabytes_tenant * MEGABYTE),
        streams_per_user=settings.aura_max_streams_per_user,
    )


def _streams(settings: Settings, journal: RedisJournal, quota: RedisStreamQuota) -> EventStreams:
    return EventStreams(
        journal, settings.aura_event_shape, heartbeat_seconds=settings.aura_heartbeat_seconds, quota=quota
    )


def _run_service(settings: Settings, ports: RunPorts) -> RunService:
    prompt_file = settings.aura_system_prompt_file
    instructions = INSTRUCTIONS if prompt_file is None else prompt_file.text
    return RunService(
        ports,
        RunFactory(ports, settings.limits, thread_tokens=settings.aura_thread_tokens, instructions=instructions),
        AdmissionQueue(max_wait_seconds=settings.aura_max_wait_seconds),
        max_runs=settings.aura_max_runs,
        drain_seconds=settings.aura_drain_seconds,
    )


def _model(settings: Settings) -> OpenAIModel | FallbackModel:
    models = make_models(settings)
    return models[0] if len(models) == 1 else FallbackModel(models)


def make_models(settings: Settings) -> list[OpenAIModel]:
    """Build a client for each model server of the settings, in their order. The caller closes them."""
    return [
        OpenAIModel(
            server.model,
            api_key=server.api_key.get_secret_value() if server.api_key else None,
            base_url=server.base_url,
            timeout_seconds=settings.aura_model_timeout_seconds,
            logprobs=settings.aura_model_logprobs,
            options=settings.aura_model_options,
            done_is_whole=settings.aura_model_done_is_whole,
            secrets=settings.secrets,
            is_main=server.base_url == settings.model_servers[0].base_url,
        )
        for server in settings.model_servers
    ]


def _toolbox(
    settings: Settings, clock: Clock, knowledge: Knowledge | None, tools: Sequence[Tool] | None
) -> ToolRegistry:
    return ToolRegistry(
        configured_tools(settings, clock, knowledge) if tools is None else tools,
        approval_required=settings.aura_approval_required,
        known_names=KNOWN_TOOL_NAMES,
        default_timeout_seconds=settings.aura_tool_timeout_seconds,
        result_limit_bytes=settings.aura_tool_result_bytes,
        secrets=settings.secrets,
    )


def make_knowledge(settings: Settings, connection: Connection, pubsub: PubSub, node_id: str, clock: Clock) -> Knowledge:
    """Build the workspace's knowledge. Nothing connects and no file is opened before it is started or searched."""
    events = RedisKnowledgeLog(
        connection,
        pubsub,
        node_id,
        clock,
        retention_seconds=settings.aura_knowledge_retention_days * 86_400,
        max_events=settings.aura_knowledge_max_events,
        max_bytes=int(settings.aura_knowledge_max_megabytes * 1024 * 1024),
    )
    key, model = settings.openai_api_key, settings.openai_embedding_model
    if key is None or model is None:
        return Knowledge(events, _index(settings, None))
    embeddings = OpenAIEmbeddings(
        model,
        api_key=key.get_secret_value(),
        base_url=settings.model_servers[0].base_url,
        dimensions=settings.aura_knowledge_dimensions,
    )
    index = _index(settings, embeddings.model)
    return Knowledge(events, index, Vectors(embeddings, events, index, clock))


def _index(settings: Settings, model: str | None) -> KnowledgeIndex:
    if settings.aura_knowledge_url is None:
        return SqliteIndex(settings.aura_knowledge_path, model)
    from app.knowledge.postgres.index import PostgresIndex  # noqa: PLC0415 - a driver of 10 MB that others do without

    return PostgresIndex(settings.aura_knowledge_url.get_secret_value(), model)


@asynccontextmanager
async def own_knowledge(settings: Settings) -> AsyncIterator[Knowledge]:
    """The same parts for a command that searches but does not receive events."""
    clock, node_id = SystemClock(), new_node_id()
    connection, pubsub = _connect(settings, node_id)
    knowledge = make_knowledge(settings, connection, pubsub, node_id, clock)
    try:
        yield knowledge
    finally:
        await knowledge.stop()
        await connection.close()


def _task_reporter(
    settings: Settings, connection: Connection, nodes: RedisNodes, clock: Clock
) -> MainServiceReporter | None:
    """Return None where no Main Service is configured: then nothing is stored or sent for it."""
    if settings.main_service_url is None:
        return None
    return MainServiceReporter(
        MainService(settings.main_service_url, timeout_seconds=settings.aura_main_service_timeout_seconds),
        RedisTaskOutbox(connection),
        TokenCipher(settings.jwt_secret.get_secret_value()),
        clock,
        is_owner=lambda: nodes.has_lease,
        reservation_seconds=2 * settings.aura_lease_seconds,
    )
