"""Laws that hold for every set of faces: their order, copies, units, names and mirror images change what they should and nothing else."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sklearn.metrics import confusion_matrix

from qcfer.classify.afp import AFP, location_scale
from qcfer.classify.esv import ESV, class_weights, floor_weights
from qcfer.core.labels import CLASSES
from qcfer.core.pictures import PictureList
from qcfer.core.yaw import YAW_BINS, is_profile, pose_to_matrix, yaw_bin
from qcfer.evaluate.bootstrap import compare, confusion, holm
from qcfer.evaluate.scores import evaluate, posebench_score, score
from qcfer.frontalize.conditions import get_frontalizer
from qcfer.frontalize.gate import SCORES, Thresholds, agreement, judge, reasons, similarity
from qcfer.frontalize.geometric import Geometric
from qcfer.frontalize.head import MIRRORED, SIZE
from simulated_worlds import faces

SUMMARY = ("accuracy", "balanced_accuracy", "macro_f1")
seeds = st.integers(0, 2**32 - 1)


def told(seed, rows=80, columns=6):
    "Features (N, D) of seven classes, each column with a spread and a place of its own; and the classes."
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 7
    means, mixing = rng.normal(0, 2, (7, columns)), rng.normal(size=(columns, columns)) * 3.0 ** np.arange(columns)
    return (means[y] + rng.normal(size=(rows, columns))) @ mixing, y, rng


def rates(found):
    "Every value, low and high of a nested record."
    for name, part in found.items():
        if isinstance(part, dict) and "value" in part:
            yield name, part
        elif isinstance(part, dict):
            yield from rates(part)


# ---- the order of the faces


@settings(deadline=None, max_examples=40)
@given(faces, seeds)
def test_the_order_of_faces_changes_no_metric_and_no_interval(rows, seed):
    mixed = rows[:, np.random.default_rng(seed).permutation(rows.shape[1])]
    assert score(*mixed, n_boot=30) == score(*rows, n_boot=30)
    (true, a, b), (mixed_true, mixed_a, mixed_b) = rows, mixed
    assert compare(mixed_true, mixed_a, mixed_b, n_boot=30) == compare(true, a, b, n_boot=30)


@settings(deadline=None, max_examples=25)
@given(seeds, st.sampled_from(["robust", "standard", None]), st.booleans(), st.booleans())
def test_the_order_of_faces_changes_no_preprocessed_feature(seed, scaling, normalize, whiten):
    X, _, rng = told(seed)
    mixed = rng.permutation(len(X))
    make = AFP(scaling=scaling, normalize=normalize, whiten=whiten, n_components=4)
    assert make.fit_transform(X[mixed]) == pytest.approx(make.fit_transform(X)[mixed], rel=1e-6, abs=1e-8)


def scores_of_pictures(seed, n=40):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({name: rng.random(n) * (60 if name == "residual_yaw" else 1) for name in SCORES})
    return table.mask(rng.random(table.shape) < 0.1), rng


THRESHOLDS = Thresholds(embedder=0.3, identity=0.2, agreement=0.1, residual_yaw=50, misfit=0.9, inside=0.1, asymmetry=0.9, margin=0.3)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_a_gates_verdict_on_a_picture_depends_on_that_picture_alone(seed):
    table, rng = scores_of_pictures(seed)
    verdicts, said = judge(table, THRESHOLDS), reasons(table, THRESHOLDS)
    some = rng.integers(0, len(table), 60)  # in another order, some twice, some not at all
    pd.testing.assert_series_equal(judge(table.iloc[some], THRESHOLDS), verdicts.iloc[some])
    pd.testing.assert_series_equal(reasons(table.iloc[some], THRESHOLDS), said.iloc[some])


# ---- copies of faces


@settings(deadline=None, max_examples=40)
@given(faces, st.integers(2, 5))
def test_copies_that_stay_in_their_group_change_no_value_and_no_p_value(rows, copies):
    true, a, b = rows
    group = np.arange(len(true)) // 2
    many = [np.tile(column, copies) for column in (true, a, b, group)]
    once, more = score(true, a, group, n_boot=20), score(*many[:2], many[3], n_boot=20)
    for (name, metric), (_, other) in zip(rates(once), rates(more), strict=True):
        assert other["value"] == pytest.approx(metric["value"]), name
        assert other["n"] == copies * metric["n"]
    first, second = compare(true, a, b, group, n_boot=20), compare(*many, n_boot=20)
    assert second["p_permutation"] == pytest.approx(first["p_permutation"]) and second["value"] == pytest.approx(first["value"])
    assert second["p_mcnemar"] <= first["p_mcnemar"] + 1e-12  # which takes copies for evidence


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(2, 4), st.sampled_from(["standard", None]))
def test_copies_of_all_faces_change_no_direction(seed, copies, scaling):
    X, y, _ = told(seed)
    once, more = (AFP(scaling=scaling, n_components=4).fit(np.tile(X, (times, 1))) for times in (1, copies))
    assert more.transform(X) == pytest.approx(once.transform(X), rel=1e-6, abs=1e-8)
    assert more.cumulative_variance_ == pytest.approx(once.cumulative_variance_)
    assert class_weights(np.tile(y, copies)) == pytest.approx(class_weights(y))
    assert floor_weights(np.tile(y, copies))[: len(y)] == pytest.approx(floor_weights(y))


# ---- the units of the features


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(["robust", "standard"]), st.booleans(), st.booleans(), st.sampled_from([4, None]))
def test_units_and_zeros_of_the_columns_do_not_matter(seed, scaling, whiten, unit, size):
    X, _, rng = told(seed)
    assume(size is not None or not whiten)
    factors, shifts = 10.0 ** rng.uniform(-3, 3, X.shape[1]), rng.normal(0, 10, X.shape[1])
    make = AFP(normalize=False, scaling=scaling, whiten=whiten, unit=unit, n_components=size)
    assert make.fit_transform(X * factors + shifts * factors) == pytest.approx(make.fit_transform(X), rel=1e-5, abs=1e-6)
    centre, scale, degenerate = location_scale(X, scaling)
    moved = location_scale((X + shifts) * factors, scaling)
    assert moved[0] == pytest.approx((centre + shifts) * factors) and moved[1] == pytest.approx(scale * factors)
    assert (moved[2] == degenerate).all()


@settings(deadline=None, max_examples=20)
@given(seeds, st.floats(1e-2, 1e2))
def test_turning_all_features_together_turns_the_directions_and_not_what_comes_out(seed, factor):
    X, _, rng = told(seed)
    turn = np.linalg.qr(rng.normal(size=(X.shape[1], X.shape[1])))[0]
    make = AFP(normalize=False, scaling=None, n_components=3)
    there, here = make.fit_transform(factor * X @ turn), make.fit_transform(X)
    assert np.abs(there) == pytest.approx(factor * np.abs(here), rel=1e-5, abs=1e-7 * factor * np.abs(here).max())


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_an_embeddings_length_is_no_part_of_likeness(seed, one, other):
    first, second = np.random.default_rng(seed).normal(size=(2, 12, 8))
    found = similarity(one * first, other * second)
    assert found == pytest.approx(similarity(first, second)) and found == pytest.approx(similarity(second, first))
    assert (np.abs(found) <= 1).all() and similarity(first, -one * first) == pytest.approx(-1)


# ---- mirrored pictures


angles = st.tuples(st.floats(-80, 80), st.floats(-25, 25), st.floats(-25, 25))


@given(angles)
def test_a_mirrored_face_is_as_far_turned_the_other_way(pose):
    mirrored = pose * np.array([-1, 1, -1])
    nose, mirrored_nose = pose_to_matrix(pose)[:, 2], pose_to_matrix(mirrored)[:, 2]
    assert mirrored_nose == pytest.approx(nose * [-1, 1, 1])
    assert yaw_bin(mirrored[0]) == yaw_bin(pose[0]) and is_profile(mirrored[0]) == is_profile(pose[0])


@pytest.fixture(scope="module")
def frontalizers():
    return Geometric(workers=1), Geometric(plain=True, workers=1)


def turned_face(head, pose, seed):
    "A picture of soft noise and the landmarks of a head that is turned so."
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    flat = 1100 * head.landmarks @ pose_to_matrix(pose)[:2].T
    landmarks = (flat - (flat.min(0) + flat.max(0)) / 2) * [1, -1] + SIZE / 2
    return noise, landmarks + rng.normal(0, 1, landmarks.shape)


@settings(deadline=None, max_examples=12)
@given(pose=angles, seed=seeds)
def test_the_view_of_a_mirrored_picture_is_the_view_mirrored(frontalizers, pose, seed):
    assume(abs(pose[0]) > 1)  # of a face that looks straight ahead either side may be taken
    for frontalizer, most, mean in zip(frontalizers, (2, 8), (0.1, 0.5)):  # the generic head's own halves differ by up to 1.7 mm
        picture, landmarks = turned_face(frontalizer._head, pose, seed)
        other = landmarks[list(MIRRORED)] * [-1, 1] + [SIZE, 0]
        pictures, poses = [picture, ImageOps.mirror(picture)], np.array([pose, pose * np.array([-1, 1, -1])])
        view, mirrored = frontalizer.frontalize(pictures, ["a", "b"], poses, np.stack([landmarks, other]))
        difference = np.abs(np.asarray(view, float) - np.asarray(ImageOps.mirror(mirrored), float))
        assert np.quantile(difference, 0.99) <= most and difference.mean() < mean
        for name, value in view.info.items():
            assert mirrored.info[name] == pytest.approx(value, rel=0.02, abs=0.01, nan_ok=True), name


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_mirroring_twice_is_no_change(seed):
    rng = np.random.default_rng(seed)
    pictures = [Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)) for _ in range(3)]
    mirror = get_frontalizer("mirrored")
    once = mirror.frontalize(pictures, "abc", None, None)
    assert PictureList(mirror.frontalize(once, "abc", None, None)).keys == PictureList(pictures).keys != PictureList(once).keys


# ---- the names of the classes


@settings(deadline=None, max_examples=40)
@given(faces, st.permutations(range(7)))
def test_renamed_classes_have_the_same_scores_under_their_new_names(rows, names):
    true, predicted, other = rows
    names = np.array(names)
    before, after = score(true, predicted, n_boot=20), score(names[true], names[predicted], n_boot=20)
    assert [after[name]["value"] for name in SUMMARY] == pytest.approx([before[name]["value"] for name in SUMMARY])
    for index, label in enumerate(CLASSES):
        renamed = after["per_class"][CLASSES[names[index]]]
        assert [value["value"] for _, value in rates(renamed)] == pytest.approx([v["value"] for _, v in rates(before["per_class"][label])])
        assert (renamed["n"], renamed["groups"]) == (before["per_class"][label]["n"], before["per_class"][label]["groups"])
    np.testing.assert_array_equal(confusion(names[true], names[predicted])[np.ix_(names, names)], confusion(true, predicted))
    assert compare(names[true], names[predicted], names[other], n_boot=20) == compare(true, predicted, other, n_boot=20)


@settings(deadline=None, max_examples=8)
@given(seeds, st.permutations(range(7)))
def test_an_ensemble_does_not_care_what_its_classes_are_called(seed, names):
    X, y, _ = told(seed, rows=140)
    names = np.array(names)
    make = ESV(candidates=["LR C=1"], cv=None)
    scaled = AFP(n_components=None, normalize=False).fit_transform(X)
    before, after = make.fit(scaled, y).predict_proba(scaled), make.fit(scaled, names[y]).predict_proba(scaled)
    assert after[:, names] == pytest.approx(before, abs=2e-3)  # the solver stops near the optimum, not at it


# ---- intervals


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(20, 60))
def test_an_interval_holds_its_value_and_shrinks_as_faces_are_added(seed, n):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 7, n)
    predicted = np.where(rng.random(n) < 0.6, true, rng.integers(0, 7, n))
    assume(0.2 < (true == predicted).mean() < 0.95)
    few, many = (score(np.tile(true, times), np.tile(predicted, times), n_boot=400) for times in (1, 16))
    for name in SUMMARY:
        assert many[name]["value"] == pytest.approx(few[name]["value"])
        widths = [found[name]["high"] - found[name]["low"] for found in (few, many)]
        # Four by the law of the square root; a draw without a rare class has another mean, so the means of classes shrink faster.
        assert 2 < widths[0] / widths[1] < (8 if name == "accuracy" else np.inf), name
    for found in (few["accuracy"], many["accuracy"], many["macro_f1"], compare(true, predicted, true, n_boot=400)):
        assert found["low"] <= found["value"] <= found["high"]


@settings(deadline=None, max_examples=60)
@given(faces)
def test_every_rate_lies_between_nothing_and_all(rows):
    true, a, b = rows
    for name, metric in rates(score(true, a, n_boot=20)):
        assert 0 <= metric["low"] <= metric["high"] <= 1 and 0 <= metric["value"] <= 1, name
    found = compare(true, a, b, n_boot=20)
    assert -1 <= found["low"] <= found["high"] <= 1 and 0 <= min(found["p_mcnemar"], found["p_permutation"])
    assert max(found["p_mcnemar"], found["p_permutation"]) <= 1
    turned = compare(true, b, a, n_boot=20)  # the other way round
    assert turned["value"] == -found["value"] and turned["p_permutation"] == pytest.approx(found["p_permutation"])
    assert score(true, true, n_boot=20)["accuracy"]["value"] == 1 == compare(true, a, a, n_boot=20)["p_permutation"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_adjusted_p_values_follow_their_tests_and_are_never_smaller(p_values, random):
    places = list(range(len(p_values)))
    random.shuffle(places)
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all() and (adjusted <= 1).all()
    ranked = adjusted[np.argsort(p_values, kind="stable")]
    assert (np.diff(ranked) >= 0).all()
    assert sorted(holm([p_values[place] for place in places])) == pytest.approx(sorted(adjusted))


# ---- whole and parts


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_the_yaw_bins_make_up_the_whole(seed):
    rng = np.random.default_rng(seed)
    n = 60
    table = pd.DataFrame({"label": rng.integers(0, 7, n), "predicted": rng.integers(0, 7, n), "group": np.arange(n), "split": "test"})
    table["yaw"] = rng.uniform(-90, 90, n)
    found = evaluate(table, n_boot=5)
    hits = [part["accuracy"]["value"] * part["accuracy"]["n"] for part in found["yaw_bins"].values()]
    assert set(found["yaw_bins"]) <= set(YAW_BINS) and sum(hits) == pytest.approx(found["test"]["accuracy"]["value"] * n)
    assert evaluate(table.assign(yaw=-table.yaw), n_boot=5) == found
    matrix = confusion(table.label, table.predicted)
    assert (matrix == confusion_matrix(table.label, table.predicted, labels=range(7))).all() and matrix.sum() == n


@settings(deadline=None, max_examples=15)
@given(seeds)
def test_a_frontalizer_between_raw_and_oracle_recovers_a_share_between_nothing_and_all(seed):
    rng = np.random.default_rng(seed)
    n = 200
    true, hard = rng.integers(0, 7, n), rng.random(n)
    faces = {"image": [f"{i:03}.png" for i in range(n)], "label": true, "group": np.arange(n), "yaw": 60.0, "split": "test"}
    right = {"raw": hard < 0.3, "middle": hard < 0.6, "oracle": hard < 0.9}
    rows = [pd.DataFrame(faces | {"condition": name, "predicted": np.where(hit, true, (true + 1) % 7)}) for name, hit in right.items()]
    table = pd.concat(rows).sample(frac=1, random_state=seed % 1000)
    found = posebench_score(table, ("raw", "oracle", "middle"), n_boot=100)["headroom"]["middle"]["profile"]
    hits = {name: hit.sum() for name, hit in right.items()}
    assert found["value"] == pytest.approx((hits["middle"] - hits["raw"]) / (hits["oracle"] - hits["raw"]))
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_agreement_is_whole_with_oneself_and_the_same_both_ways(seed):
    first, second = np.random.default_rng(seed).dirichlet(np.ones(7), (2, 20))
    found = agreement(first, second)
    assert ((found >= 0) & (found <= 1)).all() and found == pytest.approx(agreement(second, first))
    assert agreement(first, first) == pytest.approx(1)
