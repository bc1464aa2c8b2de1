"""What the structs of the wire may be made of."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import msgspec
import pytest

import app.wire
from domain import chat, results

MODULES = [
    *(importlib.import_module(f"app.wire.{module.name}") for module in pkgutil.iter_modules(app.wire.__path__)),
    chat,
    results,
]
STRUCTS = {
    f"{value.__module__}.{value.__qualname__}": value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
}


def unions(node: object) -> Iterator[msgspec.inspect.UnionType]:
    """Every union within a type."""
    if isinstance(node, msgspec.inspect.UnionType):
        yield node
    if isinstance(node, msgspec.Struct):
        for part in msgspec.structs.astuple(node):
            yield from unions(part)
    elif isinstance(node, tuple):
        for part in node:
            yield from unions(part)


@pytest.mark.parametrize("struct", STRUCTS.values(), ids=STRUCTS)
def test_no_text_with_a_pattern_stands_beside_a_list_or_an_object(struct: type[msgspec.Struct]):
    # msgspec (0.19 to 0.22 at least) frees such a union wrongly: one process in five ends with a segmentation fault.
    for union in unions(msgspec.inspect.type_info(struct)):
        texts = [kind for kind in union.types if isinstance(kind, msgspec.inspect.StrType)]
        others = (msgspec.inspect.CollectionType, msgspec.inspect.DictType, msgspec.inspect.StructType)
        assert not (any(text.pattern for text in texts) and any(isinstance(kind, others) for kind in union.types))
