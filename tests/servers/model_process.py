"""A model server in a process of its own, which can be killed, started again on its port, and stopped in its tracks.

with ModelProcess() as server:
    ... server.base_url ...
    server.kill()
    server.start()
"""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, field
from types import TracebackType

from tests.servers.model_server import ModelServer, after, says
from tests.servers.rabbitmq import free_ports

SERVICE_TIME = 0.05


@dataclass
class ModelProcess:
    port: int = field(default_factory=lambda: free_ports(1)[0])

    def __enter__(self) -> ModelProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        assert self._process.stdout.readline(), "the model server did not start"

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.communicate()

    def pause(self) -> None:
        """Let it do nothing more; the system goes on to take connections for it."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def main(port: int) -> None:
    """Serve until the one who started us has gone."""
    with ModelServer(default=after(SERVICE_TIME, says("The answer.")), port=port):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
