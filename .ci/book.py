"""Build the notebooks into the book of the method, a folder of pages: python .ci/book.py reports/cache/method

nbdev documents every symbol, smalldocs makes the sidebar and the search. nbdev's own driver, `proc_nbs`, runs every cell that
holds an import, and so halves of examples; here nothing but `show_doc` runs, with the names of the exported module. And where
nbdev leaves exported code out, it is shown: in a book about a method the code is the point. It lies folded below its documentation;
constants and helpers, which have none, stay open. The reference, a page a room, is made by `api.py` beside this file.
"""
import hashlib
import json
import re
import shutil
import sys
import tempfile
import warnings
from base64 import b64encode
from contextlib import chdir
from html import escape
from importlib import import_module
from io import BytesIO
from pathlib import Path

from bs4 import BeautifulSoup
from tqdm import tqdm

from qcfer.pages.site import finish

sys.path.insert(0, str(Path(__file__).parent))
from api import pages as reference

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
BESIDE = "*.ipynb", "reports", "paper_data", "prompts", "static", "_proc", "_docs", ".*"  # what is no part of smalldocs' project


# ---- one notebook


def documented(notebook):
    "A notebook as nbdev documents it: signatures and docstrings, with the exported source under each."
    from nbdev.processors import FilterDefaults, _default_exp, _is_showdoc, add_fold, add_links, exec_show_docs, mv_exports

    class ShowDocs(exec_show_docs):
        "Run `show_doc` cells, and only those, with the exported module's names."

        def begin(self):
            super().begin()
            module = _default_exp(self.nb)
            names = vars(import_module(f"qcfer.{module}")) if module else {}
            self.k.user_ns.update({name: value for name, value in names.items() if not name.startswith("__")})

        def __call__(self, cell):
            if _is_showdoc(cell):
                self.k.cell(cell)

    class Book(FilterDefaults):
        "nbdev's processors, without those that move, fold and link: that is done below and by smalldocs."

        def base_procs(self):
            steps = [step for step in super().base_procs() if step not in (add_fold, add_links, mv_exports)]
            return [ShowDocs if step is exec_show_docs else step for step in steps]

    for cell in notebook.cells:
        cell.source = re.sub(r"^#\| *export$", "#| exports", cell.source, flags=re.MULTILINE)  # nbdev's word for 'and show it'
    Book()(notebook)
    fold_sources(notebook.cells)
    return notebook


FOLD = "#| code-fold: true\n#| code-summary: Source\n"


def fold_sources(cells):
    "Put exported code below its documentation and fold it; a constant or a helper, which has none, stays open."
    for place, cell in enumerate(cells):
        if "exports" not in (cell.directives_ or {}):
            continue
        cell["outputs"] = []
        if place + 1 < len(cells) and getattr(cells[place + 1], "has_sd", False):
            cell.source = FOLD + cell.source.removeprefix(FOLD)
            cells[place : place + 2] = [cells[place + 1], cell]  # the loop meets it again, one place further down


def svg_as_image(notebook):
    "Turn drawings into images: inline, the identifiers of two drawings on one page would clash."
    outputs = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    for data in outputs:
        if "image/svg+xml" in data:
            svg = "".join(data["image/svg+xml"]).encode()
            data["text/html"] = f'<img src="data:image/svg+xml;base64,{b64encode(svg).decode()}">'


# ---- smalldocs' project


def module_of(notebook):
    "The module that a notebook exports, e.g. 'core.labels', or None."
    found = (re.search(r"^#\| *default_exp +(\S+)", cell.source, re.MULTILINE) for cell in notebook.cells)
    return next((match[1] for match in found if match), None)


def symbol_links(pages):
    "Where each module and each public symbol of the package is documented, e.g. '01_labels.ipynb#label_index'; `pages` is by module."
    from qcfer._modidx import d as index

    links = {f"qcfer.{module}": page for module, page in pages.items()}
    for module, symbols in index["syms"].items():
        for symbol, (target, _) in symbols.items():
            name, page = symbol.removeprefix(f"{module}."), pages.get(module.removeprefix("qcfer."))
            if page and "." not in name and not name.startswith("_"):
                links[name] = f"{page}#{target.partition('#')[2]}"
    return links


def write_project(nbs, project):
    "Write smalldocs' project: the documented notebooks of `nbs`, what lies beside them, and the index of names for links."
    from execnb.nbio import mk_cell, new_nb, read_nb, write_nb

    shutil.copytree(nbs, project, ignore=shutil.ignore_patterns(*BESIDE))
    pages = {}
    for path in tqdm(sorted(nbs.glob("*.ipynb")), desc="method", unit=" chapters", delay=2, leave=False, disable=None):
        notebook = read_nb(path)
        if module := module_of(notebook):
            pages[module] = path.name
        try:
            notebook = documented(notebook)
        except Exception as error:  # somebody may be in the middle of writing a chapter; the others are wanted all the same
            warnings.warn(f"expected a whole chapter in {path}; found {error!r}: published as it stands", stacklevel=2)
            notebook = read_nb(path)
        svg_as_image(notebook)
        write_nb(notebook, project / path.name)
    links = symbol_links(pages)
    (project / "_symbols.json").write_text(json.dumps(links), encoding="utf-8")
    if nbs == NBS:
        for name, cells in reference(links).items():
            write_nb(new_nb([mk_cell(cell, "markdown") for cell in cells]), project / f"{name}.ipynb")


# ---- smalldocs makes pages for a server; four repairs make them pages for a folder


def formula(tex):
    "A formula as an `img` tag: matplotlib sets it, and the words for those who cannot see it are its TeX."
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    drawing = BytesIO()
    depth = math_to_image(f"${tex}$", drawing, prop=FontProperties(size=13), format="svg")
    svg = re.sub(rb"<metadata>.*</metadata>", b"", drawing.getvalue(), flags=re.DOTALL)  # it holds the date
    source = f"data:image/svg+xml;base64,{b64encode(svg).decode()}"
    return f'<img class="formula" style="vertical-align: {-depth:.1f}pt" src="{source}" alt="{escape(tex)}">'


def repair_search(book):
    "Put the search index into the script that would fetch it, which no browser allows for a page from a folder."
    script, index = book / "site_libs" / "smalldocs.js", book / "search.json"
    source, fetched = script.read_text(encoding="utf-8"), 'await fetch(offset + "search.json")'
    if fetched not in source:
        raise ValueError(f"expected {fetched!r} in the script of smalldocs; found another version of it: install smalldocs 0.5.4")
    script.write_text(source.replace(fetched, f"{{ json: () => ({index.read_text(encoding='utf-8')}) }}"), encoding="utf-8")
    index.unlink()


AT_NIGHT = """<script>if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.dataset.bsTheme = "dark"</script>"""


def repair_page(soup, first):
    "Links that end in a folder, formulas that a script from elsewhere would set, and the care for pictures and tables of the report pages."
    for link in soup("a", href=True):
        link["href"] = {"./": first, "/../index.html": "../index.html"}.get(link["href"], link["href"])
    for loader in soup.select("[src*=katex], [href*=katex]"):
        loader.extract()
    for span in soup.select("span.math"):
        tex = span.get_text()[2:-2]  # without its \( and \), or \[ and \]
        span.replace_with(BeautifulSoup(formula(tex), "html.parser"))
    for title in soup.select("#toc-title"):
        title.name = "p"  # it stands before the page's first heading
    for number, nav in enumerate(soup("nav"), 1):
        nav["aria-label"] = nav.get("aria-label") or f"Navigation {number}"
    soup.head.insert(0, BeautifulSoup(AT_NIGHT, "html.parser"))
    skip = BeautifulSoup('<a class="skip" href="#quarto-document-content">Skip to the content</a>', "html.parser")
    soup.body.insert(0, skip)
    finish(soup)


# ---- the book


def write_book(nbs, book):
    "Build the notebooks of the folder `nbs` into the folder `book`; nothing of the checkout is touched. Returns the first page's name."
    from smalldocs.site import build

    with tempfile.TemporaryDirectory() as folder, chdir(nbs.parent):  # nbdev looks for settings.ini from there
        project = Path(folder) / "nbs"
        write_project(nbs, project)
        build(project, quiet=True)
        made = project / "_site"
        pages = sorted(made.glob("*.html"))
        first = "index.html" if made / "index.html" in pages else pages[0].name
        repair_search(made)
        for page in pages:
            soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
            repair_page(soup, first)
            page.write_text(str(soup), encoding="utf-8")
        shutil.rmtree(book, ignore_errors=True)
        book.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, book)
    return first


def fingerprint(nbs):
    "A hash of all that the book is made of."
    made_of = [*sorted(nbs.glob("*.*")), *sorted(Path(__file__).parent.glob("*.py")), nbs.parent / "settings.ini"]
    digest = hashlib.sha256()
    for path in made_of:
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def refresh_book(nbs, book):
    "Build the book where it is missing or a notebook has changed since; says whether it was built."
    note, now = book.with_name(f"{book.name}.sha256"), fingerprint(nbs)
    if book.is_dir() and note.is_file() and note.read_text(encoding="utf-8") == now:
        return False
    note.unlink(missing_ok=True)
    write_book(nbs, book)
    note.write_text(now, encoding="utf-8")
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected the folder of the book, as in reports/cache/method; found " + (" ".join(sys.argv[1:]) or "nothing"))
    refresh_book(NBS, Path(sys.argv[1]).resolve())
