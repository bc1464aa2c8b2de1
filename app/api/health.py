"""What a load balancer asks."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, Response, get
from litestar.enums import MediaType

from app.api.documents import Answer, operation
from app.api.injected import Calling, Injected, Scraping
from app.wire import examples
from app.wire.health import ActiveProvider, HealthDetail, Liveness, ReadinessView


class Health(Controller):
    tags = ("health",)

    @get(
        "/healthz",
        operation_id="healthz",
        summary="Does the process live?",
        operation_class=operation(Answer(200, examples.ALIVE, "It does.")),
    )
    async def healthz(self) -> Liveness:
        return Liveness()

    @get(
        "/health",
        operation_id="health",
        summary="Does the process live?",
        description="The same as `/healthz`.",
        operation_class=operation(Answer(200, examples.ALIVE, "It does.")),
    )
    async def health(self) -> Liveness:
        return Liveness()

    @get(
        "/health/provider",
        operation_id="health_provider",
        summary="Who serves a chat that names no model?",
        description="What is configured; `/api/v1/providers/status` asks the server.",
        operation_class=operation(Answer(200, examples.ACTIVE_PROVIDER, "The active provider, or that there is none.")),
    )
    async def provider(self, services: Injected) -> ActiveProvider:
        return ActiveProvider.of(services.providers.active)

    @get(
        "/readyz",
        operation_id="readyz",
        summary="Can the service do its work?",
        description=(
            "PostgreSQL is needed. Without the broker the service is degraded: it goes on, only slower. "
            "A process that was asked to stop is down, though it still answers for a moment."
        ),
        operation_class=operation(
            Answer(200, examples.READY, "It can."),
            Answer(503, examples.UNREADY, "PostgreSQL cannot be reached, or the process stops."),
        ),
    )
    async def readyz(self, services: Injected) -> Response[ReadinessView]:
        view = ReadinessView.of(await services.report.readiness(), leaving=services.watch.leaving)
        return Response(view, status_code=view.status_code)

    @get(
        "/metrics",
        operation_id="metrics",
        summary="Figures for Prometheus",
        description=(
            "In Prometheus' text format, or as OpenMetrics where `Accept` asks for that; docs/metrics.md has all. "
            "Figures of the whole installation come from the process whose scheduler leads."
        ),
        media_type=MediaType.TEXT,
        operation_class=operation(Answer(200, examples.METRICS, "The figures.", media_type="text/plain")),
    )
    async def metrics(self, request: Request[Any, Any, Any], scrape: Scraping) -> Response[bytes]:
        page = await scrape(request.headers.get("accept", ""))
        return Response(page.body, headers={"content-type": page.content_type})


class Diagnosed(Controller):
    """Open to everybody, though not everybody is told all."""

    tags = ("health",)

    @get(
        "/health/detail",
        operation_id="health_detail",
        summary="How does the service fare, part by part?",
        description=(
            "For people and dashboards; a load balancer asks `/readyz`. The status is 200 whatever is wrong, and the "
            "answer takes three seconds at most: a part that is away or slow is told as that. Open to everybody; where "
            "the service has tokens, what is wrong in particular is told to those that may read."
        ),
        operation_class=operation(Answer(200, examples.HEALTH_DETAIL, "How it fares.")),
    )
    async def detail(self, services: Injected, caller: Calling) -> HealthDetail:
        return HealthDetail.of(await services.diagnose.diagnosis(), caller)
