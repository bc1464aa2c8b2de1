"""How these pages become a site. `make docs` builds it, offline, from the files that are read in the repository."""

from __future__ import annotations

import os
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent
ROOT = PAGES.parent

project = "AI Service"
version = release = version_of("ai-service")

extensions = ["myst_parser"]
nitpicky = True
exclude_patterns = ["_build"]

myst_heading_anchors = 4
"""Levels of headings that links such as `api.md#runs` may lead to; GitHub makes the same anchors."""

html_theme = "furo"
html_title = f"AI Service {release}"
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
html_use_index = False

REPOSITORY = os.environ.get("DOCS_REPOSITORY", "").rstrip("/")
"""Where readers of the site find the repository's files, say `https://git.example.com/ai-service/blob/main`. Without it
a link to one shows its path instead."""

TWINS = {"README.md": "index", "CHANGELOG.md": "changelog"}
"""Files of the repository that the site has a page for."""


def show(_app: Any, document: str, source: list[str]) -> None:
    """What the site shows as this page."""
    if document == "changelog":
        source[0] = with_links_led((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), ROOT)
        return
    source[0] = with_links_led(source[0], (PAGES / document).parent)


def with_links_led(text: str, folder: Path) -> str:
    """A file of that folder, its links leading to pages of the site or, where there is none, to the repository."""

    def led(link: re.Match[str]) -> str:
        words, target, heading = link.groups(default="")
        linked = (folder / target).resolve()
        if not linked.is_relative_to(ROOT):
            return link[0]
        path = linked.relative_to(ROOT).as_posix()
        if path in TWINS:
            return f"[{words}](/{TWINS[path]}.md)"
        if linked.is_relative_to(PAGES) and not linked.is_dir():
            return f"[{words}](/{linked.relative_to(PAGES).as_posix()}{heading})"
        if REPOSITORY:
            return f"[{words}]({REPOSITORY}/{path})"
        return words if path in words else f"{words} (`{path}`)"

    return re.sub(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?\)", led, text)


def setup(app: Any) -> None:
    app.connect("source-read", show)
