"""Every operation of the API's description, tried with requests that fit it and with requests that do not.

All of schemathesis' checks are on: no 5xx, no status, media type, header or document that the description does not
name, what fits is accepted, what does not fit is refused, unknown methods are 405 with `Allow`, no token is 401.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from random import randrange
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID
from zlib import crc32

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.openapi.checks import JsonSchemaError, RejectedPositiveData
from schemathesis.specs.openapi.schemas import OpenApiSchema

from app.wire import examples
from tests.contracts.conftest import Served
from tests.contracts.documents import description

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
"""Of each operation, beside those at the edges of its description."""

ANEW = "FUZZ_EXAMPLES" in os.environ
"""Other ones in each run; otherwise always the same."""

BEYOND_SCHEMAS = {
    r"^/Last-Event-ID: ": "only one that a stream has given out",
    r"/idempotency_key: The header (must be a quoted string|is not UTF-8)": "how headers are written",
    r"/idempotency_key: This key came with another request": "what was sent before",
    r"^/messages: give `messages`, or `user`": "one of two fields",
    r"^/response_format/json_schema": "what a JSON schema is, and that `json_schema` needs one",
    r": No filter is given": "one of many fields",
    r": The time is beyond the calendar": "the year 9999 in UTC",
    r"a NUL character( or half a surrogate pair)?\.$": "what PostgreSQL cannot store, however deep in the input",
}
"""What a schema cannot say, or not without hiding what it says: by the problem that is told."""


def described() -> OpenApiSchema:
    schema = schemathesis.openapi.from_dict(json.loads(description()))
    schema.config.seed = randrange(2**32) if ANEW else 1
    schema.config.generation.update(with_security_parameters=False)
    schema.config.max_stream_events = 1
    schema.config.phases.fuzzing.extra_data_sources.responses = False
    return schema


schema, strangers = described(), described()
strangers.config.phases.coverage.enabled = False
tried = settings(
    max_examples=EXAMPLES,
    derandomize=not ANEW,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the jobs are those of an operation
)


@schema.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Whether it is one: a schema cannot say everything, and a query string knows only texts."""
    if isinstance(failure, RejectedPositiveData) and response.status_code == 422:
        return not all(_is_beyond_schemas(problem, case.body) for problem in response.json()["errors"])
    if isinstance(failure, JsonSchemaError) and response.headers["content-type"][0].startswith("text/event-stream"):
        return False  # until OpenAPI 3.2 only the stream as a whole, a text, has a schema
    if isinstance(failure, AcceptedNegativeData) and _only_the_query_is_negative(case):
        return not _fits_as_text(urlsplit(response.request.url or "").query, case)
    return True


def _is_beyond_schemas(problem: dict[str, str], body: Any) -> bool:
    """Whether something is refused for a reason that the description gives in words only."""
    if re.fullmatch(r"Expected `int( \| null)?`, got `float`", problem["detail"]):
        return bool(_at(problem["pointer"], body).is_integer())  # to JSON Schema 98.0 is an integer, to us it is not
    return any(re.search(pattern, f"{problem['pointer']}: {problem['detail']}") for pattern in BEYOND_SCHEMAS)


def _at(pointer: str, document: Any) -> Any:
    for step in pointer.split("/")[1:]:
        document = document[int(step) if isinstance(document, list) else step]
    return document


def _only_the_query_is_negative(case: Case[Any]) -> bool:
    meta = case.meta
    negative = [place for place in ParameterLocation if meta is not None and meta.is_negative_at(place)]
    return negative == [ParameterLocation.QUERY]


def _fits_as_text(query: str, case: Case[Any]) -> bool:
    """Whether the query, as it was sent, is valid: `true` and `["true"]` look the same there."""
    schemas = {parameter.name: parameter.definition["schema"] for parameter in case.operation.query}
    return all(
        name in schemas and any(jsonschema_rs.is_valid(schemas[name], reading) for reading in _readings(values))
        for name, values in parse_qs(query, keep_blank_values=True).items()
    )


def _readings(values: list[str]) -> Iterator[Any]:
    yield values
    if len(values) == 1:
        yield values[0]
        with suppress(ValueError):
            yield json.loads(values[0])


@dataclass(frozen=True)
class Jobs:
    """Some in every state that a caller can bring about."""

    ids: list[str]
    ended: list[str]
    leases: dict[str, str]
    """Of those that run, the token."""


@pytest.fixture
def released(service: Served, caller: httpx.Client) -> None:
    """No queue is held, whatever the operation before has done."""
    for verb in ("resume", "start"):
        caller.post(f"{service.url}/queue/{verb}").raise_for_status()
    caller.post(f"/queues/{examples.QUEUE.name}/close-circuit").raise_for_status()


@pytest.fixture
def jobs(caller: httpx.Client, released: None) -> Jobs:
    profile = f"elsewhere-{next(_number)}"
    completed, failed = _submit(caller, "practice"), _submit(caller, "practice", practice={"error_code": "bad_input"})
    cancelled, pending = _submit(caller, profile), _submit(caller, profile)
    running = [_submit(caller, profile, priority="high") for _ in range(RUNNING)]
    claim = {"worker_id": "fuzz", "model_profiles": [profile], "limit": RUNNING}
    claimed = caller.post("/jobs/claim", json=claim).raise_for_status().json()["jobs"]
    assert {job["id"] for job in claimed} == set(running)
    caller.post(f"/jobs/{cancelled}/cancel").raise_for_status()
    for job in (completed, failed):
        caller.get(f"/jobs/{job}", params={"wait": 10}).raise_for_status()
    ended = [completed, failed, cancelled]
    return Jobs([*ended, pending, *running], ended, {job["id"]: job["lease_token"] for job in claimed})


RUNNING = 4
EXAMPLE_ID = str(examples.JOB_ID)
_number = count()


def _submit(caller: httpx.Client, profile: str, *, priority: str = "normal", **practice: object) -> str:
    body = {"owner_service": "fuzz", "task_type": "llm_chat", "model_profile": profile, "priority": priority}
    answer = caller.post("/jobs", json={**body, "input": {"user": "Hello", **practice}})
    return str(answer.raise_for_status().json()["id"])


@schema.parametrize()
@tried
def test_an_operation_does_what_it_says(case: Case[Any], service: Served, jobs: Jobs):
    _aim(case, jobs)
    _make_sense(case)
    _hurry(case)
    case.call_and_validate(base_url=service.url, headers=service.headers)


@strangers.parametrize()
@settings(max_examples=5, derandomize=not ANEW)
def test_without_a_token_only_health_is_told(case: Case[Any], service: Served):
    response = case.call_and_validate(base_url=service.url)

    if case.path.startswith(("/api/", "/queue/", "/chat")) and case.method != "OPTIONS":
        assert response.status_code in (401, 405)


def _aim(case: Case[Any], jobs: Jobs) -> None:
    """Most names and ids are of what exists, those of the examples of jobs that run; most lease tokens are theirs."""
    if "name" in case.path_parameters:
        name = str(case.path_parameters["name"])
        case.path_parameters = {**case.path_parameters, "name": _one_of([examples.QUEUE.name] * 3 + [name], name)}
    if isinstance(queue := case.query.get("queue"), str) and case.path.startswith("/queue/"):
        case.query = {**case.query, "queue": _one_of([examples.QUEUE.name, queue], queue)}
    job = str(case.path_parameters.get("job_id"))
    if not _is_uuid(job):
        return
    known = list(jobs.leases) if job == EXAMPLE_ID else [*jobs.ids, job]
    if "Last-Event-ID" in case.headers:
        known = jobs.ended  # of the others there may be nothing to tell for as long as anybody listens
    job = _one_of(known, [job, case.body])
    case.path_parameters = {**case.path_parameters, "job_id": job}
    if isinstance(case.body, dict) and _is_uuid(token := case.body.get("lease_token")) and job in jobs.leases:
        case.body = {**case.body, "lease_token": _one_of([jobs.leases[job], jobs.leases[job], str(token)], token)}


def _one_of(choices: list[str], what: object) -> str:
    """Always the same one for the same thing."""
    return choices[crc32(repr(what).encode()) % len(choices)]


def _make_sense(case: Case[Any]) -> None:
    """Give a request that fits the description what it needs beyond that to be accepted."""
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    # A cursor is good only for the list that gave it out; there are tests of that.
    case.query = {name: value for name, value in case.query.items() if name != "cursor"}
    if case.operation.definition.raw["operationId"] == "upload":
        case.query = {"owner_service": "fuzz", **case.query}
    body: Any = case.body
    if not isinstance(body, dict):
        return
    if "idempotency_key" in body:
        case.headers.pop("Idempotency-Key", None)
    if case.operation.definition.raw["operationId"] in ("submit_job", "erase_jobs"):
        case.body = {"owner_service": "fuzz", **_sensible(body)}
    elif case.operation.definition.raw["operationId"] == "submit_batch":
        case.body = {
            "defaults": NEEDED | _sensible(body.get("defaults", {})),
            "jobs": list(map(_sensible, body["jobs"])),
        }


NEEDED: dict[str, Any] = {"owner_service": "fuzz", "task_type": "llm_chat", "model_profile": "elsewhere", "input": {}}


def _sensible(job: dict[str, Any]) -> dict[str, Any]:
    """Without a deadline that may be before the start, and with a key of its own where there is room for one."""
    job = {name: value for name, value in job.items() if name != "deadline_at" or not job.get("run_at")}
    if len(key := str(job.get("idempotency_key", ""))) in range(1, 200):
        job["idempotency_key"] = f"{key}-{crc32(repr(job).encode())}"
    return job


def _hurry(case: Case[Any]) -> None:
    """A valid wait becomes a six-hundredth of itself, 0.1 s at most, so its own bounds are not tried here."""
    if (wait := _number_in(case.query.get("wait"))) is not None and 0 <= wait <= 60:
        case.query = {**case.query, "wait": wait / 600}
    if prefer := case.headers.get("Prefer"):
        case.headers["Prefer"] = re.sub(r"wait\s*=\s*\d+", "wait=0", str(prefer), flags=re.IGNORECASE)
    if isinstance(case.body, dict) and isinstance(given := case.body.get("wait"), int | float) and 0 <= given <= 30:
        case.body = {**case.body, "wait": given / 600}


def _number_in(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _is_uuid(value: object) -> bool:
    try:
        return bool(UUID(str(value)))
    except ValueError:
        return False
