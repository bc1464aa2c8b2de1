"""Speech with whisper-asr-webservice: Whisper, faster-whisper or WhisperX behind `POST /asr`.

It takes every option in the address, and says which engine it runs only in the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import httpx

from adapters.providers.client import utc_now
from adapters.providers.languages import spoken
from adapters.providers.recording_call import SpeechServer
from domain.job import LeasedJob
from domain.speech import Recording, SpeechCall, Transcript

WHISPERX = "whisperx"
TAKE_PROMPTS = frozenset({"openai_whisper", "faster_whisper"})
"""Engines. WhisperX fails over a prompt."""


def asr_url(base_url: str) -> str:
    """Where recordings are sent to, given where the server is or that address itself."""
    base = httpx.URL(base_url)
    path = base.path.rstrip("/")
    return str(base.copy_with(path=path if path.endswith("/asr") else f"{path}/asr"))


class WhisperAsrProvider:
    """One server, which has one model.

    Args:
        client: of `open_speech_client`.
        base_url: `http://host:9000`.
        model: what the server is known to run; it does not tell.
        engine: `openai_whisper`, `faster_whisper` or `whisperx`, where it is known. Otherwise the first answer tells,
            and until then no prompt is sent.
        timeout: for a whole call. The server hears one recording at a time and lets the others wait.
        most_bytes: a larger recording is not sent; None: any is.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        model: str | None = None,
        engine: str | None = None,
        api_key: str = "",
        timeout: timedelta,
        most_bytes: int | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.model = model
        self.url = asr_url(base_url)
        self._engine = engine
        self._server = SpeechServer(
            client, url=self.url, api_key=api_key, timeout=timeout, most_bytes=most_bytes, clock=clock
        )

    def __repr__(self) -> str:
        return f"WhisperAsrProvider(model={self.model!r})"

    async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
        answer = await self._server.hear(recording, "audio_file", query=self._query(call))
        if answer.is_success:
            self._engine = answer.headers.get("asr-engine") or self._engine
        return self._server.transcript(answer, recording, call, self.model)

    def _query(self, call: SpeechCall) -> list[tuple[str, str]]:
        query = [("encode", "true"), ("task", "transcribe"), ("output", "json")]
        query += [("language", spoken(call.language))] if call.language else []
        query += [("vad_filter", "true")] if call.vad else []
        if call.prompt and self._engine in TAKE_PROMPTS:
            query.append(("initial_prompt", call.prompt))
        return query + self._speakers(call)

    def _speakers(self, call: SpeechCall) -> list[tuple[str, str]]:
        """Only WhisperX tells speakers apart; whoever may be it is asked to where a number of them is given."""
        if self._engine in TAKE_PROMPTS:
            return []
        bounds = [("min_speakers", call.min_speakers), ("max_speakers", call.max_speakers)]
        given = [(name, str(number)) for name, number in bounds if number is not None]
        return [("diarize", "true"), *given] if given else []
