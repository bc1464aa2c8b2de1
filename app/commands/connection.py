"""How the commands for callers reach the service, and what they say when that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from app import client
from app.client import DEFAULT_URL, AsyncClient, Client
from domain.errors import ServiceError

T = TypeVar("T", Client, AsyncClient)

PATIENCE = 5.0
"""Seconds for which a command goes on trying: somebody sits before it."""

LONG_PATIENCE = 60.0
"""The same for a command that follows jobs: a restart of the service does not end it."""

SOMETHING_FAILED = 3
"""The exit code where everything went well but a job: it failed, or was cancelled."""


@contextmanager
def service() -> Iterator[Client]:
    """The service at AI_SERVICE_URL.

    Raises:
        ServiceError: one line that says what to do.
    """
    with one_line(), _client(Client, PATIENCE) as reached:
        yield reached


def async_service() -> AsyncClient:
    """The same for commands that follow several jobs at once, and longer; wants `one_line` around it.

    Raises:
        ServiceError: one line that says what to do.
    """
    return _client(AsyncClient, LONG_PATIENCE)


def _client(kind: type[T], retry_for: float) -> T:
    try:
        return kind.from_env(os.environ, retry_for=retry_for)
    except ValueError as error:  # the address or the token cannot be used
        raise ServiceError(f"AI_SERVICE_URL, AI_SERVICE_TOKEN: {error}") from error


@contextmanager
def one_line() -> Iterator[None]:
    """The client's errors as the command line's own."""
    try:
        yield
    except client.Unauthorized as error:
        advice = "is not the one it wants" if os.environ.get("AI_SERVICE_TOKEN") else "is not set"
        raise ServiceError(f"{_url()} wants a token, and AI_SERVICE_TOKEN {advice}.") from error
    except client.Unavailable as error:
        advice = "" if error.status else " AI_SERVICE_URL says where; 'ai-service up' starts one here."
        raise ServiceError(f"{error}{advice}") from error
    except client.NotFound as error:
        raise ServiceError(f"{error} ({_url()}{error.problem.get('instance', '')})") from error
    except client.ServiceError as error:
        raise ServiceError(str(error)) from error


def _url() -> str:
    return os.environ.get("AI_SERVICE_URL") or DEFAULT_URL
