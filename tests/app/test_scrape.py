"""What a process answers to Prometheus, and what it asks for that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from app.scrape import Sample, Scraped
from domain.errors import StorageUnavailable
from domain.usecases.report import Readiness, Report
from domain.usecases.survey import Installation, Survey
from tests.app.conftest import Api

UP = [("aijobs_up", ("storage",), 1.0), ("aijobs_up", ("broker",), 1.0)]


class Site:
    """An installation that counts how often it is looked at."""

    def __init__(self, *, leads: bool | None) -> None:
        self.surveys = 0
        self.away = False
        self.shown: list[Sample] = []
        self.scraped = Scraped(self, cast("Report", self), cast("Survey", self), lambda: leads, self.samples)

    async def readiness(self) -> Readiness:
        return Readiness(storage=not self.away, broker=True)

    async def installation(self) -> Installation:
        self.surveys += 1
        if self.away:
            raise StorageUnavailable
        return cast("Installation", self)

    def samples(self, installation: Installation) -> Iterable[Sample]:
        return [("aijobs_workers", (), 3.0)]

    def page(self, accept: str, figures: Iterable[Sample] = ()) -> tuple[str, bytes]:
        self.shown = list(figures)
        return accept, b"page"


async def test_the_leader_shows_the_installation():
    site = Site(leads=True)
    page = await site.scraped.page("text/plain")
    assert (page.content_type, page.body) == ("text/plain", b"page")
    assert site.shown == [("aijobs_scheduler_leading", (), 1.0), *UP, ("aijobs_workers", (), 3.0)]


async def test_others_show_only_themselves_and_ask_for_no_more():
    for leads in (False, None):
        site = Site(leads=leads)
        await site.scraped.page("")
        assert (site.shown, site.surveys) == ([("aijobs_scheduler_leading", (), 0.0), *UP], 0)


async def test_however_often_it_is_asked_it_looks_once_in_five_seconds():
    site = Site(leads=True)
    for _ in range(20):
        await site.scraped.page("")
    assert site.surveys == 1


async def test_while_the_storage_is_away_the_page_says_so_and_shows_the_rest():
    site = Site(leads=True)
    site.away = True
    await site.scraped.page("")
    assert site.shown == [("aijobs_scheduler_leading", (), 1.0), ("aijobs_up", ("storage",), 0.0), UP[1]]


async def test_the_api_shows_its_page_to_everybody(guarded_api: Api):
    answer = await guarded_api.client.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
