"""The machines behind the model servers over HTTP."""

from __future__ import annotations

from litestar import Controller, get

from app.api.documents import Answer, operation, refusals
from app.api.injected import Injected
from app.wire import examples
from app.wire.infra import InfraView
from domain.access import Right


class InfraAsked(Controller):
    path = "/infra"
    tags = ("figures",)
    opt = {"right": Right.READ}  # noqa: RUF012  # as Litestar declares it

    @get(
        "/status",
        operation_id="get_infra_status",
        summary="Tell how the machines behind the model servers are",
        description=(
            "GPUs, containers, vLLM's live figures, and how speech servers are: what the exporters of `INFRA_TARGETS` "
            "tell, asked all at once, each for two seconds, and not again within five. One that does not answer is "
            "there with its error. No address is shown."
        ),
        operation_class=operation(Answer(200, examples.INFRA, "How they are."), *refusals()),
    )
    async def status(self, services: Injected) -> InfraView:
        return InfraView.of(await services.infra.targets())
