"""Speech with whatever speaks OpenAI's transcriptions: vLLM, Speaches, faster-whisper servers, whisper.cpp, the clouds.

Times are asked for by segment alone: words cost the server another pass, and several servers fail over them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import httpx
from msgspec import Struct

from adapters.providers import classify_speech
from adapters.providers.client import below, utc_now
from adapters.providers.languages import spoken
from adapters.providers.recording_call import SpeechServer
from domain.job import LeasedJob
from domain.speech import Recording, SpeechCall, Transcript

MOST_BYTES = 25 << 20
"""What OpenAI and, unless told otherwise, vLLM take."""


class Dialect(Struct, frozen=True):
    """What a kind of server is sent beside OpenAI's own fields. OpenAI and its like may refuse what they do not know.

    Args:
        model_fields: where it reads the model's name.
        always: fields and values.
        vad: fields and values that make it leave out what is no speech.
    """

    model_fields: tuple[str, ...] = ("model",)
    always: tuple[tuple[str, str], ...] = ()
    vad: tuple[tuple[str, str], ...] = ()


OPENAI = Dialect()
DIALECTS = {
    "openai": OPENAI,
    "vllm": OPENAI,
    # With timestamps within its chunks of half a minute; its older versions know the voice detector as an option.
    "speaches": Dialect(always=(("without_timestamps", "false"),), vad=(("vad_filter", "true"),)),
    "faster-whisper": Dialect(model_fields=("model", "model_name"), vad=(("vad_filter", "true"),)),
}
"""By the name of a profile's provider."""


def transcriptions_url(base_url: str) -> str:
    """Where recordings are sent to, given where the API begins."""
    return below(base_url, "audio/transcriptions")


class OpenAISpeechProvider:
    """One model of one server.

    Args:
        client: of `open_speech_client`.
        base_url: where the API begins: `http://host:8004/v1`, or `http://host:8004`.
        api_key: sent as a bearer token, shown nowhere.
        timeout: for a whole call.
        most_bytes: a larger recording is not sent; None: the server tells.
        dialect: what is special about the server.
        clock: what a `Retry-After` that is a date is compared with.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        model: str,
        base_url: str,
        api_key: str = "",
        timeout: timedelta,
        most_bytes: int | None = MOST_BYTES,
        dialect: Dialect = OPENAI,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.model = model
        self.url = transcriptions_url(base_url)
        self._dialect = dialect
        self._tells_times = True
        self._server = SpeechServer(
            client, url=self.url, api_key=api_key, timeout=timeout, most_bytes=most_bytes, clock=clock
        )

    def __repr__(self) -> str:
        return f"OpenAISpeechProvider(model={self.model!r})"

    async def transcribe(self, recording: Recording, call: SpeechCall, job: LeasedJob) -> Transcript:
        answer = await self._server.hear(recording, "file", fields=self._fields(call))
        if self._tells_times and classify_speech.refuses_times(answer.status, answer.body):
            # The model has none; asked for text alone, the server does its work.
            self._tells_times = False
            answer = await self._server.hear(recording, "file", fields=self._fields(call))
        return self._server.transcript(answer, recording, call, self.model)

    def _fields(self, call: SpeechCall) -> list[tuple[str, str]]:
        fields = [(name, self.model) for name in self._dialect.model_fields]
        fields += [("response_format", "verbose_json" if self._tells_times else "json")]
        fields += [("temperature", f"{call.temperature:g}")]
        fields += [("timestamp_granularities[]", "segment")] if self._tells_times else []
        fields += [("language", spoken(call.language))] if call.language else []
        fields += [("prompt", call.prompt)] if call.prompt else []
        return [*fields, *self._dialect.always, *(self._dialect.vad if call.vad else ())]
