"""What stands around the package and rots where nobody looks: versions, workflows, constraints, the changelog, the Makefile's help."""
import ast
import contextlib
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.M)[1].split())


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def settings():
    config = ConfigParser(delimiters=["="])
    config.read_string(read("settings.ini"))
    return config["DEFAULT"]


def key(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_is_one_version(settings):
    version = settings["version"]
    assert f'__version__ = "{version}"' in read("qcfer/__init__.py")
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version


def test_the_citation_is_of_this_package_and_of_the_paper(settings):
    cited = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["license"] == "Apache-2.0" and "Apache License" in read("LICENSE") and settings["license"] == "apache2"
    assert cited["repository-code"] == settings["git_url"] and cited["url"] == settings["doc_host"] + settings["doc_baseurl"]
    (paper,) = cited["references"]
    assert paper["title"] in read("README.md") and paper["doi"] in read("README.md") and len(paper["authors"]) == 9


def test_the_changelog_begins_with_what_is_coming_and_this_version(settings):
    text = read("CHANGELOG.md")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    names = [name for name, _ in headings]
    assert len(names) == text.count("\n## ") and names[:2] == ["Unreleased", settings["version"]]
    versions, dates = names[1:], [date for _, date in headings[1:]]
    assert versions == sorted(versions, key=Version, reverse=True) and dates == sorted(dates, reverse=True) and all(dates)
    assert str(yaml.safe_load(read("CITATION.cff"))["date-released"]) == dates[0]
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(re.search(rf"^\[{re.escape(name)}\]: {settings['git_url']}/", text, re.M) for name in names)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_narrow_and_asks_for_what_there_is(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"} and "group" in workflow["concurrency"]
    assert all(job["timeout-minutes"] <= 350 for job in workflow["jobs"].values())
    for step in steps(workflow):
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@(v\d+|release/v\d+)", step.get("uses", "some/action@v1")), step
        for line in step.get("run", "").splitlines():
            if asked := re.match(r"make (.+)", line):
                assert {word for word in asked[1].split() if "=" not in word} <= TARGETS, line


def test_the_workflows_are_those_that_are_told_of():
    assert [path.stem for path in WORKFLOWS] == ["pages", "release", "scheduled", "test"]


def test_tests_run_on_every_python_that_is_promised(settings):
    test = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]["test"]
    pythons = test["strategy"]["matrix"]["python"]
    assert pythons[0] == settings["min_python"] and pythons == settings["pythons"].split()
    assert all(f"`{python}`" in read("CONTRIBUTING.md") for python in pythons)


def test_only_the_scheduled_tests_take_the_newest_versions():
    for path in WORKFLOWS:
        assert ("CONSTRAINTS=" in path.read_text(encoding="utf-8")) == (path.stem == "scheduled")
    assert "$(if $(CONSTRAINTS),-c $(CONSTRAINTS))" in MAKEFILE


def test_a_release_is_published_without_a_secret():
    release = yaml.safe_load(read(".github/workflows/release.yml"))
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"} and "secrets." not in read(".github/workflows/release.yml")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_can_be_filled_in(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"] and form["body"]
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids)) and all(part["attributes"]["label"] for part in form["body"])
    assert {part["type"] for part in form["body"]} <= {"input", "textarea", "checkboxes", "dropdown"}


def test_constraints_hold_all_that_make_installs_and_nothing_else(settings):
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])
    assert all(re.fullmatch(r"[a-z\d-]+==[\w.!]+", line) for line in lines)
    held = {key(name): version for name, _, version in (line.partition("==") for line in lines)}
    extras = re.search(r"--editable '\.\[([\w,]+)\]'", MAKEFILE)[1].split(",")
    for name in ["requirements", *(f"{extra}_requirements" for extra in extras)]:
        for text in settings[name].split():
            asked = Requirement(text)
            assert asked.specifier.contains(held[key(asked.name)], prereleases=True), f"{text} and {asked.name}=={held[key(asked.name)]}"


def test_constraints_are_for_every_python_of_the_promised_ones(settings):
    "Debian 12 has Python 3.11.2, and pip knows no version that asks for 3.11.5 there."
    from importlib import metadata

    oldest = f"{settings['min_python']}.0"
    for line in read("constraints.txt").splitlines():
        if not line.startswith("#"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                wanted = metadata.metadata(line.partition("==")[0]).get("Requires-Python") or ""
                assert SpecifierSet(wanted).contains(oldest), f"{line} wants Python {wanted}"


def test_help_lists_every_target():
    answer = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[1]: line.split()[2:] for line in answer.stdout.splitlines()}
    assert set(listed) == TARGETS and all(listed.values())
    assert TARGETS <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.M))


def test_hooks_need_no_network():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [hook["id"] for hook in hooks[0]["hooks"]] == ["nbdev-clean", "nbdev-export", "ruff"]
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in hooks[0]["hooks"])
    ruff = next(hook["entry"] for hook in hooks[0]["hooks"] if hook["id"] == "ruff").removeprefix(".venv/bin/")
    assert f"$(BIN)/{ruff}" in MAKEFILE


def test_the_public_face_is_typed_and_used():
    import qcfer

    stub = ast.parse(read("qcfer/__init__.pyi"))
    named = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named == set(qcfer.__all__)
    used = {node.attr for node in ast.walk(ast.parse(read("tests/public_face.py"))) if isinstance(node, ast.Attribute)}
    assert named <= used


def test_what_a_stranger_looks_for_is_there():
    for name in ("LICENSE", "README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md"):
        assert len(read(name)) > 200, name
    assert "Report a vulnerability" in read("SECURITY.md")
