"""What controllers are handed, the same for all: the use cases, and who calls."""

from __future__ import annotations

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from app.services import Services
from domain.access import Caller

Injected = SkipValidation[NamedDependency[Services]]
Calling = SkipValidation[NamedDependency[Caller]]
