"""Exporters that answer, that answer anything else, and that do not answer at all, asked over real HTTP."""

from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
import trustme
from structlog.testing import capture_logs

from adapters.infra.probe import KEPT, MOST_APART, NO_METRICS_KEPT, HttpInfra, Place
from domain.infra import Container, Gpu, ModelServer, Readings, Speech, Target, TargetKind
from tests.adapters.infra import pages
from tests.fakes import FakeClock
from tests.servers.model_server import Behaviour, cuts, refuses, sends, stalls, tells
from tests.servers.model_server import ModelServer as Server

MIB = 1 << 20
NEXT_LOOK = timedelta(seconds=KEPT)
A_MOMENT = timedelta(seconds=1)


@pytest.fixture
def exporters() -> Iterator[Callable[[dict[str, Behaviour]], Server]]:
    """Starts servers with these pages; a test may change them at any time."""
    with ExitStack() as running:
        yield lambda shown: running.enter_context(Server(pages=shown))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Rig:
    """One exporter, and a probe that asks it anew whenever time has gone on."""

    def __init__(self, server: Server, shown: dict[str, Behaviour], kind: TargetKind, clock: FakeClock) -> None:
        self.server, self.shown, self.clock = server, shown, clock
        self.probe = HttpInfra([Place("it", kind, server.origin)], patience=A_MOMENT, monotonic=clock.monotonic)

    async def look(self, page: str | None = None, after: timedelta = NEXT_LOOK) -> Target:
        if page is not None:
            self.shown["/metrics"] = tells(page)
        self.clock.advance(after)
        [target] = await self.probe.look()
        return target


@pytest.fixture
async def rig(
    exporters: Callable[[dict[str, Behaviour]], Server], clock: FakeClock
) -> AsyncIterator[Callable[[TargetKind], Rig]]:
    made: list[Rig] = []

    def make(kind: TargetKind) -> Rig:
        shown: dict[str, Behaviour] = {}
        made.append(Rig(exporters(shown), shown, kind, clock))
        return made[-1]

    yield make
    for each in made:
        await each.probe.close()


async def readings(rig: Rig, page: str, after: timedelta = NEXT_LOOK) -> Readings:
    target = await rig.look(page, after)
    assert target.readings, target.error
    return target.readings


async def test_gpus_are_told_in_bytes_and_percent_and_what_is_unknown_as_that(rig: Callable[[TargetKind], Rig]):
    told = await readings(rig(TargetKind.DCGM), pages.DCGM)
    assert told.gpus == (
        Gpu(
            index=0,
            uuid="GPU-5fd4b087-86f3-7a43-b711-4771313afc50",
            name="NVIDIA A100-SXM4-80GB",
            utilisation_percent=87,
            memory_used_bytes=39392 * MIB,
            memory_total_bytes=(39392 + 41200 + 640) * MIB,
            temperature_celsius=63,
            power_watts=287.432,
            xid_error=0,
        ),
        Gpu(
            index=1,
            uuid="GPU-1d8f0e2c-3e1b-4b54-9a55-0c5f4a1f7b11",
            name="NVIDIA A100-SXM4-80GB",
            utilisation_percent=0,
            memory_used_bytes=1024 * MIB,
            memory_total_bytes=81024 * MIB,
            temperature_celsius=31,
            memory_temperature_celsius=41,
            power_watts=52.101,
            xid_error=79,
        ),
    )


async def test_the_parts_of_a_gpu_that_was_split_are_told_apart(rig: Callable[[TargetKind], Rig]):
    told = await readings(rig(TargetKind.DCGM), pages.DCGM_SPLIT)
    assert [(gpu.index, gpu.mig_profile, gpu.utilisation_percent) for gpu in told.gpus] == [
        (0, "1g.10gb", 0.0),
        (0, "3g.40gb", 25.0),
    ]


@pytest.mark.parametrize("value", ["NaN", "+Inf", pages.UNKNOWN, "9.223372036854775e+18", "2147483634", "many", ""])
async def test_what_a_gpu_cannot_tell_is_unknown_and_costs_nothing_else(rig: Callable[[TargetKind], Rig], value: str):
    told = await readings(rig(TargetKind.DCGM), pages.DCGM.replace("} 63\n", f"}} {value}\n"))
    assert (told.gpus[0].temperature_celsius, told.gpus[0].utilisation_percent) == (None, 87)


async def test_gpus_by_nvidia_smi_have_ratios_made_percent(rig: Callable[[TargetKind], Rig]):
    told = await readings(rig(TargetKind.NVIDIA_SMI), pages.NVIDIA_SMI)
    assert told.gpus == (
        Gpu(
            index=0,
            uuid="5fd4b087-86f3-7a43-b711-4771313afc50",
            name="NVIDIA L40S",
            utilisation_percent=87,
            memory_used_bytes=41_305_505_792,
            memory_total_bytes=48_305_799_168,
            temperature_celsius=63,
            power_watts=287.4,
        ),
    )


async def test_an_exporter_whose_nvidia_smi_fails_tells_nothing(rig: Callable[[TargetKind], Rig]):
    failing = pages.NVIDIA_SMI.replace("collect_success 1", "collect_success 0")
    assert (await rig(TargetKind.NVIDIA_SMI).look(failing)).error == "It answers, but its nvidia-smi fails."


async def test_containers_are_told_and_what_is_none_is_dropped(rig: Callable[[TargetKind], Rig]):
    told = await readings(rig(TargetKind.CADVISOR), pages.cadvisor({"total": 100}))
    assert told.containers == (
        Container(name="ai-cache-1", image="redis:8", memory_working_set_bytes=12_000_000, oom_events=0),
        Container(
            name="ai-vllm-1",
            image="vllm/vllm-openai:v0.12.0",
            service="vllm",
            memory_working_set_bytes=9_126_805_504,
            memory_limit_bytes=34_359_738_368,
            oom_events=2,
        ),
    )


async def test_cores_in_use_are_the_difference_of_two_looks(rig: Callable[[TargetKind], Rig]):
    machine = rig(TargetKind.CADVISOR)
    await machine.look(pages.cadvisor({"cpu00": 100, "cpu01": 40}))
    target = await machine.look(pages.cadvisor({"cpu00": 112.5, "cpu01": 42.5}), timedelta(seconds=10))
    assert target.readings
    assert (target.readings.containers[1].cpu_cores, target.rates_over_seconds) == (1.5, 10)


async def test_a_container_that_was_made_anew_has_no_cores_in_use_yet(rig: Callable[[TargetKind], Rig]):
    machine = rig(TargetKind.CADVISOR)
    await machine.look(pages.cadvisor({"total": 100}))
    told = await readings(machine, pages.cadvisor({"total": 500}, identity="/system.slice/docker-99.scope"))
    assert told.containers[1].cpu_cores is None


async def test_a_model_server_tells_rates_from_the_second_look_on(rig: Callable[[TargetKind], Rig]):
    server = rig(TargetKind.VLLM)
    first = await server.look(pages.vllm())
    second = await server.look(pages.vllm(prompt=71_406, generated=15_118, queries=1400, hits=498), 2 * NEXT_LOOK)
    common = {"model": "Qwen/Qwen2.5-14B-Instruct-AWQ", "running": 6, "waiting": 2, "kv_cache_use": 0.413}
    assert first.readings
    assert first.readings.model_servers == (ModelServer(**common, preemptions=3),)  # type: ignore[arg-type]  # of all types
    assert first.rates_over_seconds is None
    assert second.readings
    assert second.readings.model_servers == (
        ModelServer(
            **common,  # type: ignore[arg-type]  # as above
            preemptions=3,
            prompt_tokens_per_second=2140.6,
            generation_tokens_per_second=311.8,
            prefix_cache_hit_rate=0.62,
        ),
    )
    assert second.rates_over_seconds == 10


@pytest.mark.parametrize(
    "restarted",
    [pages.vllm(prompt=10, generated=5, queries=1, hits=0), pages.vllm(prompt=90_000, started=1_772_366_500.5)],
    ids=["its counters went back", "it has counted further than before meanwhile"],
)
async def test_a_server_that_began_anew_has_no_rates_until_the_look_after(
    rig: Callable[[TargetKind], Rig], restarted: str
):
    server = rig(TargetKind.VLLM)
    await server.look(pages.vllm())
    [model] = (await readings(server, restarted)).model_servers
    assert (model.prompt_tokens_per_second, model.generation_tokens_per_second) == (None, None)
    assert model.prefix_cache_hit_rate is None
    [model] = (await readings(server, restarted)).model_servers
    assert (model.prompt_tokens_per_second, model.generation_tokens_per_second) == (0, 0)


async def test_engines_of_a_model_are_summed_and_the_fullest_cache_counts(rig: Callable[[TargetKind], Rig]):
    fuller = pages.vllm(engine=1).replace("0.41299", "0.9")
    [model] = (await readings(rig(TargetKind.VLLM), pages.vllm() + fuller)).model_servers
    assert (model.running, model.waiting, model.preemptions, model.kv_cache_use) == (12, 4, 6, 0.9)


async def test_two_models_of_a_server_are_told_apart(rig: Callable[[TargetKind], Rig]):
    told = await readings(rig(TargetKind.VLLM), pages.vllm() + pages.vllm(model="adapter"))
    assert [model.model for model in told.model_servers] == ["Qwen/Qwen2.5-14B-Instruct-AWQ", "adapter"]


async def test_the_names_of_older_servers_are_known(rig: Callable[[TargetKind], Rig]):
    server = rig(TargetKind.VLLM)
    await server.look(pages.old_vllm())
    [model] = (await readings(server, pages.old_vllm(prompt=2000))).model_servers
    assert (model.model, model.running, model.kv_cache_use) == ("mistral", 1, 0.25)
    assert (model.prompt_tokens_per_second, model.prefix_cache_hit_rate) == (200, 0.25)


async def test_names_may_have_lost_their_colon(rig: Callable[[TargetKind], Rig]):
    [model] = (await readings(rig(TargetKind.VLLM), pages.vllm().replace("vllm:", "vllm_"))).model_servers
    assert (model.running, model.kv_cache_use) == (6, 0.413)


async def test_a_look_too_long_ago_makes_no_rate(rig: Callable[[TargetKind], Rig]):
    server = rig(TargetKind.VLLM)
    await server.look(pages.vllm())
    target = await server.look(pages.vllm(prompt=90_000), timedelta(seconds=MOST_APART + 1))
    assert target.rates_over_seconds is None
    assert target.readings
    assert target.readings.model_servers[0].prompt_tokens_per_second is None


async def test_a_speech_server_is_told_with_its_load_where_it_has_metrics(rig: Callable[[TargetKind], Rig]):
    server = rig(TargetKind.SPEECH)
    server.shown |= {"/health": tells("OK"), "/metrics": tells(pages.vllm(model="openai/whisper-large-v3"))}
    told = (await server.look()).readings
    assert told
    assert told.speech == Speech(healthy=True, latency_seconds=0, running=6, waiting=2)


async def test_one_without_metrics_is_well_all_the_same_and_is_not_asked_for_them_each_time(
    rig: Callable[[TargetKind], Rig],
):
    server = rig(TargetKind.SPEECH)
    server.shown["/health"] = tells("OK")
    for _ in range(3):
        told = (await server.look()).readings
        assert told
        assert told.speech == Speech(healthy=True, latency_seconds=0)
    assert [look.path for look in server.server.looks] == ["/health", "/metrics", "/health", "/health"]
    await server.look(after=timedelta(seconds=NO_METRICS_KEPT))
    assert [look.path for look in server.server.looks][-1] == "/metrics"


async def test_one_whose_metrics_hang_is_well_all_the_same(rig: Callable[[TargetKind], Rig]):
    server = rig(TargetKind.SPEECH)
    server.shown |= {"/health": tells("OK"), "/metrics": stalls(headers_first=False)}
    told = (await server.look()).readings
    assert told
    assert told.speech == Speech(healthy=True, latency_seconds=0)


async def test_one_that_says_it_is_sick_is_not_healthy(rig: Callable[[TargetKind], Rig]):
    server = rig(TargetKind.SPEECH)
    server.shown["/health"] = refuses(503, "loading")
    told = (await server.look()).readings
    assert told
    assert told.speech
    assert not told.speech.healthy


WRONG = "It answers, but not with the figures of its kind: is the address right, and the kind?"


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (refuses(500, "Traceback: hunter2"), "It answered 500."),
        (refuses(404, "not here"), "It answered 404."),
        (refuses(401, "who are you"), "It answered 401: it wants a user and a password, or others."),
        (
            refuses(302, headers={"location": "http://127.0.0.1:1/hunter2"}),
            "It answered 302: it sends us elsewhere, where nobody follows.",
        ),
        (tells("<html><title>hunter2</title></html>"), WRONG),
        (tells(bytes(range(256)) * 10), WRONG),
        (tells(""), WRONG),
        (tells("go_goroutines 7\nprocess_start_time_seconds 1.7e9\n"), WRONG),
        (tells(b"DCGM_FI_DEV_GPU_UTIL 7\n" * 200_000), "Its answer is longer than 1 MiB."),
        (
            refuses(200, b"\x1f\x8b", headers={"content-encoding": "gzip"}),
            "It packs its answer, which nobody asked for.",
        ),
        (sends(b"SSH-2.0-OpenSSH_9.6 hunter2\r\n"), "It broke the connection off, or speaks no HTTP."),
        (cuts(b"DCGM_FI_DEV_GPU"), "It broke the connection off, or speaks no HTTP."),
        (stalls(headers_first=False), "It did not answer within 1 s."),
        (stalls(b"DCGM_FI_DEV_GPU_UTIL"), "It did not answer within 1 s."),
    ],
)
async def test_one_that_answers_anything_else_is_named_with_its_error_and_hides_no_other(
    exporters: Callable[[dict[str, Behaviour]], Server], behaviour: Behaviour, error: str
):
    bad, good = exporters({"/metrics": behaviour}), exporters({"/metrics": tells(pages.DCGM)})
    places = [Place("bad", TargetKind.DCGM, bad.origin), Place("good", TargetKind.DCGM, f"{good.origin}/metrics")]
    probe = HttpInfra(places, patience=A_MOMENT, longest=MIB)
    with capture_logs() as logs:
        first, second = await probe.look()
    await probe.close()
    assert (first.ok, first.error, first.readings, first.age_seconds) == (False, error, None, None)
    assert second.readings
    assert len(second.readings.gpus) == 2
    assert logs == [
        {"event": "infra target is down", "log_level": "warning", "target": "bad", "trouble": error},
    ]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1", "It accepts no connections."),
        ("http://nobody.invalid", "Its host name is not known."),
    ],
)
async def test_one_that_is_not_there_is_named_with_its_error(url: str, error: str):
    probe = HttpInfra([Place("away", TargetKind.VLLM, url)])
    [target] = await probe.look()
    await probe.close()
    assert target.error == error


async def test_one_whose_certificate_nobody_vouches_for_is_not_believed():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with Server(pages={"/metrics": tells(pages.DCGM)}, tls=context) as server:
        probe = HttpInfra([Place("false", TargetKind.DCGM, server.origin)])
        [target] = await probe.look()
        await probe.close()
    assert target.error == "Its certificate is not trusted."


async def test_one_that_speaks_no_tls_is_told_as_that():
    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        probe = HttpInfra([Place("plain", TargetKind.DCGM, f"https://127.0.0.1:{port}")])
        [target] = await probe.look()
        await probe.close()
    assert target.error == "It speaks no TLS that is understood here."


async def test_all_are_asked_at_once(exporters: Callable[[dict[str, Behaviour]], Server]):
    places = [
        Place(f"slow-{number}", TargetKind.DCGM, exporters({"/metrics": stalls(headers_first=False)}).origin)
        for number in range(5)
    ]
    probe = HttpInfra(places, patience=A_MOMENT)
    began = time.monotonic()
    targets = await probe.look()
    took = time.monotonic() - began
    await probe.close()
    assert [target.error for target in targets] == ["It did not answer within 1 s."] * 5
    assert took < 5 * A_MOMENT.total_seconds()


async def test_whoever_asks_within_five_seconds_gets_the_same_answer_and_many_who_come_at_once_cost_one_question(
    rig: Callable[[TargetKind], Rig],
):
    exporter = rig(TargetKind.DCGM)
    exporter.shown["/metrics"] = tells(pages.DCGM)
    answers = await asyncio.gather(*(exporter.probe.look() for _ in range(10)))
    assert len(exporter.server.looks) == 1
    assert all(answer == answers[0] for answer in answers)

    later = await exporter.look(after=timedelta(seconds=KEPT - 0.5))
    assert (len(exporter.server.looks), later.age_seconds) == (1, KEPT - 0.5)
    await exporter.look(after=timedelta(seconds=0.5))
    assert len(exporter.server.looks) == 2


async def test_one_that_goes_is_told_with_the_age_of_its_last_answer_until_it_is_back(
    rig: Callable[[TargetKind], Rig],
):
    exporter = rig(TargetKind.DCGM)
    assert (await exporter.look(pages.DCGM)).ok
    exporter.server.go_down()
    with capture_logs() as logs:
        gone = [await exporter.look(), await exporter.look()][-1]
        exporter.server.come_up()
        back = await exporter.look()
    assert (gone.error, gone.age_seconds, gone.readings) == ("It accepts no connections.", 2 * KEPT, None)
    assert (back.ok, back.age_seconds) == (True, 0)
    assert [entry["event"] for entry in logs] == ["infra target is down", "infra target is back"]


async def test_user_and_password_are_sent_and_shown_nowhere(
    exporters: Callable[[dict[str, Behaviour]], Server], clock: FakeClock
):
    server = exporters({"/some/metrics": tells(pages.DCGM)})
    url = server.origin.replace("//", "//me:hunt%40er2@") + "/some/metrics"
    place = Place("locked", TargetKind.DCGM, url)
    probe = HttpInfra([place], monotonic=clock.monotonic)
    with capture_logs() as logs:
        [target] = await probe.look()
        server.go_down()
        clock.advance(NEXT_LOOK)
        [gone] = await probe.look()
    await probe.close()
    assert server.looks[0].headers["authorization"] == "Basic " + b64encode(b"me:hunt@er2").decode()
    assert target.ok
    assert "hunt" not in f"{place} {target} {gone} {logs}"
    assert "127.0.0.1" not in f"{place} {target} {gone} {logs}"


async def test_whoever_loses_patience_leaves_the_next_one_a_fresh_look(rig: Callable[[TargetKind], Rig]):
    exporter = rig(TargetKind.DCGM)
    exporter.shown["/metrics"] = stalls(headers_first=False)
    asking = asyncio.create_task(exporter.probe.look())
    await exporter.server.until(lambda server: bool(server.looks))
    asking.cancel()
    await asyncio.wait({asking})
    assert (await exporter.look(pages.DCGM, after=timedelta(0))).ok


async def test_without_targets_there_is_nothing_to_tell():
    assert await HttpInfra([]).look() == ()
