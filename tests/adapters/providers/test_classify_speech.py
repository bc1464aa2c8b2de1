from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from adapters.providers import classify_speech
from domain.errors import RunFailed, TooLong

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def refusal(status: int, body: object, **headers: str) -> RunFailed:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return classify_speech.refusal(status, headers, data, NOW, ("the caller's own prompt",))


def openai(message: str, **fields: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (415, {"detail": "Failed to decode audio. The provided file type is not supported."}, "bad_audio"),
        (415, "", "bad_audio"),
        (400, {"detail": "The provided file is likely empty."}, "bad_audio"),
        (400, openai("Invalid or unsupported audio file.", code=400), "bad_audio"),
        (
            400,
            openai("Audio file is too short. Minimum audio length is 0.1 seconds.", code="audio_too_short"),
            "bad_audio",
        ),
        (400, openai("Unrecognized file format. Supported formats: ['flac', 'm4a', 'mp3']"), "bad_audio"),
        (404, {"detail": "Model 'x' is not installed locally. You can download the model"}, "model_unavailable"),
        (404, {"detail": "Model 'x' is not supported"}, "model_unavailable"),
        (404, openai("The model `x` does not exist.", type="NotFoundError", code=404), "model_unavailable"),
        (404, {"detail": "Not Found"}, "provider_unavailable"),
        (400, openai("The model does not support Transcriptions API"), "model_unavailable"),
        (501, openai("The model does not support Transcriptions API"), "model_unavailable"),
        (401, {"error": "Unauthorized"}, "auth_error"),
        (403, {"detail": "Invalid API key."}, "auth_error"),
        (422, {"detail": [{"loc": ["body", "file"], "msg": "Field required"}]}, "bad_input"),
        (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Input should be 'json'"}]}, "bad_input"),
        (429, {"detail": "Too many requests"}, "rate_limited"),
        (429, openai("You exceeded your quota", code="insufficient_quota"), "quota_exhausted"),
        (500, "Internal Server Error", "provider_unavailable"),
        (500, {"detail": "Failed to load audio: ffmpeg version 5"}, "provider_unavailable"),
        (503, {"detail": "no"}, "provider_unavailable"),
        (504, {"detail": "Transcription timed out"}, "timeout"),
        (405, {"detail": "Method Not Allowed"}, "provider_error"),
    ],
)
def test_a_refusal_has_a_code(status: int, body: object, code: str) -> None:
    failed = refusal(status, body)
    assert (failed.failure.code, type(failed)) == (code, RunFailed)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            400,
            openai("Maximum file size exceeded (parameter=audio_filesize_mb, value=28.6)", param="audio_filesize_mb"),
        ),
        (400, openai("Audio is over the limit", param="audio_decode_duration_s")),
        (400, openai("audio duration 1500.1 seconds is longer than 1400 seconds which is the maximum for this model")),
        (400, openai("Maximum clip duration (30s) exceeded.")),
        (400, {"detail": "File too large"}),
        (413, openai("Maximum content size limit (26214400) exceeded (26414400 bytes read)", type="server_error")),
        (413, "<html><h1>413 Request Entity Too Large</h1></html>"),
        (413, ""),
    ],
)
def test_too_large_or_too_long_is_told_apart_for_in_pieces_it_may_do(status: int, body: object) -> None:
    failed = refusal(status, body)
    assert (failed.failure.code, type(failed)) == ("bad_input", TooLong)


def test_a_refusal_keeps_what_the_server_asks_for_and_not_what_it_was_sent() -> None:
    failed = refusal(429, {"detail": "not with the caller's own prompt"}, **{"retry-after": "7"})
    assert failed.failure.retry_after == timedelta(seconds=7)
    assert "own prompt" not in failed.failure.message


def test_a_model_without_times_is_found_out() -> None:
    said = "response_format 'verbose_json' is not compatible with model 'x'. Use 'json' or 'text' instead."
    assert classify_speech.refuses_times(400, json.dumps(openai(said, param="response_format")).encode())
    assert not classify_speech.refuses_times(400, b'{"detail": "The provided file is likely empty."}')
    assert not classify_speech.refuses_times(500, json.dumps(openai(said)).encode())
