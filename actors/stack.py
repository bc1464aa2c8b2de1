"""The middleware, in the order in which it acts; Dramatiq's own list is not used.

The lease comes first: until it has bound the ticket to a job, there is nothing to observe. Dramatiq's Retries,
TimeLimit, AgeLimit and delays are left out on purpose: PostgreSQL decides retries and due times (two engines would
fight), and its time limit ends every job after ten minutes.
"""

from __future__ import annotations

import logging

from dramatiq import Middleware

from actors.lease import LeaseMiddleware, SkipsAreNormal
from actors.runtime import Runtime


def stack(runtime: Runtime, *observers: Middleware) -> list[Middleware]:
    """The middleware of a worker process; observers see jobs already bound."""
    logging.getLogger("dramatiq.worker.WorkerThread").addFilter(SkipsAreNormal())
    return [LeaseMiddleware(runtime), *observers]
