"""docs/errors.md: every error code, what it means, what follows, and who mends it."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from actors.chain import FALL_BACK_ON
from app.api.problems import CHATS
from domain.circuit import Sign, sign_of
from domain.errors import ErrorCode, Failure
from domain.retry import MAX_GIVE_BACKS, RETRIES, Retry, RetryPolicy
from tests.docs.markdown import code, paragraphs, table


class Told(NamedTuple):
    """What no table of the code says."""

    means: str
    mended_by: str
    how: str


CALLER, OPERATOR, NOBODY = "caller", "operator", "nobody"

TOLD = {
    ErrorCode.PROVIDER_UNAVAILABLE: Told(
        "The model server could not be reached, broke the connection off, or said that it is overloaded or starting.",
        OPERATOR,
        "Look whether the server runs: `ai-service doctor`, `GET /api/v1/providers/status`. Its queue's circuit holds "
        "the jobs meanwhile; it closes by itself.",
    ),
    ErrorCode.MODEL_UNAVAILABLE: Told(
        "The server is there and does not serve the model, or no model is configured.",
        OPERATOR,
        "Load the model, or mend the `model` of the profile; `serves_model` in the providers' status tells.",
    ),
    ErrorCode.PROVIDER_ERROR: Told(
        "The server answered with an error that means nothing more exact.",
        OPERATOR,
        "Read the job's runs, `GET /api/v1/jobs/{id}/runs`, and the server's own log.",
    ),
    ErrorCode.DEPENDENCY_ERROR: Told(
        "Something else that the run needs failed: mostly the host that a recording is fetched from.",
        "whoever runs it",
        "The message names the host. Uploading the recording makes the job independent of it.",
    ),
    ErrorCode.TIMEOUT: Told(
        "The call, or the run, took longer than it may.",
        OPERATOR,
        "A time-out of the profile, `max_run_time` of the task type, or a server with more calls than it can take: "
        "lower `concurrency`, or make the queue adaptive.",
    ),
    ErrorCode.STORAGE_ERROR: Told(
        "PostgreSQL or the worker's disk did not take or give what the run needs.",
        OPERATOR,
        "Look at PostgreSQL, and at the free space of the worker's temporary folder.",
    ),
    ErrorCode.STALE_WORKER: Told(
        "Its worker died or did not renew its lease in time; after `MAX_CRASHES` deaths the job fails with it.",
        OPERATOR,
        "If several workers died under one job, it is a poison job: look at its input, and at why the process died "
        "(out of memory?).",
    ),
    ErrorCode.BAD_RESPONSE: Told(
        "The answer cannot be used: empty, not the JSON that was asked for, not fitting its schema, too large.",
        CALLER,
        "Where it happens often: a simpler schema, a larger `max_tokens`, or another model.",
    ),
    ErrorCode.TRANSCRIPT_HALLUCINATION: Told(
        "The transcript is made up: repeated, overlapping or phantom text beyond what the quality gate cuts out.",
        CALLER,
        "Listen to the recording; another model, or no `prompt`.",
    ),
    ErrorCode.TRANSCRIPT_INCOMPLETE: Told(
        "The transcript ends well before the speech does.",
        OPERATOR,
        "Let the server take shorter pieces: `max_file_length` of the profile.",
    ),
    ErrorCode.INTERNAL_ERROR: Told(
        "A bug of ours, or of an external worker.", OPERATOR, "The worker's log has it, with the `job_id`."
    ),
    ErrorCode.UNKNOWN: Told(
        "An external worker could not say more.", "whoever runs that worker", "Let it report a better code."
    ),
    ErrorCode.BAD_AUDIO: Told(
        "The recording has no sound, or cannot be decoded.", CALLER, "Send another file; the same one fails again."
    ),
    ErrorCode.BAD_INPUT: Told(
        "The input is not what the task type takes, or the server refused it as it is.",
        CALLER,
        "The message says what is wrong. Most of it is refused on submission already, with 422.",
    ),
    ErrorCode.CONTEXT_LENGTH: Told(
        "The prompt does not fit into the model's context.",
        CALLER,
        "Send less, or name a profile with a larger context. The operator may configure one as a fallback.",
    ),
    ErrorCode.UNSUPPORTED_TASK: Told(
        "The profile cannot do this kind of work.", CALLER, "Name a profile of the right kind."
    ),
    ErrorCode.CANCELLED: Told(
        "Somebody cancelled it, or its `deadline_at` passed before it started.",
        NOBODY,
        "`retry` starts it afresh, if it is wanted after all.",
    ),
    ErrorCode.RATE_LIMITED: Told(
        "The server takes no more at the moment (429).",
        NOBODY,
        "It passes. Where it is frequent, lower the queue's `concurrency`, or make it adaptive.",
    ),
    ErrorCode.AUTH_ERROR: Told(
        "The server refuses the key (401, 403).",
        OPERATOR,
        "Give the profile a key that is taken; then `ai-service queues close-circuit NAME`, or wait a minute.",
    ),
    ErrorCode.QUOTA_EXHAUSTED: Told(
        "The account at the provider is used up.",
        OPERATOR,
        "Top it up, or set another key; then close the circuit as above.",
    ),
}

FAST, SLOW = (f"{int(delay.total_seconds())} s" for delay in (RetryPolicy().fast, RetryPolicy().slow))
FOLLOWS = {
    Retry.SOON: f"tried again after `RETRY_DELAY_FAST` ({FAST}), while attempts remain",
    Retry.LATER: f"tried again after `RETRY_DELAY_SLOW` ({SLOW}), while attempts remain",
    Retry.NEVER: "final",
    Retry.GIVE_BACK: f"given back to its place, at most {MAX_GIVE_BACKS} times; then as with `RETRY_DELAY_SLOW`",
}

OPENS = {
    Sign.DOWN: "at once where the server is down, else at the `CIRCUIT_THRESHOLD`th in a row",
    Sign.REFUSED: "at once",
}


BEGINNING = """\
A job that failed, or that waits for its next try, says why in `error_code`. The set is closed and the same for every
provider: branch on it. `error_message` is for people, and may change."""

COLUMNS = """\
* **Counts**: as an attempt. A job fails for good once `attempts` has reached `max_attempts`.
* **Opens the circuit**: the whole queue waits until the server is well again
  ([how](operations.md#when-a-model-server-is-sick)). A run that found it so is given back, uncounted.
* **Asks the fallbacks**: the profile's [fallbacks](providers.md#fallbacks) are asked in the same run before it fails.
* **`/chat`**: the status of a [chat](api.md#chat) that ends so. It is tried once; while the circuit is open it is
  answered 503, whatever opened it."""

BESIDES = """\
A provider's `Retry-After` can lengthen a delay, never shorten it. The death of a built-in worker is no attempt: its
jobs go back at once, `crashes` one higher, and fail with `stale_worker` after `MAX_CRASHES` (3) of them. An external
worker's lease that runs out is one."""

END = """\
A request that is refused has no error code but a problem document, with a `type` for each kind: [errors of the
API](api.md#errors)."""


def page() -> str:
    return paragraphs(
        "# Error codes",
        "*Written from the code by `make reference`.*",
        BEGINNING,
        "## What follows",
        table(
            ["error code", "what follows", "counts", "opens the circuit", "asks the fallbacks", "`/chat`"],
            [_consequences(error_code) for error_code in ErrorCode],
        ),
        COLUMNS,
        BESIDES,
        "## What it means, and who mends it",
        table(
            ["error code", "means", "mended by", "how"],
            [(code(error_code), *TOLD[error_code]) for error_code in ErrorCode],
        ),
        END,
    )


def _consequences(error_code: ErrorCode) -> tuple[str, ...]:
    sign = sign_of(Failure(error_code), healthy=False)
    return (
        code(error_code),
        FOLLOWS[RETRIES[error_code]],
        _counts(error_code, sign),
        OPENS.get(sign, ""),
        "yes" if error_code in FALL_BACK_ON else "",
        str(int(CHATS.get(error_code, HTTPStatus.BAD_GATEWAY))),
    )


def _counts(error_code: ErrorCode, sign: Sign) -> str:
    if sign is Sign.DOWN:
        return "unless the server is down"
    return "no" if RETRIES[error_code] is Retry.GIVE_BACK else "yes"
