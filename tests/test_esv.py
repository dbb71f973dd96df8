"""The ensemble: scikit-learn's contract, selection, voting, the kernel machine, and files that nobody vouches for."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.preprocessing import LabelEncoder
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.estimator_checks import check_estimator

from qcfer.classify import esv
from qcfer.classify.afp import AFP
from qcfer.classify.esv import ESV, NAMES, PRESETS, KernelSVC, class_weights, floor_weights, kind, load, save

LR = ["LR C=0.1", "LR C=10"]


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    "Twenty trees for the paper's five hundred, which would take most of this file's time."
    monkeypatch.setattr("qcfer.classify.esv.RandomForestClassifier", lambda trees, **shape: RandomForestClassifier(trees // 25, **shape))


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(900, 24, n_informative=9, n_classes=4, weights=[0.4, 0.3, 0.2, 0.1], random_state=3)
    return X.astype(np.float32), np.array(["anger", "fear", "happiness", "neutral"])[y]


@pytest.mark.parametrize(
    "estimator",
    [
        ESV(candidates=["LR C=1", "SVM C=1"], cv=2),
        ESV(AFP(), candidates=["LR C=1"], cv=2, voting="hard"),
        ESV(cv=None),
    ],
    ids=["LR and SVM", "AFP and hard votes", "all candidates"],
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_in_full(estimator):
    check_estimator(estimator)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=200))
def test_class_weights_are_scikit_learns(y):
    classes = np.unique(y)
    expected = compute_class_weight("balanced", classes=classes, y=y)
    assert class_weights(np.array(y)) == pytest.approx(dict(zip(classes, expected)))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200))
def test_the_floor_raises_every_class_to_it_and_no_further(y):
    y = np.array(y)
    weights = floor_weights(y)
    largest = np.bincount(y).max()
    for label in np.unique(y):
        total = weights[y == label].sum()
        assert total == pytest.approx(max(0.3 * largest, (y == label).sum()))


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kernel_machine_is_scikit_learns(classes, dtype, monkeypatch):
    X, y = make_blobs(400, 12, centers=classes, cluster_std=6, random_state=classes)
    X = X.astype(dtype)
    weighted = {"C": 3, "class_weight": "balanced"}
    plain = SVC(**weighted, break_ties=True).fit(X[:300], y[:300])
    pairs = plain.set_params(decision_function_shape="ovo").decision_function(X[300:]).reshape(100, -1)
    plain.set_params(decision_function_shape="ovr")
    quick = KernelSVC(**weighted).fit(X[:300], y[:300])
    monkeypatch.setenv("QCFER_NO_INTELEX", "1")
    without = KernelSVC(**weighted).fit(X[:300], y[:300])
    for machine in (quick, without):
        assert machine._pairs(X[300:]) == pytest.approx(pairs, abs=5e-3)
        assert (machine.predict(X[300:]) == plain.predict(X[300:])).mean() > 0.98
    assert without._pairs(X[300:]) == pytest.approx(pairs, abs=1e-4)
    assert without.decision_function(X[300:]) == pytest.approx(plain.decision_function(X[300:]), abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_an_undecided_pair_shares_its_vote_and_nothing_jumps(classes):
    X, y = make_blobs(400, 12, centers=classes, cluster_std=6, random_state=classes)
    machine = KernelSVC(C=3).fit(X[:300], y[:300])
    line = np.linspace(X[300], X[301], 2001)
    votes, whole = machine.shared_votes(line), machine.decision_function(line)
    assert np.abs(np.diff(votes, axis=0)).max() < 0.02
    if classes > 2:
        assert np.abs(np.diff(whole, axis=0)).max() > 0.4, "scikit-learn's score jumps here"
    assert votes.sum(1) == pytest.approx(0, abs=1e-9) and np.abs(votes).max() <= (classes - 1) / 2
    assert (machine.classes_[machine.shared_votes(X).argmax(1)] == machine.predict(X)).mean() > 0.95


@pytest.mark.parametrize("gamma", ["scale", "auto", 0.02])
def test_every_gamma_is_scikit_learns(gamma, monkeypatch):
    X, y = make_blobs(300, 12, centers=3, cluster_std=6, random_state=0)
    plain = SVC(C=3, gamma=gamma, break_ties=True).fit(X[:200], y[:200])
    for value in ("", "1"):
        monkeypatch.setenv("QCFER_NO_INTELEX", value)
        quick = KernelSVC(C=3, gamma=gamma).fit(X[:200], y[:200])
        assert quick.decision_function(X[200:]) == pytest.approx(plain.decision_function(X[200:]), abs=5e-3)
        assert (quick.predict(X[200:]) == plain.predict(X[200:])).mean() > 0.98


@pytest.mark.parametrize("value", ["", "1"])
def test_another_kernel_is_refused(value, data, monkeypatch):
    monkeypatch.setenv("QCFER_NO_INTELEX", value)
    for kernel in ("linear", "poly", "sigmoid", "precomputed"):
        with pytest.raises(ValueError, match=f"^expected kernel 'rbf'; found '{kernel}': use sklearn.svm.SVC$"):
            KernelSVC(kernel=kernel).fit(*data)


def test_a_fitted_kernel_machine_needs_no_accelerator(data, tmp_path):
    X, y = data
    ensemble = ESV(candidates=["SVM C=5"], cv=None, random_state=0).fit(X[:300], y[:300])
    save(ensemble, tmp_path / "model")
    names = zipfile.ZipFile(tmp_path / "model").read("schema.json").decode()
    assert "sklearnex" not in names and "onedal" not in names and "daal4py" not in names


def test_ranking_is_what_it_says(data):
    X, y = data
    fold = np.where(np.arange(len(y)) < 600, -1, 0)
    ensemble = ESV(candidates="LR", cv=PredefinedSplit(fold), top_m=2, random_state=0).fit(X, y)
    for row in ensemble.candidates_:
        C = float(row["name"].split("=")[1])
        reference = LogisticRegression(C=C, max_iter=1000, class_weight="balanced").fit(X[:600], y[:600])
        assert row["accuracy"] == pytest.approx(reference.score(X[600:], y[600:]), abs=0.004)
    accuracies = [row["accuracy"] for row in ensemble.candidates_]
    chosen = [row["accuracy"] for row in ensemble.candidates_ if row["selected"]]
    assert sorted(chosen, reverse=True) == sorted(accuracies, reverse=True)[:2]
    assert ensemble.top_m_ == 2 and ensemble.weights_.sum() == pytest.approx(1)
    assert (ensemble.validation_rows_ == np.arange(600, 900)).all()


def test_the_voters_are_refitted_on_every_row(data):
    X, y = data
    fold = np.where(np.arange(len(y)) < 600, -1, 0)
    ensemble = ESV(candidates=["LR C=1"], cv=PredefinedSplit(fold)).fit(X, y)
    whole = LogisticRegression(C=1, max_iter=1000, class_weight="balanced").fit(X, y)
    assert ensemble.predict_proba(X) == pytest.approx(whole.predict_proba(X), abs=1e-3)
    train = LogisticRegression(C=1, max_iter=1000, class_weight="balanced").fit(X[:600], y[:600])
    assert ensemble.validation_proba_ == pytest.approx(train.predict_proba(X[600:]), abs=1e-3)


def test_held_out_rows_never_reach_what_is_fitted(data):
    "A planted leak: val rows that are wildly scaled would move the preprocessing, were it fitted on them."
    X, y = data
    fold = np.where(np.arange(len(y)) < 600, -1, 0)
    spoilt = X.copy()
    spoilt[600:] *= 1e3
    clean = ESV(AFP(normalize=False), candidates=LR, cv=PredefinedSplit(fold), top_m=1).fit(X, y)
    dirty = ESV(AFP(normalize=False), candidates=LR, cv=PredefinedSplit(fold), top_m=1)
    dirty.fit(spoilt, y)
    expected = AFP(normalize=False).fit(X[:600])
    reference = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced")
    reference.fit(expected.transform(X[:600]), y[:600])
    first = next(row["accuracy"] for row in dirty.candidates_ if row["name"] == LR[0])
    assert first == pytest.approx(reference.score(expected.transform(spoilt[600:]), y[600:]), abs=0.004)
    assert clean.candidates_ != dirty.candidates_


def test_voting():
    tables = np.array([[[0.9, 0.1, 0.0]], [[0.2, 0.5, 0.3]], [[0.3, 0.4, 0.3]]])
    even = np.full(3, 1 / 3)
    assert ESV()._vote(tables, even) == pytest.approx(tables.mean(0))
    hard = ESV(voting="hard")._vote(tables, even)
    assert hard.argmax() == 1 and hard == pytest.approx(np.array([[1 / 3, 2 / 3, 0]]), abs=1e-5)
    tied = ESV(voting="hard")._vote(tables[:2], np.full(2, 0.5))
    assert tied.argmax() == 0 and tied.sum() == pytest.approx(1)
    assert ESV(voting="weighted")._weights([0.6, 0.2]) == pytest.approx([0.75, 0.25])


def test_presets_take_the_best_of_each_kind(data):
    X, y = data
    ensemble = ESV(candidates="rafdb", cv=2, random_state=0).fit(X[:400], y[:400])
    chosen = [row for row in ensemble.candidates_ if row["selected"]]
    assert {name: sum(kind(row["name"]) == name for row in chosen) for name in PRESETS["rafdb"]} == PRESETS["rafdb"]
    machines = [row for row in ensemble.candidates_ if kind(row["name"]) == "SVM"]
    assert max(machines, key=lambda row: row["accuracy"])["selected"]


def test_presets_keep_the_papers_kernel_machine_and_its_limit(monkeypatch):
    X, y = make_blobs(120, 4, centers=3, cluster_std=4, random_state=0)
    names = [row["name"] for row in ESV(candidates="rafdb", cv=2).fit(X, y).candidates_]
    assert [name for name in names if kind(name) == "SVM"] == ["SVM C=1"]
    monkeypatch.setattr("qcfer.classify.esv.PAPER_SVM_ROWS", 119)
    assert {kind(row["name"]) for row in ESV(candidates="rafdb", cv=2).fit(X, y).candidates_} == {"LR"}
    assert {row["name"] for row in ESV(candidates=["SVM C=1"], cv=2).fit(X, y).candidates_} == {"SVM C=1"}


def test_no_ranking_means_all_vote(data):
    X, y = data
    ensemble = ESV(candidates=LR, cv=None).fit(X, y)
    assert [row["accuracy"] for row in ensemble.candidates_] == [None, None]
    assert ensemble.weights_ == pytest.approx([0.5, 0.5]) and ensemble.validation_proba_ is None


def test_auto_takes_the_count_that_predicts_held_out_rows_best(data):
    X, y = data
    fold = np.where(np.arange(len(y)) < 600, -1, 0)

    def held_out(m):
        ensemble = ESV(candidates=["LR C=1", "SVM C=1", "SVM C=10"], cv=PredefinedSplit(fold), top_m=m, random_state=0).fit(X, y)
        return ensemble.top_m_, (ensemble.classes_[ensemble.validation_proba_.argmax(1)] == y[600:]).mean()

    accuracies = [held_out(m)[1] for m in (1, 2, 3)]
    assert held_out("auto") == (1 + int(np.argmax(accuracies)), max(accuracies))


def test_groups_stay_whole():
    "Rows that are copies of each other: an honest score is chance, a leaking one is perfect."
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 40)), 5, axis=0)
    y, groups = np.repeat(rng.integers(0, 2, 60), 5), np.repeat(np.arange(60), 5)
    leaking = ESV(candidates=["SVM C=10"], cv=5, random_state=0).fit(X, y)
    honest = ESV(candidates=["SVM C=10"], cv=5, random_state=0).fit(X, y, groups)
    assert leaking.candidates_[0]["accuracy"] > 0.95
    assert honest.candidates_[0]["accuracy"] < 0.75


def test_a_class_that_a_fold_never_trains_on():
    X, y = make_blobs(60, 4, centers=3, random_state=0)
    fold = np.where(y == 2, 0, -1)
    fold[:5] = 0
    ensemble = ESV(candidates=["LR C=1"], cv=PredefinedSplit(fold)).fit(X, y)
    assert ensemble.validation_proba_.shape == (np.sum(fold == 0), 3)
    assert (ensemble.validation_proba_[:, 2] == 0).all()
    assert ensemble.predict_proba(X)[:, 2].max() > 0.5


def test_a_class_that_is_a_single_group_is_calibrated_all_the_same():
    X, y = make_blobs(240, 6, centers=4, cluster_std=2, random_state=0)
    groups = np.where(y == 3, 1000, np.arange(240))
    fold = np.where(np.arange(240) % 4, -1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble = ESV(candidates=["SVM C=5"], cv=PredefinedSplit(fold), random_state=0).fit(X, y, groups)
    assert ensemble.candidates_[0]["accuracy"] > 0.9


@pytest.mark.parametrize("classes", [3, 7])
@pytest.mark.parametrize("held, machine", [(1, True), (2, True), (3, False), (4, True)])
def test_a_kernel_machine_takes_part_where_every_fold_can_calibrate_it(held, machine, classes):
    "A class of four rows, of which a fold trains on three, two, one (which is one too few), or none."
    X, y = make_blobs([*[40] * (classes - 1), 4], 4, cluster_std=4, random_state=0)
    fold = np.where(np.arange(len(y)) % 5, -1, 0)
    fold[y == classes - 1] = np.where(np.arange(4) < held, 0, -1)
    ensemble = ESV(candidates=["LR C=1", "SVM C=1"], top_m=2, cv=PredefinedSplit(fold), random_state=0).fit(X, y)
    assert [row["name"] for row in ensemble.candidates_] == ["LR C=1", "SVM C=1"][: 1 + machine]
    assert len(ensemble.estimators_) == 1 + machine and ensemble.predict_proba(X).shape == (len(y), classes)


def test_a_kernel_machine_that_one_fold_cannot_calibrate_is_left_out_of_all():
    X, y = make_blobs([40, 40, 4], 4, cluster_std=4, random_state=0)
    rare, others = np.flatnonzero(y == 2), np.flatnonzero(y != 2)
    splits = [(np.r_[others[::2], rare[:3]], np.r_[others[1::2], rare[3:]]), (np.r_[others[1::2], rare[:1]], np.r_[others[::2], rare[1:]])]
    assert [row["name"] for row in ESV(candidates=["LR C=1", "SVM C=1"], cv=splits).fit(X, y).candidates_] == ["LR C=1"]
    with pytest.raises(ValueError, match="^expected for SVM alone two rows or more of each class .* found one in fold 2$"):
        ESV(candidates="SVM", cv=splits).fit(X, y)
    assert ESV(candidates=["SVM C=1"], cv=splits[:1]).fit(X, y).top_m_ == 1


@pytest.mark.parametrize("count", [1, 2])
def test_few_groups_to_train_on_are_calibrated_all_the_same(count):
    X, y = make_blobs(90, 4, centers=3, cluster_std=2, random_state=0)
    held = np.arange(90) % 5 == 0
    groups = np.where(held, 9, np.arange(90) % count)
    ensemble = ESV(candidates=["SVM C=1"], cv=PredefinedSplit(np.where(held, 0, -1)), random_state=0).fit(X, y, groups)
    assert ensemble.candidates_[0]["accuracy"] > 0.9


def test_there_are_no_more_folds_than_groups():
    X, y = make_blobs(90, 4, centers=3, cluster_std=2, random_state=0)
    groups = np.arange(90) % 2
    ensemble = ESV(candidates=["LR C=1", "SVM C=1"], cv=5, random_state=0).fit(X, y, groups)
    assert sorted(ensemble.validation_rows_) == list(range(90))
    assert (np.diff(groups[ensemble.validation_rows_]) != 0).sum() == 1  # two folds, a group each
    with pytest.raises(ValueError, match="^expected two groups or more; found one for all 90 rows"):
        ESV(candidates=["LR C=1"], cv=5).fit(X, y, np.zeros(90))


def test_the_limit_on_kernel_machines(data):
    X, y = data
    names = {row["name"] for row in ESV(candidates=["LR C=1", "SVM C=1"], svm_max_samples=100, cv=2).fit(X, y).candidates_}
    assert names == {"LR C=1"}
    with pytest.raises(ValueError, match="svm_max_samples=100"):
        ESV(candidates="SVM", svm_max_samples=100).fit(X, y)


@pytest.mark.parametrize("candidates, limit", [("default", 60_000), ("rafdb", 20_000)])
def test_kernel_machines_take_part_up_to_the_rows_that_the_docs_say(candidates, limit):
    for rows, machine in ((limit, True), (limit + 1, False)):
        names = ESV(candidates=candidates).usable_candidates(np.arange(rows) % 7)
        assert ("SVM" in map(kind, names)) == machine and "LR" in map(kind, names)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"voting": "loud"}, "expected voting"),
        ({"candidates": "MLP"}, "expected candidates"),
        ({"candidates": ["LR C=1", "LR C=7"]}, "expected candidates"),
        ({"top_m": 0}, "expected top_m"),
    ],
)
def test_bad_settings_are_named(settings, words, data):
    with pytest.raises(ValueError, match=words):
        ESV(**{"candidates": ["LR C=1"]} | settings).fit(*data)


def test_nan_features_and_one_class_are_named(data):
    X, y = data
    with pytest.raises(ValueError, match="found NaN or inf in 1 of 900 rows, first in row 2$"):
        ESV(candidates="LR").fit(np.where(np.arange(X.size).reshape(X.shape) == 50, np.nan, X), y)
    with pytest.raises(ValueError, match="one class, anger"):
        ESV(candidates="LR").fit(X, np.full(len(X), "anger"))


def test_folds_that_cannot_be_trained_on_are_named(data):
    X, y = data
    with pytest.raises(ValueError, match="fold 1 trains on; found fear$"):
        ESV(candidates="LR", cv=PredefinedSplit(np.where(y == "fear", -1, 0))).fit(X, y)
    with pytest.raises(ValueError, match="a group for each of 900 rows; found 5"):
        ESV(candidates="LR").fit(X, y, np.arange(5))


def test_it_is_a_scikit_learn_classifier_and_the_same_every_time(data):
    X, y = data
    ensemble = ESV(AFP(), candidates=["LR C=1", "RF"], cv=2, random_state=5)
    assert cross_val_score(ensemble, X, LabelEncoder().fit_transform(y), cv=2).min() > 0.5
    first, second = clone(ensemble).fit(X, y), clone(ensemble).fit(X, y)
    assert (first.predict_proba(X) == second.predict_proba(X)).all()


def test_round_trip(data, tmp_path):
    X, y = data
    ensemble = ESV(AFP(), candidates=["LR C=1", "RF", "SVM C=1"], top_m=3, cv=2, random_state=0).fit(X, y)
    save(ensemble, tmp_path / "model.skops")
    again = load(tmp_path / "model.skops")
    assert (again.predict_proba(X) == ensemble.predict_proba(X)).all()
    assert again.candidates_ == ensemble.candidates_


def test_a_tree_that_leads_astray_is_refused(data, tmp_path):
    "A tree's nodes are read without any check when it predicts, so a forged one could read memory that is not its own."
    X, y = data
    for forge in (lambda tree: tree.children_left, lambda tree: tree.feature):
        ensemble = ESV(candidates=["RF"], cv=None, random_state=0).fit(X, y)
        forge(ensemble.estimators_[0].estimators_[3].tree_)[0] = 10**6
        save(ensemble, tmp_path / "forged")
        with pytest.raises(ValueError, match="a damaged tree"):
            load(tmp_path / "forged")


@pytest.mark.parametrize("way", ["wider", "alone", "libsvm", "nothing"])
def test_what_would_be_followed_in_c_without_a_look_is_refused(way, data, tmp_path):
    "scikit-learn's own file reader trusts all of scikit-learn, whose C code trusts the numbers."
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    X, y = data
    ensemble = ESV(candidates=["RF"], cv=None, random_state=0).fit(X, y)
    forest = ensemble.estimators_[0]
    wide = np.repeat(X, 100, axis=1)
    if way == "wider":
        forest.estimators_[0] = DecisionTreeClassifier().fit(wide, y)
    elif way == "alone":
        ensemble.estimators_[0] = DecisionTreeClassifier().fit(X, y)
    elif way == "libsvm":
        ensemble.estimators_[0] = SVC().fit(X, y)
    else:
        del forest.n_classes_
    with pytest.raises(ValueError, match="expected an ensemble"):
        save(ensemble, tmp_path / "model")
        load(tmp_path / "model")


def test_a_small_file_that_unpacks_to_much_is_refused(data, tmp_path):
    from zipfile import ZIP_DEFLATED, ZipFile

    save(ESV(candidates=LR, cv=None).fit(*data), tmp_path / "model")
    with ZipFile(tmp_path / "model", "a", ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", bytes(30_000_000))
    assert (tmp_path / "model").stat().st_size < 100_000
    with pytest.raises(ValueError, match="it unpacks to more than 100 times its size"):
        load(tmp_path / "model")


def test_the_forest_is_the_papers(data, monkeypatch):
    made = []

    def forest(trees, **shape):
        made.append((trees, shape))
        return RandomForestClassifier(2)

    monkeypatch.setattr("qcfer.classify.esv.RandomForestClassifier", forest)
    ESV(candidates="expw", cv=None, random_state=0).fit(*data)
    for trees, shape in made:
        assert trees == 500
        assert {"max_depth": 30, "min_samples_split": 5, "min_samples_leaf": 2}.items() <= shape.items()
    assert len({shape["random_state"] for _, shape in made}) == len({shape["max_features"] for _, shape in made}) == 2


@pytest.mark.parametrize("class_weight", ["balanced", None, {0: 5.0}])
def test_a_forest_is_scikit_learns_with_the_floor_where_classes_are_balanced(class_weight, data):
    rows = np.r_[np.flatnonzero(data[1] != "neutral"), np.flatnonzero(data[1] == "neutral")[:10]]
    X, y = data[0][rows], data[1][rows]
    said = ESV(candidates=["RF"], cv=None, class_weight=class_weight, random_state=0).fit(X, y).predict_proba(X)
    seed = np.random.RandomState(0).randint(2**31 - 2)
    shape = {"max_depth": 30, "min_samples_split": 5, "min_samples_leaf": 2, "max_features": "sqrt", "random_state": seed}
    codes = np.unique(y, return_inverse=True)[1]
    share = np.bincount(codes).max() * 0.3 / np.bincount(codes)
    balanced = class_weight == "balanced"
    forest = RandomForestClassifier(20, **shape, class_weight=None if balanced else class_weight)
    forest.fit(X, codes, np.maximum(1, share)[codes] if balanced else None)
    assert share.max() > 2 and said == pytest.approx(forest.predict_proba(X), abs=1e-6)


def test_files_that_are_no_ensemble_are_refused(data, tmp_path):
    import skops.io
    from sklearn.pipeline import FunctionTransformer, make_pipeline

    X, y = data
    hostile = make_pipeline(FunctionTransformer(func=print), LogisticRegression())
    skops.io.dump(hostile, tmp_path / "hostile")
    skops.io.dump(LogisticRegression().fit(X, y), tmp_path / "other")
    save(ESV(candidates=LR, cv=None).fit(X, y), tmp_path / "model")
    whole = (tmp_path / "model").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("hello")
    for name in ("hostile", "other", "cut", "text"):
        with pytest.raises(ValueError, match="expected an ensemble"):
            load(tmp_path / name)


class Halves(PredefinedSplit):
    "A splitter of somebody's own, which `load` has no reason to trust."


def test_what_could_not_be_loaded_is_not_saved(data, tmp_path):
    X, y = data
    ensemble = ESV(candidates=LR, cv=Halves(np.where(np.arange(len(y)) % 2, -1, 0))).fit(X, y)
    with pytest.raises(ValueError, match="Halves: not saved"):
        save(ensemble, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@settings(max_examples=5, deadline=None)
@given(st.sets(st.sampled_from([name for name in NAMES if kind(name) == "LR"]), min_size=1))
def test_probabilities_add_up(names):
    X, y = make_blobs(80, 3, centers=4, cluster_std=4, random_state=1)
    probabilities = ESV(candidates=sorted(names), cv=2).fit(X, y).predict_proba(X)
    assert probabilities.sum(1) == pytest.approx(np.ones(80)) and probabilities.min() >= 0


OLD_MODEL = Path(__file__).parent / "data" / "model_before_rooms.skops"


def test_a_model_made_before_the_package_had_rooms_is_read():
    X, _y = make_classification(120, 6, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
    ensemble = load(OLD_MODEL)
    said = [[0.06035426271742486, 0.7703916288859898, 0.16925413447361753], [0.27266380248016797, 0.07958186454488968, 0.6477543180737811]]
    assert type(ensemble) is ESV and type(ensemble.preprocess_) is AFP
    assert isinstance(ensemble.estimators_[0].calibrated_classifiers_[0].estimator[-1], KernelSVC)
    assert ensemble.predict_proba(X.astype(np.float32))[:2] == pytest.approx(np.array(said), abs=1e-6)
    assert [row["name"] for row in ensemble.candidates_] == ["LR C=1", "SVM C=1"]


@pytest.mark.parametrize("old, new", [(b'"qcfer.afp"', b'"qcfer.afp.os"'), (b'"qcfer.esv"', b'"qcfer.esv2"'), (b'"qcfer.esv"', b'"os"')])
def test_old_names_open_no_other_door(old, new, tmp_path):
    "Only the two modules that moved are known by their old names; whatever else a file asks for is refused before it is made."
    with zipfile.ZipFile(OLD_MODEL) as file, zipfile.ZipFile(tmp_path / "forged", "w") as forged:
        for name in file.namelist():
            forged.writestr(name, file.read(name).replace(old, new))
    with pytest.raises(ValueError, match="^expected an ensemble in .*: not loaded$"):
        load(tmp_path / "forged")


@pytest.mark.parametrize("cv", [None, 2])
def test_who_does_not_converge_is_recorded_and_nothing_is_printed(data, cv, capfd, tmp_path):
    "Features in units from 1 to 10,000 keep the weakly regularised regression busy for more than its thousand steps."
    X, y = (part[:300] for part in data)
    uneven = X * np.logspace(-2, 2, X.shape[1], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):  # the second time out of the memory, which holds the fact as well
            ensemble = ESV(candidates=["LR C=100", "RF"], cv=cv, memory=str(tmp_path), random_state=0).fit(uneven, y)
            assert {row["name"]: row["converged"] for row in ensemble.candidates_} == {"LR C=100": False, "RF": True}
    assert capfd.readouterr() == ("", "")
    slow = LogisticRegression(C=100, max_iter=1000, class_weight="balanced")
    with pytest.warns(ConvergenceWarning):
        slow.fit(uneven, y)
    voters = dict(zip([row["name"] for row in ensemble.candidates_ if row["selected"]], ensemble.estimators_))
    if cv is None:
        np.testing.assert_array_equal(voters["LR C=100"].coef_, slow.coef_)


def test_other_warnings_are_passed_on(data, monkeypatch):
    def fit(*candidate):
        warnings.warn("the sky is falling", UserWarning, stacklevel=1)
        return LogisticRegression().fit(candidate[1], candidate[2])

    monkeypatch.setattr("qcfer.classify.esv._fit_candidate", fit)
    with pytest.warns(UserWarning, match="the sky is falling"):
        ESV(candidates=["LR C=1"], cv=None).fit(*data)


def test_the_papers_ensembles():
    """Section 4.2: how many of each kind vote for each set."""
    assert PRESETS == {"rafdb": {"LR": 5, "SVM": 1}, "affectnet7": {"LR": 1}, "expw": {"RF": 2, "LR": 3}}


def test_a_pair_shares_its_vote_by_the_tangent_of_its_margin(data):
    rows = np.isin(data[1], ["anger", "fear"])
    machine = KernelSVC(C=1).fit(data[0][rows], data[1][rows])
    margin = machine.decision_function(data[0])
    np.testing.assert_allclose(machine.shared_votes(data[0]), np.stack([-np.tanh(3 * margin), np.tanh(3 * margin)], 1) / 2, atol=1e-5)


def test_a_kernel_machine_is_calibrated_once_on_held_out_scores(data):
    X, y = data[0][:300], np.unique(data[1][:300], return_inverse=True)[1]
    fitted = esv._fit_candidate("SVM C=1", X, y, None, "balanced", 0)
    assert len(fitted.calibrated_classifiers_) == 1 and fitted.cv == 3 and fitted.ensemble is False


@pytest.mark.parametrize("C", [1, 5, 10])
def test_a_kernel_machine_has_the_penalty_of_its_name(data, C):
    X, y = data[0][:300], np.unique(data[1][:300], return_inverse=True)[1]
    fitted = esv._fit_candidate(f"SVM C={C}", X, y, None, None, 0)
    assert fitted.calibrated_classifiers_[0].estimator[-1].C == fitted.estimator[-1].C == C


def test_a_kernel_machine_that_is_fitted_again_forgets_the_first_time(data):
    X, y = data
    again = KernelSVC(C=1).fit(X[:200], y[:200])
    again.decision_function(X[:5])
    np.testing.assert_array_equal(
        again.fit(X[200:400], y[200:400]).decision_function(X), KernelSVC(C=1).fit(X[200:400], y[200:400]).decision_function(X)
    )


def test_a_quota_of_kinds_is_kept(data):
    model = ESV(candidates={"LR": 2, "RF": 1}, cv=2, random_state=0).fit(data[0][:300], data[1][:300])
    chosen = [row["name"] for row in model.candidates_ if row["selected"]]
    assert sorted(map(kind, chosen)) == ["LR", "LR", "RF"]


def test_what_hides_in_an_array_of_objects_is_found():
    hidden = np.array([None, SVC()], dtype=object)
    assert "sklearn.svm" in esv._strange(list(esv._parts({"a": [hidden]}, set())))
    assert [type(part) for part in esv._parts(np.zeros(3), set())] == [np.ndarray]
