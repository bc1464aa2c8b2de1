"""Jobs of an installation's own task types: what their runs are given, may ask for, and what becomes of their ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec import Raw, Struct
from structlog.testing import capture_logs

from actors.brought import Brought, Models
from actors.chain import Backend, Chain
from actors.chat import Chat
from actors.desk import Performed
from actors.embedding import Embedding
from actors.progress import LARGEST
from actors.telling import Tellings
from adapters.memory.texts import InProcessTexts, NoTexts
from adapters.providers.practice import PracticeEmbeddings, PracticeProvider
from domain.errors import BadInput, ErrorCode, Problem, RunFailed
from domain.events import REVOKED
from domain.job import CANCELLED_BY_CALLER, JobStatus, LeasedJob
from domain.ports import AudioFiles
from domain.results import TranscriptionResult
from domain.routing import ModelKind
from domain.speech import AudioSource, AudioUpload, AudioUrl
from domain.task_type import Job, TaskType
from domain.texts import TextPiece
from tests.actors.rig import Shop, until
from tests.factories import PROFILE, job_event, leased_job, new_job
from tests.fakes import FakeSchemas

Run = Callable[[Job[Any]], Awaitable[object]]

NAME = "keywords"


class Text(Struct):
    text: str = "Hello"


class FakeFiles:
    """Every upload and address has its own name as content."""

    async def fetch(self, source: AudioSource, owner_service: str, path: Path) -> None:
        match source:
            case AudioUpload(upload_id):
                _write(path, f"{owner_service}: {upload_id}")
            case AudioUrl(url):
                _write(path, url)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


async def hear(job: LeasedJob, asked: Raw | None = None) -> Performed:
    assert asked is not None
    language = msgspec.json.decode(asked)["language"]
    return Performed(msgspec.json.encode(TranscriptionResult(language=language, segments=(), duration_ms=1)))


class Failing:
    async def chat(self, *_: Any) -> Any:
        raise RunFailed(ErrorCode.TIMEOUT, "It took too long.")


def models(texts: Any = None) -> Models:
    files: AudioFiles = FakeFiles()
    served: dict[str, Backend[Any]] = {
        PROFILE: Backend(PROFILE, PracticeProvider(), "practice", "practice"),
        "other": Backend("other", Failing(), "vllm", "qwen", fallbacks=(PROFILE,)),
        "broken": Backend("broken", Failing(), "vllm", "qwen"),
    }
    vectors: dict[str, Backend[Any]] = {"bge": Backend("bge", PracticeEmbeddings(), "practice", "practice")}
    chat = Chat(Chain(lambda: served), 10_000, FakeSchemas(), Tellings(NoTexts()))
    told = Chat(Chain(lambda: served), 10_000, FakeSchemas(), Tellings(texts or NoTexts()))
    return Models(chat, told, Embedding(Chain(lambda: vectors), 10_000), hear, files)


async def kept_nowhere(job: LeasedJob, progress: Raw) -> None:
    pass


def brought(run: Run, keep: Any = kept_nowhere, texts: Any = None, most: int = 10_000) -> Brought:
    return Brought(TaskType(NAME, run, Text, ModelKind.CHAT), models(texts), keep, most)


def job(given: bytes = b"{}") -> LeasedJob:
    return leased_job(task_type=NAME, model_profile=PROFILE, input=Raw(given))


async def result(run: Run, given: bytes = b"{}", **how: Any) -> Any:
    return msgspec.json.decode((await brought(run, **how)(job(given))).result)


async def test_a_run_is_given_its_job():
    async def run(job: Job[Text]) -> object:
        return {"text": job.input.text, "owner": job.owner_service, "attempt": job.attempt, "type": job.task_type}

    assert await result(run, b'{"text": "Hi"}') == {"text": "Hi", "owner": "beeline", "attempt": 1, "type": NAME}


async def test_a_bad_input_does_not_reach_the_run():
    async def run(job: Job[Text]) -> object:
        pytest.fail("it ran")

    with pytest.raises(BadInput):
        await result(run, b'{"text": 7}')


async def test_it_asks_models_by_their_profiles():
    async def run(job: Job[Text]) -> object:
        said = await job.chat(user=job.input.text)
        vectors = await job.embed(profile="bge", input=["a", "b"], dimensions=3)
        heard = await job.transcribe(language="de", upload_id=uuid4())
        return {"said": said.content, "vectors": [len(each) for each in vectors.embeddings], "in": heard.language}

    assert await result(run) == {"said": "Practice answer to: Hello", "vectors": [3, 3], "in": "de"}


async def test_the_calls_that_it_took_are_told():
    async def run(job: Job[Text]) -> object:
        return {"said": (await job.chat(profile="other", user="Hi")).content}

    performed = await brought(run)(job())
    assert [attempt.error_code for attempt in performed.attempts][:1] == ["timeout"]
    assert len(performed.attempts) == 2


async def test_what_ails_the_model_is_what_ails_the_run():
    async def run(job: Job[Text]) -> object:
        await job.chat(profile="broken", user="Hi")
        return {}

    with pytest.raises(RunFailed) as failed:
        await result(run)
    assert failed.value.failure.code is ErrorCode.TIMEOUT


async def test_only_what_is_streamed_is_told_to_those_who_read_along():
    texts = InProcessTexts()
    pieces: list[TextPiece] = []
    texts.listen(pieces.extend)

    async def run(job: Job[Text]) -> object:
        await job.chat(user="To oneself")
        await job.chat(user="To all", stream=True)
        return {}

    await result(run, b'{"stream": true}', texts=texts)
    assert "".join(piece.text for piece in pieces) == "Practice answer to: To all"


def test_a_file_is_there_while_it_is_used():
    upload_id = UUID(int=7)

    async def run(job: Job[Text]) -> object:
        async with job.file(upload_id) as upload, job.file("https://example.com/a.pdf") as download:
            return {"upload": upload.read_text(), "url": download.read_text(), "path": str(upload)}

    found = asyncio.run(result(run))
    assert (found["upload"], found["url"]) == (f"beeline: {upload_id}", "https://example.com/a.pdf")
    assert not Path(found["path"]).exists()


async def test_a_result_has_a_limit():
    async def run(job: Job[Text]) -> object:
        return {"text": "x" * 100}

    with pytest.raises(RunFailed, match="MAX_RESULT_BYTES"):
        await result(run, most=100)


async def test_a_thread_of_its_own_returns_and_raises_what_the_function_does():
    async def run(job: Job[Text]) -> object:
        with pytest.raises(KeyError):
            await job.in_thread({}.__getitem__, "missing")
        return {"thread": await job.in_thread(threading.current_thread) is threading.main_thread()}

    assert await result(run) == {"thread": False}


@pytest.mark.parametrize("end", [StopIteration, SystemExit, KeyboardInterrupt])
async def test_what_would_end_more_than_the_thread_is_an_error_of_the_run(end: type[BaseException]):
    def leave() -> None:
        raise end

    async def run(job: Job[Any]) -> None:
        await asyncio.gather(job.in_thread(leave))

    with pytest.raises(RuntimeError, match=end.__name__):
        await asyncio.wait_for(result(run), 5)


async def test_an_error_that_nobody_foresaw_is_logged_by_its_place_and_not_by_its_text():
    async def run(job: Job[Text]) -> object:
        raise ValueError(f"secret {job.input.text}")

    with capture_logs() as logs, pytest.raises(ValueError):
        await result(run)
    [line] = logs
    assert (line["event"], line["error"], line["task_type"]) == ("task type failed", "ValueError", NAME)
    assert "test_brought.py" in line["at"]
    assert "secret" not in str(line)


class TestProgress:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("actors.progress.EVERY", 0.02)

    async def test_the_last_that_was_said_is_kept_from_whatever_thread(self):
        kept: list[Any] = []
        seen = asyncio.Event()

        async def keep(job: LeasedJob, progress: Raw) -> None:
            kept.append(msgspec.json.decode(progress))
            if kept[-1] == {"done": 9}:
                seen.set()

        def count(job: Job[Text]) -> None:
            for done in range(10):
                job.progress(done=done)

        async def run(job: Job[Text]) -> object:
            await job.in_thread(count, job)
            await asyncio.wait_for(seen.wait(), 10)
            return {}

        await result(run, keep=keep)
        assert kept[-1] == {"done": 9}
        assert len(kept) < 10

    async def test_what_goes_wrong_with_it_does_not_end_the_run(self):
        tried = asyncio.Event()

        async def keep(job: LeasedJob, progress: Raw) -> None:
            tried.set()
            raise RuntimeError("the pool is closed")

        async def run(job: Job[Text]) -> object:
            job.progress(done=1)
            await asyncio.wait_for(tried.wait(), 10)
            return {"ended": True}

        with capture_logs() as logs:
            assert await result(run, keep=keep) == {"ended": True}
        assert [line["event"] for line in logs] == ["progress not kept"]

    async def test_too_much_of_it_is_refused(self):
        async def run(job: Job[Text]) -> object:
            job.progress(text="x" * LARGEST)
            return {}

        with pytest.raises(ValueError, match="bytes of progress"):
            await result(run)


class TestInAWorker:
    """Through the desk, the fence and the retry table."""

    @staticmethod
    def shop(run: Run) -> Shop:
        async def keep(job: LeasedJob, progress: Raw) -> None:
            await shop.store.note_progress(job.lease, progress)

        shop = Shop({NAME: brought(run, keep)})
        return shop

    def failed(self, run: Run) -> Any:
        with self.shop(run) as shop:
            (job,) = shop.submit(new_job(task_type=NAME, max_attempts=1))
            shop.done(job)
            shop.idle()
            return shop.job(job).failure

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (RunFailed(ErrorCode.DEPENDENCY_ERROR, "The scanner is away."), "dependency_error", "The scanner is away."),
            (BadInput([Problem("/text", "is empty")]), "bad_input", "/text: is empty"),
            (ConnectionError("refused"), "dependency_error", "refused"),
            (KeyError("payload"), "internal_error", "An unexpected KeyError ended the run."),
            (SystemExit(3), "internal_error", "An unexpected SystemExit ended the run."),
        ],
    )
    def test_how_it_ends_is_what_the_table_makes_of_it(self, error: BaseException, code: str, message: str):
        async def run(job: Job[Text]) -> object:
            raise error

        failure = self.failed(run)
        assert (failure.code, failure.message) == (code, message)

    def test_its_progress_is_that_of_the_job(self):
        going_on = threading.Event()

        async def run(job: Job[Text]) -> object:
            job.progress(page=1, of=2)
            return {"went_on": await job.in_thread(going_on.wait, 10)}

        with self.shop(run) as shop:
            (job,) = shop.submit(new_job(task_type=NAME))
            until(lambda: shop.job(job).progress, "its progress")
            assert bytes(shop.job(job).progress or b"") == b'{"page":1,"of":2}'
            going_on.set()
            shop.done(job)
            assert shop.store.settlements[-1].result == b'{"went_on":true}'

    def test_a_cancelled_run_holds_its_slot_until_its_thread_has_ended(self):
        started, going_on = threading.Event(), threading.Event()

        def compute() -> None:
            started.set()
            going_on.wait(10)

        async def run(job: Job[Text]) -> object:
            if job.input.text == "next":
                return {"at": time.monotonic()}
            await job.in_thread(compute)
            return {}

        with self.shop(run) as shop:
            (job,) = shop.submit(new_job(task_type=NAME))
            assert started.wait(10)
            (following,) = shop.submit(new_job(task_type=NAME, input=Raw(b'{"text":"next"}')))
            shop.bus.publish(shop.on_loop(shop.store.cancel([job], CANCELLED_BY_CALLER)))
            shop.bus.publish([job_event(job_id=job, kind=REVOKED)])
            until(lambda: shop.desk()._lost, "it hears of it")
            assert shop.job(following).status is JobStatus.PENDING
            ended = time.monotonic()
            going_on.set()
            shop.done(following)
            stored = shop.job(following).result
            assert stored is not None
            assert msgspec.json.decode(stored)["at"] >= ended
