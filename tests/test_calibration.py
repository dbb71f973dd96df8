"""qcfer.evaluate.calibration against scikit-learn, torch, hand-computed tables, and simulated worlds whose calibration is known."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from qcfer.core.labels import CLASSES
from qcfer.evaluate import calibration as cal

COLUMNS = [f"p_{name}" for name in CLASSES]


def world(seed, subjects, per_subject=5, sharpness=1.0, luck=0.0):
    """Labels drawn from true probabilities; stated are their powers. `luck` sharpens or flattens a subject's truth."""
    rng = np.random.default_rng(seed)
    n, group = subjects * per_subject, np.repeat(np.arange(subjects), per_subject)
    logits = rng.normal(0, 1.6, (n, 7))
    true = cal.scale(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1)
    drawn_from = np.exp(np.log(true) * np.exp(luck * rng.normal(size=subjects))[group, None])
    drawn_from /= drawn_from.sum(1, keepdims=True)
    label = (drawn_from.cumsum(1) < rng.random((n, 1))).sum(1).clip(0, 6)
    stated = true**sharpness / (true**sharpness).sum(1, keepdims=True)
    return pd.DataFrame(stated, columns=COLUMNS).assign(label=label, group=group)


def only(confidence, first=0):
    """Probabilities whose largest is `confidence`, of class `first`."""
    confidence = np.asarray(confidence, float)
    p = np.repeat(((1 - confidence) / 6)[:, None], 7, axis=1)
    p[:, first] = confidence
    return p


# ---- temperature


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_a_known_sharpness(sharpness):
    val = world(0, 4000, sharpness=sharpness)
    assert cal.fit_temperature(val[COLUMNS].to_numpy(), val.label) == pytest.approx(sharpness, rel=0.03)


def test_the_temperature_is_torchs_optimum():
    torch = pytest.importorskip("torch")
    val = world(1, 100, sharpness=1.8)
    logits, label = torch.log(torch.tensor(val[COLUMNS].to_numpy()).clamp(min=1e-6)), torch.tensor(val.label.to_numpy())
    inverse = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([inverse], max_iter=200, tolerance_grad=1e-12)

    def loss():
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(logits * inverse, label)
        value.backward()
        return value

    optimiser.step(loss)
    assert cal.fit_temperature(val[COLUMNS].to_numpy(), val.label) == pytest.approx(1 / inverse.item(), rel=1e-3)


def test_probabilities_of_zero_cost_much_and_not_everything():
    p = np.eye(7)[[0, 1, 2, 3, 4, 5, 6, 0, 1, 2]]
    label = np.array([0, 1, 2, 3, 4, 5, 6, 0, 1, 3])
    found = cal.fit_temperature(p, label)
    soft = cal.scale(p, found)
    assert np.isfinite(found) and soft[0, 0] == pytest.approx(0.9, abs=0.01)  # nine of ten right: the optimum says 0.9
    assert cal.reliability(p, label, n_boot=10)["nll"]["value"] == pytest.approx(-np.log(1e-6) / 10)


@given(st.integers(0, 10_000), st.floats(0.1, 15))
@settings(deadline=None, max_examples=30)
def test_scaling_keeps_the_order_and_the_sum(seed, temperature):
    p = np.random.default_rng(seed).dirichlet(np.ones(7) * 0.7, 20)
    scaled = cal.scale(p, temperature)
    np.testing.assert_allclose(scaled.sum(1), 1)
    assert (np.diff(np.take_along_axis(scaled, p.argsort(1), 1)) >= 0).all()
    np.testing.assert_allclose(cal.scale(np.maximum(p, 1e-6) / np.maximum(p, 1e-6).sum(1, keepdims=True), 1), cal.scale(p, 1), atol=1e-6)


# ---- reliability


def test_the_error_of_a_table_computed_by_hand():
    p = only([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    found = cal.reliability(p, [0, 0, 0, 1, 0, 2], n_boot=50)
    assert [row["n"] for row in found["bins"]] == [2, 4]
    assert [(row["confidence"], row["accuracy"]) for row in found["bins"]] == [pytest.approx((0.6, 0.5)), pytest.approx((0.9, 0.75))]
    assert found["ece"]["value"] == pytest.approx((2 * 0.1 + 4 * 0.15) / 6)
    assert found["ece"]["n"] == 6
    assert found["overconfidence"]["value"] == pytest.approx((4 * 0.9 + 2 * 0.6 - 4) / 6)


def test_the_table_is_scikit_learns_curve():
    rows = world(3, 150, sharpness=2)
    p = rows[COLUMNS].to_numpy()
    found = pd.DataFrame(cal.reliability(p, rows.label, n_boot=2)["bins"])
    accuracy, confidence = calibration_curve(p.argmax(1) == rows.label, p.max(1), n_bins=15, strategy="quantile")
    np.testing.assert_allclose(found.confidence, confidence, atol=0.003)
    np.testing.assert_allclose(found.accuracy, accuracy, atol=0.03)  # a face at an edge falls on either side
    assert found.n.tolist() == [50] * 15


def test_the_log_loss_is_scikit_learns():
    rows = world(4, 60)
    found = cal.reliability(rows[COLUMNS].to_numpy(), rows.label, rows.group, n_boot=100)["nll"]
    assert found["value"] == pytest.approx(log_loss(rows.label, rows[COLUMNS].to_numpy()))
    assert found["low"] < found["value"] < found["high"]


@pytest.mark.parametrize(("sharpness", "side"), [(2.0, 1), (0.5, -1)])
def test_overconfidence_tells_too_sure_from_too_modest(sharpness, side):
    rows = world(12, 200, sharpness=sharpness)
    p = rows[COLUMNS].to_numpy()
    found = cal.reliability(p, rows.label, rows.group)["overconfidence"]
    assert found["value"] == pytest.approx(p.max(1).mean() - (p.argmax(1) == rows.label).mean()) and found["n"] == 1000
    assert min(side * found["low"], side * found["high"]) > 0


def test_the_interval_of_overconfidence_holds_the_true_one():
    p, held = world(999, 4000, sharpness=1.3)[COLUMNS].to_numpy(), []
    truth = (p.max(1) - cal.scale(p, 1.3).max(1)).mean()
    for seed in range(200):
        rows = world(seed, 100, 8, sharpness=1.3)
        found = cal.reliability(rows[COLUMNS].to_numpy(), rows.label, rows.group, n_boot=200, seed=seed)["overconfidence"]
        held.append(found["low"] <= truth <= found["high"])
    assert 0.89 <= np.mean(held) <= 0.99


def test_a_bin_that_is_all_right_has_an_interval():
    found = cal.reliability(only([0.9] * 10 + [0.5] * 10), [0] * 10 + [0, 1] * 5, np.arange(20) // 2, n_boot=50)["bins"]
    assert [row["accuracy"] for row in found] == [0.5, 1.0]
    assert found[1]["low"] == pytest.approx(5 / (5 + 1.96**2), abs=1e-4) and found[1]["high"] == 1  # five groups


def test_many_faces_of_one_confidence_share_a_bin():
    found = cal.reliability(only([1.0] * 90 + [0.5] * 10), [0] * 90 + [1] * 10, n_boot=20)
    assert [row["n"] for row in found["bins"]] == [10, 90]
    assert found["ece"]["value"] == pytest.approx(0.05)


def test_intervals_draw_subjects():
    rows = world(5, 40, per_subject=20, luck=1.0)
    p = rows[COLUMNS].to_numpy()
    by_subject, by_face = (cal.reliability(p, rows.label, groups)["nll"] for groups in (rows.group, None))
    assert by_subject["high"] - by_subject["low"] > 1.3 * (by_face["high"] - by_face["low"])


def test_the_order_of_the_rows_does_not_matter():
    rows = world(6, 50)
    one, other = (cal.calibrate(world(7, 30), part, n_boot=100) for part in (rows, rows.sample(frac=1, random_state=1)))
    assert one["ece"]["value"] == pytest.approx(other["ece"]["value"]) and one["bins"][3]["n"] == other["bins"][3]["n"]


@pytest.mark.parametrize("sharpness", [1.0, 1.3, 2.5])
def test_the_interval_of_the_error_holds_the_true_one(sharpness):
    p = world(999, 4000, sharpness=sharpness)[COLUMNS].to_numpy()
    overconfidence = p.max(1) - cal.scale(p, sharpness).max(1)  # stated minus true
    held = []
    for seed in range(150):
        rows = world(seed, 150, 8, sharpness=sharpness)
        q = rows[COLUMNS].to_numpy()
        edges = np.unique(np.quantile(q.max(1), np.linspace(0, 1, 16)[1:-1], method="inverted_cdf"))
        truth = np.abs(np.bincount(np.searchsorted(edges, p.max(1)), overconfidence)).sum() / len(p)
        ece = cal.reliability(q, rows.label, rows.group, n_boot=200, seed=seed)["ece"]
        assert 0 <= ece["low"] <= ece["value"] <= ece["high"] <= 1
        held.append(ece["low"] - 1e-6 <= truth <= ece["high"])
    assert 0.88 <= np.mean(held) <= 0.99


def test_the_floor_is_passed_by_one_calibrated_classifier_in_twenty():
    above = []
    for seed in range(200):
        rows = world(seed, 120, 4)
        found = cal.reliability(rows[COLUMNS].to_numpy(), rows.label, rows.group, n_boot=150, seed=seed)
        above.append(found["ece"]["value"] > found["floor"])
    assert 0.005 <= np.mean(above) <= 0.09


# ---- calibrate


def test_the_temperature_comes_from_validation_faces_alone():
    val, test = world(8, 400, sharpness=2), world(9, 400, sharpness=0.7)
    found = cal.calibrate(val, test, n_boot=50)
    assert found["temperature"] == cal.fit_temperature(val[COLUMNS].to_numpy(), val.label) == pytest.approx(2, rel=0.1)
    assert found["ece_scaled"]["value"] > found["ece"]["value"] and found["n_val"] == len(val)
    assert found["overconfidence"]["high"] < 0 and found["overconfidence_scaled"]["value"] < found["overconfidence"]["value"]


def test_an_overconfident_classifier_is_repaired_and_the_record_is_json():
    found = cal.calibrate(world(10, 300, sharpness=2.5), world(11, 300, sharpness=2.5), n_boot=300)
    assert found["ece_scaled"]["value"] < found["floor_scaled"] < found["ece"]["low"]
    assert found["nll_scaled"]["high"] < found["nll"]["low"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    accuracy = [sum(row["accuracy"] * row["n"] for row in found[key]) for key in ("bins", "bins_scaled")]
    assert accuracy[0] == pytest.approx(accuracy[1])  # no prediction changes
    assert set(found["bins"][0]) == {"confidence", "accuracy", "low", "high", "n"}


@pytest.mark.parametrize(
    ("val", "test"),
    [
        (None, world(0, 5)),
        (world(0, 5)[:0], world(0, 5)),
        (world(0, 5), None),
        (world(0, 5).assign(**dict.fromkeys(COLUMNS, np.nan)), world(0, 5)),
        (world(0, 5), world(0, 5)[["label", "group"]]),
    ],
)
def test_nothing_to_calibrate_is_no_error(val, test):
    assert cal.calibrate(val, test) == {}


def test_bad_probabilities_are_named():
    rows = world(0, 5)
    with pytest.raises(ValueError, match="found 25 rows of 25"):
        cal.reliability(rows[COLUMNS].to_numpy() * 1.5, rows.label)
    with pytest.raises(ValueError, match="found 1 rows of 25"):
        cal.calibrate(rows.assign(p_anger=[np.nan, *rows.p_anger[1:]]), rows)
    with pytest.raises(ValueError, match=r"found shape \(25, 3\)"):
        cal.reliability(rows[COLUMNS[:3]].to_numpy(), rows.label)
    with pytest.raises(ValueError, match="as many values"):
        cal.reliability(rows[COLUMNS].to_numpy(), rows.label[:4])
    with pytest.raises(ValueError, match="whole numbers"):
        cal.fit_temperature(rows[COLUMNS].to_numpy(), rows.label + 7)
