"""The book of the method: how a chapter looks, that it needs no server, and that every chapter is in it."""

import shutil
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from page_reader import WIDTHS, Reader, check_links, check_whole, soup_of

NBS = Path(__file__).parent.parent / "nbs"


@pytest.fixture(scope="module")
def book_py():
    pytest.importorskip("smalldocs", reason="the book is built in a checkout, with smalldocs")
    spec = spec_from_file_location("book", NBS.parent / ".ci" / "book.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=WIDTHS)
def reader(request, browser):
    reader = Reader(browser, request.param)
    yield reader
    reader.page.close()
    assert reader.complaints == []


# ---- the real book


@pytest.fixture(scope="module")
def book(tmp_path_factory, book_py):
    "This checkout's book, where a site would have it."
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").touch()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="expected a whole chapter")  # every chapter of this checkout must be documented
        book_py.write_book(NBS, folder / "method")
    return folder / "method"


def test_every_page_is_whole_and_fits(book, reader):
    for path in sorted(book.rglob("*.html")):
        check_whole(reader.open(path), path)


def test_every_link_leads_somewhere(book):
    check_links(book)


def test_every_chapter_is_in_the_sidebar_once_below_its_room(book):
    sidebar = soup_of(book / "index.html").find(id="quarto-sidebar")
    named = [link["href"].removeprefix("./") for link in sidebar.select("a.sidebar-link[href]")]
    chapters = [name for name in named if not name.startswith("api")]
    assert sorted(chapters) == sorted(f"{path.stem}.html" for path in NBS.glob("*.ipynb"))
    rooms = {li.select_one(".menu-text").get_text(): li.ul.select("a[href]") for li in sidebar.select("li.sidebar-item-section")}
    assert next(iter(rooms)) == "The workshop (skip at first)"
    assert all(rooms.values())
    for room, links in rooms.items():
        digits = {link["href"].removeprefix("./")[0] for link in links}
        assert len(digits) == 1 or room in ("Tutorials", "From the command line", "Reference"), room


def test_the_reference_has_every_public_name_with_its_words(book, book_py):
    from api import ROOMS, modules, symbols, undocumented

    assert undocumented() == []
    named = [symbol.name for room in ROOMS for module in modules(room) for symbol in symbols(module)[0]]
    assert len(named) > 850
    shown = [heading.get_text() for path in sorted(book.glob("api_*.html")) for heading in soup_of(path).main("h3")]
    assert sorted(shown) == sorted(named)
    from qcfer.core import labels

    assert {*labels.__all__} <= {part for name in named for part in name.split(", ")}
    first = soup_of(book / "api.html").main.get_text()
    assert "show_versions" in first and "load_manifest" in first


def test_a_parameter_keeps_what_is_said_beside_it(book):
    page = soup_of(book / "api_classify.html").main
    entry = page.find("h3", string="AFP")
    assert entry.find_next("li").get_text().startswith("normalize (bool): Scale each row")
    assert "(N, D) features" in page.find("h3", string="location_scale").find_next("pre").get_text()
    assert page.find("h3", string="AFP").find_next("a", string="In its chapter, with source and example")["href"] == "60_afp.html#afp"


def test_the_book_is_searched_without_a_server(book, reader):
    page = reader.open(book / "01_labels.html")
    if not page.is_visible("input[type=search]"):
        page.click(".navbar-toggler")
        page.wait_for_selector("input[type=search]", state="visible")
    page.fill("input[type=search]", "find_weights")
    page.wait_for_selector(".search-result")
    page.keyboard.press("Enter")
    page.wait_for_url("**/02_files.html#find_weights")
    page.click("text=QC-FER")
    page.wait_for_load_state()
    assert page.url.endswith(".html")
    page.go_back()


# ---- a small book


@pytest.fixture(scope="module")
def small(tmp_path_factory, book_py):
    "A small book: a chapter with a formula, two drawings and an example that must not run, and one whose module is missing."
    root = tmp_path_factory.mktemp("checkout")
    shutil.copy(NBS.parent / "settings.ini", root)
    (root / "nbs").mkdir()
    for name in ("_quarto.yml", "styles.css"):
        shutil.copy(NBS / name, root / "nbs")
    svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><clipPath id='a'/><circle r='4'/></svg>"
    drawing = new_output("display_data", {"image/svg+xml": svg})
    cells = [
        new_markdown_cell("# Labels\n\n> One order."),
        new_code_cell("#| default_exp core.labels"),
        new_code_cell(
            "#| export\nHELPER = 1\n'What it is.'", outputs=[new_output("execute_result", {"text/plain": "'What it is.'"})]
        ),
        new_code_cell("#| export\ndef label_index(name): ...\n"),
        new_markdown_cell("## Weights\n\nA class weighs $w_c = \\frac{N}{C n_c}$; see `label_index` and `qcfer.core.labels`."),
        new_code_cell("#| hide\nimport secrets"),
        new_code_cell("import pathlib\npathlib.Path('ran').touch()", outputs=[drawing, drawing]),
    ]
    nbformat.write(new_notebook(cells=cells), root / "nbs" / "01_labels.ipynb")
    broken = [new_markdown_cell("# Later"), new_code_cell("#| default_exp absent"), new_code_cell("#| export\ndef later(): ...")]
    nbformat.write(new_notebook(cells=broken), root / "nbs" / "02_absent.ipynb")
    with pytest.warns(UserWarning, match="02_absent.ipynb; found ModuleNotFoundError.*published as it stands"):
        assert book_py.write_book(root / "nbs", root / "book") == "01_labels.html"
    return root / "book"


def test_a_chapter_shows_documentation_then_folded_source(small):
    page = soup_of(small / "01_labels.html").main
    heading = page.find(id="label_index")
    assert heading.name == "h3"
    fold = heading.find_next("details")
    assert fold.summary.get_text() == "Source" and "def label_index(name)" in fold.get_text() and not fold.has_attr("open")
    assert "HELPER = 1" in page.find("code").get_text()  # it has no documentation, so it stays open
    assert page.get_text().count("What it is.") == 1  # once in the source, not again as an output
    assert "secrets" not in page.get_text()
    assert [link["href"] for link in page("a") if link.code] == ["01_labels.html#label_index", "01_labels.html"]


def test_building_the_book_runs_no_example(small):
    assert not list(small.parent.rglob("ran")) and not Path("ran").exists()
    assert sorted(path.name for path in (small.parent / "nbs").iterdir()) == [
        "01_labels.ipynb",
        "02_absent.ipynb",
        "_quarto.yml",
        "styles.css",
    ]


def test_formulas_and_drawings_need_nothing_from_elsewhere(small, reader):
    page = reader.open(small / "01_labels.html")
    assert page.locator("main svg").count() == 0
    assert page.evaluate("[...document.images].map(image => [image.naturalWidth > 0, image.alt])") == [
        [True, "w_c = \\frac{N}{C n_c}"],
        [True, "Figure: Weights"],
        [True, "Figure: Weights"],
    ]


def test_an_unchanged_book_is_left_alone(small, book_py, tmp_path, monkeypatch):
    shutil.copytree(small.parent, tmp_path / "checkout")
    nbs, book = tmp_path / "checkout" / "nbs", tmp_path / "reports" / "cache" / "method"
    built = []
    monkeypatch.setattr(book_py, "write_book", lambda nbs, book: (book.mkdir(parents=True, exist_ok=True), built.append(book)))
    assert book_py.refresh_book(nbs, book) and not book_py.refresh_book(nbs, book)
    (nbs / "styles.css").write_text("")
    assert book_py.refresh_book(nbs, book) and not book_py.refresh_book(nbs, book)
    shutil.rmtree(book)
    assert book_py.refresh_book(nbs, book)
    assert built == [book] * 3
