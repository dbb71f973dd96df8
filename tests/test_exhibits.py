"""Thumbnails as HTML: galleries, failures, sheets."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from qcfer.core.labels import CLASSES
from qcfer.core.pictures import PictureList
from qcfer.data.cartoons import draw_face
from qcfer.pages.exhibits import failures, gallery, sheet, side_by_side
from qcfer.pages.site import _sanitise
from qcfer.run.thumbnails import pairs, thumbnail

EVIL = '"><script>alert(1)</script>'


def judged(n=24):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"row": range(n), "image": [f"{row}.png" for row in range(n)], "label": np.arange(n) % 7})
    table["yaw"] = np.where(np.arange(n) % 2, 38.0, -70.0)
    scores = {name: rng.random(n) for name in ("embedder", "agreement")} | {"residual_yaw": rng.uniform(0, 40, n)}
    return table.assign(verdict="revert", **scores)


def kept(table, **settings):
    faces = PictureList(draw_face(CLASSES[label], seed=1, size=48) for label in table["label"])
    return pairs(table, faces, faces, **settings)


def soup(html):
    return BeautifulSoup(html, "html.parser")


def test_the_gallery_holds_each_class_and_bin():
    table = judged()
    shown = soup(gallery(kept(table, per_cell=2)))
    assert [row.get_text() for row in shown("th", scope="row")] == list(CLASSES)
    assert [head.get_text() for head in shown.thead("th")] == ["class", "large", "extreme"]
    sizes = [sum(min(2, n) for n in group.groupby(group["yaw"].abs() > 45).size()) for _, group in table.groupby("label")]
    assert [len(row("img")) for row in shown.tbody("tr")] == sizes
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in shown("img"))


def test_names_are_shown_as_text_and_everything_passes_the_pages_filter():
    table = kept(judged(1).assign(image=EVIL))
    words = pd.DataFrame({"label": [0], "column": [EVIL], "picture": [thumbnail(Image.new("RGB", (8, 8)))]})
    for html in (gallery(table), failures(table), side_by_side(words)):
        shown, filtered = soup(html), soup(html)
        _sanitise(filtered)
        assert str(filtered) == str(shown) and not shown("script")
    assert [image["alt"] for image in soup(gallery(table))("img")] == [f"{EVIL}: original and frontalized; revert"]


def test_the_worst_come_first_and_what_was_not_measured_is_not_said():
    table = judged()
    table.loc[3, ["embedder", "residual_yaw"]] = -1, np.nan
    shown = soup(failures(kept(table, worst=3)))
    assert [image["alt"].split(":")[0] for image in shown("img")] == table["image"][table["embedder"].sort_values().index[:3]].tolist()
    captions = [text.get_text() for text in shown.select("p.caption")]
    assert "yaw left" not in captions[0] and "yaw left" in captions[1] and captions[0].startswith("revert: embedder -1.00, agreement")


def test_prompts_stand_side_by_side():
    rows = [(label, name, thumbnail(Image.new("RGB", (8, 8)))) for label in (0, 3) for name in ("original", "A", "<B>")]
    shown = soup(side_by_side(pd.DataFrame(rows, columns=["label", "column", "picture"])))
    assert [head.get_text() for head in shown.thead("th")] == ["class", "original", "A", "<B>"]
    assert [row.th.get_text() for row in shown.tbody("tr")] == ["anger", "happiness"]
    assert [image["alt"] for image in shown.tbody("tr")[1]("img")] == ["happiness, original", "happiness, A", "happiness, <B>"]


@pytest.mark.parametrize("gap", [0, 4])
def test_a_sheet_has_every_picture_in_its_place(gap):
    shades = {("raw", 15): 40, ("raw", -15): 90, ("frontal", 15): 200}
    rows = [(*place, thumbnail(Image.new("RGB", (20, 20), (shade,) * 3), 16)) for place, shade in shades.items()]
    page = Image.open(io.BytesIO(sheet(pd.DataFrame(rows, columns=["line", "column", "picture"]), gap)))
    step = 16 + gap
    assert page.size == (2 * step - gap, 2 * step - gap)
    found = [page.getpixel((x * step + 8, y * step + 8))[0] for y in (0, 1) for x in (0, 1)]
    np.testing.assert_allclose(found, [90, 40, 255, 200], atol=4)  # columns by their order, lines as they come


def test_pictures_are_jpegs_of_their_own():
    data = soup(gallery(kept(judged(1)))).img["src"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (2 * 96 + 4, 96)
