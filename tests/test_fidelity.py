"""qcfer.evaluate.fidelity against closed forms, plain loops and simulated worlds whose truth is known."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from sklearn.metrics import mean_absolute_error
from sklearn.neighbors import NearestNeighbors

from qcfer.core.yaw import YAW_BINS, yaw_bin
from qcfer.evaluate import fidelity as fi

def poses(seed, subjects=40, each=8):
    rng = np.random.default_rng(seed)
    n = subjects * each
    true = np.column_stack([rng.uniform(-90, 90, n), rng.normal(0, 10, n), rng.normal(0, 6, n)])
    groups = np.repeat([f"s{number}" for number in range(subjects)], each)
    luck = rng.normal(0, 2, (subjects, 3))[np.repeat(np.arange(subjects), each)]
    return true + luck + rng.normal(0, 3, (n, 3)), true, groups


# ---- the mean and its interval


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 5)), min_size=1, max_size=40), st.randoms())
@settings(max_examples=50)
def test_the_order_of_the_rows_and_the_names_of_the_groups_change_nothing(rows, chance):
    shuffled = chance.sample(rows, len(rows))
    first = fi.mean_metric([value for value, _ in rows], [group for _, group in rows], 50, 0)
    other = fi.mean_metric([value for value, _ in shuffled], [f"subject {group}" for _, group in shuffled], 50, 0)
    assert first == other
    assert first["value"] == pytest.approx(np.mean([value for value, _ in rows]), abs=1e-9)


def test_the_interval_is_that_of_a_plain_loop():
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 30, 200)
    values = rng.exponential(size=200) + groups / 10
    found = fi.mean_metric(values, groups, 4000, 1)
    by_group = [values[groups == group] for group in np.unique(groups)]
    draws = [np.concatenate([by_group[i] for i in rng.integers(0, len(by_group), len(by_group))]).mean() for _ in range(4000)]
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.06)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    def holds(seed):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), 5)
        metric = fi.mean_metric(rng.normal(size=60)[groups] + rng.normal(size=300), groups, 400, 0)
        return metric["low"] <= 0 <= metric["high"]

    assert 0.90 <= np.mean([holds(seed) for seed in range(300)]) <= 0.985


# ---- pose


def test_pose_error_is_the_mean_absolute_error_of_each_bin():
    estimated, true, groups = poses(0)
    offset = {"yaw": 0.5, "pitch": 14.0, "roll": -1.0}
    error = fi.pose_error(estimated, true, groups, offset, n_boot=100)
    assert error["offset"] == offset and list(error["bins"]) == list(YAW_BINS)
    for name, row in error["bins"].items():
        part = yaw_bin(true[:, 0]) == name
        expected = mean_absolute_error(true[part], estimated[part] - [0.5, 14, -1], multioutput="raw_values")
        assert [row[angle]["value"] for angle in fi.ANGLES] == pytest.approx(expected)
        assert {row[angle]["n"] for angle in fi.ANGLES} == {part.sum()}
    assert json.loads(json.dumps(error, allow_nan=False)) == error


def test_a_constant_error_is_found_and_taken_out():
    _estimated, true, groups = poses(1)
    offset = fi.pose_offset(true + [2.0, 14.0, -3.0], true)
    assert offset == pytest.approx({"yaw": 2.0, "pitch": 14.0, "roll": -3.0})
    left = fi.pose_error(true + [2.0, 14.0, -3.0], true, groups, offset, n_boot=10)["bins"]
    assert max(metric["value"] for row in left.values() for metric in row.values()) < 1e-9
    # only near-frontal faces count, and a few absurd readings do not move it
    wild = np.where(np.abs(true[:, :1]) <= 15, true + [0, 14, 0], true + 60)
    wild[np.flatnonzero(np.abs(true[:, 0]) <= 15)[:5]] += 90
    assert fi.pose_offset(wild, true)["pitch"] == pytest.approx(14)


@given(st.floats(-180, 180), st.floats(-180, 180))
def test_angles_meet_at_the_half_turn(one, other):
    apart = Rotation.from_euler("z", one, degrees=True).inv() * Rotation.from_euler("z", other, degrees=True)
    assert abs(fi._signed_error(one, other)) == pytest.approx(np.degrees(apart.magnitude()), abs=1e-5)


def test_the_bins_follow_the_true_yaw_and_empty_ones_are_absent():
    error = fi.pose_error([[80.0, 0, 0]] * 3, [[10.0, 0, 0]] * 3, ["a", "b", "c"], n_boot=5)
    assert list(error["bins"]) == ["frontal"] and error["bins"]["frontal"]["yaw"]["value"] == 70
    assert error["offset"] == {"yaw": 0.0, "pitch": 0.0, "roll": 0.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fi.pose_error(np.zeros((3, 3)), np.zeros((2, 3)), [1, 2, 3]), "expected arrays of one shape"),
        (lambda: fi.pose_error(np.zeros((3, 3)), np.zeros((3, 3)), [1, 2]), "2 groups"),
        (lambda: fi.pose_error(np.full((3, 3), np.nan), np.zeros((3, 3)), [1, 2, 3]), "in estimated; found 9"),
        (lambda: fi.pose_error(np.zeros((0, 3)), np.zeros((0, 3)), []), "0 groups"),
        (lambda: fi.pose_offset(np.full((2, 3), 40.0), np.full((2, 3), 40.0)), "found none among 2"),
        (lambda: fi.landmark_error(np.zeros((2, 5, 2)), np.zeros((2, 5, 2)), [1, 2]), "expected 68 landmarks"),
        (lambda: fi.landmark_error(np.zeros((2, 68, 2)), np.zeros((2, 68, 2)), [1, 2]), "found 2 faces where they are one"),

        (lambda: fi.identification(np.eye(2), np.eye(2), [0, 0], ["a", None]), "expected a group for every face; found 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- landmarks


def test_landmark_error_by_a_loop_and_in_its_own_unit():
    rng = np.random.default_rng(0)
    true = rng.uniform(20, 200, (30, 68, 2))
    found, groups = true + rng.normal(0, 4, true.shape), np.arange(30) // 2
    expected = []
    for face, truth in zip(found, true):
        eyes = np.hypot(*(truth[36] - truth[45]))
        expected.append(sum(np.hypot(*(point - place)) for point, place in zip(face, truth)) / 68 / eyes)
    metric = fi.landmark_error(found, true, groups, n_boot=50)
    assert metric["value"] == pytest.approx(np.mean(expected)) and metric["n"] == 30
    assert metric["low"] <= metric["value"] <= metric["high"]
    larger = fi.landmark_error(3 * found, 3 * true, groups, n_boot=50)
    assert larger["value"] == pytest.approx(metric["value"])
    assert fi.landmark_error(true, true, groups, n_boot=5) == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 30}


# ---- identity


def people(noise, seed=0, subjects=25, per=3):
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"s{number:02}" for number in range(subjects)], 7 * per)
    label = np.tile(np.repeat(np.arange(7), per), subjects)
    gallery = rng.normal(size=(subjects * 7, 16)).repeat(per, axis=0)
    return gallery + noise * rng.normal(size=gallery.shape), gallery, label, groups


def test_identification_equals_a_nearest_neighbour_search_of_each_expression():
    features, gallery, label, groups = people(1.5)
    faces = pd.DataFrame({"label": label, "group": groups})
    hits = []
    for _, part in faces.groupby("label"):
        shown = part.drop_duplicates("group")
        search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(gallery[shown.index])
        nearest = search.kneighbors(features[part.index], return_distance=False)[:, 0]
        hits += list(shown.group.to_numpy()[nearest] == part.group.to_numpy())
    metric = fi.identification(features, gallery, label, groups, n_boot=50)
    assert 0.3 < metric["value"] < 0.95
    assert metric["value"] == pytest.approx(np.mean(hits)) and metric["n"] == len(features)


def test_the_truth_finds_itself_and_noise_does_so_by_chance():
    _, gallery, label, groups = people(0)
    assert fi.identification(gallery, gallery, label, groups, n_boot=5)["value"] == 1
    features, gallery, label, groups = people(1e6, subjects=25, per=8)
    assert fi.identification(features, gallery, label, groups, n_boot=5)["value"] == pytest.approx(1 / 25, abs=0.02)


def test_length_and_order_do_not_matter_and_another_expression_is_no_rival():
    features, gallery, label, groups = people(1.0)
    first = fi.identification(features, gallery, label, groups, n_boot=50)
    order = np.random.default_rng(1).permutation(len(label))
    scale = np.random.default_rng(2).uniform(0.1, 9, (len(label), 1))
    assert fi.identification((scale * features)[order], gallery[order], label[order], groups[order], n_boot=50) == first
    # s00's smile looks exactly like s01's frown: no matter
    views = np.eye(4)
    assert fi.identification(views[[1, 0]], np.vstack([views[1], views[0]]), [3, 0], ["s00", "s01"], n_boot=5)["value"] == 1


def test_a_tie_is_not_found():
    same = np.ones((4, 3))
    assert fi.identification(same, same, [2] * 4, list("abcd"), n_boot=5)["value"] == 0
