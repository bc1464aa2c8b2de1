"""The pages of metrics of a running installation, read by Prometheus' own parsers."""

from __future__ import annotations

import re
import time
from itertools import chain
from urllib.parse import urlsplit

import httpx

from adapters.telemetry.catalogue import CATALOGUE, Kind, Where
from tests.adapters.telemetry.reading import OPENMETRICS, Figures, families, figures, of
from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, Process, eventually
from tests.servers.model_server import ModelServer, after, says
from tests.servers.tcp_proxy import TcpProxy

QUEUE = "gpu.llm"
RARE = {
    "aijobs_pruned_total",  # nothing is a month old
    "aijobs_queue_limit",  # none is configured
    "aijobs_provider_audio_seconds_total",  # nobody speaks
    "aijobs_tickets_ready",
    "aijobs_tickets_unacked",
    "aijobs_consumers",
}


def page(process: Process, accept: str = "") -> Figures:
    answer = httpx.get(f"{process.url}/metrics", headers={"accept": accept}, timeout=10, trust_env=False)
    assert answer.status_code == 200, answer.text
    return figures(families(answer.headers["content-type"], answer.text))


def names(seen: Figures) -> set[str]:
    """Of metrics, whatever parts of them there are."""
    told = {name for name, _ in seen}
    return {
        metric.name
        for metric in CATALOGUE
        if (f"{metric.name}_count" if metric.kind is Kind.HISTOGRAM else metric.name) in told
    }


def without_storage(seen: Figures) -> Figures | None:
    return None if of(seen, "aijobs_up", part="storage") else seen


def test_every_documented_metric_is_on_the_page_of_the_processes_that_it_belongs_to(
    install: Install, database: str, vhost: str, model: ModelServer
) -> None:
    installation = install(DATABASE_URL=database, AMQP_URL=vhost, LLM_BASE_URL=model.base_url)
    scheduler = installation.scheduler()
    api, worker = installation.serve_and_work()
    model.default = after(0.05, says("The answer."))
    api.all_finished(api.submit_many(6))

    pages = {"api": page(api.process), "worker": page(worker), "scheduler": page(scheduler)}
    everywhere = set(chain.from_iterable(map(names, pages.values())))
    assert {metric.name for metric in CATALOGUE} - everywhere <= RARE
    whole = {metric.name for metric in CATALOGUE if metric.where is Where.LEADER}
    [leader] = [name for name, seen in pages.items() if of(seen, "aijobs_scheduler_leading") == 1]
    assert whole - names(pages[leader]) <= RARE
    assert not any(whole & names(seen) for name, seen in pages.items() if name != leader)
    for role, seen in pages.items():
        assert [dict(labels)["role"] for name, labels in seen if name == "aijobs_build_info"] == [role]
        assert of(seen, "aijobs_up", part="storage") == of(seen, "aijobs_up", part="broker") == 1

    kind = {"queue": QUEUE, "task_type": "chat_completion"}
    assert of(pages["api"], "aijobs_submitted_total", **kind, priority="normal") == 6
    assert of(pages["worker"], "aijobs_runs_started_total", **kind) == 6
    assert of(pages["worker"], "aijobs_run_seconds_count", **kind) == 6
    assert of(pages["worker"], "aijobs_provider_calls_total", profile=PROFILE, provider="openai", error_code="") == 6
    assert of(pages["worker"], "aijobs_worker_slots", queue=QUEUE) == 4
    assert of(pages["api"], "aijobs_http_requests_total", method="POST", route="/api/v1/jobs", status="201") == 6
    counted = page(api.process, OPENMETRICS)
    assert of(counted, "aijobs_submitted_total", **kind, priority="normal") == 6


def test_while_postgresql_is_silent_the_page_still_comes_and_says_so(
    install: Install, database: str, model: ModelServer
) -> None:
    with TcpProxy("127.0.0.1", urlsplit(database).port or 0) as door:
        through = re.sub(r":\d+/", f":{door.port}/", database)
        api = install(DATABASE_URL=through, LLM_BASE_URL=model.base_url).serve().process
        eventually(lambda: "aijobs_workers" in names(page(api)), within=20, what="it leads")
        door.black_out()
        began = time.monotonic()
        silent = eventually(lambda: without_storage(page(api)), within=9, what="it says so")
        assert time.monotonic() - began < 9
        assert "aijobs_http_requests_total" in names(silent or {})
        door.open()
        eventually(lambda: of(page(api), "aijobs_up", part="storage") == 1, within=30, what="it is back")
