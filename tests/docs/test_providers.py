"""What the guides to model servers and to speech say is what the code does; their examples are read by it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from actors.chain import FALL_BACK_ON
from adapters.providers.client import CONNECT_TIMEOUT, IDLE_TIMEOUT
from adapters.providers.discovery import USUAL
from adapters.providers.practice import Practice
from app import configfile, profiles
from app.endpoint import PROVIDERS_OF
from app.profiles import Served, served
from app.settings import from_env
from domain import speech
from domain.results import check_result
from domain.routing import TASK_KINDS
from domain.speech import parse_speech_input
from domain.transcript import Flag
from domain.transcript_limits import LIMITS
from tests.data.transcripts import labelled
from tests.docs.test_documents import ROOT, blocks, commands, recording, run_curl, service

__all__ = ["service"]

GUIDES = ("docs/providers.md", "docs/speech.md")
PROVIDERS, SPEECH = ((ROOT / guide).read_text() for guide in GUIDES)
SHOWING = (*GUIDES, "docs/gpu-pools.md")
"""Pages that show configurations."""


def section(page: str, title: str) -> str:
    """From its heading to the next one."""
    return re.split(r"^#+ ", page.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(page: str) -> list[list[str]]:
    """The cells of a section's tables, without their heads."""
    lines = re.findall(r"^\| (.*) \|$", re.sub(r"^\|.*\|\n\| ---.*$", "", page, flags=re.MULTILINE), re.MULTILINE)
    return [line.split(" | ") for line in lines]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def examples(language: str) -> list[tuple[str, str]]:
    return [(guide, block) for guide in SHOWING for block in blocks(guide, language)]


def is_configuration(document: str) -> bool:
    return not {"schema_version", "practice"} & json.loads(document).keys()


BESIDE = {"ANTHROPIC_API_KEY": "a key", "ANTHROPIC_MODEL": "claude", "WHISPERX_URL": "http://gpu-3:9000"}
"""Variables that examples of the file stand beside."""

TOML = examples("toml")
JSON = [(guide, block) for guide, block in examples("json") if is_configuration(block)]
EXPORTS = [(guide, block) for guide, block in examples("bash") if "export " in block]


@pytest.fixture
def authority(tmp_path: Path) -> str:
    """The path of an authority's certificate."""
    trustme.CA().cert_pem.write_to_path(path := str(tmp_path / "ca.pem"))
    return path


@pytest.mark.parametrize(
    ("ending", "text"), [("toml", text) for _, text in TOML] + [("json", text) for _, text in JSON]
)
def test_every_configuration_that_is_shown_is_served(
    ending: str, text: str, tmp_path: Path, authority: str, monkeypatch: pytest.MonkeyPatch
):
    for variable in re.findall(r'api_key_env"? ?[=:] "(\w+)"', text):
        monkeypatch.setenv(variable, "a key")
    (path := tmp_path / f"configuration.{ending}").write_text(text.replace("/etc/ssl/our-ca.pem", authority))

    file = configfile.read(path)
    shown = served(from_env(BESIDE), file)
    assert {entry.name for entry in file.profiles} <= {profile.name for profile in shown.profiles}
    assert shown.profiles or file.policies.queues


def exported(block: str) -> Served:
    words = shlex.split(block, comments=True)
    variables = dict(word.split("=", 1) for word in words if word != "export")
    return served(from_env(variables), configfile.Configuration())


@pytest.mark.parametrize(("guide", "block"), EXPORTS)
def test_every_set_of_variables_that_is_shown_serves_a_profile(guide: str, block: str):
    assert exported(block).profiles


def test_examples_of_every_language_were_found():
    assert [bool(found) for found in (TOML, JSON, EXPORTS)] == [True, True, True]


def test_the_documented_kinds_of_models_are_those_of_the_code():
    documented = {codes(kind)[0]: (codes(types), set(codes(known))) for kind, types, known in _kinds()}

    assert documented == {
        str(kind): ([task_type for task_type, each in TASK_KINDS.items() if each is kind], set(map(str, known)))
        for kind, known in PROVIDERS_OF.items()
    }


def _kinds() -> list[list[str]]:
    return rows(section(PROVIDERS, "Profiles"))


def test_every_kind_of_server_is_named_in_a_guide():
    for kind, known in PROVIDERS_OF.items():
        page = SPEECH if kind == "speech" else PROVIDERS
        assert all(f"`{name}`" in page or f'provider = "{name}"' in page or f"={name}`" in page for name in known)


def test_the_documented_fallbacks_are_those_of_the_code():
    (ends, _), _ = rows(section(PROVIDERS, "Fallbacks"))

    assert set(codes(ends)) == {str(code) for code in FALL_BACK_ON}


def test_the_documented_wishes_to_the_practice_provider_are_all():
    documented = [
        codes(name)[0] for name, *_ in rows(section(PROVIDERS, "The practice provider")) if name.startswith("`")
    ]
    [shown] = [json.loads(block) for block in blocks("docs/providers.md", "json") if not is_configuration(block)]

    assert documented == list(Practice.__struct_fields__)
    assert msgspec.convert(shown["practice"], Practice).fails(0)


def test_the_documented_places_of_servers_and_time_outs_are_those_of_the_code():
    assert [re.findall(r":(\d+)", place.base_url)[0] for place in USUAL] == ["11434", "1234", "8000"]
    assert "Ollama at port 11434, LM Studio at 1234, vLLM at 8000" in " ".join(PROVIDERS.split())
    assert (CONNECT_TIMEOUT.seconds, IDLE_TIMEOUT.seconds) == (5, 60)
    assert all(url in (ROOT / "docs/configuration.md").read_text() for url in USUAL_ADDRESSES)


USUAL_ADDRESSES = (profiles.LMSTUDIO_URL, profiles.OLLAMA_URL, profiles.ANTHROPIC_URL)


def test_the_documented_fields_of_speech_input_are_those_that_are_read():
    documented = [name for cell, *_ in rows(section(SPEECH, "What a job says")) for name in codes(cell)]

    assert documented == list(speech._SpeechInput.__struct_fields__)


def test_the_documented_cuts_of_the_gate_are_all():
    cuts = rows(section(SPEECH, "The quality gate"))

    assert {name for cell, _ in (row for row in cuts if len(row) == 2) for name in codes(cell)} == set(Flag)


def test_the_documented_thresholds_are_those_of_the_gate():
    documented = {codes(name)[0]: value for name, value, *_ in rows(section(SPEECH, "Thresholds"))}

    def shown(value: Any) -> str:
        return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    assert documented == {name: shown(getattr(LIMITS, name)) for name in documented}
    assert len(documented) >= 15


def test_the_labelled_transcripts_are_as_many_as_is_said():
    verdicts = Counter(case.expect for case in labelled())
    good, silence, made_up, cut = (
        verdicts[verdict] for verdict in ("good", "silence", "transcript_hallucination", "transcript_incomplete")
    )
    told = f"{good} good, {silence} of silence, {made_up} hallucinated, {cut} incomplete"

    assert f"On {verdicts.total()} labelled transcripts" in SPEECH
    assert told in " ".join(SPEECH.split())


def test_the_transcript_that_is_shown_is_a_result():
    [shown] = [block for block in blocks("docs/speech.md", "json") if not is_configuration(block)]

    check_result(shown.encode())


async def test_the_requests_of_the_speech_guide_end_with_a_transcript(service: tuple[str, str]):
    upload, submit = commands("docs/speech.md", "curl")

    uploaded = await run_curl(upload, service, "")
    assert uploaded.status_code == 201
    submitted = await run_curl(
        [word.replace("UPLOAD_ID", uploaded.json()["upload_id"]) for word in submit], service, ""
    )
    assert (submitted.status_code, submitted.json()["queue"]) == (201, "gpu.speech")
    assert parse_speech_input(json.dumps(submitted.json()["input"]).encode()).split_channels
    wait = ["curl", "http://127.0.0.1:8080/api/v1/jobs/ID?wait=30"]
    ended = await run_curl(wait, service, submitted.json()["id"])
    assert ended.json()["status"] == "completed"


async def test_the_command_of_the_speech_guide_ends_with_a_transcript(service: tuple[str, str], tmp_path: Path):
    [_, *words] = shlex.split(blocks("docs/speech.md", "bash")[0].replace("\\\n", " "))
    (tmp_path / "call.wav").write_bytes(recording())
    environment = {**os.environ, "AI_SERVICE_URL": service[0]}
    program = Path(sys.executable).with_name("ai-service")
    running = await asyncio.create_subprocess_exec(
        program, *words, "--json", cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        said, _ = await running.communicate()

    job = json.loads(said)
    assert (running.returncode, job["status"], job["queue"]) == (0, "completed", "gpu.speech")
    assert (job["result"]["language"], len(job["result"]["segments"])) == ("ru", 1)
