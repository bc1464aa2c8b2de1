"""What a provider's refusal or silence means: one table for HTTP answers, one for connections that broke.

Pure. Servers say the same thing in many shapes, and some say it in a stream that began with 200; both tables are read
in order and the first match wins. A failure's message may quote the provider, never what was sent to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx
import msgspec
from msgspec import Struct

from domain.errors import ErrorCode, Failure

LONGEST_RETRY_AFTER = timedelta(hours=1)
LONGEST_MESSAGE = 300


class Rule(Struct, frozen=True):
    """An answer with one of these statuses (none: any) that shows one of these signs (none: needs none)."""

    code: ErrorCode
    statuses: frozenset[int] = frozenset()
    signs: tuple[str, ...] = ()

    def matches(self, status: int, text: str) -> bool:
        return (not self.statuses or status in self.statuses) and (
            not self.signs or any(sign in text for sign in self.signs)
        )


class ProviderError(Struct, frozen=True):
    """What a provider said went wrong, whatever the shape it said it in."""

    message: str = ""
    type: str = ""
    code: str = ""
    param: str = ""

    @property
    def text(self) -> str:
        """Everything that a rule may look for, in lower case."""
        return " ".join((self.type, self.code, self.param, self.message)).lower()


UNTOLD = 0
"""The status of an error that came in a stream and gives no hint of one."""

REFUSED = frozenset({UNTOLD, 400, 413, 422})

TOO_LONG = (
    "context_length_exceeded",
    "exceed_context_size",
    "model_context_window_exceeded",
    "request_too_large",
    "maximum context length",
    "maximum context limit",
    "model's context length",
    "exceeds model's maximum context",
    "exceeds the context length",
    "exceeds the available context size",
    "exceeds the maximum number of tokens allowed",
    "exceed context limit",
    "greater than the context length",
    "longer than the context length",
    "when context the overflows",
    "context size has been exceeded",
    "does not fit in context length",
    "prompt is too long",
    "input tokens exceed the configured limit",
    "`inputs` tokens + `max_new_tokens` must be",
)

RULES = (
    # A single field that is too long says so in words much like those of a full context.
    Rule(ErrorCode.BAD_INPUT, REFUSED, ("string_above_max_length", "invalid 'user'")),
    # llama-server and older Ollama builds answer 500 to what the caller got wrong.
    Rule(ErrorCode.CONTEXT_LENGTH, REFUSED | {500}, TOO_LONG),
    Rule(ErrorCode.BAD_INPUT, frozenset({500}), ("parse_error", "failed to parse messages", "input is not supported")),
    Rule(ErrorCode.PROVIDER_UNAVAILABLE, REFUSED, ("model has crashed", "model has unloaded or crashed")),
    Rule(ErrorCode.MODEL_UNAVAILABLE, signs=("model_not_found", "no models loaded", "no model loaded")),
    Rule(ErrorCode.MODEL_UNAVAILABLE, REFUSED, ("failed to load model", "model is unloaded", "model unloaded")),
    # A wrong address or a proxy without a backend: nothing is known about the model.
    Rule(ErrorCode.PROVIDER_UNAVAILABLE, frozenset({404}), ("file not found",)),
    Rule(ErrorCode.MODEL_UNAVAILABLE, frozenset({404}), ("model", "not_found_error", "notfounderror", "not installed")),
    Rule(ErrorCode.PROVIDER_UNAVAILABLE, frozenset({404})),
    Rule(
        ErrorCode.QUOTA_EXHAUSTED,
        signs=("insufficient_quota", "credit_balance_exhausted", "billing_error", "credit balance is too low"),
    ),
    Rule(ErrorCode.QUOTA_EXHAUSTED, frozenset({402})),
    Rule(ErrorCode.RATE_LIMITED, frozenset({429})),
    Rule(ErrorCode.AUTH_ERROR, frozenset({401, 403})),
    Rule(ErrorCode.TIMEOUT, frozenset({408, 504})),
    Rule(ErrorCode.BAD_INPUT, frozenset({400, 413, 422, 501})),
    # 499: the server gave the request up, and not because we hung up. 52x: the proxy of a cloud lost its backend.
    Rule(ErrorCode.PROVIDER_UNAVAILABLE, frozenset({499, 500, 502, 503, 520, 521, 522, 523, 524, 529, 530})),
)

IMPLIED_STATUS = {
    "invalid_request": 400,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "notfounderror": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "slow_down": 429,
    "api_error": 500,
    "internal_error": 500,
    "internalservererror": 500,
    "server_error": 500,
    "not_implemented": 501,
    "server_is_overloaded": 503,
    "unavailable_error": 503,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that a code or a type stands for, where the error came in a stream and has none of its own."""

UNTRUSTED = "The provider's certificate is not trusted."

DISTRUST = {
    9: "The provider's certificate is not valid yet.",
    10: "The provider's certificate has expired.",
    18: "The provider's certificate is signed by nobody but itself: name it in the CA bundle.",
    19: "The provider's certificate is signed by an authority that is not known here: name it in the CA bundle.",
    20: "The provider's certificate is signed by an authority that is not known here: name it in the CA bundle.",
    21: "The provider's certificate is signed by an authority that is not known here: name it in the CA bundle.",
    62: "The provider's certificate is for another host name.",
    64: "The provider's certificate is for another address.",
}
"""By the number that OpenSSL gives to what is wrong with a certificate."""

BROKEN_CALLS: tuple[tuple[type[Exception], ErrorCode, str], ...] = (
    (aiohttp.ClientConnectorDNSError, ErrorCode.PROVIDER_UNAVAILABLE, "The provider's host name is not known."),
    (aiohttp.ClientConnectorCertificateError, ErrorCode.PROVIDER_UNAVAILABLE, UNTRUSTED),
    (aiohttp.ClientConnectorCertificateError, ErrorCode.PROVIDER_UNAVAILABLE, UNTRUSTED),
    (aiohttp.ClientSSLError, ErrorCode.PROVIDER_UNAVAILABLE, "No secure connection to the provider could be made."),
    (aiohttp.ClientConnectorError, ErrorCode.PROVIDER_UNAVAILABLE, "The provider accepts no connections."),
    (aiohttp.ConnectionTimeoutError, ErrorCode.PROVIDER_UNAVAILABLE, "The provider accepted no connection in time."),
    (aiohttp.SocketTimeoutError, ErrorCode.TIMEOUT, "The provider fell silent."),
    (aiohttp.ClientConnectionError, ErrorCode.PROVIDER_UNAVAILABLE, "The provider broke the connection off."),
    (aiohttp.ClientPayloadError, ErrorCode.PROVIDER_UNAVAILABLE, "The provider broke its answer off."),
    (aiohttp.ClientResponseError, ErrorCode.BAD_RESPONSE, "The provider's answer is not HTTP."),
    (httpx.ConnectTimeout, ErrorCode.PROVIDER_UNAVAILABLE, "The provider accepted no connection in time."),
    (httpx.PoolTimeout, ErrorCode.PROVIDER_UNAVAILABLE, "No connection to the provider was free."),
    (httpx.TimeoutException, ErrorCode.TIMEOUT, "The provider fell silent."),
    (httpx.UnsupportedProtocol, ErrorCode.PROVIDER_ERROR, "The provider's address is not an http or https one."),
    (httpx.TransportError, ErrorCode.PROVIDER_UNAVAILABLE, "The connection to the provider failed."),
    (httpx.DecodingError, ErrorCode.BAD_RESPONSE, "The provider's answer is compressed wrongly."),
)

FINISHES = {
    "model_context_window_exceeded": Failure(ErrorCode.CONTEXT_LENGTH, "The model's context was full."),
    "error": Failure(ErrorCode.PROVIDER_ERROR, "The provider gave the answer up."),
    "abort": Failure(ErrorCode.PROVIDER_UNAVAILABLE, "The provider gave the answer up."),
}
"""Finish reasons that are failures."""


def answer(status: int, headers: Mapping[str, str], body: bytes, now: datetime, private: Sequence[str] = ()) -> Failure:
    """What an answer other than 2xx means.

    Args:
        headers: with names in lower case, or a mapping that ignores case.
        private: what the message must not quote, even in part: the prompt and the key.
    """
    error = read_error(body)
    said = f"The provider answered {status}{_quote(error, private)}"
    return Failure(_code(status, error.text), said, retry_after(headers, now))


def stream_error(body: bytes, private: Sequence[str] = ()) -> Failure:
    """What an error means that a provider reports after it has answered 200."""
    error = read_error(body)
    return Failure(_code(_implied_status(error), error.text), f"The provider gave up{_quote(error, private)}")


def broken_call(error: Exception) -> Failure:
    """What it means that a call ended without an answer. The cause tells more than what the transport made of it."""
    for found in (error.__cause__, error):
        for kind, code, message in BROKEN_CALLS:
            if isinstance(found, kind):
                return Failure(code, _distrust(found) or message)
    return Failure(ErrorCode.PROVIDER_ERROR, "The call to the provider failed.")


def _distrust(error: object) -> str | None:
    """What is wrong with the certificate, where that was the trouble."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return DISTRUST.get(getattr(error.certificate_error, "verify_code", 0))
    return None


def empty_answer(finish_reason: str | None, prompt_tokens: int | None, context_window: int | None) -> Failure:
    """What it means that a model finished without a word. Some servers do so when the prompt fills the context."""
    if prompt_tokens is not None and context_window is not None and prompt_tokens >= context_window:
        return Failure(ErrorCode.CONTEXT_LENGTH, f"The prompt fills the model's context of {context_window} tokens.")
    reason = re.sub(r"\W", "", finish_reason or "none")[:40]
    return Failure(ErrorCode.BAD_RESPONSE, f"The answer is empty (finish reason: {reason}).")


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """The wait that the provider asks for, at most an hour; None where it asks for none that makes sense."""
    given = headers.get("retry-after", "")
    seconds = _number(headers.get("retry-after-ms", ""), unit=0.001)
    if seconds is None:
        seconds = _number(given)
    if seconds is None:
        seconds = _seconds_until(given, now)
    return None if seconds is None else timedelta(seconds=min(seconds, LONGEST_RETRY_AFTER.total_seconds()))


def read_error(body: bytes) -> ProviderError:
    """The error in a body of any shape that is in use. Markup and what is not text say nothing."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="replace").strip()
        return ProviderError("" if text.startswith("<") else text)
    return _read_document(document)


def _read_document(document: Any) -> ProviderError:
    match document:
        case {"error": dict(inner)} | {"detail": dict(inner)}:
            return _read_document(inner)
        case {"error": str(message)}:
            return _read_fields({**document, "message": message})
        case {"detail": list(problems)}:
            return ProviderError("; ".join(_problem(problem) for problem in problems if isinstance(problem, dict)))
        case str(message) | {"detail": str(message)}:
            return ProviderError(message)
        case dict():
            return _read_fields(document)
        case _:
            return ProviderError()


def _read_fields(error: Mapping[str, Any]) -> ProviderError:
    return ProviderError(**{name: _text(error.get(name)) for name in ("message", "type", "code", "param")})


def _problem(problem: Mapping[str, Any]) -> str:
    """One validation problem of a FastAPI server: where and what, without the `input` that it repeats."""
    place = problem.get("loc")
    path = ".".join(str(step) for step in place) if isinstance(place, list) else ""
    return f"{path}: {_text(problem.get('msg'))}"


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def _code(status: int, text: str) -> ErrorCode:
    return next((rule.code for rule in RULES if rule.matches(status, text)), ErrorCode.PROVIDER_ERROR)


def _implied_status(error: ProviderError) -> int:
    if re.fullmatch(r"[45]\d\d", error.code):
        return int(error.code)
    return IMPLIED_STATUS.get(error.code.lower()) or IMPLIED_STATUS.get(error.type.lower(), UNTOLD)


# What follows these in an error message is a copy of the request.
REPEATED_REQUEST = re.compile(r"""input_value\s*=|['"]input['"]\s*:|\bmessages\s*=|last read:""", re.IGNORECASE)
KEY = re.compile(r"\b(?:bearer\s+|(?:sk|pk|rk|gsk|hf|xai|key)[-_])[^\s'\",;]{6,}", re.IGNORECASE)
SHORTEST_SECRET, SHORTEST_QUOTE = 4, 16
"""What is shorter is a common word; a run of characters as long as the second that also stands in the prompt is not."""


# Servers print what they were sent in the notation of their language.
ESCAPED = re.compile(r"""\\(?:u([0-9a-f]{4})|x([0-9a-f]{2})|([nrtbf"'/\\]))""", re.IGNORECASE)


def _quote(error: ProviderError, private: Sequence[str]) -> str:
    message = REPEATED_REQUEST.split(error.message, maxsplit=1)[0][: 2 * LONGEST_MESSAGE]
    message = _without(private, _one_line(ESCAPED.sub(_unescaped, message)))
    message = KEY.sub("***", "".join(char if char.isprintable() else " " for char in message))
    message = _one_line(message)
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 1] + "…"
    return f": {message}" if message else "."


def _unescaped(found: re.Match[str]) -> str:
    long, short, char = found.groups()
    if code := long or short:
        return chr(int(code, 16))
    return " " if char.isalpha() else char


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _without(private: Sequence[str], message: str) -> str:
    """The message with every part masked that stands in one of the private texts; a line, and so are they to it."""
    hidden = [False] * len(message)
    for start, end in _quotations([_one_line(text) for text in private], message):
        hidden[start:end] = [True] * (end - start)
    masked = "".join("\0" if hide else char for char, hide in zip(message, hidden, strict=True))
    return re.sub("\0+", "***", masked)


def _quotations(texts: Sequence[str], message: str) -> Iterator[tuple[int, int]]:
    """Where the message repeats the texts: a short one as a word of its own, a long one in any part of it."""
    # There may be thousands of them: an expression is made of those only that are there at all.
    for text in {text for text in texts if SHORTEST_SECRET <= len(text) < SHORTEST_QUOTE and text in message}:
        yield from (found.span() for found in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", message))
    long = "\n".join(text for text in texts if len(text) >= SHORTEST_QUOTE)
    runs = [message[at : at + SHORTEST_QUOTE] for at in range(len(message) - SHORTEST_QUOTE + 1)]
    repeated = {run for run in set(runs) if run in long}
    yield from ((at, at + SHORTEST_QUOTE) for at, run in enumerate(runs) if run in repeated)


def _number(given: str, *, unit: float = 1) -> float | None:
    if not re.fullmatch(r"\s*\d+(\.\d*)?\s*", given, re.ASCII):
        return None
    value = float(given) * unit
    return value if math.isfinite(value) else None


def _seconds_until(given: str, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(given)
    except ValueError:
        return None
    wait = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    return wait if wait >= 0 else None
