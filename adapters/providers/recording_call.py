"""One call of a speech server: a recording goes out as part of a form, from the disk and piece by piece.

Nothing is sent twice here, and no connection is used twice: a server that fails over one customer's file may close the
connection just when the next recording has been sent on it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import BinaryIO

import httpx
from msgspec import Struct
from msgspec.structs import replace

from adapters.providers import classify, classify_speech
from adapters.providers.client import (
    CALL_ERRORS,
    bearer,
    open_client,
    read,
    read_error,
    utc_now,
)
from adapters.providers.transcription import read_transcript
from domain.errors import ErrorCode, RunFailed, TooLong
from domain.speech import Recording, SpeechCall, Transcript

PIECE = 256 << 10
LONGEST_ANSWER = 32 << 20
"""Five hours with each word's times and twice over, as WhisperX gives them, are half of it."""
Fields = Sequence[tuple[str, str]]


def open_speech_client(*, verify: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
    """A client for any number of speech servers and calls. It belongs to one event loop and is to be closed there.

    Unlike that of other providers it keeps no connection, and waits for an answer as long as the call may take.

    Args:
        verify: whom it trusts.
    """
    return open_client(idle=None, verify=verify, keeps_connections=False)


class SpeechAnswer(Struct, frozen=True):
    """What a server answered, well or not."""

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").lower()


class SpeechServer:
    """Where recordings are sent to.

    Args:
        client: of `open_speech_client`; another one has servers that break connections fail calls that did nothing.
        url: of the call itself.
        api_key: sent as a bearer token, shown nowhere.
        timeout: for a whole call; a speech server says nothing until it has finished.
        most_bytes: of a recording; None: the server tells.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        url: str,
        api_key: str,
        timeout: timedelta,
        most_bytes: int | None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.url = url
        self._clock = clock
        self._client = client
        self._api_key = api_key
        self._timeout = timeout.total_seconds()
        self._most_bytes = most_bytes

    async def hear(self, recording: Recording, name: str, *, fields: Fields = (), query: Fields = ()) -> SpeechAnswer:
        """Send the recording as the form's part of this name, and these fields before it.

        Raises:
            RunFailed: there was no answer, or the recording is too large to be sent (`TooLong`) or no longer there.
        """
        with _opened(recording) as file:
            form = _Form(file, recording, name, fields)
            self._check_size(form.file_size)
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._send(form, query)
            # First: some of aiohttp's errors are a TimeoutError too.
            except CALL_ERRORS as error:
                if form.unreadable:
                    raise _lost(form.unreadable) from error
                raise RunFailed.of(classify.broken_call(error)) from error
            except TimeoutError as error:
                raise RunFailed(ErrorCode.TIMEOUT, f"There was no transcript after {self._timeout:g} s.") from error

    def transcript(self, answer: SpeechAnswer, recording: Recording, call: SpeechCall, model: str | None) -> Transcript:
        """What the server heard, by the model that it names, or else this one.

        Raises:
            RunFailed: it refused, or its answer is no transcript.
        """
        private = (self._api_key, call.prompt)
        if not answer.is_success:
            raise classify_speech.refusal(answer.status, answer.headers, answer.body, self._clock(), private)
        transcript = read_transcript(answer.body, answer.content_type, recording.sound.seconds, private)
        return replace(transcript, model=transcript.model or model)

    def _check_size(self, size: int) -> None:
        if self._most_bytes is not None and size > self._most_bytes:
            raise TooLong(f"The recording has {size} bytes, and the provider takes {self._most_bytes}.")

    async def _send(self, form: _Form, query: Fields) -> SpeechAnswer:
        sent = self._client.stream(
            "POST",
            httpx.URL(self.url).copy_merge_params(list(query)),
            content=form,
            headers=self._headers(form),
            timeout=self._patience(),
        )
        async with sent as response:
            body = await (read(response, LONGEST_ANSWER) if response.is_success else read_error(response))
            return SpeechAnswer(response.status_code, response.headers, body)

    def _headers(self, form: _Form) -> dict[str, str]:
        return {
            "content-type": f"multipart/form-data; boundary={form.boundary}",
            # Some servers cannot read a body whose length they are not told.
            "content-length": str(form.size),
            "connection": "close",
            "accept-encoding": "identity",
            **bearer(self._api_key),
        }

    def _patience(self) -> httpx.Timeout:
        usual = self._client.timeout
        return httpx.Timeout(connect=usual.connect, write=usual.write, pool=usual.pool, read=None)


FILE_NAMES = {"mov": "mp4", "quicktime": "mp4", "matroska": "webm", "mpeg": "mp3"}
"""Formats that speech servers know under another ending."""
MEDIA_TYPES = {"mp3": "audio/mpeg", "m4a": "audio/mp4", "mp4": "audio/mp4", "oga": "audio/ogg"}


class _Form:
    """A form with one file in it, which is read while it is sent."""

    def __init__(self, file: BinaryIO, recording: Recording, name: str, fields: Fields) -> None:
        self.boundary = secrets.token_hex(16)
        self.file_size = os.fstat(file.fileno()).st_size
        self.unreadable: OSError | None = None
        """Why the file could not be read to its end."""
        self._file = file
        # Some servers decide by the name's ending what the file is.
        ending = _ending(recording.sound.format)
        media_type = MEDIA_TYPES.get(ending, f"audio/{ending}")
        parts = [self._part(f'name="{field}"\r\n\r\n{value}\r\n') for field, value in fields]
        opening = self._part(f'name="{name}"; filename="recording.{ending}"\r\nContent-Type: {media_type}\r\n\r\n')
        self._before = "".join((*parts, opening)).encode()
        self._after = f"\r\n--{self.boundary}--\r\n".encode()

    @property
    def size(self) -> int:
        return len(self._before) + self.file_size + len(self._after)

    def _part(self, rest: str) -> str:
        return f"--{self.boundary}\r\nContent-Disposition: form-data; {rest}"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._before
        left = self.file_size
        while left:
            piece = await self._piece(left)
            left -= len(piece)
            yield piece
        yield self._after

    async def _piece(self, left: int) -> bytes:
        try:
            piece = await asyncio.to_thread(self._file.read, min(PIECE, left))
            if not piece:
                raise OSError("the file has become shorter")
        except OSError as error:
            self.unreadable = error
            raise
        return piece


@contextmanager
def _opened(recording: Recording) -> Iterator[BinaryIO]:
    try:
        file = recording.path.open("rb")
    except OSError as error:
        raise _lost(error) from error
    with file:
        yield file


def _ending(format_: str) -> str:
    """Of a file of this format, of which a decoder may know several names at once."""
    first = format_.partition(",")[0].lower()
    return FILE_NAMES.get(first, first if first.isascii() and first.isalnum() else "bin")


def _lost(error: OSError) -> RunFailed:
    return RunFailed(ErrorCode.STORAGE_ERROR, f"The recording cannot be read again: {os.strerror(error.errno or 5)}.")
