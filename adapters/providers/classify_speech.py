"""What a speech server's refusal means, where it means something else than that of a chat server.

Pure. What stands in no table here is looked up in the table of all providers (`classify`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from adapters.providers import classify
from adapters.providers.classify import UNTOLD, Rule
from domain.errors import ErrorCode, Failure, RunFailed, TooLong

REFUSED = frozenset({UNTOLD, 400, 413, 415, 422})
SAYS_NOTHING = frozenset({413})
"""Means that the recording is too large, whatever stands below it."""

TOO_LONG = (
    "audio_filesize_mb",
    "audio_decode_duration_s",
    "maximum file size",
    "file size exceed",
    "file is too large",
    "file too large",
    "maximum content size limit",
    "maximum clip duration",
    "longer than the maximum",
    "which is the maximum for this model",
    "input_too_large",
    "audio is too long",
    "audio too long",
)

RULES = (
    # A server that cannot read its own format option has not looked at the recording.
    Rule(ErrorCode.BAD_INPUT, frozenset({400, 422}), ("response_format",)),
    Rule(ErrorCode.BAD_AUDIO, frozenset({415})),
    Rule(
        ErrorCode.BAD_AUDIO,
        REFUSED,
        (
            "likely empty",
            "file is empty",
            "empty audio",
            "audio_too_short",
            "audio file is too short",
            "failed to decode audio",
            "could not decode",
            "could not be decoded",
            "failed to load audio",
            "failed to read audio",
            "failed to read wav",
            "invalid or unsupported audio",
            "corrupted or unsupported",
            "invalid file format",
            "unrecognized file format",
            "file type is not supported",
            "format not recognised",
            "invalid data found when processing input",
        ),
    ),
    # The model is a chat model: the profile or the server is set up wrongly, not the job.
    Rule(ErrorCode.MODEL_UNAVAILABLE, REFUSED | {501}, ("does not support transcription", "not installed locally")),
)


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime, private: Sequence[str] = ()
) -> RunFailed:
    """What an answer other than 2xx means; the arguments are those of `classify.answer`."""
    return _judged(status, body, classify.answer(status, headers, body, now, private))


def reported(body: bytes, private: Sequence[str] = ()) -> RunFailed:
    """What an error means that came with 200."""
    code = classify.read_error(body).code
    status = int(code) if re.fullmatch(r"[45]\d\d", code) else UNTOLD
    return _judged(status, body, classify.stream_error(body, private))


def refuses_times(status: int, body: bytes) -> bool:
    """Whether the server tells that it can transcribe, but not say when something was said."""
    return status in {400, 422} and "response_format" in _text(body)


def _judged(status: int, body: bytes, failure: Failure) -> RunFailed:
    text = _text(body)
    if status in SAYS_NOTHING or (status in REFUSED and any(sign in text for sign in TOO_LONG)):
        return TooLong(failure.message)
    code = next((rule.code for rule in RULES if rule.matches(status, text)), failure.code)
    return RunFailed(code, failure.message, retry_after=failure.retry_after)


def _text(body: bytes) -> str:
    return classify.read_error(body).text
