"""Why a target told nothing: in words of ours, for an answer never quotes an address, nor what another one sent."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx


class TargetTrouble(Exception):
    """The target told nothing that can be used."""


def broken_call(error: httpx.HTTPError) -> TargetTrouble:
    """What broke a request."""
    causes = list(_causes(error))
    if any(isinstance(each, socket.gaierror) for each in causes):
        return TargetTrouble("Its host name is not known.")
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes):
        return TargetTrouble("Its certificate is not trusted.")
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return TargetTrouble("It speaks no TLS that is understood here.")
    if isinstance(error, httpx.ConnectError):
        return TargetTrouble("It accepts no connections.")
    return TargetTrouble("It broke the connection off, or speaks no HTTP.")


def refused(status: int) -> TargetTrouble:
    """What an answer without figures means."""
    if status in (401, 403):
        return TargetTrouble(f"It answered {status}: it wants a user and a password, or others.")
    if 300 <= status < 400:
        return TargetTrouble(f"It answered {status}: it sends us elsewhere, where nobody follows.")
    return TargetTrouble(f"It answered {status}.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
