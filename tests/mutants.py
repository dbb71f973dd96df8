"""Do the tests notice? Break a module in one place at a time, and see whether its own tests and its chapter fail.

A child is forked for each mutant from a parent that has loaded the heavy libraries, but nothing of qcfer: the child imports the
package afresh, the broken module in its place, so every `from ... import` anywhere sees it. Only tests that reach the broken line are
run, the quick ones first.
"""

import argparse
import ast
import csv
import importlib
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.tsv")
MODULES = {
    "classify.afp": "test_afp.py test_laws.py",
    "classify.esv": "test_esv.py",
    "classify.train": "test_train.py",
    "core.files": "test_files.py",
    "core.model_cache": "test_model_cache.py",
    "evaluate.bootstrap": "test_bootstrap.py test_laws.py",
    "evaluate.scores": "test_scores.py test_laws.py",
    "face.pose": "test_pose.py",
    "frontalize.conditions": "test_conditions.py test_laws.py",
    "frontalize.gate": "test_gate.py test_laws.py",
    "frontalize.geometric": "test_geometric.py test_geometric_parts.py test_laws.py",
}
"Modules whose tests must notice, and where those are."

SLOW_S = 5  # tests and chapters that take longer are left out: what only they would notice counts as unnoticed
LEAST_S = 10  # a mutant has three times the clean run, but not less than this

SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


class Mutant(NamedTuple):
    "One change of a module: where, what, and the source line in which it is."

    number: int
    line: int
    text: str
    change: str


def _slots(node):
    "Every child of a node: where it is kept, and the child."
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield (field, place), child


def _put(node, slot, child):
    field, place = slot
    if place is None:
        setattr(node, field, child)
    else:
        getattr(node, field)[place] = child


def _is_identity_test(node):
    "Whether a swapped comparison is its negation already."
    return isinstance(node, ast.Compare) and len(node.ops) == 1 and not isinstance(node.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE))


def _alternatives(node, parent, slot):
    "What could stand in a node's place."
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            ops = [*node.ops[:place], SWAPS[type(operator)](), *node.ops[place + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in SWAPS:
        yield ast.AugAssign(node.target, SWAPS[type(node.op)](), node.value)
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(SWAPS[type(node.op)](), node.values)
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
    is_test = (slot[0] == "test" and not isinstance(parent, ast.Assert)) or slot[0] == "ifs"
    if is_test and not _is_identity_test(node) and not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        yield ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.Return) and node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
        yield ast.Return(ast.Constant(None))
    if isinstance(node, ast.Call):
        for dropped in (keyword for keyword in node.keywords if keyword.arg not in (None, "stacklevel")):
            yield ast.Call(node.func, node.args, [keyword for keyword in node.keywords if keyword is not dropped])
    if isinstance(node, ast.Slice):
        for end in ("lower", "upper", "step"):
            if getattr(node, end) is not None:
                yield ast.Slice(**{name: getattr(node, name) for name in ("lower", "upper", "step") if name != end})
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


def _short(node):
    "A node in words of one line; of a returned value no more than that it is one."
    words = " ".join(ast.unparse(node).split())
    return "return" if isinstance(node, ast.Return) and words != "return None" else words


def changes(tree, lines):
    "Every mutant of a parsed module, and the call that makes it; not of docstrings, annotations and what a warning blames."
    found = []

    def visit(parent):
        for slot, node in _slots(parent):
            if isinstance(node, ast.keyword) and node.arg == "stacklevel":
                continue
            for other in _alternatives(node, parent, slot):
                place = node if hasattr(node, "lineno") else parent
                before, after = (_short(each) for each in (node, other))
                text = lines[place.lineno - 1].strip()
                column = place.col_offset - (len(lines[place.lineno - 1]) - len(lines[place.lineno - 1].lstrip()))
                mutant = Mutant(len(found), place.lineno, text, f"{column}: {before} -> {after}")
                found.append((mutant, lambda parent=parent, slot=slot, other=other: _put(parent, slot, other)))
            visit(node)

    visit(tree)
    return found


def mutants(path):
    "Every mutant of a module's file."
    source = path.read_text("utf-8")
    return [mutant for mutant, _ in changes(ast.parse(source), source.splitlines()) if not mutant.text.startswith("__all__")]


def broken(path, mutant):
    "The code of a module with one mutant in it."
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    changes(tree, source.splitlines())[mutant.number][1]()
    return compile(ast.fix_missing_locations(tree), str(path), "exec")


class _Broken(importlib.machinery.SourceFileLoader):
    "Finds and loads one module, whose code is given."

    def __init__(self, name, path, code):
        super().__init__(name, str(path))
        self.code = code

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, name):
        return self.code


class _Watch:
    "A pytest plugin: which lines of a file each test reaches, and what each took; or those of `order` alone, in that order."

    def __init__(self, coverage=None, order=None):
        self.coverage, self.order = coverage, order
        self.seconds, self.fixtures, self.failed = {}, {}, []

    def pytest_collection_modifyitems(self, items):
        self.fixtures = {item.nodeid: getattr(item, "fixturenames", []) for item in items}
        if self.order is not None:
            named = {item.nodeid: item for item in items}
            items[:] = [named[test] for test in self.order if test in named]

    def pytest_runtest_logstart(self, nodeid):
        if self.coverage:
            self.coverage.switch_context(nodeid)

    def pytest_fixture_setup(self, fixturedef, request):
        "What a fixture of many tests reaches, all of them do."
        if self.coverage and fixturedef.scope != "function":
            self.coverage.switch_context(f"fixture:{fixturedef.argname}")

    def pytest_runtest_call(self, item):
        if self.coverage:
            self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)


def _pytest(tests, watch, *options):
    import pytest

    quiet = ["-o", "addopts=", "-q", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-profile=mutants", "--hypothesis-seed=0"]
    return pytest.main([*quiet, *options, *(str(ROOT / "tests" / file) for file in tests.split())], plugins=[watch])


def _chapter(path, module):
    "Run the cells of the module's chapter that are not exported, with the module's own names."
    from IPython.core.inputtransformer2 import TransformerManager
    from IPython.display import display

    named = re.search(r"File to edit: (\S+)\.$", path.read_text("utf-8"), re.MULTILINE)
    notebook = path.parent / named[1]
    os.chdir(notebook.parent)
    names = {"display": display, **vars(importlib.import_module(module)), "__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text("utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not re.search(r"^#\s*\|\s*(export|eval:\s*false)", source, re.MULTILINE):
            exec(compile(TransformerManager().transform_cell(source), f"{notebook.name}[{number}]", "exec"), names)


def _forked(work, limit, log=os.devnull):
    "The exit status of `work`, done in a child of its own session; None where it took longer than `limit` seconds."
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(out, 1)
            os.dup2(out, 2)
            status = int(work())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _survey(path, module, tests, to):
    "In a child: run the clean tests; write to the file `to` what each line is reached by, what each test took and what was imported."
    import coverage

    measured = coverage.Coverage(data_file=None, include=[str(path)], config_file=False)
    watch = _Watch(measured)
    measured.start()
    status = _pytest(tests, watch)
    measured.stop()
    lines = {line: sorted(by) for line, by in measured.get_data().contexts_by_lineno(str(path)).items()}
    start, chapter = time.monotonic(), None
    try:
        _chapter(path, module)
        chapter = time.monotonic() - start
    except Exception:
        traceback.print_exc()
    ours = (ROOT / "qcfer", ROOT / "tests", path.parent)
    files = {name: Path(getattr(found, "__file__", None) or "built-in") for name, found in sys.modules.items()}
    libraries = sorted(name for name, file in files.items() if not any(file.is_relative_to(folder) for folder in ours))
    libraries = [name for name in libraries if not re.match(r"ray\b|__m(p_)?main__", name)]
    found = {"status": int(status), "failed": watch.failed, "lines": lines, "seconds": watch.seconds, "fixtures": watch.fixtures}
    Path(to).write_text(json.dumps(found | {"chapter": chapter, "libraries": libraries}), "utf-8")
    return 0


def survey(path, module, tests):
    "What `_survey` found; raises `ValueError` where the clean tests fail."
    with tempfile.TemporaryDirectory() as folder:
        to, log = Path(folder) / "survey.json", Path(folder) / "log"
        if _forked(lambda: _survey(path, module, tests, to), 600, log) != 0:
            raise ValueError(f"expected {tests} to run; found:\n{log.read_text('utf-8', 'replace')[-2000:]}")
        found = json.loads(to.read_text("utf-8"))
        if found["status"]:
            raise ValueError(f"expected {tests} to pass on the code as it is; found {', '.join(found['failed'])} failed")
        if found["chapter"] is None:
            print(f"{module}: its chapter does not run by itself and is left out: {log.read_text('utf-8', 'replace')[-300:]}")
        if (found["chapter"] or 0) > SLOW_S:
            found["chapter"] = None
    for name in found["libraries"]:
        with suppress(Exception):
            importlib.import_module(name)
    return found


def reaching(clean, line):
    "The tests that reach a line, the quick ones first; all of them, where it is run as the module is imported."
    seen = max((number for number in map(int, clean["lines"]) if number <= line), default=0)
    by = set(clean["lines"].get(str(seen), [""]))
    reach = [test for test, names in clean["fixtures"].items() if by & {"", test, *(f"fixture:{name}" for name in names)}]
    seconds = {test: clean["seconds"].get(test, 0) for test in reach}
    return sorted((test for test in reach if seconds[test] < SLOW_S), key=seconds.get)


def verdict(path, module, tests, clean, mutant=None):
    "What becomes of a mutant, or of the module as it is: 'killed', 'timeout' or 'survived'."
    code = broken(path, mutant) if mutant else compile(path.read_text("utf-8"), str(path), "exec")
    order = reaching(clean, mutant.line if mutant else 0)

    def work():
        sys.meta_path.insert(0, _Broken(module, path, code))
        status = _pytest(tests, _Watch(order=order), "-x") if order else 0
        if status == 0 and clean["chapter"] is not None:
            _chapter(path, module)
        return status

    status = _forked(work, max(LEAST_S, 3 * (sum(clean["seconds"].get(test, 0) for test in order) + (clean["chapter"] or 0))))
    return {None: "timeout", 0: "survived"}.get(status, "killed")


def equivalents():
    "{(module, line, change): reason} of the mutants that were judged to change nothing that anybody could see."
    with open(EQUIVALENT, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {(row["module"], row["line"], row["change"]): row["reason"] for row in rows}


def path_of(name):
    "The file of a module of the package."
    return ROOT / "qcfer" / f"{name.replace('.', '/')}.py"


def campaign(name, sample, seed, before, report):
    "Try a module's mutants, a seeded sample of them, or those that survived `before`; `report` is told the counts after each."
    path, module, tests = path_of(name), f"qcfer.{name}", MODULES[name]
    clean, known = survey(path, module, tests), equivalents()
    if verdict(path, module, tests, clean) != "survived":
        raise ValueError(f"expected {tests} to pass in a forked child on the code as it is; found a failure: mend that first")
    every = mutants(path)
    chosen = every if sample is None else random.Random(f"{seed} {name}").sample(every, min(sample, len(every)))
    counts = {"mutants": len(every), "tried": 0, "killed": 0, "timeout": 0, "survived": 0, "equivalent": 0}
    if before:
        left = {(mutant["text"], mutant["change"]) for mutant in before["survivors"]}
        chosen = [mutant for mutant in every if (mutant.text, mutant.change) in left]
        counts = {count: before[count] for count in counts} | {"tried": before["tried"] - before["survived"], "survived": 0}
    survivors, start = [], time.monotonic()
    for mutant in sorted(chosen):
        same = (name, mutant.text, mutant.change) in known
        found = "equivalent" if same else verdict(path, module, tests, clean, mutant)
        counts[found] += 1
        counts["tried"] += 1
        if found == "survived":
            survivors.append({"line": mutant.line, "text": mutant.text, "change": mutant.change})
        report(name, counts | {"seconds": round(time.monotonic() - start), "survivors": survivors})
    noticed, real = counts["killed"] + counts["timeout"], counts["tried"] - counts["equivalent"]
    print(f"{name}: {noticed} of {real} mutants noticed ({noticed / max(real, 1):.0%}), {counts['equivalent']} judged equivalent")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=list(MODULES), help="out of %(default)s")
    parser.add_argument("--sample", type=int, help="how many mutants a module, drawn at random; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--again", action="store_true", help="only those that the file of --to says survived, after tests were added")
    parser.add_argument("--to", type=Path, required=True, help="a JSON file for the figures; those of other modules are kept")
    told = parser.parse_args()
    figures = json.loads(told.to.read_text("utf-8")) if told.to.exists() else {}

    def report(name, counts):
        figures[name] = counts
        told.to.parent.mkdir(parents=True, exist_ok=True)
        told.to.write_text(json.dumps(figures, indent=1), "utf-8")

    prepare()
    for name in told.modules:
        campaign(name, told.sample, told.seed, figures.get(name) if told.again else None, report)


def prepare():
    "Hypothesis as it should be here: no deadline, no shrinking, nothing remembered from one mutant to the next."
    from hypothesis import Phase, settings

    settings.register_profile("mutants", deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
    os.environ.setdefault("MPLBACKEND", "agg")
    sys.path.insert(0, str(ROOT))


if __name__ == "__main__":
    main()
