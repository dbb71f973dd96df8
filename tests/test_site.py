"""The published pages: read in a real browser, from files, as a reader would; and built under adverse circumstances."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import qcfer
import qcfer.pages.site
from page_reader import WIDTHS, Reader, check_accessible, check_links, check_whole, soup_of
from qcfer.core.files import resources
from qcfer.core.labels import CLASSES
from qcfer.pages.site import TAGS, _mark_numbers, _sanitise, build_site

EVIL = "<img src=x onerror=alert(1)>"  # a legal name of a folder
SCRIPT = "</td></table><script>alert(2)</script>"

EXECUTED = """
%config InlineBackend.figure_formats = ["svg"]
import matplotlib.pyplot as plt, pandas as pd
figure, axes = plt.subplots(figsize=(9, 4))
axes.bar(range(7), range(7));
---
figure, axes = plt.subplots(figsize=(9, 4))
axes.plot(range(7));
---
long = {f"a rather long name {column}": [0.5, -1.25] for column in range(9)}
pd.DataFrame(long | {"label": ["</td><script>alert(2)</script>", "fear"]})
---
from IPython.display import HTML, Markdown
Markdown("The label <script>alert(2)</script> is *odd*.")
---
HTML("<b onclick='alert(2)'>bold</b><iframe src='https://example.org'></iframe><a href='javascript:alert(2)'>link</a>")
---
print("x" * 400)
"""


def value(share, n):
    return {"accuracy": {"value": share, "low": share - 0.017, "high": share + 0.016, "n": n}}


LONG_ID = f"effnet_lite0 weights={64 * '7'} rgb 224x224 bicubic whole (x-127)/128 l2"
LONG_POSE = "3ddfa_v2:mb05_120x120@f93ed7f1c4c0+090d7150f77c/whole-bilinear-120-ypr"


def write_run(out, dataset, run_id, created, share, profile=None, embedder=LONG_ID, pages=()):
    metrics = {"test": value(share, 3309)} | ({"profile": value(profile, 412)} if profile else {})
    record = {
        "config": {"dataset": dataset, "note": SCRIPT},
        "seed": 7,
        "versions": {"python": "3.11.9", "numpy": "2.4.1"},
        "git_sha": None,
        "data_sha256": "ab" * 32,
        "created": created,
        "ids": {"pose": LONG_POSE if profile else None, "frontalizer": None, "embedder": embedder},
        "counts": {"test": dict.fromkeys(CLASSES, 470)},
        "metrics": metrics,
    }
    folder = out / dataset / run_id
    folder.mkdir(parents=True)
    (out / "pages" / dataset / run_id).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    orders = {"overview": 10, "tsne": 90}
    for name, notebook in pages:
        notebook = new_notebook(cells=notebook.cells, metadata=notebook.metadata | {"qcfer": {"order": orders.get(name, "odd")}})
        nbformat.write(notebook, out / "pages" / dataset / run_id / f"{name}.ipynb")


@pytest.fixture(scope="module")
def executed():
    "A report notebook that a real kernel ran: drawings, a wide table, and labels that want to be scripts."
    cells = [
        new_markdown_cell("# Overview\n\n> The answer first.\n\n**54.4 %** are recognised."),
        new_markdown_cell("## Figures"),
    ]
    cells += [new_code_cell(source.strip()) for source in EXECUTED.split("---")]
    cells.insert(3, new_markdown_cell("**Figure 1.** Bars & *more* bars, n = 3,309."))
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3"}})
    NotebookClient(notebook, timeout=120).execute()
    return notebook


@pytest.fixture(scope="module")
def by_hand():
    "A small report notebook: a PNG with its own description and one without, and no heading."
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    pictures = [new_output("display_data", {"image/png": png}, metadata=meta) for meta in ({"image/png": {"alt": "One dot"}}, {})]
    return new_notebook(cells=[new_code_cell("show(run)", outputs=pictures), new_markdown_cell("Some prose.")])


@pytest.fixture(scope="module")
def out(tmp_path_factory, executed, by_hand):
    "Three runs on two sets; the second set's name is an attack."
    out = tmp_path_factory.mktemp("reports")
    pages = [("tsne", by_hand), ("overview", executed), ("a b#c%d", by_hand)]
    write_run(out, "fer2013", "0123456789ab", "2026-11-20T10:00:00+00:00", 0.531, 0.402, pages=pages)
    write_run(
        out,
        "fer2013",
        "fedcba987654",
        "2026-11-21T12:30:00+00:00",
        0.5444,
        0.418,
        embedder=SCRIPT,
        pages=[("overview", executed)],
    )
    write_run(out, EVIL, "abcdef012345", "2026-11-19T08:00:00+00:00", 0.61, pages=[("overview", executed)])
    return out


@pytest.fixture(scope="module")
def site(out):
    return build_site(out).parent


@pytest.fixture(params=WIDTHS)
def reader(request, browser):
    reader = Reader(browser, request.param)
    yield reader
    reader.page.close()
    assert reader.complaints == []


@pytest.fixture
def desktop(browser):
    reader = Reader(browser, "desktop")
    yield reader
    reader.page.close()
    assert reader.complaints == []


def reports(site):
    return [*sorted(site.glob("*.html")), *sorted((site / "reports").rglob("*.html"))]


# ---- every page, in a browser


def test_every_page_is_whole_and_fits(site, reader):
    assert len(reports(site)) == 9
    for path in reports(site):
        check_whole(reader.open(path), path)


def test_nothing_keeps_anybody_out(site, browser):
    check_accessible(browser, reports(site))


def test_headings_are_in_order_and_tables_have_heads(site):
    for path in reports(site):
        levels = [int(heading.name[1]) for heading in soup_of(path).find_all(re.compile("^h[1-6]$"))]
        assert levels[0] == 1
        assert all(below <= above + 1 for above, below in itertools.pairwise(levels)), path


def until(page, expression, timeout=5.0):
    """Asks again and again from outside: the pages' own policy forbids the `eval` that `wait_for_function` needs to ask from inside."""
    end = time.monotonic() + timeout
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} did not come true in {timeout} s"
        page.wait_for_timeout(20)


def test_a_wide_table_scrolls_inside_itself(site, browser):
    reader = Reader(browser, "phone")
    page = reader.open(site / "reports/fer2013/0123456789ab/overview.html")
    inside, outside = page.evaluate("(box => [box.scrollWidth, box.clientWidth])(document.querySelector('.scroll'))")
    assert inside > 2 * outside > 0
    page.focus(".scroll")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.scroll').scrollLeft > 0")
    page.close()
    assert reader.complaints == []


def test_the_keyboard_goes_everywhere(site, desktop):
    page = desktop.open(site / "index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    desktop.tab_to("fedcba987654")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/fedcba987654/overview.html")
    desktop.tab_to("Code of this page")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    desktop.open(site / "reports/fer2013/0123456789ab/overview.html")
    desktop.tab_to("Tsne")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tsne.html")
    assert page.evaluate("document.querySelector('nav[aria-label~=run] [aria-current]').textContent") == "Tsne"
    desktop.tab_to("QC-FER")
    page.keyboard.press("Enter")
    page.wait_for_url("**/site/index.html")


def test_every_link_leads_somewhere(site):
    check_links(site)


# ---- what the pages say


def test_the_index_lists_runs_newest_first(site):
    index = soup_of(site / "index.html").main
    assert [heading.get_text() for heading in index("h3")] == [EVIL, "fer2013"]
    assert [cell.code.get_text() for cell in index("th", scope="row")] == ["abcdef012345", "fedcba987654", "0123456789ab"]
    newest = " ".join(index("tr")[3].get_text(" ", strip=True).replace("\xa0", " ").split())
    assert newest == (
        f"fedcba987654 2026-11-21 as they are {SCRIPT} 3ddfa_v2 54.4 % 52.7 % to 56.0 % n = 3,309 41.8 % 40.1 % to 43.4 % n = 412 Overview"
    )
    assert "none 61.0 % 59.3 % to 62.6 % n = 3,309 not measured" in index("tr")[1].get_text(" ", strip=True).replace("\xa0", " ")


def test_reports_stand_in_reading_order_with_their_provenance(site):
    page = soup_of(site / "reports/fer2013/0123456789ab/overview.html")
    assert [link.get_text() for link in page("nav")[1]("a")] == ["Overview", "Tsne", "A b#c%d"]
    footer = page.footer.get_text()
    for part in (
        "fer2013/0123456789ab",
        "2026-11-20",
        "seed 7",
        "code unknown",
        "data " + "ab" * 6,
        "effnet_lite0",
        "numpy 2.4.1",
    ):
        assert part in footer


def test_pictures_are_described_by_themselves_or_their_captions(site, executed):
    page = soup_of(site / "reports/fer2013/0123456789ab/overview.html")
    assert [image["alt"] for image in page.main("img")] == ["Figure 1. Bars & more bars, n = 3,309.", "Figure: Figures"]
    page = soup_of(site / "reports/fer2013/0123456789ab/tsne.html")
    assert [image["alt"] for image in page.main("img")] == ["One dot", "Figure: Tsne"]
    assert page.h1.get_text() == "Tsne"


def test_the_code_is_folded_and_whole(site, executed):
    fold = soup_of(site / "reports/fer2013/0123456789ab/overview.html").details
    assert not fold.has_attr("open")
    assert fold.code.get_text() == "\n\n".join(cell.source for cell in executed.cells if cell.cell_type == "code")


# ---- text that is not to be trusted


def test_names_and_labels_are_text_on_every_page(site):
    for path in reports(site):
        page = soup_of(path)
        allowed = 2 if path.name == "comparison.html" else 0  # its data and its script, whose hash the page's policy names
        assert len(page("script")) == allowed and page("iframe") == []
        assert [tag for tag in page(True) if any(name.startswith("on") for name in tag.attrs)] == []
        assert "default-src 'none'" in page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    page = soup_of(site / "reports" / EVIL / "abcdef012345" / "overview.html")
    assert EVIL in page.title.get_text() and f"{EVIL}, run abcdef012345" in page.header.get_text()
    text = page.main.get_text()
    assert "</td><script>alert(2)</script>" in text and "The label <script>alert(2)</script> is odd." in text
    assert page.find("b", string="bold").attrs == {}
    assert page.find("a", string="link").attrs == {}


def sanitised(html):
    soup = BeautifulSoup(html, "html.parser")
    _sanitise(soup)
    return str(soup)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])))
def test_plain_text_passes_unchanged(text):
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert BeautifulSoup(sanitised(f"<p>{escaped}</p>"), "html.parser").get_text() == text


def test_a_browser_finds_nothing_that_runs_in_sanitised_pages(browser):
    pieces = [
        "<script>",
        "</script>",
        "<svg>",
        "<math>",
        "<style>",
        "</style>",
        "<!--",
        "-->",
        "<img src=x onerror=a()>",
        "<p>",
        "</p>",
        "x",
    ]
    pieces += [
        "<table>",
        "<td>",
        "</table>",
        "<title>",
        "</title>",
        "<noscript>",
        "<template>",
        "<textarea>",
        "<a href='javascript:a()'>",
        "</a>",
    ]
    pieces += [
        "<iframe srcdoc='<script>a()</script>'>",
        "<mtext>",
        "<![CDATA[",
        "]]>",
        "<b title='</script><script>a()</script>'>",
        "&lt;script&gt;",
    ]
    pieces += [
        "<base href='//x'>",
        "<form action='//x'>",
        "<a href=' jav&#x09;ascript:a()'>",
        "<img src='//x/y.png'>",
        "<p style='background:url(//x)'>",
    ]
    chance = random.Random(0)
    pages = [sanitised("".join(chance.choices(pieces, k=chance.randint(1, 12)))) for _ in range(2000)]
    reader = browser.new_page()
    found = reader.evaluate(
        """([pages, tags]) => pages.map(html => new DOMParser().parseFromString(html, 'text/html').body)
            .flatMap(body => [...body.querySelectorAll('*')].filter(
            tag => !tags.includes(tag.localName) || [...tag.attributes].some(a => /^on|^style$|^srcdoc$/.test(a.name)
                || /^(src|href)$/.test(a.name) && !/^(https?:|mailto:|#|data:image|[\\w.%-]+$)/.test(a.value))
        ).map(tag => tag.outerHTML))""",
        [pages, sorted(TAGS)],
    )
    reader.close()
    assert found == []


def test_a_reference_sanitiser_agrees_on_what_reports_hold(executed):
    "bleach, told the same rules, keeps the same text of a table that pandas wrote."
    bleach = pytest.importorskip("bleach")
    outputs = [output.get("data", {}).get("text/html", "") for cell in executed.cells for output in cell.get("outputs", [])]
    html = re.sub("<style.*?</style>", "", next(html for html in outputs if "dataframe" in html), flags=re.DOTALL)
    theirs = BeautifulSoup(bleach.clean(html, tags=TAGS, attributes=["class"]), "html.parser")
    ours = BeautifulSoup(sanitised(html), "html.parser")
    assert [cell.get_text() for cell in ours("td")] == [cell.get_text() for cell in theirs("td")]
    assert len(ours("td")) == 20


# ---- what can go wrong


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "Runs code with a copy of the package outside any checkout, as a wheel would put it."
    library = tmp_path_factory.mktemp("lib")
    shutil.copytree(Path(qcfer.__file__).parent, library / "qcfer")
    for name in ("static", "paper_data"):
        shutil.copytree(resources(name), library / "qcfer" / name, dirs_exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(library)}

    def start(code, folder):
        return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)

    return start


def build_here(start, folder):
    return start("import qcfer.pages.site; qcfer.pages.site.build_site()", folder)


def test_a_broken_record_or_page_is_named_and_left_out(tmp_path, by_hand):
    write_run(tmp_path, "folder", "aaaa", "2026-11-20T10:00:00+00:00", 0.5, pages=[("overview", by_hand), ("tsne", by_hand)])
    write_run(tmp_path, "folder", "bbbb", "2026-11-21T10:00:00+00:00", 0.5)
    (tmp_path / "pages" / "folder" / "unfinished").mkdir(parents=True)
    (tmp_path / "folder" / "bbbb" / "run.json").write_text('{"seed": ')
    (tmp_path / "pages" / "folder" / "aaaa" / "tsne.ipynb").write_text("")
    with pytest.warns(UserWarning) as caught:
        index = soup_of(build_site(tmp_path))
    named = [str(warning.message) for warning in caught if "left out of the pages" in str(warning.message)]
    assert len(named) == 2 and "bbbb" in named[0] and "tsne.ipynb" in named[1]
    assert [cell.code.get_text() for cell in index("th", scope="row")] == ["aaaa"]
    assert [link.get_text() for link in index.main.table.ul("a")] == ["Overview"]


def test_a_run_across_datasets_is_shown_like_any_other(tmp_path, by_hand):
    write_run(tmp_path, "folder", "aaaa", "2026-11-20T10:00:00+00:00", 0.5, pages=[("overview", by_hand)])
    write_run(tmp_path, "folder-to-other", "cccc", "2026-11-22T10:00:00+00:00", 0.5, pages=[("cross", by_hand)])
    path = tmp_path / "folder-to-other" / "cccc" / "run.json"
    scores = {"test": value(0.4, 900)}
    record = json.loads(path.read_text()) | {"config": {"train": "folder", "test": "other"}, "cross": {"raw": scores}}
    del record["metrics"]
    path.write_text(json.dumps(record))
    index = soup_of(build_site(tmp_path)).main
    assert [heading.get_text() for heading in index("h3")] == ["folder", "folder-to-other"]
    assert "40.0 %" in index("tr")[-1].get_text().replace("\xa0", " ") and index("tr")[-1].ul.a.get_text() == "Cross"
    assert (tmp_path / "site" / "reports" / "folder-to-other" / "cccc" / "cross.html").is_file()


HOSTILE = [
    {"metrics": []},
    {"metrics": {"test": [1]}, "ids": 7, "versions": "x", "created": 5, "config": {"conditions": 5}, "counts": [[]]},
    {"conditions": {"raw": None, SCRIPT: {"metrics": {"test": {"accuracy": {"value": 1e999, "n": "many"}}}, "ids": []}}},
    {"metrics": {"test": {"accuracy": {"value": 0.5, "low": [], "high": None, "n": 10**400}}}, "ids": {"embedder": {"a": [SCRIPT]}}},
    {"cross": {"raw": {"test": 5}}, "versus_raw": 3, "seed": {"deep": SCRIPT}},
    {"metrics": {"test": {}}, "created": "\ud800", "code": "\udfff+\udfff", "config": {"__proto__": {"constructor": "\ud800"}}},
]


def test_no_record_breaks_a_page(tmp_path, reader):
    for place, record in enumerate(HOSTILE):
        (tmp_path / "set" / f"run{place}").mkdir(parents=True)
        (tmp_path / "set" / f"run{place}" / "run.json").write_text(json.dumps({"config": {}} | record))
    odd = tmp_path / os.fsdecode(b"caf\xe9 #1%") / "r\"'>"  # no UTF-8
    odd.mkdir(parents=True)
    scores = {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}
    (odd / "run.json").write_text(json.dumps({"config": {}, "metrics": {"test": scores}}))
    with pytest.warns(UserWarning, match="run0"):
        index = build_site(tmp_path)
    for path in (index, index.with_name("comparison.html")):
        page = reader.open(path)
        assert page.evaluate("document.scrollingElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert page.evaluate("document.body.dataset.ready") == "yes"
    assert len(soup_of(index.with_name("comparison.html")).table.tbody("tr")) == 7


def test_the_index_shows_the_method_and_the_pictures_as_they_are(tmp_path):
    write_run(tmp_path, "folder", "aaaa", "2026-11-20T10:00:00+00:00", 0.5, 0.4)
    path = tmp_path / "folder" / "aaaa" / "run.json"
    record = json.loads(path.read_text())
    turned = {"test": value(0.56, 3309), "profile": value(0.47, 412)}
    record["conditions"] = {"raw": {"metrics": record["metrics"]}, "geometric+raw": {"metrics": turned}, "geometric": {"metrics": turned}}
    record["config"]["conditions"] = ["geometric+raw", "geometric"]
    path.write_text(json.dumps(record))
    cells = {cell["data-label"]: cell.get_text(" ", strip=True).replace("\xa0", " ") for cell in soup_of(build_site(tmp_path)).main("td")}
    assert cells["Method"] == "geometric"
    assert cells["Test accuracy"].startswith("56.0 %") and cells["Test accuracy"].endswith("as they are 50.0 %")
    assert cells["Profile accuracy"].startswith("47.0 %") and cells["Profile accuracy"].endswith("as they are 40.0 %")


def test_an_unchanged_page_is_converted_once(tmp_path, by_hand, monkeypatch):
    for name in ("aaaa", "bbbb"):
        write_run(tmp_path, "folder", name, "2026-11-20T10:00:00+00:00", 0.5, pages=[("overview", by_hand), ("tsne", by_hand)])
    converted = []
    convert = qcfer.pages.site._report_body
    monkeypatch.setattr(qcfer.pages.site, "_report_body", lambda notebook, title: (converted.append(title), convert(notebook, title))[1])
    before = {path: path.read_bytes() for path in build_site(tmp_path).parent.rglob("*.html")}
    assert sorted(converted) == ["Overview", "Tsne"]  # the pages of the second run are the same
    assert {path: path.read_bytes() for path in build_site(tmp_path).parent.rglob("*.html")} == before
    assert len(converted) == 2
    changed = new_notebook(cells=[new_markdown_cell("# Changed")])
    nbformat.write(changed, tmp_path / "pages" / "folder" / "bbbb" / "tsne.ipynb")
    site = build_site(tmp_path).parent
    assert converted[2:] == ["Changed"] and soup_of(site / "reports/folder/bbbb/tsne.html").h1.get_text() == "Changed"
    shutil.rmtree(tmp_path / "folder" / "aaaa")
    build_site(tmp_path)
    assert len(list((tmp_path / "cache" / "pages").iterdir())) == 2  # nothing stays that no run has


def test_the_book_of_the_method_is_copied_and_linked_where_it_is(tmp_path):
    assert "Method" not in soup_of(build_site(tmp_path)).nav.get_text()
    (tmp_path / "cache" / "method").mkdir(parents=True)
    (tmp_path / "cache" / "method" / "index.html").write_text("<h1>The book</h1>")
    site = build_site(tmp_path).parent
    assert soup_of(site / "index.html").nav("a")[-1]["href"] == "method/index.html"
    assert (site / "method" / "index.html").read_text() == "<h1>The book</h1>"


def test_no_run_at_all_says_how_to_make_one(tmp_path):
    assert "qcfer report" in soup_of(build_site(tmp_path / "reports")).main.get_text()


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>My cats</h1>")
    with pytest.raises(ValueError, match="found other files"):
        build_site(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["site", "index.html"]


def test_a_failing_build_leaves_the_old_site(tmp_path, by_hand, monkeypatch):
    write_run(tmp_path, "folder", "aaaa", "2026-11-20T10:00:00+00:00", 0.5, pages=[("overview", by_hand)])
    build_site(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "site").rglob("*.html")}
    monkeypatch.setattr(qcfer.pages.site, "style", lambda: "</style><script src='https://example.org/x.js'></script>")
    with pytest.raises(ValueError, match="need no network"):
        build_site(tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "site").rglob("*.html")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "folder", "pages", "site"]


def wait_for(condition, seconds=60):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.005)


def test_a_killed_build_leaves_the_old_site(out, tmp_path, installed):
    shutil.copytree(out, tmp_path / "reports", ignore=shutil.ignore_patterns("site", "cache"))
    site = build_site(tmp_path / "reports").parent
    before = {path: path.read_bytes() for path in site.rglob("*.html")}
    with build_here(installed, tmp_path) as builder:
        wait_for(lambda: list(site.parent.glob(".site.*/**/*.html")))
        builder.send_signal(signal.SIGKILL)
    left = list(site.parent.glob(".site.*"))
    assert left and {path: path.read_bytes() for path in site.rglob("*.html")} == before
    os.utime(left[0], (0, 0))  # long ago
    build_site(site.parent)
    assert sorted(path.name for path in site.parent.iterdir()) == sorted([EVIL, "cache", "fer2013", "pages", "site"])


def test_every_set_has_a_page_with_its_runs_and_its_card(site):
    names = {link.get_text(): link["href"] for link in soup_of(site / "index.html").select("h3 a")}
    assert set(names) == {EVIL, "fer2013"}
    page = soup_of(site / unquote(names["fer2013"])).main
    assert page.h1.get_text() == "fer2013"
    assert [cell.code.get_text() for cell in page.select("table.runs th[scope=row]")] == ["fedcba987654", "0123456789ab"]
    card = {row.th.get_text(): row.td.get_text() for row in page.select("table.card tr")}
    assert "Goodfellow" in card["Where it comes from"] and "for research" in card["Licence"]
    strange = soup_of(site / unquote(names[EVIL])).main
    assert strange.h1.get_text() == EVIL and "ask those who made the set" in strange.get_text()


def test_an_installed_package_writes_reports_without_the_method(out, tmp_path, installed):
    shutil.copytree(out, tmp_path / "reports", ignore=shutil.ignore_patterns("site", "cache"))
    with build_here(installed, tmp_path) as builder:
        builder.communicate(timeout=120)
    assert builder.returncode == 0
    site = tmp_path / "reports" / "site"
    assert len(list(site.rglob("*.html"))) == 11
    places = ["QC-FER", "Home", "Runs", "Side by side", "Comparison", "Use with care"]
    assert [link.get_text() for link in soup_of(site / "index.html").nav("a")] == places
    assert len(soup_of(site / "comparison.html")("tr")) == 4


def test_the_modules_import_is_light():
    heavy = ("nbconvert", "nbdev", "bs4", "jinja2", "matplotlib")
    code = f"import sys, qcfer.pages.site; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_numbers_are_set_right_in_columns_of_numbers():
    rows = {"seed": ("0", "1.5 [1.0, 2.0]"), "model": ("effnet_lite0", "< 0.001"), "pose": ("3ddfa_v2", ""), "by": ("hand", "−3")}
    soup = BeautifulSoup(pd.DataFrame(rows, index=["value", "gain"]).T.to_html(), "html.parser")
    _mark_numbers(soup.table)
    marked = [cell.get_text() for cell in soup(class_="num")]
    assert marked == ["gain", "1.5 [1.0, 2.0]", "< 0.001", "−3"]
    shared = pd.DataFrame({"n": [1, 2]}, index=pd.MultiIndex.from_tuples([("raw", "test"), ("raw", "profile")]))
    soup = BeautifulSoup(shared.to_html(), "html.parser")
    _mark_numbers(soup.table)
    assert [cell.get_text() for cell in soup(class_="num")] == ["n", "1", "2"]
