"""The Hugging Face door, offline: sets saved locally by the library itself."""

import io
import os

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from qcfer.data.label_files import DatasetError
from qcfer.data.manifest import FaceImages, load_manifest, locate, prepare, survey

datasets = pytest.importorskip("datasets")
NAMES = ["anger", "disgust", "Fear", "happy", "neutral", "sad", "surprise", "contempt"]
CODES = [0, 1, 2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def picture(number):
    return Image.new("RGB", (6, 6), (number % 256, number // 256, 7))


def png(number):
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def rows(per_class=6, first=0, extra=()):
    "(picture number, code) of a set, class by class; `extra` adds further codes."
    codes = [code for code in range(7) for _ in range(per_class)] + list(extra)
    return [(first + place, code) for place, code in enumerate(codes)]


def table(items, words=False):
    kind = datasets.Value("string") if words else datasets.ClassLabel(names=NAMES)
    features = datasets.Features({"id": datasets.Value("int64"), "image": datasets.Image(), "label": kind})
    labels = [NAMES[code] if words else code for _, code in items]
    columns = {"id": [number for number, _ in items], "image": [picture(number) for number, _ in items], "label": labels}
    return datasets.Dataset.from_dict(columns, features=features)


def shown(manifest, root):
    "{picture number: label} as the faces themselves tell it."
    reds = [image.getpixel((0, 0)) for image in FaceImages(manifest, root)]
    return dict(zip([red + 256 * green for red, green, _ in reds], manifest["label"]))


def test_a_saved_set_is_read(tmp_path):
    table(rows(extra=[7, 7])).save_to_disk(tmp_path / "set")
    manifest, root = prepare("hf", tmp_path / "set", tmp_path / "out")
    assert shown(manifest, root) == dict(rows())
    assert set(manifest["split"]) == {"train", "val", "test"}
    counts = pd.read_csv(tmp_path / "out/hf/counts.csv").set_index("class")
    assert counts.loc["left out: contempt", "found"] == 2 and counts.loc["fear", "found"] == 6


def test_the_splits_of_a_saved_set_are_kept(tmp_path):
    parts = {"train": table(rows(5)), "validation": table(rows(2, 100)), "test": table(rows(2, 200))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    manifest = load_manifest("hf", tmp_path / "set", out=tmp_path / "out")
    assert manifest["split"].value_counts().to_dict() == {"train": 35, "val": 14, "test": 14}


@pytest.mark.parametrize("names", [("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"), ("train.parquet", "test.parquet")])
@pytest.mark.parametrize("inner", ["", "data"])
@pytest.mark.parametrize("words", [False, True])
def test_parquet_files_are_read(tmp_path, names, inner, words):
    folder = tmp_path / "set" / inner
    folder.mkdir(parents=True)
    table(rows(5), words).to_parquet(folder / names[0])
    table(rows(2, 200), words).to_parquet(folder / names[1])
    manifest, root = prepare("hf", tmp_path / "set", tmp_path / "out")
    assert shown(manifest, root) == dict(rows(5) + rows(2, 200))
    assert (manifest["split"] == "test").sum() == 14


def test_a_set_is_unpacked_once(tmp_path):
    table(rows()).save_to_disk(tmp_path / "set")
    first = locate("hf", tmp_path / "set", tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert locate("hf", tmp_path / "set", tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == stamps


@pytest.mark.parametrize("swap", [(one, other) for one in CODES for other in CODES if one < other])
def test_two_exchanged_names_are_exchanged_classes(tmp_path, swap):
    names = list(NAMES)
    names[swap[0]], names[swap[1]] = names[swap[1]], names[swap[0]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    items = rows(3)
    columns = {"image": [picture(number) for number, _ in items], "label": [code for _, code in items]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "set")
    manifest, root = prepare("hf", tmp_path / "set", tmp_path / "out")
    assert shown(manifest, root) == {number: dict([swap, swap[::-1]]).get(code, code) for number, code in items}


def test_paths_and_damaged_bytes_are_rejected_and_never_opened(tmp_path):
    (tmp_path / "set").mkdir()
    picture(999).save(tmp_path / "secret.png")
    odd = [
        {"bytes": None, "path": str(tmp_path / "secret.png")},
        {"bytes": None, "path": "../secret.png"},
        {"bytes": png(900)[:-30], "path": None},
        {"bytes": b"<html>", "path": "a.png"},
        None,
    ]
    items = rows()
    images = [{"bytes": png(number), "path": None} for number, _ in items] + odd
    schema = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}).arrow_schema
    columns = {"image": images, "label": [code for _, code in items] + [3] * 5}
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), tmp_path / "set" / "train.parquet")
    manifest, rejected, _ = survey("hf", locate("hf", tmp_path / "set", tmp_path / "out"))
    assert len(manifest) == 42 and len(rejected) == 5
    reasons = rejected["reason"].str.partition(":")[0].value_counts().to_dict()
    assert reasons.pop("the row holds no bytes of a picture") == 3
    assert sum(reasons.values()) == 2


def save(features, columns, folder):
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(folder)


IMAGES = [picture(number) for number in range(3)]


@pytest.mark.parametrize(
    "features, columns, words",
    [
        (
            {"label": datasets.ClassLabel(names=NAMES)},
            {"label": [0, 1, 2]},
            "one column of pictures and one of named classes; found .* label$",
        ),
        ({"image": datasets.Image()}, {"image": IMAGES}, "found the columns image"),
        (
            {"image": datasets.Image(), "label": datasets.Value("int64")},
            {"image": IMAGES, "label": [0, 1, 2]},
            "one of named classes; found the columns image, label",
        ),
        (
            {"image": datasets.Image(), "other": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)},
            {"image": IMAGES, "other": IMAGES, "label": [0, 1, 2]},
            "found the columns image, other, label",
        ),
        (
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1", "<b>"])},
            {"image": IMAGES, "label": [0, 1, 2]},
            "expected class names such as anger, .*; found 0, 1, <b>",
        ),
    ],
)
def test_columns_that_tell_nothing_stop(tmp_path, features, columns, words):
    save(features, columns, tmp_path / "set")
    with pytest.raises(DatasetError, match=words):
        load_manifest("hf", tmp_path / "set", out=tmp_path / "out")
    assert not any(path.is_dir() for path in (tmp_path / "out").glob("pictures/*"))


def test_unknown_splits_stop(tmp_path):
    datasets.DatasetDict({"train": table(rows(3)), "extra": table(rows(3, 100))}).save_to_disk(tmp_path / "set")
    with pytest.raises(DatasetError, match="expected splits out of train, validation, test; found train, extra"):
        load_manifest("hf", tmp_path / "set", out=tmp_path / "out")


@pytest.mark.parametrize("damage", ["dataset_info.json", "state.json", "parquet"])
def test_a_damaged_set_is_told_in_one_line(tmp_path, damage):
    if damage == "parquet":
        (tmp_path / "set").mkdir()
        (tmp_path / "set/train.parquet").write_bytes(b"PAR1" + os.urandom(100) + b"PAR1")
    else:
        table(rows(1)).save_to_disk(tmp_path / "set")
        (tmp_path / "set" / damage).write_text("{")
    with pytest.raises(DatasetError, match="expected a set that the package datasets can read at .*; found") as error:
        load_manifest("hf", tmp_path / "set", out=tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_name_on_the_hub_that_cannot_be_reached(tmp_path):
    with pytest.raises(DatasetError, match="expected a set that the package datasets can read at hf:nobody/nothing; found"):
        load_manifest("hf", "hf:nobody/nothing", out=tmp_path / "out")


def test_a_folder_without_a_set(tmp_path):
    with pytest.raises(DatasetError, match="expected a folder that save_to_disk wrote, or Parquet files .*; found nothing"):
        empty = tmp_path / "around" / "empty"  # sets are looked for one level up as well
        empty.mkdir(parents=True)
        locate("hf", empty, tmp_path / "out")


def test_numbers_of_pictures_are_kept_apart(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 5, 3), dtype=np.uint8)
    items = [(Image.fromarray(noise[code, copy]), code) for code in CODES for copy in range(3)]
    columns = {"image": [image for image, _ in items], "label": [code for _, code in items]}
    save({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}, columns, tmp_path / "set")
    manifest, root = prepare("hf", tmp_path / "set", tmp_path / "out")
    for image, label in zip(FaceImages(manifest, root), manifest["label"]):
        assert any((np.asarray(image) == noise[label, copy]).all() for copy in range(3))
