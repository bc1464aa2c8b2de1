"""The variables that may be set by their names, and those for which the chart has a value of their own."""

from __future__ import annotations

from app.settings import from_env
from tests.docs.test_documents import Recorded
from tests.helm.chart import CHART

FILE = CHART / "files" / "variables.txt"

MANAGED = {
    "AI_SERVICE_CONFIG",
    "AI_SERVICE_TOKEN",
    "AI_SERVICE_TOKENS",
    "AMQP_URL",
    "DATABASE_DIRECT_URL",
    "DATABASE_URL",
    "HTTP_HOST",
    "HTTP_PORT",
    "MIGRATE_ON_START",
    "RABBITMQ_MANAGEMENT_URL",
    "RABBITMQ_QUEUE_TYPE",
    "SCHEDULER_HTTP_HOST",
    "SCHEDULER_HTTP_PORT",
    "SHUTDOWN_GRACE",
    "WORKER_CLAIM_LIMIT",
    "WORKER_HTTP_HOST",
    "WORKER_HTTP_PORT",
    "WORKER_ID",
}
UP_ONLY = {"DATA_DIR", "PROVIDER_DISCOVERY"}


def read_by_the_service() -> set[str]:
    environment = Recorded()
    from_env(environment)
    return environment.asked


def settable() -> str:
    """As the chart's file has them. Keys are left to Secrets."""
    names = read_by_the_service() - MANAGED - UP_ONLY
    return "".join(f"{name}\n" for name in sorted(names) if not name.endswith("_API_KEY"))
