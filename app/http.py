"""The HTTP API as one ASGI application. It is handed its use cases; it knows no adapter."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import msgspec
from litestar import Controller, Litestar, MediaType, Request, Response, Router
from litestar.di import Provide
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.static_files import create_static_files_router

from app.api.auth import caller_of, door_of, guard_of
from app.api.chat import Chat, Queued
from app.api.documents import DescriptionConfig
from app.api.health import Diagnosed, Health
from app.api.infra import InfraAsked
from app.api.injected import Injected
from app.api.jobs import Batches, Jobs
from app.api.methods import HeadAndOptions
from app.api.problems import LIMITED_BY, problem_of
from app.api.providers import ProvidersAsked
from app.api.queues import Standing, Steered
from app.api.stats import Figures
from app.api.steer import Steering
from app.api.uploads import Uploaded, Uploading
from app.api.work import Completing, Working
from app.keyring import Keyring
from app.scrape import Scrape, nothing
from app.services import Services
from app.settings import Limits, from_env
from app.wire.body import ENVELOPE_BYTES
from domain.access import Caller

DOCS = "/schema"
DOCS_FILES = f"{DOCS}/files"
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)


def create_app(services: Services, *, keyring: Keyring, limits: Limits, scrape: Scrape = nothing) -> Litestar:
    """The application. Where the keyring holds no token, its API is open to everybody who can reach it.

    Args:
        scrape: what Prometheus is answered.
    """
    guarded: dict[str, Any] = {
        "guards": [guard_of(keyring)],
        "security": None if keyring.open else [{"bearer": []}],
    }
    api = Router(
        "/api/v1",
        route_handlers=[
            Jobs,
            Steering,
            Working,
            Figures,
            ProvidersAsked,
            InfraAsked,
            Steered,
            _limited(Batches, "MAX_BATCH_BYTES", limits.max_batch_bytes),
            _limited(Uploading, "MAX_UPLOAD_BYTES", limits.max_upload_bytes + ENVELOPE_BYTES),
            Uploaded,
            _limited(Completing, "MAX_RESULT_BYTES", limits.max_result_bytes + ENVELOPE_BYTES),
        ],
        **guarded,
    )
    queue = Router("/queue", route_handlers=[Standing, Queued], **guarded)
    chat = Router("/chat", route_handlers=[Chat], **guarded)
    diagnosed = Router("/", route_handlers=[Diagnosed], guards=[door_of(keyring)])
    app = Litestar(
        route_handlers=[api, queue, chat, Health, diagnosed, _docs_files()],
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False, use_cache=True),
            "caller": Provide(_caller_after, sync_to_thread=False),
            "scrape": Provide(lambda: scrape, sync_to_thread=False, use_cache=True),
        },
        exception_handlers={Exception: problem_of},
        request_max_body_size=limits.max_input_bytes + ENVELOPE_BYTES,
        openapi_config=_openapi(),
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    app.asgi_handler = HeadAndOptions(app.asgi_handler)
    return app


def _caller_after(request: Request[Caller, Any, Any], services: Injected) -> Caller:
    # It needs no services. But for two things that do not need each other, Litestar starts a group of tasks each time.
    return caller_of(request)


def openapi_document() -> bytes:
    """The API's description as JSON, as a service with a token serves it. Needs no configuration and no database."""
    nobody = cast("Services", None)  # a description calls no use case
    app = create_app(nobody, keyring=Keyring("any"), limits=from_env({}).limits)
    return msgspec.json.format(msgspec.json.encode(app.openapi_schema.to_schema()))


def _limited(controller: type[Controller], variable: str, max_bytes: int) -> Router:
    """Routes whose bodies have a limit of their own."""
    return Router("/", route_handlers=[controller], request_max_body_size=max_bytes, opt={LIMITED_BY: variable})


def _openapi() -> DescriptionConfig:
    swagger = SwaggerRenderPlugin(
        path="/",
        js_url=f"{DOCS_FILES}/swagger-ui-bundle.js",
        css_url=f"{DOCS_FILES}/swagger-ui.css",
        standalone_preset_js_url=f"{DOCS_FILES}/swagger-ui-standalone-preset.js",
        favicon='<link rel="icon" href="data:,">',
    )
    return DescriptionConfig(
        title="AI Service",
        version=version("ai-service"),
        description="A durable job service in front of AI model servers. Every error is a problem document (RFC 9457).",
        openapi_router=_docs_router(),
        render_plugins=[swagger, JsonRenderPlugin(media_type=MediaType.JSON)],
        components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
    )


def _docs_router() -> Router:
    return Router(
        DOCS,
        route_handlers=[],
        include_in_schema=False,
        response_headers={"Content-Security-Policy": DOCS_POLICY},
        after_request=_refuse_by_problem,
    )


def _refuse_by_problem(response: Response[Any]) -> Response[Any]:
    # Litestar's own page for unknown paths below the documentation is HTML.
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise NotFoundException
    return response


def _docs_files() -> Router:
    """What the documentation page loads: all of it from here, nothing from the internet."""
    folder = Path(str(files("litestar_offline_docs") / "static"))
    known = {f"{DOCS_FILES}/{file.name}" for file in folder.iterdir()}

    def must_be_known(request: Request[Any, Any, Any]) -> None:
        # No other name is looked for: one with a NUL, or too long for the system, would be a failure of ours.
        if request.scope["path"] not in known:
            raise NotFoundException

    return create_static_files_router(
        path=DOCS_FILES, directories=[folder], before_request=must_be_known, include_in_schema=False
    )
