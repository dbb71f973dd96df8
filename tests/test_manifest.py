"""Datasets: what people really have on disk, and what a loader must make of it."""

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.files import sha256
from qcfer.data import manifest as datasets
from qcfer.data.cartoons import draw_face, draw_faces
from qcfer.data.fer2013 import unpack_fer2013
from qcfer.data.label_files import DatasetError
from qcfer.data.manifest import (
    FaceImages,
    examine,
    load_manifest,
    locate,
    manifest_sha256,
    prepare,
)
from qcfer.data.splits import assign_splits, draw_groups
from qcfer.data.unpacked import unpack_once
from test_pictures import DEEP, NOISE, WHOLE, bomb, encoded

KAGGLE = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def face(number, size=(4, 4)):
    "The bytes of a picture unlike that of any other number."
    return encoded(Image.new("RGB", size, (number % 256, number // 256 % 256, number // 65536)))


def fill(folder, count=10, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number}.png").write_bytes(face(number))
    return folder


def two_classes(root):
    fill(root / "happy")
    fill(root / "sad", first=100)
    return root


def with_splits(root, train="train", test="test"):
    for number, name in enumerate(KAGGLE):
        fill(root / train / name, 5, first=1000 * number)
        fill(root / test / name, 2, first=1000 * number + 500)
    return root


def content(folder):
    "Every file below a folder with its bytes."
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def reasons(rejected):
    return dict(zip(rejected["image"], rejected["reason"]))


# Where the set is


@pytest.mark.parametrize("named", [".", "train", "test", "..", "train/../test"])
def test_splits_are_found_one_level_off(tmp_path, named):
    root = with_splits(tmp_path / "archive" / "set")
    assert locate("fer2013", root / named, tmp_path) == root
    assert locate("folder", root / named, tmp_path) == root


@pytest.mark.parametrize("named", [".", "happy", "..", "happy/..", "happy/../sad"])
def test_classes_are_found_one_level_off(tmp_path, named):
    root = two_classes(tmp_path / "archive" / "faces")
    assert locate("folder", root / named, tmp_path) == root


def test_a_relative_root_and_a_linked_one(tmp_path, monkeypatch):
    root = two_classes(tmp_path / "faces")
    monkeypatch.chdir(root)
    for named in (".", "happy", ".."):
        assert locate("folder", named, tmp_path) == root
    (tmp_path / "link").symlink_to("faces")
    assert len(load_manifest("folder", tmp_path / "link")) == 20


def test_two_levels_off_is_named_and_not_guessed(tmp_path):
    root = with_splits(tmp_path / "a" / "b")
    for named in (root / "train" / "happy", tmp_path):
        words = r"expected fer2013\.csv, .*train/<class>/\* .* in .*; found .*: name the folder that holds them"
        with pytest.raises(DatasetError, match=words):
            locate("fer2013", named, tmp_path)


def test_the_folder_that_was_named_comes_first(tmp_path):
    root = two_classes(two_classes(two_classes(tmp_path) / "faces") / "more")
    assert locate("folder", root.parent, tmp_path) == root.parent


def test_two_candidates_are_both_named(tmp_path):
    two_classes(tmp_path / "all" / "one"), two_classes(tmp_path / "all" / "two")
    with pytest.raises(DatasetError, match=r"found several folders with it \(one, two\)"):
        locate("folder", tmp_path / "all", tmp_path)


@pytest.mark.parametrize(
    "name, root, words",
    [
        ("folder", "absent", "expected a folder with folder; found nothing at .*absent"),
        ("fer2013", "file", "expected a folder with fer2013; found a file at .*file"),
        ("folder", "empty", "expected <class>.*anger, disgust, fear, happiness, neutral, sadness, surprise in .*empty; found nothing"),
        ("folder", "numbered", "expected to be told what the number 0 in the folder .*numbered/0 means; found nothing that says it"),
        ("imagenet", "empty", "expected a dataset of .*fer2013, .*; found 'imagenet'"),
    ],
)
def test_what_is_not_there_gets_one_line(tmp_path, name, root, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for number in "012":
        fill(tmp_path / "numbered" / number, 1)
    with pytest.raises(DatasetError, match=words) as error:
        load_manifest(name, tmp_path / root, out=tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_root_with_a_strange_name_is_listed(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(DatasetError, match=r"found caf\\xe9") as error:
        locate("folder", tmp_path, tmp_path)
    str(error.value).encode()


@pytest.mark.parametrize("train, test", [("train", "test"), ("Training", "Testing"), ("TRAIN", "Test")])
def test_spellings_of_the_splits(tmp_path, train, test):
    manifest = load_manifest("folder", with_splits(tmp_path, train, test))
    assert manifest.groupby(["split", "label"]).size().unstack().T.to_dict("list") == {"test": [2] * 7, "train": [4] * 7, "val": [1] * 7}


def test_a_split_that_is_missing_is_named(tmp_path):
    for name in ("happy", "sad"):
        fill(tmp_path / "train" / name), fill(tmp_path / "valid" / name, first=50)
    with pytest.raises(DatasetError, match="expected pictures for train and test in .*; found only train, val$"):
        load_manifest("folder", tmp_path)


# What lies in the folders


def test_what_a_killed_unpacking_left_is_swept(tmp_path):
    old = tmp_path / ".set.0123.tmp"
    fill(old)
    os.utime(old, (0, 0))
    unpack_once(tmp_path / "set", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["set"] and len(list((tmp_path / "set").iterdir())) == 10


def test_what_a_killed_prepare_left_is_swept(tmp_path):
    root, old = two_classes(tmp_path / "set"), tmp_path / "out" / "folder" / ".manifest.parquet.0123.tmp"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    prepare("folder", root, tmp_path / "out")
    assert sorted(path.name for path in old.parent.iterdir()) == ["counts.csv", "manifest.parquet", "rejected.csv"]


def test_the_manifest_of_a_folder(tmp_path):
    root = two_classes(tmp_path / "faces")
    shutil.copy(root / "happy" / "3.png", root / "happy" / "COPY.PNG")
    manifest, found = prepare("folder", root, tmp_path / "out", seed=3)
    assert found == root and list(manifest) == list(datasets.COLUMNS)
    assert manifest["image"].tolist() == sorted(f"{p.parent.name}/{p.name}" for p in root.glob("*/*"))
    assert manifest["label"].tolist() == [3] * 11 + [5] * 10
    row = manifest.set_index("image").loc["happy/3.png"]
    assert row["sha256"] == hashlib.sha256((root / "happy" / "3.png").read_bytes()).hexdigest()
    assert (row["width"], row["height"], row["usage"], row["duplicate"]) == (4, 4, "", False)
    assert manifest["group"].nunique() == 20
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "folder" / "manifest.parquet"), manifest)
    assert (tmp_path / "out" / "folder" / "rejected.csv").read_text() == "image,reason\n"


def test_the_same_seed_gives_the_same_manifest(tmp_path):
    root = two_classes(tmp_path)
    some, again, other = (load_manifest("folder", root, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(some, again)
    assert (some["split"] != other["split"]).any()
    assert manifest_sha256(some) == manifest_sha256(again) != manifest_sha256(other)


@pytest.mark.parametrize("column, value", [("sha256", "0" * 64), ("label", 6), ("split", "test"), ("group", "x"), ("image", "happy/x.png")])
def test_a_changed_manifest_has_another_name(tmp_path, column, value):
    manifest = load_manifest("folder", two_classes(tmp_path))
    manifest.loc[1, "split"] = "train"
    changed = manifest.copy()
    changed.loc[1, column] = value
    assert manifest_sha256(changed) != manifest_sha256(manifest)


def test_everything_odd_is_rejected_with_its_reason(tmp_path):
    root, out = two_classes(tmp_path / "faces"), tmp_path / "out"
    outside = fill(tmp_path / "elsewhere", 1, first=999) / "999.png"
    happy = root / "happy"
    (happy / "empty.jpg").write_bytes(b"")
    (happy / "cut.jpg").write_bytes(WHOLE["JPEG"][:300])
    (happy / "page.png").write_text("<html>")
    (happy / "bomb.png").write_bytes(bomb("PNG", 50_000, 50_000))
    (happy / "notes, \"old\".txt").write_text("notes")
    (happy / "line\nbreak.png").write_bytes(b"no")
    (happy / "nested.png").mkdir()
    (happy / "outside.png").symlink_to(outside)
    (happy / "device.png").symlink_to("/dev/zero")
    (happy / "loop.png").symlink_to("loop.png")
    (happy / "broken.png").symlink_to("nothing.png")
    os.mkfifo(happy / "pipe.png")
    Path(os.fsdecode(os.fsencode(happy) + b"/caf\xe9.png")).write_bytes(face(77))
    with open(happy / "huge.bmp", "wb") as file:
        file.truncate(10**12)
    manifest, _ = prepare("folder", root, out)
    assert len(manifest) == 20
    rejected = reasons(pd.read_csv(out / "folder" / "rejected.csv"))
    expected = {
        "empty.jpg": "the file is empty",
        "cut.jpg": "damaged",
        "page.png": "not a picture",
        "bomb.png": "2500000000 pixels",
        "notes, \"old\".txt": "does not end like a picture's",
        "line\nbreak.png": "not a picture",
        "nested.png": "not a file",
        "outside.png": "leaves the root",
        "device.png": "leaves the root",
        "loop.png": "not a file",
        "broken.png": "not a file",
        "pipe.png": "not a file",
        "caf\\xe9.png": "not UTF-8",
        "huge.bmp": "more than 256,000,000 bytes",
    }
    assert {name.removeprefix("happy/") for name in rejected} == set(expected)
    assert [name for name, words in expected.items() if words not in rejected[f"happy/{name}"]] == []
    with pytest.raises(DatasetError, match="expected every picture to be readable; found 14 that are not, the first happy/bomb.png: "):
        prepare("folder", root, out, strict=True)


def test_strict_passes_when_there_is_nothing_to_reject(tmp_path):
    root = two_classes(tmp_path / "faces")
    for clutter in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (root / "happy" / clutter).write_bytes(b"clutter")
    fill(root / "__MACOSX", 1)
    assert len(prepare("folder", root, tmp_path / "out", strict=True)[0]) == 20


def test_readable_odd_pictures_stay_in(tmp_path):
    root = two_classes(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = {
        "CMYK.JPG": encoded(Image.new("CMYK", (8, 8)), "JPEG"),
        "deep.tiff": encoded(Image.fromarray(DEEP), "TIFF"),
        "palette.gif": encoded(Image.new("P", (8, 8)), "GIF"),
        "alpha.webp": encoded(Image.new("RGBA", (8, 8)), "WEBP"),
        "turned.jfif": encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif),
        "really a gif.jpeg": encoded(Image.new("RGB", (5, 5)), "GIF"),
        "caf\u00e9 \u9854.png": face(5000),
    }
    for name, data in odd.items():
        (root / "sad" / name).write_bytes(data)
    manifest = load_manifest("folder", root).set_index("image")
    sizes = {name: tuple(manifest.loc[f"sad/{name}", ["width", "height"]]) for name in odd}
    assert sizes == dict(zip(odd, [(8, 8), (6, 1), (8, 8), (8, 8), (4, 8), (5, 5), (4, 4)]))


def test_links_that_stay_inside_are_pictures(tmp_path):
    root = two_classes(tmp_path / "faces")
    (root / "happy" / "again.png").symlink_to("0.png")
    (root / "joy").symlink_to("happy")
    manifest = load_manifest("folder", root)
    assert len(manifest) == 32 and manifest["group"].nunique() == 20
    assert manifest.groupby("group")["split"].nunique().max() == 1


def test_a_class_folder_elsewhere_is_named(tmp_path):
    root = two_classes(tmp_path / "faces")
    fill(tmp_path / "elsewhere")
    (root / "fear").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"too few: fear \(10 files rejected, the first fear/0.png: the link leaves the root\)"):
        load_manifest("folder", root)


@pytest.mark.parametrize("inside", [[], [".DS_Store"], ["Thumbs.db"]])
@pytest.mark.parametrize("where", ["train/fear", "test/fear"])
def test_an_empty_class_folder_is_named(tmp_path, where, inside):
    root = with_splits(tmp_path)
    shutil.rmtree(root / where), (root / where).mkdir()
    for name in inside:
        (root / where / name).write_bytes(b"clutter")
    with pytest.raises(DatasetError, match=f"expected pictures in .*{where}; found none: fill the folder or remove it"):
        load_manifest("folder", root)


def test_a_folder_that_is_no_class_is_named(tmp_path):
    fill(two_classes(tmp_path) / "contempt")
    with pytest.raises(DatasetError, match="expected one of anger, .* in the folder .*; found 'contempt': rename it .* or leave it out"):
        load_manifest("folder", tmp_path)


def test_one_class_in_train_is_not_enough(tmp_path):
    fill(tmp_path / "train" / "happy")
    fill(tmp_path / "test" / "happy", first=20), fill(tmp_path / "test" / "sad", first=40)
    with pytest.raises(DatasetError, match="expected two classes or more to train on in .*; found happiness$"):
        load_manifest("folder", tmp_path)


def test_a_class_that_only_test_has_is_named(tmp_path):
    root = with_splits(tmp_path)
    shutil.rmtree(root / "train" / "disgust")
    with pytest.raises(DatasetError, match="too few: disgust$"):
        load_manifest("folder", root)
    words = "expected all seven classes to train on in .*; found anger, fear, happiness, neutral, sadness, surprise$"
    with pytest.raises(DatasetError, match=words):
        load_manifest("fer2013", root)


def test_a_class_whose_every_picture_is_broken_is_named(tmp_path):
    for number in range(5):
        fill(two_classes(tmp_path) / "fear", 0).joinpath(f"{number}.png").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"too few: fear \(5 files rejected, the first fear/0.png: not a picture"):
        load_manifest("folder", tmp_path)


def test_nothing_but_broken_pictures(tmp_path):
    for name in ("happy", "sad"):
        fill(tmp_path / name, 0).joinpath("notes.txt").write_text("")
    with pytest.raises(DatasetError, match=r"found none \(2 files rejected, the first happy/notes.txt"):
        load_manifest("folder", tmp_path)


def test_copies_of_one_picture_are_one_picture(tmp_path):
    root = two_classes(tmp_path)
    (root / "fear").mkdir()
    for number in range(10):
        (root / "fear" / f"{number}.png").write_bytes(face(600 + number % 2))
    with pytest.raises(DatasetError, match="expected three different train pictures or more of each class .*too few: fear$"):
        load_manifest("folder", root)


def test_a_train_folder_that_is_a_copy_of_test(tmp_path):
    root = with_splits(tmp_path)
    shutil.rmtree(root / "test"), shutil.copytree(root / "train", root / "test")
    with pytest.raises(DatasetError, match="expected two classes or more to train on in .*; found none"):
        load_manifest("folder", root)


def test_the_smallest_set_has_every_class_in_every_split(tmp_path):
    fill(tmp_path / "happy", 3), fill(tmp_path / "sad", 3, first=100)
    manifest = load_manifest("folder", tmp_path)
    assert sorted(zip(manifest["split"], manifest["label"])) == [(s, c) for s in ("test", "train", "val") for c in (3, 5)]


def test_a_rare_class_is_in_every_split(tmp_path):
    fill(tmp_path / "happy", 600), fill(tmp_path / "disgust", 3, first=1000)
    counts = load_manifest("folder", tmp_path).groupby(["label", "split"]).size()
    assert counts[1].to_dict() == {"test": 1, "train": 1, "val": 1}
    assert counts[3].to_dict() == {"test": 120, "train": 432, "val": 48}


def test_a_users_own_list_of_rejects_is_no_ones_business(tmp_path):
    root = two_classes(tmp_path)
    (root / "rejected.csv").write_text("name;why\nx;y\n")
    assert len(examine("folder", root)[1]) == 0


# Twins


def test_twins_across_train_and_test(tmp_path):
    root = with_splits(tmp_path / "set")
    twin = Image.open(root / "test" / "sad" / "5500.png")
    twin.save(root / "train" / "sad" / "twin.bmp")
    shutil.copy(root / "test" / "happy" / "3500.png", root / "train" / "sad" / "mislabelled.png")
    manifest, _ = prepare("folder", root, tmp_path / "out")
    assert manifest.loc[manifest["duplicate"], "image"].tolist() == ["train/sad/mislabelled.png", "train/sad/twin.bmp"]
    assert manifest["group"].nunique() == 49
    assert len(manifest) == 51 and len(load_manifest("folder", root)) == 49
    assert (manifest["split"] == "test").sum() == 14


def test_twins_across_train_and_val_are_trained_on(tmp_path):
    root = with_splits(tmp_path)
    for number, name in enumerate(KAGGLE):
        fill(root / "Validation" / name, 2, first=1000 * number + 4)  # the first of them is the last of train
    manifest = load_manifest("folder", root)
    assert manifest["split"].value_counts().to_dict() == {"train": 42, "test": 14, "val": 7}
    assert manifest.groupby("group")["split"].nunique().max() == 1


def test_a_val_folder_that_is_a_copy_of_train_is_drawn_again(tmp_path):
    root = with_splits(tmp_path)
    shutil.copytree(root / "train", root / "val")
    manifest = load_manifest("folder", root)
    assert manifest["split"].value_counts().to_dict() == {"train": 56, "test": 14, "val": 14}
    assert manifest.groupby("group")["split"].nunique().max() == 1


faces = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=80)


@given(faces, st.floats(0.01, 0.5), st.integers(0, 5))
def test_drawn_groups(rows, fraction, seed):
    label, group = np.array([label for label, _ in rows]), np.array([f"g{label if g % 2 else ''}-{g}" for label, g in rows])
    drawn = draw_groups(label, group, fraction, seed)
    assert drawn.shape == label.shape and drawn.dtype == bool
    np.testing.assert_array_equal(drawn, draw_groups(list(label), list(group), fraction, seed))
    whole = {name: set(drawn[group == name]) for name in group}
    assert all(len(values) == 1 for values in whole.values())
    first = {name: label[list(group).index(name)] for name in group}
    for value in set(first.values()):
        names = [name for name in first if first[name] == value]
        count = sum(True in whole[name] for name in names)
        assert count == (max(round(len(names) * fraction), 1) if len(names) > 1 else 0)


rows_of_a_set = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 15), st.sampled_from(["train", "val", "test"])), min_size=1, max_size=60
)


@given(rows_of_a_set, st.booleans(), st.integers(0, 3))
@example([(0, 0, "train"), (0, 0, "val"), (0, 0, "test")], True, 0)
def test_assigned_splits(rows, told, seed):
    label, group, split = zip(*rows)
    before = pd.DataFrame({"label": label, "group": [f"g{name}" for name in group], "split": split if told else ""})
    before = before.astype({"split": object})
    kept = before.copy()
    after = assign_splits(before, seed)
    pd.testing.assert_frame_equal(before, kept)
    assert set(after["split"]) <= {"train", "val", "test"}
    of_test = set(after["group"][after["split"] == "test"])
    assert after["duplicate"].tolist() == [g in of_test and s != "test" for g, s in zip(after["group"], after["split"])]
    taught = set(after["group"][after["split"] == "train"])
    assert not taught & set(after["group"][after["split"] == "val"])
    if told and "test" in split:
        np.testing.assert_array_equal(after["split"] == "test", before["split"] == "test")
    if not told:
        assert not after["duplicate"].any()


# FER2013's CSV, in both spellings

SPELLINGS = {"fer2013.csv": ("emotion", "pixels", "Usage"), "icml_face_data.csv": ("emotion", " Usage", " pixels")}
CODES_OF_FER2013 = (0, 1, 2, 3, 6, 4, 5)  # anger, disgust, fear, happiness, neutral, sadness, surprise


def grey(number):
    return np.random.default_rng(number).integers(0, 256, (48, 48), dtype=np.uint8)


def record(code, image, usage):
    values = image if isinstance(image, str) else " ".join(map(str, image.ravel()))
    return {"emotion": str(code), "pixels": values, "Usage": usage}


def small_set():
    usages = ["Training"] * 4 + ["PublicTest", "PrivateTest"]
    return [record(code, grey(10 * code + i), usage) for code in CODES_OF_FER2013 for i, usage in enumerate(usages)]


def write_csv(folder, records, name="fer2013.csv", end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    columns = SPELLINGS[name]
    text = end.join([",".join(columns)] + [",".join(row[column.strip()] for column in columns) for row in records]) + end
    (folder / name).write_text(text, newline="")
    return folder


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("named", [".", "..", "beside"])
def test_both_spellings_of_the_csv(tmp_path, name, end, named):
    folder = write_csv(tmp_path / "archive" / "set", small_set(), name, end)
    (folder / "beside").mkdir()
    manifest, root = prepare("fer2013", folder / named, tmp_path / "out")
    assert root.parent == tmp_path / "out" / "pictures"
    assert manifest.groupby(["usage", "label"]).size().unstack().T.to_dict("list") == {
        "PrivateTest": [1] * 7,
        "PublicTest": [1] * 7,
        "Training": [4] * 7,
    }
    assert (manifest["split"] == "test").sum() == 14 and (manifest["split"] == "val").sum() == 7
    assert set(manifest["usage"][manifest["split"] == "val"]) == {"Training"}
    assert (manifest["image"].str.split("/").str[0] == manifest["split"].replace("val", "train")).all()
    assert (manifest[["width", "height"]] == 48).all(axis=None)
    images = FaceImages(manifest, root)
    for place, row in enumerate(manifest.itertuples()):
        number = int(row.image[-9:-4]) - 2  # the line, less the header's
        code, i = CODES_OF_FER2013[number // 6], number % 6
        assert CODES_OF_FER2013[row.label] == code
        np.testing.assert_array_equal(np.asarray(images[place]), np.repeat(grey(10 * code + i)[..., None], 3, axis=2))


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path):
    folder = write_csv(tmp_path / "set", small_set())
    data = (folder / "fer2013.csv").read_bytes()
    (folder / "fer2013.csv").write_bytes(b"\xef\xbb\xbf" + data.replace(b"\n", b"\n\n", 1))
    assert len(load_manifest("fer2013", folder, out=tmp_path / "out")) == 42


def test_quoted_values_with_spaces_around(tmp_path):
    folder = write_csv(tmp_path / "set", small_set())
    lines = (folder / "fer2013.csv").read_text().splitlines()
    (folder / "fer2013.csv").write_text("\n".join('"' + line.replace(",", '", "') + '"' for line in lines))
    assert len(load_manifest("fer2013", folder, out=tmp_path / "out")) == 42


def test_a_csv_is_unpacked_once_a_content(tmp_path):
    folder = write_csv(tmp_path / "set", small_set())
    first = unpack_fer2013(folder, tmp_path / "out")
    stamp = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    with full_disk(0):
        assert unpack_fer2013(folder, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == stamp
    (folder / "fer2013.csv").write_text((folder / "fer2013.csv").read_text() + "\n")
    assert unpack_fer2013(folder, tmp_path / "out") != first
    assert sorted(path.name[:8] for path in (tmp_path / "out" / "pictures").iterdir()) == ["fer2013-"] * 2


BAD_PIXELS = {
    "too few": "0 " * 2303,
    "too many": "0 " * 2305,
    "none": "",
    "above 255": "256 " + "0 " * 2303,
    "negative": "-1 " + "0 " * 2303,
    "a fraction": "0.5 " + "0 " * 2303,
    "a word": "nan " + "0 " * 2303,
    "long": "9" * 25 + " " + "0 " * 2303,
    "very long": "9" * 5000 + " " + "0 " * 2303,
    "a NUL": "0\0 " + "0 " * 2303,
    "not UTF-8": "\udce9 " + "0 " * 2303,
}


def test_bad_pixels_reject_the_row(tmp_path):
    records = small_set() + [record(3, values, "Training") for values in BAD_PIXELS.values()]
    folder = write_csv(tmp_path / "set", [row for row in records if "\udce9" not in row["pixels"]])
    with open(folder / "fer2013.csv", "ab") as file:
        file.write(b"3,\xe9 " + b"0 " * 2303 + b",Training\n")
    manifest, _ = prepare("fer2013", folder, tmp_path / "out")
    assert len(manifest) == 42
    rejected = reasons(pd.read_csv(tmp_path / "out" / "fer2013" / "rejected.csv"))
    assert rejected == {
        f"train/happiness/Training_{line:05d}.png": f"line {line}: not 48 x 48 values of 0..255" for line in range(44, 44 + len(BAD_PIXELS))
    }
    prepare("fer2013", folder, tmp_path / "out")  # the unpacked pictures remember what was rejected
    assert reasons(pd.read_csv(tmp_path / "out" / "fer2013" / "rejected.csv")) == rejected
    with pytest.raises(DatasetError, match="found 11 that are not"):
        prepare("fer2013", folder, tmp_path / "out", strict=True)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "expected columns emotion, pixels, Usage in .*fer2013.csv; found none"),
        ("emotion,pixels\n0,1\n", "expected columns emotion, pixels, Usage in .*; found emotion, pixels"),
        ("emotion;pixels;Usage\n", "found emotion;pixels;Usage"),
        ("a" * 2_000_000, r"expected a CSV in .*; found field larger than field limit \(1000000\)"),
        ("emotion,pixels,Usage\n7,0,Training\n", "expected an emotion from 0 to 6 in line 2 of .*; found '7'"),
        ("emotion,pixels,Usage\n-1,0,Training\n", "found '-1'"),
        ("emotion,pixels,Usage\n,0,Training\n", "found ''"),
        ("emotion,pixels,Usage\n0,0,Training\nhappy,0,Training\n", "in line 3 of .*; found 'happy'"),
        ("emotion,pixels,Usage\n0\0,0,Training\n", r"found '0\\x00'"),
        ("emotion,pixels,Usage\n" + "1" * 5000 + ",0,Training\n", "found '1{40}'"),
        ("emotion,pixels,Usage\n0,0,train\n", "expected Usage Training, PublicTest or PrivateTest in line 2 of .*; found 'train'"),
        ("emotion,pixels,Usage\n0,0\n", "found ''"),
        ("emotion,pixels,Usage\n\0\n", "found ''"),
        ("emotion,pixels,Usage\n0," + "1" * 2_000_000 + ",Training\n", "field larger than field limit .* after line 1"),
        ("emotion,pixels,Usage\n", "expected all seven classes to train on in .*; found none"),
    ],
)
def test_another_file_stops_at_once(tmp_path, text, words):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "fer2013.csv").write_text(text)
    with pytest.raises(DatasetError, match=words) as error:
        load_manifest("fer2013", tmp_path / "set", out=tmp_path / "out")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert [path for path in (tmp_path / "out").rglob("*.tmp")] == []


def test_half_a_download_is_named(tmp_path):
    folder = write_csv(tmp_path / "set", [row for row in small_set() if row["Usage"] == "Training"])
    with pytest.raises(DatasetError, match="expected pictures for train and test in .*; found only train"):
        load_manifest("fer2013", folder, out=tmp_path / "out")


def test_folders_without_prefixes_tell_the_usage(tmp_path):
    root = with_splits(tmp_path, "train", "validation")
    manifest, _ = prepare("fer2013", root, tmp_path / "out")
    assert manifest.groupby(["usage", "split"]).size().to_dict() == {("Training", "train"): 28, ("Training", "val"): 7, ("val", "test"): 14}


# Full disks, folders that may not be written, and kills


@contextmanager
def full_disk(free):
    "No file may grow beyond `free` bytes: a write fails as it does on a full disk."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def nobody():
    "Without root's privilege to write everywhere."
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


@pytest.mark.parametrize("free", [0, 50, 1000])
def test_a_full_disk_keeps_the_last_good_state(tmp_path, free):
    root, out = two_classes(tmp_path / "faces"), tmp_path / "out"
    (root / "happy" / "broken.png").write_bytes(b"")
    prepare("folder", root, out)
    good = content(out)
    (root / "happy" / "also broken with a name of some length.png").write_bytes(b"")
    with full_disk(free), pytest.raises(OSError):
        prepare("folder", root, out)
    after = content(out)
    assert set(after) == set(good) and after["folder/manifest.parquet"] == good["folder/manifest.parquet"]
    prepare("folder", root, out)
    assert len(pd.read_csv(out / "folder" / "rejected.csv")) == 2


def test_a_full_disk_leaves_no_half_unpacked_set(tmp_path):
    folder = write_csv(tmp_path / "set", small_set())
    with full_disk(1000), pytest.raises(OSError):
        prepare("fer2013", folder, tmp_path / "out")
    assert content(tmp_path / "out") == {}
    assert len(prepare("fer2013", folder, tmp_path / "out")[0]) == 42


def test_a_read_only_out_keeps_the_last_good_state():
    with tempfile.TemporaryDirectory() as folder:
        root, out = two_classes(Path(folder) / "faces"), Path(folder) / "out"
        csv = write_csv(Path(folder) / "csv", small_set())
        prepare("folder", root, out)
        prepare("fer2013", csv, out)
        good = content(out)
        os.chmod(folder, 0o755)
        for path in [out, *out.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        (csv / "fer2013.csv").write_text((csv / "fer2013.csv").read_text() + "\n")
        with nobody():
            for name, source in (("folder", root), ("fer2013", csv)):
                with pytest.raises(PermissionError):
                    prepare(name, source, out)
        assert content(out) == good
        for path in [out, *out.rglob("*")]:
            path.chmod(0o755)


def test_a_folder_that_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder:
        root = two_classes(Path(folder) / "faces")
        os.chmod(folder, 0o755)
        (root / "happy" / "3.png").chmod(0)
        with nobody():
            _, rejected = examine("folder", root)
        assert reasons(rejected) == {"happy/3.png": "cannot be read: Permission denied"}
        (root / "happy").chmod(0)
        with nobody(), pytest.raises(PermissionError, match="happy"):
            examine("folder", root)


@pytest.mark.parametrize("place", ["out", "out/folder", "out/pictures"])
def test_a_file_where_a_folder_is_expected(tmp_path, place):
    root, csv = two_classes(tmp_path / "faces"), write_csv(tmp_path / "csv", small_set())
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("a file")
    name, source = ("fer2013", csv) if place.endswith("pictures") else ("folder", root)
    with pytest.raises(OSError, match=place):
        prepare(name, source, tmp_path / "out")
    assert (tmp_path / place).read_text() == "a file"


UNPACK = "import sys; from qcfer.data.fer2013 import unpack_fer2013; unpack_fer2013(*sys.argv[1:])"


def test_a_killed_unpack_leaves_no_half_set(tmp_path):
    folder, pictures = write_csv(tmp_path / "set", small_set() * 60), tmp_path / "out" / "pictures"
    worker = subprocess.Popen([sys.executable, "-c", UNPACK, folder, tmp_path / "out"])
    deadline = time.monotonic() + 60
    while not any(pictures.rglob("*.png")) and worker.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.kill()
    assert worker.wait(timeout=10) == -signal.SIGKILL
    assert [path for path in pictures.iterdir() if not path.name.startswith(".")] == []
    root = unpack_fer2013(folder, tmp_path / "out")
    assert len(list(root.rglob("*.png"))) == 42 * 60


def test_two_unpack_at_once(tmp_path):
    folder = write_csv(tmp_path / "set", small_set() * 10)
    workers = [subprocess.Popen([sys.executable, "-c", UNPACK, folder, tmp_path / "out"]) for _ in range(2)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    (only,) = (tmp_path / "out" / "pictures").iterdir()
    assert len(list(only.rglob("*.png"))) == 420


# The faces


@pytest.fixture
def some(tmp_path):
    root = tmp_path / "some"
    for name, first in (("happy", 0), ("sad", 3)):
        (root / name).mkdir(parents=True)
        for number in range(first, first + 3):
            Image.fromarray(np.roll(NOISE, number, axis=1)).save(root / name / f"{number}.png")
    return load_manifest("folder", root).sort_values("image", ignore_index=True), root


def test_faces_are_the_pictures_of_the_manifest(some):
    images = FaceImages(*some)
    assert len(images) == 6 and [image.mode for image in images] == ["RGB"] * 6
    for number in range(6):
        np.testing.assert_array_equal(np.asarray(images[number]), np.roll(NOISE, number, axis=1))
    assert images.keys == some[0]["sha256"].tolist()


def test_a_box_is_cut_out_and_named_with_it(some):
    manifest, root = some
    boxes = pd.DataFrame([(1, 2, 5, 4)] * 5 + [(0, 0, 7, 5)], columns=["left", "top", "right", "bottom"])
    images = FaceImages(manifest.join(boxes), root)
    np.testing.assert_array_equal(np.asarray(images[1]), np.roll(NOISE, 1, axis=1)[2:4, 1:5])
    np.testing.assert_array_equal(np.asarray(images[5]), np.roll(NOISE, 5, axis=1))
    assert images.keys[1] == sha256(manifest["sha256"][1], "1,2,5,4")
    assert len(set(images.keys) | set(FaceImages(manifest, root).keys)) == 12
    assert FaceImages(manifest.join(boxes.astype(float)), root).keys == images.keys


def test_the_same_bytes_have_the_same_key_wherever_they_lie(some):
    manifest, root = some
    shutil.move(root / "sad", root / "sadness")
    assert FaceImages(load_manifest("folder", root).sort_values("image"), root).keys == FaceImages(manifest, root).keys


def test_a_changed_picture_is_refused(some):
    manifest, root = some
    images = FaceImages(manifest, root)
    (root / "happy" / "1.png").write_bytes(face(1))
    words = "expected happy/1.png as it was when the manifest was made; found other bytes: run prepare again"
    with pytest.raises(DatasetError, match=words):
        images[1]
    (root / "happy" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match="happy/2.png"):
        images[2]
    assert images[0].size == (7, 5)


def test_a_manifest_cannot_name_what_lies_elsewhere(some, tmp_path):
    manifest, root = some
    (tmp_path / "secret.png").write_bytes((root / "happy" / "0.png").read_bytes())
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(ValueError, match="expected a path"):
            FaceImages(manifest.assign(image=path), root)[0]


# Drawn faces


def test_the_drawn_faces_are_a_set_and_always_the_same(tmp_path):
    some, again = (draw_faces(tmp_path / name, per_class=4, seed=1) for name in ("one", "two"))
    assert content(some) == content(again) != content(draw_faces(tmp_path / "three", per_class=4, seed=2))
    manifest = load_manifest("folder", some)
    assert manifest["label"].value_counts().to_dict() == dict.fromkeys(range(7), 4)
    assert manifest["group"].nunique() == 28


def test_a_drawn_face_has_its_size_and_turns():
    assert draw_face("fear", size=48).size == (48, 48)
    front, turned = (np.asarray(draw_face("fear", yaw).convert("L"), float) for yaw in (0, 60))
    centres = [np.average(np.arange(96), weights=(image < 60).sum(0)) for image in (front, turned)]
    assert abs(centres[0] - 48) < 6 and centres[1] > 56


# FER2013 itself


@pytest.fixture(scope="module")
def prepared(fer2013, tmp_path_factory):
    out = tmp_path_factory.mktemp("fer2013")
    return *prepare("fer2013", fer2013, out), out


def test_fer2013_has_its_published_counts(prepared):
    manifest, _, out = prepared
    assert manifest["usage"].value_counts().to_dict() == {"Training": 28_709, "PublicTest": 3_589}
    counts = manifest.groupby(["usage", "label"]).size().unstack()
    assert counts.loc["Training"].tolist() == [3995, 436, 4097, 7215, 4965, 4830, 3171]
    assert counts.loc["PublicTest"].tolist() == [467, 56, 496, 895, 607, 653, 415]
    assert (out / "fer2013" / "rejected.csv").read_text() == "image,reason\n"


def test_fer2013_is_cut_where_it_should_be(prepared):
    manifest = prepared[0]
    assert set(manifest["usage"][manifest["split"] == "test"]) == {"PublicTest"}
    assert set(manifest["usage"][manifest["split"] != "test"]) == {"Training"}
    train = manifest[manifest["split"] != "test"]
    share = (train["split"] == "val").groupby(train["label"]).mean()
    assert share.between(0.09, 0.11).all()
    assert train.groupby("group")["split"].nunique().max() == 1


def test_fer2013_twins(prepared, fer2013):
    "Every twin in this set is a copy of the whole file, so that its bytes alone give the same answer."
    manifest, root, _ = prepared
    names = {}
    for path in sorted(Path(root).glob("*/*/*.jpg")):
        names.setdefault(hashlib.md5(path.read_bytes()).digest(), []).append(str(path.relative_to(root)))
    twins = [group for group in names.values() if {name.split("/")[0] for name in group} == {"train", "test"}]
    in_train = sorted(name for group in twins for name in group if name.startswith("train/"))
    assert len(in_train) == 351 and sum(map(len, twins)) - 351 == 280
    assert sorted(manifest["image"][manifest["duplicate"]]) == in_train
    assert manifest["group"].nunique() == len(names) == 30_766


def test_fer2013_pictures_are_read_as_pillow_reads_them(prepared):
    manifest, root, _ = prepared
    some = manifest.iloc[::997]
    images = FaceImages(some, root)
    for image, name in zip(images, some["image"], strict=True):
        with Image.open(Path(root) / name) as reference:
            np.testing.assert_array_equal(np.asarray(image), np.repeat(np.asarray(reference)[..., None], 3, axis=2))


def test_fer2013_as_a_csv_gives_the_same_groups(prepared, tmp_path):
    manifest, root, _ = prepared
    some = manifest[~manifest["duplicate"]].groupby(["usage", "label"]).head(15).sort_values("image")
    assert len(some) == 2 * 7 * 15
    rows = [record(CODES_OF_FER2013[r.label], np.asarray(Image.open(Path(root) / r.image)), r.usage) for r in some.itertuples()]
    unpacked, _ = examine("fer2013", locate("fer2013", write_csv(tmp_path / "csv", rows), tmp_path / "out"))
    unpacked = unpacked.iloc[unpacked["image"].str[-9:-4].astype(int).argsort()]
    assert unpacked["group"].tolist() == some["group"].tolist()
    assert unpacked["label"].tolist() == some["label"].tolist() and unpacked["usage"].tolist() == some["usage"].tolist()
