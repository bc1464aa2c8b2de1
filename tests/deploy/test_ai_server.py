"""The files of the AI server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.compose import Project, project_of

FOLDER = Path(__file__).parents[2] / "deploy" / "ai-server"
BASE, AUDIO = "docker-compose.yml", "docker-compose.audio.yml"
CHAT = {"vllm", "dcgm-exporter", "cadvisor"}
SPEECH = {"whisper-large-v3", "whisperx"}


def compose(*options: str, files: tuple[str, ...] = (BASE, AUDIO), **variables: str) -> Project:
    """The merged project."""
    named = [argument for file in files for argument in ("-f", file)]
    return project_of(FOLDER, *named, *options, **variables)


@pytest.fixture(scope="module")
def everything() -> Project:
    return compose("--profile", "*")


def test_the_base_is_the_chat_model_and_what_tells_of_the_machine() -> None:
    assert set(compose(files=(BASE,))["services"]) == CHAT


def test_speech_is_there_only_where_its_profile_is_asked_for() -> None:
    assert set(compose()["services"]) == CHAT
    for name in SPEECH:
        assert set(compose("--profile", name)["services"]) == {*CHAT, name}


@pytest.mark.parametrize(
    ("name", "port"),
    [("vllm", 8000), ("whisper-large-v3", 8004), ("whisperx", 9000), ("dcgm-exporter", 9400), ("cadvisor", 8088)],
)
def test_each_server_has_its_port_and_shows_it_to_nobody_else(name: str, port: int, everything: Project) -> None:
    [published] = everything["services"][name]["ports"]
    assert (published["published"], published["host_ip"]) == (str(port), "127.0.0.1")


def test_settings_reach_the_servers() -> None:
    project = compose("--profile", "*", LISTEN_ON="10.2.3.5", WHISPER_PORT="18004", VLLM_VERSION="9.9.9", AUDIO_GPU="1")
    whisper = project["services"]["whisper-large-v3"]
    assert (whisper["ports"][0]["host_ip"], whisper["ports"][0]["published"]) == ("10.2.3.5", "18004")
    assert "vllm[audio]==9.9.9" in whisper["build"]["dockerfile_inline"]
    assert project["services"]["vllm"]["image"] == "vllm/vllm-openai:v9.9.9"
    assert devices(whisper)[0]["device_ids"] == ["1"]


def test_every_image_is_one_version(everything: Project) -> None:
    for service in everything["services"].values():
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", service["image"]), service["image"]


def test_every_server_comes_back_and_says_how_it_is(everything: Project) -> None:
    for service in everything["services"].values():
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])


@pytest.mark.parametrize("name", ["vllm", "dcgm-exporter", *sorted(SPEECH)])
def test_servers_that_need_a_gpu_have_one(name: str, everything: Project) -> None:
    service = everything["services"][name]
    [device] = devices(service)
    assert service["runtime"] == "nvidia"
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.parametrize("name", ["vllm", *sorted(SPEECH)])
def test_models_are_kept(name: str, everything: Project) -> None:
    kept = {volume["target"]: volume["source"] for volume in everything["services"][name]["volumes"]}
    assert any(target.startswith("/root/.cache") for target in kept)
    assert set(kept.values()) <= set(everything["volumes"])


def test_chat_and_speech_fit_on_one_gpu(everything: Project) -> None:
    shares = [
        float(option.partition("=")[2])
        for name in ("vllm", "whisper-large-v3")
        for option in everything["services"][name]["command"]
        if option.startswith("--gpu-memory-utilization=")
    ]
    assert len(shares) == 2
    assert sum(shares) <= 0.95


def test_the_example_of_settings_names_each_with_its_default() -> None:
    text = "".join(FOLDER.joinpath(file).read_text() for file in (BASE, AUDIO))
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    assert re.findall(r"\$\{\w+\}|\$\w", text) == [], "without a default"
    lines = FOLDER.joinpath(".env.example").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines if line and not line.startswith("#")) == used


def devices(service: Project) -> list[Project]:
    found: list[Project] = service["deploy"]["resources"]["reservations"]["devices"]
    return found
