"""docker-compose.yml at the top: what Compose makes of it, and what the service makes of what it is told there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.bootstrap import build
from app.durations import duration
from app.healthcheck import PORTS
from app.settings import Settings, from_env
from tests.deploy.compose import Project, project_of, run_compose
from tests.deploy.dockerfile import only, stages

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = {
    "POSTGRES_PASSWORD": "postgres0secret",
    "RABBITMQ_PASSWORD": "rabbit0secret",
    "AI_SERVICE_TOKEN": "token0secret",
    "GRAFANA_PASSWORD": "grafana0secret",
}
POOLS = {"worker-llm": "gpu.llm", "worker-speech": "gpu.speech", "worker-practice": "practice"}
PROCESSES = {"api", "scheduler", *POOLS}
ALWAYS = {"postgres", "rabbitmq", "migrate", "api", "worker-llm", "worker-speech", "scheduler"}
CONFIG = "/config"

DRAIN = timedelta(seconds=15)
"""What a process may take beyond SHUTDOWN_GRACE: docs/operations.md."""


@pytest.fixture(scope="module")
def everything() -> Project:
    return project_of(ROOT, "--profile", "*", **SECRETS)


@pytest.mark.parametrize(
    ("profiles", "added"),
    [
        ([], set()),
        (["practice"], {"worker-practice"}),
        (["observe"], {"prometheus", "grafana"}),
        (["practice", "observe"], {"worker-practice", "prometheus", "grafana"}),
    ],
)
def test_a_profile_adds_its_services(profiles: list[str], added: set[str]):
    options = [word for profile in profiles for word in ("--profile", profile)]
    assert set(project_of(ROOT, *options, **SECRETS)["services"]) == ALWAYS | added


@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_starts_without_its_secrets(secret: str):
    done = run_compose(ROOT, "config", "-q", **{**SECRETS, secret: ""})
    assert done.returncode != 0
    assert f"{secret} is missing a value: set it in .env" in done.stderr


def test_no_secret_has_a_value_in_the_files():
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"\w*(PASSWORD|TOKEN|KEY)\w*=", line) and not line.endswith("=")] == []
    file: Project = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for service in [{"environment": file["x-environment"]}, *file["services"].values()]:
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASS|TOKEN|KEY", variable):
                assert value.startswith("${"), variable


class Heard(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, variable: str) -> str:
        self.asked.add(variable)
        raise KeyError(variable)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_every_variable_that_a_process_gets_is_one_that_it_knows(everything: Project):
    heard = Heard()
    from_env(heard)
    # OpenTelemetry reads its own, of which the page names some.
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    known = heard.asked | set(re.findall(r"^\| `(OTEL_\w+)`", page, re.M))
    for name in {*PROCESSES, "migrate"}:
        # Python's own, which says where recordings lie.
        assert set(everything["services"][name]["environment"]) - {"TMPDIR"} <= known, name


def test_all_processes_are_told_the_same(everything: Project):
    """Where the API routes a job, a worker has to serve it."""
    own = {"SHUTDOWN_GRACE", "WORKER_CLAIM_LIMIT", "TMPDIR"}
    told = [
        {key: value for key, value in everything["services"][name]["environment"].items() if key not in own}
        for name in {*PROCESSES, "migrate"}
    ]
    assert all(each == told[0] for each in told)
    assert told[0]["MIGRATE_ON_START"] == "false"


def settings_of(service: Project) -> Settings:
    """What a process makes of it, its files found where they are mounted from."""
    [folder] = [volume["source"] for volume in service["volumes"] if volume["target"] == CONFIG]
    return from_env({key: value.replace(CONFIG, folder, 1) for key, value in service["environment"].items()})


@pytest.mark.parametrize("pool", POOLS)
async def test_each_pool_serves_its_queue(pool: str, everything: Project):
    service = everything["services"][pool]
    assert service["command"] == ["worker", "--queues", POOLS[pool]]
    settings = settings_of(service)
    assert POOLS[pool] in build(settings).routes().queues


async def test_every_queue_has_a_pool(everything: Project):
    assert set(build(settings_of(everything["services"]["api"])).routes().queues) == set(POOLS.values())


def test_practice_answers_only_those_who_name_it(everything: Project):
    routes = build(settings_of(everything["services"]["api"])).routes()
    assert routes.queue_of("llm_chat", "practice") == "practice"
    assert routes.queue_of("llm_chat", "qwen2.5-14b") == "gpu.llm"
    assert routes.queue_of("transcription", "practice-speech") == "practice"


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_a_process_has_the_time_to_stop_in_good_order(name: str, everything: Project):
    service = everything["services"][name]
    grace = duration(service["environment"].get("SHUTDOWN_GRACE", "30s"))
    assert duration(service["stop_grace_period"]) >= grace + DRAIN


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_a_process_may_write_nowhere_but_where_it_has_to(name: str, everything: Project):
    service = everything["services"][name]
    writable = [volume["target"] for volume in service["volumes"] if not volume.get("read_only")]
    assert writable == (["/data"] if name == "worker-speech" else [])
    assert service["tmpfs"] == ["/tmp:size=64m,mode=1777"]


def test_every_service_is_confined_limited_and_told_of_its_health(everything: Project):
    for name, service in everything["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("cap_add"), name
        assert not service.get("privileged"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}, name
        assert int(service["deploy"]["resources"]["limits"]["memory"]) >= 512 * 1024**2, name
        if name != "migrate":
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"]), name


def test_one_service_builds_the_image_that_all_processes_start_from(everything: Project):
    """A second that builds the same name at the same time fails on a machine that has no such image yet."""
    services = everything["services"]
    assert [name for name, service in services.items() if "build" in service] == ["migrate"]
    assert not services["migrate"].get("profiles")
    assert {services[name]["image"] for name in PROCESSES} == {services["migrate"]["image"]}


def test_every_image_is_one_version(everything: Project):
    for name, service in everything["services"].items():
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-(bookworm|management))?$", service["image"]), name


def test_nobody_else_sees_more_than_the_api_and_the_pages(everything: Project):
    published = {
        (name, port["target"], port["host_ip"])
        for name, service in everything["services"].items()
        for port in service.get("ports", [])
    }
    assert published == {
        ("api", 8080, "127.0.0.1"),
        ("rabbitmq", 15672, "127.0.0.1"),
        ("prometheus", 9090, "127.0.0.1"),
        ("grafana", 3000, "127.0.0.1"),
    }
    assert set(everything["services"]["postgres"]["networks"]) == {"data"}
    assert everything["networks"]["data"]["internal"]


def test_a_process_waits_for_the_migration_and_for_no_broker(everything: Project):
    for name in PROCESSES:
        needs = {service: need["condition"] for service, need in everything["services"][name]["depends_on"].items()}
        assert needs == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "rabbitmq": "service_started",
        }


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_health_is_asked_of_the_process_itself(name: str, everything: Project):
    check = ["CMD", "python", "-I", "-m", "app.healthcheck", "/readyz"]
    assert everything["services"][name]["healthcheck"]["test"] == check


def test_what_is_mounted_is_there(everything: Project):
    for service in everything["services"].values():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), volume["source"]
                assert volume["read_only"]


def test_the_example_of_settings_names_each_with_its_default():
    used = dict(re.findall(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", FILE.read_text(encoding="utf-8")))
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert dict(line.split("=", 1) for line in lines if line and not line.startswith("#")) == used
    assert set(re.findall(r"\$\{(\w+):\?", FILE.read_text(encoding="utf-8"))) == set(SECRETS)


def test_the_ports_of_the_processes_are_their_defaults(everything: Project):
    """Nothing in the file moves them, so that the image, Prometheus and the health check agree."""
    settings = from_env({})
    assert [settings.http.port, settings.worker.http_port, settings.scheduler.http_port] == list(PORTS.values())
    assert only(stages(ROOT / "Dockerfile")[-1], "EXPOSE").split() == [str(port) for port in PORTS.values()]
    [api] = everything["services"]["api"]["ports"]
    assert api["target"] == PORTS["HTTP_PORT"]
    for name in PROCESSES:
        assert not set(PORTS) & set(everything["services"][name]["environment"])


def test_prometheus_finds_every_process(everything: Project):
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = [job for job in scraped["scrape_configs"] if job["job_name"] == "ai-service"]
    found: dict[str, Any] = {name: sd["port"] for sd in job["dns_sd_configs"] for name in sd["names"]}
    port = {"api": PORTS["HTTP_PORT"], "scheduler": PORTS["SCHEDULER_HTTP_PORT"]}
    assert found == {name: port.get(name, PORTS["WORKER_HTTP_PORT"]) for name in PROCESSES}
    for name in PROCESSES:
        assert "front" in everything["services"][name]["networks"]


PAGE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def test_the_page_names_services_profiles_and_settings_that_there_are(everything: Project):
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    compose = [line.split() for line in commands if line.startswith("docker compose ")]
    assert len(compose) >= 8
    profiles = {words[at + 1] for words in compose for at, word in enumerate(words) if word == "--profile"}
    assert profiles == {
        profile for service in everything["services"].values() for profile in service.get("profiles", ())
    }
    services = {words[at + 1] for words in compose for at, word in enumerate(words) if word in {"exec", "-T", "--rm"}}
    assert services - {"-T"} <= set(everything["services"])
    assert re.search(r"for name in (.+); do", PAGE)[1].split() == list(SECRETS)  # type: ignore[index]  # it is there
    [table] = re.findall(r"## What runs\n\n(.*?)\n\n", PAGE, re.S)
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(everything["services"])
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    [table] = re.findall(r"\| in `.env` \|\n(.*?)\n\n", PAGE, re.S)
    for variable in re.findall(r"`([A-Z][A-Z_]+)", table):
        assert re.search(rf"^{variable}=", example, re.M), variable
