"""qcfer.evaluate.bootstrap against SciPy, plain slow loops and simulated worlds whose truth is known."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from qcfer.evaluate.bootstrap import Metric, compare, drawn_shares, holm
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
    assert Metric.of({"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n}) == metric
