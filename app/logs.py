"""Logging: one event and its fields per line; JSON where a machine reads, colours where a person does."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from app.settings import Logs

QUIET = {
    "alembic": logging.WARNING,
    "dramatiq": logging.WARNING,
    "httpx": logging.WARNING,
    "pika": logging.CRITICAL,
    "uvicorn": logging.ERROR,
}
"""Libraries that tell more than an operator wants; what matters of it, we log ourselves.

Of uvicorn not even warnings: anybody could fill the log with requests that are not HTTP.
"""


def set_up(logs: Logs) -> None:
    """Send our own events and the libraries' records to standard error, in one form."""
    pretty = logs.format == "pretty" or (logs.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last = [_for_people] if pretty else [_traceback, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, logs.level.upper())),
        logger_factory=lambda *_: _Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_cut, *last]))
    logging.basicConfig(handlers=[handler], level=logs.level.upper(), force=True)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)


class _Lines(structlog.PrintLogger):
    """Writes an event or loses it: on a full disk a run must still be stored, and its slot go on."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            super().msg(message)

    debug = info = warning = error = critical = exception = msg


# Tracebacks without local variables, which structlog shows otherwise: they hold inputs, results and keys.
_traceback = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
_for_people = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.RichTracebackFormatter(show_locals=False))
_cut = structlog.stdlib.ProcessorFormatter.remove_processors_meta
