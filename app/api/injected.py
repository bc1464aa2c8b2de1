"""How a controller gets at the use cases: one dependency, the same for all."""

from __future__ import annotations

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from app.services import Services

Injected = SkipValidation[NamedDependency[Services]]
