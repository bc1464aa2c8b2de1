from __future__ import annotations

import pytest

from domain.access import ANYBODY, Caller, Right
from domain.errors import BadInput, Forbidden, JobNotFound

LION = Caller(owner="lion")


@pytest.mark.parametrize("right", Right)
def test_where_no_token_is_needed_everybody_may_do_everything(right: Right):
    ANYBODY.must_have(right)


@pytest.mark.parametrize("right", Right)
def test_a_right_that_was_not_given_is_named_in_the_refusal(right: Right):
    with pytest.raises(Forbidden, match=right):
        Caller(rights=frozenset(Right) - {right}).must_have(right)


@pytest.mark.parametrize("right", Right)
def test_one_right_gives_no_other(right: Right):
    caller = Caller(rights=frozenset({right}))
    caller.must_have(right)
    for other in set(Right) - {right}:
        with pytest.raises(Forbidden):
            caller.must_have(other)


@pytest.mark.parametrize(("caller", "named"), [(LION, None), (LION, "lion"), (ANYBODY, "lion")])
def test_a_jobs_owner_is_the_callers_own_or_the_one_that_is_named(caller: Caller, named: str | None):
    assert caller.owner_of(named) == "lion"


def test_a_caller_without_an_owner_must_name_one():
    with pytest.raises(BadInput) as refusal:
        ANYBODY.owner_of(None)
    assert [problem.pointer for problem in refusal.value.problems] == ["/owner_service"]


def test_another_owner_may_not_be_named():
    with pytest.raises(Forbidden, match="lion"):
        LION.owner_of("bear")


@pytest.mark.parametrize("named", [(), ("lion",), ("lion", "lion")])
def test_a_caller_with_an_owner_looks_at_that_one_only(named: tuple[str, ...]):
    assert LION.owners(named) == ("lion",)


@pytest.mark.parametrize("named", [("bear",), ("lion", "bear")])
def test_a_filter_may_not_name_another_owner_not_even_beside_the_callers_own(named: tuple[str, ...]):
    with pytest.raises(Forbidden):
        LION.owners(named)


@pytest.mark.parametrize("named", [(), ("lion",), ("lion", "bear")])
def test_a_caller_without_an_owner_looks_where_it_likes(named: tuple[str, ...]):
    assert ANYBODY.owners(named) == named


@pytest.mark.parametrize(("caller", "owner"), [(ANYBODY, "bear"), (LION, "lion")])
def test_a_caller_may_touch_its_own_jobs(caller: Caller, owner: str):
    caller.must_own(owner)


def test_another_owners_job_does_not_exist():
    with pytest.raises(JobNotFound):
        LION.must_own("bear")
