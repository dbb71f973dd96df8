"""qcfer.evaluate.scores against scikit-learn, SciPy, closed forms, plain slow loops and simulated worlds whose truth is known."""

import json
import time
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from scipy.stats import binom, binomtest
from sklearn import metrics as sk

from qcfer.core.labels import CLASSES
from qcfer.evaluate import scores as ev
from qcfer.evaluate.bootstrap import compare, confusion
from simulated_worlds import faces, world

SUMMARY = ("accuracy", "balanced_accuracy", "macro_f1")
def values(metrics):
    return {name: metrics[name]["value"] for name in SUMMARY}


# ---- point values


@settings(deadline=None)  # the first example pays for what is done once
@given(faces)
def test_point_values_are_those_of_scikit_learn(rows):
    true, predicted, _ = rows
    scores = ev.score(true, predicted, n_boot=2)
    precision, recall, f1, support = sk.precision_recall_fscore_support(true, predicted, labels=range(7), zero_division=0)
    present = np.unique(true)
    assert values(scores) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(true, predicted),
            "balanced_accuracy": sk.recall_score(true, predicted, labels=present, average="macro"),
            "macro_f1": sk.f1_score(true, predicted, average="macro", zero_division=0),
        }
    )
    for c, name in enumerate(CLASSES):
        found = scores["per_class"][name]
        expected = {"precision": precision[c], "recall": recall[c], "f1": f1[c]}
        assert {key: found[key]["value"] for key in expected} == pytest.approx(expected)
        assert {found[key]["n"] for key in expected} == {found["n"]} == {support[c]}
    np.testing.assert_array_equal(confusion(true, predicted), sk.confusion_matrix(true, predicted, labels=range(7)))


def test_balanced_accuracy_is_that_of_scikit_learn_when_every_class_occurs():
    true, predicted, _ = world(3, 200)
    found = ev.score(true, predicted, n_boot=2)["balanced_accuracy"]["value"]
    assert found == pytest.approx(sk.balanced_accuracy_score(true, predicted))


def test_a_case_worked_by_hand():
    scores = ev.score([3, 3, 3, 0], [3, 3, 0, 0], n_boot=5)
    assert values(scores) == pytest.approx({"accuracy": 3 / 4, "balanced_accuracy": 5 / 6, "macro_f1": (4 / 5 + 2 / 3) / 2})
    happiness, fear = scores["per_class"]["happiness"], scores["per_class"]["fear"]
    assert (happiness["precision"]["value"], happiness["recall"]["value"], happiness["n"]) == pytest.approx((1, 2 / 3, 3))
    assert fear["recall"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}


@given(faces)
def test_a_score_is_plain_json_with_ordered_bounds_and_no_nan(rows):
    scores = ev.score(*rows, n_boot=20)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    for metric in [scores[name] for name in SUMMARY]:
        assert 0 <= metric["low"] <= metric["high"] <= 1 and metric["n"] == rows.shape[1]


# ---- intervals


def loop_bootstrap(true, predicted, group, n_boot, seed=1):
    """The bootstrap as a textbook writes it: draw groups, gather their rows, call scikit-learn."""
    rng, names = np.random.default_rng(seed), np.unique(group)
    rows_of = {name: np.flatnonzero(group == name) for name in names}
    for _ in range(n_boot):
        rows = np.concatenate([rows_of[name] for name in rng.choice(names, len(names))])
        t, p = true[rows], predicted[rows]
        precision, recall, f1, _ = sk.precision_recall_fscore_support(t, p, labels=range(7), zero_division=0)
        yield [(t == p).mean(), recall[np.unique(t)].mean(), f1[np.union1d(t, p)].mean(), precision[2], recall[2], f1[2]]


@pytest.mark.parametrize("per_subject", [1, 5])
def test_intervals_are_those_of_a_plain_loop(per_subject):
    true, predicted, group = world(0, 200 // per_subject, per_subject, spread=0.3)
    group = np.array([f"subject {g % 23 if per_subject > 1 else g}" for g in group])  # unequal sizes, names as words
    draws = np.array(list(loop_bootstrap(true, predicted, group, 1500)))
    scores = ev.score(true, predicted, group, n_boot=6000)
    fear = scores["per_class"]["fear"]
    found = [scores[name] for name in SUMMARY] + [fear[name] for name in ("precision", "recall", "f1")]
    for metric, column in zip(found, draws.T):
        # a 2.5 % quantile of 1,500 normal draws has a standard error of 0.07 standard deviations; four of them
        assert [metric["low"], metric["high"]] == pytest.approx(np.percentile(column, [2.5, 97.5]), abs=0.28 * column.std())


def test_without_groups_the_accuracy_interval_is_binomial():
    true, predicted, _ = world(1, 1000)
    found = ev.score(true, predicted, n_boot=20_000)["accuracy"]
    expected = binom.ppf([0.025, 0.975], 1000, found["value"]) / 1000
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.002)


def test_the_same_seed_gives_the_same_interval_whatever_the_order_and_names():
    true, predicted, group = world(2, 60, 4, spread=0.3)
    shuffled = np.random.default_rng(0).permutation(len(true))
    renamed = np.array([f"s{(g * 7) % 60}" for g in group])
    expected = ev.score(true, predicted, group)
    assert ev.score(true[shuffled], predicted[shuffled], renamed[shuffled]) == expected
    assert ev.score(true, predicted, group, seed=1) != expected
    assert values(ev.score(true, predicted, group, seed=1)) == values(expected)


def test_groups_of_one_are_no_groups():
    true, predicted, group = world(4, 300)
    assert ev.score(true, predicted, group) == ev.score(true, predicted)


def test_copies_of_a_face_add_no_evidence():
    true, predicted, group = world(5, 200)
    once, tenfold = ev.score(true, predicted, group), ev.score(*(np.repeat(column, 10) for column in (true, predicted, group)))
    assert tenfold["accuracy"]["n"] == 2000
    assert {**tenfold["accuracy"], "n": 200} == pytest.approx(once["accuracy"])


@pytest.mark.parametrize(("subjects", "per_subject", "spread"), [(300, 1, 0.0), (60, 6, 0.3)])
def test_intervals_hold_the_truth_as_often_as_they_say(subjects, per_subject, spread):
    hits = 0
    for seed in range(400):
        found = ev.score(*world(seed, subjects, per_subject, spread), n_boot=400)["accuracy"]
        hits += found["low"] <= 0.6 <= found["high"]
    assert 0.92 <= hits / 400 <= 0.98


def test_intervals_that_ignore_subjects_hold_it_too_seldom():
    hits = 0
    for seed in range(200):
        true, predicted, _ = world(seed, 60, 6, spread=0.3)
        found = ev.score(true, predicted, n_boot=400)["accuracy"]
        hits += found["low"] <= 0.6 <= found["high"]
    assert hits / 200 < 0.88


def among_others(right, per_group=1):
    """300 faces of 300 subjects, right two times in three, and faces of disgust: one number a subject, the share that is right."""
    true, predicted, group = world(20, 300)
    predicted = np.where(true == 1, 0, predicted)
    true, predicted = np.where(true == 1, 0, true), np.where(predicted == 1, 0, predicted)
    hits = np.concatenate([np.arange(per_group) < round(share * per_group) for share in right])
    owner = 300 + np.repeat(np.arange(len(right)), per_group)
    return np.r_[true, np.ones(len(hits), int)], np.r_[predicted, np.where(hits, 1, 3)], np.r_[group, owner]


def wilson(right, groups):
    return tuple(binomtest(right, groups).proportion_ci(method="wilson"))


@pytest.mark.parametrize("size", [1, 3, 4, 10])
@pytest.mark.parametrize("per_group", [1, 7])
def test_a_small_class_that_is_all_right_or_all_wrong_proves_little(size, per_group):
    sure = ev.score(*among_others([1.0] * size, per_group))["per_class"]["disgust"]
    for name in ("precision", "recall", "f1"):
        assert sure[name]["value"] == 1 and (sure[name]["low"], sure[name]["high"]) == pytest.approx(wilson(size, size)), name
    assert (sure["n"], sure["groups"]) == (size * per_group, size)
    lost = ev.score(*among_others([0.0] * size, per_group))["per_class"]["disgust"]
    upper = wilson(0, size)[1]
    assert (lost["recall"]["low"], lost["recall"]["high"]) == pytest.approx((0, upper))
    assert (lost["f1"]["low"], lost["f1"]["high"]) == pytest.approx((0, 2 * upper / (1 + upper)))  # F1 = 2 J / (1 + J), J a share
    assert lost["precision"] == {"value": 0, "low": 0, "high": 0, "n": size * per_group}  # never predicted


def test_draws_without_the_class_say_nothing_of_its_recall():
    found = ev.score(*among_others([0.8], per_group=5))["per_class"]["disgust"]
    assert [found["recall"][key] for key in ("value", "low", "high")] == pytest.approx([0.8] * 3)
    found = ev.score(*among_others([1.0, 0.6], per_group=5))["per_class"]["disgust"]
    assert [found["recall"][key] for key in ("value", "low", "high")] == pytest.approx([0.8, 0.6, 1.0])


@pytest.mark.parametrize("skill", [0, 1])
def test_an_accuracy_of_all_or_nothing_has_an_interval_over_subjects(skill):
    true, group = np.arange(70) % 7, np.repeat(np.arange(10), 7)
    scores = ev.score(true, true if skill else (true + 1) % 7, group)
    bounds = wilson(10 * skill, 10)
    assert (scores["accuracy"]["low"], scores["accuracy"]["high"]) == pytest.approx(bounds)
    assert scores["accuracy"]["value"] == scores["macro_f1"]["value"] == scores["balanced_accuracy"]["value"] == skill
    assert (scores["balanced_accuracy"]["low"], scores["balanced_accuracy"]["high"]) == pytest.approx(bounds)
    assert scores["macro_f1"]["low"] == pytest.approx(bounds[0]) and scores["macro_f1"]["high"] >= bounds[1]


def test_the_recall_of_six_faces_is_held_as_often_as_of_many():
    rng, held = np.random.default_rng(0), []
    for seed in range(300):
        recall = ev.score(*among_others((rng.random(6) < 0.9).astype(float)), n_boot=200, seed=seed)["per_class"]["disgust"]["recall"]
        held.append(recall["low"] <= 0.9 <= recall["high"])
    assert np.mean(held) >= 0.9


def test_a_hundred_thousand_faces_fit_in_little_memory():
    true, predicted, group = world(6, 33_334, 3, spread=0.3)  # thousands of different kinds of group: the worst case
    tracemalloc.start()
    found = ev.score(true, predicted, group)["accuracy"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["n"] == 100_002 and 0.002 < found["high"] - found["low"] < 0.02
    assert peak < 250e6


def test_it_is_far_faster_than_a_loop():
    true, predicted, group = world(7, 3589)

    def seconds(run):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    fast = min(seconds(lambda: ev.score(true, predicted, group)) for _ in range(3))
    slow = seconds(lambda: list(loop_bootstrap(true, predicted, group, 10))) * 200
    assert slow / fast > 20


def test_wilsons_interval_counts_the_groups_behind_each_rate():
    low = binomtest(2, 2).proportion_ci(method="wilson").low
    found = ev.score([0, 0, 0, 0, 2], [0, 0, 1, 1, 2], [1, 2, 3, 4, 5], n_boot=20)["per_class"]
    assert found["anger"]["precision"] == pytest.approx({"value": 1, "low": low, "high": 1, "n": 4}, abs=1e-6)
    assert (found["anger"]["n"], found["anger"]["groups"]) == (4, 4)
    found = ev.score([0, 0, 1, 1, 2], [0, 0, 0, 0, 2], [1, 2, 3, 4, 5], n_boot=20)["per_class"]
    assert found["anger"]["recall"] == pytest.approx({"value": 1, "low": low, "high": 1, "n": 2}, abs=1e-6)
    assert found["disgust"]["f1"] == pytest.approx({"value": 0, "low": 0, "high": 1.959964**2 / (1 + 1.959964**2), "n": 2}, abs=1e-6)
    assert (found["fear"]["n"], found["fear"]["groups"]) == (1, 1)


# ---- parts of a test set


def table(**columns):
    rows = max(len(column) for column in columns.values())
    return pd.DataFrame({"label": [0] * rows, "predicted": [0] * rows, "group": range(rows), "split": "test"} | columns)


def test_bins_and_profile_by_hand():
    yaw = [0, 15, -15.1, 30, -30.1, 45, 45.1, -90, np.nan]
    right = [1, 1, 1, 0, 1, 0, 0, 1, 0]
    scores = ev.evaluate(table(yaw=yaw, predicted=[1 - r for r in right]), n_boot=10)
    found = {name: (part["accuracy"]["n"], part["accuracy"]["value"]) for name, part in scores["yaw_bins"].items()}
    assert found == {"frontal": (2, 1), "moderate": (2, 0.5), "large": (2, 0.5), "extreme": (2, 0.5)}
    assert (scores["profile"]["accuracy"]["n"], scores["profile"]["accuracy"]["value"]) == (4, 0.5)
    assert (scores["test"]["accuracy"]["n"], scores["test"]["accuracy"]["value"]) == (9, pytest.approx(5 / 9))


def test_parts_that_nobody_measured_are_absent():
    assert list(ev.evaluate(table(label=[0, 1]), n_boot=5)) == ["test"]
    assert list(ev.evaluate(table(yaw=[np.nan, np.nan]), n_boot=5)) == ["test"]
    frontal = ev.evaluate(table(yaw=[1.0, -2.0], usage=["PublicTest"] * 2), n_boot=5)
    assert set(frontal) == {"test", "yaw_bins"} and list(frontal["yaw_bins"]) == ["frontal"]


def test_only_the_test_split_counts_and_each_usage_is_scored():
    predictions = table(
        label=[0, 0, 1, 1, 5], predicted=[0, 1, 1, 1, 6], split=["test"] * 4 + ["val"],
        usage=["PublicTest", "PublicTest", "PrivateTest", "PrivateTest", "Training"],
    )  # fmt: skip
    scores = ev.evaluate(predictions, n_boot=5)
    assert scores["test"]["accuracy"]["n"] == 4
    assert {name: part["accuracy"]["value"] for name, part in scores["usage"].items()} == {"PublicTest": 0.5, "PrivateTest": 1}


def test_groups_reach_the_interval():
    true, predicted, group = world(8, 60, 6, spread=0.3)
    scores = ev.evaluate(table(label=true, predicted=predicted, group=group, yaw=np.zeros(360)))
    assert scores["test"] == ev.score(true, predicted, group) == scores["yaw_bins"]["frontal"]


def test_draws_and_seed_reach_every_part():
    true, predicted, group = world(14, 40, 3, spread=0.3)
    rows = table(label=true, predicted=predicted, group=group, yaw=np.full(120, 60.0), usage=np.arange(120) % 2)
    scores, options = ev.evaluate(rows, n_boot=9, seed=4), {"n_boot": 9, "seed": 4}
    whole = ev.score(true, predicted, group, **options)
    assert scores["test"] == scores["profile"] == scores["yaw_bins"]["extreme"] == whole
    assert scores["usage"]["1"] == ev.score(true[1::2], predicted[1::2], group[1::2], **options)
    assert whole not in (ev.score(true, predicted, group, n_boot=9), ev.score(true, predicted, group, seed=4))
    cut = {"image": [f"{i}.png" for i in range(120)]}
    a, b = rows.assign(**cut), rows.assign(**cut, predicted=true)
    first, second = ev.ladder({"a": a, "b": b}, cumulative=True, **options)
    compared = compare(true, predicted, true, group, **options)
    assert {name: second["versus_previous"][name] for name in compared} == compared
    compared = compare(true, true, predicted, group, **options)
    assert {name: first["versus_full"][name] for name in compared} == compared
    assert first["metrics"] == scores and first["versus_previous"] is second["versus_full"] is None
    bench = pd.concat([a.assign(condition="raw"), b.assign(condition="oracle"), a.assign(condition="f")])
    found = ev.posebench_score(bench, ("raw", "oracle", "f"), **options)
    assert found["accuracy"]["raw"]["test"] == whole["accuracy"]
    assert found["headroom"]["f"] == {part: {"value": 0, "low": 0, "high": 0, "n": 120} for part in ("profile", "extreme")}


def test_a_named_reference_and_the_last_rung_otherwise():
    base = table(label=[0, 1, 2], image=list("xyz"))
    rungs = {"a": base.assign(predicted=[0, 1, 2]), "b": base.assign(predicted=[0, 1, 1]), "c": base.assign(predicted=[0, 0, 1])}
    gains = lambda steps: [step["versus_full"] and round(3 * step["versus_full"]["value"]) for step in steps]  # noqa: E731
    assert gains(ev.ladder(rungs, n_boot=5)) == [2, 1, None] and gains(ev.ladder(rungs, "a", n_boot=5)) == [None, -1, -2]
    steps = [step["versus_previous"] for step in ev.ladder(rungs, cumulative=True, n_boot=5)]
    assert steps[0] is None and [round(3 * step["value"]) for step in steps[1:]] == [-1, -1]
    assert all(step["versus_previous"] is None for step in ev.ladder(rungs, n_boot=5))


def test_tables_of_the_same_faces_meet_by_face_where_all_have_one():
    image, face = pd.DataFrame({"image": ["a"]}), pd.DataFrame({"image": ["a"], "face": [0]})
    assert [ev.face_key(face, face), ev.face_key(face, image), ev.face_key(image)] == ["face", "image", "image"]


# ---- ladders


def test_a_ladder_compares_every_rung_with_the_full_method():
    true, full, group = world(13, 50, 4)
    worse = np.where(np.arange(200) % 5 == 0, (true + 1) % 7, full)
    base = table(label=true, group=group, image=[f"{i}.png" for i in range(200)])
    rungs = {"a": base.assign(predicted=worse), "b": base.assign(predicted=full), "full": base.assign(predicted=full)}
    steps = ev.ladder(rungs, n_boot=50)
    assert [step["name"] for step in steps] == ["a", "b", "full"]
    assert steps[0]["versus_full"]["value"] == pytest.approx((worse == true).mean() - (full == true).mean())
    assert steps[0]["versus_full"]["p_holm"] == pytest.approx(2 * steps[0]["versus_full"]["p_permutation"])
    assert (steps[1]["versus_full"]["value"], steps[1]["versus_full"]["p_holm"]) == (0, 1)
    assert steps[2]["versus_full"] is None and steps[2]["metrics"]["test"]["accuracy"]["n"] == 200
    json.dumps(steps, allow_nan=False)


# ---- bad input


@pytest.mark.parametrize(
    ("true", "predicted", "groups", "message"),
    [
        ([], [], None, "one face at least"),
        ([[0, 1]], [[0, 1]], None, r"found shape \(1, 2\)"),
        ([0, 7], [0, 0], None, "y_true to hold whole numbers 0..6; found 7 of"),
        ([0, 1], [0, -1], None, "y_pred to hold whole numbers 0..6; found -1 of"),
        ([0.0, np.nan], [0, 1], None, "of type float64"),
        (["anger"], ["anger"], None, "whole numbers 0..6; found 'anger' of"),
        ([0, 1], [0], None, "{'y_true': 2, 'y_pred': 1}"),
        ([0, 1], [0, 1], [1], "{'y_true': 2, 'y_pred': 2, 'groups': 1}"),
        ([0, 1], [0, 1], ["a", None], "a group for every face; found 1 without"),
    ],
)
def test_bad_labels_are_refused_in_one_line(true, predicted, groups, message):
    with pytest.raises(ValueError, match=message) as caught:
        ev.score(true, predicted, groups)
    assert "\n" not in str(caught.value)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="found no group, split"):
        ev.evaluate(pd.DataFrame({"label": [0], "predicted": [0]}))
    with pytest.raises(ValueError, match=r"found splits \['train'\]"):
        ev.evaluate(table(split=["train"]))
    a, b = table(label=[0, 1], image=["x", "y"]), table(label=[0, 1], image=["y", "x"])
    with pytest.raises(ValueError, match="same test faces in the same order in 'a' and 'b'"):
        ev.ladder({"a": a, "b": b})


# ---- PoseBench's score


def condition(name, right, group, yaw=40.0, **columns):
    """A condition's test rows: label 3, and 3 is predicted where `right`."""
    right = np.asarray(right, bool)
    image = [f"{row:05}.jpg" for row in range(len(right))]
    rows = {
        "condition": name,
        "image": image,
        "split": "test",
        "label": 3,
        "predicted": np.where(right, 3, 5),
        "group": group,
        "yaw": yaw,
    }
    return pd.DataFrame(rows | columns)


def lucky(seed, subjects, skills, per_subject=4, spread=0.1):
    """Simulated conditions of given expected accuracies, on the same faces with the same luck of a subject."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(subjects), per_subject)
    luck = rng.random(len(group)) + rng.choice([-spread, spread], subjects)[group]
    return pd.concat([condition(name, luck < skill, group) for name, skill in skills.items()], ignore_index=True)


def test_headroom_of_known_counts():
    group = np.arange(100)
    rows = [
        condition(name, group < hits, group)
        for name, hits in {"raw": 20, "oracle": 80, "f": 50, "worse": 5, "beyond": 86}.items()
    ]
    found = ev.posebench_score(pd.concat(rows), ("raw", "oracle", "f", "worse", "beyond"))
    assert {name: part["profile"]["value"] for name, part in found["accuracy"].items()} == pytest.approx(
        {"raw": 0.2, "oracle": 0.8, "f": 0.5, "worse": 0.05, "beyond": 0.86}
    )
    assert {name: part["profile"]["value"] for name, part in found["headroom"].items()} == pytest.approx(
        {"f": 0.5, "worse": -0.25, "beyond": 1.1}
    )
    assert set(found["headroom"]["f"]) == {"profile", "large"}  # no face is beyond 45 degrees
    assert found["headroom"]["f"]["profile"]["n"] == 100
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_frontalizer_that_is_raw_or_oracle_recovers_nothing_or_all_without_doubt():
    rows = lucky(0, 60, {"raw": 0.3, "oracle": 0.8})
    twins = [rows[rows.condition == name].assign(condition=f"as {name}") for name in ("raw", "oracle")]
    found = ev.posebench_score(pd.concat([rows, *twins]), ("raw", "oracle", "as raw", "as oracle"))["headroom"]
    assert [found["as raw"]["profile"][key] for key in ("value", "low", "high")] == [0, 0, 0]
    assert [found["as oracle"]["profile"][key] for key in ("value", "low", "high")] == [1, 1, 1]


def test_the_accuracies_are_those_of_evaluate():
    rows = pd.concat([lucky(1, 40, {"raw": 0.4, "oracle": 0.7}), lucky(2, 40, {"raw": 0.9}).assign(split="val")])
    rows["yaw"] = np.tile([0.0, -20.0, 44.0, -80.0], len(rows) // 4)
    found = ev.posebench_score(rows)
    assert found["headroom"] == {}
    for name, subsets in found["accuracy"].items():
        metrics = ev.evaluate(rows[rows.condition == name])
        assert subsets == {part: metrics[part]["accuracy"] for part in ("test", "profile")} | {
            part: metric["accuracy"] for part, metric in metrics["yaw_bins"].items()
        }


def test_headroom_interval_is_that_of_a_plain_paired_loop():
    rows = lucky(3, 40, {"raw": 0.35, "oracle": 0.75, "f": 0.55})
    found = ev.posebench_score(rows, ("raw", "oracle", "f"), n_boot=4000)["headroom"]["f"]["profile"]
    hits = rows.assign(hit=rows.label == rows.predicted).pivot_table(
        index="group", columns="condition", values="hit", aggfunc="sum"
    )
    rng, shares = np.random.default_rng(9), []
    for _ in range(4000):
        drawn = hits.iloc[rng.integers(0, 40, 40)].sum()
        shares.append((drawn.f - drawn.raw) / (drawn.oracle - drawn.raw))
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(shares, [2.5, 97.5]), abs=0.02)
    assert found["low"] < found["value"] < found["high"]


def test_headroom_intervals_hold_the_truth_as_often_as_they_say():
    skills = {"raw": 0.3, "oracle": 0.7, "f": 0.5}  # luck is even around them, so half of the headroom is recovered

    def interval(seed):
        return ev.posebench_score(lucky(seed, 60, skills), tuple(skills), n_boot=300, seed=seed)["headroom"]["f"]["profile"]

    held = [metric["low"] <= 0.5 <= metric["high"] for metric in map(interval, range(200))]
    assert 0.90 <= np.mean(held) <= 0.99


def test_without_headroom_there_is_no_share_of_it():
    group = np.arange(200)
    rows = {"raw": group < 100, "oracle": group >= 95, "f": group < 120}  # the oracle leads by 5 of 200: chance
    found = ev.posebench_score(pd.concat([condition(name, right, group) for name, right in rows.items()]), tuple(rows))
    assert found["headroom"] == {"f": {}}
    rows["oracle"] = group < 50  # and here it is worse
    found = ev.posebench_score(pd.concat([condition(name, right, group) for name, right in rows.items()]), tuple(rows))
    assert found["headroom"] == {"f": {}}


def test_draws_without_headroom_count_for_any_share_of_it():
    """Of 400 faces four leave room (a draw has none in exp(-4) = 1.8 %), f is right on one of them and loses another face."""
    group = np.arange(400)
    rows = {"raw": group >= 4, "oracle": group >= 0, "f": (group >= 4) & (group != 300) | (group == 0)}
    conditions = [condition(name, right, group) for name, right in rows.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ev.posebench_score(pd.concat(conditions), tuple(rows), n_boot=20_000)["headroom"]["f"]["profile"]
    won, open_, lost, _ = np.random.default_rng(5).multinomial(400, np.array([1, 3, 1, 395]) / 400, 400_000).T
    shares = np.divide(won - lost, won + open_, where=won + open_ > 0, out=np.full(400_000, np.nan))
    low, high = (np.quantile(np.nan_to_num(shares, nan=worst), q) for worst, q in ((-np.inf, 0.025), (np.inf, 0.975)))
    assert (found["value"], found["low"], found["high"]) == (0, low, high) and (low, high) == (-2, 1)


def test_two_thousand_draws_by_a_fixed_seed_unless_told_otherwise():
    rows = lucky(3, 40, {"raw": 0.35, "oracle": 0.75, "f": 0.55})
    names = ("raw", "oracle", "f")
    assert ev.posebench_score(rows, names) == ev.posebench_score(rows, names, n_boot=2000, seed=0)
    assert ev.posebench_score(rows, names) != ev.posebench_score(rows, names, n_boot=2001, seed=0)
    rng, one = np.random.default_rng(0), rows[rows.condition == "f"]
    one = one.assign(label=rng.integers(0, 7, len(one)), predicted=rng.integers(0, 7, len(one)))
    assert ev.evaluate(one) == ev.evaluate(one, n_boot=2000, seed=0)
    assert ev.evaluate(one) != ev.evaluate(one, n_boot=2000, seed=1) and ev.evaluate(one) != ev.evaluate(one, n_boot=2001, seed=0)


@pytest.mark.parametrize("seed", range(20))
def test_a_lead_that_is_just_clear_gives_finite_ordered_bounds(seed):
    rng = np.random.default_rng(seed)
    group, right = np.arange(60), rng.random((3, 60)) < [[0.3], [0.48], [0.4]]
    rows = [condition(name, hits, group) for name, hits in zip(("raw", "oracle", "f"), right)]
    found = ev.posebench_score(pd.concat(rows), ("raw", "oracle", "f"), n_boot=500)["headroom"]["f"]
    for metric in found.values():
        assert np.isfinite([metric["low"], metric["high"]]).all() and metric["low"] <= metric["value"] <= metric["high"]


def test_rows_in_any_order_and_other_conditions_change_no_score():
    rows = lucky(4, 30, {"raw": 0.3, "oracle": 0.8, "f": 0.5})
    first = ev.posebench_score(rows, ("raw", "oracle", "f"))
    more = pd.concat([rows, lucky(5, 10, {"+ AFP": 0.9, "raw_with_duplicates": 0.1}), rows.assign(split="val")])
    assert ev.posebench_score(more.sample(frac=1, random_state=0), ("raw", "oracle", "f")) == first
    assert ev.posebench_score(rows.assign(group=rows.group.map("s{:03}".format)), ("raw", "oracle", "f")) == first


def test_posebench_predictions_that_cannot_be_compared_are_refused():
    rows = lucky(6, 10, {"raw": 0.3, "oracle": 0.8, "f": 0.5})
    with pytest.raises(ValueError, match="found raw, no oracle"):
        ev.posebench_score(rows[rows.condition != "oracle"])
    with pytest.raises(ValueError, match="found oracle, raw, no qwen"):
        ev.posebench_score(rows, ("raw", "oracle", "qwen"))
    with pytest.raises(ValueError, match="found f, raw, no oracle"):
        ev.posebench_score(rows, ("raw", "f"))
    with pytest.raises(ValueError, match="found no group, yaw"):
        ev.posebench_score(rows.drop(columns=["yaw", "group"]))
    for other in (
        rows.iloc[:-1],
        pd.concat([rows, rows.tail(1)]),
        rows.assign(yaw=np.where(rows.condition == "f", 50, rows.yaw)),
    ):
        with pytest.raises(ValueError, match="same test faces, each once, in the conditions raw and f"):
            ev.posebench_score(other, ("raw", "oracle", "f"))
