"""The statistics keep their word on simulated data: coverage of 1,000 draws, false alarms, and the simulation against closed forms."""

import numpy as np
import pytest
from scipy.stats import betabinom, binom
from sklearn import metrics as sk

from qcfer.evaluate import simulation as sim

LARGE = [name for name in sim.SETTINGS if "20 subjects" not in name]


def test_hits_of_a_subject_are_beta_binomial():
    label, (predicted,), subject = sim.world(np.random.default_rng(0), 20_000, 6, [0.6])
    hits = np.bincount(subject, label == predicted).astype(int)
    weight = 1 / sim.CORRELATION - 1
    expected = betabinom.pmf(np.arange(7), 6, 0.6 * weight, 0.4 * weight)
    np.testing.assert_allclose(np.bincount(hits, minlength=7) / 20_000, expected, atol=0.012)
    np.testing.assert_allclose(np.bincount(label) / len(label), sim.FREQUENCIES, atol=0.01)


@pytest.mark.parametrize("accuracy", [0.2, 0.6, 0.95])
def test_the_truth_is_that_of_a_very_large_test_set(accuracy):
    label, (predicted,), _ = sim.world(np.random.default_rng(1), 400_000, 1, [accuracy])
    truth = sim.truth(accuracy)
    assert truth["accuracy"] == pytest.approx(sk.accuracy_score(label, predicted), abs=0.005)
    assert truth["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(label, predicted), abs=0.01)
    assert truth["macro_f1"] == pytest.approx(sk.f1_score(label, predicted, average="macro"), abs=0.01)


def test_the_range_of_a_count_is_the_exact_binomials():
    low, high = sim.binomial_range(0.05, 1000)
    assert (low, high) == (0.037, 0.064)
    assert binom.cdf(36, 1000, 0.05) < 0.025 <= binom.cdf(37, 1000, 0.05)
    assert binom.sf(64, 1000, 0.05) < 0.025 <= binom.sf(63, 1000, 0.05)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("setting", LARGE)
def test_intervals_hold_the_truth_in_93_to_97_of_100_of_1000_draws(setting):
    found = sim.coverage(*sim.SETTINGS[setting], draws=1000, seed=1)
    by_face = found.pop("accuracy, by face")
    assert all(0.93 <= share <= 0.97 for share in found.values()), found
    assert by_face < 0.8 if "28" in setting else by_face >= 0.92


@pytest.mark.timeout(240)
@pytest.mark.parametrize("setting", LARGE)
def test_the_paired_test_raises_false_alarms_within_binomial_error_of_5_in_100(setting):
    found = sim.false_alarms(*sim.SETTINGS[setting], rungs=3, draws=1000, seed=1)
    low, high = sim.binomial_range(0.05, 1000)
    assert low <= found["permutation"] <= high, found
    assert found["any rung, Holm"] <= high < found["any rung"], found
    if "28" in setting:
        assert found["McNemar"] > 0.2  # faces of a subject taken for independent
    else:
        assert found["McNemar"] == found["permutation"]
