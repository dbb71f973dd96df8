"""The searched ensemble: scikit-learn's contract, its parts against plain estimators, the rule that it loses to none of them, odd sets."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import PredefinedSplit
from sklearn.utils.estimator_checks import check_estimator

from qcfer.classify import search
from qcfer.classify.afp import AFP
from qcfer.classify.esv import KernelSVC, load, save
from qcfer.classify.search import FIRST_RUNG, ESVSearch, Recipe, compared, logistic_path, metric_value, out_of_fold, vote_weights

QUICK = {"kinds": ("LR",), "scalings": (None, "standard"), "cv": 3, "random_state": 0}


@pytest.fixture(scope="module", autouse=True)
def small_grid():
    "Three C for eight: most of this file's time goes into fits."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "GRID", {"LR": (1e-2, 1e-1, 1.0), "SVM": (1.0,), "RF": (None,)})
        yield


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(700, 24, n_informative=9, n_classes=4, weights=[0.4, 0.3, 0.2, 0.1], random_state=3)
    return X.astype(np.float32), np.array(["anger", "fear", "happiness", "neutral"])[y]


@pytest.fixture(scope="module")
def fitted(data):
    X, y = data
    return ESVSearch(cv=3, random_state=0).fit(X[:400], y[:400])


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_in_full(monkeypatch):
    monkeypatch.setattr(search, "GRID", {"LR": (1.0,), "SVM": (1.0,), "RF": (None,)})
    check_estimator(ESVSearch(kinds=("LR", "SVM"), scalings=("standard",), sizes=("adaptive",), class_weights=(None,), cv=2))


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("loudness", [1e-3, 30])
def test_every_step_of_the_path_is_a_logistic_regression_of_its_own(weight, classes, loudness):
    X, y = make_classification(300, 12, n_informative=6, n_classes=classes, random_state=0)
    X *= loudness * np.logspace(0, -1, 12)
    X = AFP(normalize=False, scaling=None, n_components=None, unit=True).fit_transform(X)
    for C, machine in zip((1e-2, 1.0, 10.0), logistic_path(X, y, (1e-2, 1.0, 10.0), weight)):
        plain = LogisticRegression(C=C, class_weight=weight, max_iter=5000, tol=1e-9).fit(X, y)
        assert machine.predict_proba(X) == pytest.approx(plain.predict_proba(X), abs=5e-3)
        assert machine.n_iter_.max() < machine.max_iter


def test_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    y, guess = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    assert metric_value("accuracy", y, guess) == pytest.approx((y == guess).mean())
    assert metric_value("balanced_accuracy", y, guess) == pytest.approx(balanced_accuracy_score(y, guess))
    assert metric_value("macro_f1", y, guess) == pytest.approx(f1_score(y, guess, average="macro"))
    twice = rng.integers(0, 3, 300)
    for name in search.METRICS:
        assert metric_value(name, y, guess, twice.astype(float)) == pytest.approx(metric_value(name, y.repeat(twice), guess.repeat(twice)))


def test_a_class_without_a_held_out_row_is_left_out_of_the_mean():
    y, guess = np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2])
    assert metric_value("balanced_accuracy", y, guess) == pytest.approx(0.75)
    assert metric_value("macro_f1", y, guess) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_greedy_votes_never_fall_below_the_best_candidate():
    rng = np.random.default_rng(1)
    for _ in range(20):
        y, tables = rng.integers(0, 3, 80), rng.dirichlet([1, 1, 1], (6, 80))
        for metric in search.METRICS:
            shares = vote_weights(tables, y, metric)
            assert shares.sum() == pytest.approx(1) and (shares >= 0).all()
            best = max(metric_value(metric, y, table.argmax(1)) for table in tables)
            assert metric_value(metric, y, np.tensordot(shares, tables, 1).argmax(1)) >= best


def test_voters_that_err_on_different_rows_are_put_together():
    y = np.zeros(90, int)
    tables = np.full((3, 90, 2), (0.9, 0.1))
    for number in range(3):
        tables[number, number * 30 : number * 30 + 30] = (0.4, 0.6)  # each is narrowly wrong on another third
    assert np.count_nonzero(vote_weights(tables, y)) >= 2
    said = out_of_fold(tables, y, np.arange(90), "accuracy", [0], 0)
    assert (said["ensemble"] == y).mean() == 1 and (said["best candidate"] == y).mean() < 0.75
    gain = compared(y, said["best candidate"], said["ensemble"], np.arange(90), "accuracy", 0)
    assert gain["low"] > 0 and gain["n"] == 90


def test_an_ensemble_that_only_looks_good_on_the_rows_that_chose_it_is_not_cast(monkeypatch):
    "Fifty candidates of pure chance and one plain logistic regression: the greedy vote shines where it was chosen and nowhere else."
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    lucky = rng.dirichlet([1, 1], (50, 300))
    honest = np.where((y == 1)[:, None], (0.45, 0.55), (0.55, 0.45)) * np.ones((300, 2))
    honest[rng.permutation(300)[:80]] = (0.5, 0.5)
    tables = np.concatenate([honest[None], lucky])
    ensemble = ESVSearch()
    ensemble._decide(tables, y, np.arange(300), [0], 0)
    assert ensemble.strategy_ == "first rung"
    worth = {name: (predicted == y).mean() for name, predicted in out_of_fold(tables, y, np.arange(300), "accuracy", [0], 0).items()}
    assert worth[ensemble.strategy_] == max(worth.values())


def test_what_is_richer_must_win_by_more_than_a_standard_error():
    "Two candidates that differ in a few rows: the plain one answers until the other is clearly better."
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    right, wrong = np.where((y == 1)[:, None], (0.3, 0.7), (0.7, 0.3)), np.where((y == 1)[:, None], (0.7, 0.3), (0.3, 0.7))
    for more, expected in ((2, "first rung"), (60, "best candidate")):
        plain, other = right.copy(), right.copy()
        plain[:100], other[: 100 - more], other[300:303] = wrong[:100], wrong[: 100 - more], wrong[300:303]
        ensemble = ESVSearch()
        ensemble._decide(np.stack([plain, other]), y, np.arange(400), [0], 0)
        assert ensemble.strategy_ == expected


def test_what_votes_is_at_least_as_good_out_of_fold_as_its_parts(fitted, data):
    X, y = data
    assert set(fitted.comparisons_) == {"first rung", "best candidate"}
    if fitted.strategy_ == "ensemble":
        assert all(part["value"] >= 0 for part in fitted.comparisons_.values())
    assert all(part["low"] <= part["value"] <= part["high"] and part["n"] == 400 for part in fitted.comparisons_.values())
    plain = ESVSearch(kinds=("LR",), scalings=(None,), sizes=(None,), class_weights=(None,), vote=False, cv=3, random_state=0)
    plain.fit(X[:400], y[:400])
    assert fitted.score(X[400:], y[400:]) > plain.score(X[400:], y[400:]) - 0.02


def test_the_table_says_what_was_searched_and_what_was_chosen(fitted):
    rows = fitted.candidates_
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names)) and any(name.startswith("LR") and name.endswith("unscaled whole") for name in names)
    chosen = [row for row in rows if row["selected"]]
    assert len(chosen) == fitted.top_m_ == len(fitted.estimators_) and sum(row["weight"] for row in chosen) == pytest.approx(1)
    assert all(0 <= row["score"] <= 1 and row["accuracy"] == row["score"] for row in rows)
    every = {recipe for recipe in ESVSearch().usable_candidates(np.zeros(400, int))}
    assert {name.split(" ", 2)[0] for name in names} == {recipe.kind for recipe in every}
    assert len({(name.split()[0], *name.split()[2:]) for name in names}) == len(every)  # each recipe once at least


def test_a_voter_is_what_the_plain_estimators_say(data):
    X, y = data
    name = Recipe("LR", "standard").named(0.01)
    ensemble = ESVSearch(candidates=[name], cv=3, random_state=0).fit(X[:400], y[:400])
    afp = AFP(scaling="standard").fit(X[:400])
    seen = afp.transform(X)
    unit = np.sqrt(seen[:400].var(0).mean())
    plain = LogisticRegression(C=0.01, max_iter=1000, tol=1e-8).fit(seen[:400] / unit, y[:400])
    assert (ensemble.predict(X[400:]) == plain.predict(seen[400:] / unit)).mean() > 0.99
    assert ensemble.strategy_ == "best candidate" and ensemble.comparisons_ == {}


def test_threads_change_nothing(data):
    X, y = data
    one, two = (ESVSearch(**QUICK | {"n_jobs": jobs}).fit(X[:400], y[:400]) for jobs in (None, 2))
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    assert one.candidates_ == two.candidates_


def test_probabilities_are_calibrated(data):
    X, y = data
    X, y = make_classification(3000, 20, n_informative=8, n_classes=3, flip_y=0.3, random_state=1)
    ensemble = ESVSearch(**QUICK).fit(X[:1000], y[:1000])
    told = ensemble.predict_proba(X[1000:])
    assert told.max(1).mean() == pytest.approx((told.argmax(1) == y[1000:]).mean(), abs=0.04)


def test_held_out_rows_have_no_say_in_what_is_fitted(data):
    X, y = data
    fold = np.where(np.arange(len(y)) < 500, -1, 0)
    spoilt = X.copy()
    spoilt[500:] *= 1e3
    plan = {Recipe("LR", "standard", None): (0.01,)}
    codes = np.unique(y, return_inverse=True)[1]
    ensemble = ESVSearch()
    ensemble.classes_ = np.unique(y)
    train = np.flatnonzero(fold == -1)
    clean, dirty = (ensemble._tables(rows, codes, plan, train, np.arange(10), 0) for rows in (X, spoilt))
    np.testing.assert_array_equal(*(table[Recipe("LR", "standard", None), 0.01][0] for table in (clean, dirty)))


def test_it_is_the_same_every_time_and_again_after_a_file(data, tmp_path):
    X, y = data
    ensemble = ESVSearch(cv=2, random_state=5, memory=str(tmp_path / "memory"))
    first, second = clone(ensemble).fit(X[:300], y[:300]), clone(ensemble).fit(X[:300], y[:300])
    assert (first.predict_proba(X) == second.predict_proba(X)).all()
    save(first, tmp_path / "model.skops")
    again = load(tmp_path / "model.skops")
    assert isinstance(again, ESVSearch) and (again.predict_proba(X) == first.predict_proba(X)).all()
    assert again.candidates_ == first.candidates_ and again.comparisons_ == first.comparisons_


def test_the_declared_metric_decides(data):
    X, y = data
    for metric in search.METRICS:
        rows = ESVSearch(metric=metric, **QUICK).fit(X[:300], y[:300]).candidates_
        tried = [row["score"] for row in rows if row["finalist"]]
        assert tried == sorted(tried, reverse=True)
    assert any(row["score"] != row["accuracy"] for row in rows)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"metric": "auc"}, "expected metric accuracy, balanced_accuracy, macro_f1; found 'auc'"),
        ({"kinds": "LR"}, "expected kinds as a list out of LR, SVM, RF; found 'LR'"),
        ({"kinds": ()}, "expected kinds as a list"),
        ({"scalings": ("minmax",)}, "expected scalings as a list out of None, standard, robust"),
        ({"candidates": ["LR C=7"]}, "expected candidates such as 'LR C=0.01 standard PCA' from an earlier search"),
        ({"kinds": ("SVM",), "svm_max_samples": 10}, "found none of SVM for 700 rows .svm_max_samples=10."),
        ({"kinds": ("SVM",), "sizes": (None,)}, "expected a candidate; found none of SVM"),
    ],
)
def test_bad_settings_are_named(settings, words, data):
    with pytest.raises(ValueError, match=f"^{words}" if words.startswith("expected") else words) as caught:
        ESVSearch(**settings).fit(*data)
    assert "\n" not in str(caught.value)


def test_bad_rows_are_named(data):
    X, y = data
    with pytest.raises(ValueError, match="found NaN or inf in 1 of 700 rows, first in row 2$"):
        ESVSearch().fit(np.where(np.arange(X.size).reshape(X.shape) == 50, np.nan, X), y)
    with pytest.raises(ValueError, match="one class, anger"):
        ESVSearch().fit(X, np.full(len(X), "anger"))
    with pytest.raises(ValueError, match="fold 1 trains on; found fear$"):
        ESVSearch(cv=PredefinedSplit(np.where(y == "fear", -1, 0))).fit(X, y)


@pytest.mark.parametrize("rare", [1, 2, 3])
@pytest.mark.parametrize("metric", search.METRICS)
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_a_class_of_a_row_or_two_is_learned_all_the_same(rare, metric):
    X, y = make_blobs([40, 40, rare], 6, cluster_std=1, random_state=0)
    ensemble = ESVSearch(kinds=("LR", "SVM"), scalings=(None,), metric=metric, cv=3, random_state=0).fit(X, y)
    assert ensemble.predict_proba(X).shape == (80 + rare, 3) and np.isfinite(ensemble.predict_proba(X)).all()


def test_a_class_that_val_has_not_got(data):
    X, y = data
    fold = np.where((np.arange(len(y)) % 4 == 0) & (y != "neutral"), 0, -1)
    ensemble = ESVSearch(metric="balanced_accuracy", **QUICK | {"cv": PredefinedSplit(fold)}).fit(X, y)
    assert (ensemble.predict(X) == "neutral").any() and ensemble.validation_proba_.shape == ((fold == 0).sum(), 4)


def test_rows_of_one_group_leave_nothing_to_compare():
    X, y = make_blobs(60, 4, centers=3, cluster_std=2, random_state=0)
    fold = np.where(np.arange(60) % 3, -1, 0)
    ensemble = ESVSearch(**QUICK | {"cv": PredefinedSplit(fold)}).fit(X, y, groups=np.where(fold == 0, 7, np.arange(60)))
    assert (ensemble.strategy_, ensemble.comparisons_) == ("best candidate", {})


def test_the_first_rung_always_takes_part(data, monkeypatch):
    monkeypatch.setattr(search, "FINALISTS", {"LR": 1})
    X, y = data
    names = [row["name"] for row in ESVSearch(**QUICK).fit(X[:300], y[:300]).candidates_ if row["finalist"]]
    assert any(name in [FIRST_RUNG.named(C) for C in search.GRID["LR"]] for name in names)


def test_a_fit_that_came_to_no_end_is_not_chosen_where_another_did(data, monkeypatch):
    monkeypatch.setattr(search, "_converged", lambda fitted: fitted.C < 0.5)
    monkeypatch.setattr(search, "GRID", {"LR": (0.1, 1.0)})
    X, y = data
    scaled = {"kinds": ("LR",), "scalings": ("standard",), "sizes": (None,), "class_weights": (None,), "cv": 2, "random_state": 0}
    names = [row["name"] for row in ESVSearch(**scaled).fit(X[:300], y[:300]).candidates_]
    assert names == ["LR C=0.1 standard whole"]


def test_a_row_says_the_same_alone_and_in_company():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 200)).astype(np.float32)
    y = (X[:, :5] @ rng.normal(size=(5, 4))).argmax(1)
    afp = AFP(scaling="standard", n_components=60).fit(X[:1000])
    seen = afp.transform(X)
    np.testing.assert_array_equal(np.concatenate([afp.transform(X[row : row + 1]) for row in range(50)]), seen[:50])
    machine = KernelSVC(C=5.0).fit(seen[:1000], y[:1000])
    votes = machine.shared_votes(seen)
    alone = np.concatenate([machine.shared_votes(seen[row : row + 1]) for row in range(50)])
    np.testing.assert_allclose(alone, votes[:50], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(machine)).shared_votes(seen), votes)
    assert len(pickle.dumps(machine)) < 1.5 * machine.support_vectors_.nbytes  # what is made of the vectors is not kept
    machine.fit(seen[:1000], y[:1000][::-1])
    assert (machine.shared_votes(seen) != votes).any()
