"""The tight set: the same faces and the same truth as the loose one, cropped, aligned and occluded, and it survives being stopped."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qcfer.core.files import sha256
from qcfer.core.yaw import pose_to_matrix
from qcfer.data.label_files import DatasetError
from qcfer.data.manifest import FaceImages, load_manifest
from qcfer.posebench.generate import MANIFEST
from qcfer.posebench.occluders import OCCLUDERS, occlude
from qcfer.posebench.tight import SHARES, TIGHT_SIDE, align, crop, moved, tighten, turned_pose
from qcfer.run.config import Config
from qcfer.run.study import find_root

def points(table, column="landmarks"):
    return np.stack(table[column].to_list()).reshape(-1, 68, 2)


@pytest.fixture(scope="module")
def tight(posebench_set, tmp_path_factory):
    "The folder, its table, and that of the loose set."
    folder = tighten(posebench_set, tmp_path_factory.mktemp("tight") / "set")
    return folder, pd.read_parquet(folder / MANIFEST), pd.read_parquet(posebench_set / MANIFEST)


def test_who_is_who_stays(tight):
    _, made, given = tight
    kept = ["image", "frontal", "label", "split", "group", "variant", "intensity"]
    pd.testing.assert_frame_equal(made[kept], given[kept])
    shares = made["occluder"].value_counts(normalize=True)
    assert set(shares.index) <= set(SHARES) and sum(SHARES.values()) == pytest.approx(1)
    assert shares["none"] == pytest.approx(SHARES["none"], abs=3 * np.sqrt(0.21 / len(made)))


def test_eyes_are_level_and_the_face_fills_the_frame(tight):
    _, made, given = tight
    for column, faces in (("landmarks", made[given["yaw"].abs() < 30]), ("frontal_landmarks", made)):
        eyes = points(faces, column)[:, 36:48].reshape(-1, 2, 6, 2).mean(2)
        across, down = (eyes[:, 1] - eyes[:, 0]).T
        assert np.abs(np.degrees(np.arctan2(down, across))).mean() < 3.5
        assert eyes[..., 1].mean() / TIGHT_SIDE == pytest.approx(0.36, abs=0.03)
        assert points(faces, column)[:, 48:60, 1].mean() / TIGHT_SIDE == pytest.approx(0.78, abs=0.03)
    outside = ((points(made) < 0) | (points(made) > TIGHT_SIDE)).any(2).mean()
    assert 0.03 < outside < 0.15


def test_the_pose_is_that_of_the_crop(tight):
    "Heads that were tilted stand upright, and what was turned in the picture is turned in the pose."
    _, made, given = tight
    near = given["yaw"].abs() < 15
    assert made["roll"][near].std() < 0.7 * given["roll"][near].std()
    assert (made["yaw"] - given["yaw"]).abs().max() < 12
    head = np.random.default_rng(0).normal(size=(68, 3))
    pose = np.array([60.0, 10, -15])
    before, rng = (head @ pose_to_matrix(pose).T)[:, :2] * [1, -1], np.random.default_rng(1)
    matrix = align(before, rng)
    after = (head @ pose_to_matrix(turned_pose(pose, matrix)).T)[:, :2] * [1, -1]
    np.testing.assert_allclose(moved(before, matrix), after * np.hypot(*matrix[:, 0]) + matrix[:, 2], atol=1e-9)


def test_landmarks_move_with_the_pixels():
    "A bright dot at a landmark is where the moved landmark says."
    rng = np.random.default_rng(2)
    for _ in range(5):
        landmarks = rng.normal(112, 4, (68, 2))
        landmarks[36:42], landmarks[42:48], landmarks[48:60] = (80, 90) + rng.normal(0, 8, 2), (140, 95), (112, 150)
        pixels = np.zeros((224, 224, 3), np.uint8)
        column, row = landmarks[36].astype(int)
        pixels[row - 1 : row + 2, column - 1 : column + 2] = 255
        matrix = align(landmarks, rng)
        seen = np.asarray(crop(Image.fromarray(pixels), matrix), float)[..., 0]
        places = np.stack(np.meshgrid(*[np.arange(TIGHT_SIDE) + 0.5] * 2), -1)
        middle = (places * seen[..., None]).sum((0, 1)) / seen.sum()
        np.testing.assert_allclose(middle, moved(np.array([column + 0.5, row + 0.5]), matrix), atol=0.15)


def test_beyond_the_picture_its_edge_goes_on():
    grey = crop(Image.new("RGB", (224, 224), (90, 120, 60)), np.array([[0.3, 0, 40], [0, 0.3, -30.0]]))
    assert np.abs(np.asarray(grey, int) - (90, 120, 60)).max() <= 1


def test_the_twin_has_no_occluder(tight, posebench_set):
    "Only the faces are occluded: two pictures of one name are equal but for what is before the face."
    _folder, made, given = tight
    assert made["frontal_sha256"].nunique() == given["frontal_sha256"].nunique()
    for name in OCCLUDERS:
        row = given.iloc[0]
        picture, marks = Image.open(posebench_set / row["frontal"]).convert("RGB"), np.reshape(row["frontal_landmarks"], (68, 2))
        changed = np.abs(np.asarray(occlude(picture, marks, name, np.random.default_rng(0)), int) - np.asarray(picture, int)).max(2) > 10
        assert 0.003 < changed.mean() < 0.5, name


def test_a_hand_has_the_colour_of_the_skin():
    "A green profile that looks to the right, before a blue background: no hand is blue."
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[:, :140, 1], pixels[:, 140:, 2] = 180, 180
    marks = np.full((68, 2), 138.0)
    marks[:, 1] = np.linspace(60, 180, 68)
    marks[:17, 0], marks[3], marks[36:48] = np.linspace(60, 130, 17), (70, 130), (128, 90)
    marks[27:36, 0], marks[48:60] = 142, (132, 150)
    hands = [occlude(Image.fromarray(pixels), marks, "hand", np.random.default_rng(seed)) for seed in range(8)]
    covered = np.stack([np.asarray(hand) for hand in hands])
    assert (covered[:, :, :130, 2] < 60).all() and (covered[:, :, 150:, 1] > 100).any()


def test_it_goes_on_where_it_stopped(tight, posebench_set, tmp_path):
    folder, made, _ = tight
    copy = shutil.copytree(folder, tmp_path / "copy")
    for lost in (MANIFEST, "s002/faces.parquet", "s002/fear-1.jpg"):
        (copy / lost).unlink()
    untouched = (copy / "s001/fear-1.jpg").stat().st_mtime_ns
    tighten(posebench_set, copy)
    pd.testing.assert_frame_equal(pd.read_parquet(copy / MANIFEST), made)
    assert (copy / "s001/fear-1.jpg").stat().st_mtime_ns == untouched
    assert all(sha256((copy / row.image).read_bytes()) == row.sha256 for row in made.itertuples())
    picture = copy / "s003/fear-1.jpg"
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match="found 1 files changed, such as .*s003/fear-1.jpg: render it again"):
        load_manifest("posebench_tight", copy)
    tighten(posebench_set, copy)
    assert len(load_manifest("posebench_tight", copy)) == len(made)
    assert (copy / "s001/fear-1.jpg").stat().st_mtime_ns == untouched
    with pytest.raises(ValueError, match="found others: choose another folder"):
        tighten(posebench_set, copy, seed=1)
    with pytest.raises(ValueError, match="expected an empty folder"):
        tighten(posebench_set, posebench_set)


def test_it_is_a_set_of_its_own(tight, posebench_set):
    folder, made, _ = tight
    manifest = load_manifest("posebench_tight", folder)
    pd.testing.assert_series_equal(manifest["occluder"], made["occluder"])
    views = FaceImages(manifest.assign(image=manifest["frontal"], sha256=manifest["frontal_sha256"]), folder)
    assert views[0].size == (TIGHT_SIDE, TIGHT_SIDE)
    with pytest.raises(DatasetError, match="found none named occluder"):
        load_manifest("posebench_tight", posebench_set)


def test_it_is_made_where_there_is_none(posebench_set, tmp_path, monkeypatch):
    monkeypatch.setattr("qcfer.posebench.generate.generate", lambda folder: posebench_set)
    root = find_root(Config("posebench_tight"), tmp_path)
    assert root.parent == tmp_path / "cache" / "posebench_tight" and (root / MANIFEST).is_file()
    assert find_root(Config("posebench_tight"), tmp_path) == root
