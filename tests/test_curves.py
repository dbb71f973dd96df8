"""qcfer.evaluate.curves against plain loops, the functions of qcfer.evaluate.scores, NumPy, and simulated worlds whose truth is known."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcfer.classify.afp import AFP
from qcfer.core.labels import CLASSES
from qcfer.evaluate import curves
from qcfer.evaluate.bootstrap import compare
from qcfer.evaluate.scores import score

COLUMNS = [f"p_{name}" for name in CLASSES]


def world(seed, subjects=80, per_subject=28, furthest=90.0, fall=0.5, luck=0.1):
    """Simulated predictions; the accuracy is 0.8 at 0 degrees and `fall` less at 90, on average over subjects."""
    rng = np.random.default_rng(seed)
    n = subjects * per_subject
    group, label, yaw = np.repeat(np.arange(subjects), per_subject), rng.integers(0, 7, n), rng.uniform(-furthest, furthest, n)
    right = rng.random(n) < 0.8 - fall * np.abs(yaw) / 90 + rng.uniform(-luck, luck, subjects)[group]
    predicted = np.where(right, label, (label + rng.integers(1, 7, n)) % 7)
    image = [f"{row:05}" for row in range(n)]
    return pd.DataFrame({"image": image, "label": label, "predicted": predicted, "group": group, "yaw": yaw, "split": "test"})


# ---- accuracy against yaw


@pytest.mark.parametrize("bandwidth", [5.0, 10.0, 25.0])
def test_the_curve_is_the_weighted_mean_of_a_plain_loop(bandwidth):
    rows = world(0).round({"yaw": 0})
    found = curves.yaw_curve(rows, bandwidth=bandwidth, n_boot=2)
    right = (rows.label == rows.predicted).to_numpy()
    for place in (0, 7, 22, 45):
        at, yaw = found["yaw"][place], rows.yaw.abs().to_numpy()
        weights = sum(np.maximum(1 - ((side * yaw - at) / bandwidth) ** 2, 0) for side in (1, -1))
        assert found["value"][place] == pytest.approx(np.average(right, weights=weights))
        assert found["n"][place] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), abs=0.06)


def test_the_band_is_that_of_a_bootstrap_of_subjects_by_hand():
    rows = world(1, 60, 20, luck=0.3).round({"yaw": 0})
    found, rng = curves.yaw_curve(rows, n_boot=4000), np.random.default_rng(5)
    place = found["yaw"].index(40)
    weights = np.maximum(1 - ((rows.yaw.abs() - 40) / 10) ** 2, 0)
    sums = pd.DataFrame({"g": rows.group, "w": weights, "r": weights * (rows.label == rows.predicted)}).groupby("g").sum().to_numpy()
    drawn = np.array([sums[rng.integers(0, 60, 60)].sum(0) for _ in range(4000)])
    low, high = np.percentile(drawn[:, 1] / drawn[:, 0], [2.5, 97.5])
    assert (found["low"][place], found["high"][place]) == pytest.approx((low, high), abs=0.012)


def test_a_very_wide_window_gives_the_accuracy_and_its_interval():
    rows = world(2)
    found, whole = curves.yaw_curve(rows, bandwidth=1e7), score(rows.label, rows.predicted, rows.group)["accuracy"]
    for key in ("value", "low", "high"):
        assert found[key] == pytest.approx([whole[key]] * 46, abs=0.004)
    assert found["n"] == pytest.approx([len(rows)] * 46)


def test_the_pointwise_band_holds_a_straight_truth():
    held = []
    for seed in range(200):
        found = curves.yaw_curve(world(seed, per_subject=14), n_boot=200, step=30, seed=seed)
        held.append([low <= 0.8 - 0.5 * at / 90 <= high for at, low, high in zip(found["yaw"], found["low"], found["high"])][1:3])
    assert (np.mean(held, 0) >= 0.9).all() and (np.mean(held, 0) <= 0.99).all()


def test_there_is_no_curve_where_few_subjects_are():
    rows = world(3, furthest=45)
    found = curves.yaw_curve(rows, n_boot=20)
    assert None not in found["value"][:23]
    assert found["value"][-10:] == found["low"][-10:] == found["high"][-10:] == [None] * 10 and found["n"][-1] == 0
    few = curves.yaw_curve(world(4, subjects=15, per_subject=200), n_boot=20)
    assert set(few["value"]) == {None} and max(few["n"]) > 400  # many faces, too few subjects
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_neither_side_nor_order_nor_unknown_faces_matter(seed):
    rows = world(seed, 30, 8)
    rng = np.random.default_rng(seed)
    unknown = rows[:9].assign(yaw=np.nan)
    other = pd.concat([rows.assign(yaw=rows.yaw * rng.choice([-1, 1], len(rows))), unknown]).sample(frac=1, random_state=seed)
    one, two = (curves.yaw_curve(part, n_boot=2) for part in (rows, other))
    np.testing.assert_allclose(np.array(one["value"], float), np.array(two["value"], float))
    assert one["n"] == two["n"]


def test_without_a_known_yaw_there_is_nothing():
    rows = world(5, 20, 2)
    assert curves.yaw_curve(rows.drop(columns="yaw")) == curves.yaw_curve(rows.assign(yaw=np.nan)) == curves.yaw_curve(rows[:0]) == {}
    beyond = curves.yaw_curve(rows.assign(yaw=120.0, group=np.arange(40)), n_boot=2)
    assert beyond["n"][-1] == 40  # counts as 90
    with pytest.raises(ValueError, match="above 0 degrees; found -3"):
        curves.yaw_curve(rows, bandwidth=-3)


# ---- margins and seeds


def test_margins_are_those_of_a_plain_loop():
    p, label = np.random.default_rng(0).dirichlet(np.ones(7), 300), np.random.default_rng(1).integers(0, 7, 300)
    rows = pd.DataFrame(p, columns=COLUMNS).assign(label=label, group=np.arange(300) // 3)
    expected = np.mean([row[own] - max(value for c, value in enumerate(row) if c != own) for row, own in zip(p, label)])
    found = curves.margin(rows)
    assert found["value"] == pytest.approx(expected) and found["n"] == 300 and found["low"] < expected < found["high"]


def test_a_margin_is_one_for_certainty_and_minus_one_for_certain_error():
    certain = pd.DataFrame(np.eye(7)[[0, 1, 2, 3]], columns=COLUMNS).assign(group=range(4))
    assert curves.margin(certain.assign(label=[0, 1, 2, 3]))["value"] == 1
    assert curves.margin(certain.assign(label=[1, 2, 3, 4]))["value"] == -1
    assert curves.margin(certain[["group"]].assign(label=0)) is None and curves.margin(certain[:0].assign(label=[])) is None


def rivals(seed, gain=0.02):
    """Two classifiers that see the same 400 faces of 80 subjects and mostly agree; B is clearer on every face, by up to twice `gain`."""
    rng = np.random.default_rng(seed)
    label, own = np.repeat(rng.integers(0, 7, 80), 5), np.repeat(rng.normal(0, 0.5, 80), 5)
    logits = rng.normal(0, 1, (400, 7)) + own[:, None] * np.eye(7)[label]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    share = rng.uniform(0, 2 * gain, (400, 1))
    face = {"label": label, "group": np.arange(400) // 5, "image": [f"{row:03}" for row in range(400)], "split": "test"}
    return (pd.DataFrame(part, columns=COLUMNS).assign(**face) for part in (p, (1 - share) * p + share * np.eye(7)[label]))


def test_a_margin_difference_is_paired_whatever_the_order():
    a, b = rivals(0)
    found = curves.margin_difference(a, b.sample(frac=1, random_state=0))
    one, two = curves.margin(a), curves.margin(b)
    assert found["value"] == pytest.approx(two["value"] - one["value"]) and found["n"] == 400
    assert one["high"] > two["low"] and found["low"] > 0  # the intervals overlap, the difference is clear
    back = curves.margin_difference(b, a)
    assert [back["value"], back["n"]] == [pytest.approx(-found["value"]), 400] and back["high"] < 0
    assert [curves.margin_difference(a, a)[key] for key in ("value", "low", "high")] == [0, 0, 0]


TRUE_DIFFERENCE = 0.02426
"The mean over 1,500 other worlds of `rivals`."


def test_margin_differences_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(200):
        found = curves.margin_difference(*rivals(seed), n_boot=200, seed=seed)
        held.append(found["low"] <= TRUE_DIFFERENCE <= found["high"])
    assert 0.9 <= np.mean(held) <= 0.99


def test_a_margin_difference_needs_the_same_faces_and_probabilities():
    a, b = rivals(1)
    assert curves.margin_difference(a, b.drop(columns=COLUMNS)) is None is curves.margin_difference(a.drop(columns=COLUMNS), b)
    with pytest.raises(ValueError, match="same faces and labels in both tables; found 400 and 399"):
        curves.margin_difference(a, b[1:])
    with pytest.raises(ValueError, match="each face once in the b rows; found 400 again"):
        curves.margin_difference(a, pd.concat([b, b]))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_spread_is_numpys(values):
    found = curves.spread(iter(values))
    assert (found["mean"], found["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (found["min"], found["max"], found["n"]) == (min(values), max(values), len(values))


# ---- scaling


def test_scaling_shows_what_enters_the_pca():
    rng = np.random.default_rng(0)
    X = rng.normal(1, 1, (400, 30)) * 10 ** rng.uniform(-2, 1, 30)
    X[:, 4] = np.where(rng.random(400) < 0.05, X[:, 4], 0)
    afp = AFP().fit(X)
    table = curves.scaling_effect(X, afp)
    before, after = (table[table.stage == stage].sort_values("feature") for stage in ("before", "after"))
    np.testing.assert_allclose(before[["q05", "q50", "q95"]], np.percentile(X, [5, 50, 95], axis=0).T)
    whole = AFP(n_components=None).fit(X).transform(X)
    np.testing.assert_allclose(after[["q25", "q75"]], np.percentile(whole, [25, 75], axis=0).T, atol=1e-9)
    assert before["rank"].tolist() == after["rank"].tolist() and sorted(before["rank"]) == list(range(30))
    widths = (before.q95 - before.q05).to_numpy()[np.argsort(before["rank"])]
    assert (np.diff(widths) >= 0).all()
    assert after.degenerate.tolist() == afp.degenerate_.tolist() and after.degenerate.iloc[4]


def test_scaling_draws_faces_with_the_seed_and_survives_a_round_trip(tmp_path):
    X = np.random.default_rng(1).normal(size=(900, 8))
    afp = AFP(normalize=False, scaling=None, n_components=None).fit(X)
    one, again, other = (curves.scaling_effect(X, afp, seed, faces=100) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, again)
    assert not one.equals(other)
    np.testing.assert_allclose(one[one.stage == "before"].q50, one[one.stage == "after"].q50)
    one.to_parquet(tmp_path / "scaling.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scaling.parquet"), one, check_dtype=False)
    with pytest.raises(ValueError, match=r"8 each; found shape \(900, 3\)"):
        curves.scaling_effect(X[:, :3], afp)


# ---- the beginning of frontalization


def conditions(seed=0):
    raw = pd.concat([world(seed, 40).assign(split="val"), world(seed + 1)], ignore_index=True)
    raw["image"] = [f"{row:05}" for row in raw.index]
    luck = np.random.default_rng(seed).random(len(raw))
    predicted = raw.predicted.mask((raw.yaw.abs() > 60) & (luck < 0.4), raw.label)
    return raw, raw.assign(predicted=predicted.mask(raw.yaw.abs().between(30, 60) & (luck < 0.2), (raw.label + 1) % 7))


def test_each_threshold_is_a_paired_comparison_of_a_mixture():
    raw, frontal = conditions()
    sweep = curves.threshold_sweep(raw, frontal.sample(frac=1, random_state=0), (30, 50, 72.5))
    assert [(row["split"], row["threshold"]) for row in sweep] == [(s, t) for s in ("test", "val") for t in (30, 50, 72.5)]
    for row in sweep:
        of_split = raw.split == row["split"]
        part, other = raw[of_split], frontal[of_split]
        mixed = part.predicted.where(part.yaw.abs() <= row["threshold"], other.predicted)
        expected, paired = score(part.label, mixed, part.group)["accuracy"], compare(part.label, part.predicted, mixed, part.group)
        assert row["accuracy"] == pytest.approx(expected, abs=0.004) and row["accuracy"]["value"] == pytest.approx(expected["value"])
        assert row["gain"]["value"] == pytest.approx(paired["value"])
        assert (row["gain"]["low"], row["gain"]["high"]) == pytest.approx((paired["low"], paired["high"]), abs=0.004)
        assert row["frontalized"] == (part.yaw.abs() > row["threshold"]).sum()


def test_faces_are_told_apart_by_the_yaw_by_which_they_were_frontalized():
    raw, frontal = conditions()
    estimated = raw.yaw + np.random.default_rng(0).normal(0, 8, len(raw))
    by_estimate = curves.threshold_sweep(raw.assign(estimated_yaw=estimated), frontal, n_boot=50)
    assert by_estimate == curves.threshold_sweep(raw.assign(yaw=estimated), frontal, n_boot=50)
    beyond = {row["threshold"]: row["frontalized"] for row in by_estimate if row["split"] == "test"}
    of_test = raw.split == "test"
    assert beyond[30] == (estimated[of_test].abs() > 30).sum() != (raw.yaw[of_test].abs() > 30).sum()


def test_below_thirty_degrees_nothing_was_frontalized():
    raw, frontal = conditions()
    sweep = curves.threshold_sweep(raw, frontal.assign(predicted=np.where(raw.yaw.abs() <= 30, 0, frontal.predicted)), n_boot=50)
    test = [row | {"threshold": 0} for row in sweep if row["split"] == "test" and row["threshold"] <= 30]
    assert len(test) == 7 and all(row == test[0] for row in test)
    last = [row for row in sweep if row["threshold"] == 90]
    assert all(row["gain"]["value"] == row["gain"]["low"] == row["gain"]["high"] == row["frontalized"] == 0 for row in last)


def test_the_best_threshold_is_read_off_validation_faces():
    raw, frontal = conditions()
    sweep = curves.threshold_sweep(raw, frontal, n_boot=10)
    assert curves.best_threshold(sweep) == 60
    spoiled = [row | ({"accuracy": {"value": 1.0}} if (row["split"], row["threshold"]) == ("test", 35) else {}) for row in sweep]
    assert curves.best_threshold(spoiled) == 60 and curves.best_threshold(spoiled, "test") == 35
    assert curves.best_threshold([row for row in sweep if row["split"] == "test"]) is None


def test_a_sweep_needs_the_same_faces():
    raw, frontal = conditions()
    for bad in (frontal[1:], frontal.assign(label=(frontal.label + 1) % 7), frontal.assign(image=frontal.image + "x")):
        with pytest.raises(ValueError, match="same faces and labels"):
            curves.threshold_sweep(raw, bad)
    with pytest.raises(ValueError, match="give one condition"):
        curves.threshold_sweep(pd.concat([raw, raw]), frontal)
    assert curves.threshold_sweep(raw.assign(yaw=np.nan), frontal) == []


def test_a_frontalizer_that_turns_every_face_is_swept_from_zero_on():
    raw, frontal = conditions()
    sweep = curves.threshold_sweep(raw, frontal, beyond=-1.0, n_boot=50)
    test = [row for row in sweep if row["split"] == "test"]
    counts = [row["frontalized"] for row in test]
    yaw = raw.yaw[raw.split == "test"].abs()
    assert counts == [(yaw > row["threshold"]).sum() for row in test] and counts[0] > counts[3] > counts[6]
    assert test[0]["accuracy"]["value"] == pytest.approx((frontal.label == frontal.predicted)[frontal.split == "test"].mean(), abs=0.02)
    assert curves.never_below(sweep) == 0 and curves.never_below(curves.threshold_sweep(raw, frontal, n_boot=50)) == 30
    assert curves.never_below([]) == 0
