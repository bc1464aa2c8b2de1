"""Tell how the service fares, part by part. Whatever is away or slow is told as that, and holds back no other part."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from domain.access import ANYBODY
from domain.circuit import CircuitState
from domain.diagnosis import POSTGRES, Component, Diagnosis, Figure, Finding, Word
from domain.errors import StorageUnavailable
from domain.infra import Target
from domain.job import JobStatus
from domain.ports import BrokerState, JobStore, Tickets
from domain.usecases.infra import Infra
from domain.usecases.providers import ProviderReport, Providers
from domain.usecases.report import QueueReport, Report, Stats

PATIENCE = 3.0
"""Seconds that anybody waits for a part."""
KEPT = 1.0
"""Seconds for which what was found is told again: the door is open to everybody, and each look costs a query."""

FEW_FAILURES = 5
"""Failed jobs within five minutes: with fewer nobody need look."""
MANY_FAILURES = 0.1
"""The share of finished jobs from which on failures are no longer one caller's."""

STANDS_AFTER, LIES_AFTER = 60.0, 300.0
"""Seconds for which a job has been due while nothing runs: then something is wrong, then nothing works at all."""

FIGURES: Mapping[str, tuple[str, ...]] = {
    POSTGRES: ("answer_ms",),
    "broker": ("answer_ms", "nodes_up", "nodes_down", "tickets_ready", "tickets_unacked", "consumers"),
    "providers": ("profiles", "reachable", "refusing_the_key", "without_the_model", "slowest_ms"),
    "queues": (
        "queues",
        "paused",
        "circuits_not_closed",
        "without_workers",
        "workers",
        "slots",
        "idle",
        "pending",
        "due",
        "running",
    ),
    "errors": (
        "failed_last_minute",
        "failed_last_5_minutes",
        "failed_last_hour",
        "failed_share_last_5_minutes",
    ),
    "throughput": (
        "completed_last_minute",
        "completed_last_5_minutes",
        "completed_last_hour",
        "oldest_due_seconds",
        "wait_p95_seconds",
        "run_p95_seconds",
    ),
    "infra": (
        "targets",
        "answering",
        "gpus",
        "gpu_utilisation_percent",
        "gpu_memory_used_bytes",
        "gpu_memory_total_bytes",
        "requests_running",
        "requests_waiting",
    ),
}
"""What is told of each part."""


@dataclass
class Diagnose:
    jobs: JobStore
    tickets: Tickets
    report: Report
    providers: Providers
    infra: Infra
    monotonic: Callable[[], float]
    patience: float = PATIENCE
    _looks: dict[str, _Look] = field(default_factory=dict)

    async def diagnosis(self) -> Diagnosis:
        """Every part, looked at all at once, or a second ago; after three seconds at most."""
        parts: dict[str, Callable[[], Awaitable[Component]]] = {
            POSTGRES: self._postgres,
            "broker": self._broker,
            "providers": self._providers,
            "queues": self._queues,
            "errors": self._errors,
            "throughput": self._throughput,
            "infra": self._infra,
        }
        found = await asyncio.gather(*(self._part(name, look) for name, look in parts.items()))
        return Diagnosis(dict(zip(parts, found, strict=True)))

    async def _part(self, name: str, look: Callable[[], Awaitable[Component]]) -> Component:
        kept = self._looks.setdefault(name, _Look(name, look, self.monotonic))
        word = Word.DOWN if name == POSTGRES else Word.DEGRADED
        late = _unknown(name, word, f"It was not known within {self.patience:g} s.")
        return await kept.latest(self.patience) or late

    async def _postgres(self) -> Component:
        began = self.monotonic()
        await self.jobs.ping()
        return _component(POSTGRES, Word.OK, answer_ms=_ms(self.monotonic() - began))

    async def _broker(self) -> Component:
        began = self.monotonic()
        reachable, told = await asyncio.gather(self._reached(), self.report.broker_state())
        if reachable is None:
            return _unknown("broker", Word.DOWN, "The broker cannot be reached: idle workers look for themselves.")
        return of_broker(reachable - began, told, self.providers.routes().queues)

    async def _reached(self) -> float | None:
        """When the broker had answered; None: it does not."""
        return self.monotonic() if await self.tickets.reachable() else None

    async def _providers(self) -> Component:
        return of_providers(await self.providers.survey())

    async def _queues(self) -> Component:
        queues, workers = await self.report.queues_and_workers(ANYBODY)
        return of_queues(queues, len(workers))

    async def _errors(self) -> Component:
        return of_errors(await self.report.stats(ANYBODY))

    async def _throughput(self) -> Component:
        return of_throughput(await self.report.stats(ANYBODY), await self.report.queues(ANYBODY))

    async def _infra(self) -> Component:
        return of_infra(await self.infra.targets())


class _Look:
    """A look at one part: one at a time, however many ask, and it goes on when those who asked have lost patience."""

    def __init__(self, name: str, look: Callable[[], Awaitable[Component]], monotonic: Callable[[], float]) -> None:
        self._name = name
        self._look = look
        self._monotonic = monotonic
        self._began_at = self._ended_at = 0.0
        self._task: asyncio.Task[Component] | None = None

    async def latest(self, patience: float) -> Component | None:
        """What was found; None where it takes longer than this from the beginning of the look on."""
        if self._task is None or (self._task.done() and self._monotonic() - self._ended_at >= KEPT):
            self._began_at = self._monotonic()
            self._task = asyncio.create_task(self._run())
        left = max(self._began_at + patience - self._monotonic(), 0.0)
        done, _ = await asyncio.wait({self._task}, timeout=left)
        return self._task.result() if done else None

    async def _run(self) -> Component:
        try:
            return await self._look()
        except StorageUnavailable:
            # Not for those who ask to catch: when a look ends, nobody may be there any more.
            return _unknown(self._name, Word.DOWN, "PostgreSQL cannot be reached.")
        except Exception as error:  # what nobody foresaw must not hide the other parts
            return _unknown(self._name, Word.DOWN, f"It could not be looked at ({type(error).__name__}).")
        finally:
            self._ended_at = self._monotonic()


def of_broker(seconds: float, told: BrokerState | None, queues: Collection[str]) -> Component:
    """A broker that answers, and what it told of itself, where anybody is asked for that."""
    findings = [Finding("broker", text) for text in _broker_troubles(told)] if told else []
    ours = [queue for name, queue in told.queues.items() if name in queues] if told else []
    return _component(
        "broker",
        Word.DEGRADED if findings else Word.OK,
        findings,
        answer_ms=_ms(seconds),
        nodes_up=told.nodes_up if told else None,
        nodes_down=told.nodes_down if told else None,
        tickets_ready=_total([queue.ready for queue in ours]),
        tickets_unacked=_total([queue.unacked for queue in ours]),
        consumers=_total([queue.consumers for queue in ours]),
    )


def of_providers(reports: Sequence[ProviderReport]) -> Component:
    """Down where none of them can be used."""
    findings = [finding for report in reports if (finding := _provider_finding(report))]
    return _component(
        "providers",
        _word(len(findings), len(reports)),
        findings,
        profiles=len(reports),
        reachable=sum(report.state.reachable for report in reports),
        refusing_the_key=sum(report.state.authorised is False for report in reports),
        without_the_model=sum(report.state.serves_model is False for report in reports),
        slowest_ms=_ms(max((took for report in reports if (took := report.state.latency) is not None), default=None)),
    )


def of_queues(queues: Sequence[QueueReport], workers: int) -> Component:
    """Down where every one of them is held or deserted.

    Args:
        workers: processes that live, each of which may serve several.
    """
    findings = [Finding(queue.state.name, text) for queue in queues if (text := _queue_trouble(queue))]
    return _component(
        "queues",
        _word(len(findings), len(queues)),
        findings,
        queues=len(queues),
        paused=sum(queue.state.paused or queue.state.stopped for queue in queues),
        circuits_not_closed=sum(queue.state.circuit.state is not CircuitState.CLOSED for queue in queues),
        without_workers=sum(not queue.workers for queue in queues),
        workers=workers,
        slots=sum(queue.slots for queue in queues),
        idle=sum(queue.idle for queue in queues),
        pending=sum(queue.jobs.pending for queue in queues),
        due=sum(queue.jobs.due for queue in queues),
        running=sum(queue.jobs.running for queue in queues),
    )


def of_errors(stats: Stats) -> Component:
    """Down where jobs fail and none is completed."""
    failed = [each for each in stats.finished if each.status is JobStatus.FAILED]
    lately = sum(each.last_5_minutes for each in failed)
    completed = sum(each.last_5_minutes for each in stats.finished if each.status is JobStatus.COMPLETED)
    share = lately / (lately + completed) if lately else 0.0
    bad = lately >= FEW_FAILURES and share >= MANY_FAILURES
    findings = [Finding("errors", f"{lately} jobs failed within five minutes, and {completed} were completed.")]
    return _component(
        "errors",
        (Word.DEGRADED if completed else Word.DOWN) if bad else Word.OK,
        findings if bad else (),
        failed_last_minute=sum(each.last_minute for each in failed),
        failed_last_5_minutes=lately,
        failed_last_hour=sum(each.last_hour for each in failed),
        failed_share_last_5_minutes=round(share, 4),
    )


def of_throughput(stats: Stats, queues: Sequence[QueueReport]) -> Component:
    """Whether what could start does. What is held on purpose, or waits for external workers, does not count."""
    completed = [each for each in stats.finished if each.status is JobStatus.COMPLETED]
    ended_lately = sum(each.last_5_minutes for each in stats.finished)
    could_start = any(queue.jobs.due and not queue.state.held for queue in queues)
    stands = could_start and not any(queue.jobs.running for queue in queues)
    waited = (stats.oldest_due_seconds or 0.0) if stands else 0.0
    word = Word.OK if waited < STANDS_AFTER else Word.DEGRADED
    if waited >= LIES_AFTER and not ended_lately:
        word = Word.DOWN
    findings = [Finding("throughput", f"A job has been due for {waited:.0f} s, and none runs.")]
    return _component(
        "throughput",
        word,
        findings if word is not Word.OK else (),
        completed_last_minute=sum(each.last_minute for each in completed),
        completed_last_5_minutes=sum(each.last_5_minutes for each in completed),
        completed_last_hour=sum(each.last_hour for each in completed),
        oldest_due_seconds=stats.oldest_due_seconds,
        wait_p95_seconds=stats.durations.waited.p95 if stats.durations.waited else None,
        run_p95_seconds=stats.durations.ran.p95 if stats.durations.ran else None,
    )


def of_infra(targets: Sequence[Target]) -> Component:
    """Down where none of them answers, or none is well; ok where none is configured."""
    findings = [Finding(target.name, text) for target in targets if (text := _target_trouble(target))]
    readings = [target.readings for target in targets if target.readings]
    gpus = [gpu for each in readings for gpu in each.gpus]
    servers = [server for each in readings for server in each.model_servers]
    return _component(
        "infra",
        _word(len(findings), len(targets)),
        findings,
        targets=len(targets),
        answering=sum(target.ok for target in targets),
        gpus=len(gpus),
        gpu_utilisation_percent=_mean([gpu.utilisation_percent for gpu in gpus]),
        gpu_memory_used_bytes=_total([gpu.memory_used_bytes for gpu in gpus]),
        gpu_memory_total_bytes=_total([gpu.memory_total_bytes for gpu in gpus]),
        requests_running=_total([server.running for server in servers]),
        requests_waiting=_total([server.waiting for server in servers]),
    )


def _broker_troubles(told: BrokerState) -> list[str]:
    troubles = [told.trouble] if told.trouble else []
    if told.memory_alarm:
        troubles.append("A node is short of memory, and takes no messages.")
    if told.disk_alarm:
        troubles.append("A node is short of disk, and takes no messages.")
    if told.nodes_down:
        troubles.append(f"{told.nodes_down} of its nodes are down.")
    return troubles


def _provider_finding(report: ProviderReport) -> Finding | None:
    state, name = report.state, report.profile.name
    if state.trouble:
        return Finding(name, state.trouble)
    return Finding(name, "It does not list the model.") if state.serves_model is False else None


def _queue_trouble(queue: QueueReport) -> str | None:
    state = queue.state
    if state.circuit.state is not CircuitState.CLOSED:
        return f"Its circuit is {state.circuit.state.replace('_', ' ')}: {state.circuit.reason or 'unknown'}."
    if state.paused or state.stopped:
        return "It is paused." if state.paused else "It is stopped."
    return "Jobs are due, and no worker serves it." if queue.jobs.due and not queue.workers else None


def _target_trouble(target: Target) -> str | None:
    if target.error:
        return target.error
    speech = target.readings.speech if target.readings else None
    return "It says that it is not well." if speech and not speech.healthy else None


def _component(name: str, status: Word, findings: Sequence[Finding] = (), **figures: Figure) -> Component:
    return Component(status, {figure: figures[figure] for figure in FIGURES[name]}, tuple(findings))


def _unknown(name: str, status: Word, text: str) -> Component:
    return Component(status, dict.fromkeys(FIGURES[name]), (Finding(name, text),))


def _word(troubled: int, of: int) -> Word:
    if not troubled:
        return Word.OK
    return Word.DOWN if troubled == of else Word.DEGRADED


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _total(values: Sequence[Figure]) -> Figure:
    """Of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(values: Sequence[Figure]) -> Figure:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 1) if known else None
