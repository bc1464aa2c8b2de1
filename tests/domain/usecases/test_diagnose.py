"""What makes a part of the service well, degraded or down."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from domain.circuit import Circuit, CircuitState
from domain.diagnosis import Component, Diagnosis, Word
from domain.errors import ErrorCode
from domain.job import JobStatus
from domain.ports import BrokerQueue, BrokerState, Durations, Finished, ProviderState, Quantiles
from domain.queue import QueueState
from domain.routing import ModelKind, Profile
from domain.usecases.diagnose import of_broker, of_errors, of_infra, of_providers, of_queues, of_throughput
from domain.usecases.providers import ProviderReport
from domain.usecases.report import Counts, QueueReport, Stats
from tests.factories import NOW

OK, DEGRADED, DOWN = Word.OK, Word.DEGRADED, Word.DOWN


def stats(*, completed: int = 0, failed: int = 0, oldest_due: float | None = None) -> Stats:
    finished = (
        Finished("lion", JobStatus.COMPLETED, 0, completed, completed),
        Finished("lion", JobStatus.FAILED, 0, failed, failed),
        Finished("bear", JobStatus.CANCELLED, 0, 0, 7),
    )
    return Stats(NOW, Counts(), {}, {}, {}, {}, oldest_due, finished, Durations(Quantiles(1, 2, 3), None))


def queue(name: str = "gpu.llm", *, workers: int = 1, jobs: Counts = Counts(), **state: Any) -> QueueReport:  # noqa: B008  # frozen
    return QueueReport(QueueState(name, **state), jobs, workers, slots=4, idle=4)


def provider(name: str = "qwen", **state: Any) -> ProviderReport:
    told = ProviderState(asked_at=NOW, **({"reachable": True} | state))
    return ProviderReport(Profile(name, ModelKind.CHAT, "gpu.llm"), told, None)


@pytest.mark.parametrize(
    ("completed", "failed", "word"),
    [
        (0, 0, OK),
        (100, 4, OK),
        (0, 4, OK),
        (100, 11, OK),
        (99, 11, DEGRADED),
        (1, 5, DEGRADED),
        (0, 5, DOWN),
    ],
)
def test_failures_count_where_they_are_several_and_a_tenth_of_what_ends(completed: int, failed: int, word: Word):
    assert of_errors(stats(completed=completed, failed=failed)).status is word


def test_the_share_of_failures_is_of_those_that_ended_by_themselves():
    assert of_errors(stats(completed=30, failed=10)).figures["failed_share_last_5_minutes"] == 0.25


DUE, RUNNING = Counts(pending=1, due=1), Counts(pending=1, due=1, running=1)


@pytest.mark.parametrize(
    ("oldest_due", "ended", "found", "word"),
    [
        (None, 0, queue(), OK),
        (59.0, 0, queue(jobs=DUE), OK),
        (60.0, 0, queue(jobs=DUE), DEGRADED),
        (300.0, 1, queue(jobs=DUE), DEGRADED),
        (300.0, 0, queue(jobs=DUE), DOWN),
        (300.0, 0, queue(jobs=RUNNING), OK),
        (300.0, 0, queue(jobs=DUE, paused=True), OK),
        (300.0, 0, queue(jobs=Counts(pending=1)), OK),
    ],
)
def test_work_that_could_start_and_does_not_is_a_standstill(
    oldest_due: float | None, ended: int, found: QueueReport, word: Word
):
    assert of_throughput(stats(completed=ended, oldest_due=oldest_due), [found]).status is word


OPEN = Circuit(CircuitState.OPEN, ErrorCode.AUTH_ERROR, "The key sk-123 is not for you.")


@pytest.mark.parametrize(
    ("queues", "word", "texts"),
    [
        ([], OK, []),
        ([queue(), queue("gpu.speech", workers=0)], OK, []),
        ([queue(), queue("gpu.speech", workers=0, jobs=DUE)], DEGRADED, ["Jobs are due, and no worker serves it."]),
        ([queue(circuit=OPEN)], DOWN, ["Its circuit is open: auth_error."]),
        ([queue(paused=True), queue("gpu.speech", stopped=True)], DOWN, ["It is paused.", "It is stopped."]),
    ],
)
def test_a_queue_that_is_held_or_deserted_is_found(queues: list[QueueReport], word: Word, texts: list[str]):
    found = of_queues(queues, workers=1)
    assert found.figures["workers"] == 1
    assert (found.status, [finding.text for finding in found.findings]) == (word, texts)


@pytest.mark.parametrize(
    ("reports", "word"),
    [
        ([], OK),
        ([provider(), provider("b", serves_model=None, authorised=None)], OK),
        ([provider(), provider("b", reachable=False, trouble="It is away.")], DEGRADED),
        ([provider(), provider("b", serves_model=False)], DEGRADED),
        ([provider(authorised=False, trouble="The provider refuses the key.")], DOWN),
    ],
)
def test_a_provider_that_cannot_be_used_is_found(reports: list[ProviderReport], word: Word):
    assert of_providers(reports).status is word


TOLD = BrokerState(
    queues={"gpu.llm": BrokerQueue(2, 3, 4), "gpu.speech": BrokerQueue(1, 0, 1), "of others": BrokerQueue(99, 99, 99)},
    nodes_up=3,
    nodes_down=0,
    asked_at=NOW,
)


def test_the_figures_of_a_broker_are_of_our_queues_only():
    found = of_broker(0.0009, TOLD, ["gpu.llm", "gpu.speech", "gpu.new"])
    assert found == Component(
        OK,
        {
            "answer_ms": 0.9,
            "nodes_up": 3,
            "nodes_down": 0,
            "tickets_ready": 3,
            "tickets_unacked": 3,
            "consumers": 5,
        },
    )


@pytest.mark.parametrize(
    ("told", "texts"),
    [
        (None, []),
        (TOLD, []),
        (replace(TOLD, nodes_down=1), ["1 of its nodes are down."]),
        (replace(TOLD, memory_alarm=True, disk_alarm=False), ["A node is short of memory, and takes no messages."]),
        (replace(TOLD, disk_alarm=True), ["A node is short of disk, and takes no messages."]),
        (BrokerState(asked_at=NOW, trouble="It refuses the password."), ["It refuses the password."]),
    ],
)
def test_what_a_broker_tells_of_its_nodes_is_found(told: BrokerState | None, texts: list[str]):
    found = of_broker(0.001, told, ["gpu.llm"])
    assert (found.status, [finding.text for finding in found.findings]) == (DEGRADED if texts else OK, texts)


@pytest.mark.parametrize(("latencies", "slowest"), [((None, None), None), ((None, 0.02, 0.01), 20.0)])
def test_the_slowest_provider_is_of_those_that_answered(latencies: tuple[float | None, ...], slowest: float | None):
    found = of_providers([provider(latency=latency) for latency in latencies])
    assert found.figures["slowest_ms"] == slowest


def test_where_no_infra_is_configured_nothing_is_wrong_with_it():
    assert (of_infra(()).status, of_infra(()).figures["gpu_utilisation_percent"]) == (OK, None)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"postgres": OK, "broker": OK}, OK),
        ({"postgres": OK, "broker": DOWN}, DEGRADED),
        ({"postgres": OK, "broker": DEGRADED}, DEGRADED),
        ({"postgres": DOWN, "broker": OK}, DOWN),
    ],
)
def test_only_without_postgres_is_the_whole_service_down(parts: dict[str, Word], word: Word):
    assert Diagnosis({name: Component(each, {}) for name, each in parts.items()}).status is word
