"""A speech server without a model: it takes recordings apart for real, and answers in the shape of a server of choice.

It knows what is said in a recording by the recording's content (or its length, for those that were converted on the
way), hears a sentence where it knows nothing better, and "You" in silence, like Whisper. Like the real ones it decodes
one recording at a time, and goes on when the client has hung up.

    with SpeechServer(vllm()) as server:
        server.knows(clip.read_bytes(), Heard(0.0, 2.3, "go forward ten meters"))
        ... server.base_url ...
        assert server.heard[0].fields["language"] == "en"
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakSet

import av
import numpy as np

from tests.servers.model_server import JSON, Behaviour, ModelServer, Reply, Request, ServedOver

SAME_LENGTH = 0.15
"""Seconds by which the lengths of a recording and of what was made of it may differ."""
SILENCE = 0.003
"""Of full scale."""


class Heard(NamedTuple):
    """What is said from one second to another."""

    start: float
    end: float
    text: str
    speaker: str = ""


class Upload(NamedTuple):
    """A recording as it came in, and what it was asked with, wherever that stood."""

    fields: Mapping[str, str]
    every_field: tuple[tuple[str, str], ...]
    data: bytes
    filename: str
    seconds: float
    """0: not a recording."""
    channels: int = 0
    loudest: float = 0.0

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Answer:
    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False
    """Whether the server closes the connection after it, as soon as another request has been sent on it."""


@dataclass(frozen=True)
class Kind:
    """A kind of speech server: what it reads, what it answers, and how it fails.

    Args:
        file_field: the part of the form that holds the recording.
        answer: a transcript in its shape.
        no_recording: to what cannot be decoded.
        unauthorized: to a wrong key.
        too_large: to a recording over the limit.
        unknown_model: None: it answers with the model that it has.
        busy: to a call beyond those that may wait.
        health: its health address, where it has one.
        health_waits: whether that address is silent while a recording is decoded.
    """

    name: str
    answer: Callable[[Upload, list[Heard], str], Answer]
    no_recording: Callable[[Upload], Answer]
    unauthorized: Answer
    too_large: Answer
    file_field: str = "file"
    path: str = "/v1/audio/transcriptions"
    model_field: str = "model"
    unknown_model: Callable[[str], Answer] | None = None
    busy: Answer = field(default_factory=lambda: Answer(429, {"detail": "Too many requests"}))
    slow: Answer = field(default_factory=lambda: Answer(504, {"detail": "Transcription timed out"}))
    health: str | None = None
    health_waits: bool = False


NO_FILE = Answer(
    422, {"detail": [{"type": "missing", "loc": ["body", "file"], "msg": "Field required", "input": None}]}
)
CRASH = Answer(500, "Internal Server Error", {"content-type": "text/plain; charset=utf-8"}, closes=True)


def vllm() -> Kind:
    """vLLM: the duration is a text, figures that it does not have are null."""

    def answer(upload: Upload, heard: list[Heard], model: str) -> Answer:
        segments = [_segment(number, each, temperature=0.0) for number, each in enumerate(heard)]
        for segment in segments:
            segment.update(no_speech_prob=None, compression_ratio=None, avg_logprob=-0.21)
        usage = {"type": "duration", "seconds": round(upload.seconds)}
        found = {"duration": f"{upload.seconds}", "language": upload.fields.get("language", "en")}
        return Answer(200, {**found, "text": _text(heard), "segments": segments, "words": None, "usage": usage}, JSON)

    return Kind(
        name="vllm",
        answer=answer,
        no_recording=lambda _: Answer(400, _vllm_error(400, "BadRequestError", "Invalid or unsupported audio file.")),
        unauthorized=Answer(401, {"error": "Unauthorized"}),
        too_large=Answer(
            400,
            _vllm_error(
                400,
                "BadRequestError",
                "Maximum file size exceeded (parameter=audio_filesize_mb, value=28.6)",
                "audio_filesize_mb",
            ),
        ),
        unknown_model=lambda name: Answer(
            404, _vllm_error(404, "NotFoundError", f"The model `{name}` does not exist.", "model")
        ),
        health="/health",
    )


def speaches() -> Kind:
    """Speaches: 403 for a wrong key, 415 for what is no recording, 404 for a model that was not downloaded."""

    def answer(upload: Upload, heard: list[Heard], model: str) -> Answer:
        segments = [_segment(number, each, temperature=0.0) for number, each in enumerate(heard)]
        found = {"task": "transcribe", "language": upload.fields.get("language", "en"), "duration": upload.seconds}
        return Answer(200, {**found, "text": _text(heard), "segments": segments, "words": None}, JSON)

    def no_recording(upload: Upload) -> Answer:
        if not upload.data:
            return Answer(400, {"detail": "The provided file is likely empty."})
        return Answer(415, {"detail": "Failed to decode audio. The provided file type is not supported."})

    return Kind(
        name="speaches",
        answer=answer,
        no_recording=no_recording,
        unauthorized=Answer(403, {"detail": "Invalid API key. The provided key does not match."}),
        too_large=Answer(413, {"detail": "Request body too large"}),
        unknown_model=lambda name: Answer(
            404,
            {"detail": f"Model '{name}' is not installed locally. You can download the model using `POST /v1/models`"},
        ),
        health="/health",
    )


def faster_whisper() -> Kind:
    """A server in whose event loop Whisper decodes: nothing else is answered meanwhile. Reads `model_name`."""

    def answer(upload: Upload, heard: list[Heard], model: str) -> Answer:
        segments = [_segment(number, each, temperature=0.0) for number, each in enumerate(heard)]
        if upload.loudest < SILENCE:
            segments[0].update(no_speech_prob=0.7, avg_logprob=-0.9)
        found = {"task": "transcribe", "language": "english", "duration": upload.seconds}
        return Answer(200, {**found, "text": _text(heard), "segments": segments}, JSON)

    return Kind(
        name="faster-whisper",
        answer=answer,
        no_recording=lambda _: CRASH,
        unauthorized=Answer(401, {"detail": {"error": "Invalid API key"}}),
        too_large=Answer(413, {"detail": {"error": "File too large"}}),
        model_field="model_name",
        health="/health",
        health_waits=True,
    )


def openai_asr() -> Kind:
    """A server that makes figures up: the duration is the last segment's end, logprobs are 0, tokens none."""

    def answer(upload: Upload, heard: list[Heard], model: str) -> Answer:
        wanted = upload.fields.get("response_format", "json")
        if wanted in SUBTITLES:
            return Answer(200, SUBTITLES[wanted](heard), {"content-type": "text/plain; charset=utf-8"})
        segments = [_segment(number, each, temperature=0.0) for number, each in enumerate(heard)]
        for segment in segments:
            segment.update(tokens=[], avg_logprob=0.0, no_speech_prob=0.0, compression_ratio=0.0)
        found = {"task": "transcribe", "language": "english", "duration": heard[-1].end if heard else 0.0}
        return Answer(200, {**found, "text": _text(heard), "segments": segments}, JSON)

    return Kind(
        name="openai-asr",
        answer=answer,
        no_recording=lambda _: CRASH,
        unauthorized=Answer(401, {"detail": "Unauthorized"}),
        too_large=Answer(413, {"detail": "File too large"}),
        unknown_model=lambda name: Answer(404, {"detail": f"Model {name} not found"}),
    )


def whisper_asr(engine: str = "whisperx") -> Kind:
    """whisper-asr-webservice: JSON that says it is plain text, every option in the address, and fails in plain text."""

    def answer(upload: Upload, heard: list[Heard], model: str) -> Answer:
        headers = {"content-type": "text/plain; charset=utf-8", "asr-engine": engine}
        if engine != "whisperx":
            segments = [_segment(number, each, temperature=0.0) for number, each in enumerate(heard)]
            return Answer(200, {"language": "en", "segments": segments, "text": _text(heard)}, headers)
        if "initial_prompt" in upload.fields:
            return CRASH
        diarize = upload.fields.get("diarize") == "true"
        aligned = [_aligned(each, diarize=diarize) for each in heard]
        words = [word for segment in aligned for word in segment["words"]]
        return Answer(200, {"segments": aligned, "word_segments": words, "language": "en"}, headers)

    return Kind(
        name="whisper-asr",
        answer=answer,
        no_recording=lambda _: CRASH,
        unauthorized=Answer(401, "Unauthorized"),
        too_large=Answer(413, "<html><h1>413 Request Entity Too Large</h1></html>", {"content-type": "text/html"}),
        file_field="audio_file",
        path="/asr",
    )


@dataclass
class SpeechServer(ServedOver):
    """Serves recordings in the shape of its kind.

    Args:
        model: the one that it has.
        api_key: needed, where given.
        most_bytes: of a recording.
        most_waiting: calls beyond this are refused as busy; None: all wait.
        gives_up: whether it answers at once that it took too long, and decodes all the same.
    """

    kind: Kind = field(default_factory=vllm)
    model: str = "whisper"
    api_key: str = ""
    most_bytes: int = 25 << 20
    most_waiting: int | None = None
    gives_up: bool = False

    heard: list[Upload] = field(default_factory=list)
    """Every recording so far that could be decoded."""
    computing: int = 0
    """Calls that are being decoded or wait for it, whether or not their clients are still there."""
    most_computing: int = 0
    decoded: int = 0

    def __post_init__(self) -> None:
        self.http = ModelServer(default=self._serve, scripts_get=True)
        self._known: dict[str, list[Heard]] = {}
        self._lengths: list[tuple[float, list[Heard]]] = []
        self._decoding = asyncio.Lock()
        self._may_decode = asyncio.Event()
        self._may_decode.set()
        self._decodes: set[asyncio.Task[None]] = set()
        self._doomed: WeakSet[asyncio.StreamWriter] = WeakSet()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go()
        self.http.wait_until(lambda _: not self.computing)
        super().__exit__(kind, error, trace)

    @property
    def origin(self) -> str:
        return self.http.origin

    def knows(self, recording: bytes, *heard: Heard) -> None:
        """What is said in this recording, and in any other of its length that it does not know."""
        self._known[hashlib.sha256(recording).hexdigest()] = list(heard)
        self._lengths.append((_sound(recording)[0], list(heard)))

    def script(self, *behaviours: Behaviour) -> None:
        """What to do to the next calls instead, one behaviour each."""
        self.http.script(*behaviours)

    def hold(self) -> None:
        """From now on take recordings, but come to no end with any until `let_go`."""
        self._call(self._may_decode.clear)

    def let_go(self) -> None:
        self._call(self._may_decode.set)

    def _call(self, change: Callable[[], None]) -> None:
        done = asyncio.run_coroutine_threadsafe(_do(change), self.http._loop)
        done.result(10)

    async def _serve(self, request: Request, reply: Reply) -> None:
        if reply.writer in self._doomed:
            reply.cut()
            return
        answer = await self._look(request) if request.method == "GET" else await self._listen(request)
        if answer.closes:
            self._doomed.add(reply.writer)
        await reply.whole(answer.status, _encoded(answer.body), _headers(answer))

    async def _look(self, request: Request) -> Answer:
        if request.path != self.kind.health:
            return Answer(404, {"detail": "Not Found"})
        if self.kind.health_waits:
            async with self._decoding:
                pass
        return Answer(200, {"message": "OK"})

    async def _listen(self, request: Request) -> Answer:
        if urlsplit(request.path).path != self.kind.path:
            return Answer(404, {"detail": "Not Found"})
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return self.kind.unauthorized
        upload = _upload(request, self.kind.file_field)
        if upload is None:
            return NO_FILE
        return self._refusal(upload) or await self._transcribe(upload)

    def _refusal(self, upload: Upload) -> Answer | None:
        if len(upload.data) > self.most_bytes:
            return self.kind.too_large
        named = upload.fields.get(self.kind.model_field, self.model)
        if named != self.model and self.kind.unknown_model:
            return self.kind.unknown_model(named)
        if not upload.seconds:
            return self.kind.no_recording(upload)
        if self.most_waiting is not None and self.computing > self.most_waiting:
            return self.kind.busy
        return None

    async def _transcribe(self, upload: Upload) -> Answer:
        decode = asyncio.create_task(self._decode(upload))
        self._decodes.add(decode)
        decode.add_done_callback(self._decodes.discard)
        if self.gives_up:
            return self.kind.slow
        # The client may leave; the decoder does not notice.
        await asyncio.shield(decode)
        return self.kind.answer(upload, self._said(upload), self.model)

    async def _decode(self, upload: Upload) -> None:
        self.heard.append(upload)
        self.computing += 1
        self.most_computing = max(self.most_computing, self.computing)
        self.http.look_again()
        try:
            async with self._decoding:
                await self._may_decode.wait()
        finally:
            self.computing -= 1
            self.decoded += 1
            self.http.look_again()

    def _said(self, upload: Upload) -> list[Heard]:
        if upload.digest in self._known:
            return self._known[upload.digest]
        if upload.loudest < SILENCE:
            return [Heard(0.0, 2.0, "You")]
        near = [heard for seconds, heard in self._lengths if abs(seconds - upload.seconds) <= SAME_LENGTH]
        return near[0] if near else [Heard(0.0, upload.seconds, f"This lasts {upload.seconds:.1f} seconds.")]


async def _do(change: Callable[[], None]) -> None:
    change()


def _headers(answer: Answer) -> Mapping[str, str]:
    return answer.headers or ({} if isinstance(answer.body, str | bytes) else JSON)


def _encoded(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def _upload(request: Request, file_field: str) -> Upload | None:
    """The recording in a form; the fields of the form and of the address are one."""
    _, _, boundary = request.headers.get("content-type", "").partition("boundary=")
    fields = parse_qsl(urlsplit(request.path).query)
    found: tuple[str, bytes] | None = None
    for part in (b"\r\n" + request.body).split(f"\r\n--{boundary}".encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        options = dict(_option(each) for each in head.decode().splitlines()[1].split("; ")[1:])
        if options["name"] != file_field:
            fields.append((options["name"], content.decode()))
        elif "filename" in options:
            found = (options["filename"], content)
    if found is None:
        return None
    seconds, channels, loudest = _sound(found[1])
    return Upload(dict(fields), tuple(fields), found[1], found[0], seconds, channels, loudest)


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value.strip('"')


def _sound(data: bytes) -> tuple[float, int, float]:
    """How long a recording is, its channels, and its loudest sample; nothing of what is no recording."""
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.audio[0]
            samples, loudest = 0, 0.0
            for frame in container.decode(stream):
                samples += frame.samples
                loudest = max(loudest, _loudest(frame.to_ndarray()))
            return round(samples / stream.rate, 3), stream.channels, loudest
    except (av.FFmpegError, IndexError, ValueError):
        return 0.0, 0, 0.0


def _loudest(samples: np.ndarray[Any, Any]) -> float:
    if not samples.size:
        return 0.0
    full = float(np.iinfo(samples.dtype).max) if samples.dtype.kind in "iu" else 1.0
    return float(np.abs(samples.astype(np.float64)).max()) / full


def _text(heard: list[Heard]) -> str:
    return " ".join(each.text for each in heard)


def _segment(number: int, heard: Heard, **figures: object) -> dict[str, Any]:
    """A segment in the shape of OpenAI's and of faster-whisper."""
    return {
        "id": number,
        "seek": 0,
        "start": heard.start,
        "end": heard.end,
        "text": f" {heard.text}",
        "tokens": [50364, 50464],
        "avg_logprob": -0.2,
        "compression_ratio": 1.3,
        "no_speech_prob": 0.01,
        **figures,
    }


def _aligned(heard: Heard, *, diarize: bool) -> dict[str, Any]:
    """A segment in the shape of WhisperX; figures and the like have no place in time, like its own."""
    speaker = {"speaker": heard.speaker or "SPEAKER_00"} if diarize else {}
    words = heard.text.split()
    length = (heard.end - heard.start) / max(len(words), 1)
    timed = [
        {"word": word}
        if any(char.isdigit() for char in word)
        else {
            "word": word,
            "start": round(heard.start + number * length, 3),
            "end": round(heard.start + (number + 1) * length, 3),
            "score": 0.8,
            **speaker,
        }
        for number, word in enumerate(words)
    ]
    return {"start": heard.start, "end": heard.end, "text": f" {heard.text}", "words": timed, **speaker}


def _vllm_error(status: int, kind: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _clock(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _srt(heard: list[Heard]) -> str:
    return "\n".join(
        f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{each.text}\n"
        for number, each in enumerate(heard, 1)
    )


def _vtt(heard: list[Heard]) -> str:
    cues = (f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}\n{each.text}\n" for each in heard)
    return "\n".join(("WEBVTT\n", *cues))


SUBTITLES: Mapping[str, Callable[[list[Heard]], str]] = {"srt": _srt, "vtt": _vtt, "text": _text}
