"""Loads what an installation brings itself: the task types of the modules that `AI_SERVICE_PLUGINS` names."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from domain.errors import StartupError
from domain.routing import OwnQueue
from domain.task_type import TaskType

VARIABLE = "AI_SERVICE_PLUGINS"

TICKET = "ticket"
"""The actor of this name wakes workers (actors/tickets.py, which takes a while to load)."""


def names(given: str) -> tuple[str, ...]:
    """
    Raises:
        ValueError: these are no names of modules; says what was expected.
    """
    found = tuple(name.strip() for name in given.split(","))
    if not all(re.fullmatch(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*", name) for name in found):
        raise ValueError("names of Python modules, separated by commas")
    return found


def load(modules: Sequence[str]) -> tuple[TaskType[Any], ...]:
    """Their task types: whatever of that kind stands in one of these modules, or is imported into it.

    A module that was loaded before is not loaded again.

    Raises:
        StartupError: one of them cannot be imported or brings none, or two task types do not go together.
    """
    task_types: list[TaskType[Any]] = []
    for name in modules:
        brought = [value for value in vars(_imported(name)).values() if isinstance(value, TaskType)]
        if not brought:
            raise StartupError(f"{VARIABLE}: the module {name} brings no task type.")
        task_types += brought
    found = tuple(dict.fromkeys(task_types))
    _must_go_together(found)
    return found


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split()) or "it says no more"
        raise StartupError(
            f"{VARIABLE}: the module {name} cannot be imported ({type(error).__name__}: {said}). {_advice(name, error)}"
        ) from error


def _advice(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return "It has to be installed beside the service, or to lie in a folder that PYTHONPATH names."
    ours = (__file__, importlib.__file__)
    places = [place for place in traceback.extract_tb(error.__traceback__) if place.filename not in ours]
    own = [place for place in places if not place.filename.startswith("<frozen ")]
    return f"See {own[-1].filename}, line {own[-1].lineno}." if own else "It says where."


def _must_go_together(task_types: Sequence[TaskType[Any]]) -> None:
    names = {TICKET}
    queues: dict[str, str] = {}
    for task_type in task_types:
        if task_type.name in names:
            raise StartupError(f"{VARIABLE}: the name of the task type {task_type.name} is taken.")
        names.add(task_type.name)
        need = task_type.needs
        if isinstance(need, OwnQueue) and queues.setdefault(need.profile, need.queue) != need.queue:
            taken = queues[need.profile]
            raise StartupError(f"{VARIABLE}: the profile {need.profile} of {task_type.name} has the queue {taken}.")
