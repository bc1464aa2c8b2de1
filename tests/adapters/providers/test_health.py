"""Against servers that behave, and servers that do not: real HTTP, real silence."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from adapters.providers.client import open_client
from adapters.providers.health import HttpHealth, Server, ServerKind
from domain.adaptive import Pressure
from domain.ports import Health, ProviderProbe, ProviderState
from tests.adapters.providers.test_gauges import LLAMA_SERVER as LLAMA_SERVER_METRICS
from tests.adapters.providers.test_gauges import VLLM as VLLM_METRICS
from tests.fakes import FakeClock
from tests.servers.model_server import Behaviour, ModelServer, Reply, Request, cuts, refuses, sends, stalls, tells
from tests.servers.vllm import Vllm

KEY = "k-very-secret"
PROFILE = "qwen2.5-14b"
PATIENT, HASTY = timedelta(seconds=20), timedelta(seconds=0.3)

Pages = Mapping[str, Behaviour]


def lists(*owners: str) -> Behaviour:
    """A list of models that belong to these."""
    models = [{"id": f"model-{number}", "object": "model", "owned_by": owner} for number, owner in enumerate(owners)]
    return tells({"object": "list", "data": models})


VLLM: Pages = {"/health": tells(), "/v1/models": lists("vllm"), "/metrics": tells(VLLM_METRICS)}
VLLM_WITH_ANOTHER_KEY: Pages = {**VLLM, "/v1/models": refuses(401, {"error": "Unauthorized"})}
VLLM_WITH_A_DEAD_ENGINE: Pages = {**VLLM, "/health": refuses(503)}
LLAMA_SERVER: Pages = {
    "/health": tells({"status": "ok"}),
    "/v1/models": lists("llamacpp"),
    "/metrics": refuses(501, {"error": {"code": 501, "type": "not_supported_error"}}),
}
LLAMA_SERVER_LOADING: Pages = {"*": refuses(503, {"error": {"message": "Loading model", "code": 503}})}
OLLAMA: Pages = {"/api/version": tells({"version": "0.12.3"}), "/v1/models": lists("library", "library")}
LM_STUDIO: Pages = {
    "/v1/models": lists("organization_owner"),
    "*": tells({"error": "Unexpected endpoint or method. (GET /)"}),
}
LITELLM: Pages = {"/v1/models": lists("openai", "vllm"), "/health": tells({"healthy_endpoints": []})}
WITHOUT_A_LIST: Pages = {"/health": tells()}
NOTHING_BUT_V1: Pages = {"/v1/models": lists("vllm")}
A_PROXY_ALONE: Pages = {"/v1/models": refuses(502, "<html>Bad Gateway</html>")}
BAD_AT_LISTING: Pages = {"/v1/models": refuses(500, "Internal Server Error")}
PROTECTED: Pages = {"*": refuses(403)}
OVERLOADED: Pages = {"*": refuses(429)}
MOVED: Pages = {"*": refuses(301, headers={"location": "https://elsewhere.invalid/"})}

ALIVE = {
    "vLLM": VLLM,
    "vLLM with another key": VLLM_WITH_ANOTHER_KEY,
    "llama-server": LLAMA_SERVER,
    "Ollama": OLLAMA,
    "LM Studio": LM_STUDIO,
    "a gateway": LITELLM,
    "no list of models": WITHOUT_A_LIST,
    "a proxy that lets nothing but the API through": NOTHING_BUT_V1,
    "an API that cannot list": BAD_AT_LISTING,
    "one that wants another key everywhere": PROTECTED,
    "one that is overloaded": OVERLOADED,
    "one that has moved": MOVED,
    "one that knows no address": {"*": refuses(404)},
    "one that allows no GET": {"*": refuses(405)},
    "one that says nothing one can read": {"*": tells(b"\xff\x00[")},
    "one that lists nothing": {"/v1/models": tells({"object": "list", "data": None})},
}

KINDS = [None, *ServerKind]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def certificates() -> ssl.SSLContext:
    return ssl.create_default_context()


@pytest.fixture
async def client(certificates: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(verify=certificates) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Asker:
    """Asks one server, forgetting each time what it was told less than a minute ago."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        clock: FakeClock,
        base_url: str,
        *,
        patience: timedelta = PATIENT,
        **server: Any,
    ) -> None:
        asked = Server(base_url, **server)
        self.health = HttpHealth(client, {PROFILE: asked}, patience=patience, monotonic=clock.monotonic)
        self._clock = clock

    async def answers(self) -> bool:
        self._clock.advance(timedelta(minutes=1))
        return await self.health.answers(PROFILE)

    async def pressure(self) -> Pressure | None:
        self._clock.advance(timedelta(minutes=1))
        return await self.health.pressure(PROFILE)


@pytest.fixture
def asker(client: httpx.AsyncClient, clock: FakeClock, server: ModelServer) -> Asker:
    """Of a server of which nothing but its address is known."""
    return Asker(client, clock, server.base_url)


@pytest.fixture
def hasty(client: httpx.AsyncClient, clock: FakeClock, server: ModelServer) -> Asker:
    """One that does not wait long for an answer."""
    return Asker(client, clock, server.base_url, patience=HASTY)


def paths(server: ModelServer) -> list[str]:
    return [look.path for look in server.looks]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def deaf(*, connections: int = 100) -> Iterator[int]:
    """A port where connections are taken by the kernel and by nobody else: that of a process that stands still."""
    with socket.create_server(("127.0.0.1", 0), backlog=connections) as listening:
        yield listening.getsockname()[1]


@contextmanager
def full() -> Iterator[int]:
    """A port that takes no connection and refuses none."""
    with deaf(connections=0) as port, socket.create_connection(("127.0.0.1", port)):
        yield port


def test_it_is_what_the_domain_asks_for(client: httpx.AsyncClient):
    health: Health = HttpHealth(client, {})
    assert health


class TestUnknown:
    async def test_a_profile_without_a_server_counts_as_well(self, asker: Asker):
        assert await asker.health.answers("practice")

    async def test_a_profile_without_a_server_tells_of_no_load(self, asker: Asker):
        assert await asker.health.pressure("practice") is None


class TestAlive:
    @pytest.mark.parametrize("pages", ALIVE.values(), ids=ALIVE)
    async def test_a_living_server_is_never_called_dead_whatever_it_is_taken_for(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, pages: Pages
    ):
        server.pages = pages
        for kind in KINDS:
            asker = Asker(client, clock, server.base_url, kind=kind, api_key=KEY)
            assert [await asker.answers() for _ in range(3)] == [True, True, True], kind

    @pytest.mark.parametrize("before", ALIVE.values(), ids=ALIVE)
    async def test_any_other_server_in_its_place_is_alive_too(self, server: ModelServer, asker: Asker, before: Pages):
        for after in ALIVE.values():
            server.pages = before
            assert await asker.answers()
            server.pages = after
            assert await asker.answers()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_one_that_is_silent_under_load_is_alive(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind | None
    ):
        server.pages = {"*": stalls(headers_first=False)}
        assert await Asker(client, clock, server.base_url, patience=HASTY, kind=kind).answers()

    async def test_one_whose_answer_does_not_come_to_an_end_is_alive(self, server: ModelServer, hasty: Asker):
        server.pages = {"*": stalls(b'{"object":')}
        assert await hasty.answers()

    async def test_one_that_breaks_off_after_its_status_is_alive(self, server: ModelServer, asker: Asker):
        server.pages = {"*": cuts(b'{"object":')}
        assert await asker.answers()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_one_whose_process_stands_still_is_alive(
        self, client: httpx.AsyncClient, clock: FakeClock, scheme: str
    ):
        with deaf() as port:
            assert await Asker(client, clock, f"{scheme}://127.0.0.1:{port}", patience=HASTY).answers()

    async def test_one_whose_health_address_alone_is_cut_off_by_a_proxy_is_alive(
        self, server: ModelServer, asker: Asker
    ):
        server.pages = {**VLLM, "/health": cuts(headers_first=False)}
        assert [await asker.answers() for _ in range(2)] == [True, True]

    async def test_one_that_has_closed_an_idle_connection_is_alive(self, server: ModelServer, asker: Asker):
        answered: list[Reply] = []

        async def answer_once(request: Request, reply: Reply) -> None:
            if any(earlier.writer is reply.writer for earlier in answered):
                reply.cut()
            else:
                answered.append(reply)
                await tells()(request, reply)

        server.pages = {"*": answer_once}
        assert [await asker.answers() for _ in range(3)] == [True, True, True]


class TestDown:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_one_that_accepts_no_connections(
        self, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind | None
    ):
        assert not await Asker(client, clock, f"http://127.0.0.1:{closed_port()}/v1", kind=kind).answers()

    async def test_one_whose_name_is_not_known(self, client: httpx.AsyncClient, clock: FakeClock):
        assert not await Asker(client, clock, "http://nobody.invalid").answers()

    async def test_one_that_neither_takes_nor_refuses_connections(self, client: httpx.AsyncClient, clock: FakeClock):
        with full() as port:
            assert not await Asker(client, clock, f"http://127.0.0.1:{port}", patience=HASTY).answers()

    async def test_one_that_does_not_speak_tls(self, client: httpx.AsyncClient, clock: FakeClock):
        async def answer_in_the_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer_in_the_clear, "127.0.0.1", 0) as plain:
            port = plain.sockets[0].getsockname()[1]
            assert not await Asker(client, clock, f"https://127.0.0.1:{port}").answers()

    async def test_one_that_breaks_every_connection_off(self, server: ModelServer, asker: Asker):
        server.pages = {"*": cuts(headers_first=False)}
        assert not await asker.answers()

    async def test_one_that_does_not_speak_http(self, server: ModelServer, asker: Asker):
        server.pages = {"*": sends(b"220 mail.example ESMTP\r\n")}
        assert not await asker.answers()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_llama_server_while_it_loads_its_model(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind | None
    ):
        server.pages = LLAMA_SERVER_LOADING
        assert not await Asker(client, clock, server.base_url, kind=kind).answers()

    async def test_vllm_whose_engine_has_died(self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock):
        server.pages = VLLM_WITH_A_DEAD_ENGINE
        assert not await Asker(client, clock, server.base_url, kind=ServerKind.VLLM).answers()

    async def test_vllm_whose_engine_dies_after_it_was_recognised(self, server: ModelServer, asker: Asker):
        server.pages = VLLM
        assert await asker.answers()
        server.pages = VLLM_WITH_A_DEAD_ENGINE
        assert not await asker.answers()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_proxy_that_finds_nobody_behind_it(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind | None
    ):
        server.pages = A_PROXY_ALONE
        assert not await Asker(client, clock, server.base_url, kind=kind).answers()

    async def test_vllm_behind_a_proxy_that_passes_its_api_and_not_its_health(self, server: ModelServer, asker: Asker):
        server.pages = NOTHING_BUT_V1
        assert await asker.answers()
        server.pages = A_PROXY_ALONE
        assert not await asker.answers()

    async def test_one_that_comes_back_is_alive_again(self, server: ModelServer, asker: Asker):
        server.pages = VLLM
        server.go_down()
        assert not await asker.answers()
        server.come_up()
        assert await asker.answers()

    async def test_one_of_another_kind_that_is_started_in_its_place_is_known_anew(
        self, server: ModelServer, asker: Asker
    ):
        server.pages = VLLM
        assert await asker.answers()
        server.go_down()
        assert not await asker.answers()
        server.pages = {**LITELLM, "/health": refuses(503)}
        server.come_up()
        assert await asker.answers()


class TestAddresses:
    @pytest.mark.parametrize(
        ("kind", "path"),
        [
            (ServerKind.VLLM, "/health"),
            (ServerKind.LLAMA_SERVER, "/health"),
            (ServerKind.OLLAMA, "/api/version"),
            (ServerKind.SPEACHES, "/health"),
            (ServerKind.WHISPER_ASR, "/docs"),
            (ServerKind.LMSTUDIO, "/v1/models"),
            (ServerKind.ANTHROPIC, "/v1/models"),
            (ServerKind.OPENAI, "/v1/models"),
        ],
    )
    async def test_each_kind_is_asked_at_its_own(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind, path: str
    ):
        server.pages = {"*": tells()}
        await Asker(client, clock, server.base_url, kind=kind).answers()
        assert paths(server) == [path]

    @pytest.mark.parametrize(
        ("pages", "path"),
        [(VLLM, "/health"), (LLAMA_SERVER, "/health"), (OLLAMA, "/api/version"), (LM_STUDIO, "/v1/models")],
        ids=["vLLM", "llama-server", "Ollama", "LM Studio"],
    )
    async def test_one_of_unknown_kind_is_recognised_once_and_then_asked_at_its_own(
        self, server: ModelServer, asker: Asker, pages: Pages, path: str
    ):
        server.pages = pages
        await asker.answers()
        server.looks.clear()
        await asker.answers()
        await asker.answers()
        assert paths(server) == [path, path]

    async def test_a_gateway_is_not_asked_for_the_health_of_its_models(self, server: ModelServer, asker: Asker):
        server.pages = LITELLM
        await asker.answers()
        await asker.answers()
        assert set(paths(server)) == {"/v1/models"}

    @pytest.mark.parametrize(
        ("begins", "health", "models"),
        [
            ("", "/health", "/v1/models"),
            ("/", "/health", "/v1/models"),
            ("/v1", "/health", "/v1/models"),
            ("/v1/", "/health", "/v1/models"),
            ("/llm/v1", "/llm/health", "/llm/v1/models"),
            ("/api", "/api/health", "/api/models"),
        ],
    )
    async def test_they_follow_from_where_the_api_begins(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, begins: str, health: str, models: str
    ):
        server.pages = {}
        await Asker(client, clock, server.origin + begins, kind=ServerKind.VLLM).answers()
        assert paths(server) == [health, models]

    async def test_a_redirect_is_not_followed(self, server: ModelServer, asker: Asker):
        server.pages = MOVED
        assert await asker.answers()


class TestKeys:
    async def test_the_list_of_models_is_asked_for_with_the_key_and_health_without(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = VLLM
        await Asker(client, clock, server.base_url, api_key=KEY).answers()
        sent = {look.path: look.headers.get("authorization") for look in server.looks}
        assert sent == {"/v1/models": f"Bearer {KEY}", "/health": None}

    async def test_without_a_key_there_is_no_authorization(self, server: ModelServer, asker: Asker):
        await asker.answers()
        assert "authorization" not in server.looks[0].headers

    @pytest.mark.parametrize("pages", [VLLM, PROTECTED, A_PROXY_ALONE, LLAMA_SERVER_LOADING])
    async def test_it_stands_in_no_log(
        self,
        server: ModelServer,
        client: httpx.AsyncClient,
        clock: FakeClock,
        pages: Pages,
        caplog: pytest.LogCaptureFixture,
    ):
        server.pages = pages
        caplog.set_level(logging.DEBUG)
        asker = Asker(client, clock, server.base_url, api_key=KEY)
        with capture_logs() as events:
            await asker.answers()
            await asker.pressure()
            server.go_down()
            await asker.answers()
        assert events
        assert KEY not in f"{events} {caplog.text}"

    def test_a_server_shows_nothing_of_itself(self):
        shown = repr(Server(f"http://user:{KEY}@host", api_key=KEY))
        assert KEY not in shown


class TestLog:
    async def test_what_is_wrong_is_told_once_and_so_is_its_end(self, server: ModelServer, asker: Asker):
        name = server.origin.removeprefix("http://")
        with capture_logs() as events:
            await asker.answers()
            server.go_down()
            await asker.answers()
            await asker.answers()
            server.come_up()
            await asker.answers()
        assert [(event["event"], event["server"]) for event in events] == [
            ("model server is down", name),
            ("model server is back", name),
        ]
        assert events[0]["trouble"] == "The provider accepts no connections."

    async def test_a_server_says_itself_what_is_wrong(self, server: ModelServer, asker: Asker):
        server.pages = LLAMA_SERVER_LOADING
        with capture_logs() as events:
            await asker.answers()
        assert events[0]["trouble"] == "The provider answered 503."


class TestSparing:
    """A sick server is not asked more than it takes."""

    async def test_many_who_ask_at_once_are_one_question(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        health = HttpHealth(
            client, {name: Server(server.base_url, ServerKind.VLLM) for name in "abc"}, monotonic=clock.monotonic
        )
        server.pages = VLLM
        assert all(await asyncio.gather(*(health.answers(name) for name in "abc" * 50)))
        assert paths(server) == ["/health"]

    async def test_an_address_may_be_written_in_two_ways(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        servers = {"a": Server(server.origin), "b": Server(server.base_url + "/")}
        health = HttpHealth(client, servers, monotonic=clock.monotonic)
        await asyncio.gather(health.answers("a"), health.answers("b"))
        assert len(server.looks) == 1

    async def test_that_it_is_down_is_believed_for_a_second(self, server: ModelServer, asker: Asker, clock: FakeClock):
        server.healthy = False
        assert not await asker.answers()
        server.healthy = True
        clock.advance(timedelta(seconds=0.99))
        assert not await asker.health.answers(PROFILE)
        clock.advance(timedelta(seconds=0.01))
        assert await asker.health.answers(PROFILE)

    async def test_that_it_is_well_is_believed_for_a_moment(self, server: ModelServer, asker: Asker, clock: FakeClock):
        assert await asker.answers()
        server.healthy = False
        clock.advance(timedelta(seconds=0.09))
        assert await asker.health.answers(PROFILE)
        clock.advance(timedelta(seconds=0.01))
        assert not await asker.health.answers(PROFILE)

    async def test_the_next_in_line_asks_when_the_first_is_cancelled(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = {"*": stalls(headers_first=False)}
        health = HttpHealth(client, {PROFILE: Server(server.base_url)}, monotonic=clock.monotonic)
        first, second = (asyncio.create_task(health.answers(PROFILE)) for _ in range(2))
        await server.until(lambda server: len(server.looks) == 1)
        server.pages = VLLM
        first.cancel()
        assert await second

    async def test_servers_do_not_wait_for_one_another(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        with deaf() as port:
            servers = {"slow": Server(f"http://127.0.0.1:{port}"), "quick": Server(server.base_url)}
            health = HttpHealth(client, servers, monotonic=clock.monotonic)
            slow = asyncio.create_task(health.answers("slow"))
            assert await health.answers("quick")
            assert not slow.done()
            slow.cancel()


class TestPressure:
    async def test_vllm_tells_of_its_load(self, server: ModelServer, asker: Asker):
        server.pages = VLLM
        assert await asker.pressure() == Pressure(running=4, waiting=9)
        assert paths(server) == ["/metrics"]

    async def test_a_vllm_that_refuses_more_is_well_and_tells_that_it_is_at_work(
        self, client: httpx.AsyncClient, clock: FakeClock
    ):
        with Vllm(capacity=2, waiting_room=1, service_time=60) as full:
            asker = Asker(client, clock, full.base_url)
            body = {"model": full.model, "messages": [{"role": "user", "content": "Hello"}]}
            calls = [asyncio.create_task(client.post(f"{full.base_url}/chat/completions", json=body)) for _ in range(4)]
            await full.http.until(lambda _: full.refused == 1)
            assert await asker.answers()
            assert await asker.pressure() == Pressure(running=2, waiting=1)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def test_llama_server_tells_of_its_load_to_who_has_the_key(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = {"/metrics": tells(LLAMA_SERVER_METRICS)}
        asker = Asker(client, clock, server.base_url, api_key=KEY)
        assert await asker.pressure() == Pressure(running=2, waiting=7)
        assert server.looks[0].headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize("pages", [LLAMA_SERVER, OLLAMA, LM_STUDIO, PROTECTED], ids=["501", "404", "200", "403"])
    async def test_a_server_without_metrics_is_not_asked_again_for_a_minute(
        self, server: ModelServer, asker: Asker, clock: FakeClock, pages: Pages
    ):
        server.pages = pages
        assert await asker.health.pressure(PROFILE) is None
        clock.advance(timedelta(seconds=59))
        assert await asker.health.pressure(PROFILE) is None
        assert len(server.looks) == 1
        clock.advance(timedelta(seconds=1))
        server.pages = VLLM
        assert await asker.health.pressure(PROFILE)

    @pytest.mark.parametrize(
        "trouble",
        [
            refuses(503),
            cuts(headers_first=False),
            cuts(VLLM_METRICS),
            stalls(headers_first=False),
        ],
        ids=["503", "cut", "cut in the middle", "silence"],
    )
    async def test_a_server_in_trouble_is_asked_again_soon(
        self, server: ModelServer, hasty: Asker, clock: FakeClock, trouble: Behaviour
    ):
        server.pages = {"/metrics": trouble}
        assert await hasty.pressure() is None
        clock.advance(timedelta(seconds=1))
        server.pages = VLLM
        assert await hasty.health.pressure(PROFILE)

    async def test_a_server_that_is_away_tells_nothing(self, server: ModelServer, asker: Asker):
        server.go_down()
        assert await asker.pressure() is None

    async def test_more_than_a_mebibyte_is_not_read(self, server: ModelServer, asker: Asker):
        server.pages = {"/metrics": tells(VLLM_METRICS + b"# \n" * (1 << 20))}
        assert await asker.pressure() is None

    async def test_many_who_ask_at_once_are_one_question(self, server: ModelServer, asker: Asker):
        server.pages = VLLM
        await asyncio.gather(*(asker.health.pressure(PROFILE) for _ in range(50)))
        assert len(server.looks) == 1

    async def test_it_is_measured_anew_at_every_tick_of_a_second(
        self, server: ModelServer, asker: Asker, clock: FakeClock
    ):
        server.pages = VLLM
        assert await asker.health.pressure(PROFILE) == Pressure(4, 9)
        server.pages = {"/metrics": tells(VLLM_METRICS.replace(b" 9.0", b" 0.0"))}
        clock.advance(timedelta(seconds=0.9))
        assert await asker.health.pressure(PROFILE) == Pressure(4, 0)


def lists_models(*names: object) -> Behaviour:
    return tells({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "vllm"} for name in names]})


class TestStatus:
    def probe(
        self, client: httpx.AsyncClient, server: ModelServer, clock: FakeClock, *, model: str = "", **more: Any
    ) -> ProviderProbe:
        asked = Server(server.base_url, model=model, **more)
        return HttpHealth(client, {PROFILE: asked}, patience=HASTY, monotonic=clock.monotonic, now=clock.now)

    async def test_a_server_that_is_well_is_told_whole(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = {**VLLM, "/v1/models": lists_models("qwen", "other", 7, None)}
        state = await self.probe(client, server, clock, model="qwen", api_key=KEY).status(PROFILE)
        assert state == ProviderState(
            reachable=True,
            latency=0.0,
            models=("qwen", "other"),
            serves_model=True,
            authorised=True,
            asked_at=clock.now(),
        )

    async def test_a_profile_without_a_server_is_well(self, client: httpx.AsyncClient, clock: FakeClock):
        health: ProviderProbe = HttpHealth(client, {}, now=clock.now)
        assert await health.status("practice") == ProviderState(reachable=True, asked_at=clock.now())

    @pytest.mark.parametrize(
        ("listed", "model", "kind", "serves"),
        [
            (["qwen"], "qwen", ServerKind.VLLM, True),
            (["qwen"], "llama", ServerKind.VLLM, False),
            (["qwen2.5:latest"], "qwen2.5", ServerKind.OLLAMA, True),
            (["qwen2.5"], "qwen2.5:latest", ServerKind.OLLAMA, True),
            (["qwen2.5:7b"], "qwen2.5", ServerKind.OLLAMA, False),
            (["claude-sonnet-4-5-20250929"], "claude-sonnet-4-5", ServerKind.ANTHROPIC, True),
            (["claude-sonnet-4-5-20250929"], "claude-sonnet-4", ServerKind.ANTHROPIC, False),
            (["a"], "b", ServerKind.LMSTUDIO, None),
            (["a"], "b", ServerKind.LLAMA_SERVER, None),
            (["a"], "", ServerKind.VLLM, None),
            ([], "a", ServerKind.VLLM, None),
        ],
    )
    async def test_whether_it_serves_the_model_is_told_where_its_list_tells(
        self,
        server: ModelServer,
        client: httpx.AsyncClient,
        clock: FakeClock,
        listed: list[str],
        model: str,
        kind: ServerKind,
        serves: bool | None,
    ):
        server.pages = {"/v1/models": lists_models(*listed), "*": tells()}
        assert (await self.probe(client, server, clock, model=model, kind=kind).status(PROFILE)).serves_model is serves

    @pytest.mark.parametrize("status", [401, 403])
    async def test_one_that_refuses_the_key_is_reachable_and_not_authorised(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, status: int
    ):
        server.pages = {**VLLM, "/v1/models": refuses(status, {"error": f"no such key: {KEY}"})}
        state = await self.probe(client, server, clock, api_key=KEY).status(PROFILE)
        assert (state.reachable, state.authorised, state.models) == (True, False, None)
        assert state.trouble == "The provider refuses the key."

    async def test_a_list_that_is_open_to_anybody_tells_nothing_of_the_key(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = LLAMA_SERVER
        probe = self.probe(client, server, clock, kind=ServerKind.LLAMA_SERVER, api_key=KEY)
        assert (await probe.status(PROFILE)).authorised is None

    async def test_anthropic_is_asked_in_its_own_way(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = {"/v1/models": lists_models("claude-sonnet-4-5")}
        await self.probe(client, server, clock, kind=ServerKind.ANTHROPIC, api_key=KEY).status(PROFILE)
        assert {look.path.partition("?")[0] for look in server.looks} == {"/v1/models"}
        for look in server.looks:
            assert look.headers["x-api-key"] == KEY
            assert look.headers["anthropic-version"] == "2023-06-01"
            assert "authorization" not in look.headers
        assert server.requests == []

    @pytest.mark.parametrize("kind", [ServerKind.WHISPER_ASR, ServerKind.SPEACHES, ServerKind.OPENAI, None])
    async def test_a_speech_server_without_a_list_is_reachable(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind | None
    ):
        server.pages = {"/docs": tells("<html>"), "/health": tells()}
        state = await self.probe(client, server, clock, kind=kind, model="whisper").status(PROFILE)
        assert (state.reachable, state.trouble, state.models, state.serves_model) == (True, None, None, None)

    async def test_whisper_asr_is_asked_for_nothing_that_it_has_not(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = {"/docs": tells("<html>")}
        state = await self.probe(client, server, clock, kind=ServerKind.WHISPER_ASR).status(PROFILE)
        assert (set(paths(server)), state.latency, state.authorised) == ({"/docs"}, 0.0, None)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_one_that_hangs_while_it_works_is_reachable(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind | None
    ):
        server.pages = {"*": stalls(headers_first=False)}
        state = await self.probe(client, server, clock, kind=kind).status(PROFILE)
        assert (state.reachable, state.trouble, state.latency) == (True, None, None)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_one_that_is_away_is_told_in_our_words(
        self, client: httpx.AsyncClient, clock: FakeClock, kind: ServerKind | None
    ):
        address = f"http://127.0.0.1:{closed_port()}/secret-path/v1?key={KEY}"
        health = HttpHealth(client, {PROFILE: Server(address, kind, KEY)}, now=clock.now)
        state = await health.status(PROFILE)
        assert state == ProviderState(reachable=False, trouble=state.trouble, asked_at=clock.now())
        assert "127.0.0.1" not in str(state)
        assert "secret" not in str(state)

    async def test_one_that_takes_no_connection_does_not_hold_up_the_answer(
        self, client: httpx.AsyncClient, clock: FakeClock
    ):
        with full() as port:
            health = HttpHealth(client, {PROFILE: Server(f"http://127.0.0.1:{port}")}, patience=HASTY, now=clock.now)
            assert not (await health.status(PROFILE)).reachable

    async def test_it_is_asked_again_only_after_two_seconds(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = VLLM
        probe = self.probe(client, server, clock, kind=ServerKind.VLLM)
        await asyncio.gather(*(probe.status(PROFILE) for _ in range(20)))
        clock.advance(timedelta(seconds=1.9))
        await probe.status(PROFILE)
        assert len(server.looks) == 2
        clock.advance(timedelta(seconds=0.2))
        await probe.status(PROFILE)
        assert len(server.looks) == 4

    async def test_profiles_of_one_server_share_its_answer_and_not_their_models(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = {**VLLM, "/v1/models": lists_models("one")}
        servers = {name: Server(server.base_url, ServerKind.VLLM, model=name) for name in ("one", "two")}
        health = HttpHealth(client, servers, monotonic=clock.monotonic, now=clock.now)
        states = await asyncio.gather(*(health.status(name) for name in servers))
        assert [state.serves_model for state in states] == [True, False]
        assert len(server.looks) == 2

    async def test_a_long_list_is_cut_and_yet_looked_through(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        server.pages = {"/v1/models": lists_models(*(f"model-{number}" for number in range(300)), "x" * 10_000)}
        state = await self.probe(client, server, clock, model="model-299", kind=ServerKind.OPENAI).status(PROFILE)
        assert state.models is not None
        assert (len(state.models), state.serves_model) == (50, True)

    async def test_each_server_is_asked_by_the_client_that_trusts_it(
        self, server: ModelServer, client: httpx.AsyncClient, clock: FakeClock
    ):
        async with open_client(verify=False) as other:
            await client.aclose()
            server.pages = VLLM
            health = HttpHealth(client, {PROFILE: Server(server.base_url, client=other)}, now=clock.now)
            assert (await health.status(PROFILE)).reachable
