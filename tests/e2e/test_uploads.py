"""Uploads through the real processes: what they cost in memory, and what is left of those that do not come whole."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from adapters.embedded.postgres import EmbeddedPostgres
from app.client import Client
from tests.e2e.conftest import Install
from tests.e2e.service import Api, Installation, eventually
from tests.e2e.test_storage_outage import port_of
from tests.servers.postgres import Databases
from tests.servers.tcp_proxy import TcpProxy

MIB = 1024 * 1024
PATH = "/api/v1/uploads"
OWNER = {"owner_service": "e2e"}
LEFTOVERS = "SELECT (SELECT count(*) FROM uploads) + (SELECT count(*) FROM upload_chunks) AS pieces"

FORGOTTEN = "SELECT upload_id FROM upload_chunks EXCEPT SELECT upload_id FROM upload_leftovers"
"""Uploads of which pieces would stay for ever."""


def zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // MIB):
        yield bytes(MIB)


def upload(api: Api, size: int) -> httpx.Response:
    return api.http.post(PATH, content=zeros(size), params=OWNER)


def most_memory(api: Api) -> int:
    """MiB that the process has had at most."""
    status = Path(f"/proc/{api.process.popen.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def nothing_is_left(installation: Installation) -> bool:
    return [row["pieces"] for row in installation.rows(LEFTOVERS)] == [0]


@pytest.fixture
def api(install: Install, databases: Databases) -> tuple[Installation, Api]:
    installation = install(DATABASE_URL=databases.create())
    return installation, installation.serve()


def test_an_upload_costs_no_memory_whatever_its_size(api: tuple[Installation, Api]):
    _, service = api
    assert upload(service, MIB).status_code == 201
    before = most_memory(service)
    answer = upload(service, 200 * MIB)
    assert answer.status_code == 201, answer.text
    assert most_memory(service) - before < 40
    with service.http.stream("GET", f"{answer.headers['location']}/content") as read:
        assert sum(len(piece) for piece in read.iter_raw()) == 200 * MIB
    assert most_memory(service) - before < 40


def test_eight_at_once_come_whole(api: tuple[Installation, Api], tmp_path: Path):
    _, service = api
    files = [tmp_path / f"{number}.wav" for number in range(8)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 5_000_000)
    with Client(service.url) as ai, ThreadPoolExecutor(8) as pool:
        uploads = list(pool.map(lambda file: ai.upload(file, owner_service="e2e"), files))
    for number, each in enumerate(uploads):
        content = service.http.get(f"{PATH}/{each.upload_id}/content").content
        assert content == bytes([number]) * 5_000_000


def test_a_caller_who_hangs_up_leaves_nothing_behind(api: tuple[Installation, Api]):
    installation, service = api
    host, port = service.url.removeprefix("http://").split(":")
    line = socket.create_connection((host, int(port)))
    head = f"POST {PATH}?owner_service=e2e HTTP/1.1\r\nHost: x\r\nContent-Length: {64 * MIB}\r\n\r\n"
    line.sendall(head.encode() + bytes(4 * MIB))
    eventually(lambda: not nothing_is_left(installation), within=10, what="some of it has come")
    line.close()
    eventually(lambda: nothing_is_left(installation), within=30, what="it is gone")


def test_an_upload_goes_with_its_erased_job(api: tuple[Installation, Api]):
    installation, service = api
    answer = upload(service, MIB).json()
    job = service.submit(task_type="transcribe", model_profile="theirs", input={"upload_id": answer["upload_id"]})
    service.cancel(job)
    service.http.delete(f"/api/v1/jobs/{job['id']}").raise_for_status()
    eventually(lambda: nothing_is_left(installation), within=30, what="it is gone")


def test_the_command_line_uploads_and_submits(api: tuple[Installation, Api], tmp_path: Path):
    installation, service = api
    file = tmp_path / "call.wav"
    file.write_bytes(os.urandom(MIB))
    options = ("--owner", "e2e", "--task-type", "transcribe", "--profile", "theirs", "--quiet")
    code, said = installation.run("jobs", "submit", "--audio", str(file), *options, AI_SERVICE_URL=service.url)
    assert code == 0, said
    job = service.http.get(f"/api/v1/jobs/{said.split()[-1]}").json()
    content = service.http.get(f"{PATH}/{job['input']['upload_id']}/content").content
    assert content == file.read_bytes()


def test_without_postgresql_in_the_middle_it_is_503_and_nothing_is_left(install: Install, tmp_path: Path):
    with EmbeddedPostgres(tmp_path / "postgres") as postgres, TcpProxy("127.0.0.1", port_of(postgres)) as door:
        installation = install(DATABASE_URL=re.sub(r":\d+/", f":{door.port}/", postgres.dsn))
        service = installation.serve()
        begun, stopped = threading.Event(), threading.Event()

        def interrupted() -> Iterator[bytes]:
            yield bytes(4 * MIB)
            begun.set()
            assert stopped.wait(30)
            yield bytes(4 * MIB)

        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(service.http.post, PATH, content=interrupted(), params=OWNER)
            assert begun.wait(10)
            door.shut()
            postgres.stop()
            stopped.set()
            answer = sent.result(30)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        postgres.start()
        door.target = port_of(postgres)
        door.open()
        assert installation.rows("SELECT id FROM uploads") == []
        # What had come, if anything, is removed an hour later.
        assert installation.rows(FORGOTTEN) == []
