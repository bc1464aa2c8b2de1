"""The suite's own RabbitMQ: what the other tests take for granted about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pika
import pytest

from tests.servers import rabbitmq as servers
from tests.servers.rabbitmq import (
    Broker,
    ExternalBroker,
    NotControllableError,
    RabbitMQDownError,
    RabbitMQNotFoundError,
    RabbitNode,
)

START_AND_WAIT = """
from tests.servers.rabbitmq import RabbitNode
node = RabbitNode()
node.start()
print(node.folder, flush=True)
input()
"""

ROOT = Path(__file__).parents[2]


def publish(url: str, body: bytes, queue: str = "work") -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))


def consume(url: str, queue: str = "work") -> bytes | None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        body: bytes | None = channel.basic_get(queue, auto_ack=True)[2]
        return body


def processes_of(folder: str) -> dict[int, str]:
    """Whatever runs with this node's environment: leash, epmd, Erlang VM and its helpers."""
    return {
        int(process.name): (process / "comm").read_text().strip()
        for process in Path("/proc").glob("[0-9]*")
        if folder in environment(process)
    }


def environment(process: Path) -> str:
    try:
        return (process / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def all_gone(folder: str) -> bool:
    deadline = time.monotonic() + 10
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_of(folder)


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without RabbitMQ, apt and Docker, and an ordinary user; what is put into the folder is on its PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.delenv("TEST_RABBITMQ_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(servers, "LIBRARY", tmp_path / "lib")
    monkeypatch.setattr(servers, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path / "bin"


def test_a_message_comes_back_from_a_fresh_virtual_host(vhost: str) -> None:
    publish(vhost, b"hello")
    assert consume(vhost) == b"hello"


def test_a_virtual_host_knows_nothing_of_the_one_before(vhost: str) -> None:
    assert consume(vhost) is None


def test_a_durable_message_survives_a_kill(own_rabbitmq: Broker) -> None:
    publish(own_rabbitmq.url, b"kept")
    own_rabbitmq.kill()
    assert not own_rabbitmq.ready
    own_rabbitmq.restart()
    assert consume(own_rabbitmq.url) == b"kept"


def test_a_wiped_node_is_empty(own_rabbitmq: Broker) -> None:
    publish(own_rabbitmq.url, b"lost")
    own_rabbitmq.wipe()
    assert own_rabbitmq.management("GET", "/queues") == []


def test_a_node_that_was_left_killed_and_full_is_mended_by_reset(own_rabbitmq: Broker) -> None:
    publish(own_rabbitmq.url, b"lost")
    own_rabbitmq.create_vhost("more")
    own_rabbitmq.kill()
    own_rabbitmq.reset()
    assert consume(own_rabbitmq.url) is None
    assert [vhost["name"] for vhost in own_rabbitmq.management("GET", "/vhosts")] == ["/"]


def test_nothing_outlives_an_owner_that_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        assert {"beam.smp", "epmd"} <= set(processes_of(folder).values())
        owner.send_signal(signal.SIGKILL)
    assert all_gone(folder)


def test_a_node_that_cannot_boot_shows_the_last_lines_of_its_log() -> None:
    node = RabbitNode()
    (node.folder / "rabbitmq.conf").write_text("no.such.setting = 1\n")
    try:
        with pytest.raises(RabbitMQDownError, match=r"does not answer on 127(.|\n)*failed_to_prepare_configuration"):
            node.start()
    finally:
        node.stop()
    assert all_gone(str(node.folder))
    assert not node.folder.exists()


@pytest.mark.usefixtures("bare_machine")
def test_without_any_rabbitmq_one_line_says_what_to_install() -> None:
    with pytest.raises(
        RabbitMQNotFoundError, match=r"\ARabbitMQ is needed .* 'sudo apt-get install rabbitmq-server'.*\Z"
    ):
        servers.find_rabbitmq()


def test_the_whole_session_ends_with_that_line(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.servers import rabbitmq\n"
        "pytest_plugins = ['tests.servers.fixtures']\n"
        "rabbitmq.has_binaries = rabbitmq.docker_answers = lambda: False\n"
        "rabbitmq.install_package = lambda say: False\n"
    )
    (tmp_path / "test_many.py").write_text("def test_other(): pass\ndef test_one(vhost): pass\n")
    environ = {name: value for name, value in os.environ.items() if name != "TEST_RABBITMQ_URL"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, tmp_path],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "Exit: RabbitMQ is needed for the tests" in ended.stdout
    assert "passed" not in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def test_root_refreshes_apts_lists_when_the_first_install_fails(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbin = tmp_path / "lib" / "rabbitmq_server-3.10.8" / "sbin"
    script(bare_machine, "epmd", "")
    script(
        bare_machine,
        "apt-get",
        f'echo "$5" >> {tmp_path}/calls; [ -x {tmp_path}/policy-rc.d ] || exit 1\n'
        f"[ $5 = update ] && : > {tmp_path}/lists; [ -e {tmp_path}/lists ] || exit 100\n"
        f"PATH=/usr/bin:/bin; mkdir -p {sbin} && : > {sbin}/rabbitmq-server",
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said: list[str] = []
    node = servers.find_rabbitmq(said.append)
    node.stop()
    assert isinstance(node, RabbitNode)
    assert said == ["Installing rabbitmq-server with apt-get …"]
    assert (tmp_path / "calls").read_text().split() == ["install", "update", "install"]
    assert not (tmp_path / "policy-rc.d").exists()


def test_a_docker_engine_is_the_last_resort(bare_machine: Path) -> None:
    script(bare_machine, "docker", '[ "$1" != image ]')
    said: list[str] = []
    assert isinstance(servers.find_rabbitmq(said.append), servers.DockerNode)
    assert said == ["Pulling rabbitmq:3-management with docker …"]


def test_a_named_broker_is_used_as_it_is_and_never_killed(rabbitmq: Broker) -> None:
    environ = {"TEST_RABBITMQ_URL": rabbitmq.url, "TEST_RABBITMQ_MANAGEMENT_URL": rabbitmq.management_url}
    named = servers.find_rabbitmq(environ=environ)
    assert isinstance(named, ExternalBroker)
    assert not named.controllable
    named.start()
    with pytest.raises(NotControllableError):
        named.kill()
    named.stop()
    assert rabbitmq.ready
