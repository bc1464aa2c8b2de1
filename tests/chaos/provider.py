"""A provider that writes down every call: whose job it was, through whose door it came, when it began, how it ended.

A caller tells the name of its job and how long it takes in the prompt: `NAME SECONDS`, and `flaky` where the first
answer is to be nonsense. The answer is `NAME #CALL`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.history import Call, End
from tests.chaos.schedule import Kind
from tests.servers.model_server import JSON, ModelServer, Reply, Request, ServedOver, says, tells

REFUSALS: tuple[tuple[int, object, dict[str, str]], ...] = (
    (503, {"error": {"message": "The server is busy."}}, {}),
    (429, {"error": {"message": "Too many requests."}}, {"retry-after": "1"}),
)


@dataclass
class Provider(ServedOver):
    calls: list[Call] = field(default_factory=list)
    """Those that have ended."""
    open: int = 0
    moods: list[Kind] = field(default_factory=list)
    """What goes wrong with it just now."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Whose door an address belongs to."""

    def __post_init__(self) -> None:
        self._spoilt: set[str] = set()
        self._serials = itertools.count(1)
        self.http = ModelServer(default=self._serve)

    @property
    def port(self) -> int:
        return int(self.http.origin.rpartition(":")[2])

    def fall_ill(self, mood: Kind) -> None:
        self.moods.append(mood)

    def recover(self, mood: Kind) -> None:
        self.moods.remove(mood)

    async def _serve(self, request: Request, reply: Reply) -> None:
        # A long run must not keep them all.
        self.http.requests.clear()
        self.http.looks.clear()
        name, seconds, *manner = request.last_message.split()
        serial, began, how = next(self._serials), time.time(), End.HUNG_UP
        ended = 0.0
        self.open += 1
        try:
            if Kind.STALLS in self.moods:
                await asyncio.Event().wait()
            if Kind.REFUSALS in self.moods:
                how, ended = End.REFUSED, time.time()
                status, body, headers = REFUSALS[serial % len(REFUSALS)]
                await reply.whole(status, json.dumps(body).encode(), {**JSON, **headers})
                return
            await asyncio.sleep(float(seconds))
            if manner and name not in self._spoilt:
                self._spoilt.add(name)
                how, ended = End.REFUSED, time.time()
                await tells(b"nonsense")(request, reply)
                return
            # Noted before its last words: whoever hears them may call again at once.
            how, ended = End.ANSWERED, time.time()
            await says(f"{name} #{serial}")(request, reply)
        finally:
            self.open -= 1
            place = self.places.get(request.headers.get("host", ""), "")
            self.calls.append(Call(serial, name, place, began, ended or time.time(), how))
