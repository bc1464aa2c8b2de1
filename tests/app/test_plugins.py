"""Plug-ins: what is loaded, what stops the start, and what they are rehearsed with."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from actors.tickets import TICKET
from app import doctor, extend, plugins
from app.configfile import Configuration
from app.extend import BadInput, ErrorCode, RunFailed, Segment, rehearse
from app.profiles import served
from app.settings import from_env
from domain.errors import StartupError
from domain.routing import ModelKind, OwnQueue

EXAMPLES = Path(__file__).parents[2] / "examples"

Write = Callable[..., str]

HEAD = "from app.extend import task_type\n"
OCR = '@task_type("ocr", queue="cpu.ocr", profile="tesseract")\nasync def ocr(job): return {}\n'


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Makes modules that can be imported for as long as the test lasts."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)

    def write(text: str, name: str = "") -> str:
        name = name or f"plugin_{len(list(tmp_path.iterdir()))}_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(HEAD + text)
        return name

    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(*modules: str) -> str:
    with pytest.raises(StartupError) as refused:
        plugins.load(modules)
    said = str(refused.value)
    assert said.startswith("AI_SERVICE_PLUGINS: ")
    assert "\n" not in said
    return said


def test_a_module_brings_the_task_types_that_stand_in_it(write: Write):
    brought = plugins.load(["task_types", write(OCR)])
    assert {task_type.name: task_type.needs for task_type in brought} == {
        "keyword_extraction": ModelKind.CHAT,
        "file_digest": OwnQueue("digest", "cpu.files"),
        "ocr": OwnQueue("tesseract", "cpu.ocr"),
    }


def test_what_is_imported_from_another_plug_in_is_the_same_task_type(write: Write):
    first = write(OCR)
    again = write(f"from {first} import ocr\n")
    assert len(plugins.load([first, again, first])) == 1


def test_two_task_types_may_share_a_profile_with_its_queue(write: Write):
    thumbnail = '@task_type("thumbnail", queue="cpu.ocr", profile="tesseract")\nasync def thumbnail(job): return {}\n'
    assert len(plugins.load([write(OCR + thumbnail)])) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("syntax error", "SyntaxError"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
        ("x = 1", "brings no task type"),
        ('@task_type("ocr")\nasync def ocr(job): ...', "ocr needs a model (chat, speech, embeddings), or a queue"),
        ('@task_type("ocr", model="video")\nasync def ocr(job): ...', "ocr needs a model"),
        ('@task_type("ocr", model="chat", queue="x", profile="y")\nasync def ocr(job): ...', "and not both"),
        ('@task_type("ocr", queue="x")\nasync def ocr(job): ...', "or a queue and a profile"),
        ('@task_type("embedding", model="chat")\nasync def ocr(job): ...', "embedding is a built-in task type"),
        ('@task_type("ocr", model="chat")\ndef ocr(job): ...', "no 'async def' function"),
        (f'@task_type("{TICKET}", model="chat")\nasync def ocr(job): ...', "is taken"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(write: Write, text: str, said: str):
    name = write(text)
    told = refusal(name)
    assert said in told
    assert name in told or TICKET in told


def test_a_module_that_breaks_off_says_where_and_one_that_is_not_there_where_it_has_to_lie(write: Write):
    name = write("1 / 0")
    assert re.search(rf"\(ZeroDivisionError: .*\)\. See .*{name}\.py, line 2\.$", refusal(name))
    assert refusal("nowhere").endswith("or to lie in a folder that PYTHONPATH names.")
    assert "PYTHONPATH" not in refusal(write("import nowhere_to_be_found"))
    assert "line 2" in refusal(write("syntax error"))


def test_two_task_types_do_not_share_a_name(write: Write):
    assert "ocr is taken" in refusal(write(OCR), write(OCR))


def test_a_profile_has_one_queue(write: Write):
    other = OCR.replace('"ocr"', '"scan"').replace("cpu.ocr", "cpu.scan")
    assert "the profile tesseract of scan has the queue cpu.ocr" in refusal(write(OCR), write(other))


def test_a_profile_of_a_plug_in_is_no_models(write: Write):
    model = {"LLM_BASE_URL": "http://gpu:8000/v1", "LLM_MODEL": "tesseract"}
    settings = from_env({**model, "AI_SERVICE_PLUGINS": write(OCR)})
    with pytest.raises(StartupError, match="ocr has the profile tesseract, which is a model's"):
        served(settings, Configuration(), plugins.load(settings.plugins))


@pytest.mark.parametrize("given", ["a-b", "a b", "a,,b", "a.", "1a", "../a"])
def test_the_variable_holds_names_of_modules(given: str):
    with pytest.raises(StartupError, match=r"AI_SERVICE_PLUGINS: .* expected names of Python modules"):
        from_env({"AI_SERVICE_PLUGINS": given})


def test_the_variable_may_name_several():
    assert from_env({"AI_SERVICE_PLUGINS": "acme.tasks, task_types"}).plugins == ("acme.tasks", "task_types")


async def test_the_doctor_lists_them(write: Write):
    shown = StringIO()
    await doctor.run(from_env({"AI_SERVICE_PLUGINS": write(OCR, "acme_ocr")}), Console(file=shown, width=200))
    assert re.search(r"Plug-ins\s.*ok.*acme_ocr: ocr \(profile tesseract on cpu.ocr\)", shown.getvalue())


def test_the_names_that_plug_ins_may_import_are_there():
    assert all(hasattr(extend, name) for name in extend.__all__)


class TestARehearsal:
    @pytest.fixture(autouse=True)
    def examples(self, write: Write) -> None:
        self.brought = {task_type.name: task_type for task_type in plugins.load(["task_types"])}

    async def test_the_model_answers_what_the_test_says(self):
        asked: list[dict[str, Any]] = []

        def answer(request: dict[str, Any]) -> str:
            asked.append(request)
            return '{"keywords": ["lion"]}'

        found = await rehearse(self.brought["keyword_extraction"], {"text": "A lion."}, chat=answer)
        assert found == {"schema_version": "acme.keywords.v1", "keywords": ["lion"]}
        assert asked[0]["user"] == "A lion."

    async def test_an_upload_is_the_file_that_the_test_gives(self, tmp_path: Path):
        (tmp_path / "abc").write_bytes(b"abc")
        upload_id = UUID(int=7)
        given = {"upload_id": str(upload_id)}
        found = await rehearse(self.brought["file_digest"], given, files={upload_id: tmp_path / "abc"})
        assert found["digest"].startswith("ba7816bf")
        with pytest.raises(RunFailed) as failed:
            await rehearse(self.brought["file_digest"], given)
        assert failed.value.failure.code is ErrorCode.BAD_INPUT

    async def test_a_bad_input_is_refused_as_the_service_would(self):
        with pytest.raises(BadInput, match="/text"):
            await rehearse(self.brought["keyword_extraction"], {"text": ""})

    async def test_what_it_was_not_told_of_is_named(self):
        with pytest.raises(AssertionError, match="chat"):
            await rehearse(self.brought["keyword_extraction"], {"text": "Hi"})

    async def test_every_kind_of_model_can_be_played(self):
        @extend.task_type("all", queue="cpu", profile="cpu")
        async def everything(job: extend.Job[dict[str, Any]]) -> object:
            heard = await job.transcribe(audio_url=job.input["url"])
            vectors = await job.embed(profile="bge", input=[segment.text for segment in heard.segments])
            job.progress(done=1)
            return {"vectors": vectors.embeddings}

        found = await rehearse(
            everything,
            {"url": "https://example.com"},
            transcribe=lambda asked: [Segment(start=0, end=1, text=asked["audio_url"])],
            embed=lambda asked: [[len(asked["input"]), 0.5]] if asked["profile"] == "bge" else [],
        )
        assert found == {"vectors": [[1, 0.5]]}
