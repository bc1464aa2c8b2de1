"""Enough of a reader of Dockerfiles and .dockerignore to do their steps without an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

Instruction = tuple[str, str]
"""Its name, and what follows on its line or lines."""


def stages(file: Path) -> list[list[Instruction]]:
    """The instructions of each stage from its FROM on; those before the first stage are left out."""
    text = "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    found: list[list[Instruction]] = []
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        if name and found:
            found[-1].append((name, rest.strip()))
    return found


def only(stage: Sequence[Instruction], name: str) -> str:
    [rest] = [rest for found, rest in stage if found == name]
    return rest


def commands(stage: Sequence[Instruction]) -> Iterator[str]:
    """What its RUN steps do, in order."""
    for name, rest in stage:
        if name == "RUN":
            yield from (command.strip() for command in rest.split("&&"))


def sent(folder: Path, ignore: Path) -> list[PurePosixPath]:
    """The files of a folder that an engine would be sent, after its .dockerignore: the last line that fits decides."""
    lines = [line for line in ignore.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rules = [(not line.startswith("!"), _pattern(line.lstrip("!"))) for line in lines]
    return [path for path in _files(folder, folder) if not _ignored(path, rules)]


def _files(root: Path, folder: Path) -> Iterator[PurePosixPath]:
    for path in sorted(folder.iterdir()):
        # Left out here only because they are large; that the rules leave them out too is a test's business.
        if path.is_dir() and path.name not in {".venv", ".git"}:
            yield from _files(root, path)
        elif path.is_file():
            yield PurePosixPath(path.relative_to(root))


def _ignored(path: PurePosixPath, rules: Sequence[tuple[bool, re.Pattern[str]]]) -> bool:
    ignored = False
    for ignores, pattern in rules:
        if any(pattern.fullmatch(str(each)) for each in (path, *path.parents[:-1])):
            ignored = ignores
    return ignored


def ignores(ignore: Path, path: str) -> bool:
    lines = [line for line in ignore.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return _ignored(PurePosixPath(path), [(not line.startswith("!"), _pattern(line.lstrip("!"))) for line in lines])


def _pattern(line: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*|\?|\[[^]]*\])", line)
    meaning = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part, part if part.startswith("[") else re.escape(part)) for part in parts))
