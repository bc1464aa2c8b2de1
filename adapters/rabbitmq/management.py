"""Asks RabbitMQ's management API how the broker is and what lies in its queues. Nothing in the service rests on it.

What RabbitMQ says there is as old as its `collect_statistics_interval`, five seconds unless somebody changed that.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import httpx
import msgspec
from msgspec import Struct

from adapters.rabbitmq.connection import connection_parameters
from domain.ports import BrokerQueue, BrokerState

T = TypeVar("T")

ANSWER_TIMEOUT = 2.0
"""Seconds for all that is asked together."""

LAST, TROUBLE_LASTS = 3.0, 10.0
"""Seconds for which an answer is given out again: of one that did not come, longer, or many would wait for the next."""

LONGEST_ANSWER = 1 << 20
MOST_QUEUES = 500

OURS = r"^(?!ai\.(events|tokens)\.)"
"""Not the queues by which processes hear of events: there is one for each of them."""

ALL_WELL, REFUSED, FORBIDDEN, NOT_THERE = 200, 401, 403, 404

SAID_BY_STATUS = {
    REFUSED: (
        "Its management API refuses the user: the password is wrong, or the user has no tag 'management', "
        "or no permissions in the virtual host of AMQP_URL."
    ),
    NOT_THERE: "Its management API knows no virtual host like that of AMQP_URL.",
}


class _Queue(Struct, frozen=True):
    """Without figures where it was declared moments ago."""

    name: str
    messages_ready: int | None = None
    messages_unacknowledged: int | None = None
    consumers: int | None = None


class _Page(Struct, frozen=True):
    items: list[_Queue]


class _Node(Struct, frozen=True):
    """Of one that is down nothing else is said."""

    running: bool = False
    mem_alarm: bool = False
    disk_free_alarm: bool = False


class _Overview(Struct, frozen=True):
    rabbitmq_version: str | None = None


class _Unusable(Exception):
    """What was answered, in our words."""


class ManagementApi:
    """One question to it at a time, however many ask; belongs to one event loop."""

    def __init__(self, management_url: str, amqp_url: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            amqp_url: says the virtual host; and the user, where the other URL says none.

        Raises:
            StartupError: nothing can be made of `amqp_url`.
        """
        given, server = urlsplit(management_url), connection_parameters(amqp_url)[0]
        self._vhost = quote(server.virtual_host, safe="")
        self._user = (
            (unquote(given.username), unquote(given.password or ""))
            if given.username
            else (server.credentials.username, server.credentials.password)
        )
        self._base_url = given._replace(netloc=given.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self._monotonic = monotonic
        self._asking = asyncio.Lock()
        self._state: BrokerState | None = None
        self._fresh_until = 0.0

    async def look(self) -> BrokerState:
        """While RabbitMQ is asked anew, others get the old answer."""
        if self._state is not None and self._asking.locked():
            return self._state
        async with self._asking:
            if self._state is None or self._monotonic() >= self._fresh_until:
                self._state = await self._ask(datetime.now(UTC))
                self._fresh_until = self._monotonic() + (TROUBLE_LASTS if self._state.trouble else LAST)
            return self._state

    async def _ask(self, now: datetime) -> BrokerState:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT), self._client() as client:
                queues, overview, nodes = await asyncio.gather(
                    self._queues(client), _maybe(client, "overview", _Overview), _maybe(client, "nodes", list[_Node])
                )
        except _Unusable as error:
            return BrokerState(trouble=str(error), asked_at=now)
        except (TimeoutError, httpx.TimeoutException):
            trouble = f"Its management API did not answer within {ANSWER_TIMEOUT:g} s."
            return BrokerState(trouble=trouble, asked_at=now)
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return BrokerState(trouble="Its management API cannot be reached.", asked_at=now)
        up = [node for node in nodes or () if node.running]
        return BrokerState(
            queues=queues,
            version=overview.rabbitmq_version if overview else None,
            nodes_up=None if nodes is None else len(up),
            nodes_down=None if nodes is None else len(nodes) - len(up),
            memory_alarm=None if nodes is None else any(node.mem_alarm for node in up),
            disk_alarm=None if nodes is None else any(node.disk_free_alarm for node in up),
            asked_at=now,
        )

    def _client(self) -> httpx.AsyncClient:
        secure = self._base_url.startswith("https:")
        return httpx.AsyncClient(
            base_url=f"{self._base_url.rstrip('/')}/api/",
            auth=self._user,
            verify=_authorities() if secure else _nobody(),
            timeout=ANSWER_TIMEOUT,
            trust_env=False,  # a proxy set for the internet must not see the password
        )

    async def _queues(self, client: httpx.AsyncClient) -> dict[str, BrokerQueue]:
        asked: dict[str, str | int] = {
            "page": 1,
            "page_size": MOST_QUEUES,
            "use_regex": "true",
            "name": OURS,
            "columns": "name,messages_ready,messages_unacknowledged,consumers",
        }
        page = await _answer(client, f"queues/{self._vhost}", _Page, asked)
        return {
            queue.name: BrokerQueue(queue.messages_ready, queue.messages_unacknowledged or 0, queue.consumers or 0)
            for queue in page.items
            if queue.messages_ready is not None
        }


async def _maybe(client: httpx.AsyncClient, path: str, kind: type[T]) -> T | None:
    """What only a user with the tag 'monitoring' is told."""
    try:
        return await _answer(client, path, kind, {"columns": ",".join(_COLUMNS[path])})
    except _NotForUs:
        return None


_COLUMNS = {"overview": _Overview.__struct_fields__, "nodes": _Node.__struct_fields__}


class _NotForUs(_Unusable):
    """The user may not see it."""


async def _answer(client: httpx.AsyncClient, path: str, kind: type[T], asked: dict[str, str | int]) -> T:
    body = bytearray()
    async with client.stream("GET", path, params=asked) as response:
        status = response.status_code
        if status != ALL_WELL:
            refused = _NotForUs if status in (REFUSED, FORBIDDEN) else _Unusable
            raise refused(SAID_BY_STATUS.get(status, f"Its management API answered with status {status}."))
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > LONGEST_ANSWER:
                raise _Unusable("Its management API answered with more than 1 MiB.")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _Unusable("What answered is not RabbitMQ's management API.") from None


@cache
def _authorities() -> ssl.SSLContext:
    """Those that connections to RabbitMQ itself trust."""
    return ssl.create_default_context()


@cache
def _nobody() -> ssl.SSLContext:
    """Without it the client would read the well-known authorities, 20 ms each time."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
