"""Which model profiles there are: of variables, of the configuration file, and of both together."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from app import configfile
from app.endpoint import ProviderName
from app.profiles import LARGEST_AUDIO, ModelProfile, Served, served
from app.secret import Secret
from app.settings import from_env
from domain.errors import StartupError
from domain.routing import ModelKind

GPU = "http://gpu:8000/v1"
CHAT, SPEECH = ModelKind.CHAT, ModelKind.SPEECH


class Config:
    """A configuration file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.json"

    def says(self, **content: Any) -> Config:
        self.path.write_text(json.dumps(content))
        return self

    def with_variables(self, **environ: str) -> Served:
        return served(from_env(environ), configfile.read(self.path, required=False))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


def named(found: Served) -> dict[str, ModelProfile]:
    return {profile.name: profile for profile in found.profiles}


def places(found: Served) -> dict[str, tuple[str, str, str]]:
    return {profile.name: (profile.provider, profile.queue, profile.model) for profile in found.profiles}


def refusal(config: Config, **environ: str) -> str:
    with pytest.raises(StartupError) as refused:
        config.with_variables(**environ)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_nothing_is_served_where_nothing_is_configured(config: Config):
    assert config.with_variables() == Served()


def test_a_base_url_makes_the_profile_of_llm_model(config: Config):
    found = config.with_variables(LLM_BASE_URL=GPU, LLM_MODEL="qwen", LLM_API_KEY="k", LLM_TIMEOUT="7s")
    [profile] = found.profiles
    assert (profile.name, profile.kind, profile.queue, profile.base_url) == ("qwen", CHAT, "gpu.llm", GPU)
    assert (profile.key, profile.timeout, profile.ssl_verify) == ("k", timedelta(seconds=7), True)
    assert found.active == "qwen"


def test_practice_serves_chats_and_speech(config: Config):
    found = config.with_variables(AI_PROVIDER="practice")
    assert places(found) == {
        "practice": ("practice", "gpu.llm", "practice"),
        "qwen2.5-14b": ("practice", "gpu.llm", "practice"),
        "whisper-large-v3": ("practice", "gpu.speech", "practice"),
    }
    assert found.active == "practice"


def test_the_active_provider_serves_llm_model_too_where_it_has_no_server_of_its_own(config: Config):
    found = config.with_variables(AI_PROVIDER="ollama", OLLAMA_MODEL="gemma3", OLLAMA_NUM_CTX="8192")
    assert places(found) == {
        "ollama": ("ollama", "gpu.llm", "gemma3"),
        "qwen2.5-14b": ("ollama", "gpu.llm", "gemma3"),
    }
    assert named(found)["ollama"].base_url == "http://localhost:11434"
    assert named(found)["ollama"].num_ctx == 8192


def test_lm_studio_is_looked_for_where_containers_find_it(config: Config):
    found = config.with_variables(AI_PROVIDER="lmstudio", LMSTUDIO_MODEL="gemma")
    assert named(found)["lmstudio"].base_url == "http://host.docker.internal:1234/v1"


def test_anthropic_needs_a_key_and_a_model(config: Config):
    assert "ANTHROPIC_MODEL is not set" in refusal(config, AI_PROVIDER="anthropic", ANTHROPIC_API_KEY="k")
    assert "ANTHROPIC_API_KEY" in refusal(config, AI_PROVIDER="anthropic", ANTHROPIC_MODEL="claude")
    found = config.with_variables(AI_PROVIDER="anthropic", ANTHROPIC_MODEL="claude", ANTHROPIC_API_KEY="k")
    assert named(found)["anthropic"].base_url == "https://api.anthropic.com"


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"LLM_API_KEY": "c"}, "c"),
        ({"LLM_API_KEY": "c", "AUDIO_LLM_API_KEY": "b"}, "b"),
        ({"LLM_API_KEY": "c", "AUDIO_LLM_API_KEY": "b", "AUDIO_TRANSCRIPTION_API_KEY": "a"}, "a"),
        ({}, ""),
    ],
)
def test_whisper_takes_the_key_that_is_nearest(config: Config, environ: dict[str, str], key: str):
    found = config.with_variables(AUDIO_TRANSCRIPTION_BASE_URL="http://gpu:8004/v1", **environ)
    whisper = named(found)["whisper-large-v3"]
    assert whisper.key == key
    assert (whisper.kind, whisper.queue, whisper.model) == (SPEECH, "gpu.speech", "openai/whisper-large-v3")
    assert (whisper.timeout, whisper.max_file_bytes) == (timedelta(minutes=30), LARGEST_AUDIO)


@pytest.mark.parametrize(
    ("url", "provider"),
    [("http://x:9000", ProviderName.WHISPER_ASR), ("http://x:9000/v1/", ProviderName.OPENAI)],
)
def test_whisperx_is_spoken_to_as_its_address_says(config: Config, url: str, provider: ProviderName):
    found = config.with_variables(WHISPERX_URL=url, LLM_API_KEY="not for strangers")
    assert named(found)["whisperx"].provider is provider
    assert named(found)["whisperx"].key == ""


def test_profiles_of_the_file_are_served_beside_the_others(config: Config):
    config.says(
        profiles=[
            {
                "name": "big",
                "provider": "vllm",
                "base_url": "https://big:8000/v1",
                "model": "Qwen/Qwen3-235B",
                "queue": "gpu.big",
                "timeout": "10m",
                "fallbacks": ["qwen2.5-14b"],
            },
            {"name": "bge", "kind": "embeddings", "base_url": "http://bge/v1"},
        ]
    )
    found = named(config.with_variables(LLM_BASE_URL=GPU))
    assert list(found) == ["big", "bge", "qwen2.5-14b"]
    assert (found["big"].queue, found["big"].model, found["big"].timeout) == (
        "gpu.big",
        "Qwen/Qwen3-235B",
        timedelta(minutes=10),
    )
    assert found["big"].fallbacks == ("qwen2.5-14b",)
    assert (found["bge"].kind, found["bge"].model, found["bge"].queue) == (ModelKind.EMBEDDINGS, "bge", "gpu.llm")


def test_the_same_profiles_can_be_written_as_a_table(config: Config):
    entry = {"base_url": "http://bge/v1", "kind": "embeddings"}
    as_list = config.says(profiles=[{"name": "bge", **entry}]).with_variables()
    assert config.says(profiles={"bge": entry}).with_variables() == as_list


def test_a_variable_overrides_what_the_file_says_of_the_same_profile(config: Config):
    config.says(profiles={"qwen": {"base_url": "http://old/v1", "queue": "gpu.a", "timeout": "3s", "api_key": "old"}})
    profile = named(config.with_variables(LLM_BASE_URL=GPU, LLM_MODEL="qwen"))["qwen"]
    assert (profile.base_url, profile.queue, profile.timeout) == (GPU, "gpu.a", timedelta(seconds=3))


@pytest.mark.parametrize(("variable", "verified"), [({}, False), ({"LLM_SSL_VERIFY": "true"}, True)])
def test_a_variable_can_ask_for_the_certificate_that_the_file_does_not(
    config: Config, variable: dict[str, str], verified: bool
):
    config.says(profiles={"qwen2.5-14b": {"base_url": GPU, "ssl_verify": False}})
    found = config.with_variables(LLM_BASE_URL="https://other/v1", **variable)
    assert [profile.ssl_verify for profile in found.profiles] == [verified]


def test_the_file_says_which_provider_answers_unless_a_variable_does(config: Config):
    config.says(provider="ollama", ollama={"model": "gemma3", "base_url": "http://o:1"}, lmstudio={"model": "phi"})
    assert config.with_variables().active == "ollama"
    assert named(config.with_variables())["ollama"].base_url == "http://o:1"
    found = config.with_variables(AI_PROVIDER="lmstudio", LMSTUDIO_API_KEY="k")
    assert (found.active, named(found)["lmstudio"].model, named(found)["lmstudio"].key) == ("lmstudio", "phi", "k")


def test_a_profile_of_a_provider_takes_what_is_said_of_that_provider(config: Config):
    config.says(ollama={"base_url": "https://o:1", "ssl_verify": False}, profiles={"small": {"provider": "ollama"}})
    profile = named(config.with_variables(OLLAMA_API_KEY="k"))["small"]
    assert (profile.base_url, profile.key, profile.ssl_verify, profile.model) == ("https://o:1", "k", False, "small")


def test_a_key_may_lie_in_a_variable_that_the_file_names(config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLAUDE_KEY", "sk-1")
    config.says(profiles={"claude": {"provider": "anthropic", "api_key_env": "CLAUDE_KEY"}})
    assert named(config.with_variables())["claude"].api_key == Secret("sk-1")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "the profile x has no base_url"),
        (
            {"base_url": GPU, "fallbacks": ["gone"]},
            "profiles.x.fallbacks cannot be used; expected names of other profiles for chat",
        ),
        ({"base_url": GPU, "fallbacks": ["x"]}, "profiles.x.fallbacks cannot be used"),
        ({"base_url": GPU, "provider": "whisper-asr"}, "profiles.x.provider cannot be used"),
        ({"base_url": GPU, "ca_bundle": "/nowhere.pem"}, "the profile x has a ca_bundle that cannot be used"),
        ({"provider": "anthropic"}, "the profile x has no key"),
    ],
)
def test_a_profile_that_cannot_be_served_is_one_line(config: Config, entry: dict[str, Any], said: str):
    assert said in refusal(config.says(profiles={"x": entry}))


def test_a_bundle_of_an_own_authority_is_taken(config: Config, tmp_path: Path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    found = config.with_variables(LLM_BASE_URL="https://gpu/v1", LLM_CA_BUNDLE=str(tmp_path / "ca.pem"))
    assert found.profiles[0].ca_bundle == tmp_path / "ca.pem"
