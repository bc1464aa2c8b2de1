"""Human speech on its whole way: uploaded, transcribed by servers of every kind, and told as segments."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.e2e.conftest import Install
from tests.e2e.service import Api, eventually
from tests.servers.speech_server import Heard, Kind, SpeechServer, faster_whisper, speaches, vllm, whisper_asr

SPEECH = Path(__file__).parents[1] / "data" / "speech"
NOVEL = (SPEECH / "sense-and-sensibility.flac").read_bytes()
ORDER = (SPEECH / "go-forward.flac").read_bytes()
SAID = (
    "And Mister John Dashwood had then leisure to consider how much there might be prudently in his power to do "
    "for them."
)

KINDS = {"vllm": vllm, "speaches": speaches, "faster-whisper": faster_whisper, "whisper-asr": whisper_asr}


@contextmanager
def serving(kind: Kind) -> Iterator[SpeechServer]:
    with SpeechServer(kind) as server:
        server.knows(NOVEL, Heard(0.0, 7.1, SAID))
        server.knows(ORDER, Heard(0.9, 2.2, "Go forward ten meters."))
        yield server


def profile(provider: str, server: SpeechServer) -> dict[str, Any]:
    base_url = server.base_url.removesuffix("/v1") if provider == "whisper-asr" else server.base_url
    return {"kind": "speech", "provider": provider, "base_url": base_url, "model": server.model}


def upload(api: Api, data: bytes) -> str:
    answer = api.http.post("/api/v1/uploads", params={"owner_service": "e2e"}, content=data)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["upload_id"]
    return found


def transcribe(api: Api, model_profile: str, **given: Any) -> dict[str, Any]:
    return api.submit(task_type="transcription", model_profile=model_profile, input=given, max_attempts=1)


def one_call(left: bytes, right: bytes) -> bytes:
    """A stereo call: a speaker on each side, one after the other."""
    sides = [_samples(left), _samples(right)]
    length = sum(len(side) for side in sides)
    stereo = np.zeros((length, 2), dtype=np.int16)
    stereo[: len(sides[0]), 0] = sides[0]
    stereo[len(sides[0]) :, 1] = sides[1]
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(stereo.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


def _samples(data: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    with av.open(io.BytesIO(data), "r") as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]).astype(np.int16)


@pytest.fixture
def api(install: Install, database: str, vhost: str, tmp_path: Path) -> Iterator[tuple[Api, dict[str, SpeechServer]]]:
    """A service before a speech server of every kind, each a profile of that name."""
    with (
        serving(vllm()) as one,
        serving(speaches()) as two,
        serving(faster_whisper()) as three,
        serving(whisper_asr()) as four,
    ):
        servers = dict(zip(KINDS, (one, two, three, four), strict=True))
        lines = [
            f"[profiles.{name}]\n" + "\n".join(f'{key} = "{value}"' for key, value in profile(name, server).items())
            for name, server in servers.items()
        ]
        (tmp_path / "config.toml").write_text("\n".join(lines))
        installation = install(DATABASE_URL=database, AMQP_URL=vhost, AI_SERVICE_CONFIG=str(tmp_path / "config.toml"))
        yield installation.serve_and_work()[0], servers


def test_an_uploaded_recording_becomes_the_same_segments_whatever_server_hears_it(
    api: tuple[Api, dict[str, SpeechServer]],
) -> None:
    service, _ = api
    upload_id = upload(service, NOVEL)
    jobs = {name: transcribe(service, name, upload_id=upload_id, language="en") for name in KINDS}

    for name, job in jobs.items():
        done = service.finished(job)
        assert done["status"] == "completed", done
        result = done["result"]
        assert (result["schema_version"], result["provider"], result["language"]) == (
            "ai.transcription_result.v1",
            name,
            "en",
        )
        assert " ".join(segment["text"] for segment in result["segments"]) == SAID
        assert 0 <= result["segments"][0]["start"] < result["segments"][-1]["end"] <= 7.2

    # Its jobs are done: nobody needs the recording any more.
    eventually(
        lambda: service.http.get(f"/api/v1/uploads/{upload_id}").status_code == 404, within=90, what="it is pruned"
    )


def test_the_sides_of_a_call_are_heard_apart_and_told_in_the_order_of_the_call(
    api: tuple[Api, dict[str, SpeechServer]],
) -> None:
    service, servers = api
    upload_id = upload(service, one_call(NOVEL, ORDER))
    heard_before = len(servers["vllm"].heard)
    done = service.finished(transcribe(service, "vllm", upload_id=upload_id, channels="split"))

    assert done["status"] == "completed", done
    calls = servers["vllm"].heard[heard_before:]
    assert [call.channels for call in calls] == [1, 1]
    assert {segment["speaker"] for segment in done["result"]["segments"]} <= {"channel_1", "channel_2"}


def test_what_is_no_recording_fails_before_any_server_hears_of_it(
    api: tuple[Api, dict[str, SpeechServer]],
) -> None:
    service, servers = api
    told = {
        "text": b"this is not audio at all, only called so",
        "html": b"<html><body>Not found</body></html>",
        "zip": b"PK\x03\x04" + bytes(200),
        "half": NOVEL[:20],
    }
    jobs = {
        name: transcribe(service, "vllm", audio_base64=base64.b64encode(data).decode()) for name, data in told.items()
    }
    for name, job in jobs.items():
        done = service.finished(job)
        assert (name, done["status"], done["error_code"]) == (name, "failed", "bad_audio")
        assert "only called so" not in done["error_message"]
    assert servers["vllm"].heard == []


def test_a_recording_at_a_private_address_is_not_fetched(api: tuple[Api, dict[str, SpeechServer]]) -> None:
    service, servers = api
    place = servers["vllm"].base_url.removesuffix("/v1")
    done = service.finished(transcribe(service, "vllm", audio_url=f"{place}/call.wav?signature=hunter2"))
    assert (done["status"], done["error_code"]) == ("failed", "bad_input")
    assert "hunter2" not in done["error_message"]


def test_a_cancelled_transcription_keeps_its_slot_for_as_long_as_its_server_computes(
    install: Install, database: str, tmp_path: Path
) -> None:
    with serving(vllm()) as server:
        fields = profile("vllm", server)
        (tmp_path / "config.toml").write_text(
            '[queues."gpu.speech"]\nconcurrency = 1\n[profiles.whisper]\n'
            + "\n".join(f'{key} = "{value}"' for key, value in fields.items())
        )
        service = install(DATABASE_URL=database, AI_SERVICE_CONFIG=str(tmp_path / "config.toml")).up()
        server.hold()
        audio = base64.b64encode(ORDER).decode()
        first = transcribe(service, "whisper", audio_base64=audio)
        service.is_running(first)
        eventually(lambda: server.computing == 1, within=20, what="the server hears the first")
        service.cancel(first)
        second = transcribe(service, "whisper", audio_base64=audio)

        eventually(
            lambda: service.get(second)["waiting_for"] == "slot", within=10, what="the second waits for the slot"
        )
        assert server.most_computing == 1
        server.let_go()
        assert service.finished(second)["status"] == "completed"
        assert server.most_computing == 1
