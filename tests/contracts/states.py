"""The provider states that docs/contracts/pacts ask for, brought about as any caller would: through the API.

A pact's verifier posts a state's name and takes values from the answer (the job's id, its lease token) into the request
that it then makes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

WORKER = "gpu-7"
RECORDING: dict[str, Any] = {
    "owner_service": "telephony",
    "owner_ref": "call/4712",
    "task_type": "transcription",
    "model_profile": "whisperx-large",
    "priority": "high",
    "input": {"audio_url": "https://records.example.com/4711.ogg", "language": "en"},
}
TRANSCRIPT = {
    "schema_version": "ai.transcription_result.v1",
    "language": "en",
    "segments": [{"start": 0.0, "end": 2.4, "text": "Good morning.", "speaker": "SPEAKER_00"}],
    "duration_ms": 6214,
}
MESSAGE: dict[str, Any] = {
    "owner_service": "telegram-monitor",
    "task_type": "telegram_classification",
    "model_profile": "read-elsewhere",
    "labels": {"channel": "news"},
    "max_attempts": 1,
    "input": {"user": "Is this about sport?"},
}

Values = dict[str, Any]


class States:
    """Each method is a state; what it returns may be named in a pact as `${job_id}`."""

    def __init__(self, caller: httpx.Client) -> None:
        self.caller = caller

    def enter(self, name: str) -> Values:
        return STATES[name](self) if name else {}

    def submitted_under_a_key(self) -> Values:
        key = {"Idempotency-Key": '"call-4712"'}
        return {"job_id": self._ask("/jobs", RECORDING, headers=key)["id"]}

    def waiting(self) -> Values:
        return {"job_id": self._ask("/jobs", RECORDING)["id"]}

    def held(self, job: dict[str, Any] = RECORDING) -> Values:
        # Of a profile of its own, so that no other job is claimed; the worker that reports need not care.
        submitted = self._ask("/jobs", job | {"model_profile": f"{job['model_profile']}-{next(_numbers)}"})
        claim = {"worker_id": WORKER, "model_profiles": [submitted["model_profile"]]}
        [claimed] = self._ask("/jobs/claim", claim)["jobs"]
        return {"job_id": claimed["id"], "lease_token": claimed["lease_token"]}

    def transcribed(self) -> Values:
        return self._ended("complete", self.held(), result=TRANSCRIPT)

    def undecodable(self) -> Values:
        return self._ended("fail", self.held(), error_code="bad_audio", error_message="There is no audio stream.")

    def lost(self) -> Values:
        held = self.held()
        self._ask(f"/jobs/{held['job_id']}/cancel", {})
        return held

    def timed_out(self) -> Values:
        for _ in range(2):
            self._ended("fail", self.held(MESSAGE), error_code="timeout")
        return {}

    def released(self) -> Values:
        for verb in ("resume", "start"):
            self._ask(f"/queue/{verb}", {}, root=True)
        return {}

    def paused(self) -> Values:
        self.released()
        self._ask("/queues/gpu.llm/pause", {})
        return {}

    def _ended(self, how: str, held: Values, **report: Any) -> Values:
        self._ask(f"/jobs/{held['job_id']}/{how}", {"lease_token": held["lease_token"], **report})
        return held

    def _ask(self, path: str, body: dict[str, Any], *, root: bool = False, **options: Any) -> dict[str, Any]:
        path = str(self.caller.base_url.join(path)) if root else path
        answer: dict[str, Any] = self.caller.post(path, json=body, **options).raise_for_status().json()
        return answer


STATES: dict[str, Callable[[States], Values]] = {
    "the recording of call 4712 was submitted under the key call-4712": States.submitted_under_a_key,
    "a recording waits to be transcribed": States.waiting,
    "a recording was transcribed": States.transcribed,
    "a recording cannot be decoded": States.undecodable,
    "gpu-7 holds a job": States.held,
    "a job was cancelled while gpu-7 held it": States.lost,
    "no queue is held": States.released,
    "the queue gpu.llm is paused": States.paused,
    "two messages of the channel news failed with timeout": States.timed_out,
}
_numbers = iter(range(1_000_000))


@contextmanager
def served(states: States) -> Iterator[str]:
    """An address that brings a state about when it is posted to."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the base class's name for it
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            values = json.dumps(states.enter(asked["state"]) if asked["action"] == "setup" else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(values)))
            self.end_headers()
            self.wfile.write(values)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        serving.join()
