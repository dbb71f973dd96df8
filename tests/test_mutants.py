"""What breaks modules to see whether tests notice: which places it breaks, and whether its verdicts can be believed."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import mutants

MODULE = '''"""1 of 2."""


def half(n: int = 2, *, up=False):
    """n / 2."""
    if up and not n < 0:
        return -(-n // 2)
    return n // 2


def first(words, n: "3 + 4"):
    print("5 + 6")
    return sorted(words, key=len)[:n]
'''
TESTS = """
import pytest
from module import first, half as imported


@pytest.fixture(scope="module")
def seven():
    return imported(7)


def test_down(seven):
    assert seven == 3


def test_up():
    assert imported(7, up=True) == 4 and imported(6, up=True) == 3


def test_none_is_left():
    assert first(["aaa", "c", "bb"], 2) == ["c", "bb"]
"""


def test_each_place_is_broken_in_each_way_and_words_are_left_alone():
    found = [f"{mutant.line} {mutant.change}" for mutant, _ in mutants.changes(ast.parse(MODULE), MODULE.splitlines())]
    assert found == [
        "4 27: False -> True",
        "4 18: 2 -> 3",
        "6 3: up and (not n < 0) -> up or not n < 0",
        "6 3: up and (not n < 0) -> not (up and (not n < 0))",
        "6 10: not n < 0 -> n < 0",
        "6 14: n < 0 -> n <= 0",
        "6 18: 0 -> 1",
        "7 0: return -> return None",
        "7 7: -(-n // 2) -> -n // 2",
        "7 9: -n // 2 -> -n / 2",
        "7 9: -n -> n",
        "7 15: 2 -> 3",
        "8 0: return -> return None",
        "8 7: n // 2 -> n / 2",
        "8 12: 2 -> 3",
        "12 0: print('5 + 6') -> pass",
        "13 0: return -> return None",
        "13 7: sorted(words, key=len) -> sorted(words)",
        "13 30: :n -> :",
    ]


def test_verdicts_are_those_of_the_tests(tmp_path):
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "test_module.py").write_text(TESTS)
    script = """
import json, sys
from pathlib import Path
import mutants

mutants.prepare()
path, tests = Path("module.py").resolve(), str(Path("test_module.py").resolve())
clean = mutants.survey(path, "module", tests)
found = [(f"{mutant.line} {mutant.change}", mutants.verdict(path, "module", tests, clean, mutant)) for mutant in mutants.mutants(path)]
Path("found.json").write_text(json.dumps([mutants.verdict(path, "module", tests, clean), clean["lines"], found]))
"""
    told = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(mutants.__file__).parent)!r})\n{script}"]
    done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    untouched, lines, found = json.loads((tmp_path / "found.json").read_text())
    assert untouched == "survived"
    assert lines["8"] == ["fixture:seven"] and lines["7"] == ["test_module.py::test_up"]
    unnoticed = ["4 18: 2 -> 3", "6 14: n < 0 -> n <= 0", "6 18: 0 -> 1", "12 0: print('5 + 6') -> pass"]
    assert [change for change, verdict in found if verdict == "survived"] == unnoticed
    assert {verdict for _, verdict in found} == {"killed", "survived"}


def test_what_was_judged_equivalent_is_still_there_and_says_why():
    judged = mutants.equivalents()
    there = {
        (name, mutant.text, mutant.change) for name in {name for name, *_ in judged} for mutant in mutants.mutants(mutants.path_of(name))
    }
    assert not set(judged) - there, "expected lines of modules as they are; found others: judge them again, or take them out"
    assert all(len(reason.split()) > 2 for reason in judged.values())


def test_every_module_has_its_tests():
    for name, tests in mutants.MODULES.items():
        assert mutants.path_of(name).is_file() and all((Path(mutants.__file__).parent / file).is_file() for file in tests.split())


def test_tests_that_fail_already_give_no_verdicts(tmp_path):
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "test_module.py").write_text("def test_no():\n    assert False\n")
    script = f"import sys; sys.path.insert(0, {str(Path(mutants.__file__).parent)!r})\n" + (
        "import mutants, pathlib\nmutants.prepare()\n"
        "mutants.survey(pathlib.Path('module.py'), 'module', str(pathlib.Path('test_module.py').resolve()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "expected" in done.stderr and "test_no failed" in done.stderr
