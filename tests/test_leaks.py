"""Planted leaks: what test faces hold must not reach anything that is fitted, chosen or taught."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from qcfer.cli import main
from qcfer.core.files import SUMS, file_sha256
from qcfer.core.labels import CLASSES
from qcfer.data.manifest import prepare
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run

QUICK = {"candidates": "LR"}


def coarse(path, rng):
    "A picture with a pattern of its own, as photographs have."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "Seven classes in official splits, no two pictures alike."
    folder, rng = tmp_path_factory.mktemp("pictures") / "set", np.random.default_rng(0)
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        for label in CLASSES:
            for number in numbers:
                coarse(folder / split / label / f"{number:04d}.png", rng)
    return folder


def plant_picture(folder):
    shutil.copy(folder / "test/fear/0009.png", folder / "train/fear/leak.png")


def plant_near_copy(folder):
    Image.open(folder / "test/fear/0009.png").resize((60, 60)).save(folder / "train/fear/leak.jpg", quality=70)


def plant_person(folder):
    "The same person on both sides, in other pictures; everybody else is on one."
    coarse(folder / "train/fear/leak.png", np.random.default_rng(1))
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*.*g"))]
    who = {"leak": "s0009"}
    rows = [f"{path.as_posix()},{path.parts[1]},{path.parts[0]},{who.get(path.stem, f's{path.stem}')}" for path in found]
    (folder / "faces.csv").write_text("\n".join(["image,label,split,subject", *rows]))


@pytest.mark.parametrize("plant", [plant_picture, plant_near_copy, plant_person])
def test_a_run_leaves_a_planted_copy_out_of_training_and_says_so(pictures, tmp_path, capsys, plant):
    shutil.copytree(pictures, tmp_path / "set")
    plant(tmp_path / "set")
    options = ["--root", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--pose", "none"]
    options += ["--set", "esv.candidates=LR", "--set", "ladders=[]"]
    main(["train", "folder", *options])
    said = capsys.readouterr().out
    assert "1 train or val rows stand in test as well, to the byte or nearly: left out of training" in said
    [path] = (tmp_path / "out" / "folder").glob("*/run.json")
    counts = json.loads(path.read_text())["counts"]
    assert counts["duplicates"]["fear"] == 1 == sum(counts["duplicates"].values())
    assert sum(sum(counts[split].values()) for split in ("train", "val")) == 56


@pytest.fixture(scope="module")
def other_test(posebench_set, tmp_path_factory):
    "The same PoseBench with other test faces: mirrored, dimmed, their frontal views too, and with labels at random."
    folder = tmp_path_factory.mktemp("other") / "set"
    shutil.copytree(posebench_set, folder)
    for sums in folder.rglob(SUMS):
        sums.unlink()
    table = pd.read_parquet(folder / "posebench.parquet")
    test = table["split"] == "test"
    for name in sorted({*table.loc[test, "image"], *table.loc[test, "frontal"]}):
        with Image.open(folder / name) as image:
            changed = ImageOps.mirror(image.convert("RGB")).point(lambda value: value // 2)
        changed.save(folder / name, quality=90)
    table.loc[test, "frontal_sha256"] = [file_sha256(folder / name) for name in table.loc[test, "frontal"]]
    table.loc[test, "label"] = np.random.default_rng(0).permutation(table.loc[test, "label"])
    table.loc[test, "yaw"] = -table.loc[test, "yaw"]
    table.to_parquet(folder / "posebench.parquet")
    return folder


def learned(run):
    "All that a run has fitted or chosen."
    record = run.record
    voters = [{key: row[key] for key in ("name", "accuracy", "selected", "weight") if key in row} for row in record["esv"]["candidates"]]
    rows = run.predictions.query("split == 'val'").sort_values(["condition", "image"])
    return {
        "voters": voters,
        "components": (record["afp"]["n_components"], record["afp"]["cumulative_variance"]),
        "temperatures": {name: part["calibration"]["temperature"] for name, part in record["conditions"].items()},
        "thresholds": {name: part["gate"]["thresholds"] for name, part in record["conditions"].items() if "gate" in part},
        "val": rows[["condition", "image", *(f"p_{name}" for name in CLASSES)]].to_numpy().tolist(),
    }


@pytest.fixture(scope="module")
def outs(tmp_path_factory):
    return [tmp_path_factory.mktemp(name) for name in ("one", "other")]


@pytest.mark.parametrize("ensemble", [{"esv": QUICK}, {}], ids=["the paper's", "searched"])
def test_nothing_that_is_fitted_or_chosen_depends_on_test_faces(posebench_set, other_test, outs, ensemble):
    "Scaler, components, voters, weights, temperature and the gate's thresholds; a scaler that had seen a test face would move."
    common = {"pose": "annotation", "conditions": ["normalized@auto+raw"], "ladders": []} | ensemble
    runs = [make_run(Config("posebench", str(root), **common), out) for root, out in zip((posebench_set, other_test), outs)]
    one, other = (learned(run) for run in runs)
    assert one["thresholds"] and one["temperatures"] and len(one["val"]) > 50
    assert one == other
    accuracies = [run.metrics["test"]["accuracy"]["value"] for run in runs]
    assert accuracies[0] != accuracies[1]  # the test faces are others indeed


def test_no_frontalizer_is_taught_by_test_faces(posebench_set, other_test, tmp_path):
    "What the teachers are is all that `repaired` and `refined` learn from."
    from qcfer.run.config import make_config
    from qcfer.run.study import Study

    def teachers(root, out):
        study = Study(make_config("posebench", root=str(root), pose="annotation"), out)
        rows = study.manifest.set_index("sha256")
        return study.teachers, rows

    one, rows = teachers(posebench_set, tmp_path / "a")
    other, _ = teachers(other_test, tmp_path / "b")
    assert one.images.keys == other.images.keys and len(one.images.keys) > 20
    assert set(rows.loc[one.images.keys, "split"]) == {"train"}
    assert not {*one.people} & {*rows.loc[rows["split"] == "test", "group"]}


def test_a_val_face_that_nearly_stands_in_test_does_not_choose(pictures, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(pictures, folder)
    for label in CLASSES:
        for number in (0, 1):
            (folder / "val" / label).mkdir(parents=True, exist_ok=True)
            shutil.move(folder / f"train/{label}/{number:04d}.png", folder / "val" / label)
    Image.open(folder / "test/anger/0008.png").resize((60, 60)).save(folder / "val/anger/leak.jpg", quality=70)
    manifest, _ = prepare("folder", folder, tmp_path / "out", deep=True)
    assert manifest["image"][manifest["duplicate"]].tolist() == ["val/anger/leak.jpg"]
    assert manifest.set_index("image").loc["val/anger/leak.jpg", "split"] == "val"
