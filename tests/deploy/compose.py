"""What Docker Compose itself makes of our files, without Docker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMPOSE = Path(sys.executable).with_name("docker-compose")

Project = dict[str, Any]


def run_compose(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # Not the .env that may lie beside the files.
        [COMPOSE, "--env-file", "/dev/null", *options],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def project_of(folder: Path, *options: str, **variables: str) -> Project:
    """The project as Compose understands it; what it warns of is an error."""
    done = run_compose(folder, *options, "config", "--format", "json", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    project: Project = json.loads(done.stdout)
    return project
