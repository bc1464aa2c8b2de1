"""Providers over HTTP: how each of them is."""

from __future__ import annotations

from litestar import Controller, get

from app.api.documents import Answer, operation, refusals
from app.api.injected import Injected
from app.wire import examples
from app.wire.providers import ProviderList
from domain.access import Right


class ProvidersAsked(Controller):
    path = "/providers"
    tags = ("figures",)
    opt = {"right": Right.READ}  # noqa: RUF012  # as Litestar declares it

    @get(
        "/status",
        operation_id="get_providers_status",
        summary="Tell how the providers are",
        description=(
            "Each configured model profile: whether its server can be reached, takes our key and lists the model. "
            "Asked by addresses that cost nothing, all at once, and not again within two seconds. "
            "Neither addresses nor keys are shown."
        ),
        operation_class=operation(Answer(200, examples.PROVIDERS, "How they are."), *refusals()),
    )
    async def status(self, services: Injected) -> ProviderList:
        return ProviderList.of(await services.providers.survey())
