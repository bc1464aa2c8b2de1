"""Every metric: its name, its kind, its labels, and where it is exported. `docs/metrics.md` is made of it.

No label takes values without bound, and none an id, a payload or a secret.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Where(StrEnum):
    """Which processes export it."""

    EACH = "each process"
    API = "API"
    WORKERS = "workers"
    RUNS = "workers; the API, for external workers"
    SCHEDULERS = "schedulers"
    TICKETS = "API, schedulers"
    LEADER = "the leading scheduler"


class Metric(Struct, frozen=True):
    name: str
    """As it is scraped; of a histogram without `_bucket`, `_sum` and `_count`."""
    kind: Kind
    labels: tuple[str, ...]
    where: Where
    unit: str
    says: str
    buckets: tuple[float, ...] = ()


SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds of what takes milliseconds."""

LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)
"""Seconds of what takes as long as a model does."""

TOGETHER = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
BATCH = (1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10000.0)
ATTEMPTS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0)


def _counter(name: str, labels: str, where: Where, says: str, unit: str = "") -> Metric:
    return Metric(name, Kind.COUNTER, tuple(labels.split()), where, unit, says)


def _gauge(name: str, labels: str, where: Where, says: str, unit: str = "") -> Metric:
    return Metric(name, Kind.GAUGE, tuple(labels.split()), where, unit, says)


def _histogram(
    name: str, labels: str, where: Where, says: str, buckets: tuple[float, ...], *, unit: str = "seconds"
) -> Metric:
    return Metric(name, Kind.HISTOGRAM, tuple(labels.split()), where, unit, says, buckets)


CATALOGUE: tuple[Metric, ...] = (
    _gauge(
        "aijobs_build_info",
        "version role",
        Where.EACH,
        "1. The version of the service, and what the process does: `api`, `worker` or `scheduler`; of `up` "
        "the first two.",
    ),
    _gauge(
        "aijobs_up",
        "part",
        Where.EACH,
        "1 while the process can use `storage` (PostgreSQL) and `broker` (RabbitMQ; 1 where there is none), else 0.",
    ),
    _counter("aijobs_log_lines_total", "level", Where.EACH, "Lines of the log, by level.", "lines"),
    # Jobs and their runs, as they are told where they happen.
    _counter("aijobs_submitted_total", "queue task_type priority", Where.API, "Jobs that were stored.", "jobs"),
    _histogram("aijobs_submit_seconds", "", Where.API, "How long the commit of a submission took.", SHORT),
    _histogram("aijobs_submit_jobs", "", Where.API, "Jobs that one submission stored.", BATCH, unit="jobs"),
    _counter("aijobs_runs_started_total", "queue task_type", Where.RUNS, "Runs that began.", "runs"),
    _histogram(
        "aijobs_wait_seconds",
        "queue priority",
        Where.RUNS,
        "How long jobs had been due when a run of them began.",
        LONG,
    ),
    _histogram("aijobs_run_seconds", "queue task_type", Where.RUNS, "How long runs took, however they ended.", LONG),
    _counter(
        "aijobs_runs_ended_total",
        "queue task_type outcome error_code",
        Where.RUNS,
        "Runs that ended: `completed`, `failed` (counted as an attempt), `given_back` (not counted: the server was "
        "away, busy or refused us), `released` (handed back unharmed: shutdown) or `lost` (their job was taken from "
        "them: cancelled, retried by hand, preempted or rescued). Runs whose worker died are not among them: see "
        '`aijobs_state_changes_total{change="rescued"}`; nor are those of external workers that lost their jobs.',
        "runs",
    ),
    _counter(
        "aijobs_jobs_finished_total",
        "queue task_type status error_code",
        Where.EACH,
        "Jobs that became final, told where that happened: by a worker, by the API (cancelled; external workers), by "
        "the leader (deadlines, crashes).",
        "jobs",
    ),
    _histogram(
        "aijobs_job_attempts",
        "queue",
        Where.RUNS,
        "Counted attempts of jobs that became final by the end of a run.",
        ATTEMPTS,
        unit="attempts",
    ),
    _counter(
        "aijobs_gpu_seconds_total",
        "queue owner",
        Where.RUNS,
        "Seconds that runs held slots of queues, by the owner of their jobs. Counted when a run ends.",
        "seconds",
    ),
    _counter(
        "aijobs_state_changes_total",
        "change",
        Where.EACH,
        "Jobs whose state changed otherwise: `cancelled`, `retried` (by hand), `rescued` (their worker died or was cut "
        "off), `preempted`, `expired` (not started by their deadline), `promoted` (became due).",
        "jobs",
    ),
    # How slots learn of work, and keep it.
    _counter("aijobs_tickets_published_total", "queue", Where.TICKETS, "Tickets for idle slots.", "tickets"),
    _counter(
        "aijobs_tickets_topped_up_total",
        "queue",
        Where.SCHEDULERS,
        "Of these, those in place of tickets that were lost or burnt.",
        "tickets",
    ),
    _counter("aijobs_tickets_empty_total", "queue", Where.WORKERS, "Tickets that found no job.", "tickets"),
    _counter(
        "aijobs_leases_renewed_total", "", Where.WORKERS, "Leases that were renewed, each every two seconds.", "leases"
    ),
    _counter(
        "aijobs_leases_lost_total",
        "queue",
        Where.RUNS,
        "Runs whose job was taken from them while they went on. Jobs that are cancelled, retried by hand or preempted "
        "while they run count too; those of external workers only where that happens as they report their end.",
        "runs",
    ),
    _histogram(
        "aijobs_exchange_seconds",
        "",
        Where.RUNS,
        "How long the commit took that stores ended runs and claims new ones.",
        SHORT,
    ),
    _histogram("aijobs_exchange_claimed", "", Where.RUNS, "Jobs that one such commit claimed.", TOGETHER, unit="jobs"),
    _histogram("aijobs_exchange_settled", "", Where.RUNS, "Runs that one such commit ended.", TOGETHER, unit="runs"),
    _gauge("aijobs_worker_slots", "queue", Where.WORKERS, "Slots of the process.", "slots"),
    _gauge("aijobs_worker_slots_busy", "queue", Where.WORKERS, "Of these, those that hold a job.", "slots"),
    # Model servers.
    _counter(
        "aijobs_provider_calls_total",
        "profile provider error_code",
        Where.WORKERS,
        "Calls of model servers; `error_code` is empty where they answered.",
        "calls",
    ),
    _histogram(
        "aijobs_provider_call_seconds",
        "profile provider",
        Where.WORKERS,
        "How long calls took, whether they were answered or not.",
        LONG,
    ),
    _histogram(
        "aijobs_provider_first_token_seconds",
        "profile",
        Where.WORKERS,
        "How long a chat model took to its first piece of text.",
        LONG,
    ),
    _counter(
        "aijobs_provider_tokens_total",
        "profile direction",
        Where.WORKERS,
        "Tokens, as servers count them: `input` and `output`.",
        "tokens",
    ),
    _counter(
        "aijobs_provider_audio_seconds_total",
        "profile",
        Where.WORKERS,
        "Seconds of recordings that were transcribed.",
        "seconds",
    ),
    # Callers.
    _counter(
        "aijobs_http_requests_total",
        "method route status",
        Where.API,
        "Requests, by the template of their path; `unknown` where there is no such path. `status` is `none` where "
        "nobody was answered: the caller went away, or the process ended.",
        "requests",
    ),
    _histogram(
        "aijobs_http_request_seconds",
        "route",
        Where.API,
        "Time to the first byte of the answer. Requests that ask to be held (`wait`, `Prefer: wait`) are not among "
        "them; of `/chat` and `/api/v1/jobs/claim` it holds the time that they wait for a job.",
        LONG,
    ),
    # Schedulers.
    _gauge("aijobs_scheduler_leading", "", Where.SCHEDULERS, "1 where this one leads, else 0."),
    _histogram(
        "aijobs_scheduler_round_seconds",
        "",
        Where.SCHEDULERS,
        "How long the leader's rounds took, one a second.",
        SHORT,
    ),
    _counter(
        "aijobs_pruned_total",
        "what status",
        Where.SCHEDULERS,
        "What was removed because it was kept long enough: `jobs`, by their state; `uploads`.",
    ),
    # The installation as a whole.
    _gauge("aijobs_jobs", "queue status", Where.LEADER, "Jobs that there are.", "jobs"),
    _gauge("aijobs_jobs_due", "queue", Where.LEADER, "Pending jobs that could start now.", "jobs"),
    _gauge(
        "aijobs_backlog_seconds",
        "queue",
        Where.LEADER,
        "Slot time that due and running jobs will take: their number times what runs of their kind took lately, 10 s "
        "where none was seen. 0 only where nothing is due or runs.",
        "seconds",
    ),
    _gauge(
        "aijobs_oldest_due_seconds",
        "queue",
        Where.LEADER,
        "For how long the first in line has been due; 0 where nothing is.",
        "seconds",
    ),
    _gauge("aijobs_queue_workers", "queue", Where.LEADER, "Worker processes that live and serve it.", "processes"),
    _gauge("aijobs_queue_slots", "queue", Where.LEADER, "Their slots.", "slots"),
    _gauge(
        "aijobs_queue_slots_busy",
        "queue",
        Where.LEADER,
        "Slots that are taken: by runs, external ones too, and by calls that are still being closed.",
        "slots",
    ),
    _gauge(
        "aijobs_queue_held",
        "queue why",
        Where.LEADER,
        "1 where nothing of the queue starts: `paused`, `stopped`, `circuit` (open or half open), else 0.",
    ),
    _gauge(
        "aijobs_queue_limit",
        "queue",
        Where.LEADER,
        "Slots that may be busy at once; absent where that is open.",
        "slots",
    ),
    _gauge(
        "aijobs_circuit_state", "queue state", Where.LEADER, "1 for `closed`, `half_open` or `open`, 0 for the others."
    ),
    _gauge("aijobs_workers", "", Where.LEADER, "Worker processes that live.", "processes"),
    _gauge(
        "aijobs_tickets_ready",
        "queue",
        Where.LEADER,
        "Tickets that wait in RabbitMQ; only with `RABBITMQ_MANAGEMENT_URL`.",
        "tickets",
    ),
    _gauge(
        "aijobs_tickets_unacked",
        "queue",
        Where.LEADER,
        "Tickets that workers keep; only with `RABBITMQ_MANAGEMENT_URL`.",
        "tickets",
    ),
    _gauge(
        "aijobs_consumers",
        "queue",
        Where.LEADER,
        "Consumers of the queue in RabbitMQ; only with `RABBITMQ_MANAGEMENT_URL`.",
        "consumers",
    ),
    _gauge(
        "aijobs_oldest_finished_seconds",
        "status",
        Where.LEADER,
        "For how long the oldest jobs of a final state have been final; absent where there is none.",
        "seconds",
    ),
    _gauge("aijobs_postgres_dead_tuples", "table", Where.LEADER, "Dead rows that VACUUM has not removed yet.", "rows"),
    _gauge("aijobs_postgres_live_tuples", "table", Where.LEADER, "Rows, as PostgreSQL estimates them.", "rows"),
    _gauge(
        "aijobs_postgres_oldest_snapshot_seconds",
        "",
        Where.LEADER,
        "Age of the oldest transaction that keeps VACUUM from removing rows: a session's, or a prepared one.",
        "seconds",
    ),
    _gauge(
        "aijobs_postgres_oldest_snapshot_transactions",
        "",
        Where.LEADER,
        "The same in transactions, replication slots included.",
        "transactions",
    ),
    _gauge("aijobs_postgres_size_bytes", "", Where.LEADER, "Size of the database.", "bytes"),
    _gauge("aijobs_postgres_connections", "", Where.LEADER, "Sessions of the database, whoever's.", "sessions"),
    _gauge(
        "aijobs_unfolded_changes",
        "",
        Where.LEADER,
        "Changes of counts that the leader has not added up yet; counted up to 100,000.",
        "rows",
    ),
)

BY_NAME = {metric.name: metric for metric in CATALOGUE}
