"""Pictures that another program frontalized: found by their names, and nothing beside them."""

import shutil

import pandas as pd
import pytest
from PIL import Image

from qcfer.core.pictures import PictureList
from qcfer.frontalize.imported import import_frontalized, import_names, imported_id
from qcfer.frontalize.job import FrontalizedFaces

def test_pictures_from_elsewhere_by_their_names(tmp_path):
    names = ["a/x.jpg", "a/y.tar.jpeg", "ä b.png", "front.png", "gone.png", "broken.png", "twice.png"]
    manifest = pd.DataFrame({"image": names})
    yaw = [60, -60, 31, 0, 60, 60, 60]
    elsewhere = tmp_path / "elsewhere"
    made = {"a/x.PNG": "red", "a/y.tar.webp": "green", "ä b.jpg": "blue", "front.png": "black", "twice.png": "red", "twice.jpg": "red"}
    for name, colour in made.items():
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(elsewhere / name)
    (elsewhere / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    (elsewhere / "notes.txt").write_text("not a picture")
    table = import_frontalized(elsewhere, manifest, yaw)
    assert list(table) == ["turned", "status", "file", "sha256", "error", "misfit", "inside", "asymmetry"]
    assert table["status"].tolist() == ["done", "done", "done", "kept", "pending", "failed", "failed"]
    assert table["file"].tolist() == ["a/x.PNG", "a/y.tar.webp", "ä b.jpg", "", "", "", ""]
    assert "several pictures of one name: twice.jpg, twice.png" == table["error"][6]
    assert "not a picture" in table["error"][5]
    images = PictureList(Image.new("RGB", (12, 12)) for _ in names)
    faces = FrontalizedFaces(images, table, elsewhere)
    assert faces[0].getpixel((0, 0)) == (255, 0, 0) and faces[3].size == (12, 12)
    changed = table.assign(sha256=table["sha256"].replace(table["sha256"][0], "0" * 64))
    assert imported_id(table) == imported_id(table[::-1]) != imported_id(changed)


def test_several_faces_of_one_photograph_are_told_apart_by_their_boxes(tmp_path):
    manifest = pd.DataFrame(
        {"image": ["p.jpg", "p.jpg", "q.jpg"], "left": [1, 20, 1], "top": [2, 2, 2], "right": [9, 30, 9], "bottom": [9, 9, 9]}
    )
    assert import_names(manifest) == ["p_1_2_9_9", "p_20_2_30_9", "q"]
    Image.new("RGB", (8, 8)).save(tmp_path / "p_20_2_30_9.png")
    assert import_frontalized(tmp_path, manifest, [60, 60, 60])["status"].tolist() == ["pending", "done", "pending"]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "in" / "a.png").symlink_to(tmp_path / "secret.png")
    table = import_frontalized(tmp_path / "in", pd.DataFrame({"image": ["a.png"]}), [60])
    assert table["status"].tolist() == ["failed"] and "stays below the root" in table["error"][0]


def test_a_folder_without_any_of_the_pictures(tmp_path):
    with pytest.raises(ValueError, match="^expected frontalized pictures in .*, such as a.png; found none of 1$"):
        import_frontalized(tmp_path, pd.DataFrame({"image": ["a.jpg", "b.jpg"]}), [60, 0])
    assert import_frontalized(tmp_path, pd.DataFrame({"image": ["a.jpg"]}), [0])["status"].tolist() == ["kept"]
    with pytest.raises(ValueError, match="expected a yaw for each of 1 faces; found 2"):
        import_frontalized(tmp_path, pd.DataFrame({"image": ["a.jpg"]}), [0, 1])
    shutil.rmtree(tmp_path)
