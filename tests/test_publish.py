"""Templates, their checks, and executed pages that are kept."""

import json
import os
import shutil
import sys

import pytest

from qcfer.core.files import resources
from qcfer.pages import publish
from qcfer.pages.publish import Template, check_templates, made_from, make_page, make_pages, pages_folder, read_template
from qcfer.run.pipeline import demo_run
from qcfer.run.record import Run

PYTHON = {"kernelspec": {"name": "python3", "display_name": "python3"}}


def template(path, body="report['dataset']", parameters="report = {}", tags=("parameters",), **metadata):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Mine"]},
        {"cell_type": "code", "metadata": {"tags": list(tags)}, "outputs": [], "execution_count": None, "source": [parameters]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": [body]},
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": PYTHON | metadata, "nbformat": 4, "nbformat_minor": 4}))
    return path


@pytest.fixture
def run(tmp_path):
    "The drawn faces' run, on its own."
    run = Run(tmp_path / "out" / "folder" / "0123456789ab")
    shutil.copytree(demo_run().path, run.path)
    return run


@pytest.fixture
def alone(tmp_path, monkeypatch):
    "No template is packaged."
    monkeypatch.setattr(publish, "resources", lambda kind: tmp_path / "none")


# ---- templates


def test_the_packaged_templates_come_in_reading_order_with_their_needs():
    order = "overview paper cross posebench frontalization confusion profile reliability tsne ablation".split()
    found = check_templates()
    assert [each.path.stem for each in found] == order
    assert {each.path.stem: each.needs for each in found if each.needs != "metrics"} == {
        "cross": "cross", "posebench": "posebench", "frontalization": "frontalizers", "reliability": "ladders", "ablation": "ladders"
    }  # fmt: skip


def test_a_cleaned_template_keeps_its_place(tmp_path, monkeypatch):
    from nbdev.clean import nbdev_clean

    path = template(tmp_path / "mine.ipynb", qcfer={"order": 15, "needs": "posebench"}, odd="goes")
    monkeypatch.chdir(resources("reports").parent.parent)  # settings.ini is read from here
    nbdev_clean(str(path))
    kept = json.loads(path.read_text())["metadata"]
    assert kept["qcfer"] == {"order": 15, "needs": "posebench"} and "odd" not in kept
    assert read_template(path) == Template(path, 15, "posebench")


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"kernelspec": {}}, "expected a kernelspec in the metadata of the template"),
        ({"parameters": "other = {}"}, "expected a cell tagged `parameters` that sets `report` in the template"),
        ({"tags": []}, "expected a cell tagged `parameters` that sets `report` in the template"),
        ({"qcfer": {"order": "first"}}, r"expected qcfer: \{order: NUMBER, needs: KEY\} in the metadata of the template"),
        ({"qcfer": ["order"]}, "expected a template, a notebook"),
    ],
)
def test_a_template_that_could_not_run_is_named_in_one_line(tmp_path, facts, words):
    path = template(tmp_path / "mine.ipynb", **facts)
    with pytest.raises(ValueError, match=f"^{words}.*mine.ipynb") as caught:
        check_templates([tmp_path])
    assert "\n" not in str(caught.value)
    assert read_template(template(path)) == Template(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metadata": {}, "cells": [1]}', "\x00"])
def test_what_is_no_notebook_is_named(tmp_path, text):
    (tmp_path / "mine.ipynb").write_text(text)
    with pytest.raises(ValueError, match="^expected a template, a notebook, in .*mine.ipynb; found something else$"):
        check_templates([tmp_path])


def test_two_templates_of_one_name_and_none_at_all_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="^expected one template of the name paper; found .*paper.ipynb and .*paper.ipynb$"):
        check_templates([template(tmp_path / "a" / "paper.ipynb")])
    with pytest.raises(FileNotFoundError, match="^expected templates, notebooks, at .*; found none$"):
        check_templates([tmp_path / "absent"])


def test_nothing_is_made_where_one_template_is_bad(run, tmp_path):
    with pytest.raises(ValueError, match="expected a kernelspec"):
        make_pages(run, [template(tmp_path / "mine.ipynb", kernelspec={})])
    assert not pages_folder(run).exists()


# ---- pages


def test_a_page_from_outside_the_package_is_made_beside_the_runs(run, tmp_path, alone):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    mine = template(tmp_path / "more" / "mine.ipynb", qcfer={"order": 15, "own": "kept"})
    template(tmp_path / "more" / "other.ipynb", qcfer={"needs": "posebench"})
    (page,) = make_pages(run.path, [tmp_path / "more"])
    assert page == tmp_path / "out" / "pages" / "folder" / "0123456789ab" / "mine.ipynb"
    made = json.loads(page.read_text())
    assert "'folder'" in made["cells"][-1]["outputs"][0]["data"]["text/plain"]
    key = made_from(read_template(mine), run)
    assert made["metadata"]["qcfer"] == {"order": 15, "own": "kept", "needs": "metrics", "made_from": key}
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before  # data only
    assert [path.name for path in page.parent.iterdir()] == ["mine.ipynb"]


@pytest.fixture
def papermill(monkeypatch):
    "papermill, as if it took no time: the template is its own page."
    calls = []

    def execute(command):
        calls.append(command)
        shutil.copyfile(command[3], command[4])
        return publish.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(publish, "_run_template", execute)
    return calls


def test_a_page_is_kept_until_something_that_it_shows_changes(run, tmp_path, papermill, monkeypatch):
    mine = template(tmp_path / "mine.ipynb")

    def made():
        before = len(papermill)
        make_page(read_template(mine), Run(run.path))
        return len(papermill) - before

    assert [made(), made()] == [1, 0]
    os.utime(mine)  # a fresh clone is new everywhere
    os.utime(run.path / "run.json")
    assert made() == 0
    template(mine, body="1")
    assert [made(), made()] == [1, 0]
    run.save_record(run.record | {"seed": 7})
    assert [made(), made()] == [1, 0]
    monkeypatch.setattr(publish, "drawing_code", lambda: "another module")
    assert [made(), made()] == [1, 0]
    (pages_folder(run) / "mine.ipynb").write_text("{")  # damaged
    assert [made(), made()] == [1, 0]


def test_a_change_of_the_code_that_draws_makes_pages_anew_and_one_of_the_site_does_not(monkeypatch, tmp_path):
    package = tmp_path / "qcfer"
    shutil.copytree(publish.Path(publish.qcfer.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(publish.qcfer, "__file__", str(package / "__init__.py"))
    name = publish.drawing_code.__wrapped__
    first = name()

    def changed(module):
        path = package / module
        path.write_text(path.read_text() + "\nMORE = 1\n")
        return name()

    assert changed("pages/site.py") == changed("pages/publish.py") == changed("pages/dataset.py") == first
    second = changed("pages/overview.py")
    third = changed("pages/figures/style.py")
    assert len({first, second, third}) == 3


def test_the_page_of_the_set_is_written_with_the_runs(run, papermill, alone, tmp_path):
    mine = template(tmp_path / "mine.ipynb")
    make_pages(run, [mine])
    assert not (tmp_path / "out/folder/check.html").exists()  # the set was prepared elsewhere
    for name in ("counts.csv", "rejected.csv"):
        shutil.copyfile(demo_run().path.parent / name, tmp_path / "out/folder" / name)
    make_pages(run, [mine])
    assert "140 faces" in (tmp_path / "out/folder/check.html").read_text()


def test_an_error_in_a_template_is_one_line(run, tmp_path):
    with pytest.raises(OSError, match="expected the page mine of .*; found an error in its template: .*ZeroDivisionError") as caught:
        make_page(read_template(template(tmp_path / "mine.ipynb", body="1 / 0")), run)
    assert "\n" not in str(caught.value) and not list(pages_folder(run).iterdir())


def test_a_kernel_that_dies_at_its_start_is_started_once_more(tmp_path):
    script = "import pathlib, sys; tries = pathlib.Path(sys.argv[1]); tries.open('a').write('x'); sys.exit(sys.argv[2])"
    for reason, tries in (("RuntimeError: Kernel died before replying to kernel_info", 2), ("NameError: x", 1)):
        counter = tmp_path / str(tries)
        done = publish._run_template([sys.executable, "-c", script, str(counter), reason])
        assert done.returncode == 1 and reason in done.stderr and counter.read_text() == tries * "x"
