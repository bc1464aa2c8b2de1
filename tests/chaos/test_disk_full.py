"""The embedded data folder on a disk that becomes full, and has room again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import PROFILE, Api, eventually
from tests.servers.model_server import ModelServer

DISK = "192m"
BODY = "x" * 200_000
MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test may fill."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0755", "tmpfs", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """A file that takes what room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
    return filler


def submit(api: Api, name: str) -> httpx.Response:
    body = {
        "owner_service": "e2e",
        "task_type": "chat_completion",
        "model_profile": PROFILE,
        "owner_ref": name,
        "idempotency_key": name,
        "input": {"user": BODY},
    }
    return api.http.post("/api/v1/jobs", json=body)


@pytest.mark.timeout(300)
def test_a_full_disk_is_told_to_callers_costs_no_job_and_is_over_when_there_is_room(
    install: Install, small_disk: Path, model: ModelServer
) -> None:
    installation = install(DATA_DIR=str(small_disk / "data"), LLM_BASE_URL=model.base_url, LOG_LEVEL="info")
    api = installation.up()
    accepted: dict[str, Any] = {}
    for number in range(5):
        accepted[f"job-{number}"] = submit(api, f"job-{number}").raise_for_status().json()

    filler = fill(small_disk)
    refused: httpx.Response | None = None
    for number in range(5, 1000):
        answer = submit(api, f"job-{number}")
        if answer.status_code == 503:
            refused = answer
            break
        accepted[f"job-{number}"] = answer.raise_for_status().json()
    assert refused is not None
    problem = refused.json()
    assert problem["type"] == "urn:problem:ai-service:storage-unavailable"
    assert int(refused.headers["retry-after"]) > 0
    assert api.http.get("/healthz").status_code == 200

    filler.unlink()
    eventually(lambda: submit(api, "afterwards").is_success, within=60, what="jobs are accepted again")
    accepted["afterwards"] = submit(api, "afterwards").json()
    done = api.all_finished(accepted.values(), within=60)
    assert {job["status"] for job in done} == {"completed"}
    assert {job["id"]: job["owner_ref"] for job in done} == {job["id"]: name for name, job in accepted.items()}
