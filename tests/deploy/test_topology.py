"""The whole of docker-compose.yml at work on five hundred jobs, as operators see it.

Each metric, span and line of the log that is documented is there, each says what is so, and none says what a caller or
a model said.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from adapters.telemetry import names
from adapters.telemetry.catalogue import CATALOGUE, Kind, Metric, Where
from tests.adapters.telemetry.reading import Figures, of
from tests.deploy.collector import Collector, Span
from tests.deploy.fivehundred import (
    ANSWER,
    BRIEF,
    CALLER,
    CHAT,
    DIED,
    EMBEDDER,
    EXTERNAL,
    LAPSED,
    MENDED,
    NO_TRACE,
    PROGRESS,
    PROMPT,
    REQUEST_ID,
    SPEAKER,
    TOTAL,
    TRACE,
    TRACED,
    Chats,
    Drive,
    Driven,
    of_metric,
)
from tests.deploy.topology import Topology
from tests.servers.dialects import embeds
from tests.servers.model_server import ModelServer
from tests.servers.postgres import Databases
from tests.servers.rabbitmq import Broker
from tests.servers.speech_server import Heard, SpeechServer, vllm

SPEECH = Path(__file__).parents[1] / "data" / "speech" / "go-forward.flac"
SECRETS = {
    "POSTGRES_PASSWORD": "postgres0secret",
    "RABBITMQ_PASSWORD": "rabbit0secret",
    "AI_SERVICE_TOKEN": "token0secret",
    "GRAFANA_PASSWORD": "grafana0secret",
    "LLM_API_KEY": "llm0secret",
    "AUDIO_TRANSCRIPTION_API_KEY": "speech0secret",
}


PAGE = Path(__file__).parents[2] / "docs" / "traces-and-logs.md"
USER = "ai_service"
PROCESSES = {"api", "scheduler", "worker-llm", "worker-speech"}
QUEUES = {"gpu.llm", "gpu.speech", "practice"}
SERVED = {name: name for name in ("chat_completion", "transcription", "embedding")}
PRIORITIES = {1: "high", 3: "normal", 5: "low"}
MOST_OWNERS = 101
"""Labels of owners that a page may hold: a hundred, and `other`."""
LAST_WORDS = 10
AN_ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}")
BY_REQUEST = {"job submitted", "jobs submitted", "job cancelled", "job retried", "job started", "job completed"}

MAY_HAVE: dict[Where, Callable[[str], bool]] = {
    Where.EACH: lambda role: True,
    Where.API: lambda role: role == "api",
    Where.WORKERS: lambda role: role == "worker",
    Where.RUNS: lambda role: role in {"worker", "api"},
    # An API process has a scheduler too, which stands by.
    Where.SCHEDULERS: lambda role: role in {"scheduler", "api"},
    Where.TICKETS: lambda role: role in {"scheduler", "api"},
}
BY_CHANCE = {"aijobs_leases_renewed_total", "aijobs_tickets_empty_total", "aijobs_tickets_topped_up_total"}
"""What need not happen, on a machine that is fast enough."""
SOMEWHERE = {"aijobs_jobs_finished_total", "aijobs_state_changes_total"}
"""Counted where it happens, which may be anywhere."""

HURRIED = {"RETRY_DELAY_FAST": "300ms", "RETRY_DELAY_SLOW": "300ms"}
CONFIGURED = """
[profiles.embedder]
kind = "embeddings"
base_url = "{base_url}"
queue = "gpu.llm"
"""

# The first test waits for all that happens: the leader of a new installation rescues nobody for fifteen seconds.
pytestmark = pytest.mark.timeout(240)


class Evidence(NamedTuple):
    driven: Driven
    collector: Collector
    chats: Chats
    speech: SpeechServer


class Line(NamedTuple):
    process: str
    fields: dict[str, Any]


@pytest.fixture(scope="module")
def evidence(databases: Databases, rabbitmq: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    chats, key = Chats(), SECRETS["AUDIO_TRANSCRIPTION_API_KEY"]
    with (
        own_database(databases) as dsn,
        own_vhost(rabbitmq) as vhost,
        ModelServer(default=chats, asides={"/v1/embeddings": embeds()}) as model,
        SpeechServer(vllm(), model="openai/whisper-large-v3", api_key=key) as speech,
        Collector() as collector,
    ):
        speech.knows(SPEECH.read_bytes(), Heard(0.0, 2.0, f"Go forward, {ANSWER}."))
        places = {
            "postgres:5432/ai_service": urlsplit(dsn).netloc.partition("@")[2] + urlsplit(dsn).path,
            "rabbitmq:5672/ai-service": urlsplit(vhost).netloc.partition("@")[2] + urlsplit(vhost).path,
            "rabbitmq:15672": urlsplit(rabbitmq.management_url).netloc,
            "host.docker.internal:8000": urlsplit(model.origin).netloc,
            "host.docker.internal:8004": urlsplit(speech.origin).netloc,
            "collector:4318": collector.address,
        }
        env_file = SECRETS | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
        topology = Topology(tmp_path_factory.mktemp("topology"), env_file, places, HURRIED)
        topology.configure(CONFIGURED.format(base_url=model.base_url))
        try:
            drive = Drive(topology, dsn, chats, model, SPEECH.read_bytes())
            yield Evidence(drive.run(), collector, chats, speech)
        finally:
            topology.end()


@contextmanager
def own_database(databases: Databases) -> Iterator[str]:
    """An empty one, and the user of the file as its owner. Yields how the tests reach it."""
    dsn, password = databases.create(migrated=False), SECRETS["POSTGRES_PASSWORD"]
    databases.execute(databases.server, f"CREATE ROLE {USER} LOGIN PASSWORD '{password}'")
    databases.execute(databases.server, f"ALTER DATABASE {urlsplit(dsn).path.strip('/')} OWNER TO {USER}")
    try:
        yield dsn
    finally:
        databases.drop(dsn)
        databases.execute(databases.server, f"DROP ROLE {USER}")


@contextmanager
def own_vhost(rabbitmq: Broker) -> Iterator[str]:
    """An empty one, and the user of the file, with all rights in it."""
    vhost, password = f"topology-{secrets.token_hex(6)}", SECRETS["RABBITMQ_PASSWORD"]
    url = rabbitmq.create_vhost(vhost)
    rabbitmq.management("PUT", f"/users/{USER}", {"password": password, "tags": "administrator"})
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.management("PUT", f"/permissions/{vhost}/{USER}", rights)
    try:
        yield url
    finally:
        rabbitmq.delete_vhost(vhost)
        rabbitmq.management("DELETE", f"/users/{USER}")


@pytest.fixture(scope="module")
def driven(evidence: Evidence) -> Driven:
    return evidence.driven


@pytest.fixture(scope="module")
def spans(evidence: Evidence) -> list[Span]:
    return evidence.collector.spans()


@pytest.fixture(scope="module")
def lines(driven: Driven) -> list[Line]:
    """Everything that the processes said, but for what a command says to who typed it."""
    return [
        Line(process, json.loads(said))
        for process, log in driven.logs.items()
        for said in log.splitlines()
        if not said.startswith("The database is at revision ")
    ]


# Jobs.


def test_every_job_ends_as_it_should_and_every_process_in_good_order(driven: Driven) -> None:
    ended = {job["owner_ref"]: (job["status"], job["error_code"], job["attempts"]) for job in driven.jobs}
    assert len(ended) == TOTAL
    assert ended == driven.fates
    assert driven.ended == dict.fromkeys(PROCESSES, 0)


def test_no_job_is_done_twice(evidence: Evidence) -> None:
    done = Counter(run["owner_ref"] for run in evidence.driven.runs if run["outcome"] == "completed")
    assert done == Counter(name for name, fate in evidence.driven.fates.items() if fate[0] == "completed")
    assert set(evidence.chats.answered.values()) == {1}


def test_model_servers_get_their_keys(evidence: Evidence) -> None:
    assert evidence.chats.keys == {f"Bearer {SECRETS['LLM_API_KEY']}"}


# Metrics.


def test_openmetrics_says_the_same_as_the_plain_page(driven: Driven) -> None:
    assert {name.split()[0] for name in driven.open_pages} == PROCESSES
    for name, page in driven.open_pages.items():
        assert page.keys() >= driven.pages[name].keys()


def test_every_metric_is_on_pages_that_it_is_documented_for_and_on_no_other(driven: Driven) -> None:
    leader = led_by(driven.pages)
    for metric in CATALOGUE:
        on = {process for process, page in driven.pages.items() if has(page, metric)}
        may = {leader} if metric.where is Where.LEADER else {each for each in driven.pages if may_have(each, metric)}
        assert on or metric.name in BY_CHANCE, metric.name
        assert on <= may, metric.name
        if metric.where is Where.EACH and metric.name not in SOMEWHERE:
            assert on == may, metric.name
    assert {name for page in driven.pages.values() for name, _ in page} >= BY_CHANCE


def test_each_process_says_what_it_is_and_that_it_has_what_it_needs(driven: Driven) -> None:
    for process, page in driven.pages.items():
        role = role_of(process)
        assert of_metric(page, "aijobs_build_info") == [({"version": version("ai-service"), "role": role}, 1)]
        assert of(page, "aijobs_up", part="storage") == of(page, "aijobs_up", part="broker") == 1
    assert by_queue(driven.pages["worker-llm 1"], "aijobs_worker_slots") == {"gpu.llm": 16}
    assert by_queue(driven.pages["worker-speech 0"], "aijobs_worker_slots") == {"gpu.speech": 4}
    assert by_queue(driven.pages["worker-llm 0"], "aijobs_worker_slots_busy") == {"gpu.llm": DIED}
    assert by_queue(driven.pages["worker-llm 1"], "aijobs_worker_slots_busy") == {"gpu.llm": 0}


def test_what_was_submitted_is_counted_by_what_it_is(driven: Driven) -> None:
    stored = Counter(
        (job["queue"] or "none", SERVED.get(job["task_type"], "other"), PRIORITIES[job["priority"]])
        for job in driven.jobs
    )
    assert added(driven, "aijobs_submitted_total", "queue", "task_type", "priority") == stored
    assert added(driven, "aijobs_submit_jobs_sum") == {(): TOTAL}
    commits = driven.requests["POST", 201] - 1  # one was an upload
    assert added(driven, "aijobs_submit_jobs_count") == added(driven, "aijobs_submit_seconds_count") == {(): commits}


def test_each_end_of_a_job_is_counted_once_wherever_it_happens(driven: Driven) -> None:
    ends = Counter((job["queue"] or "none", job["status"], job["error_code"] or "") for job in driven.jobs)
    ends["gpu.llm", "failed", "bad_input"] += MENDED  # they failed before somebody retried them
    assert added(driven, "aijobs_jobs_finished_total", "queue", "status", "error_code") == ends
    by_runs = sum(ends.values()) - sum(jobs for (_, status, _), jobs in ends.items() if status == "cancelled")
    assert sum(added(driven, "aijobs_job_attempts_count", "queue").values()) == by_runs


def test_runs_that_began_ended_or_are_told_of_as_taken_from_their_workers(driven: Driven) -> None:
    stored = Counter(run["outcome"] for run in driven.runs)
    assert sum(added(driven, "aijobs_runs_started_total", "queue").values()) == len(driven.runs)
    ended = added(driven, "aijobs_runs_ended_total", "outcome")
    for outcome in ("completed", "failed", "given_back", "released"):
        assert ended[outcome,] == stored[outcome], outcome
    changed = added(driven, "aijobs_state_changes_total", "change")
    assert changed["rescued",] == stored["crashed"] + stored["expired"] == DIED + LAPSED
    outside = 1  # stopped at an external worker, whose runs end where nobody sees it
    assert ended["lost",] + outside == stored["cancelled"] + stored["preempted"]
    assert sum(ended.values()) + changed["rescued",] + outside == len(driven.runs)
    assert sum(added(driven, "aijobs_leases_lost_total", "queue").values()) == ended["lost",]
    assert added(driven, "aijobs_exchange_settled_sum") == {(): sum(ended.values()) - ended["lost",]}
    inside = [run for run in driven.runs if run["worker_id"] != EXTERNAL]
    assert added(driven, "aijobs_exchange_claimed_sum") == {(): len(inside)}
    for histogram, runs in (("aijobs_wait_seconds", len(driven.runs)), ("aijobs_run_seconds", sum(ended.values()))):
        assert sum(added(driven, f"{histogram}_count", "queue").values()) == runs, histogram


def test_other_changes_of_jobs_are_counted(driven: Driven) -> None:
    changed = added(driven, "aijobs_state_changes_total", "change")
    assert (changed["cancelled",], changed["retried",], changed["preempted",]) == (16, MENDED, 1)
    assert changed["expired",] == 5
    assert changed["promoted",] >= 10
    assert added(driven, "aijobs_pruned_total", "what", "status")["jobs", "completed"] == BRIEF


def test_slot_time_is_that_of_the_runs_whoever_owns_them(driven: Driven) -> None:
    spent, took = added(driven, "aijobs_gpu_seconds_total", "queue"), added(driven, "aijobs_run_seconds_sum", "queue")
    for queue in ("gpu.llm", "gpu.speech"):
        assert spent[queue,] == pytest.approx(took[queue,])


def test_calls_of_model_servers_are_counted_with_what_they_cost(evidence: Evidence) -> None:
    driven, heard = evidence.driven, sum(upload.seconds for upload in evidence.speech.heard)
    calls = added(driven, "aijobs_provider_calls_total", "profile", "error_code")
    answered = sum(evidence.chats.answered.values())
    assert calls[CHAT, ""] == answered
    assert calls[CHAT, "rate_limited"] == sum(run["outcome"] == "given_back" for run in driven.runs)
    assert added(driven, "aijobs_provider_call_seconds_count", "profile")[CHAT,] == sum(
        jobs for (profile, _), jobs in calls.items() if profile == CHAT
    )
    assert added(driven, "aijobs_provider_first_token_seconds_count", "profile") == {(CHAT,): answered}
    assert added(driven, "aijobs_provider_tokens_total", "profile", "direction") == {
        (CHAT, "input"): 3 * answered,
        (CHAT, "output"): 3 * answered,
        (EMBEDDER, "input"): 2 * calls[EMBEDDER, ""],
    }
    assert added(driven, "aijobs_provider_audio_seconds_total", "profile")[SPEAKER,] == pytest.approx(heard, rel=1e-3)


def test_requests_are_counted_as_callers_made_them(driven: Driven) -> None:
    counted = Counter[tuple[str, int]]()
    for labels, value in of_metric(driven.pages["api 0"], "aijobs_http_requests_total"):
        if labels["route"].startswith("/api/"):
            counted[labels["method"], int(labels["status"])] += round(value)
    assert counted == driven.requests


def test_the_leader_tells_what_the_database_holds(driven: Driven) -> None:
    page = driven.pages[led_by(driven.pages)]
    assert {
        (labels["queue"], labels["status"]): value for labels, value in of_metric(page, "aijobs_jobs") if value
    } == driven.whole
    for quiet in ("aijobs_jobs_due", "aijobs_backlog_seconds", "aijobs_oldest_due_seconds", "aijobs_queue_slots_busy"):
        assert {value for _, value in of_metric(page, quiet)} == {0}, quiet
    assert by_queue(page, "aijobs_queue_slots") == {"gpu.llm": 16, "gpu.speech": 4, "practice": 0}
    assert by_queue(page, "aijobs_queue_limit") == {"gpu.llm": 16, "gpu.speech": 8}
    assert by_queue(page, "aijobs_queue_workers") == {"gpu.llm": 1, "gpu.speech": 1, "practice": 0}
    assert of(page, "aijobs_workers") == 2
    assert {value for _, value in of_metric(page, "aijobs_queue_held")} == {0}
    assert {labels["queue"] for labels, value in of_metric(page, "aijobs_circuit_state") if value} == QUEUES
    assert by_queue(page, "aijobs_consumers") == {"gpu.llm": 1, "gpu.speech": 1}
    assert of(page, "aijobs_postgres_size_bytes") > 1_000_000
    assert of(page, "aijobs_postgres_connections") >= 4


def test_no_label_holds_what_callers_made_up(driven: Driven) -> None:
    labels: dict[str, set[str]] = defaultdict(set)
    for page in (*driven.pages.values(), *driven.open_pages.values()):
        for _, told in page:
            for label, value in told:
                labels[label].add(value)
    assert labels["task_type"] <= {*SERVED, "other"}
    assert labels["queue"] == {*QUEUES, "none"}
    assert labels["profile"] == {CHAT, SPEAKER, EMBEDDER}
    assert "other" in labels["owner"]
    for page in driven.pages.values():
        assert len({told["owner"] for told, _ in of_metric(page, "aijobs_gpu_seconds_total")}) <= MOST_OWNERS
    assert not [value for values in labels.values() for value in values if AN_ID.search(value)]


# Spans.


def test_every_span_of_the_page_arrives_and_no_other(spans: list[Span]) -> None:
    names, runs = {span.name for span in spans}, {f"run {task_type}" for task_type in SERVED}
    calls = {f"chat {CHAT}", "transcription openai/whisper-large-v3", f"embeddings {EMBEDDER}"}
    requests = {span.name for span in spans if span.kind == "server"}
    assert {"POST /api/v1/jobs", "POST /api/v1/jobs/batch", "POST /api/v1/jobs/claim"} <= requests
    assert names == {"submit", "wait", *runs, *calls, *requests}
    for documented, kind, *_ in table("| span |"):
        # `chat MODEL` and so on: what is written small is fixed.
        for start in re.findall(r"`(POST /|[a-z]+)", documented):
            assert {span.kind for span in spans if span.name.startswith(start)} == {kind}, documented
    assert all(name.split()[1].startswith("/api/v1/") for name in requests), "probes are not traced"
    assert {span.resource["service.name"] for span in spans} == {"ai-service"}
    assert {span.resource["aijobs.role"] for span in spans} == {"api", "worker"}


def test_a_request_goes_on_its_callers_trace_and_leads_to_its_job_and_runs(driven: Driven, spans: list[Span]) -> None:
    of_trace = [span for span in spans if span.trace_id == TRACE]
    requests = [span for span in of_trace if span.kind == "server"]
    assert {(span.name, span.parent) for span in requests} == {("POST /api/v1/jobs", CALLER)}
    assert len(requests) == TRACED
    for request in requests:
        assert request.attributes["http.response.status_code"] == 201
        [submitted] = [span for span in of_trace if span.parent == request.id and span.name == "submit"]
        [waited] = [span for span in of_trace if span.parent == request.id and span.name == "wait"]
        assert driven.name_of(submitted).startswith("traced-")
        [run] = [span for span in spans if (TRACE, waited.id) in span.links]
        assert (run.name, run.kind, run.parent) == ("run chat_completion", "consumer", "")
        assert run.trace_id != TRACE
        assert run.attributes["aijobs.job.id"] == waited.attributes["aijobs.job.id"]
        [call] = [span for span in spans if span.parent == run.id]
        assert (call.name, call.trace_id) == (f"chat {CHAT}", run.trace_id)
    assert len(of_trace) == 3 * TRACED


def test_each_run_of_a_built_in_worker_is_a_trace(driven: Driven, spans: list[Span]) -> None:
    runs = [span for span in spans if span.kind == "consumer" and not before_the_death(driven.name_of(span))]
    assert Counter(map(driven.name_of, runs)) == Counter(run["owner_ref"] for run in traced_runs(driven))
    assert len({span.trace_id for span in runs}) == len(runs)
    assert not [span for span in spans if span.trace_id == NO_TRACE]


def test_runs_and_calls_say_of_themselves_what_the_page_promises(driven: Driven, spans: list[Span]) -> None:
    runs = [span for span in spans if span.kind == "consumer"]
    calls = [span for span in spans if span.kind == "client"]
    promised = set(re.findall(r"`((?:aijobs|gen_ai|server|error)\.[a-z_.]+)`", PAGE.read_text(encoding="utf-8")))
    promised -= {names.ROLE}  # of its process
    assert promised <= {name for span in (*runs, *calls) for name in span.attributes}
    always = {name for name in promised if name.startswith("aijobs.")} - {"aijobs.job.status"}
    for span in runs:
        assert always <= span.attributes.keys()
        assert span.is_error == (span.attributes["aijobs.run.outcome"] == "failed")
    stored = Counter(run["outcome"] for run in traced_runs(driven))
    told = Counter(span.attributes["aijobs.run.outcome"] for span in runs if not before_the_death(driven.name_of(span)))
    assert told.pop("lost") == stored.pop("cancelled")
    assert told == stored
    assert {span.attributes.get("error.type") for span in runs if span.is_error} == {
        "bad_input",
        "bad_response",
        "timeout",
    }
    lives = {run.resource["service.instance.id"] for run in runs if not before_the_death(driven.name_of(run))}
    begun = {(run.trace_id, run.id) for run in runs}
    for span in calls:
        assert (span.trace_id, span.parent) in begun or span.resource["service.instance.id"] not in lives
        if not span.is_error:
            assert {"gen_ai.response.model", "server.address", "server.port"} <= span.attributes.keys()


# Log.


def test_every_documented_line_is_written_with_its_fields(lines: list[Line]) -> None:
    for events, _, fields in table("| event |"):
        for event in re.findall(r"`([^`]+)`", events):
            said = [line.fields for line in lines if line.fields["event"] == event]
            own = {"batch_id"} if event == "jobs submitted" else {"job_id", "task_type", "queue", "owner"}
            promised = own | set(re.findall(r"`(\w+)`", fields.partition(";")[0]))
            assert said, event
            assert all(promised <= line.keys() for line in said), event


def test_lines_that_a_request_brings_about_have_its_id(lines: list[Line]) -> None:
    asked = [line.fields for line in lines if line.process.startswith("api") and line.fields["event"] in BY_REQUEST]
    assert {line["event"] for line in asked} == BY_REQUEST
    assert all("request_id" in line for line in asked)
    ours = sorted(line["request_id"] for line in asked if line["request_id"].startswith(REQUEST_ID))
    assert ours == sorted(f"{REQUEST_ID}-{number}" for number in range(TRACED))


def test_the_lines_of_a_job_have_its_trace_in_every_process(driven: Driven, lines: list[Line]) -> None:
    for name, trace in [(f"traced-{number}", TRACE) for number in range(TRACED)] + [("unseen-0", NO_TRACE)]:
        told = [line for line in lines if driven.names.get(line.fields.get("job_id", "")) == name]
        assert [line.fields["event"] for line in told] == ["job submitted", "job started", "job completed"]
        assert {line.fields["trace_id"] for line in told} == {trace}


def test_there_is_a_line_for_each_end_of_a_run(driven: Driven, lines: list[Line]) -> None:
    said = Counter(line.fields["event"] for line in lines)
    stored = Counter(run["outcome"] for run in driven.runs)
    assert said["job started"] == len(driven.runs)
    assert said["job completed"] == stored["completed"]
    assert said["job failed"] + said["job to be tried again"] == stored["failed"]
    assert said["job given back"] == stored["given_back"]
    assert said["job rescued"] == stored["crashed"] + stored["expired"]
    assert said["job preempted"] == stored["preempted"]


def test_lines_are_counted(driven: Driven, lines: list[Line]) -> None:
    for process, page in driven.pages.items():
        written = Counter(line.fields["level"] for line in lines if line.process == process)
        counted = {labels["level"]: value for labels, value in of_metric(page, "aijobs_log_lines_total")}
        assert counted.keys() <= written.keys()
        # What was written after the page was read: a few words about the end.
        assert 0 <= written.total() - sum(counted.values()) <= LAST_WORDS, process


# Nothing that is nobody's business.


def test_neither_pages_nor_logs_nor_spans_hold_what_was_said_or_a_secret(evidence: Evidence) -> None:
    driven = evidence.driven
    outputs = {
        **driven.logs,
        "pages": "".join(driven.texts),
        "spans": b"".join(evidence.collector.bodies).decode("latin-1"),
    }
    for name, output in outputs.items():
        found = [each for each in (PROMPT, ANSWER, PROGRESS, *SECRETS.values()) if each in output]
        assert not found, name


def table(head: str) -> list[list[str]]:
    """The rows of a table of the page about logs and traces."""
    text = PAGE.read_text(encoding="utf-8")
    _, _, below = text[text.index(head) :].partition("\n")
    rows = below.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def added(driven: Driven, name: str, *labels: str) -> Counter[tuple[str, ...]]:
    """What all processes have counted, by these labels; series at 0 left out."""
    found = Counter[tuple[str, ...]]()
    for page in driven.pages.values():
        for told, value in of_metric(page, name):
            if value:
                found[tuple(told[label] for label in labels)] += value  # type: ignore[assignment]  # seconds are no int
    return found


def before_the_death(name: str) -> bool:
    """Whether the job was done by the worker that was killed: what it had not sent of its spans went with it."""
    return name.startswith(("held_low-", "urgent-"))


def traced_runs(driven: Driven) -> list[dict[str, Any]]:
    """Of built-in workers, to their ends, and of callers who want them traced."""
    return [
        run
        for run in driven.runs
        if run["worker_id"] != EXTERNAL
        and run["outcome"] != "crashed"
        and run["owner_ref"] != "unseen-0"
        and not before_the_death(run["owner_ref"])
    ]


def by_queue(page: Figures, name: str) -> dict[str, float]:
    return {labels["queue"]: value for labels, value in of_metric(page, name)}


def led_by(pages: dict[str, Figures]) -> str:
    [leader] = [process for process, page in pages.items() if of(page, "aijobs_scheduler_leading") == 1]
    return leader


def has(page: Figures, metric: Metric) -> bool:
    """Whether it is there. Counters that are 0 say nothing of the process: some begin at it everywhere."""
    name = f"{metric.name}_count" if metric.kind is Kind.HISTOGRAM else metric.name
    series = of_metric(page, name)
    return any(value for _, value in series) if metric.kind is not Kind.GAUGE else bool(series)


def role_of(process: str) -> str:
    return re.split("[- ]", process, maxsplit=1)[0]


def may_have(process: str, metric: Metric) -> bool:
    return MAY_HAVE[metric.where](role_of(process))
