"""Every face from the front, in one frame: whose faces are turned, where they stand then, and what a classifier sees."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from qcfer.core.pictures import PictureList
from qcfer.core.yaw import pose_to_matrix
from qcfer.data.manifest import FaceImages, prepare
from qcfer.frontalize.conditions import Mirror, get_frontalizer
from qcfer.frontalize.geometric import Geometric
from qcfer.frontalize.head import FRAMED, SIZE, Fit, generic_head
from qcfer.frontalize.job import frontalize_in_memory
from qcfer.frontalize.normalized import Normalized, common_frame
from qcfer.run.config import Config
from qcfer.run.study import Study

@pytest.fixture(scope="module")
def normalized():
    return Normalized()


def dotted(pose, scale, shift, shape=(SIZE, SIZE)):
    "A picture of a generic head's landmarks as bright dots, and where they are: pixels, y down."
    points = scale * generic_head().landmarks @ pose_to_matrix(pose)[:2].T * [1, -1] + shift
    picture = np.zeros((shape[1], shape[0]))
    rows, columns = np.round(points[:, ::-1]).astype(int).T
    inside = (rows >= 0) & (rows < shape[1]) & (columns >= 0) & (columns < shape[0])
    picture[rows[inside], columns[inside]] = 1
    picture = np.clip(gaussian_filter(picture, 1.5) * 3000, 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([picture] * 3, -1)), points


def test_whose_faces_are_turned(normalized):
    picture, points = dotted((0, 0, 0), 1150, (112, 90))
    poses = np.array([[0, 0, 0], [5, 0, 0], [-25, 10, 5], [45, 0, 0], [np.nan] * 3])
    _shown, table = frontalize_in_memory(normalized, PictureList([picture] * 5), poses, np.stack([points] * 5))
    assert table["status"].tolist() == ["done"] * 4 + ["kept"] and table["turned"].tolist() == [True] * 4 + [False]
    _, table = frontalize_in_memory(Geometric(), PictureList([picture] * 5), poses, np.stack([points] * 5))
    assert table["turned"].tolist() == [False] * 3 + [True, False]
    _, table = frontalize_in_memory(Mirror(), PictureList([picture] * 5), poses, np.stack([points] * 5))
    assert table["turned"].tolist() == [True] * 4 + [False]
    assert normalized.id.startswith("normalized:") and normalized.id.split(":")[1] == Geometric().id.split(":")[1]


@pytest.mark.parametrize(
    "pose, scale, shift, shape",
    [
        ((0, 0, 0), 1150, (112, 90), (224, 224)),
        ((0, 0, 0), 700, (70, 120), (224, 224)),  # small, aside
        ((0, 0, 20), 1000, (112, 90), (224, 224)),  # aslant
        ((0, 15, 0), 1000, (112, 100), (224, 224)),  # looking up
        ((20, -8, -10), 1000, (112, 90), (224, 224)),
        ((0, 0, 0), 1000, (130, 90), (300, 224)),  # wider than high
        ((10, 5, 5), 600, (60, 80), (140, 210)),
    ],
)
def test_a_face_stands_where_all_stand(normalized, pose, scale, shift, shape):
    "The dots of the outer corners of eyes and mouth are found within six pixels of where those of an upright face are."
    picture, points = dotted(pose, scale, shift, shape)
    view = normalized.frontalize([picture], [""], np.array([pose], float), points[None])[0]
    assert view.size == (SIZE, SIZE)
    rest = generic_head().landmarks
    side = 2 * 0.84 * (rest[17:27, 1].mean() - rest[8, 1])
    middle = (rest[FRAMED, 1].max() + rest[FRAMED, 1].min()) / 2
    places = np.stack([SIZE / 2 + rest[:, 0] / side * SIZE, SIZE / 2 - (rest[:, 1] - middle) / side * SIZE], 1)
    grey = np.asarray(view.convert("L"), float)
    for number in (36, 45, 48, 54):
        column, row = np.round(places[number]).astype(int)
        part = grey[row - 7 : row + 8, column - 7 : column + 8]
        weight = part * (part > part.max() / 2)
        found = np.array([(weight.sum(axis) @ np.arange(-7, 8)) / weight.sum() for axis in (0, 1)])
        assert part.max() > 40 and np.abs(found).max() < 6, (number, found)


def test_the_frame_is_the_same_for_every_pose_and_every_size():
    rest = generic_head().landmarks
    one = common_frame(Fit(pose_to_matrix((0, 0, 0)), 1000, np.zeros(2), rest, rest))
    other = common_frame(Fit(pose_to_matrix((50, 10, -20)), 600, np.ones(2), rest * 1.01, rest), (1, 0.5))
    assert np.array_equal(one, other)
    large = common_frame(Fit(pose_to_matrix((0, 0, 0)), 1000, np.zeros(2), rest * 1.2, rest * 1.2))
    centre = one[1, :, 28, 28], large[1, :, 28, 28]
    spread = [np.ptp(cells[1, 0, 28]) for cells in (one, large)]
    assert spread[1] / spread[0] == pytest.approx(1.2, rel=1e-6) and centre[0] == pytest.approx(centre[1])


def test_on_rendered_people_every_face_comes_nearer_to_its_true_frontal_view(posebench_set, normalized, tmp_path):
    manifest, root = prepare("posebench", posebench_set, tmp_path)
    rows = manifest.index[manifest["yaw"].abs() < 45][:60]
    faces = FaceImages(manifest.loc[rows].reset_index(drop=True), root)
    poses = manifest.loc[rows, ["yaw", "pitch", "roll"]].to_numpy(float)
    landmarks = np.stack(manifest.loc[rows, "landmarks"].to_list()).reshape(-1, 68, 2)
    views = normalized.frontalize(list(faces), [""] * len(rows), poses, landmarks)
    face = np.s_[60:190, 60:164]
    grey = lambda picture: np.asarray(picture.convert("L").resize((SIZE, SIZE)), float)[face]  # noqa: E731
    truth = [grey(Image.open(root / name)) for name in manifest.loc[rows, "frontal"]]
    before, after = (np.array([np.abs(grey(one) - true).mean() for one, true in zip(some, truth)]) for some in (faces, views))
    tilted = np.abs(poses).max(1) > 12
    assert (after < before)[tilted].mean() > 0.9 and after.mean() < 0.75 * before.mean()


def test_a_study_sees_both_views_of_every_face(posebench_set, tmp_path):
    config = Config("posebench", str(posebench_set), pose="annotation", conditions=["normalized+raw", "normalized@auto+raw"])
    study = Study(config, tmp_path)
    raw, seen = study.embedded("raw"), study.see("normalized+raw")
    half = seen[:, : raw.shape[1]] * np.sqrt(2, dtype=np.float32)
    near = (study.manifest["yaw"].abs() < 30).to_numpy()
    assert near.any() and (np.abs(half - raw).max(1) > 1e-3)[near].all()
    assert seen[:, raw.shape[1] :] * np.sqrt(2) == pytest.approx(raw, abs=1e-6)
    gated, accepted = study.see("normalized@auto+raw"), study.accepted("normalized@auto+raw")
    assert np.array_equal(gated[accepted], seen[accepted])
    assert get_frontalizer("normalized").id == study.ids["frontalizer"]
