"""The reference of the package: a page a room, made of signatures and docstrings alone, without importing anything."""
import ast
import re
from inspect import cleandoc
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "qcfer"
ROOMS = {
    "core": "The workshop: names of classes, files, pictures, yaw, caches, registries, engines",
    "data": "Folders and label files become one manifest",
    "posebench": "Rendered faces of exact pose, with true frontal views",
    "face": "Where is the face, and where does it look?",
    "embed": "A face as numbers",
    "frontalize": "PFN: frontalizers, conditions, the gate and its review",
    "classify": "AFP, ESV, the search and the ladders",
    "evaluate": "Scores, intervals, calibration, curves, maps",
    "paper": "What the paper says, and whether it adds up",
    "run": "From settings to a record",
    "pages": "From a record to pages",
    "recognize": "Models for anybody's photographs",
    "": "The command line, the doctor and the bench",
}


class Symbol(NamedTuple):
    "A public name: what it is called, its code without the inside, its docstring, and those of its methods."

    name: str
    code: str
    doc: str
    methods: tuple = ()


# ---- out of the source


def modules(room):
    "The modules of a room, e.g. 'core.labels'; those beside the rooms for ''."
    paths = sorted(path for path in (PACKAGE / room).glob("*.py" if not room else "**/*.py") if not path.name.startswith("_"))
    return [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]


def symbols(module):
    "What a module makes public, in its own order, and its docstring."
    source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines, public, found = source.splitlines(), _public(tree), []
    for node, after in zip(tree.body, [*tree.body[1:], None]):
        if names := [name for name in _names(node) if name in public]:
            found.append(_symbol(", ".join(names), node, after, lines))
    return found, ast.get_docstring(tree) or ""


def _names(node):
    "What a statement of a module defines."
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _public(tree):
    return next((set(ast.literal_eval(node.value)) for node in tree.body if "__all__" in _names(node)), set())


def _symbol(name, node, after, lines):
    if isinstance(node, ast.FunctionDef):
        return Symbol(name, _header(node, lines), ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        return Symbol(name, _class_code(node, lines), ast.get_docstring(node) or "", tuple(_methods(node, lines)))
    told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    code = shorten(" ".join(lines[node.lineno - 1 : node.end_lineno]), 120, placeholder=" ...")
    return Symbol(name, code, cleandoc(after.value.value) if told else "")


def _header(node, lines):
    "A function's code up to its docstring, with what is said beside its parameters."
    return cleandoc("\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])) or f"def {node.name}(...)"


def _class_code(node, lines):
    "A class's first line, and its fields or what it is made with."
    start = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    fields = [lines[part.lineno - 1] for part in node.body if isinstance(part, ast.AnnAssign) and not part.target.id.startswith("_")]
    inside = fields or (["    " + line for line in _header(start, lines).splitlines()] if start else [])
    return "\n".join([lines[node.lineno - 1], *inside])


def _methods(node, lines):
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            yield Symbol(f"{node.name}.{part.name}", _header(part, lines), ast.get_docstring(part) or "")


# ---- into Markdown


def prose(doc):
    "A docstring as Markdown: numpydoc's sections become lists."
    first, *rest = re.split(r"^(\w[\w ]*)\n-+$", doc, flags=re.MULTILINE)
    parts = [_escaped(first.strip())]
    for title, body in zip(rest[::2], rest[1::2]):
        parts.append(f"**{title}**\n\n{_listed(body) if ' : ' in body else _escaped(body.strip())}")
    return "\n\n".join(part for part in parts if part)


def _listed(body):
    "Of 'name : words' and of 'name : type' with words below it."
    items = []
    for line in body.strip("\n").splitlines():
        name, _, what = (part.strip() for part in line.partition(" : "))
        if line[:1].strip():
            items.append((name, _escaped(what), []))
        elif line.strip() and items:
            items[-1][2].append(_escaped(line.strip()))
    return "\n".join(f"- `{name}`{_told(what, ' '.join(below))}" for name, what, below in items)


def _told(what, below):
    if not below or what.endswith((",", ";")) or what.count(" ") > 8:
        return f": {' '.join(part for part in (what, below) if part)}" if what or below else ""
    return f" ({what}): {below}" if what else f": {below}"


def _escaped(text):
    "Text whose stars, angles and underlines are themselves, outside of code."
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts)


def _heading(level, name):
    return f"{'#' * level} " + name.replace("_", "\\_")


def _entry(symbol, level, links):
    where = links.get(symbol.name.partition(",")[0])
    chapter = f"\n\n[In its chapter, with source and example]({where})" if where else ""
    return f"{_heading(level, symbol.name)}\n\n```python\n{symbol.code}\n```\n\n{prose(symbol.doc)}{chapter}"


def room_cells(room, links):
    "The Markdown cells of a room's page; `links` says where a name has its chapter."
    cells = [f"# {room or 'The command line'}\n\n> {ROOMS[room]}."]
    for module in modules(room):
        found, about = symbols(module)
        if found:
            chapter = f" [The chapter]({links[f'qcfer.{module}']})" if f"qcfer.{module}" in links else ""
            cells.append(f"{_heading(2, f'qcfer.{module}')}\n\n{_escaped(about)}{chapter}")
        for symbol in found:
            cells += [_entry(symbol, 3, links), *(_entry(method, 4, {}) for method in symbol.methods)]
    return cells


def _page(room):
    return f"api_{room or 'command_line'}"


def face_cells(face):
    "The Markdown cells of the first page; `face` is {name: the module that it comes from} of `import qcfer`."
    docs = {symbol.name: symbol.doc.partition("\n\n")[0] for module in {*face.values()} for symbol in symbols(module)[0]}
    homes = {name: module.partition(".")[0] for name, module in face.items()}
    rows = [f"| `{name}` | {_escaped(docs[name])} | [{room}]({_page(room)}.ipynb) |" for name, room in homes.items()]
    counts = {room: sum(len(symbols(module)[0]) for module in modules(room)) for room in ROOMS}
    rooms = [f"| [{room or 'the command line'}]({_page(room)}.ipynb) | {words} | {counts[room]} |" for room, words in ROOMS.items()]
    return [
        "# Reference\n\n> Every public name, by room.",
        "## What `import qcfer` has\n\n| name | what | from |\n| --- | --- | --- |\n" + "\n".join(rows),
        "## The rooms\n\nA room knows only the rooms above it. A parameter is documented beside itself: shape, unit, range.\n\n"
        "| room | what | names |\n| --- | --- | --- |\n" + "\n".join(rooms),
    ]


def public_face():
    "{name: module} of the stub that type checkers read."
    text = (PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    return {name: module for module, name in re.findall(r"^from \.([\w.]+) import (\w+) as \w+$", text, re.MULTILINE)}


def pages(links):
    "{file name without its ending: the Markdown cells of a page}."
    return {"api": face_cells(public_face()), **{_page(room): room_cells(room, links) for room in ROOMS}}


def undocumented():
    "The public names, and the public methods, that have no docstring."
    every = [symbol for room in ROOMS for module in modules(room) for symbol in symbols(module)[0]]
    return [one.name for symbol in every for one in (symbol, *symbol.methods) if not one.doc]

