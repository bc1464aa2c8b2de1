"""The port `InfraProbe` over HTTP: every target is asked at once, each for two seconds, and not again for five."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import httpx
import structlog
from msgspec import Struct

from adapters.infra import containers, gpus, model_servers
from adapters.infra.fetch import LONGEST, Address, fetch, open_client
from adapters.infra.samples import Samples, read_samples
from adapters.infra.trouble import TargetTrouble, refused
from domain.infra import Readings, Speech, Target, TargetKind

log = structlog.get_logger()

PATIENCE = timedelta(seconds=2)
KEPT = 5.0
"""Seconds for which what was told is given out again."""

NO_METRICS_KEPT = 60.0
"""Seconds before a speech server that has no metrics is asked for them again."""

LEAST_APART, MOST_APART = 1.0, 300.0
"""Seconds between two looks that make a rate: closer it would jump, further it would tell of a time long gone."""


class Place(Struct, frozen=True):
    """A target as it is configured."""

    name: str
    kind: TargetKind
    url: str

    def __repr__(self) -> str:
        return f"Place({self.name!r}, {self.kind.value})"


Read = Callable[[Samples, Samples | None, float | None], Readings]
"""Makes readings of a look, and of the one before it and the seconds between them, where there was one."""


class Page(NamedTuple):
    """How the page of a kind of exporter reads."""

    names: Sequence[str]
    read: Read
    having: bytes = b""
    beside: Sequence[str] = ()
    counts: bool = True
    """Whether rates are made of two looks."""


PAGES: Mapping[TargetKind, Page] = {
    TargetKind.DCGM: Page(gpus.DCGM_NAMES, lambda now, _before, _seconds: gpus.read_dcgm(now), counts=False),
    TargetKind.NVIDIA_SMI: Page(
        gpus.NVIDIA_SMI_NAMES, lambda now, _before, _seconds: gpus.read_nvidia_smi(now), counts=False
    ),
    TargetKind.CADVISOR: Page(containers.NAMES, containers.read_containers, having=containers.NAMED),
    TargetKind.VLLM: Page(model_servers.NAMES, model_servers.read_model_servers, beside=(model_servers.STARTED,)),
}


class HttpInfra:
    """Asks exporters and speech servers. Belongs to the event loop that first uses it, and is to be closed there."""

    def __init__(
        self,
        places: Sequence[Place],
        *,
        patience: timedelta = PATIENCE,
        longest: int = LONGEST,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            longest: the bytes of an answer that are read; one that has more is refused as a whole.
        """
        self._monotonic = monotonic
        asking = Asking(patience.total_seconds(), longest, monotonic)
        self._sources = [_source(place, asking) for place in places]
        self._client: httpx.AsyncClient | None = None
        # A lock, and no task of its own: when the one who asks is cancelled, the next in line asks anew.
        self._looking = asyncio.Lock()
        self._looked_at: float | None = None

    async def look(self) -> tuple[Target, ...]:
        """What every target tells, in the order of their places. Who comes while they are asked waits for it."""
        if not self._sources:
            return ()
        async with self._looking:
            if self._looked_at is None or self._monotonic() - self._looked_at >= KEPT:
                # To read the well-known authorities takes a while: not before somebody wants to know.
                client = self._client = self._client or open_client()
                await asyncio.gather(*(source.look(client) for source in self._sources))
                self._looked_at = self._monotonic()
        return tuple(source.target() for source in self._sources)

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()


class Asking(NamedTuple):
    """What holds for every target."""

    patience: float
    longest: int
    monotonic: Callable[[], float]


class _Source:
    """A target, and what it told last."""

    silence = "It did not answer within {patience:g} s."

    def __init__(self, place: Place, address: Address, asking: Asking) -> None:
        self.address = address
        self.asking = asking
        self._place = place
        self._error: str | None = None
        self._readings: Readings | None = None
        self._told_at: float | None = None
        self.rates_over: float | None = None

    async def look(self, client: httpx.AsyncClient) -> None:
        error = None
        try:
            async with asyncio.timeout(self.asking.patience):
                self._readings = await self.ask(client)
            self._told_at = self.asking.monotonic()
        except TargetTrouble as trouble:
            error = str(trouble)
        except TimeoutError:
            error = self.silence.format(patience=self.asking.patience)
        if error and not self._error:
            log.warning("infra target is down", target=self._place.name, trouble=error)
        if self._error and not error:
            log.info("infra target is back", target=self._place.name)
        self._error = error

    async def ask(self, client: httpx.AsyncClient) -> Readings:
        """
        Raises:
            TargetTrouble.
        """
        raise NotImplementedError

    def target(self) -> Target:
        told = self._told_at
        return Target(
            name=self._place.name,
            kind=self._place.kind,
            error=self._error,
            age_seconds=None if told is None else round(self.asking.monotonic() - told, 3),
            rates_over_seconds=None if self._error or self.rates_over is None else round(self.rates_over, 3),
            readings=None if self._error else self._readings,
        )


class _Exporter(_Source):
    """Has a page of metrics."""

    def __init__(self, place: Place, address: Address, asking: Asking, page: Page) -> None:
        super().__init__(place, address, asking)
        self._page = page
        self._before: tuple[Samples, float] | None = None

    async def ask(self, client: httpx.AsyncClient) -> Readings:
        answer = await fetch(client, self.address, self.asking.longest)
        now = self.asking.monotonic()
        if not answer.good:
            raise refused(answer.status)
        # A long page takes a second, and the event loop has others to serve.
        before, seconds = self._earlier(now)
        samples, readings = await asyncio.to_thread(_read, self._page, answer.body, before, seconds)
        if self._page.counts:
            self.rates_over = seconds
            if self._before is None or now - self._before[1] >= LEAST_APART:
                self._before = samples, now
        return readings

    def _earlier(self, now: float) -> tuple[Samples, float] | tuple[None, None]:
        """The look before, and how long ago it was, where rates can be made of it."""
        if self._before is None or not LEAST_APART <= now - self._before[1] <= MOST_APART:
            return None, None
        return self._before[0], now - self._before[1]


class _SpeechServer(_Source):
    """Has a health address, and perhaps metrics beside it."""

    silence = "It did not answer within {patience:g} s; some speech servers do not while they transcribe."

    def __init__(self, place: Place, address: Address, asking: Asking) -> None:
        super().__init__(place, address, asking)
        self._no_metrics_until = float("-inf")

    async def ask(self, client: httpx.AsyncClient) -> Readings:
        healthy, latency = await self._health(client)
        # Not all of what is left: metrics that do not come must not cost what is known of its health.
        running, waiting = await self._load(client, (self.asking.patience - latency) * 0.9)
        return Readings(
            speech=Speech(healthy=healthy, latency_seconds=round(latency, 4), running=running, waiting=waiting)
        )

    async def _health(self, client: httpx.AsyncClient) -> tuple[bool, float]:
        began = self.asking.monotonic()
        answer = await fetch(client, self.address, self.asking.longest)
        if not answer.good and answer.status < 500:
            raise refused(answer.status)
        return answer.good, self.asking.monotonic() - began

    async def _load(self, client: httpx.AsyncClient, patience: float) -> tuple[float | None, float | None]:
        """Requests that run and that wait there. That it tells nothing of them is no fault of its."""
        now = self.asking.monotonic()
        if now < self._no_metrics_until:
            return None, None
        try:
            async with asyncio.timeout(patience):
                answer = await fetch(client, self.address.beside("metrics"), self.asking.longest)
        except (TargetTrouble, TimeoutError):
            return None, None
        samples = read_samples(answer.body, model_servers.NAMES) if answer.good else None
        if samples is None:
            self._no_metrics_until = now + NO_METRICS_KEPT
            return None, None
        return model_servers.load(samples)


def _read(page: Page, body: bytes, before: Samples | None, seconds: float | None) -> tuple[Samples, Readings]:
    samples = read_samples(body, page.names, having=page.having, beside=page.beside)
    if samples is None:
        raise TargetTrouble("It answers, but not with the figures of its kind: is the address right, and the kind?")
    return samples, page.read(samples, before, seconds)


def _source(place: Place, asking: Asking) -> _Source:
    if place.kind is TargetKind.SPEECH:
        return _SpeechServer(place, Address.of(place.url, "/health"), asking)
    return _Exporter(place, Address.of(place.url, "/metrics"), asking, PAGES[place.kind])
