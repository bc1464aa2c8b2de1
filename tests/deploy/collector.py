"""A collector of traces: takes what OpenTelemetry's exporters send over HTTP, and keeps it, as bytes and as spans."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any

from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

KINDS = {Sent.SPAN_KIND_INTERNAL: "internal", Sent.SPAN_KIND_SERVER: "server"}
KINDS |= {Sent.SPAN_KIND_CONSUMER: "consumer", Sent.SPAN_KIND_CLIENT: "client"}


class Span(Struct, frozen=True):
    name: str
    kind: str
    trace_id: str
    id: str
    parent: str
    """Empty: it has none."""
    links: tuple[tuple[str, str], ...]
    """The traces and spans that it is linked to."""
    attributes: dict[str, Any]
    resource: dict[str, Any]
    took: float
    """Seconds."""
    is_error: bool


class Collector:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        """What was sent, whatever it was."""
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                packed = self.headers.get("content-encoding") == "gzip"
                bodies.append(gzip.decompress(body) if packed else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, name="collector", daemon=True)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def spans(self) -> list[Span]:
        return [span for body in list(self.bodies) for span in _spans(ExportTraceServiceRequest.FromString(body))]


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_process in request.resource_spans:
        resource = _attributes(of_process.resource.attributes)
        for scope in of_process.scope_spans:
            for sent in scope.spans:
                yield Span(
                    name=sent.name,
                    kind=KINDS[sent.kind],
                    trace_id=sent.trace_id.hex(),
                    id=sent.span_id.hex(),
                    parent=sent.parent_span_id.hex(),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in sent.links),
                    attributes=_attributes(sent.attributes),
                    resource=resource,
                    took=(sent.end_time_unix_nano - sent.start_time_unix_nano) / 1e9,
                    is_error=sent.status.code == sent.status.STATUS_CODE_ERROR,
                )


def _attributes(sent: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in sent}


def _value(sent: AnyValue) -> Any:
    kind = sent.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in sent.array_value.values]
    return getattr(sent, kind) if kind else None
