"""Every operator action of the page on RabbitMQ, done through its management API under a service at work."""

from __future__ import annotations

import asyncio
import base64
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, ProbableAccessDeniedError

from adapters.rabbitmq.management import ManagementApi
from domain.ports import BrokerState
from tests.e2e.service import Installation, eventually
from tests.operators.conftest import (
    PASSWORD,
    QUEUE,
    SOON,
    USER,
    VHOST,
    Operated,
    settings_on,
    shipped,
)
from tests.servers.postgres import Databases
from tests.servers.rabbitmq import RabbitNode

pytestmark = pytest.mark.timeout(120)

DEFAULT_EXCHANGE = "exchanges/{vhost}/amq.default"


def test_each_name_tells_what_it_is_for(operated: Operated):
    operated.is_whole()
    names = [connection["client_properties"]["connection_name"] for connection in operated.connections()]
    assert all(re.fullmatch(r"ai-service (api|worker) \S+/[0-9a-f]{8}: [a-z].*", name) for name in names), names
    queues = {queue["name"] for queue in operated.rest("GET", "queues/{vhost}")}
    [of_api] = [name for name in queues if re.fullmatch(r"ai\.events\.api-\S+-[0-9a-f]{8}\.[0-9a-f]{4}", name)]
    [of_worker] = [name for name in queues if re.fullmatch(r"ai\.events\.worker-\S+-[0-9a-f]{8}\.[0-9a-f]{4}", name)]
    [texts] = [name for name in queues if re.fullmatch(r"ai\.tokens\.api-\S+-[0-9a-f]{8}\.[0-9a-f]{4}", name)]
    assert queues == {QUEUE, "gpu.speech", of_api, of_worker, texts}
    consumers = {each["queue"]["name"]: each["consumer_tag"] for each in operated.rest("GET", "consumers/{vhost}")}
    assert {queue: tag for queue, tag in consumers.items() if queue.startswith("ai.")} == {
        name: name.split(".")[2] for name in (of_api, of_worker, texts)
    }
    assert consumers[QUEUE] == consumers["gpu.speech"] == of_worker.split(".")[2]


def test_the_figures_are_shown_beside_the_services_own(operated: Operated):
    eventually(
        lambda: operated.api.queue()["broker"] == {"ready": 0, "unacked": 0, "consumers": 1},
        within=SOON,
        what="the API shows RabbitMQ's figures",
    )
    code, said = operated.installation.run("doctor")
    assert code == 0
    assert "RabbitMQ's figures" in said
    assert "reachable, RabbitMQ " in said
    assert PASSWORD not in said
    code, said = operated.installation.run("queues", AI_SERVICE_URL=operated.api.url)
    assert code == 0
    assert re.search(r"idle +ready +unacked +consumers", said)


def test_eyes_need_a_tag_and_permissions_though_empty_ones(operated: Operated, node: RabbitNode):
    def seen(password: str = "eyes") -> BrokerState:
        url = f"http://eyes:{password}@{urlsplit(node.management_url).netloc}"

        def answered() -> BrokerState | None:
            state = asyncio.run(ManagementApi(url, settings_on(node)["AMQP_URL"]).look())
            return None if "did not answer" in (state.trouble or "") else state

        state = eventually(answered, within=SOON, what="the management API answers in time")
        assert state
        return state

    operated.rest("PUT", "users/eyes", {"password": "eyes", "tags": "monitoring"})
    without_permissions = seen()
    operated.rest("PUT", "permissions/{vhost}/eyes", {"configure": "", "write": "", "read": ""})
    monitoring, wrong = seen(), seen("wrong")
    operated.rest("PUT", "users/eyes", {"password": "eyes", "tags": "management"})
    management = seen()
    operated.rest("DELETE", "users/eyes")
    for refused in (without_permissions, wrong):
        assert (refused.trouble or "").startswith("Its management API refuses the user")
    for state in (monitoring, management):
        assert (state.trouble, set(state.queues), bool(state.version)) == (None, {QUEUE, "gpu.speech"}, True)
    assert (monitoring.nodes_up, monitoring.memory_alarm) == (1, False)
    assert (management.nodes_up, management.memory_alarm) == (None, None)


def test_the_least_rights_suffice_and_reach_no_further(operated: Operated, node: RabbitNode):
    with operated.goes_on():
        pass
    assert not [line for process in (operated.api.process, operated.worker) for line in refusals(process.said)]
    with closing(BlockingConnection(URLParameters(settings_on(node)["AMQP_URL"]))) as connection:
        for forbidden in FORBIDDEN:
            with pytest.raises(ChannelClosedByBroker, match="403"):
                forbidden(connection.channel())
        with pytest.raises(ProbableAccessDeniedError, match="vhost"):
            BlockingConnection(URLParameters(settings_on(node, vhost="%2F")["AMQP_URL"]))


def publish_elsewhere(channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    channel.basic_publish("amq.topic", "", b"")


FORBIDDEN: list[Callable[[BlockingChannel], object]] = [
    lambda channel: channel.queue_declare("of.others"),
    lambda channel: channel.queue_delete("of.others"),
    lambda channel: channel.exchange_declare("of.others"),
    publish_elsewhere,
]


def refusals(said: str) -> list[str]:
    return [line for line in said.splitlines() if "declared otherwise" in line or "tickets refused" in line]


def test_purge_a_queue(operated: Operated):
    with operated.goes_on():
        operated.rest("DELETE", f"queues/{{vhost}}/{QUEUE}/contents")


def test_delete_a_queue(operated: Operated):
    with operated.goes_on():
        operated.rest("DELETE", f"queues/{{vhost}}/{QUEUE}")
    operated.shows(QUEUE, consumers=1)


def test_delete_or_purge_a_queue_of_events(operated: Operated):
    with operated.goes_on():
        for queue in operated.rest("GET", "queues/{vhost}"):
            if queue["name"].startswith("ai."):
                for path in (f"queues/{{vhost}}/{queue['name']}", f"queues/{{vhost}}/{queue['name']}/contents"):
                    with pytest.raises(httpx.HTTPStatusError, match="400"):  # it is its connection's alone
                        operated.rest("DELETE", path)


def test_delete_the_exchanges(operated: Operated):
    exchanges = ("ai.events", "ai.tokens")
    with operated.goes_on():
        for exchange in exchanges:
            operated.rest("DELETE", f"exchanges/{{vhost}}/{exchange}")
    eventually(
        lambda: all(operated.rest("GET", f"exchanges/{{vhost}}/{each}/bindings/source") for each in exchanges),
        within=SOON,
        what="they are declared and bound again",
    )


def test_close_every_connection(operated: Operated):
    with operated.goes_on():
        closed = {connection["name"] for connection in operated.connections()}
        for name in closed:
            operated.rest("DELETE", f"connections/{name}")
        eventually(
            lambda: not closed & {connection["name"] for connection in operated.connections()},
            within=SOON,
            what="they are closed",
        )


@pytest.mark.parametrize(
    "definition",
    [
        {"max-length": 1, "overflow": "drop-head"},
        {"max-length": 0, "overflow": "reject-publish"},
        {"message-ttl": 0},
        {"message-ttl": 50, "dead-letter-exchange": "", "dead-letter-routing-key": "dead"},
        {"expires": 60_000},
    ],
    ids=["drops", "rejects", "ttl", "dead letters", "expires"],
)
def test_set_a_policy(definition: dict[str, object], operated: Operated):
    policy = {"pattern": r"^gpu\.", "apply-to": "queues", "priority": 10, "definition": definition}
    with operated.goes_on():
        operated.rest("PUT", "policies/{vhost}/by-hand", policy)
        operated.each_completes_once(operated.submit(5))
        operated.rest("DELETE", "policies/{vhost}/by-hand")


def test_publish_something_else_into_a_queue(operated: Operated):
    strange: list[tuple[str, bytes]] = [
        ("what is this?", b""),
        ("", b""),
        ("binary", bytes(range(256))),
        ("a Dramatiq message", b'{"queue_name": "x", "actor_name": "rm", "args": [1], "kwargs": {}, "options": {}}'),
    ]
    with operated.goes_on():
        for text, data in strange:
            body = {"payload": base64.b64encode(data or text.encode()).decode(), "payload_encoding": "base64"}
            for exchange, key in ((DEFAULT_EXCHANGE, QUEUE), ("exchanges/{vhost}/ai.events", "a.b.cancelled")):
                sent = {"properties": {"priority": 9}, "routing_key": key, **body}
                assert operated.rest("POST", f"{exchange}/publish", sent)["routed"]
            operated.rest("POST", "exchanges/{vhost}/ai.tokens/publish", {"properties": {}, "routing_key": "", **body})
    operated.shows(QUEUE, messages_ready=0)


def test_get_messages(operated: Operated):
    with operated.goes_on(), lying(operated):
        for mode in ("ack_requeue_true", "ack_requeue_false", "reject_requeue_true"):
            wanted = {"count": 5, "ackmode": mode, "encoding": "auto"}
            assert len(operated.rest("POST", f"queues/{{vhost}}/{QUEUE}/get", wanted)) == 5


def test_move_messages_to_another_queue(operated: Operated):
    operated.rest("PUT", "queues/{vhost}/parking", {"durable": True})
    with operated.goes_on(), lying(operated):
        shovel = {"src-protocol": "amqp091", "src-uri": f"amqp:///{VHOST}", "src-queue": QUEUE, "dest-queue": "parking"}
        ends = {"dest-protocol": "amqp091", "dest-uri": f"amqp:///{VHOST}", "src-delete-after": "queue-length"}
        operated.rest("PUT", "parameters/shovel/{vhost}/move", {"value": {**shovel, **ends}})
        eventually(lambda: operated.queue("parking").get("messages_ready"), within=SOON, what="tickets were moved")
    operated.rest("DELETE", "queues/{vhost}/parking")


@contextmanager
def lying(operated: Operated) -> Iterator[None]:
    """Many tickets lie in the queue, because the worker hangs."""
    operated.worker.popen.send_signal(signal.SIGSTOP)
    try:
        for _ in range(60):
            publish(operated, QUEUE, "a ticket")
        eventually(lambda: operated.queue().get("messages_ready", 0) >= 10, within=SOON, what="tickets lie there")
        yield
    finally:
        operated.worker.popen.send_signal(signal.SIGCONT)


def publish(operated: Operated, queue: str, payload: str) -> None:
    sent = {"properties": {}, "routing_key": queue, "payload": payload, "payload_encoding": "string"}
    assert operated.rest("POST", f"{DEFAULT_EXCHANGE}/publish", sent)["routed"]


def test_take_permissions_away_and_give_them_back(operated: Operated):
    with operated.goes_on():
        operated.rest("PUT", f"permissions/{{vhost}}/{USER}", {"configure": "", "write": "", "read": ""})
        operated.each_completes_once(operated.submit(5))
        operated.rest("PUT", f"permissions/{{vhost}}/{USER}", shipped("permissions.json"))


def test_delete_the_user_and_make_it_anew(operated: Operated):
    with operated.goes_on():
        operated.rest("DELETE", f"users/{USER}")
        eventually(lambda: not operated.connections(), within=SOON, what="its connections are closed")
        operated.each_completes_once(operated.submit(5))
        operated.rest("PUT", f"users/{USER}", {"password": PASSWORD, "tags": "monitoring"})
        operated.rest("PUT", f"permissions/{{vhost}}/{USER}", shipped("permissions.json"))


def test_raise_the_alarms_of_memory_and_disk(operated: Operated, node: RabbitNode):
    with operated.goes_on():
        node.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        node.ctl("set_disk_free_limit", "1000000GB")
        eventually(lambda: alarms(node) == (True, True), within=SOON, what="both alarms are raised")
        operated.each_completes_once(operated.submit(5))
        code, said = operated.installation.run("doctor")
        node.ctl("set_vm_memory_high_watermark", "0.4")
        node.ctl("set_disk_free_limit", "50MB")
    assert code == 1
    assert "a node is short of memory and disk: nothing can be published" in said


def alarms(node: RabbitNode) -> tuple[bool, bool]:
    [told] = node.management("GET", "nodes")
    return told["mem_alarm"], told["disk_free_alarm"]


def test_export_definitions_delete_the_virtual_host_and_import_them(operated: Operated):
    exported = operated.rest("GET", "definitions")
    with operated.goes_on():
        operated.rest("DELETE", "vhosts/{vhost}")
        assert VHOST not in {vhost["name"] for vhost in operated.rest("GET", "vhosts")}
        operated.each_completes_once(operated.submit(5))
        operated.rest("POST", "definitions", exported)
    assert {policy["name"] for policy in operated.rest("GET", "policies/{vhost}")} == {"tickets"}


def test_stop_the_application_and_start_it(operated: Operated, node: RabbitNode):
    with operated.goes_on():
        node.ctl("stop_app")
        operated.each_completes_once(operated.submit(5))
        node.ctl("start_app")


def test_change_a_queue_from_classic_to_quorum(operated: Operated, node: RabbitNode, databases: Databases):
    dsn, vhost = databases.create(), "quorum"
    node.create_vhost(vhost)
    node.management("PUT", f"permissions/{vhost}/{USER}", shipped("permissions.json"))
    with Installation(operated.installation.folder, DATABASE_URL=dsn, **settings_on(node, vhost)) as installation:
        installation.forks = True
        first = installation.up()
        jobs = [first.submit(model_profile="practice") for _ in range(5)]
        first.all_finished(jobs)
        first.process.terminate()
        assert first.process.exit_code() == 0
        assert queue_type(node, vhost) == "classic"
        second = installation.up(RABBITMQ_QUEUE_TYPE="quorum")
        second.process.says("declared otherwise")
        jobs = [second.submit(model_profile="practice") for _ in range(5)]
        node.management("DELETE", f"queues/{vhost}/{QUEUE}")
        jobs += [second.submit(model_profile="practice") for _ in range(5)]
        assert {(job["status"], job["attempts"]) for job in second.all_finished(jobs)} == {("completed", 1)}
        eventually(lambda: queue_type(node, vhost) == "quorum", within=SOON, what="it is declared anew as quorum")
    node.delete_vhost(vhost)
    databases.drop(dsn)


def queue_type(node: RabbitNode, vhost: str) -> str | None:
    queues = {queue["name"]: queue for queue in node.management("GET", f"queues/{vhost}")}
    return queues[QUEUE]["arguments"]["x-queue-type"] if QUEUE in queues else None
