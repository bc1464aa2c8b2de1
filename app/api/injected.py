"""What controllers are handed, the same for all: the use cases, who calls, and what Prometheus reads."""

from __future__ import annotations

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from app.scrape import Scrape
from app.services import Services
from domain.access import Caller

Injected = SkipValidation[NamedDependency[Services]]
Scraping = SkipValidation[NamedDependency[Scrape]]
Calling = SkipValidation[NamedDependency[Caller]]
