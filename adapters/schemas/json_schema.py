"""JSON Schema by jsonschema-rs: nothing is ever fetched, no expression can run away, and what it costs is bounded.

Its default would ask other servers for what a schema refers to, and would match expressions by trying.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import jsonschema_rs
import msgspec
from jsonschema_rs import RegexOptions, Validator
from msgspec import Struct

from adapters.schemas.extent import MOST_NESTED, Extent, extent, nesting, values
from domain.errors import BadInput, Problem, escaped

LARGEST = 256 << 10
MOST_PATTERNS = 100
MOST_STEPS = 100_000
"""Of one schema, for one value. The library takes some ten of them in a microsecond."""
MOST_WORK = 100_000_000
"""Steps times values: seconds, for the worst schema and the worst document for it."""
FEW_STEPS = 1_000
"""Schemas with no more are cheap, whatever they are held against."""
LIGHT_WORK, LIGHT_MATCHING = 50_000, 3_000_000
"""Steps times values, and expressions times bytes of the document: some tenths of a second, for the worst of them."""
MOST_TOLD = 10_000
"""Steps for which the library is asked where: of alternatives it keeps each error, at 30 microseconds and 5 KiB."""
KEPT, PATTERNS_KEPT = 64, 1_000
"""Schemas, and regular expressions in them: each of these takes up to 100 KiB."""

# Automata, whose time grows with the text alone; the library's default tries, and gives up after a million steps.
LINEAR = RegexOptions(size_limit=128 << 10, dfa_size_limit=256 << 10)

SOMEWHERE = "somewhere: what does not fit lies too deep to tell"
TOO_MUCH = "somewhere: it is too large for a schema with so many alternatives"
TOO_DEEP = f"somewhere: it is nested more than {MOST_NESTED} deep"


class _Ready(Struct, frozen=True):
    """A schema that can be used."""

    validator: Validator
    extent: Extent


class JsonSchemas:
    """Holds documents against schemas; draft 2020-12 unless a schema's `$schema` names another. Safe in any thread.

    What has been made of the latest schemas is kept: thousands of jobs share one.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._most = kept
        self._kept: OrderedDict[bytes, _Ready] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, schema: object) -> None:
        """See that it is a JSON schema, and one that does not cost too much.

        Raises:
            BadInput: with the JSON pointer of what is wrong, from the schema's root.
        """
        self._ready(schema)

    def is_light(self, schema: object, document: object) -> bool:
        """Whether it takes so little to hold the document against the schema that everybody else may wait.

        Raises:
            BadInput: this is no schema.
        """
        found = self._ready(schema).extent
        if values(document, most := LIGHT_WORK // found.steps) > most:
            return False
        return not found.patterns or found.patterns * len(msgspec.json.encode(document)) <= LIGHT_MATCHING

    def misfit_here(self, schema: object, document: object) -> str | None:
        """Where the document does not fit the schema: a place and a keyword, and no name that the schema has not.

        Raises:
            BadInput: this is no schema.
        """
        ready = self._ready(schema)
        depth = nesting(document) if ready.extent.recursive else 0
        if depth > MOST_NESTED:
            return TOO_DEEP
        if ready.extent.steps > FEW_STEPS and ready.extent.steps * values(document) > MOST_WORK:
            return TOO_MUCH
        try:
            return None if ready.validator.is_valid(document) else _place(ready, document, depth)
        except ValueError:  # the library's own limit
            return TOO_DEEP

    @property
    def _patterns(self) -> int:
        return sum(ready.extent.patterns for ready in self._kept.values())

    def _ready(self, schema: object) -> _Ready:
        key = _key(schema)
        with self._lock:
            if ready := self._kept.get(key):
                self._kept.move_to_end(key)
                return ready
        ready = _make(schema, len(key))
        with self._lock:
            self._kept[key] = ready
            while len(self._kept) > 1 and (len(self._kept) > self._most or self._patterns > PATTERNS_KEPT):
                self._kept.popitem(last=False)
        return ready


def _key(schema: object) -> bytes:
    try:
        return msgspec.json.encode(schema, order="sorted")
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise _wrong("is not JSON, or nested too deeply") from None


def _make(schema: object, size: int) -> _Ready:
    if not isinstance(schema, dict | bool):
        raise _wrong("must be an object, true or false")
    if size > LARGEST:
        raise _wrong(f"has {size} bytes; at most {LARGEST} are accepted")
    if nesting(schema) > MOST_NESTED:
        raise _wrong(f"is nested more than {MOST_NESTED} deep")
    found = extent({} if isinstance(schema, bool) else schema)
    if found.patterns > MOST_PATTERNS:
        raise _wrong(f"has {found.patterns} regular expressions; at most {MOST_PATTERNS} are accepted")
    if found.steps > MOST_STEPS:
        raise _wrong("its references and alternatives multiply to more than could ever be checked")
    return _Ready(_compiled(schema), found)


def _compiled(schema: dict[str, Any] | bool) -> Validator:
    try:
        return jsonschema_rs.validator_for(schema, offline=True, pattern_options=LINEAR)
    except jsonschema_rs.ValidationError as error:
        raise BadInput([_problem(schema, error)]) from None
    except ValueError:
        raise _wrong("is nested too deeply") from None


def _problem(schema: dict[str, Any] | bool, error: jsonschema_rs.ValidationError) -> Problem:
    """What its meta-schema says of it, without its own words."""
    where = "".join(f"/{escaped(str(step))}" for step in error.instance_path)
    keyword = error.kind.name
    if keyword == "format":
        return Problem(where, "must be a regular expression: not too large, without look-around and back-references")
    if not where and isinstance(schema, dict) and "Unknown meta-schema" in error.message:
        return Problem("/$schema", "is not a draft of JSON Schema that is known here")
    return Problem(where, f"is not what JSON Schema allows here ({keyword})")


def _wrong(detail: str) -> BadInput:
    return BadInput([Problem("", detail)])


def _place(ready: _Ready, document: object, depth: int) -> str:
    found = ready.extent
    if found.steps * found.widest**depth > MOST_TOLD:
        return SOMEWHERE
    try:
        # Up to the first error: `iter_errors` would make all of them before it told one.
        ready.validator.validate(document)
    except jsonschema_rs.ValidationError as error:
        steps = (str(step) if isinstance(step, int) else _named(step, found.names) for step in error.instance_path)
        return f"at {''.join(f'/{step}' for step in steps) or '/'}: {error.kind.name}"
    return SOMEWHERE


def _named(step: str, names: frozenset[str]) -> str:
    """A property's name where the schema has it too: any other is the document's own, and nobody else's business."""
    return escaped(step) if step in names else "*"
