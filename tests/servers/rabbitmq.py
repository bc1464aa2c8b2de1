"""Finds a RabbitMQ for the tests: one that is named, a private node, or a container; installs Debian's where it may.

Only a broker named by TEST_RABBITMQ_URL can be one that we did not start; it is never killed nor emptied.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

import httpx

LIBRARY = Path("/usr/lib/rabbitmq/lib")
POLICY = Path("/usr/sbin/policy-rc.d")
LEASH = Path(__file__).with_name("leash.py")
DOCKER_IMAGE = "rabbitmq:3-management"
BOOT_SECONDS = 60.0
STOP_SECONDS = 15.0

AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
CONNECTION_START = b"\x00\x0a\x00\x0a"

NO_SETTINGS: Mapping[str, str] = {}

Say = Callable[[str], None]


class RabbitMQNotFoundError(Exception):
    def __init__(self) -> None:
        super().__init__(
            "RabbitMQ is needed for the tests: "
            "install it with 'sudo apt-get install rabbitmq-server' (or set TEST_RABBITMQ_URL)"
        )


class RabbitMQDownError(Exception):
    """RabbitMQ did not answer in time; the message ends with the last lines of its log."""


class NotControllableError(Exception):
    """This RabbitMQ was not started by the tests, so they may not kill or empty it."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class Broker:
    """A RabbitMQ the tests may talk to; `controllable` says whether they may kill and empty it too."""

    controllable: ClassVar[bool] = False

    def __init__(self, url: str, management_url: str) -> None:
        self.url = url
        self.management_url = management_url

    def start(self) -> None:
        """Return when AMQP and the management API both answer."""
        self._wait_until_ready(BOOT_SECONDS)

    def stop(self) -> None:
        """Final: no process and no file of it is left. A second call does nothing."""

    def kill(self) -> None:
        """End it as a power cut would; durable queues are kept for `restart`."""
        raise NotControllableError

    def restart(self) -> None:
        """Start it again after `kill`, on the same ports and the same data."""
        raise NotControllableError

    def wipe(self) -> None:
        """Kill it, forget all its data and start it again."""
        raise NotControllableError

    def reset(self) -> None:
        """Empty a broker that runs or was killed; much faster than `wipe`. Its connections are closed."""
        raise NotControllableError

    def management(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API: `management("GET", "/queues/%2F")`; JSON back, or None for an empty answer."""
        answer = httpx.request(
            method,
            f"{self.management_url}/api/{path.lstrip('/')}",
            json=body,
            auth=self._credentials(),
            timeout=10,
            trust_env=False,  # a proxy set for the internet must not see calls to 127.0.0.1
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def create_vhost(self, name: str) -> str:
        """Make an empty virtual host and return its AMQP url."""
        vhost, user = quote(name, safe=""), quote(self._credentials()[0], safe="")
        self.management("PUT", f"/vhosts/{vhost}", {})
        self.management("PUT", f"/permissions/{vhost}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        return urlsplit(self.url)._replace(path=f"/{vhost}").geturl()

    def delete_vhost(self, name: str) -> None:
        self.management("DELETE", f"/vhosts/{quote(name, safe='')}")

    @property
    def ready(self) -> bool:
        """An open port is not enough: RabbitMQ listens a while before it can serve."""
        try:
            return self._speaks_amqp() and self.management("GET", "/overview") is not None
        except (OSError, httpx.HTTPError):
            return False

    def _speaks_amqp(self) -> bool:
        url = urlsplit(self.url)
        if url.scheme == "amqps":
            return True
        with socket.create_connection((url.hostname, url.port or 5672), timeout=2) as connection:
            connection.sendall(AMQP_HEADER)
            return connection.recv(64)[7:11] == CONNECTION_START

    def _wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.ready:
            if time.monotonic() > deadline or self._ended():
                where = f"{self._address()} (management: {self.management_url})"
                raise RabbitMQDownError(f"RabbitMQ does not answer on {where}{self._last_lines()}")
            time.sleep(0.1)

    def _credentials(self) -> tuple[str, str]:
        url = urlsplit(self.url)
        return unquote(url.username or "guest"), unquote(url.password or "guest")

    def _address(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def _ended(self) -> bool:
        return False

    def _last_lines(self) -> str:
        return ""


class ExternalBroker(Broker):
    """The broker that TEST_RABBITMQ_URL names, used as it is; its management API may be named as well."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        url = environ["TEST_RABBITMQ_URL"]
        management_url = environ.get("TEST_RABBITMQ_MANAGEMENT_URL", f"http://{urlsplit(url).hostname}:15672")
        super().__init__(url, management_url.rstrip("/"))

    def start(self) -> None:
        self._wait_until_ready(10)


class StartedBroker(Broker):
    """A broker of our own on free ports of 127.0.0.1."""

    controllable = True

    def __init__(self) -> None:
        self.port, self.management_port, *self._more_ports = free_ports(4)
        super().__init__(f"amqp://guest:guest@127.0.0.1:{self.port}/", f"http://127.0.0.1:{self.management_port}")

    def reset(self) -> None:
        if not self.ready:
            self.restart()
        for vhost in self.management("GET", "/vhosts"):
            self.delete_vhost(vhost["name"])
        self.create_vhost("/")


class RabbitNode(StartedBroker):
    """A private node: data, log, cookie, ports and epmd are its own, in a temporary folder, until `stop`."""

    def __init__(
        self, settings: Mapping[str, str] = NO_SETTINGS, plugins: Sequence[str] = ("rabbitmq_management",)
    ) -> None:
        """
        Args:
            settings: of its rabbitmq.conf, beside those that make it private.
        """
        super().__init__()
        self.distribution_port, self.epmd_port = self._more_ports
        self.name = f"test-{self.port}@localhost"
        self.folder = Path(tempfile.mkdtemp(prefix="ai-service-rabbitmq-"))
        self._epmd: subprocess.Popen[bytes] | None = None
        self._vm: subprocess.Popen[bytes] | None = None
        self._configure(settings, plugins)

    def start(self) -> None:
        if self._epmd is None:
            self._epmd = self._run(["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"])
        self._vm = self._run([str(scripts_folder() / "rabbitmq-server")])
        self._wait_until_ready(BOOT_SECONDS)

    def kill(self) -> None:
        release(self._vm)
        self._vm = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def wipe(self) -> None:
        self.kill()
        shutil.rmtree(self.folder / "mnesia")
        self.start()

    def stop(self) -> None:
        # Not RabbitMQ's own shutdown: that takes 6 s, for the sake of data that go with the folder.
        self.kill()
        release(self._epmd)
        self._epmd = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def ctl(self, *command: str) -> None:
        """Run a command of rabbitmqctl's; takes a second or two.

        Raises:
            RabbitMQDownError: it failed; with what it said.
        """
        words = [str(scripts_folder() / "rabbitmqctl"), "--node", self.name, *command]
        done = subprocess.run(
            words, env=self._environment(), cwd=self.folder, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode != 0:
            raise RabbitMQDownError(f"rabbitmqctl {command[0]} failed: {done.stdout}{done.stderr}")

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log" / "out").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=self._environment(),
                cwd=self.folder,
                start_new_session=True,  # what ends the tests (Ctrl-C, a killed group) must leave the leash to its work
            )

    def _configure(self, more: Mapping[str, str], plugins: Sequence[str]) -> None:
        for folder in ("home", "log", "mnesia"):
            (self.folder / folder).mkdir()
        cookie = self.folder / "home" / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self.folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        settings = {
            **more,
            "listeners.tcp.default": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": self.management_port,
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "512MB",
            "log.console": "false",
        }
        lines = [f"{key} = {value}\n" for key, value in settings.items()]
        (self.folder / "rabbitmq.conf").write_text("".join(lines))

    def _environment(self) -> dict[str, str]:
        # Built from nothing: a RABBITMQ_* or ERL_* variable of the caller's would reach into our node.
        local = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": f"{self.folder}/home",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_BASE": str(self.folder),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{self.folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{self.folder}/log",
            "RABBITMQ_LOGS": f"{self.folder}/log/rabbit.log",
            "RABBITMQ_PID_FILE": f"{self.folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{self.folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{self.folder}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.folder}/enabled_plugins",
            # The private epmd is ours and already runs: one that the VM started would outlive it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{local} -start_epmd false +sbwt none +sbwtdcpu none +sbwtdio none",
            "RABBITMQ_CTL_ERL_ARGS": local,
        }

    def _ended(self) -> bool:
        return self._vm is None or self._vm.poll() is not None

    def _last_lines(self) -> str:
        logs = [self.folder / "log" / "out", self.folder / "log" / "rabbit.log"]
        lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()[-20:]]
        return "".join(f"\n  {line}" for line in lines)


class DockerNode(StartedBroker):
    """A container of the official image; it goes when we stop it or when our process ends."""

    def __init__(self) -> None:
        super().__init__()
        self.name = f"ai-service-tests-{self.port}"
        self._leash: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._leash = self._leash or subprocess.Popen(
            ["sh", "-c", 'cat; exec docker rm --force --volumes "$0"', self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ports = [f"127.0.0.1:{self.port}:5672", f"127.0.0.1:{self.management_port}:15672"]
        docker("run", "--detach", "--name", self.name, *(f"--publish={port}" for port in ports), DOCKER_IMAGE)
        self._wait_until_ready(BOOT_SECONDS)

    def kill(self) -> None:
        docker("kill", self.name)

    def restart(self) -> None:
        docker("start", self.name)
        self._wait_until_ready(BOOT_SECONDS)

    def wipe(self) -> None:
        docker("rm", "--force", "--volumes", self.name)
        self.start()

    def stop(self) -> None:
        release(self._leash)
        self._leash = None

    def _last_lines(self) -> str:
        logs = subprocess.run(["docker", "logs", "--tail=30", self.name], capture_output=True, text=True, check=False)
        return "".join(f"\n  {line}" for line in (logs.stdout + logs.stderr).splitlines())


def find_rabbitmq(say: Say = print, environ: Mapping[str, str] = os.environ) -> Broker:
    """The RabbitMQ to test with, not started yet. May install Debian's package, and says so."""
    if environ.get("TEST_RABBITMQ_URL"):
        return ExternalBroker(environ)
    if has_binaries() or install_package(say):
        return RabbitNode()
    if docker_answers() and has_image(say):
        return DockerNode()
    raise RabbitMQNotFoundError


def scripts_folder() -> Path:
    """Where the scripts are that run as any user; those on the PATH insist on the user rabbitmq and its folders."""
    return max(LIBRARY.glob("rabbitmq_server-*/sbin"))


def has_binaries() -> bool:
    return any(LIBRARY.glob("rabbitmq_server-*/sbin/rabbitmq-server")) and shutil.which("epmd") is not None


def install_package(say: Say) -> bool:
    """Whether Debian's package is there now; an ordinary user or another system gets False at once."""
    return apt_installs("rabbitmq-server", say) and has_binaries()


def apt_installs(package: str, say: Say) -> bool:
    """Whether apt-get could; an ordinary user or another system gets False at once."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say(f"Installing {package} with apt-get …")
    install = ["install", "--no-install-recommends", package]
    with services_held_back():
        # Package lists that are missing or out of date are the usual reason for a first failure.
        installed = apt_get(*install) or (apt_get("update") and apt_get(*install))
    if not installed:
        say(f"apt-get could not install {package}")
    return installed


def apt_get(*arguments: str) -> bool:
    return runs(
        ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=120", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},
    )


@contextlib.contextmanager
def services_held_back() -> Iterator[None]:
    """Keep a package from starting the system's own server; a policy that is already there stays as it is."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def docker_answers() -> bool:
    return shutil.which("docker") is not None and runs(["docker", "info"], timeout=15)


def has_image(say: Say) -> bool:
    if runs(["docker", "image", "inspect", DOCKER_IMAGE]):
        return True
    say(f"Pulling {DOCKER_IMAGE} with docker …")
    return runs(["docker", "pull", DOCKER_IMAGE])


def docker(*arguments: str) -> None:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RabbitMQDownError(f"docker {arguments[0]} failed: {done.stderr.strip()}")


def runs(command: list[str], *, env: Mapping[str, str] | None = None, timeout: float | None = None) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def release(leash: subprocess.Popen[bytes] | None) -> None:
    """Let go of the pipe and wait until what hung on it is gone."""
    if leash is not None and leash.stdin is not None:
        leash.stdin.close()
        leash.wait(STOP_SECONDS)


def free_ports(count: int) -> list[int]:
    """Free ports below the ephemeral range: in it, a client that knocks at a killed node can be given its port."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = secrets.SystemRandom().sample(range(10_000, first_ephemeral), 200)
    return [port for port in candidates if is_free(port)][:count]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
