"""Servers for the tests that ask for them: one PostgreSQL per session and a database per test; one RabbitMQ node per
session, a virtual host per test, and one node to kill; one PgBouncer per session and one to kill.

A pytest plugin: `pytest_plugins = ["tests.servers.fixtures"]`. Where no RabbitMQ can be had, the session ends before
its first test, with one line; where no PgBouncer can be had, its tests are skipped with one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.servers.pgbouncer import PgBouncer, PgBouncerNotFoundError, find_pgbouncer
from tests.servers.postgres import Databases
from tests.servers.rabbitmq import (
    Broker,
    RabbitMQDownError,
    RabbitMQNotFoundError,
    RabbitNode,
    StartedBroker,
    find_rabbitmq,
    has_binaries,
)

FIXTURES = {"rabbitmq", "vhost", "own_rabbitmq"}
PGBOUNCERS = {"pgbouncer", "own_pgbouncer"}

found = pytest.StashKey[Broker]()


def pytest_runtestloop(session: pytest.Session) -> None:
    """Look for servers before the first test: outside its time limit, and only for those that a test asks for."""
    asked = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if FIXTURES & asked:
        require_rabbitmq(session.config)
    if PGBOUNCERS & asked:
        with suppress(PgBouncerNotFoundError):
            find_pgbouncer(say=lambda line: tell(session.config, line))


def require_rabbitmq(config: pytest.Config) -> Broker:
    """The session's RabbitMQ, not started yet; ends the whole session with one line where there is none."""
    if found not in config.stash:
        config.stash[found] = look_for(config)
    return config.stash[found]


def look_for(config: pytest.Config) -> Broker:
    try:
        return find_rabbitmq(say=lambda line: tell(config, line))
    except RabbitMQNotFoundError as error:
        pytest.exit(str(error), returncode=1)


def tell(config: pytest.Config, line: str) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if terminal is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)


def started(broker: Broker) -> Broker:
    try:
        broker.start()
    except RabbitMQDownError as error:
        broker.stop()
        pytest.exit(str(error), returncode=1)
    return broker


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """The session's PostgreSQL."""
    databases = Databases(tmp_path_factory.mktemp("postgres"))
    databases.start()
    yield databases
    databases.stop()


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """The DSN of a migrated database that is this test's alone."""
    dsn = databases.create()
    yield dsn
    databases.drop(dsn)


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[str]:
    """The DSN of a database without any table."""
    dsn = databases.create(migrated=False)
    yield dsn
    databases.drop(dsn)


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The shared RabbitMQ: never killed, and seen through a virtual host of the test's own."""
    broker = started(require_rabbitmq(pytestconfig))
    yield broker
    broker.stop()


@pytest.fixture
def vhost(rabbitmq: Broker) -> Iterator[str]:
    """The AMQP url of an empty virtual host that is this test's alone."""
    name = f"test-{secrets.token_hex(6)}"
    yield rabbitmq.create_vhost(name)
    rabbitmq.delete_vhost(name)


@pytest.fixture(scope="session")
def second_rabbitmq(pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The node behind `own_rabbitmq`, booted once: a boot takes 4-8 s."""
    broker = another(require_rabbitmq(pytestconfig))
    yield started(broker)
    broker.stop()


def another(broker: Broker) -> Broker:
    """A new node like this one; beside one that was only named, only what is installed already."""
    if isinstance(broker, StartedBroker):
        return type(broker)()
    if has_binaries():
        return RabbitNode()
    pytest.skip("needs a RabbitMQ that it may kill, and TEST_RABBITMQ_URL names one that it may not")


@pytest.fixture
def own_rabbitmq(second_rabbitmq: Broker) -> Broker:
    """A running, empty RabbitMQ that this test may kill, restart and wipe; the next test gets it mended."""
    second_rabbitmq.reset()
    return second_rabbitmq


@pytest.fixture(scope="session")
def pgbouncer(databases: Databases) -> Iterator[PgBouncer]:
    """Before the session's PostgreSQL, for any of its databases; never killed."""
    yield from running_pgbouncer(databases)


@pytest.fixture
def own_pgbouncer(databases: Databases) -> Iterator[PgBouncer]:
    """One that this test may kill and restart."""
    yield from running_pgbouncer(databases)


def running_pgbouncer(databases: Databases) -> Iterator[PgBouncer]:
    try:
        pgbouncer = PgBouncer(databases.server)
    except PgBouncerNotFoundError as error:
        pytest.skip(str(error))
    pgbouncer.start()
    yield pgbouncer
    pgbouncer.stop()
