"""The composition root: the one place that chooses adapters and hands every part what it needs."""

from __future__ import annotations

import asyncio
import atexit
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from dataclasses import replace as replaced
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from socket import gethostname
from typing import Any, Literal
from uuid import uuid4

import asyncpg
from dramatiq import Broker, Middleware
from dramatiq.brokers.stub import _StubConsumer
from msgspec.structs import replace

from actors.brought import Brought, Models
from actors.chain import Chain
from actors.chat import Chat
from actors.desk import Perform
from actors.embedding import Embedding
from actors.runtime import Identity, Runtime, WorkerParts
from actors.scratch import sweep
from actors.speech import Speech
from actors.stack import stack
from actors.tasks import register
from actors.telling import Tellings
from actors.tickets import TicketConsumer, ticket
from adapters.audio.recordings import DecodedRecordings
from adapters.embedded.backup import backup, must_hold_data, restore, server
from adapters.embedded.postgres import EmbeddedPostgres
from adapters.infra.probe import HttpInfra, Place
from adapters.memory.broker import InProcessBroker, InProcessTickets, NoFigures, NoTickets
from adapters.memory.events import InProcessEvents, NoEvents
from adapters.memory.texts import InProcessTexts, NoTexts
from adapters.outbound.fetch import Fetch
from adapters.outbound.files import Files
from adapters.postgres.leadership import PostgresLeadership
from adapters.postgres.pool import create_pool
from adapters.postgres.pooler import trouble as trouble_past_a_pooler
from adapters.postgres.presence import presence
from adapters.postgres.queues import PostgresQueueStore
from adapters.postgres.revision import is_newest
from adapters.postgres.store import PostgresJobStore
from adapters.postgres.uploads import PostgresUploadStore
from adapters.postgres.vitals import PostgresVitals
from adapters.rabbitmq.broker import TicketBroker
from adapters.rabbitmq.connection import connection_parameters, trouble
from adapters.rabbitmq.consumer import RabbitConsumer
from adapters.rabbitmq.events import RabbitEvents
from adapters.rabbitmq.management import ManagementApi
from adapters.rabbitmq.texts import RabbitTexts
from adapters.rabbitmq.tickets import RabbitTickets
from adapters.schemas.apart import Schemas
from adapters.telemetry.bounded import Bounded
from adapters.telemetry.http import Measured
from adapters.telemetry.installation import samples
from adapters.telemetry.log import Log
from adapters.telemetry.metrics import Labels, Metrics, Sample
from adapters.telemetry.requests import Answering, Requests, untraced
from adapters.telemetry.several import Several
from app import keyfile, logs
from app.claims import Claims
from app.configured import Configured
from app.converse import Chats
from app.follow import Follow
from app.profiles import ModelProfile
from app.providers import Serving, serving
from app.readers import Readers
from app.scheduler import STEADY, Scheduler
from app.scrape import Scrape, Scraped
from app.services import Services
from app.settings import Settings
from app.watch import Watch
from domain.errors import StartupError, StorageUnavailable
from domain.events import FOLLOWED, TAKEN_AWAY
from domain.identity import job_id
from domain.infra import Target
from domain.job import WORKER_LEASE, JobId
from domain.ports import (
    BrokerFigures,
    BrokerState,
    Events,
    JobStore,
    ProviderState,
    RescueTerms,
    Texts,
    Tickets,
    UploadStore,
)
from domain.retention import Retention, retention
from domain.routing import TASK_KINDS, ModelKind, Routes
from domain.telemetry import Telemetry
from domain.usecases.browse import Browse
from domain.usecases.converse import Converse
from domain.usecases.diagnose import Diagnose
from domain.usecases.guard import Guard
from domain.usecases.infra import Infra
from domain.usecases.lend import Lend
from domain.usecases.operate import Operate
from domain.usecases.outlook import Foresee
from domain.usecases.preempt import Preempt
from domain.usecases.providers import Providers
from domain.usecases.prune import Prune, Pruned, sweep_now
from domain.usecases.reconcile import Reconcile
from domain.usecases.regulate import Regulate
from domain.usecases.report import Report
from domain.usecases.steer import Steer
from domain.usecases.submit import Submit
from domain.usecases.survey import Survey
from domain.usecases.upload import Uploads
from domain.usecases.wake import Wake
from domain.usecases.work import Work

__all__ = [
    "MIGRATION_PATIENCE",
    "Application",
    "EmbeddedPostgres",
    "backup",
    "build",
    "migrate_if_wanted",
    "restore",
]

ASGIApplication = Callable[[Any, Any, Any], Awaitable[None]]

MIGRATION_PATIENCE = 30.0
"""Seconds that a starting process waits for PostgreSQL."""

NEWCOMERS_AFTER, NET_EVERY = 0.05, 1.0
"""Seconds between two looks of those who wait where they hear events: for newcomers, and for all."""

API_CONNECTIONS = 10

MOST_OTHERS = 100
"""Owners and queues that labels name although they are not configured here; the rest is `other`."""

Role = Literal["api", "worker", "scheduler", "up"]


class RabbitTicketConsumer(TicketConsumer, RabbitConsumer):
    """Dramatiq's RabbitMQ consumer that acknowledges as tickets need it."""


class InProcessTicketConsumer(TicketConsumer, _StubConsumer):
    """Dramatiq's in-memory consumer that acknowledges as tickets need it."""


@dataclass(frozen=True)
class Core:
    """What a process that talks to callers runs on."""

    services: Services
    scheduler: Scheduler
    scrape: Scrape
    """What Prometheus is answered."""


@dataclass(frozen=True)
class Application:
    """The parts of one process. Nothing is connected before it is opened."""

    settings: Settings
    dsn: str
    direct_dsn: str
    """The same database past a pooler: for what needs a PostgreSQL session of its own."""
    configured: Configured
    """What is configured at this moment; of the main thread's event loop."""
    runtime: Runtime
    broker: Broker
    tickets: Tickets
    bus: Callable[[], Events]
    """A connection to the event bus for each part of the process; without RabbitMQ all parts share one."""
    hearing: Callable[[], Texts]
    """What carries the texts of answers to this process, likewise."""
    telemetry: Telemetry
    answering: Answering
    """Traces a request, where requests are traced."""
    metrics: Metrics

    def routes(self) -> Routes:
        """Those of this moment."""
        self.configured.look()
        return self.configured.served.routes

    def observed(self, app: ASGIApplication) -> ASGIApplication:
        """The HTTP application, whose requests are measured and have names, and spans where they are traced."""
        return Measured(Requests(app, self.answering), self.metrics)

    @asynccontextmanager
    async def core(self, *, hears: bool = True) -> AsyncIterator[Core]:
        """The use cases and the scheduler, on the running event loop.

        Args:
            hears: somebody may wait here for what happens to jobs; a scheduler alone need not hear of it.
        """
        if isinstance(self.tickets, RabbitTickets):
            self.tickets.start()
        try:
            async with (
                create_pool(
                    self.dsn,
                    max_size=API_CONNECTIONS,
                    application_name="ai-service",
                    pooled=self.dsn != self.direct_dsn,
                ) as pool,
                create_pool(
                    self.direct_dsn, max_size=1, application_name="ai-service scheduler", lasting=True
                ) as lasting,
                serving(self.configured) as current,
                infra_probe(self.settings) as probe,
            ):
                jobs = PostgresJobStore(pool)
                wake = Wake(jobs, self.tickets, time.monotonic, self.telemetry)
                guard = Guard(PostgresQueueStore(pool), current.health, self.settings.limits.circuit_threshold)
                events = self.bus()
                watch, readers = _watch(jobs, events if hears else NoEvents()), Readers()
                texts = self.hearing() if hears else NoTexts()
                texts.listen(readers.heard)
                async with _carried(events, texts):
                    services = self._services(
                        jobs,
                        wake,
                        events,
                        watch,
                        uploads=PostgresUploadStore(pool),
                        readers=readers,
                        guard=guard,
                        current=current,
                        infra=Infra(probe),
                    )
                    scheduler = self._scheduler(lasting, pool, jobs, wake, events, guard=guard, current=current)
                    async with aclosing(self._scraped(services.report, scheduler, pool)) as scraped:
                        yield Core(services, scheduler, scraped.page)
        finally:
            if isinstance(self.tickets, RabbitTickets):
                await asyncio.to_thread(self.tickets.stop)

    def _scheduler(
        self,
        lasting: asyncpg.Pool,
        pool: asyncpg.Pool,
        chores: JobStore,
        wake: Wake,
        events: Events,
        *,
        guard: Guard,
        current: Serving,
    ) -> Scheduler:
        """
        Args:
            lasting: its one connection shows by its age that PostgreSQL was there all the time; and no rush of callers
                can keep the scheduler waiting for one.
        """
        jobs = PostgresJobStore(lasting)
        own_wake = Wake(jobs, self.tickets, time.monotonic, self.telemetry)
        terms = replace(rescue_terms(self.settings), steady=STEADY)
        return Scheduler(
            Reconcile(
                jobs,
                chores,
                current.routes,
                own_wake,
                Preempt(jobs, events, self.telemetry),
                events,
                terms,
                time.monotonic,
                PostgresUploadStore(pool),
                self.telemetry,
            ),
            Regulate(guard.queues, guard, current.routes, wake, lambda: datetime.now(UTC)),
            current.policies,
            PostgresLeadership(lasting),
            Prune(
                chores,
                lambda: retention(self.settings.retention.kept, current.policies()),
                time.monotonic,
                self.telemetry,
            ),
            self.metrics.led,
        )

    def _scraped(self, report: Report, scheduler: Scheduler, pool: asyncpg.Pool) -> Scraped:
        return Scraped(
            self.metrics,
            report,
            Survey(report, PostgresVitals(pool)),
            lambda: scheduler.leading,
            partial(samples, label=self.metrics.labels.queue),
        )

    def _services(
        self,
        jobs: JobStore,
        wake: Wake,
        events: Events,
        watch: Watch,
        *,
        uploads: UploadStore,
        readers: Readers,
        guard: Guard,
        current: Serving,
        infra: Infra,
    ) -> Services:
        limits, browse = self.settings.limits, Browse(jobs)
        operate = Operate(guard.queues, current.routes, wake)
        report = Report(
            jobs, self.tickets, broker_figures(self.settings), operate, lambda: datetime.now(UTC), time.monotonic
        )
        work = Work(jobs, events, guard.health, guard, self.settings.retry, random.random, WORKER_LEASE, self.telemetry)
        lend = Lend(jobs, work, wake, events, limits.max_result_bytes, self.telemetry)
        submit = Submit(
            jobs,
            current.routes,
            wake,
            events,
            Preempt(jobs, events, self.telemetry),
            current.policies,
            new_job_id,
            limits.max_input_bytes,
            Schemas(),
            self.telemetry,
            {task_type.name: task_type for task_type in current.task_types},
        )
        steer = Steer(jobs, wake, events, self.telemetry)
        converse = Converse(submit, steer, current.routes, guard.queues, lambda: datetime.now(UTC))
        providers = Providers(current.routes, current.health, operate)
        return Services(
            submit=submit,
            uploads=Uploads(uploads, new_job_id, limits.max_upload_bytes),
            browse=browse,
            foresee=Foresee(jobs, report),
            steer=steer,
            lend=lend,
            claims=Claims(lend, watch, self.settings.worker.lease_timeout),
            operate=operate,
            report=report,
            follow=Follow(browse, watch, readers, events, current.tellers),
            chats=Chats(converse, browse, watch, readers, events, self.settings.limits.chat_timeout),
            watch=watch,
            providers=providers,
            infra=infra,
            diagnose=Diagnose(jobs, self.tickets, report, providers, infra, time.monotonic),
        )


def build(
    settings: Settings,
    *,
    dsn: str | None = None,
    role: Role = "worker",
    with_worker: bool = False,
    performers: Mapping[str, Perform] | None = None,
) -> Application:
    """Put a process together.

    Args:
        dsn: where PostgreSQL is, if not where the settings say.
        role: what the process is, as operators know it.
        with_worker: the process runs jobs itself, so that without RabbitMQ its tickets can stay inside it.
        performers: how task types are run, in place of the providers.
    """
    dsn = dsn or settings.database_url
    direct_dsn = _direct_dsn(settings, dsn)
    configured = Configured(settings)
    queues = configured.served.routes.queues
    identity = Identity(uuid4(), settings.worker.name, gethostname())
    process = f"ai-service {role} {identity.worker_id}"
    metrics = _metrics(settings, configured, role)
    telemetry, answering = _telemetry(settings, metrics, role)
    bus = _bus(settings, process, with_worker=with_worker)
    carrier = _carrier(settings, process, with_worker=with_worker)
    runtime = Runtime(
        lambda: _worker_parts(
            settings,
            dsn,
            _heard_by(runtime, bus()),
            performers,
            texts=carrier(True),
            direct_dsn=direct_dsn,
            queues=queues,
            telemetry=telemetry,
        ),
        identity=identity,
        slots=settings.worker.claim_limit,
        poll_interval=settings.worker.poll_interval.total_seconds(),
        grace=settings.worker.shutdown_grace.total_seconds(),
    )
    metrics.read(partial(_slots, runtime, metrics.labels.queue))
    broker, tickets = _broker(settings, process, stack(runtime), with_worker=with_worker)
    if queues:
        brought = (task_type.name for task_type in configured.task_types)
        register(broker, runtime, task_types=(*TASK_KINDS, *brought), queues=queues)
    return Application(
        settings=settings,
        dsn=dsn,
        direct_dsn=direct_dsn,
        configured=configured,
        runtime=runtime,
        broker=broker,
        tickets=tickets,
        bus=bus,
        hearing=partial(carrier, False),
        telemetry=telemetry,
        answering=answering,
        metrics=metrics,
    )


def _metrics(settings: Settings, configured: Configured, role: Role) -> Metrics:
    """Counters whose labels name what is configured at that moment, and of the rest only a few."""
    by_tokens = {grant.owner for grant in keyfile.read(settings.http.tokens).values()} if settings.http.tokens else ()
    task_types = {*TASK_KINDS, *(task_type.name for task_type in configured.task_types)}
    labels = Labels(
        queue=Bounded(lambda name: name in configured.served.routes.queues, MOST_OTHERS),
        task_type=Bounded(lambda name: name in task_types or name in configured.policies.task_types),
        profile=Bounded(lambda name: name in configured.served.routes.profiles),
        owner=Bounded(lambda name: name in configured.policies.owners or name in by_tokens, MOST_OTHERS),
    )
    metrics = Metrics(
        labels,
        version=version("ai-service"),
        roles=("api", "worker") if role == "up" else (role,),
        queues=configured.served.routes.queues,
    )
    metrics.read(_log_lines)
    return metrics


def _log_lines() -> list[Sample]:
    return [("aijobs_log_lines_total", (level,), count) for level, count in logs.lines().items()]


def _slots(runtime: Runtime, label: Bounded) -> Iterator[Sample]:
    for queue, desk in list(runtime.desks.items()):
        yield "aijobs_worker_slots", (label(queue),), desk.slots
        yield "aijobs_worker_slots_busy", (label(queue),), desk.running


def _telemetry(settings: Settings, metrics: Metrics, role: Role) -> tuple[Telemetry, Answering]:
    """Whoever makes something of what happens in this process, and of requests."""
    if not settings.traces:
        return Several(metrics, Log()), untraced
    # Here, because it takes 20 MB, and most installations have no collector.
    from adapters.telemetry.traces import Traces  # noqa: PLC0415

    try:
        traces = Traces(role, version("ai-service"))
    except ValueError as error:
        raise StartupError(f"The OTEL_... variables cannot be used: OpenTelemetry says: {error}") from None
    atexit.register(traces.close)
    return Several(metrics, traces, Log()), traces.answering


def _direct_dsn(settings: Settings, dsn: str) -> str:
    """No pooler stands before an embedded PostgreSQL."""
    told = settings.storage.database_url
    return settings.database_direct_url if told and told.reveal() == dsn else dsn


def _broker(
    settings: Settings, process: str, middleware: list[Middleware], *, with_worker: bool
) -> tuple[Broker, Tickets]:
    if settings.broker.amqp_url:
        rabbit = TicketBroker(
            settings.broker.amqp_url.reveal(),
            queue_type=settings.broker.queue_type,
            middleware=middleware,
            consumer_class=RabbitTicketConsumer,
            process=process,
        )
        return rabbit, RabbitTickets(rabbit, ticket)
    broker = InProcessBroker(middleware, InProcessTicketConsumer)
    return broker, InProcessTickets(broker, ticket) if with_worker else NoTickets()


def _bus(settings: Settings, process: str, *, with_worker: bool) -> Callable[[], Events]:
    if settings.broker.amqp_url:
        parameters = connection_parameters(settings.broker.amqp_url.reveal(), process)
        return lambda: RabbitEvents(parameters)
    shared = InProcessEvents() if with_worker else NoEvents()
    return lambda: shared


def _carrier(settings: Settings, process: str, *, with_worker: bool) -> Callable[[bool], Texts]:
    """What carries the texts of answers: from the runs of a process (True), or to those who read them there."""
    if settings.broker.amqp_url:
        parameters = connection_parameters(settings.broker.amqp_url.reveal(), process)
        return lambda sends: RabbitTexts(parameters, sends=sends)
    shared = InProcessTexts() if with_worker else NoTexts()
    return lambda _sends: shared


def _heard_by(runtime: Runtime, events: Events) -> Events:
    """The bus of a worker, which hears of nothing else: in a busy installation that would be too much."""
    events.listen(runtime.heard, TAKEN_AWAY)
    return events


@asynccontextmanager
async def _carried(*buses: Events | Texts) -> AsyncIterator[None]:
    """Within this, what is published is carried to whoever listens."""
    rabbits = [bus for bus in buses if isinstance(bus, RabbitEvents | RabbitTexts)]
    for bus in rabbits:
        bus.start()
    try:
        yield
    finally:
        await asyncio.gather(*(asyncio.to_thread(bus.stop) for bus in rabbits))


def _watch(jobs: JobStore, events: Events) -> Watch:
    if isinstance(events, NoEvents):
        return Watch(jobs)
    watch = Watch(jobs, soonest=NEWCOMERS_AFTER, latest=NET_EVERY, patient_after=0.0)
    events.listen(watch.heard)
    return watch


@asynccontextmanager
async def _worker_parts(
    settings: Settings,
    dsn: str,
    events: Events,
    performers: Mapping[str, Perform] | None,
    *,
    texts: Texts,
    direct_dsn: str,
    queues: Sequence[str],
    telemetry: Telemetry,
) -> AsyncIterator[WorkerParts]:
    tellings = Tellings(texts)
    events.listen(tellings.heard, {FOLLOWED})
    async with (
        create_pool(
            dsn, max_size=len(queues) + 2, application_name="ai-service worker", pooled=dsn != direct_dsn
        ) as pool,
        serving(Configured(settings), telemetry) as current,
        _carried(events, texts),
    ):
        guard = Guard(PostgresQueueStore(pool), current.health, settings.limits.circuit_threshold)
        work = Work(
            PostgresJobStore(pool),
            events,
            current.health,
            guard,
            settings.retry,
            random.random,
            WORKER_LEASE,
            telemetry,
        )
        await asyncio.to_thread(sweep)
        # What the leader of the schedulers says stands; but no claim shall go by nothing where it has not spoken yet.
        with suppress(StorageUnavailable):
            await guard.queues.configure(current.policies(), queues, only_new=True)
        yield WorkerParts(
            work,
            performers or _performers(settings, current, tellings, PostgresUploadStore(pool), work),
            current.profiles,
            current.policies,
            partial(presence, direct_dsn),
        )


def _performers(
    settings: Settings, current: Serving, tellings: Tellings, uploads: UploadStore, work: Work
) -> dict[str, Perform]:
    limits = settings.limits
    files = Files(Fetch(settings.outbound.allowed_hosts, limits.max_upload_bytes), uploads)
    speech = Speech(
        Chain(current.speech),
        current.file_limits,
        files,
        DecodedRecordings(),
        settings.speech.prompt,
        limits.max_result_bytes,
    )
    chat = Chat(Chain(current.chat), limits.max_result_bytes, Schemas(), tellings)
    embedding = Embedding(Chain(current.embeddings), limits.max_result_bytes)
    by_kind: dict[ModelKind, Perform] = {
        ModelKind.CHAT: chat,
        ModelKind.SPEECH: speech,
        ModelKind.EMBEDDINGS: embedding,
    }
    built_in = {task_type: by_kind[kind] for task_type, kind in TASK_KINDS.items()}
    models = Models(replaced(chat, tellings=Tellings(NoTexts())), chat, embedding, speech, files)
    brought = {
        task_type.name: Brought(task_type, models, work.tell, limits.max_result_bytes)
        for task_type in current.task_types
    }
    return {**built_in, **brought}


async def migrate_if_wanted(application: Application, *, patience: float = MIGRATION_PATIENCE) -> None:
    """Bring the database's schema up to date, unless MIGRATE_ON_START leaves that to somebody else: then wait for him.

    An embedded database is always brought up to date: nobody else can.

    Raises:
        StartupError: PostgreSQL is not there, or does not let us; or nobody has migrated it.
    """
    storage = application.settings.storage
    if await is_newest(application.direct_dsn):
        return
    # Here, because few starts find anything to migrate, and Alembic takes as long to load as all the rest.
    from adapters.postgres.migrate import migrate, require_migrated  # noqa: PLC0415

    if storage.migrate_on_start or storage.database_url is None:
        await migrate(application.direct_dsn, patience=patience)
    else:
        await require_migrated(application.direct_dsn, patience=patience)


def rescue_terms(settings: Settings) -> RescueTerms:
    return RescueTerms(settings.limits.max_crashes, settings.retry.fast)


async def rescue_everyone(application: Application) -> None:
    """Give back what built-in workers were running when an embedded database last ended: none outlives it."""
    terms = replace(rescue_terms(application.settings), everyone=True)
    async with create_pool(application.dsn, max_size=1, application_name="ai-service") as pool:
        while await PostgresJobStore(pool).rescue(terms):
            pass


@contextmanager
def storage(settings: Settings) -> Iterator[str]:
    """Where the jobs are, for a command that comes by: an embedded server that does not run is started for it.

    Raises:
        StartupError: no URL is given, and there is no embedded one.
    """
    if settings.storage.database_url:
        yield settings.database_url
        return
    must_hold_data(settings.storage.data_dir)
    with server(settings.storage.data_dir) as running:
        yield running


def retention_of(settings: Settings) -> Retention:
    """How long jobs are kept, by the variables and the configuration file of this moment.

    Raises:
        StartupError: the file cannot be used.
    """
    return retention(settings.retention.kept, Configured(settings).policies)


async def prune_now(dsn: str, kept: Retention, *, dry_run: bool) -> AsyncIterator[tuple[Pruned, int]]:
    """Remove old jobs by hand; as `sweep_now`."""
    async with create_pool(dsn, max_size=1, application_name="ai-service prune") as pool:
        async for step in sweep_now(PostgresJobStore(pool), kept, monotonic=time.monotonic, dry_run=dry_run):
            yield step


def new_job_id() -> JobId:
    return job_id(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def require_profiles(application: Application) -> None:
    """A worker needs something to serve.

    Raises:
        StartupError: no provider is configured.
    """
    if not application.routes().queues:
        raise StartupError("No model is configured: set LLM_BASE_URL, or AI_PROVIDER=practice to try things out.")


async def broker_trouble(settings: Settings) -> str | None:
    """Why RabbitMQ cannot be used, or None when it can."""
    if settings.broker.amqp_url is None:
        return None
    return await asyncio.to_thread(trouble, settings.broker.amqp_url.reveal())


def broker_figures(settings: Settings) -> BrokerFigures:
    """Who is asked about RabbitMQ; belongs to one event loop."""
    amqp_url, management_url = settings.broker.amqp_url, settings.broker.management_url
    if amqp_url is None or management_url is None:
        return NoFigures()
    return ManagementApi(management_url.reveal(), amqp_url.reveal())


async def broker_state(settings: Settings) -> BrokerState | None:
    """What RabbitMQ tells of itself; None where nobody is to be asked."""
    return await broker_figures(settings).look()


@asynccontextmanager
async def infra_probe(settings: Settings) -> AsyncIterator[HttpInfra]:
    """Asks what `INFRA_TARGETS` names; nothing is opened before somebody wants to know."""
    probe = HttpInfra([Place(target.name, target.kind, target.url.reveal()) for target in settings.infra.targets])
    try:
        yield probe
    finally:
        await probe.close()


async def infra_targets(settings: Settings) -> tuple[Target, ...]:
    """What `INFRA_TARGETS` names, and what each of it tells at this moment."""
    async with infra_probe(settings) as probe:
        return await probe.look()


async def pooler_trouble(settings: Settings) -> str | None:
    """Why there is no way past a pooler, or None where there is one, or no pooler.

    Raises:
        StorageUnavailable: PostgreSQL cannot be reached by one of the ways.
    """
    return await trouble_past_a_pooler(settings.database_url, settings.database_direct_url)


async def provider_states(settings: Settings) -> list[tuple[ModelProfile, ProviderState]]:
    """Every configured profile, and how its server is at this moment.

    Raises:
        StartupError: a profile cannot be served as it is described.
    """
    configured = Configured(settings)
    profiles = configured.served.profiles
    async with serving(configured) as current:
        states = await asyncio.gather(*(current.health.status(profile.name) for profile in profiles))
        return list(zip(profiles, states, strict=True))
