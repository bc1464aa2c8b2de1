"""What an adaptive limit brings: throughput and latencies beside fixed limits, against a vLLM without a model.

The server works on so many calls at once, lets a few more wait and refuses the rest with 503, as vLLM does with
`--max-num-queued-reqs`. Each contestant is a whole installation of its own: PostgreSQL, API, scheduler and one worker
process with slots for all. With `--simulated` the same is done in virtual time, by the rule alone.

Refused jobs are tried again after a second, up to 100 times. With the defaults those at twice the capacity would fail.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adapters.embedded.postgres import EmbeddedPostgres
from tests.domain.simulated_server import SimulatedServer, Simulation, adaptive, fixed
from tests.e2e.service import Installation
from tests.servers.vllm import Vllm

CAPACITY = 16
WAITING_ROOM = 12
SERVICE_TIME = 0.5
SPREAD = 0.2
REFUSAL_TIME = 0.05
RETRY_DELAY = 1.0

QUEUE = "gpu.llm"
SLOTS = 4 * CAPACITY
"""The bound of the adaptive limit, and what the worker process could run at once."""
BEST, TWICE, ADAPTIVE = "fixed: the capacity", "fixed: twice the capacity", "adaptive"
LIMITS = {BEST: CAPACITY, TWICE: 2 * CAPACITY, ADAPTIVE: SLOTS}

STATED = """
    SELECT extract(epoch FROM r.ended_at - first.started_at) AS seconds, extract(epoch FROM r.ended_at) AS ended_at,
        extract(epoch FROM min(first.started_at) OVER ()) AS began_at
    FROM runs AS r
    JOIN (SELECT job_id, min(started_at) AS started_at FROM runs GROUP BY job_id) AS first USING (job_id)
    WHERE r.outcome = 'completed'
    ORDER BY r.ended_at
"""
STANDING = """
    SELECT least(concurrency, adapted) AS limit FROM queues WHERE name = $1
"""


@dataclass
class Measured:
    """What came of one contestant. Times are seconds since the first start."""

    calls: list[float]
    """How long calls took that were answered."""
    jobs: list[float]
    """From the first start of a job to its completion."""
    completed_at: list[float]
    refused: int
    limits: list[tuple[float, int]] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Jobs per second, from the first start to the last completion."""
        return len(self.completed_at) / self.completed_at[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--simulated", action="store_true", help="in virtual time, by the rule alone")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--plot", type=Path, help="draw them here, as SVG")
    arguments = parser.parse_args()
    measure = simulated if arguments.simulated else real
    found = {}
    for name, limit in LIMITS.items():
        print(f"{name} ...", file=sys.stderr)
        found[name] = measure(limit, arguments.jobs, follows=name == ADAPTIVE)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps({name: asdict(measured) for name, measured in found.items()}))
    if arguments.plot:
        draw(found, arguments.plot)


def simulated(limit: int, jobs: int, *, follows: bool) -> Measured:
    server = SimulatedServer(CAPACITY, WAITING_ROOM, SERVICE_TIME, SPREAD, REFUSAL_TIME)
    simulation = Simulation(server, adaptive(limit) if follows else fixed(limit), retry_delay=RETRY_DELAY)
    simulation.add(jobs)
    outcome = simulation.drain()
    limits = [(float(second), limit) for second, limit in enumerate(outcome.limits)]
    return Measured(outcome.calls, outcome.jobs, outcome.completed_at, outcome.refused, limits)


def real(limit: int, jobs: int, *, follows: bool) -> Measured:
    server = Vllm(CAPACITY, WAITING_ROOM, SERVICE_TIME, SPREAD, REFUSAL_TIME)
    with server, installed(server.base_url, limit, follows=follows) as installation:
        api, _ = installation.serve_and_work(WORKER_CLAIM_LIMIT=str(SLOTS))
        submitted = time.time()
        job = {"input": {"user": "Hello"}, "max_attempts": 100}
        defaults = {"owner_service": "benchmark", "task_type": "llm_chat", "model_profile": server.model}
        api.http.post("/api/v1/jobs/batch", json={"defaults": defaults, "jobs": [job] * jobs}).raise_for_status()
        limits = []
        while server.completed < jobs:
            if time.time() - submitted > jobs / CAPACITY * SERVICE_TIME * 3 + 60:
                raise SystemExit(f"only {server.completed} of {jobs} jobs completed in three times the time it takes")
            rows = installation.rows(STANDING, QUEUE)
            limits.append((time.time(), min((row["limit"] for row in rows), default=SLOTS)))
            time.sleep(0.5)
        time.sleep(1)
        rows = installation.rows(STATED)
    if len(rows) != jobs:
        raise SystemExit(f"{len(rows)} jobs completed; expected {jobs}")
    began = float(rows[0]["began_at"])
    return Measured(
        calls=server.latencies,
        jobs=[float(row["seconds"]) for row in rows],
        completed_at=[float(row["ended_at"]) - began for row in rows],
        refused=server.refused,
        limits=[(at - began, limit) for at, limit in limits],
    )


@contextmanager
def installed(url: str, limit: int, *, follows: bool) -> Iterator[Installation]:
    """An installation with a database of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configuration = folder / "ai_service_config.json"
        configuration.write_text(json.dumps({"queues": {QUEUE: {"concurrency": limit, "adaptive": follows}}}))
        settings = {
            "AI_SERVICE_CONFIG": str(configuration),
            "LLM_BASE_URL": url,
            "LLM_MODEL": "simulated",
            "RETRY_DELAY_FAST": f"{RETRY_DELAY * 1000:.0f}ms",
            "WORKER_POLL_INTERVAL": "100ms",
            "LOG_LEVEL": "warning",
        }
        with (
            EmbeddedPostgres(folder / "postgres") as postgres,
            Installation(folder, DATABASE_URL=postgres.dsn, **settings) as installation,
        ):
            yield installation


def table(found: Mapping[str, Measured]) -> str:
    lines = [f"{'':28}{'jobs/s':>8}{'call p50':>10}{'p95':>7}{'job p50':>10}{'p95':>7}{'refused':>10}"]
    for name, one in found.items():
        calls, jobs = quantiles(one.calls), quantiles(one.jobs)
        lines.append(
            f"{name:28}{one.throughput:8.1f}{calls[0]:10.2f}{calls[1]:7.2f}{jobs[0]:10.2f}{jobs[1]:7.2f}"
            f"{one.refused:10}"
        )
    best = max(one.throughput for one in found.values())
    lines.append(
        f"adaptive: {found[ADAPTIVE].throughput / best:.1%} of the best throughput, "
        f"{quantiles(found[ADAPTIVE].jobs)[1] / quantiles(found[TWICE].jobs)[1]:.1%} of the p95 of jobs at twice the "
        f"capacity"
    )
    return "\n".join(lines)


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Median and p95."""
    cuts = statistics.quantiles(seconds, n=20)
    return cuts[9], cuts[18]


PARTS = 200
COLOURS = {BEST: "#7a7a7a", TWICE: "#c8553d", ADAPTIVE: "#1f6f8b"}


def draw(found: Mapping[str, Measured], path: Path) -> None:
    """Limits over time, and how long calls and jobs took."""
    # The same figures give the same file; text stays text.
    mpl.rcParams.update({"svg.hashsalt": "adaptive", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplot_mosaic([["limit", "limit"], ["calls", "jobs"]])
    _draw_limits(axes["limit"], found)
    _draw_times(axes["calls"], {name: one.calls for name, one in found.items()})
    axes["calls"].set(xlim=(0, None), xlabel="seconds of a call, until its last word (dot: p95)")
    _draw_times(axes["jobs"], {name: one.jobs for name, one in found.items()})
    axes["jobs"].set(xscale="log", xlabel="seconds of a job, from first start to completion (dot: p95)")
    axes["jobs"].xaxis.set_major_formatter("{x:g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_limits(axes: Axes, found: Mapping[str, Measured]) -> None:
    for name, one in found.items():
        axes.step(*zip(*one.limits, strict=True), where="post", label=name, color=COLOURS[name])
    axes.axhspan(CAPACITY, CAPACITY + WAITING_ROOM, color="#f1e3c6", label="the server lets wait", zorder=0, lw=0)
    axes.axhspan(CAPACITY + WAITING_ROOM, 2.25 * CAPACITY, color="#f3d3cc", label="the server refuses", zorder=0, lw=0)
    axes.set(ylim=(0, 2.25 * CAPACITY), xlim=(0, None), xlabel="seconds", ylabel="limit (calls at once)")
    axes.legend(loc="lower right", fontsize=8)


def _draw_times(axes: Axes, times: Mapping[str, list[float]]) -> None:
    for name, seconds in times.items():
        axes.plot(statistics.quantiles(seconds, n=PARTS), [n / PARTS for n in range(1, PARTS)], color=COLOURS[name])
        axes.plot([quantiles(seconds)[1]], [0.95], "o", color=COLOURS[name], markersize=4)
    axes.axhline(0.95, color="#bbbbbb", lw=0.8, zorder=0)
    axes.set(ylabel="part that took at most so long")


if __name__ == "__main__":
    main()
