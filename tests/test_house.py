"""The house: what a room may import, how a chapter is built, where things are found."""
import ast
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(path for path in (ROOT / "qcfer").rglob("*.py") if path.name != "_modidx.py")


def cells(path):
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]


def exports(source):
    return re.match(r"#\| *exports?\b", source) is not None


def only_imports(source):
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def longest_row(path):
    "The most export cells between two examples or tests; cells of imports alone do not count."
    row = longest = 0
    for kind, source in cells(path):
        if kind == "code" and exports(source):
            row += not only_imports(source)
            longest = max(longest, row)
        elif kind == "code" and not source.startswith("#| default_exp"):
            row = 0
    return longest


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_shows_what_it_exports(path):
    assert longest_row(path) <= 3, "more than three export cells without an example or a test between them"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_short_and_light(path):
    found = cells(path)
    assert len(found) <= 66 and found[0][1].startswith("# ")
    assert path.stat().st_size <= 200_000


@pytest.mark.parametrize("path", [path for path in CHAPTERS if path.stem not in ("index", "07a_versions")], ids=lambda path: path.stem)
def test_a_chapter_says_first_what_it_was_made_with(path):
    first = next(source for kind, source in cells(path) if kind == "code" and not source.startswith("#| default_exp"))
    assert first.endswith("show_versions()")


def test_the_gallery_names_every_figure():
    text = "\n".join(source for _, source in cells(ROOT / "nbs" / "gallery.ipynb"))
    drawn = [
        f"{path.stem}.{node.name}"
        for path in sorted((ROOT / "qcfer" / "pages" / "figures").glob("[a-z]*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and any("figure_maker" in ast.unparse(one) for one in node.decorator_list)
    ]
    assert len(drawn) > 20 and [name for name in drawn if name not in text] == []


def test_two_chapters_never_make_the_same_module():
    made = [re.search(r"#\| default_exp (\S+)", path.read_text()) for path in CHAPTERS]
    names = [match[1].rstrip('",\\n') for match in made if match]
    assert len(names) == len(set(names)) > 60


def test_the_workshop_may_be_skipped_and_says_so():
    for path in sorted((ROOT / "nbs").glob("0[1-9]*.ipynb")):
        assert "skip" in "".join(source for kind, source in cells(path)[:6] if kind == "markdown"), path.name


def test_no_private_name_is_imported_from_another_module():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("qcfer")):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{path.relative_to(ROOT)} imports {', '.join(private)} from {node.module}"


def test_a_chapter_imports_only_chapters_above_it_when_it_is_loaded():
    "Imports inside functions may look down the book; those of a module may not."
    order = {}
    for place, path in enumerate(CHAPTERS):
        if match := re.search(r"#\| default_exp ([\w.]+)", path.read_text()):
            order[match[1]] = place
    for module, place in order.items():
        path = ROOT / "qcfer" / f"{module.replace('.', '/')}.py"
        package = ["qcfer", *module.split(".")[:-1]]
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                name = ".".join([*base, *([node.module] if node.module else [])]).removeprefix("qcfer.")
                assert order.get(name, -1) < place or name == module, f"{module} imports {name}, which comes after it"


def test_rooms_keep_to_their_layers():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_importing_the_package_loads_nothing_heavy_and_its_face_is_whole():
    code = "import sys, qcfer; print(sorted({'numpy', 'pandas', 'torch', 'sklearn'} & {*sys.modules}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    import qcfer

    expected = {"AFP", "ESV", "load_manifest", "get_embedder", "get_frontalizer", "get_pose_estimator", "Run", "Study", "make_run"}
    expected |= {"Recognizer", "load"}
    assert expected <= set(qcfer.__all__)
    assert all(getattr(qcfer, name) for name in qcfer.__all__)


def test_cleaning_keeps_what_templates_carry():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini")
    assert "tags" in config["DEFAULT"]["allowed_cell_metadata_keys"].split()
    assert "qcfer" in config["DEFAULT"]["allowed_metadata_keys"].split()


def test_contributing_says_where_things_are_and_they_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`(nbs/[\w./-]+)`", text)
    assert len(named) >= 15 and [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_no_output_tells_where_somebodys_python_lives(path):
    assert "site-packages" not in path.read_text("utf-8"), "a warning's path: run it again, or clear the output"
