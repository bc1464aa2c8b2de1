"""One RabbitMQ with its management plugin, set up as `deploy/rabbitmq` says, and one service on it that goes on working
whatever an operator does."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.service import Api, Installation, Process, eventually
from tests.servers.fixtures import require_rabbitmq
from tests.servers.postgres import Databases
from tests.servers.rabbitmq import RabbitNode, has_binaries

DEPLOY = Path(__file__).parents[2] / "deploy" / "rabbitmq"
VHOST = USER = "ai-service"
PASSWORD = "p/s@w:rd"
QUEUE = "gpu.llm"
LINKS = {
    "api": {"ticket-publisher", "event-publisher", "event-listener", "text-listener"},
    "worker": {f"tickets of {QUEUE}", "tickets of gpu.speech", "event-publisher", "event-listener", "text-publisher"},
}
"""The connections of each process, by what they are for."""

PLUGINS = ("rabbitmq_management", "rabbitmq_shovel", "rabbitmq_shovel_management")
SOON = 20.0


def configured() -> dict[str, str]:
    """What the shipped rabbitmq.conf says."""
    lines = (DEPLOY / "rabbitmq.conf").read_text().splitlines()
    return dict(line.split(" = ", 1) for line in lines if line and not line.startswith("#"))


def shipped(name: str) -> Any:
    return json.loads((DEPLOY / name).read_text())


@dataclass
class Operated:
    """A service at work, and the RabbitMQ that is operated under it."""

    node: RabbitNode
    installation: Installation
    api: Api
    worker: Process

    def rest(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API as an administrator; `{vhost}` in the path is the service's."""
        return self.node.management(method, path.replace("{vhost}", VHOST), body)

    @contextmanager
    def goes_on(self) -> Iterator[None]:
        """Jobs from before and after what is done within complete in one run each, and all connections are back."""
        jobs = self.submit(15)
        yield
        jobs += self.submit(5)
        self.each_completes_once(jobs)
        self.is_whole()

    def submit(self, count: int, delay_ms: int = 40) -> list[str]:
        given = {"user": "Hello", "practice": {"delay_ms": delay_ms}}
        batch = {
            "defaults": {"owner_service": "operated", "task_type": "chat_completion", "model_profile": "practice"},
            "jobs": [{"input": given}] * count,
        }
        answer = self.api.http.post("/api/v1/jobs/batch", json=batch)
        assert answer.status_code == 201, answer.text
        return [job["id"] for job in answer.json()["jobs"]]

    def each_completes_once(self, jobs: list[str]) -> None:
        done = self.api.all_finished([{"id": job} for job in jobs], within=SOON)
        assert {(job["status"], job["attempts"], bool(job["result"])) for job in done} == {("completed", 1, True)}
        for job in jobs:
            runs = self.api.http.get(f"/api/v1/jobs/{job}/runs").json()["runs"]
            assert [run["outcome"] for run in runs] == ["completed"]

    def is_whole(self) -> None:
        """Block until every part of both processes is connected, and what it needs is declared."""
        missing = [("nothing was looked at", "")]

        def whole() -> bool:
            missing[:] = self._missing()
            return not missing

        try:
            eventually(whole, within=SOON, what="every link of each process is back")
        except AssertionError as error:
            raise AssertionError(f"{error}; missing: {missing}") from None

    def _missing(self) -> list[tuple[str, str]]:
        links = self.links()
        return [
            *((role, link) for role, wanted in LINKS.items() for link in wanted - links.get(role, set())),
            *(("declared", name) for name in ("ai.events", "ai.tokens") if not self.exists("exchanges", name)),
            *(("declared", name) for name in (QUEUE, "gpu.speech") if not self.exists("queues", name)),
        ]

    def links(self) -> dict[str, set[str]]:
        """What each process is connected for, by the names of the connections."""
        found: dict[str, set[str]] = {}
        for connection in self.connections():
            process, _, purpose = connection["client_properties"]["connection_name"].partition(": ")
            found.setdefault(process.split()[1], set()).add(purpose)
        return found

    def connections(self) -> list[dict[str, Any]]:
        """Those of the service; one that was opened this moment has no properties yet."""
        found = self.rest("GET", "connections")
        return [each for each in found if each.get("user") == USER and "client_properties" in each]

    def exists(self, kind: str, name: str) -> bool:
        return any(each["name"] == name for each in self.rest("GET", f"{kind}/{{vhost}}"))

    def queue(self, name: str = QUEUE) -> dict[str, Any]:
        found: dict[str, Any] = self.rest("GET", f"queues/{{vhost}}/{name}")
        return found

    def shows(self, name: str, **figures: int) -> None:
        """Block until the management page shows these figures of a queue; they lag behind."""
        eventually(
            lambda: {figure: self.queue(name).get(figure) for figure in figures} == figures,
            within=SOON,
            what=f"{name} shows {figures}",
        )


@pytest.fixture(scope="module")
def node(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    require_rabbitmq(pytestconfig)
    if not has_binaries():
        pytest.skip("needs RabbitMQ's own commands, not a container or somebody else's node")
    definitions = definitions_in(tmp_path_factory.mktemp("definitions"))
    quick = {"collect_statistics_interval": "200", "load_definitions": str(definitions)}
    node = RabbitNode({**configured(), **quick}, PLUGINS)
    node.start()
    yield node
    node.stop()


def definitions_in(folder: Path) -> Path:
    """What is shipped, and beside it the service's user with least rights, and an administrator."""
    permissions = shipped("permissions.json")
    everything = dict.fromkeys(permissions, ".*")
    users = {
        "users": [user(USER, PASSWORD, "monitoring"), user("guest", "guest", "administrator")],
        "permissions": [
            {"user": USER, "vhost": VHOST, **permissions},
            {"user": "guest", "vhost": VHOST, **everything},
        ],
    }
    (folder / "1-ai-service.json").write_text((DEPLOY / "definitions.json").read_text())
    (folder / "2-users.json").write_text(json.dumps(users))
    return folder


def user(name: str, password: str, tags: str) -> dict[str, str]:
    salt = b"salt"
    hashed = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    algorithm = "rabbit_password_hashing_sha256"
    return {"name": name, "password_hash": hashed, "hashing_algorithm": algorithm, "tags": tags}


def settings_on(node: RabbitNode, vhost: str = VHOST) -> dict[str, str]:
    return {
        "AMQP_URL": f"amqp://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{node.port}/{vhost}",
        "RABBITMQ_MANAGEMENT_URL": node.management_url,
        "LLM_MODEL": "",
        "AI_PROVIDER": "practice",
    }


@pytest.fixture(scope="module")
def operated(node: RabbitNode, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    dsn, folder = databases.create(), tmp_path_factory.mktemp("operated")
    with Installation(folder, DATABASE_URL=dsn, **settings_on(node)) as installation:
        installation.forks = True
        api, worker = installation.serve_and_work()
        yield Operated(node, installation, api, worker)
    databases.drop(dsn)
