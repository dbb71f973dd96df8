"""What a visitor of the repository finds: how to cite, to report, to contribute, to release, and that none of it has rotted."""

import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def settings():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


@pytest.fixture(scope="module")
def makefile():
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def test_who_cites_finds_the_version_that_is_there(settings):
    import qcfer

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == settings["version"] == qcfer.__version__
    assert citation["license"] == "Apache-2.0" and citation["repository-code"] == settings["git_url"]
    newest = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest.groups() == (settings["version"], str(citation["date-released"]))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_makes_what_there_is_to_make(path, makefile):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow[True] and workflow["permissions"] == {"contents": "read"}  # YAML reads `on` as true
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]) for step in steps if "uses" in step)
    called = {name for step in steps for name in re.findall(r"\bmake ([a-z]+)", step.get("run", ""))}
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in called)


def test_help_names_every_target(makefile):
    targets = re.search(r"^\.PHONY: (.+)", makefile, re.MULTILINE)[1].split()
    told = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([a-z]+) +\S", told, re.MULTILINE) == targets


def test_the_constraints_hold_every_package_that_is_asked_for(settings):
    kept = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    kept = {canonicalize_name(name): version for name, version in kept.items()}
    extras = ("posebench", "clip", "qwen", "serve", "video", "ray", "dev")
    wanted = [Requirement(text) for key in ("", *(f"{extra}_" for extra in extras)) for text in settings[f"{key}requirements"].split()]
    for each in wanted:
        version = kept.get(canonicalize_name(each.name))
        assert version and each.specifier.contains(version), each


def test_forms_ask_for_something():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert form["name"] and form["description"] and all(part["attributes"]["label"] for part in form["body"])
