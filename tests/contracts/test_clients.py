"""Clients that others generate from our description are good for something: they are generated, checked and used."""

from __future__ import annotations

import compileall
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.contracts.conftest import TOKEN, Served
from tests.contracts.documents import DESCRIPTION, FOLDER

PACKAGE = "generated_client_of_ai_service"
TYPESCRIPT = ["openapi-typescript@7.13.0", "typescript@5.9.3"]


class Generated:
    """The client that openapi-python-client makes: `api("jobs.submit_job")` calls an operation, `model("NewJob")`."""

    def __init__(self, url: str) -> None:
        client = importlib.import_module(f"{PACKAGE}.client").AuthenticatedClient
        self.client = client(
            base_url=url, token=TOKEN, raise_on_unexpected_status=True, httpx_args={"trust_env": False}
        )

    def call(self, operation: str, *path: object, **arguments: Any) -> Any:
        """Its answer, of whatever type the description gives it."""
        module: ModuleType = importlib.import_module(f"{PACKAGE}.api.{operation}")
        return module.sync(*path, client=self.client, **arguments)

    def model(self, name: str, **fields: Any) -> Any:
        return getattr(importlib.import_module(f"{PACKAGE}.models"), name).from_dict(fields)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the generated package, which can be imported."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.yml").write_text("post_hooks: []\n")
    generate = [str(Path(sys.executable).parent / "openapi-python-client"), "generate", "--fail-on-warning"]
    options = ["--path", str(FOLDER / DESCRIPTION), "--meta", "none", "--config", "config.yml"]
    done = subprocess.run(
        [*generate, *options, "--output-path", PACKAGE],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield folder / PACKAGE
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def ai(generated: Path, service: Served) -> Iterator[Generated]:
    made = Generated(service.url)
    with made.client:
        yield made


def test_it_compiles_without_a_warning(generated: Path):
    assert compileall.compile_dir(generated, quiet=2, force=True)


def test_it_submits_waits_and_lists(ai: Generated):
    job = ai.model(
        "NewJob",
        owner_service="generated",
        task_type="llm_chat",
        model_profile="practice",
        input={"user": "Hello"},
        labels={"made": "by/machine"},
    )

    submitted = ai.call("jobs.submit_job", body=job, idempotency_key="generated-1")
    again = ai.call("jobs.submit_job", body=job, idempotency_key="generated-1")
    ended = ai.call("jobs.get_job", submitted.id, wait=20)
    labelled = ai.call("jobs.list_jobs", labels=ai.model("ListJobsLabels", **{"label.made": "by/machine"}))

    assert again.id == submitted.id
    assert ended.status == "completed"
    assert ended.result["model"] == "practice"
    assert [row.id for row in labelled.jobs] == [submitted.id]


def test_it_submits_a_batch_and_works_on_it(ai: Generated):
    defaults = {"owner_service": "generated", "task_type": "render", "model_profile": "blender"}
    batch = ai.model("NewBatch", defaults=defaults, jobs=[{"input": {"frame": 1}}, {"input": {"frame": 2}}])
    claim = ai.model("ClaimRequest", worker_id="render-1", model_profiles=["blender"], limit=2)

    stored = ai.call("jobs.submit_batch", body=batch)
    first, second = ai.call("work.claim_jobs", body=claim).jobs
    held = ai.call(
        "work.heartbeat_job",
        first.id,
        body=ai.model("Heartbeat", lease_token=str(first.lease_token), progress={"frames": 1}),
    )
    done = ai.call(
        "work.complete_job",
        first.id,
        body=ai.model("Completion", lease_token=str(first.lease_token), result={"frames": 1}),
    )
    failed = ai.call(
        "work.fail_job",
        second.id,
        body=ai.model("FailedRun", lease_token=str(second.lease_token), error_code="bad_input"),
    )

    assert [job.id for job in stored.jobs] == [first.id, second.id]
    assert held.job_id == first.id
    assert (done.status, done.result["frames"]) == ("completed", 1)
    assert (failed.status, failed.error_code) == ("failed", "bad_input")


def test_it_reads_problems_and_figures(ai: Generated):
    missing = ai.call("jobs.get_job", "01981a52-0000-7000-8000-000000000000")

    assert (missing.status, missing.type_) == (404, "urn:problem:ai-service:job-not-found")
    assert ai.call("figures.get_stats").jobs.completed >= 0
    assert "gpu.llm" in [queue.name for queue in ai.call("figures.list_queues").queues]
    assert ai.call("figures.list_workers").workers


def test_it_holds_queues_and_lets_them_go(ai: Generated):
    assert ai.call("queues.pause_queue", "gpu.llm").paused
    status = ai.call("queues.stop_queues", queue="gpu.llm")
    assert (status.running, status.paused, status.queues[0].circuit.state) == (False, True, "closed")
    assert not ai.call("queues.resume_queue", "gpu.llm").paused
    assert ai.call("queues.start_queues").running
    assert ai.call("queues.pause_queue", "gpu.cats").type_ == "urn:problem:ai-service:queue-not-found"


@pytest.mark.timeout(400)
def test_a_typescript_client_compiles_and_is_strict(tmp_path: Path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs Node.js")
    # Else a registry that is not there costs minutes.
    options = ["--fetch-retries=0", "--fetch-timeout=20000", "--no-audit", "--no-fund", "--no-save"]
    install = [npm, "install", *options, "--prefix", str(tmp_path), *TYPESCRIPT]
    try:
        subprocess.run(install, cwd=tmp_path, capture_output=True, timeout=180, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm cannot get openapi-typescript and typescript")
    shutil.copy(Path(__file__).with_name("use.ts"), tmp_path)
    programs = tmp_path / "node_modules" / ".bin"

    types = [programs / "openapi-typescript", FOLDER / DESCRIPTION, "--default-non-nullable=false", "-o", "api.d.ts"]
    for command in (types, [programs / "tsc", "--strict", "--noEmit", "use.ts"]):
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
