"""Layouts: paths that nobody vouches for, and PoseBench's Parquet file."""

import os
import re
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qcfer.core.pictures import ImageError, decode_image, image_size
from qcfer.data.label_files import Below, DatasetError
from qcfer.data.layouts import Dataset, dataset
from qcfer.data.manifest import FaceImages, examine, load_manifest, prepare

# Paths


def test_a_path_is_below_the_root_or_told_why_not(tmp_path):
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    for name in ("root/a.png", "root/deep/b.JPG", "secret.png", "root/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (root / "in.png").symlink_to("a.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "same").symlink_to("deep")
    (root / "broken.png").symlink_to("nothing.png")
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe.png")
    expected = {
        "a.png": "",
        "deep/b.JPG": "",
        "in.png": "",
        "same/b.JPG": "",
        "./a.png": "",
        "../secret.png": "the path leaves the root",
        "deep/../a.png": "the path leaves the root",
        "/etc/passwd": "the path leaves the root",
        "a.png\0": "the path leaves the root",
        "out.png": "the link leaves the root",
        "up/secret.png": "the link leaves the root",
        "up/nothing.png": "the link leaves the root",
        "none.png": "missing",
        "none/none.png": "missing",
        "a.png/b.png": "missing",
        "": "not a file",
        "deep": "not a file",
        "broken.png": "not a file",
        "loop.png": "not a file",
        "pipe.png": "not a file",
        "notes.txt": "the name does not end like a picture's",
        "\udce9.png": "the name is not UTF-8",
        "x" * 300: "cannot be read: File name too long",
        "x/" * 3000: "cannot be read: File name too long",
        "x/" * 500_000: "cannot be read: File name too long",  # which the system would look up one folder after the other
    }
    below = Below(root)
    begun = time.process_time()
    assert {path: below.objection(path) for path in expected} == expected
    assert time.process_time() - begun < 1
    assert {path: below.objection(path) for path in expected} == expected  # with every folder remembered


def test_a_root_that_is_a_link(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.png").write_bytes(b"x")
    (tmp_path / "link").symlink_to("root")
    assert Below(tmp_path / "link").objection("a.png") == ""


# The size from the header


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_header_tells_the_size_of_the_decoded_picture(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation or 1
    options = {"exif": exif} if orientation and format not in ("BMP", "GIF", "PPM") else {}
    Image.new("RGB", (9, 4)).save(tmp_path / "face", format, **options)
    data = (tmp_path / "face").read_bytes()
    assert image_size(data) == decode_image(data).size


def test_a_header_alone_is_refused_like_a_picture():
    for data in (b"", b"<html>", b"\x89PNG\r\n\x1a\n", b"P6\n50000 50000\n255\n"):
        with pytest.raises(ImageError):
            image_size(data)


# PoseBench


def posebench(root, subjects=10):
    "A small set with PoseBench's columns: the contract, written out by hand."
    rows, points = [], np.arange(136.0)
    for number in range(subjects):
        for label in range(7):
            frontal = f"frontal/s{number:03d}_{label}.jpg"
            for view in range(2):
                image = f"faces/s{number:03d}_{label}_{view}.jpg"
                for path, red in ((image, 20 * number), (frontal, 200)):
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (16, 16), (red, 30 * label, 100 * view)).save(root / path)
                row = {"image": image, "label": label, "split": ("train", "train", "val", "test", "test")[number % 5]}
                row |= {"group": f"s{number:03d}", "sha256": "0" * 64, "width": 224, "height": 224}
                row |= {"yaw": 40.0 * view, "pitch": -1.5, "roll": 0.25, "frontal": frontal, "frontal_sha256": "1" * 64}
                row |= {"variant": "smile", "intensity": 0.5, "action_jawOpen": 0.1 * view, "action_smile": 1.0}
                rows.append(row | {"landmarks": points + view, "frontal_landmarks": points})
    return pd.DataFrame(rows)


@pytest.fixture
def rendered(tmp_path):
    table = posebench(tmp_path / "bench")
    table.to_parquet(tmp_path / "bench" / "posebench.parquet", index=False)
    return tmp_path / "bench", table


def test_posebench_is_read_as_it_is(rendered, tmp_path):
    root, table = rendered
    manifest, found = prepare("posebench", root / "faces", tmp_path / "out")
    assert found == root and len(manifest) == 140
    for column in ("image", "label", "split", "group", "yaw", "pitch", "roll", "frontal", "variant", "intensity", "action_jawOpen"):
        assert manifest[column].tolist() == table[column].tolist(), column
    assert not manifest["duplicate"].any() and (manifest[["width", "height"]] == 16).all(axis=None)
    again = pd.read_parquet(tmp_path / "out" / "posebench" / "manifest.parquet")
    assert list(again) == list(manifest)
    np.testing.assert_array_equal(np.stack(again["landmarks"]), np.stack(table["landmarks"]))
    np.testing.assert_array_equal(np.stack(again["frontal_landmarks"]), np.stack(table["frontal_landmarks"]))


def test_the_true_frontal_views_are_faces_too(rendered):
    root, _ = rendered
    manifest = load_manifest("posebench", root)
    digest = {name: __import__("hashlib").sha256((root / name).read_bytes()).hexdigest() for name in manifest["frontal"]}
    views = FaceImages(manifest.assign(image=manifest["frontal"], sha256=manifest["frontal"].map(digest)), root)
    assert len(views) == 140 and views[0].getpixel((0, 0))[0] > 150 and len(set(views.keys)) == 7


SAME = object()


def changed(table, column, row, value):
    table = table.astype({column: object}) if not isinstance(value, float) else table.copy()
    if value is SAME:
        return table.drop(columns=column)
    table.at[row, column] = value
    return table.infer_objects()


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("label", 7, "expected a number from 0 to 6 as label in row 3 of .*posebench.parquet; found .*7"),
        ("label", -1, "expected a number from 0 to 6 as label in row 3"),
        ("label", SAME, "expected PoseBench's columns in .*; found none named label"),
        ("split", "Train", "expected train, val or test as split in row 3 of .*; found 'Train'"),
        ("yaw", float("nan"), "expected degrees from -180 to 180 as yaw in row 3 of .*; found .*nan"),
        ("pitch", float("inf"), "as pitch in row 3"),
        ("roll", 1e9, "as roll in row 3"),
        ("intensity", 1.5, "expected a number from 0 to 1 as intensity in row 3"),
        ("action_smile", float("nan"), "as action_smile in row 3"),
        ("image", None, "expected text as image in row 3"),
        ("frontal", None, "expected text as frontal in row 3"),
        ("landmarks", np.zeros(135), "expected 136 finite numbers as landmarks in row 3"),
        ("landmarks", None, "expected 136 finite numbers as landmarks in row 3"),
        ("frontal_landmarks", np.full(136, np.inf), "expected 136 finite numbers as frontal_landmarks in row 3"),
        ("group", SAME, "found none named group"),
    ],
)
def test_a_file_that_is_not_posebenchs_stops(rendered, column, value, words):
    root, table = rendered
    changed(table, column, 3, value).to_parquet(root / "posebench.parquet", index=False)
    with pytest.raises(DatasetError, match=words) as error:
        examine("posebench", root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["label", "yaw", "image", "action_smile", "landmarks", "split"])
def test_a_column_of_another_type_stops(rendered, column):
    root, table = rendered
    other = {"label": "3", "yaw": "4", "image": 5, "action_smile": True, "landmarks": "text", "split": 1}[column]
    table.assign(**{column: other}).to_parquet(root / "posebench.parquet", index=False)
    with pytest.raises(DatasetError, match=f"as {column} in row 0"):
        examine("posebench", root)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\xff" * 1000])
def test_a_damaged_parquet_file_stops(rendered, data):
    (rendered[0] / "posebench.parquet").write_bytes(data)
    with pytest.raises(DatasetError, match="expected a Parquet file in .*posebench.parquet; found"):
        examine("posebench", rendered[0])


def test_a_cut_parquet_file_stops(rendered):
    path = rendered[0] / "posebench.parquet"
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError):
            examine("posebench", rendered[0])


def test_text_that_is_not_utf8_stops(rendered):
    path = rendered[0] / "posebench.parquet"
    rendered[1].to_parquet(path, index=False, compression=None)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"faces/s003_2_1.jpg", b"faces/s003_\xff_1.jpg"))
    assert path.read_bytes() != data
    with pytest.raises(DatasetError, match="expected a Parquet file in .*; found .*UTF8"):
        examine("posebench", rendered[0])


def test_damaged_notes_of_other_programs_change_nothing(rendered):
    path = rendered[0] / "posebench.parquet"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"pandas_version"', b"'pandas_version'"))
    assert path.read_bytes() != data
    assert len(load_manifest("posebench", rendered[0])) == 140


def test_a_small_file_of_too_many_rows_stops(rendered):
    path = rendered[0] / "posebench.parquet"
    pd.DataFrame({"label": np.zeros(3_000_000, np.int64)}).to_parquet(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(DatasetError, match="expected at most 200,000 rows in .*; found 3,000,000"):
        examine("posebench", rendered[0])


def test_a_text_that_every_row_asks_for_is_held_once_and_refused(rendered):
    "Seven kilobytes that would be a hundred gigabytes, row by row."
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, rows = rendered[0] / "posebench.parquet", 100_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"image": texts}), path, store_schema=False, compression="zstd")
    assert path.stat().st_size < 10_000
    with pytest.raises(DatasetError, match="expected texts of at most 4,096 bytes in .*; found one of 1,000,000"):
        examine("posebench", rendered[0])
    pq.write_table(pa.table({"image": pa.array([["a"]])}), path)
    with pytest.raises(DatasetError, match="expected texts in columns of their own in .*; found 'image.list.element'"):
        examine("posebench", rendered[0])


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("image", "../secret.jpg", "the path leaves the root"),
        ("image", "/etc/passwd", "the path leaves the root"),
        ("image", "faces/none.jpg", "missing"),
        ("image", "a\0b.jpg", "the path leaves the root"),
        ("frontal", "../secret.jpg", "its frontal view: the path leaves the root"),
        ("frontal", "frontal/none.jpg", "its frontal view: missing"),
    ],
)
def test_paths_of_posebench_stay_inside(rendered, column, value, words):
    root, table = rendered
    Image.new("RGB", (4, 4)).save(root.parent / "secret.jpg")
    changed(table, column, 3, value).to_parquet(root / "posebench.parquet", index=False)
    manifest, rejected = examine("posebench", root)
    assert len(manifest) == 139
    assert rejected["reason"].tolist() == [words]
    assert re.sub(r"\W", "", str(rejected["image"][0]))


def test_a_subject_on_both_sides_is_marked(rendered):
    root, table = rendered
    table.loc[table["group"] == "s000", "group"] = "s003"
    table.to_parquet(root / "posebench.parquet", index=False)
    manifest, _ = examine("posebench", root)
    assert manifest["duplicate"].sum() == 14 and set(manifest["split"][manifest["duplicate"]]) == {"train"}


# Where sets are made known

def test_every_set_has_a_line_of_help_and_settings():
    assert {"fer2013", "ferplus", "rafdb", "affectnet7", "expw", "posebench", "folder", "hf"} <= set(dataset)
    for name, entry in dataset.items():
        assert isinstance(entry.thing, Dataset) and isinstance(entry.facts["params"], dict)
        assert entry.help.startswith(f"{name} (") and "\n" not in entry.help


def test_a_set_is_added_from_outside_in_one_place(tmp_path, monkeypatch):
    def read(root):
        names = sorted(path.name for path in root.glob("face-*.png"))
        return pd.DataFrame({"image": names, "label": [3, 5] * (len(names) // 2), "split": "", "usage": "", "reason": ""})

    has_faces = lambda folder: any(folder.glob("face-*.png"))  # noqa: E731
    own = Dataset(layouts=(has_faces,), words="face-*.png", read=read, group="pixels", complete=False)
    monkeypatch.setattr(dataset, "_entries", dict(dataset.items()))
    dataset("own", help="own (a set of one's own)", params={})(own)
    (tmp_path / "own").mkdir()
    for number in range(20):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "own" / f"face-{number:02d}.png")
    manifest, root = prepare("own", tmp_path, tmp_path / "out")
    assert root == tmp_path / "own" and len(manifest) == 20 and (tmp_path / "out/own/manifest.parquet").is_file()
    with pytest.raises(ValueError, match="expected each dataset once; found 'own' again"):
        dataset("own")(own)
