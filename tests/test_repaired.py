"""The repair that the set's own faces teach: who teaches, that it goes on where it stopped, and that what was learned is kept."""
import os
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from qcfer.core.files import WeightsError
from qcfer.core.pictures import PictureList
from qcfer.embed.base import Embedder
from qcfer.face.tddfa import TDDFA
from qcfer.frontalize import repaired
from qcfer.frontalize.repaired import FEWEST, MOST, Repaired, Teachers
from qcfer.run.config import make_config
from qcfer.run.study import Study

READY = find_spec("anny") and os.environ.get("QCFER_WEIGHTS")
needs = pytest.mark.skipif(not READY, reason="anny or the folder with 3DDFA-V2's weights (QCFER_WEIGHTS) is not there")


class Blocks(Embedder):
    "Means of 16 x 16 pixels: an embedder that costs nothing, and may be stopped."

    id, dim = "blocks 16", 14 * 14
    calls, last = 0, np.inf

    def preprocess(self, image):
        return np.asarray(image.convert("L").resize((224, 224)), np.float32).reshape(14, 16, 14, 16).mean((1, 3)).ravel() - 100

    def forward(self, batch):
        self.calls += 1
        if self.calls > self.last:
            raise KeyboardInterrupt
        return (batch / np.linalg.norm(batch, axis=1, keepdims=True)).astype(np.float32)


def crowd(yaw, out, landmarks=True):
    rng = np.random.default_rng(0)
    pictures = PictureList(Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)) for _ in yaw)
    points = rng.uniform(0, 4, (len(yaw), 68, 2)) if landmarks else np.full((len(yaw), 68, 2), np.nan)
    return Teachers(pictures, np.stack([yaw, 0 * yaw, 0 * yaw], 1), points, np.arange(len(yaw)), out)


def test_who_looks_at_the_camera_teaches(tmp_path):
    yaw = np.r_[np.full(FEWEST, -11.9), 12.1, -40, np.nan]
    near = crowd(yaw, tmp_path).near()
    assert len(near.images) == len(near.people) == FEWEST
    np.testing.assert_allclose(near.poses[:, 0], -11.9)


def test_a_picture_that_is_there_twice_teaches_once(tmp_path):
    once = crowd(np.zeros(FEWEST), tmp_path)
    twice = Teachers(once.images.subset([*range(FEWEST)] * 2), *(np.concatenate([part] * 2) for part in once[1:4]), tmp_path)
    assert twice.near().images.keys == once.images.keys


def test_of_very_many_some_teach_the_same_in_any_order(tmp_path):
    many = crowd(np.zeros(MOST + 20), tmp_path)
    near = many.near()
    assert len(near.images) == MOST
    order = np.random.default_rng(1).permutation(MOST + 20)
    mixed = Teachers(many.images.subset(order), *(part[order] for part in many[1:4]), tmp_path).near()
    assert sorted(mixed.images.keys) == sorted(near.images.keys)


@pytest.mark.parametrize("crowded", [(np.zeros(FEWEST - 1), True), (np.full(200, 30.0), True), (np.zeros(200), False)])
def test_too_few_are_refused_in_one_line(crowded, tmp_path):
    with pytest.raises(ValueError, match=f"^expected {FEWEST} training faces or more within 12 degrees, .*; found [0-9]+: leave .*$"):
        crowd(*crowded[:1], tmp_path, crowded[1]).near()


@pytest.fixture(scope="module")
def study(posebench_set, tmp_path_factory):
    return Study(make_config("posebench", root=str(posebench_set), pose="3ddfa_v2"), tmp_path_factory.mktemp("study"))


@pytest.fixture
def teachers(study, tmp_path, monkeypatch):
    monkeypatch.setattr(repaired, "FEWEST", 10)
    near = study.teachers.near()
    rows = np.arange(min(24, len(near.images)))
    return Teachers(near.images.subset(rows), near.poses[rows], near.landmarks[rows], near.people[rows], tmp_path)


def pictures(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}


@needs
class TestTaught:
    def test_training_faces_alone_teach(self, study):
        train = study.manifest[(study.manifest["split"] == "train") & ~study.manifest["duplicate"]]
        assert study.teachers.images.keys == train["sha256"].tolist() and set(study.teachers.people) == set(train["group"])

    def test_it_goes_on_where_it_stopped_and_ends_as_if_it_had_not(self, teachers, tmp_path):
        whole = Repaired(Blocks(), teachers._replace(out=tmp_path / "whole"), TDDFA())
        stopped = Blocks()
        stopped.last = 1
        with pytest.raises(KeyboardInterrupt):
            Repaired(stopped, teachers, TDDFA())
        before = pictures(tmp_path / "cache")
        assert before
        again = Blocks()
        kept = {}
        again.forward = lambda batch: kept.update(pictures(tmp_path / "cache")) or Blocks.forward(again, batch)
        found = Repaired(again, teachers, TDDFA())
        assert found.id == whole.id and before.items() <= kept.items()
        assert not pictures(tmp_path / "cache")

    def test_what_was_learned_is_kept_and_a_changed_file_is_named(self, teachers, tmp_path):
        first, idle = Repaired(Blocks(), teachers, TDDFA()), Blocks()
        assert Repaired(idle, teachers, TDDFA()).id == first.id and idle.calls == 0
        assert 24 >= first.told["pairs"] > 10 and -1 <= first.told["geometric"] <= 1
        (path,) = (tmp_path / "cache" / "repaired").glob("*.npz")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(WeightsError, match=path.name):
            Repaired(Blocks(), teachers, TDDFA())

    def test_the_id_names_who_taught(self, teachers):
        fewer = Teachers(teachers.images.subset(range(20)), *(part[:20] for part in teachers[1:4]), teachers.out)
        assert Repaired(Blocks(), fewer, TDDFA()).id != Repaired(Blocks(), teachers, TDDFA()).id

    def test_examples_are_training_faces_in_the_repaired_embedding(self, teachers):
        repair = Repaired(Blocks(), teachers, TDDFA())
        keys, raw, seen, mended = repair.examples()
        assert set(keys) <= set(teachers.images.keys) and len(keys) == len(set(keys)) > 10
        assert raw.shape == seen.shape == mended.shape == (len(keys), 196)
        np.testing.assert_allclose(np.linalg.norm(mended, axis=1), 1, atol=1e-5)

    def test_only_turned_faces_change(self, teachers):
        rng = np.random.default_rng(0)
        raw, seen = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 4, 196)).astype(np.float32))
        seen[3] = raw[3]
        poses = np.array([[10.0, 0, 0], [50, 0, 0], [np.nan] * 3, [60, 0, 0]])
        after = Repaired(Blocks(), teachers, TDDFA()).refine(raw, seen, poses)
        assert np.array_equal(after != raw, np.repeat([[False], [True], [False], [False]], 196, 1))


@needs
def test_a_study_sees_it_as_any_condition(posebench_set, tmp_path, monkeypatch):
    monkeypatch.setattr(repaired, "FEWEST", 10)
    study = Study(make_config("posebench", root=str(posebench_set), pose="3ddfa_v2", conditions=["repaired", "repaired+raw"]), tmp_path)
    seen, raw = study.see("repaired"), study.see("raw")
    turned = np.abs(study.poses[:, 0]) > 30
    assert (seen != raw).any(1).tolist() == turned.tolist() and study.painted == []
    assert study.see("repaired+raw").shape == (len(raw), 2 * raw.shape[1])
    assert study.ids["frontalizers"]["repaired"].startswith("repaired:")
