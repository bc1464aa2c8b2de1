"""Fallbacks: who is asked after whom, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec import UNSET

from actors.chain import AllFailed, Backend, Chain
from domain.errors import BadInput, ErrorCode, Problem, RunFailed, TooLong
from tests.factories import leased_job
from tests.fakes import FakeClock

JOB = leased_job(model_profile="first")


class Server:
    """Answers with its name, or fails."""

    def __init__(self, name: str, code: ErrorCode | None = None) -> None:
        self.name = name
        self.code = code
        self.asked = 0

    async def answer(self) -> str:
        self.asked += 1
        if self.code:
            raise RunFailed(self.code, f"{self.name} failed.")
        return self.name


async def ask(backend: Backend[Server]) -> str:
    return await backend.provider.answer()


def chain(*servers: Server, fallbacks: tuple[str, ...] | None = None) -> Chain[Server]:
    names = tuple(server.name for server in servers)
    backends: Mapping[str, Backend[Server]] = {
        server.name: Backend(
            server.name, server, "vllm", f"model-{server.name}", () if place else fallbacks or names[1:]
        )
        for place, server in enumerate(servers)
    }
    return Chain(lambda: backends, FakeClock().monotonic)


async def test_the_first_that_answers_does_and_nobody_else_is_asked() -> None:
    second = Server("second")
    answered = await chain(Server("first"), second).ask(JOB, ask)
    assert (answered.answer, answered.provider, answered.attempts, second.asked) == ("first", "vllm", (), 0)


@pytest.mark.parametrize(
    "code",
    [ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.CONTEXT_LENGTH, ErrorCode.RATE_LIMITED, ErrorCode.AUTH_ERROR],
)
async def test_where_one_fails_the_next_is_asked_and_every_call_is_told(code: ErrorCode) -> None:
    answered = await chain(Server("first", code), Server("second")).ask(JOB, ask)
    assert answered.answer == "second"
    assert [(each.model, each.error_code) for each in answered.attempts] == [
        ("model-first", code),
        ("model-second", UNSET),
    ]
    assert answered.attempts[0].error_message == "first failed."


@pytest.mark.parametrize("code", [ErrorCode.BAD_INPUT, ErrorCode.BAD_AUDIO, ErrorCode.UNSUPPORTED_TASK])
async def test_what_is_wrong_with_the_job_is_wrong_everywhere(code: ErrorCode) -> None:
    second = Server("second")
    with pytest.raises(RunFailed) as failed:
        await chain(Server("first", code), second).ask(JOB, ask)
    assert (failed.value.failure.code, second.asked) == (code, 0)
    assert not isinstance(failed.value, AllFailed)


async def test_what_is_too_long_for_one_may_be_heard_by_the_next() -> None:
    async def hear(backend: Backend[Server]) -> str:
        if backend.profile == "first":
            raise TooLong("It takes no recording, however short.")
        return await backend.provider.answer()

    answered = await chain(Server("first"), Server("second")).ask(JOB, hear)
    assert (answered.answer, answered.attempts[0].error_code) == ("second", ErrorCode.BAD_INPUT)


async def test_where_all_fail_the_job_carries_how_its_own_did() -> None:
    servers = Server("first", ErrorCode.RATE_LIMITED), Server("second", ErrorCode.TIMEOUT)
    with pytest.raises(AllFailed) as failed:
        await chain(*servers).ask(JOB, ask)
    assert failed.value.failure.code is ErrorCode.RATE_LIMITED
    assert [each.error_code for each in failed.value.attempts] == ["rate_limited", "timeout"]


async def test_a_fallback_falls_back_no_further_and_one_that_has_gone_is_passed_over() -> None:
    third = Server("third")
    told = chain(
        Server("first", ErrorCode.TIMEOUT), Server("second", ErrorCode.TIMEOUT), third, fallbacks=("gone", "second")
    )
    with pytest.raises(AllFailed):
        await told.ask(JOB, ask)
    assert third.asked == 0


async def test_nobody_follows_an_answer_that_was_begun() -> None:
    second = Server("second")
    with pytest.raises(RunFailed):
        await chain(Server("first", ErrorCode.PROVIDER_UNAVAILABLE), second).ask(JOB, ask, bound=lambda: True)
    assert second.asked == 0


async def test_an_error_that_no_provider_made_goes_through() -> None:
    async def broken(backend: Backend[Server]) -> str:
        raise BadInput([Problem("", "wrong")])

    with pytest.raises(BadInput):
        await chain(Server("first"), Server("second")).ask(JOB, broken)
