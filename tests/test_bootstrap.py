"""qcfer.evaluate.bootstrap against SciPy, plain slow loops and simulated worlds whose truth is known."""

import json
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from qcfer.evaluate.bootstrap import (
    Metric,
    class_indices,
    compare,
    drawn_shares,
    group_counts,
    holm,
    mean_of_rates,
    percentile_metric,
    rate_metric,
    rates_of_counts,
    resample_groups,
    share_of,
)
from simulated_worlds import classes, faces, world

@given(faces.flatmap(lambda rows: st.lists(classes, min_size=rows.shape[1], max_size=rows.shape[1]).map(lambda b: (*rows, b))))
def test_mcnemar_is_the_exact_binomial_test(rows):
    true, a, group, b = (np.array(row) for row in rows)
    only_a, only_b = int(((a == true) & (b != true)).sum()), int(((b == true) & (a != true)).sum())
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    found = compare(true, a, b, group, n_boot=2)
    assert found["p_mcnemar"] == pytest.approx(expected)
    assert found["value"] == pytest.approx((b == true).mean() - (a == true).mean())
    assert compare(true, a, b, n_boot=2)["p_permutation"] == pytest.approx(expected)
    mirrored = compare(true, b, a, group, n_boot=2)
    assert mirrored["p_permutation"] == pytest.approx(found["p_permutation"]) and mirrored["value"] == -found["value"]
    json.dumps(found, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9))
@settings(max_examples=60)
def test_the_permutation_test_equals_enumeration(wins):
    """Each group's faces: `x` that only A gets right, `y` that only B gets right, and one that both do."""
    true, a, b, group = (
        np.concatenate(column)
        for column in zip(*(([0] * (x + y + 1), [0] * x + [1] * y + [0], [1] * x + [0] * y + [0], [g] * (x + y + 1))
                            for g, (x, y) in enumerate(wins)))
    )  # fmt: skip
    differences = np.array([y - x for x, y in wins])
    sums = [abs((differences * signs).sum()) for signs in product([1, -1], repeat=len(wins))]
    expected = np.mean(np.array(sums) >= abs(differences.sum()))
    assert compare(true, a, b, group, n_boot=2)["p_permutation"] == pytest.approx(expected)


def test_the_permutation_test_agrees_with_random_flips_of_many_groups():
    rng = np.random.default_rng(0)
    true, a, group = world(9, 400, 5, spread=0.2)
    b = np.where(rng.random(len(true)) < 0.08, np.where(rng.random(len(true)) < 0.6, true, (true + 1) % 7), a)
    differences = np.bincount(group, (b == true) * 1.0 - (a == true))
    flips = rng.choice([1, -1], (20_000, 400)) @ differences
    expected = np.mean(np.abs(flips) >= abs(differences.sum()) - 1e-9)
    assert 0.001 < expected < 0.5
    assert compare(true, a, b, group)["p_permutation"] == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)


def test_the_interval_of_a_difference_is_paired():
    rng = np.random.default_rng(0)
    true, a, _ = world(10, 2000)
    b = np.where((a != true) & (rng.random(2000) < 0.1), true, a)
    found = compare(true, a, b)
    per_face = (b == true) * 1.0 - (a == true)
    assert found["n"] == 2000 and found["value"] == pytest.approx(per_face.mean())
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * per_face.std() / 2000**0.5, rel=0.1)


def null_rivals(seed, subjects, per_subject):
    """Two equally good classifiers; where subjects have several faces, whole subjects go to one or the other."""
    rng = np.random.default_rng(seed)
    true, base, group = world(seed, subjects, per_subject)
    luck = rng.choice([0, 1, 2], subjects)[group]
    wrong = (true + 1) % 7
    return true, *(np.where(luck == side, true, np.where(luck == 3 - side, wrong, base)) for side in (1, 2)), group


@pytest.mark.parametrize(("subjects", "per_subject"), [(300, 1), (60, 5)])
def test_false_alarms_are_five_percent(subjects, per_subject):
    trials = 1000
    p_values = [compare(*null_rivals(seed, subjects, per_subject), n_boot=1)["p_permutation"] for seed in range(trials)]
    alarms = int((np.array(p_values) < 0.05).sum())
    assert binomtest(alarms, trials, 0.05).pvalue > 0.001 or 30 <= alarms <= 50  # discreteness may cost a little


def test_mcnemar_cries_wolf_on_subjects():
    p_values = [compare(*null_rivals(seed, 60, 5), n_boot=1)["p_mcnemar"] for seed in range(200)]
    assert np.mean(np.array(p_values) < 0.05) > 0.2


def test_a_real_difference_is_found_and_lies_in_its_interval():
    found = 0
    for seed in range(100):
        true, a, group = world(seed, 100, 5, spread=0.2)
        b = np.where((a != true) & (np.random.default_rng(seed).random(500) < 0.1), true, a)
        result = compare(true, a, b, group, n_boot=200)
        found += result["p_permutation"] < 0.05 and result["low"] > 0
    assert found > 90


def test_a_hundred_thousand_faces_are_compared_exactly():
    true, a, group = world(11, 20_000, 5)
    b = np.where(np.random.default_rng(0).random(100_000) < 0.3, world(12, 20_000, 5)[1], a)
    result = compare(true, a, b, group)
    assert 0 <= result["p_permutation"] < 1e-100 and result["high"] < 0


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = holm(p_values)
    for level in (0.001, 0.05, 0.3):
        rejected, order = set(), np.argsort(p_values, kind="stable")
        for step, index in enumerate(order):
            if p_values[index] * (len(p_values) - step) > level:
                break
            rejected.add(int(index))
        assert set(np.flatnonzero(adjusted <= level)) == rejected
    assert np.all(adjusted >= np.array(p_values)) and np.all(adjusted <= 1)


def test_comparisons_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="'b_pred': 1"):
        compare([0, 1], [0, 1], [0])
    with pytest.raises(ValueError, match="'y_true': 1, 'a_pred': 2, 'b_pred': 2"):
        compare([0], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="'groups': 3"):
        compare([0, 1], [0, 1], [0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="expected a group for every face; found 1 without"):
        compare([0, 1], [0, 1], [0, 1], ["a", None])


def test_labels_that_are_no_classes_are_named():
    for odd, words in (
        ([], r"shape \(0,\)"),
        ([[0, 1]], r"shape \(1, 2\)"),
        ([0.0], "0.0 of type float64"),
        ([3, 7, -1], "7 of type int64"),
        ([3, -1], "-1 of"),
    ):
        with pytest.raises(ValueError, match=f"expected y_pred .*found {words}"):
            class_indices(odd, "y_pred")
    assert class_indices(np.array([0, 6], np.uint8), "y_pred").dtype == np.int64


def test_a_share_of_nothing_is_unknown_and_makes_no_noise():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(share_of(np.array([1, 0, 0]), np.array([2, 3, 0])), [0.5, 0, np.nan])
        np.testing.assert_array_equal(share_of(np.zeros((200, 5)), np.zeros((200, 5))), np.full((200, 5), np.nan))


def test_counts_have_a_row_for_each_group_and_no_more():
    np.testing.assert_array_equal(group_counts(np.array([0, 2, 2]), 3, ["b", "a", "b"]), [[1, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(group_counts(np.array([1, 0]), 2, None), [[0, 1], [1, 0]])


def test_the_interval_holds_the_middle_95_percent_of_the_draws():
    draws = np.arange(1001) / 1000
    found = percentile_metric(0.4, draws, 9)
    assert found == pytest.approx({"value": 0.4, "low": 0.025, "high": 0.975, "n": 9})
    assert rate_metric(0.4, np.append(draws, [np.nan] * 500), 9, 3) == found
    assert rate_metric(0.4, np.full(3, np.nan), 9, 3) == pytest.approx({"value": 0.4, "low": 0.025, "high": 0.975, "n": 9})


def test_a_rate_of_all_or_nothing_has_wilsons_interval():
    for groups in (1, 7, 400):
        for value in (0.0, 1.0):
            wilson = binomtest(int(value * groups), groups).proportion_ci(method="wilson")
            expected = {"value": value, "low": wilson.low, "high": wilson.high, "n": 9}
            assert rate_metric(value, np.array([0.5]), 9, groups) == pytest.approx(expected, abs=1e-6)
    assert rate_metric(np.nan, np.array([0.5]), 9, 3) == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 9}
    parts = [{"low": 0.2, "high": 0.6}, {"low": 0.4, "high": 1.0}]
    assert mean_of_rates(1, np.array([0.5]), 9, parts) == pytest.approx({"value": 1, "low": 0.3, "high": 0.8, "n": 9})
    assert mean_of_rates(0.5, np.array([0.5, 0.5]), 9, parts) == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 9}


def test_rates_of_counts_that_lack_a_class_or_a_guess():
    matrix = np.zeros((1, 7, 7), int)
    matrix[0, 0, :2], matrix[0, 2, 0] = (3, 1), 2  # four of class 0, one taken for 1; two of class 2, both taken for 0
    found = rates_of_counts(matrix)
    assert [found[name][0] for name in ("accuracy", "balanced_accuracy", "macro_f1")] == pytest.approx([1 / 2, 3 / 8, 2 / 9])
    np.testing.assert_allclose(found["recall"][0], [0.75, np.nan, 0, *[np.nan] * 4])
    np.testing.assert_allclose(found["precision"][0], [0.6, 0, *[np.nan] * 5])
    np.testing.assert_allclose(found["f1"][0], [6 / 9, 0, 0, *[np.nan] * 4])


def test_draws_are_as_many_groups_with_replacement_however_they_are_cut():
    counts = np.array([[1, 0, 2], [0, 3, 0], [1, 0, 2], [0, 0, 1]])
    draws = resample_groups(counts, 4000, 5)
    assert draws.shape == (4000, 3)
    np.testing.assert_array_equal(resample_groups(counts[[3, 2, 1, 0]], 4000, 5), draws)
    assert draws.mean(0) == pytest.approx(counts.sum(0), abs=0.1)
    assert draws.var(0) == pytest.approx(4 * counts.var(0), rel=0.1)
    many = np.column_stack([np.arange(1_500), np.ones(1_500, int)])  # kinds of their own: more draws than one piece of memory holds
    wide = resample_groups(many, 1_400, 5)
    assert wide.shape == (1_400, 2) and (wide[:, 1] == 1_500).all() and len(np.unique(wide[:, 0])) > 1_300


def test_several_ways_to_answer_share_their_draws():
    "The shares are those of a plain loop that draws the groups one by one with the same generator."
    rng = np.random.default_rng(0)
    hits, groups = rng.random((300, 5)) < 0.6, np.array([f"s{number % 40}" for number in rng.permutation(300)])
    names = list(dict.fromkeys(groups))
    drawing, expected = np.random.default_rng(7), []
    for _ in range(200):
        often = drawing.multinomial(40, np.full(40, 1 / 40))
        rows = np.concatenate([np.flatnonzero(groups == name) for name, count in zip(names, often) for _ in range(count)])
        expected.append(hits[rows].mean(0))
    np.testing.assert_array_equal(drawn_shares(hits, groups, 200, 7), expected)


@pytest.mark.parametrize(
    ("metric", "form", "words"),
    [
        (Metric(0.5462, 0.524, 0.566, 1120), "%", "54.6 [52.4, 56.6]"),
        (Metric(1, 0.72, 1, 10), "%v", "100.0 %"),
        (Metric(-0.0004, -0.012, 0.01), "+pt", "-0.0 [-1.2, +1.0]"),
        (Metric(0.012, -0.002, 0.024), "+ptv", "+1.2 points"),
    ],
)
def test_a_metric_is_written_in_one_way(metric, form, words):
    assert format(metric, form) == words
    record = {"value": metric.value, "low": metric.low, "high": metric.high}
    assert Metric.of(record | {"n": metric.n}) == metric and Metric.of(record).n == 0 == Metric(*metric[:3]).n
