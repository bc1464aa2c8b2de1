"""The services of docker-compose.yml as processes of this machine.

Commands and environments are what Compose makes of the file; only the addresses are those of the test's own servers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.deploy.compose import Project, project_of
from tests.e2e.service import Api, Installation, Process
from tests.servers.rabbitmq import free_ports

ROOT = Path(__file__).parents[2]
CONFIG = "/config"

PORTS = {"serve": "HTTP_PORT", "worker": "WORKER_HTTP_PORT", "scheduler": "SCHEDULER_HTTP_PORT"}
"""The variable of each command that says where its page is."""


class Topology:
    def __init__(
        self, folder: Path, env_file: Mapping[str, str], places: Mapping[str, str], hurried: Mapping[str, str]
    ) -> None:
        """
        Args:
            env_file: what an operator writes into `.env`.
            places: addresses in the file's network, and what stands for each here.
            hurried: settings beside the file's, for the sake of time alone.
        """
        self.project: Project = project_of(ROOT, **env_file)
        self.config = folder / "config"
        self._places = {**places, f"{CONFIG}/": f"{self.config}/"}
        self._hurried = hurried
        self._data = folder / "data"
        self._data.mkdir()
        self._installation = Installation(folder)
        self._installation.settings = {}  # nothing but what the file says
        self._installation.forks = True
        self.processes: dict[str, list[Process]] = {}
        """Of each service, in the order in which they were started."""
        [mounted] = [each["source"] for each in self._service("api")["volumes"] if each["target"] == CONFIG]
        self.config.mkdir()
        for file in Path(mounted).iterdir():
            (self.config / file.name).write_bytes(file.read_bytes())

    def configure(self, more: str) -> None:
        """Let slots of the chats' queue be taken by urgent jobs, and add more to the configuration file."""
        file = self.config / "ai_service.toml"
        shipped = file.read_text()
        queue = '[queues."gpu.llm"]\n'
        assert queue in shipped
        file.write_text(shipped.replace(queue, f"{queue}preempt = true\n") + more)

    def begin(self, service: str) -> Process:
        """Start a service, or start it again; return at once."""
        described = self._service(service)
        command = described["command"]
        environment = self._environment(described["environment"])
        if variable := PORTS.get(command[0]):
            [port] = free_ports(1)
            environment |= {variable: str(port), variable.replace("PORT", "HOST"): "127.0.0.1"}
        process = self._installation.start(*command, **environment)
        process.url = f"http://127.0.0.1:{port}" if variable else ""
        self.processes.setdefault(service, []).append(process)
        return process

    def up(self) -> None:
        """As `docker compose up --wait` does: the migration to its end, then everything else."""
        assert self.begin("migrate").exit_code(60) == 0, self.processes["migrate"][0].said
        services = [name for name, described in self.project["services"].items() if _runs(described)]
        for name in services:
            self.begin(name)
        for name in services:
            self.running(name).answers("/readyz")

    def running(self, service: str) -> Process:
        return self.processes[service][-1]

    def api(self) -> Api:
        """A caller with the key that the file gives out."""
        api = self._installation.api(self.running("api"))
        api.http.headers["authorization"] = f"Bearer {self._service('api')['environment']['AI_SERVICE_TOKEN']}"
        return api

    def down(self) -> dict[str, int]:
        """Ask all to stop, and wait for it: how each ended."""
        still = {name: started[-1] for name, started in self.processes.items() if started[-1].running}
        for process in still.values():
            process.terminate()
        return {name: process.exit_code(30) for name, process in still.items()}

    def end(self) -> None:
        self._installation.end()

    def _service(self, name: str) -> Any:
        return self.project["services"][name]

    def _environment(self, told: Mapping[str, str]) -> dict[str, str]:
        here = {name: self._here(value) for name, value in told.items()} | dict(self._hurried)
        return here | ({"TMPDIR": str(self._data)} if "TMPDIR" in here else {})

    def _here(self, value: str) -> str:
        for place, stands_for_it in self._places.items():
            value = value.replace(place, stands_for_it)
        assert not re.search(r"(postgres|rabbitmq|host\.docker\.internal):\d", value), value
        return value


def _runs(service: Mapping[str, Any]) -> bool:
    """Whether it is a process of ours that stays."""
    return str(service["image"]).startswith("ai-service:") and service["command"][0] in PORTS
