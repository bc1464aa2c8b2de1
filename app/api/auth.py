"""Who calls, and whether they may: the bearer token, its rate, and the right that a route asks for."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.types import Guard

from app.keyring import Keyring
from domain.access import ANYBODY, STRANGER, Caller, Right
from domain.errors import RateLimited

RIGHT = "right"
"""A route names its right by this option: `@post("/", opt={"right": Right.WORK})`; a tuple means any of them."""


def guard_of(keyring: Keyring) -> Guard:
    """Lets through whom the keyring knows, within their rate and their rights; the route then learns who it is."""

    # Not a plain function, which Litestar would run in a thread.
    async def must_be_allowed(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        caller = ANYBODY if keyring.open else _authenticated(connection, keyring)
        caller.must_have(*_rights_of(handler))
        connection.scope["user"] = caller

    return must_be_allowed


def door_of(keyring: Keyring) -> Guard:
    """Lets everybody through; the route learns who it is, and tells strangers less."""

    async def may_be_known(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        try:
            caller = ANYBODY if keyring.open else _authenticated(connection, keyring)
        except (NotAuthorizedException, RateLimited):
            caller = STRANGER
        connection.scope["user"] = caller

    return may_be_known


def caller_of(request: Request[Caller, Any, Any]) -> Caller:
    """Who sent this request. Behind a guard only."""
    return request.user


class Frugal(HTTPRouteHandler):
    """For what is called very often: it is not copied for each guard of each request, as Litestar's own are."""

    async def authorize_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        for guard in self.resolve_guards():
            await guard(connection, self)  # type: ignore[misc]


def _rights_of(handler: BaseRouteHandler) -> tuple[Right, ...]:
    """The right that a route asks for, or several, of which one is enough. Named none: nobody gets in (KeyError)."""
    named = handler.opt[RIGHT]
    return named if isinstance(named, tuple) else (Right(named),)


def _authenticated(connection: ASGIConnection[Any, Any, Any, Any], keyring: Keyring) -> Caller:
    # Of two, a proxy in front may have looked at the other one.
    fields = [value for name, value in connection.scope["headers"] if name == b"authorization"]
    scheme, _, given = fields[0].partition(b" ") if len(fields) == 1 else (b"", b"", b"")
    caller = keyring.caller(given.strip(b" \t")) if scheme.lower() == b"bearer" else None
    if caller is None:
        raise NotAuthorizedException(
            "Send `Authorization: Bearer` with a token of this service.", headers={"WWW-Authenticate": "Bearer"}
        )
    return caller
