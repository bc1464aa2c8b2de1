"""Whether the service lives and can do its work."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from domain.usecases.report import Readiness


class Liveness(Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Components(Struct, frozen=True):
    postgres: Literal["ok", "down"]
    broker: Literal["ok", "down"]


class ReadinessView(Struct, frozen=True):
    """Without PostgreSQL, or about to stop, the service is down; without its broker it is only slower."""

    status: Literal["ok", "degraded", "down"]
    components: Components

    @classmethod
    def of(cls, readiness: Readiness, *, leaving: bool) -> ReadinessView:
        components = Components(_word(readiness.storage), _word(readiness.broker))
        if leaving or not readiness.storage:
            return cls("down", components)
        return cls("ok" if readiness.broker else "degraded", components)

    @property
    def status_code(self) -> int:
        return 503 if self.status == "down" else 200


def _word(works: bool) -> Literal["ok", "down"]:
    return "ok" if works else "down"
