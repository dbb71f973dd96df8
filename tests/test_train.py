"""Training: the same numbers as plain estimators, nothing from the test set, nothing twice, nothing lost."""
import hashlib
import itertools
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit

import qcfer
from qcfer.classify import train
from qcfer.classify.afp import AFP
from qcfer.classify.esv import ESV, KernelSVC
from qcfer.classify.ladders import LADDERS, ONE_LR, choices_ladder
from qcfer.classify.train import (
    AS_SELECTED,
    Method,
    Rung,
    _predict_ms,
    _publish,
    array_hash,
    can_be_fitted,
    facts_of,
    fit_methods,
    make_estimator,
    parameter_count,
    prediction_rows,
    rung_key,
    val_fold,
)
from qcfer.core.labels import PROBABILITIES
from qcfer.evaluate.scores import ladder as score_ladder

LR = Method(esv={"candidates": ["LR C=0.1", "LR C=10"]})


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "user-cache"))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    label = rng.integers(0, 7, 900)
    features = (np.eye(7)[label] @ rng.normal(size=(7, 30)) + 2 * rng.normal(size=(900, 30))).astype(np.float32)
    faces = pd.DataFrame({"image": [f"{i}.png" for i in range(900)], "label": label, "group": [f"g{i // 2}" for i in range(900)]})
    faces["sha256"] = [f"{i:064x}" for i in range(900)]
    return features, faces.assign(split=np.repeat(["train", "val", "test"], [500, 160, 240]))


def fit(methods, data, out, **options):
    features, faces = data
    return fit_methods(methods, lambda condition, embedder: features, faces, out, **options)


def test_a_rung_is_what_the_plain_estimator_says(data, tmp_path):
    features, faces = data
    rung = fit([LR], data, tmp_path, keep_models=True)[0]
    known, fold = (faces["split"] != "test").to_numpy(), np.repeat([-1, 0], [500, 160])
    plain = ESV(AFP(random_state=0), **LR.esv, cv=PredefinedSplit(fold), random_state=0)
    plain.fit(features[known], faces["label"][known], groups=faces["group"][known])
    test = rung.predictions.query("split == 'test'")
    assert test["image"].tolist() == faces["image"][~known].tolist()
    np.testing.assert_allclose(test[PROBABILITIES], plain.predict_proba(features[~known]), atol=1e-6)
    assert rung.facts["members"] == [row["name"] for row in plain.candidates_ if row["selected"]]
    assert rung.model.is_file() and rung.facts["n_components"] == 30


def test_the_yardstick_is_one_kernel_machine(data, tmp_path):
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    features, faces = data
    method = LADDERS["reference"].methods(Method())["reference: SVC"]
    rows = fit([method], data, tmp_path)[0].predictions
    known = (faces["split"] != "test").to_numpy()
    plain = make_pipeline(AFP(normalize=False, scaling="standard"), SVC(C=5, break_ties=True)).fit(features[known], faces["label"][known])
    assert (rows["predicted"] == plain.predict(features[~known])).mean() > 0.99
    assert rows[PROBABILITIES].isna().all(axis=None)


def test_the_yardstick_has_the_penalty_that_its_name_says():
    whole, plain = (make_estimator(Method(afp=afp, esv=None), np.zeros(0)) for afp in ({}, None))
    assert [type(step) for _, step in whole.steps] == [AFP, KernelSVC] and type(plain) is KernelSVC
    assert whole[-1].C == plain.C == 5 and facts_of(plain.fit(np.eye(4), [0, 0, 1, 1]))["members"] == ["SVC C=5"]


def test_the_test_set_has_no_say(data, tmp_path):
    "Other test faces with other labels: the same voters, the same choice on val, the same trained numbers."
    features, faces = data
    test = (faces["split"] == "test").to_numpy()
    rng = np.random.default_rng(1)
    other = np.where(test[:, None], rng.normal(size=features.shape) * 50, features).astype(np.float32)
    swapped = faces.assign(label=np.where(test, rng.permutation(faces["label"]), faces["label"]))
    whole = Method(esv={"candidates": ["LR C=0.1", "LR C=10", "SVM C=1"]})
    one, two = fit([whole], data, tmp_path / "a")[0], fit([whole], (other, swapped), tmp_path / "b")[0]
    for name in ("members", "validation_accuracy", "n_components", "variance", "parameters", "candidates"):
        assert one.facts[name] == two.facts[name], name
    held = [rung.predictions.query("split == 'val'")[PROBABILITIES].to_numpy() for rung in (one, two)]
    np.testing.assert_array_equal(*held)


def test_a_planted_leak_is_caught(data, tmp_path):
    "A test picture copied into train under another name, group and label; then a person in both."
    features, faces = data
    planted = faces.copy()
    planted.loc[3, "sha256"] = planted.loc[890, "sha256"]
    with pytest.raises(ValueError, match="found a picture in both"):
        fit([LR], (features, planted), tmp_path)
    with pytest.raises(ValueError, match="found a group in both"):
        fit([LR], (features, faces.assign(group=faces["group"].where(faces.index != 899, "g0"))), tmp_path)
    assert not (tmp_path / "cache" / "rungs").exists()
    fit([LR], (features, planted), tmp_path, leaks=True)  # asked for, to show what copies do


def test_a_leak_in_selection_would_show_in_the_val_accuracy(data, tmp_path):
    "The engine's own val rows against rows that a leak put there: features that give the label away raise it to 1."
    features, faces = data
    honest = fit([LR], data, tmp_path / "a")[0].facts["validation_accuracy"]
    given_away = np.hstack([features, 30 * np.eye(7, dtype=np.float32)[faces["label"]]])
    leaky = fit([LR], (given_away, faces), tmp_path / "b")[0].facts["validation_accuracy"]
    assert leaky > 0.99 > 0.9 > honest


def test_nothing_is_fitted_twice(data, tmp_path, monkeypatch):
    import qcfer.classify.esv

    fitted, original = [], qcfer.classify.esv._fit_candidate
    counted = lambda name, X, *rest: fitted.append((name, X.shape)) or original(name, X, *rest)  # noqa: E731
    monkeypatch.setattr(qcfer.classify.esv, "_fit_candidate", counted)
    both = LR.changed({"esv": {"top_m": 2}})
    ladder = list(LADDERS["modules"].methods(both).values())
    first = fit(ladder, data, tmp_path)
    count = len(fitted)
    assert len(set(fitted)) <= count
    again = fit(ladder, data, tmp_path)
    assert [rung.folder for rung in first] == [rung.folder for rung in again] and len(fitted) == count
    hard = both.changed({"esv": {"voting": "hard"}})  # other votes of the same candidates
    fit([hard], data, tmp_path)
    assert len(fitted) == count


def test_few_faces_are_fitted_without_workers(data, tmp_path, monkeypatch):
    "Up to `SMALL` faces: what is fitted is fitted in this process, where it can be counted."
    import qcfer.classify.esv

    fitted, original = [], qcfer.classify.esv._fit_candidate

    def fit_candidate(name, *rest):
        fitted.append((name, os.environ.get("TQDM_DISABLE")))
        return original(name, *rest)

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(qcfer.classify.esv, "_fit_candidate", fit_candidate)
    monkeypatch.setattr(train, "SMALL", len(data[1]))
    fit([LR, LR.changed({"afp": None})], data, tmp_path)
    assert set(fitted) == {(name, None) for name in LR.esv["candidates"]}  # with the bars on, which nothing would write over


def test_what_takes_long_has_a_bar_that_counts_the_rungs(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tqdm.std.time", itertools.count(0, 3).__next__)  # three seconds each time that it is asked
    fit([LR, LR.changed({"afp": None})], data, tmp_path)
    last = capsys.readouterr().err.replace("\r", "\n").strip().split("\n")[-1]
    assert last.startswith("train: 100%") and "| 2/2 [" in last and last.endswith(" rungs]")


@pytest.mark.parametrize("said", [None, "0", "1"])
def test_what_the_user_said_of_bars_is_kept(data, tmp_path, monkeypatch, said):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if said is not None:
        monkeypatch.setenv("TQDM_DISABLE", said)
    monkeypatch.setattr(train, "SMALL", 10)
    fit([LR, LR.changed({"afp": None})], data, tmp_path)
    assert os.environ.get("TQDM_DISABLE") == said


def test_a_method_is_not_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        LR.seed = 1
    assert LR.changed({"seed": 1}).seed == 1 and LR.seed == 0


@pytest.mark.parametrize(
    ("condition", "change", "found"),
    [("raw+3dmm", "-3dmm", "raw"), ("geometric+raw+3dmm", "-3dmm", "geometric+raw"), ("raw", "-3dmm", "raw"), ("raw", "oracle", "oracle")],
)
def test_what_stands_beside_a_condition_can_be_taken_off(condition, change, found):
    assert Method(condition).changed({"condition": change}) == Method(found)


def test_how_the_faces_are_numbered_makes_no_other_rung(data):
    features, faces = data
    assert rung_key(LR, array_hash(features), faces.set_index(faces.index + 1000)) == rung_key(LR, array_hash(features), faces)


def test_the_order_in_which_settings_are_written_makes_no_other_rung(data):
    features, faces = data
    esv = {"top_m": 2, "candidates": ["LR C=0.1", "LR C=10"], "voting": "hard"}
    one, two = (rung_key(Method(esv=settings), array_hash(features), faces) for settings in (esv, dict(reversed(esv.items()))))
    assert one == two != rung_key(LR, array_hash(features), faces)


def test_whatever_matters_makes_another_rung(data, tmp_path):
    features, faces = data
    rungs = fit([LR, LR.changed({"seed": 1}), LR.changed({"afp": {"whiten": True}}), LR.changed({"split": 1})], data, tmp_path)
    rungs += fit([LR], (features + 1, faces), tmp_path)
    rungs += fit([LR], (features, faces.assign(label=(faces["label"] + 1) % 7)), tmp_path)
    assert len({rung.folder for rung in rungs}) == len(rungs)
    same = fit([replace(LR, condition="geometric", embedder="other")], data, tmp_path)  # equal features are equal, whatever made them
    assert same[0].folder == rungs[0].folder


@pytest.mark.parametrize(
    ("old", "new", "retrains"),
    [
        ("# Directions without variance", "# Directions that hold no variance", False),
        ('"""Row normalisation, robust scaling', '"""Rows of length one, robust scaling', False),
        ("10 * np.finfo(X.dtype).eps * variance", "20 * np.finfo(X.dtype).eps * variance", True),
    ],
    ids=["comment", "docstring", "code"],
)
def test_what_changes_no_result_retrains_nothing(old, new, retrains, data, tmp_path, monkeypatch):
    "In a copy of the package an edit of AFP changes the key of a rung if it can change its numbers."
    features, faces = data
    before = rung_key(LR, array_hash(features), faces)
    shutil.copytree(Path(qcfer.__file__).parent, tmp_path / "qcfer", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(qcfer, "__file__", str(tmp_path / "qcfer" / "__init__.py"))
    assert rung_key(LR, array_hash(features), faces) == before
    afp = tmp_path / "qcfer" / "classify" / "afp.py"
    source = afp.read_text(encoding="utf-8")
    assert source.count(old) == 1
    afp.write_text(source.replace(old, new), encoding="utf-8")
    assert (rung_key(LR, array_hash(features), faces) != before) == retrains


def test_a_rung_keeps_who_did_not_converge(data, tmp_path, capfd):
    features, faces = data
    uneven = features * np.logspace(-2, 2, features.shape[1], dtype=np.float32)
    method = Method(afp=None, esv={"candidates": ["LR C=0.1", "LR C=100"]})
    facts = fit([method], (uneven, faces), tmp_path)[0].facts
    assert {row["name"]: row["converged"] for row in facts["candidates"]}["LR C=100"] is False
    assert "Warning" not in capfd.readouterr().err


def test_other_val_faces_keep_groups_whole_and_the_size(data):
    _, faces = data
    known = faces[faces["split"] != "test"]
    folds = [val_fold(faces, split) for split in (None, 1, 2)]
    for fold in folds:
        assert 0.8 < (fold == 0).sum() / 160 < 1.25
        assert not set(known["group"][fold == 0]) & set(known["group"][fold == -1])
    assert (folds[1] != folds[2]).any()


@pytest.mark.parametrize(("val", "held"), [(300, 1 / 2), (200, 1 / 3), (500, 1 / 2)])
def test_other_val_faces_are_as_many_but_never_more_than_half(val, held):
    faces = pd.DataFrame({"label": np.arange(600) % 3, "group": np.arange(600), "split": np.repeat(["val", "train"], [val, 600 - val])})
    assert (val_fold(faces, 1) == 0).mean() == pytest.approx(held, abs=0.01)


def test_predictions_stand_beside_the_faces_that_they_are_of(data):
    _, faces = data
    part = faces.iloc[[5, 3, 700]].assign(yaw=[1.0, 2.0, 3.0], another=0)
    rows = prediction_rows(part, np.eye(7)[[1, 0, 6]], np.array([1, 0, 6]))
    assert rows.columns.tolist() == ["image", "split", "label", "group", "yaw", *PROBABILITIES, "predicted"]
    assert rows["image"].tolist() == ["5.png", "3.png", "700.png"] and rows.index.tolist() == [0, 1, 2]
    assert (rows[PROBABILITIES].to_numpy().argmax(1) == rows["predicted"]).all()


def test_what_it_took_is_told_in_milliseconds_a_face():
    class Slow:
        "Takes a fiftieth of a second, however many faces there are."

        def predict(self, features):
            time.sleep(0.02)

    for faces in (0, 1, 10):
        found = _predict_ms(Slow(), np.zeros((faces, 2)))
        assert 20 <= found * max(1, faces) < 500 and found == round(found, 5)


def test_a_ladder_that_ends_in_one_classifier_is_scored(data, tmp_path):
    ladder = LADDERS["modules"]
    rungs = ladder.methods(Method(esv=ONE_LR))
    rows = {name: rung.predictions for name, rung in zip(rungs, fit(list(rungs.values()), data, tmp_path))}
    scored = score_ladder(rows, ladder.reference, ladder.cumulative, n_boot=20)
    assert [entry["name"] for entry in scored] == ["embedding + LR", "+ ESV (full)"]


@pytest.mark.parametrize("cv", [{}, {"cv": 3}], ids=["val faces", "folds"])
def test_weighted_voters_keep_their_weights_where_nothing_is_selected_anew(cv, tmp_path):
    "The features as they are, the selected voters: what is left of a rung is the method itself, weights included."
    X, label = make_classification(500, 12, n_informative=6, n_classes=4, random_state=0)
    fold = np.where(np.arange(500) % 4, -1, 0)
    method = Method(afp=None, esv={"candidates": ["LR C=0.1", "LR C=10", "SVM C=1"], "top_m": 2, "voting": "weighted"} | cv)
    whole = make_estimator(method, fold).fit(X, label)
    members = [row["name"] for row in whole.candidates_ if row["selected"]]
    again = make_estimator(method.changed({"esv": AS_SELECTED | {"candidates": members}}), fold).fit(X, label)
    assert whole.weights_[0] != whole.weights_[1]
    assert again.weights_.tolist() == whole.weights_.tolist()
    np.testing.assert_array_equal(again.predict_proba(X), whole.predict_proba(X))
    rung = choices_ladder(members, 500, 12).methods(method)["no class weights"]
    assert rung == method.changed({"esv": {"candidates": members, "class_weight": None, "top_m": 99}})


def test_a_rung_that_no_candidate_can_fit_is_known_before():
    svm = Method(esv={"candidates": "SVM", "svm_max_samples": 50})
    labels = np.repeat(np.arange(7), 20)
    assert not can_be_fitted(svm, labels) and can_be_fitted(svm, labels[::4])
    assert can_be_fitted(LADDERS["reference"].methods(Method())["reference: SVC"], labels)


def test_parameters_are_counted(data):
    X, y = data[0][:100], data[1]["label"][:100] % 3
    assert parameter_count(LogisticRegression().fit(X, y)) == 3 * 30 + 3
    calibrated = ESV(candidates=["SVM C=1"], cv=None, random_state=0).fit(X, y).estimators_[0]
    machine = calibrated.calibrated_classifiers_[0].estimator[-1]
    assert parameter_count(machine) == machine.support_vectors_.size + machine.dual_coef_.size + machine.intercept_.size
    assert parameter_count(calibrated) == parameter_count(machine) + 3 * 2  # slope and offset of a sigmoid for each class


def test_parameters_of_a_network_are_counted(data):
    features, faces = data
    network = ESV(candidates=["MLP"], cv=None, random_state=0).fit(features[:300], faces["label"][:300]).estimators_[0]
    assert parameter_count(network) == 2 * 30 + 31 * 256 + 257 * 128 + 129 * 7  # mean and scale of 30 features, three layers


def test_several_workers_say_the_same_as_one(data, tmp_path, monkeypatch):
    methods = list(LADDERS["components"].methods(LR).values())
    monkeypatch.setattr("qcfer.classify.train.SMALL", 0)
    side_by_side = fit(methods, data, tmp_path / "a")
    monkeypatch.setattr("qcfer.classify.train.SMALL", 10**9)
    one_by_one = fit(methods, data, tmp_path / "b")
    for a, b in zip(side_by_side, one_by_one):
        pd.testing.assert_frame_equal(a.predictions, b.predictions, atol=1e-5)


_KILLED = """
import sys
import numpy as np, pandas as pd
from pathlib import Path
from qcfer.classify.ladders import LADDERS
from qcfer.classify.train import Method, fit_methods
rng = np.random.default_rng(0)
label = rng.integers(0, 7, 1200)
features = (np.eye(7)[label] @ rng.normal(size=(7, 64)) + 2 * rng.normal(size=(1200, 64))).astype(np.float32)
faces = pd.DataFrame({"image": [f"{i}.png" for i in range(1200)], "label": label, "group": [str(i) for i in range(1200)]})
faces["split"] = np.repeat(["train", "val", "test"], [800, 200, 200])
methods = list(LADDERS["ensembling"].methods(Method(esv={"candidates": ["LR C=1", "RF"]})).values())
fit_methods(methods, lambda condition, embedder: features, faces, Path(sys.argv[1]))
"""


def test_killed_at_any_moment_it_goes_on_and_leaves_nothing_half_done(tmp_path):
    def start():
        return subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], env=os.environ | {"TQDM_DISABLE": "1"})

    def finished():
        return [path for path in rungs.glob("*/facts.json") if path.parent.suffix != ".tmp"]

    rungs = tmp_path / "cache" / "rungs"
    process, deadline = start(), time.monotonic() + 120
    while not finished() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in finished()}
    assert start().wait(timeout=300) == 0
    assert len(finished()) == 5
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not [path for path in rungs.glob("*") if path.suffix == ".tmp" and list(Path(path).glob("facts.json"))]


def flip(path, seed=0):
    "Change a bit as a bad disk does."
    rng, spoilt = random.Random(seed), bytearray(path.read_bytes())
    spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    path.write_bytes(spoilt)


@pytest.mark.parametrize("name", ["predictions.parquet", "facts.json", "model.skops", "SHA256SUMS"])
def test_a_rung_that_a_disk_has_changed_is_fitted_again(name, data, tmp_path):
    (rung,) = fit([LR], data, tmp_path, keep_models=True)
    right, facts = rung.predictions, rung.facts
    for seed in range(5):
        flip(rung.folder / name, seed)
        assert not rung.is_whole(with_model=True)
        (again,) = fit([LR], data, tmp_path, keep_models=True)
        assert again.is_whole(with_model=True)
        pd.testing.assert_frame_equal(again.predictions, right)
        assert again.facts["members"] == facts["members"] and again.facts["validation_accuracy"] == facts["validation_accuracy"]
    assert [path.name for path in rung.folder.parent.iterdir()] == [rung.folder.name]


def test_a_fit_that_a_disk_has_changed_is_made_again(data, tmp_path):
    (rung,) = fit([LR], data, tmp_path / "first")
    right, kept = rung.predictions, sorted((tmp_path / "user-cache" / "fits").rglob("output.pkl"))
    before = [path.read_bytes() for path in kept]
    assert len(kept) >= 2
    for seed in range(6):
        for path in kept:
            flip(path, seed)
        pd.testing.assert_frame_equal(fit([LR], data, tmp_path / f"{seed}")[0].predictions, right)
    stamps = [path.stat().st_mtime_ns for path in kept]
    fit([LR], data, tmp_path / "last")
    assert [path.stat().st_mtime_ns for path in kept] == stamps  # and found again where it is whole
    assert [len(path.read_bytes()) for path in kept] == [len(data) for data in before]


class Planted:
    "What runs whatever its author likes when it is unpickled."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_fit_that_somebody_else_has_written_is_never_unpickled(data, tmp_path, monkeypatch):
    (rung,) = fit([LR], data, tmp_path / "first")
    right, kept = rung.predictions, sorted((tmp_path / "user-cache" / "fits").rglob("output.pkl"))
    planted = pickle.dumps(Planted(tmp_path / "ran"))
    seals = {"none": b"", "a hash": hashlib.sha256(planted).hexdigest().encode(), "a key of its own": b"0" * 64}
    for name, seal in seals.items():
        for path in kept:
            path.write_bytes(planted + seal)
        pd.testing.assert_frame_equal(fit([LR], data, tmp_path / name)[0].predictions, right)
        assert not (tmp_path / "ran").exists()
    pickle.loads(planted)
    assert (tmp_path / "ran").exists()  # the plant would have worked


def test_the_key_of_the_fits_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "user_config_dir", lambda name: str(tmp_path / name))
    key = train._key.__wrapped__()
    file = tmp_path / "qcfer" / "fits.key"
    assert file.read_bytes() == key and len(key) == 32 and file.stat().st_mode & 0o777 == 0o600
    assert train._key.__wrapped__() == key
    file.write_bytes(b"short")
    assert len(train._key.__wrapped__()) == 32
    monkeypatch.setattr(train, "user_config_dir", lambda name: "/proc/nowhere")
    assert train._key.__wrapped__() != train._key.__wrapped__()  # of this process alone


def test_two_runs_may_fit_the_same_rung(data, tmp_path):
    (rung,) = fit([LR], data, tmp_path, keep_models=True)
    first, mark = rung.folder, rung.folder / "facts.json"

    def another(with_model):
        aside = first.with_name(f".{first.name}-0123.tmp")
        shutil.copytree(first, aside, dirs_exist_ok=True)
        return aside if with_model else (aside / "model.skops").unlink() or aside

    stamp = mark.stat().st_ino
    for with_model in (True, False):
        _publish(another(True), first, with_model)
        assert mark.stat().st_ino == stamp  # the quicker one's stays for those who are reading it
    lesser = first.with_name("lesser")
    shutil.copytree(first, lesser, ignore=shutil.ignore_patterns("model.skops", "SHA256SUMS"))
    _publish(another(True), lesser, True)
    assert Rung(lesser).is_whole(with_model=True)


def test_what_a_killed_fit_left_is_swept(data, tmp_path):
    (rung,) = fit([LR], data, tmp_path)
    old, young = (rung.folder.with_name(f".{rung.folder.name}-{name}.tmp") for name in ("old", "young"))
    for left in (old, young):
        left.mkdir()
        (left / "facts.json").touch()
    (fit_left,) = [path / ".fit.0123.tmp" for path in (tmp_path / "user-cache" / "fits").iterdir()]
    fit_left.touch()
    for left in (old, fit_left):
        os.utime(left, (0, 0))
    fit([LR], data, tmp_path)
    assert young.exists() and not old.exists() and not fit_left.exists()


def test_a_search_tells_of_val_and_test_and_its_voters_can_be_taken_again(data, tmp_path):
    _features, _faces = data
    method = Method(search={"kinds": ["LR"], "scalings": [None]})
    rung = fit([method], data, tmp_path, keep_models=True)[0]
    assert set(rung.predictions["split"]) == {"val", "test"} and rung.facts["strategy"] in ("ensemble", "best candidate", "first rung")
    again = fit([method.with_voters(rung.facts["members"])], data, tmp_path)[0]
    assert {row["name"] for row in again.facts["candidates"]} == set(rung.facts["members"])
    assert make_estimator(method, np.zeros(700)).cv == 3  # so few val faces decide little
    assert isinstance(make_estimator(method.changed({"search": {"cv": "val"}}), np.zeros(700)).cv, PredefinedSplit)
    assert isinstance(make_estimator(method, np.zeros(5_000)).cv, PredefinedSplit)


def test_the_same_split_draws_the_same_faces(data):
    _, faces = data
    known = faces[faces["split"] != "test"]
    one, again, other = (val_fold(faces, split) for split in (4, 4, 5))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and len(one) == len(known) and set(one) == {-1, 0}


def test_facts_name_those_who_vote_and_what_a_forest_looks_at(data):
    features, faces = data
    X, y = features[:200], faces["label"][:200].to_numpy()
    model = ESV(candidates=["LR C=0.1", "LR C=10"], top_m=1, cv=2, random_state=0).fit(X, y)
    (best,) = [row["name"] for row in model.candidates_ if row["selected"]]
    facts = facts_of(model)
    assert facts["members"] == [best] and facts["importance"] is None and len(facts["candidates"]) == 2
    forest = ESV(candidates=["RF"], cv=None, random_state=0).fit(X, y)
    assert facts_of(forest)["importance"] == forest.estimators_[0].feature_importances_.round(6).tolist()


def test_a_rung_is_a_folder_that_stays_the_same():
    rung = train.Rung(Path("somewhere"))
    assert rung.model == Path("somewhere", "model.skops") and rung == train.Rung(Path("somewhere"))
    with pytest.raises(FrozenInstanceError):
        rung.folder = Path("elsewhere")


def test_a_rung_that_cannot_be_written_leaves_nothing_behind(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "write_sums", lambda folder: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        fit([LR], data, tmp_path)
    assert list((tmp_path / "cache" / "rungs").iterdir()) == []


def test_fits_are_kept_up_to_a_size(data, tmp_path, monkeypatch):
    def kept():
        return len(list(Path(train.fit_memory().store_backend.location).rglob("output.pkl")))

    fit([LR], data, tmp_path / "one")
    assert kept() >= 2
    monkeypatch.setattr(train, "_KEPT_BYTES", 1)
    fit([LR.changed({"afp": None})], data, tmp_path / "two")
    assert kept() == 0
