"""Logging: one event and its fields per line; JSON where a machine reads, colours where a person does."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from contextlib import suppress
from typing import TextIO

import structlog
from rich.console import Console
from rich.traceback import Trace, Traceback
from structlog.tracebacks import ExceptionDictTransformer

from app.printable import printable
from app.settings import Logs

QUIET = {
    "alembic": logging.WARNING,
    "dramatiq": logging.WARNING,
    "httpcore": logging.WARNING,
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
        _counted,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = [_printable, _for_people]
    if not pretty:
        last = [_traceback, structlog.processors.JSONRenderer()]
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


_lines: Counter[str] = Counter()
_counting = threading.Lock()


def lines() -> dict[str, int]:
    """How many lines this process has written, by level."""
    with _counting:
        return dict(_lines)


def _counted(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    with _counting:
        _lines[event["level"]] += 1
    return event


class _Lines(structlog.PrintLogger):
    """Writes an event or loses it: on a full disk a run must still be stored, and its slot go on."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            super().msg(message)

    debug = info = warning = error = critical = exception = msg


def _printable(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A caller's text starts no new line and gives the terminal no order; JSON escapes such characters anyway."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _show(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    """A traceback for people; what the exceptions say may hold a caller's text."""
    trace = Traceback.extract(*error, show_locals=False)
    _escape(trace)
    out.write("\n")
    Console(file=out, color_system="truecolor").print(Traceback(trace, show_locals=False, word_wrap=True))


def _escape(trace: Trace) -> None:
    for stack in trace.stacks:
        stack.exc_value, stack.notes = printable(stack.exc_value), [printable(note) for note in stack.notes]
        for inner in stack.exceptions:
            _escape(inner)


# Tracebacks without local variables, which structlog shows otherwise: they hold inputs, results and keys.
_traceback = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
_for_people = structlog.dev.ConsoleRenderer(exception_formatter=_show)
_cut = structlog.stdlib.ProcessorFormatter.remove_processors_meta
