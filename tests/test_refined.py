"""The learned refinement: it holds for strangers, repeats itself, goes on where it stopped, and nobody of the benchmark teaches it."""

import json
import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import Ridge

from qcfer.core.files import WeightsError
from qcfer.embed.base import Embedder
from qcfer.frontalize import refined
from qcfer.frontalize.refined import PEOPLE_SEED, RIDGES, Refined, Training, learn
from qcfer.posebench import generate as posebench

TOY = Training(people=6, turns=2)
rendered = pytest.mark.skipif(bool(posebench.can_render()), reason="PoseBench cannot be rendered here")


class Blocks(Embedder):
    "Means of 16 x 16 pixels: an embedder that costs nothing."

    id, dim = "blocks 16", 14 * 14

    def preprocess(self, image):
        return np.asarray(image.convert("L"), np.float32).reshape(14, 16, 14, 16).mean((1, 3)).ravel() - 100

    def forward(self, batch):
        return (batch / np.linalg.norm(batch, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    "The people's pictures, rendered once."
    folder = tmp_path_factory.mktemp("refined") / "people"
    refined.render_pairs(folder, TOY)
    return folder


@pytest.fixture
def home(pairs, tmp_path):
    "A folder in which the pictures are there and nothing has been learned."
    work = tmp_path / refined._name(TOY, Blocks(), None, refined.Geometric())
    shutil.copytree(pairs, work)
    return tmp_path


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def linear():
    rng = np.random.default_rng(0)
    evidence, relation, person = rng.normal(size=(120, 8)), rng.normal(size=(8, 5)), np.arange(120) // 6
    return evidence, unit(evidence @ relation + 0.1 * rng.normal(size=(120, 5))), person


def test_weights_are_those_of_scikit_learn(linear):
    evidence, true, _person = linear
    weights, told = learn(*linear)
    np.testing.assert_allclose(weights.T, Ridge(told["ridge"], fit_intercept=False).fit(evidence, true).coef_, atol=1e-6)


def test_strength_and_figure_come_from_people_left_out(linear):
    evidence, true, person = linear
    found = {}
    for ridge in RIDGES:
        guess = np.empty_like(true)
        for fold in range(3):
            out = person % 3 == fold
            guess[out] = Ridge(ridge, fit_intercept=False).fit(evidence[~out], true[~out]).predict(evidence[out])
        found[ridge] = (unit(guess) * true).sum(1).mean()
    told = learn(*linear)[1]
    assert told["ridge"] == max(found, key=found.get)
    assert told["held_out"] == pytest.approx(max(found.values()), abs=1e-5)


def test_what_cannot_be_known_of_strangers_is_not_claimed():
    rng = np.random.default_rng(1)
    person = np.arange(90) // 3
    evidence, true = rng.normal(size=(90, 60)), unit(rng.normal(size=(90, 40)))
    assert abs(learn(evidence, true, person)[1]["held_out"]) < 0.1


@pytest.mark.parametrize("wrong", [{"people": 4}, {"people": 1000}, {"turns": 0}])
def test_training_has_bounds(wrong):
    with pytest.raises(ValueError, match="expected 5 to 999 people"):
        Training(**wrong)


@rendered
def test_a_tiny_training_set_helps_strangers_and_repeats_itself(home, pairs):
    first = Refined(Blocks(), training=TOY, folder=home)
    assert first.told["held_out"] > first.told["geometric"]
    assert not [path for path in home.iterdir() if path.is_dir()]
    (path,) = home.glob("*.npz")
    kept = path.read_bytes()
    path.unlink()
    shutil.copytree(pairs, home / path.stem.split("-")[0])
    again = Refined(Blocks(), training=TOY, folder=home)
    assert again.id == first.id and path.read_bytes() == kept


@rendered
def test_rendering_goes_on_where_it_stopped(pairs, tmp_path):
    work = tmp_path / "people"
    shutil.copytree(pairs, work)
    (work / "p003.npz").unlink()
    untouched = (work / "p002.npz").stat().st_mtime_ns
    refined.render_pairs(work, TOY)
    assert (work / "p002.npz").stat().st_mtime_ns == untouched
    assert (work / "p003.npz").read_bytes() == (pairs / "p003.npz").read_bytes()


@rendered
def test_each_person_is_shown_turned_and_from_the_front(pairs):
    with np.load(pairs / "p000.npz") as stored:
        assert stored["turned"].shape == (14, 224, 224, 3) and stored["front"].shape == (7, 224, 224, 3)
        yaw = np.abs(stored["pose"][:, 0])
        assert ((yaw >= 25) & (yaw <= 90)).all() and stored["landmarks"].shape == (14, 68, 2)


@rendered
def test_nobody_of_the_benchmark_teaches(pairs):
    model = posebench.load_anny()
    head = posebench.load_head(model)
    faces, _ = posebench.subject_heads(model, head, posebench.settings()["subjects"], posebench.settings()["seed"])
    with np.load(pairs / posebench._HEADS) as stored:
        teachers = stored["subjects"]
    assert PEOPLE_SEED != posebench.settings()["seed"] and len(teachers) == TOY.people
    apart = [np.abs(faces - teacher).max((1, 2)).min() for teacher in teachers]
    assert min(apart) > 1e-3  # a millimetre somewhere, to the nearest of the benchmark's people
    again, _ = posebench.subject_heads(model, head, TOY.people, PEOPLE_SEED)
    np.testing.assert_array_equal(again, teachers)


class Tiny(Blocks):
    id, dim = "tiny", 3


def learned(folder):
    "A refinement that was learned before: the geometric view's embedding as it is."
    weights = np.zeros((8, 3), np.float32)
    weights[[3, 4, 5], [0, 1, 2]] = 1
    name = refined._name(Training(), Tiny(), None, refined.Geometric())
    told = np.array(json.dumps({"ridge": 1.0, "held_out": 0.9, "geometric": 0.8}))
    return refined.keep_weights(folder, name, {"weights": weights, "told": told})


@pytest.fixture
def kept(tmp_path):
    return tmp_path, learned(tmp_path)


@pytest.fixture(scope="module")
def refinement(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    learned(folder)
    return Refined(Tiny(), folder=folder)


@pytest.mark.skipif(not find_spec("anny"), reason="anny is not installed: pip install anny")
class TestKept:
    def test_a_changed_file_is_named(self, kept):
        folder, path = kept
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=path.name):
            Refined(Tiny(), folder=folder)

    def test_without_a_renderer_what_was_learned_is_enough(self, kept, monkeypatch):
        folder, path = kept
        monkeypatch.setitem(sys.modules, "pyvista", None)
        assert path.stem in Refined(Tiny(), folder=folder).id
        path.unlink()
        monkeypatch.setattr("importlib.metadata.version", absent)
        with pytest.raises(ImportError, match="pip install 'qcfer\\[posebench\\]'"):
            Refined(Tiny(), folder=folder)

    @settings(max_examples=40, deadline=None)
    @given(arrays(float, (5, 3), elements=strategies.floats(-80, 80)), strategies.permutations(range(5)))
    def test_only_turned_faces_change_each_by_itself(self, refinement, poses, order):
        rng = np.random.default_rng(0)
        raw, seen = unit(rng.normal(size=(5, 3))), unit(rng.normal(size=(5, 3)))
        seen[4] = raw[4]
        poses[3] = np.nan
        after = refinement.refine(raw, seen, poses)
        turned = np.abs(poses[:, 0].astype(np.float32)) > 30
        turned[4] = False
        np.testing.assert_array_equal(after[~turned], raw[~turned])
        np.testing.assert_allclose(after[turned], seen[turned], atol=1e-5)
        np.testing.assert_allclose(refinement.refine(raw[order], seen[order], poses[order]), after[order], atol=1e-6)

    @pytest.mark.parametrize("raw, seen, poses", [("24", "24", "23"), ("23", "13", "23"), ("23", "23", "33"), ("23", "23", "22")])
    def test_rows_that_do_not_fit(self, refinement, raw, seen, poses):
        with pytest.raises(ValueError, match="for each face; found shapes"):
            refinement.refine(*(np.ones([int(side) for side in shape]) for shape in (raw, seen, poses)))

    def test_other_settings_are_other_weights(self):
        geometric = refined.Geometric()
        sorts = (Training(), Tiny(), None), (TOY, Tiny(), None), (Training(), Blocks(), None), (Training(), Tiny(), Blocks())
        names = [refined._name(*sort, geometric) for sort in sorts]
        assert len(set(names)) == 4


def absent(name):
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)
