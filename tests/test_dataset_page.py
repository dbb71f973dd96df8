"""The check page: what it counts, what it escapes, how it looks in a browser."""


import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from official_trees import Tiny, affectnet_csv, each, rafdb
from qcfer.data.cartoons import draw_faces
from qcfer.data.manifest import prepare
from qcfer.pages.dataset import dataset_page, write_dataset_page, yaw_counts, yaw_shares, yaw_words

@pytest.fixture
def drawn(tmp_path):
    draw_faces(tmp_path / "faces", per_class=10)
    return tmp_path / "faces"


def test_the_test_faces_are_counted_by_yaw_beside_the_papers_number():
    yaw = [0.0, 15, -16, 30, 31, -45, 46, -90, np.nan, np.nan]
    manifest = pd.DataFrame({"yaw": [*yaw, 50.0, 50.0], "split": ["test"] * 10 + ["train"] * 2})
    table = yaw_counts(manifest)
    assert table["faces"].to_dict() == {"frontal": 2, "moderate": 2, "large": 2, "extreme": 2, "unknown": 2}
    assert table["share"].tolist() == [0.2] * 5
    assert yaw_words("rafdb", manifest).endswith("unknown 2 (20.0%); beyond 30 degrees 4 (40.0%), in the paper 308 (10.0%)")
    assert yaw_words("fer2013", manifest).endswith("beyond 30 degrees 4 (40.0%)")
    unseen = manifest.assign(yaw=manifest["yaw"].where(manifest["split"] == "test"))
    assert set(yaw_shares("folder", unseen)["faces"]) == {"test"} and set(yaw_shares("folder", manifest)["faces"]) == {"all", "test"}


def test_yaw_shares_stand_beside_the_papers():
    yaw = np.concatenate([np.full(80, 10.0), np.full(10, -31.0), np.full(5, 46.0), np.full(5, np.nan)])
    manifest = pd.DataFrame({"yaw": yaw, "split": ["test"] * 50 + ["train"] * 50})
    table = yaw_shares("rafdb", manifest).set_index(["faces", "source"])
    assert table.loc[("all", "here")].tolist() == [15.0, 5.0]
    assert table.loc[("test", "here")].tolist() == [0.0, 0.0]
    papers = {source: share for (_, source), share in table["beyond 30"].items() if source != "here"}
    assert papers == {"paper, introduction": 1.75, "paper, section 4.2 (2,145 faces)": 17.5, "paper, test faces, table 8 (308)": 10.0}
    of_train = {"rafdb": 2145 / 12271, "expw": 11856 / 68845, "affectnet7": 48300 / 283901}  # the paper's own counts
    assert {name: round(100 * share, 1) for name, share in of_train.items()} == {"rafdb": 17.5, "expw": 17.2, "affectnet7": 17.0}
    of_test = {"rafdb": 308 / 3068, "affectnet7": 121 / 3500, "expw": 1878 / 13769}
    for name, share in of_test.items():
        table = yaw_shares(name, manifest).set_index("source")["beyond 30"]
        assert table[table.index.str.contains("test faces")].tolist() == [round(100 * share, 1)]


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "\u202egpj",
]


@pytest.fixture
def page(tmp_path):
    "The page of a set with hostile names among its missing files, and where it is."
    counts = each("12 12 12 16 16 12 12")
    affectnet_csv(tmp_path / "set", counts, each("4 4 4 4 4 4 4"), Tiny())
    with open(tmp_path / "set/Manually_Annotated_file_lists/training.csv", "a", encoding="utf-8") as file:
        for name in HOSTILE:
            file.write('"' + name.replace('"', '""') + '.jpg",1,1,5,5,,1,0,0\n')
    manifest, _ = prepare("affectnet7", tmp_path / "set", tmp_path / "out")
    return write_dataset_page("affectnet7", manifest.assign(yaw=np.linspace(-80, 80, len(manifest))), tmp_path / "out")


def test_names_are_text(page):
    text = page.read_text(encoding="utf-8")
    for words in ("<script", "<img", "<svg", "onerror=alert(1)>", "http://", "https://"):
        assert words not in text
    assert "&lt;script&gt;" in text


def test_the_page_in_a_browser(page, browser_page):
    errors = []
    browser_page.on("pageerror", lambda error: errors.append(str(error)))
    browser_page.on("console", lambda message: errors.append(message.text))
    browser_page.on("dialog", lambda dialog: errors.append(dialog.message))
    for width in (320, 390, 1280):
        browser_page.set_viewport_size({"width": width, "height": 800})
        browser_page.goto(page.as_uri())
        assert browser_page.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    assert browser_page.locator("section h2").all_inner_texts() == [
        "Counts",
        "Classes and weights",
        "Missing and unreadable",
        "Copies",
        "Sizes",
        "Head yaw",
    ]
    rejects = browser_page.locator("section", has_text="Missing and unreadable").inner_text()
    assert HOSTILE[1] in rejects or HOSTILE[0] in rejects
    weights = browser_page.locator("section", has_text="Classes and weights").locator("tbody tr").all_inner_texts()
    assert [row.split()[0] for row in weights] == ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]


@pytest.fixture
def browser_page(browser):
    page = browser.new_page()
    yield page
    page.close()


def test_the_weights_are_the_papers_formula(tmp_path):
    root = rafdb(tmp_path / "set", each("20 10 10 40 10 10 100"), each("3 3 3 3 3 3 3"), Tiny())
    manifest, _ = prepare("rafdb", root, tmp_path / "out")
    text = write_dataset_page("rafdb", manifest, tmp_path / "out").read_text()
    train = manifest["label"][manifest["split"] == "train"].value_counts()
    assert train.to_dict() == {0: 18, 1: 9, 2: 9, 3: 36, 4: 9, 5: 9, 6: 90}
    for label in range(7):
        assert f'<td class="number">{180 / (7 * train[label]):.2f}</td>' in text
    assert "20 of 12,271" not in text and "200 of 12,271 published" in text


rows = st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=5)


@given(rows, st.text(max_size=10))
@settings(max_examples=50, deadline=None)
def test_any_text_is_escaped(rejects, usage):
    rejects = [(image.encode("utf-8", "ignore").decode(), reason.encode("utf-8", "ignore").decode()) for image, reason in rejects]
    manifest = pd.DataFrame(
        {"label": [0, 1, 2], "split": ["train", "val", "test"], "duplicate": False, "sha256": list("abc"), "image": "a"}
    )
    manifest = manifest.assign(width=8, height=8, group=list("abc"))
    counts = pd.DataFrame({"usage": [usage + "<b>"], "class": ["<i>"], "expected": [3], "found": [2], "usable": [2]})
    text = dataset_page("rafdb", manifest, pd.DataFrame(rejects, columns=["image", "reason"], dtype=str), counts)
    assert "<i>" not in text and "<b>" not in text
    known = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "h1",
        "h2",
        "p",
        "ul",
        "li",
        "div",
        "section",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "span",
        "code",
        "!doctype",
    }
    found = {part.lstrip("/").split(">")[0].split(" ")[0] for part in text.split("<")[1:]}
    assert found <= known


def test_a_deep_check_finds_what_a_good_header_hides(tmp_path):
    root = rafdb(tmp_path / "set", each("9 10 8 14 13 12 11"), each("3 4 2 8 7 6 5"), Tiny(64))
    damaged = root / "Image/aligned/train_00003_aligned.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-900])
    shallow, _ = prepare("rafdb", root, tmp_path / "out")
    deep, _ = prepare("rafdb", root, tmp_path / "out", deep=True)
    assert len(shallow) == 112 and len(deep) == 111
    assert (
        (tmp_path / "out/rafdb/rejected.csv")
        .read_text()
        .splitlines()[1]
        .startswith("Image/aligned/train_00003_aligned.jpg,the picture is damaged")
    )
    columns = [name for name in deep if name != "split"]
    pd.testing.assert_frame_equal(
        deep[columns], shallow[shallow["image"] != str(damaged.relative_to(root))][columns].reset_index(drop=True)
    )
