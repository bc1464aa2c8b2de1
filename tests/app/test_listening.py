"""Binding a port before anything else starts, and where a browser finds it."""

from __future__ import annotations

import socket

import pytest

from app.server import bind, url_of
from domain.errors import StartupError


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:{}"), ("0.0.0.0", "http://127.0.0.1:{}"), ("localhost", "http://127.0.0.1:{}")],
)
def test_a_free_port_is_taken_and_found(host: str, url: str):
    with bind(host, 0, "HTTP_PORT") as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == url.format(port)
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_stands_in_brackets():
    try:
        listener = bind("::1", 0, "HTTP_PORT")
    except StartupError:
        pytest.skip("this machine has no IPv6 address")
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_of_a_taken_port_one_line_names_the_variable():
    with bind("127.0.0.1", 0, "HTTP_PORT") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StartupError) as stopped:
            bind("127.0.0.1", port, "WORKER_HTTP_PORT")
    assert str(stopped.value).startswith(
        f"WORKER_HTTP_PORT: cannot listen on 127.0.0.1:{port} (Address already in use)"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "http://0.0.0.0", "x" * 70])
def test_of_an_address_that_is_not_ours_it_names_the_hosts_variable(host: str):
    with pytest.raises(StartupError) as stopped:
        bind(host, 0, "WORKER_HTTP_PORT")
    assert str(stopped.value).startswith(f"WORKER_HTTP_HOST: cannot listen on {host!r} (")
    assert "\n" not in str(stopped.value)
