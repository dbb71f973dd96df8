"""qcfer.evaluate.maps: fair samples, projections that repeat, maps that are kept, and a Ctrl-C that is heard."""

import os
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from qcfer.evaluate import maps
from simulated_worlds import classes

@settings(deadline=None)  # the first example pays for what is done once
@given(st.lists(classes, min_size=1, max_size=200), st.integers(0, 250), st.integers(0, 3))
def test_a_stratified_sample_is_fair(labels, n, seed):
    labels = np.array(labels)
    chosen = maps.stratified_sample(labels, n, seed)
    assert len(chosen) == len(set(chosen)) == min(n, len(labels)) and list(chosen) == sorted(chosen)
    drawn, size = np.bincount(labels[chosen], minlength=7), np.bincount(labels, minlength=7)
    present = size > 0
    assert n < present.sum() or (drawn[present] > 0).all()
    wanted = size * min(1, n / len(labels))
    assert (drawn <= np.ceil(wanted)).all() and (drawn >= np.floor(wanted * (1 - 7 / max(n, 7)))).all()
    np.testing.assert_array_equal(chosen, maps.stratified_sample(labels, n, seed))


def test_other_seeds_draw_other_samples():
    labels = np.repeat([0, 1], 100)
    assert not np.array_equal(maps.stratified_sample(labels, 20, 0), maps.stratified_sample(labels, 20, 1))


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_projections_keep_neighbours_and_repeat_exactly(method):
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(5), 30)
    features = rng.normal(size=(5, 80))[label] * 3 + rng.normal(size=(150, 80))
    points = maps.project(features, method, seed=3)
    assert points.shape == (150, 2) and points.dtype == np.float32 and np.isfinite(points).all()
    np.testing.assert_array_equal(points, maps.project(features, method, seed=3))
    assert silhouette_score(points, label) > 0.5
    assert maps.project(features[:10, :2], method).shape == (10, 2)


@pytest.mark.parametrize(
    ("features", "method", "message"),
    [
        (np.eye(20), "pca", "out of tsne, umap; found 'pca'"),
        (np.eye(9), "tsne", r"10 or more faces, a row each; found shape \(9, 9\)"),
        (np.full((12, 2), np.inf), "umap", "found 24 NaN or infinite among 24"),
        (np.ones((12, 2)), "umap", "found 12 equal rows"),
    ],
)
def test_features_that_cannot_be_projected_are_refused(features, method, message):
    with pytest.raises(ValueError, match=message):
        maps.project(features, method)


FEATURES = np.random.default_rng(1).normal(size=(24, 6)).astype(np.float32)


@pytest.fixture
def drawn(monkeypatch):
    "The methods that were drawn, in order, in place of minutes of work."
    calls = []

    def project(features, method, seed):
        calls.append((method, seed))
        return np.random.default_rng(seed).normal(size=(len(features), 2)).astype(np.float32)

    monkeypatch.setattr(maps, "project", project)
    return calls


def test_a_map_is_drawn_once_for_its_features(drawn, tmp_path):
    first = maps.cached_map(FEATURES, "tsne", 0, tmp_path / "maps")
    np.testing.assert_array_equal(maps.cached_map(FEATURES.copy(), "tsne", 0, tmp_path / "maps"), first)
    assert drawn == [("tsne", 0)] and first.dtype == np.float32
    moved = FEATURES.copy()
    moved[3, 2] += 1e-6
    for other in ((moved, "tsne", 0), (FEATURES, "umap", 0), (FEATURES, "tsne", 1), (FEATURES.reshape(12, 12), "tsne", 0)):
        maps.cached_map(*other, tmp_path / "maps")
    assert len(drawn) == 5 and len(list((tmp_path / "maps").iterdir())) == 5


@pytest.mark.parametrize("name", ["scikit-learn", "umap-learn"])
def test_another_library_draws_another_map(name, drawn, monkeypatch, tmp_path):
    maps.cached_map(FEATURES, "umap", 0, tmp_path)
    monkeypatch.setattr(maps, "version", lambda library: "99" if library == name else version(library))
    maps.cached_map(FEATURES, "umap", 0, tmp_path)
    assert len(drawn) == 2


def _pickled(path):
    np.save(path, np.array([print], object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no map"),
        lambda path: np.save(path, np.full((24, 2), np.nan, np.float32)),
        lambda path: np.save(path, np.zeros((24, 3), np.float32)),
        lambda path: np.save(path, np.zeros((24, 2))),
        _pickled,
        lambda path: path.write_bytes(path.read_bytes()[:-2] + bytes([path.read_bytes()[-2] ^ 1]) + path.read_bytes()[-1:]),
    ],
    ids=["cut short", "empty", "text", "NaN", "three columns", "float64", "pickle", "a bit"],
)
def test_a_damaged_map_is_drawn_again(damage, drawn, tmp_path):
    first = maps.cached_map(FEATURES, "tsne", 0, tmp_path)
    damage(next(tmp_path.iterdir()))
    for _ in range(2):
        np.testing.assert_array_equal(maps.cached_map(FEATURES, "tsne", 0, tmp_path), first)
    assert len(drawn) == 2 and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_drawn_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="found 24 equal rows"):
        maps.cached_map(np.ones((24, 6)), "tsne", 0, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


_INTERRUPTED = """
import os, signal
import numpy as np
from numba.core.codegen import JITCodeLibrary
from qcfer.evaluate.maps import project

done = JITCodeLibrary._object_compiled_hook
calls = []

def compiled(cls, *told):  # of each function that is compiled numba tells here: an exception is printed and lost
    calls.append(told)
    if LATE:
        done(*told)
    if len(calls) == 5:
        print("interrupted", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
    if not LATE:
        done(*told)

JITCodeLibrary._object_compiled_hook = classmethod(compiled)
project(np.random.default_rng(0).normal(size=(40, 5)), "umap")
print("drawn")
"""


@pytest.mark.parametrize("late", [False, True])
def test_ctrl_c_while_umap_compiles_ends_the_run(late, tmp_path):
    "Early, numba misses a function that it was to be told of, and fails; late, it misses nothing and would go on."
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", f"LATE = {late}\n{_INTERRUPTED}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "interrupted\n"
        interrupted = time.monotonic()
        said, errors = process.communicate(timeout=300)
    assert process.returncode not in (0, None) and said == "", errors
    assert errors.strip().endswith("KeyboardInterrupt") and "Exception ignored" not in errors
    assert time.monotonic() - interrupted < 10
