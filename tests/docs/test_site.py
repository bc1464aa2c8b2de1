"""The site: it builds without a warning, every page has its place, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import DOCS, GENERATED, says

PAGES = sorted(DOCS.glob("**/*.md"))
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser fetches by itself."""

ELSEWHERE = {
    "cloudnative-pg.io",
    "docs.docker.com",
    "docs.nvidia.com",
    "grafana.com",
    "helm.sh",
    "html.spec.whatwg.org",
    "keda.sh",
    "keepachangelog.com",
    "kubernetes.io",
    "opentelemetry.io",
    "prometheus.io",
    "reorg.github.io",
    "www.rabbitmq.com",
    "www.rfc-editor.org",
    "www.w3.org",
    # furo's and Sphinx's own, at the foot of each page.
    "github.com",
    "pradyunsg.me",
    "www.sphinx-doc.org",
}
"""Hosts that pages may lead to. They are not asked in a test: whoever adds one looks whether it is there."""


class Seen(HTMLParser):
    """What a page loads, what it links to, and what in it can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.linked: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if (attribute := LOADS.get(tag)) in given:
            self.loaded.add(given[attribute])
        if tag == "a" and "href" in given:
            self.linked.add(given["href"])
        self.anchors.add(given.get("id", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-d"]
    done = subprocess.run(
        [*build, tmp_path_factory.mktemp("doctrees"), DOCS, built],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="module")
def seen(site: Path) -> dict[Path, Seen]:
    return {page: Seen(page) for page in site.glob("**/*.html")}


def test_every_page_is_in_the_site_and_in_its_navigation(site: Path, seen: dict[Path, Seen]):
    navigation = {urlsplit(link).path for link in seen[site / "index.html"].linked}
    for page in PAGES:
        built = page.relative_to(DOCS).with_suffix(".html")
        assert (site / built).is_file(), f"{page.name} is not in the site"
        assert page.name == "index.md" or str(built) in navigation, f"{page.name} is in no toctree of docs/index.md"


def test_the_site_loads_nothing_from_elsewhere(site: Path, seen: dict[Path, Seen]):
    loaded = set.union(*(page.loaded for page in seen.values()))
    assert not [address for address in loaded if urlsplit(address).netloc or address.startswith("//")]
    for style in site.glob("_static/**/*.css"):
        text = re.sub(r"/\*.*?\*/", "", style.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", text), style.name


def test_every_link_within_the_site_leads_to_a_place(site: Path, seen: dict[Path, Seen]):
    for page, found in seen.items():
        for link in found.linked | found.loaded:
            parts = urlsplit(link)
            if parts.scheme or not link:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name} links to {link}"
            if parts.fragment and target in seen:
                assert unquote(parts.fragment) in seen[target].anchors, f"{page.name} links to {link}"


def test_links_out_of_the_site_lead_to_known_hosts(seen: dict[Path, Seen]):
    links = {link for page in seen.values() for link in page.linked if urlsplit(link).scheme}
    assert {link for link in links if urlsplit(link).hostname not in ELSEWHERE} == set()
    assert {urlsplit(link).scheme for link in links} == {"https"}


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_says_what_the_code_does(name: str):
    assert says(DOCS, name) == GENERATED[name](), "write it anew: make reference"
