"""Whether this container's process is well, for an image without curl: `python -I -m app.healthcheck [PATH or URL]`.

It loads nothing of the service, because it runs every few seconds for as long as the container does.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

PORTS = {"HTTP_PORT": 8080, "WORKER_HTTP_PORT": 8081, "SCHEDULER_HTTP_PORT": 8082}
"""Where `serve`, `worker` and `scheduler` answer; of a container's only one is there."""

PATIENCE = 4.0
"""Seconds."""


def main() -> None:
    """Exit with 0 if the process answers 200, else with 1 and the reason on standard output.

    A path (default `/healthz`) is asked for at the first port of this host that takes a connection.
    """
    asked = urlsplit(sys.argv[1] if len(sys.argv) > 1 else "/healthz")
    trouble = "no port"
    for host, port in [(asked.hostname, asked.port or 80)] if asked.hostname else _here():
        try:
            status, text = _get(host, port, asked.path)
        except (OSError, http.client.HTTPException) as error:
            trouble = f"{host}:{port}: {error}"
            if not isinstance(error, ConnectionRefusedError):
                break
            continue
        print(f"{host}:{port}{asked.path}: {status} {text}")  # noqa: T201  # what `docker inspect` shows
        sys.exit(status != http.HTTPStatus.OK)
    print(trouble)  # noqa: T201  # as above
    sys.exit(1)


def _here() -> Iterator[tuple[str, int]]:
    for variable, default in PORTS.items():
        given = os.environ.get(variable, "").strip()
        yield "127.0.0.1", int(given) if given.isdecimal() else default


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", path or "/")
        answer = connection.getresponse()
        return answer.status, answer.read(500).decode(errors="replace")
    finally:
        connection.close()


if __name__ == "__main__":
    main()
