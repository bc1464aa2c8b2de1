"""A vLLM without a model: it works on so many requests at once, lets so many more wait, and refuses the rest with 503.

It tells of its load like vLLM, streams its answers over the time that they take, and keeps what callers saw of it. A
client that hangs up frees its place.

    with Vllm(capacity=8, waiting_room=4, service_time=0.5) as server:
        ... server.base_url ...
        assert server.most_working <= 8
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from dataclasses import dataclass, field

from tests.servers.model_server import JSON, ModelServer, Reply, Request, ServedOver, completion, stream

REFUSAL = {
    "error": {
        "message": "The server is overloaded: too many requests in flight.",
        "type": "ServiceUnavailableError",
        "param": None,
        "code": 503,
    }
}


@dataclass
class Vllm(ServedOver):
    """Times are seconds.

    Args:
        capacity: requests that it works on at once (`--max-num-seqs`).
        waiting_room: requests that wait beside them (together: `--max-num-queued-reqs`).
        service_time: how long one takes on average.
        spread: half the width of these times, as a part of their mean.
        refusal_time: vLLM reads and renders a request before it refuses it.
        words: of an answer.
        seed: of the service times: the n-th request that is begun takes as long every time.
    """

    capacity: int
    waiting_room: int
    service_time: float = 0.5
    spread: float = 0.2
    refusal_time: float = 0.0
    words: int = 5
    model: str = "simulated"
    seed: int = 1

    working: int = 0
    most_working: int = 0
    most_waiting: int = 0
    completed: int = 0
    refused: int = 0
    hung_up: int = 0
    """Requests whose client left before the answer was complete."""
    latencies: list[float] = field(default_factory=list)
    """From its coming to its last word, of each request that was answered."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._queue: deque[asyncio.Future[None]] = deque()
        self.http = ModelServer(default=self._serve, scripts_get=True)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def _serve(self, request: Request, reply: Reply) -> None:
        match request.method, request.path:
            case "GET", "/health":
                await reply.whole(200, b"", {})
            case "GET", "/metrics":
                await reply.whole(200, self._metrics(), {"content-type": "text/plain; version=0.0.4; charset=utf-8"})
            case "GET", "/v1/models":
                models = {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "vllm"}]}
                await reply.whole(200, json.dumps(models).encode(), JSON)
            case "POST", "/v1/chat/completions":
                await self._complete(request, reply)
            case _:
                await reply.whole(404, b'{"detail":"Not Found"}', JSON)

    async def _complete(self, request: Request, reply: Reply) -> None:
        came = time.monotonic()
        if self.working >= self.capacity and len(self._queue) >= self.waiting_room:
            self.refused += 1
            await asyncio.sleep(self.refusal_time)
            await reply.whole(503, json.dumps(REFUSAL).encode(), JSON)
            return
        try:
            await self._place()
            try:
                await self._answer(request, reply)
            finally:
                self._leave()
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up += 1
            raise
        self.completed += 1
        self.latencies.append(time.monotonic() - came)

    async def _place(self) -> None:
        """Wait for a place among those that are worked on, first come, first served."""
        if self.working < self.capacity:
            self._enter()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self.most_waiting = max(self.most_waiting, len(self._queue))
        self.http.look_again()
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._queue:
                self._queue.remove(turn)
            elif not turn.cancelled():
                self._leave()
            raise

    def _enter(self) -> None:
        self.working += 1
        self.most_working = max(self.most_working, self.working)
        self.http.look_again()

    def _leave(self) -> None:
        self.working -= 1
        while self._queue:
            turn = self._queue.popleft()
            # One that has hung up in this moment is passed over.
            if not turn.done():
                # Handed over at once, so that nobody who comes now can take it.
                self._enter()
                turn.set_result(None)
                return

    async def _answer(self, request: Request, reply: Reply) -> None:
        takes = self.service_time * self._random.uniform(1 - self.spread, 1 + self.spread)
        text = " ".join(["word"] * self.words)
        if not request.json.get("stream"):
            await asyncio.sleep(takes)
            await reply.whole(200, completion(text, self.model), JSON)
            return
        await reply.start_stream()
        events = stream(text, self.model)
        for event in events[:-1]:
            await reply.piece(event)
            await asyncio.sleep(takes / (len(events) - 1))
        await reply.piece(events[-1])
        await reply.end_stream()

    def _metrics(self) -> bytes:
        labels = f'{{engine="0",model_name="{self.model}"}}'
        figures = {
            "num_requests_running": ("gauge", "Number of requests in model execution batches.", self.working),
            "num_requests_waiting": ("gauge", "Number of requests waiting to be processed.", len(self._queue)),
            "kv_cache_usage_perc": (
                "gauge",
                "KV-cache usage. 1 means 100 percent usage.",
                self.working / self.capacity,
            ),
            "num_preemptions_total": ("counter", "Cumulative number of preemptions from the engine.", 0),
        }
        lines: list[str] = []
        for name, (kind, text, value) in figures.items():
            bare = name.removesuffix("_total")
            lines += [f"# HELP vllm:{bare} {text}", f"# TYPE vllm:{bare} {kind}", f"vllm:{name}{labels} {float(value)}"]
        return ("\n".join(lines) + "\n").encode()
