"""A configuration file that changes while a service runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Configuration:
    """The file, changed as a whole: nobody reads half of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "configuration.json"
        self.says()

    def says(self, **parts: Any) -> None:
        self.is_text(json.dumps(parts))

    def is_text(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)
