"""The bearer token."""

from __future__ import annotations

import hmac
from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard


def bearer_guard(token: str) -> Guard:
    """Lets through who sends this token."""
    expected = token.encode()

    def must_bear_token(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        # Headers arrive as latin-1; compared as the bytes that were sent.
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip(" \t").encode("latin-1"), expected):
            raise NotAuthorizedException(
                "Send `Authorization: Bearer` with the service's token.", headers={"WWW-Authenticate": "Bearer"}
            )

    return must_bear_token
