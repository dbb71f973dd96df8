"""qcfer.pages.figures.evaluation: what the figures hold is read back from the figures; how they look is measured on the laid-out text."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from figure_texts import check_texts, words
from qcfer.classify.afp import AFP
from qcfer.core.labels import CLASSES
from qcfer.evaluate.calibration import calibrate
from qcfer.evaluate.curves import scaling_effect, threshold_sweep, yaw_curve
from qcfer.pages.figures import evaluation as ep
from qcfer.pages.figures import style

def about(value, reach=0.02, n=3589):
    return {"value": value, "low": value - reach, "high": value + reach, "n": n}


def rung(name, accuracy, gain=None, p_holm=0.001, **facts):
    versus = None if gain is None else about(gain, 0.011) | {"p_holm": p_holm, "p_permutation": p_holm, "p_mcnemar": p_holm}
    return {"name": name, "metrics": {"test": {"accuracy": about(accuracy)}}, "versus_previous": versus, "facts": facts}


def predictions(seed, subjects=60, furthest=90, fall=0.5):
    rng = np.random.default_rng(seed)
    n = subjects * 12
    group, label, yaw = np.repeat(np.arange(subjects), 12), rng.integers(0, 7, n), rng.uniform(-furthest, furthest, n)
    right = rng.random(n) < 0.75 - fall * np.abs(yaw) / 90
    predicted = np.where(right, label, (label + 1) % 7)
    p = rng.dirichlet(np.ones(7), n) * 0.3
    p[np.arange(n), predicted] += 0.7
    faces = pd.DataFrame(p, columns=[f"p_{name}" for name in CLASSES])
    return faces.assign(label=label, predicted=predicted, group=group, yaw=yaw, split="test", image=np.arange(n).astype(str))


VAL, TEST = predictions(1, 30).assign(split="val"), predictions(2)
CALIBRATION = calibrate(VAL, TEST, n_boot=200)
CURVES = {
    "oracle": yaw_curve(predictions(3, fall=0), n_boot=200),
    "raw": yaw_curve(TEST, n_boot=200),
    "geometric": yaw_curve(predictions(4, furthest=60), n_boot=200),
    "geometric+raw": yaw_curve(predictions(5), n_boot=200),
    "qwen": yaw_curve(predictions(6, fall=0.3), n_boot=200),
}
STEPS = [
    rung("embedding + LR", 0.475),
    rung("+ pose normalization", 0.473, -0.002, 0.71),
    rung("+ robust scaling", 0.502, 0.029),
    rung("+ PCA", 0.513, 0.011, 0.03),
    rung("+ class weights", 0.508, -0.005, 0.71),
    rung("+ ensemble (full)", 0.541, 0.033),
]
SWEEP6 = {"128": (0.837, 8.2), "256": (0.912, 12.5), "384": (0.958, 18.7), "512": (0.981, 125.3), "768": (None, 45.2), "1280": (1.0, 9.0)}
PCA = [rung(name, 0.47 + place / 200, variance=v, fit_s=s) for place, (name, (v, s)) in enumerate(SWEEP6.items())]
MARGINS = [rung("LR", 0.5, margin=about(0.214)), rung("SVM", 0.5, margin=about(-0.05)), rung("MLP", 0.5, margin=None)]
MARGINS += [rung("3-layer fully connected network", 0.5, margin=about(0.311))]
PAPER = [
    {"name": "embedding + LR", "paper": 85.20, "value": 74.1, "low": 72.3, "high": 75.8, "n": 3068},
    {"name": "disgust, recall", "paper": None, "value": 52.5, "low": 44.6, "high": 60.2, "n": 160},
    {"name": "full method", "paper": 89.39, "value": 89.4, "low": 88.2, "high": 90.6, "n": 3068},
]
MANY = [{"name": f"{name}, {key}", "paper": 60 + 3.1 * c, "value": 61 + 3 * c, "low": 55 + 3 * c, "high": 66 + 3 * c, "n": 100 * c + 160}
        for c, name in enumerate(CLASSES) for key in ("precision", "recall", "F1")]
SEEDS = [rung(f"seed {seed}", accuracy) for seed, accuracy in enumerate((0.541, 0.538, 0.545, 0.540, 0.536))]
FEATURES = np.random.default_rng(0).normal(size=(300, 80)) * 10 ** np.random.default_rng(1).normal(-1, 0.5, 80)
SCALING = scaling_effect(FEATURES, AFP().fit(FEATURES))
BOTH = pd.concat([VAL, TEST], ignore_index=True).assign(image=lambda rows: rows.index.astype(str))
HELPED = BOTH.assign(predicted=BOTH.predicted.mask((BOTH.yaw.abs() > 45) & (BOTH.index % 4 == 0), BOTH.label))
THRESHOLDS = threshold_sweep(BOTH, HELPED, n_boot=200)
FIGURES = {
    "reliability": lambda: ep.reliability(CALIBRATION),
    "yaw_curve": lambda: ep.yaw_curve(CURVES),
    "yaw_curve_of_long_names": lambda: ep.yaw_curve({name: CURVES["raw"] for name in ("raw", "raw_with_duplicates")}),
    "yaw_curve_of_one": lambda: ep.yaw_curve({"raw": CURVES["raw"]}),
    "ladder_steps": lambda: ep.ladder_steps(STEPS),
    "ladder_of_one": lambda: ep.ladder_steps(STEPS[:1]),
    "ladder_of_two": lambda: ep.ladder_steps(STEPS[:2]),
    "pca_sweep": lambda: ep.pca_sweep(PCA),
    "pca_of_one": lambda: ep.pca_sweep(PCA[:1]),
    "scaling": lambda: ep.scaling(SCALING),
    "importance": lambda: ep.importance(np.arange(1, 257) ** -0.4),
    "importance_of_few": lambda: ep.importance([0.5, 0.3, 0.2]),
    "margins": lambda: ep.margins(MARGINS),
    "beside_paper": lambda: ep.beside_paper(PAPER),
    "beside_paper_many": lambda: ep.beside_paper(MANY),
    "seeds": lambda: ep.seeds(SEEDS),
    "one_seed": lambda: ep.seeds(SEEDS[:1]),
    "threshold_curve": lambda: ep.threshold_curve(THRESHOLDS),
    "threshold_curve_of_val": lambda: ep.threshold_curve([row for row in THRESHOLDS if row["split"] == "val"]),
    "nothing": lambda: ep.reliability({}),
}
each_figure = pytest.mark.parametrize("name", FIGURES)


def spans(axis):
    """The interval lines of an axis, as (low, high)."""
    return [tuple(line.get_xdata()) for line in axis.lines if line.get_linewidth() == 2.2 and len(line.get_xdata()) == 2]


def points(axis, shape="o"):
    lines = [line for line in axis.lines if line.get_marker() == shape and len(line.get_xdata())]
    return [(float(line.get_xdata()[0]), line.get_markerfacecolor() != "white") for line in lines]


# ---- all figures


@each_figure
def test_text_is_large_inside_the_figure_and_overlaps_nothing(name, monkeypatch):
    check_texts(FIGURES[name](), monkeypatch)


@each_figure
def test_the_same_numbers_give_the_same_bytes_and_text_stays_text(name, tmp_path):
    first = [path.read_bytes() for path in style.save(FIGURES[name](), tmp_path, "first")]
    assert [path.read_bytes() for path in style.save(FIGURES[name](), tmp_path, "again")] == first
    assert b"<text" in first[0] and not re.search(rb"<dc:date>|Matplotlib v", first[0]) and first[1].startswith(b"\x89PNG")


def test_a_record_read_back_from_json_gives_the_same_figures():
    back = json.loads(json.dumps([CALIBRATION, CURVES, STEPS, PCA, THRESHOLDS], allow_nan=False))
    makers = (ep.reliability, ep.yaw_curve, ep.ladder_steps, ep.pca_sweep, ep.threshold_curve)
    for make, ours, read in zip(makers, (CALIBRATION, CURVES, STEPS, PCA, THRESHOLDS), back):
        assert style.svg(make(ours)) == style.svg(make(read))


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (lambda: ep.reliability({}), "There are no probabilities of validation and test faces."),
        (lambda: ep.yaw_curve({"raw": {}}), "The head pose of the test faces is not known."),
        (lambda: ep.yaw_curve({}), "The head pose of the test faces is not known."),
        (lambda: ep.ladder_steps([]), "No ladder was climbed."),
        (lambda: ep.pca_sweep([]), "The number of components was not varied."),
        (lambda: ep.scaling(None), "The features were not scaled."),
        (lambda: ep.scaling(SCALING[:0]), "The features were not scaled."),
        (lambda: ep.importance(None), "No forest was trained on principal components."),
        (lambda: ep.importance([0.0, 0.0]), "No forest was trained on principal components."),
        (lambda: ep.margins([rung("LR", 0.5, margin=None)]), "No margins were measured."),
        (lambda: ep.beside_paper([]), "The paper gives no numbers for this dataset."),
        (lambda: ep.seeds([]), "One seed was run."),
        (lambda: ep.threshold_curve([]), "No frontalizer was run on faces of known pose."),
    ],
)
def test_what_a_run_lacks_is_said_in_its_figure(figure, message):
    assert words(figure()) == [message]


# ---- each figure


def test_reliability_draws_the_bins_and_says_the_error():
    figure = ep.reliability(CALIBRATION)
    for axis, key in zip(figure.axes, ("", "_scaled")):
        bins, line = CALIBRATION[f"bins{key}"], axis.lines[-1]
        np.testing.assert_allclose(line.get_xdata(), [100 * row["confidence"] for row in bins])
        np.testing.assert_allclose(line.get_ydata(), [100 * row["accuracy"] for row in bins])
        segments = axis.collections[0].get_segments()
        np.testing.assert_allclose([part[:, 1] for part in segments], [(100 * row["low"], 100 * row["high"]) for row in bins])
        assert f"ECE {100 * CALIBRATION[f'ece{key}']['value']:.1f} % [" in axis.get_title(loc="left")
    assert "stated confidence (%); n = 720, 48 faces a point" in words(figure)


def test_yaw_curve_has_gaps_where_there_is_no_estimate():
    figure = ep.yaw_curve(CURVES)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "pictures as they are" and names[-1] == "true frontal views (oracle)" and len(names) == 5
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines if line.get_label() in names}
    short = drawn["frontalized: geometric"]
    missing = np.array([value is None for value in CURVES["geometric"]["value"]])
    assert missing.any() and not missing[:25].any()
    np.testing.assert_array_equal(np.isnan(short), missing)
    looks = {(line.get_marker(), line.get_color()) for line in figure.axes[0].lines if line.get_label() in names}
    assert len(looks) == 5
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[3] == f"30\n{CURVES['raw']['n'][15]:,.0f}"


def test_ladder_steps_draws_bars_and_hollow_gains_within_noise():
    figure = ep.ladder_steps(STEPS)
    bars, gains = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [100 * step["metrics"]["test"]["accuracy"]["value"] for step in STEPS]
    expected = [(100 * step["versus_previous"]["low"], 100 * step["versus_previous"]["high"]) for step in STEPS[1:]]
    assert spans(gains) == expected
    assert [filled for _, filled in points(gains)] == [False, True, True, False, True]
    assert {"+2.9", "-0.2", "47.5", "+ pose normalization"} <= set(words(figure))
    assert len(ep.ladder_steps([step | {"versus_previous": None} for step in STEPS]).axes) == 1


def test_pca_sweep_leaves_out_what_is_not_known():
    accuracy, variance, time = ep.pca_sweep(PCA).axes
    np.testing.assert_array_equal(variance.lines[0].get_ydata(), [83.7, 91.2, 95.8, 98.1, np.nan, 100])
    assert list(time.lines[0].get_ydata()) == [s for _, s in SWEEP6.values()]
    assert [label.get_text() for label in time.get_xticklabels()] == list(SWEEP6)
    assert [tuple(line.get_ydata()) for line in accuracy.lines[:-1]] == [
        (100 * step["metrics"]["test"]["accuracy"]["low"], 100 * step["metrics"]["test"]["accuracy"]["high"]) for step in PCA
    ]


def test_scaling_shows_every_feature_in_the_same_order():
    before, after = ep.scaling(SCALING).axes
    for axis, stage in ((before, "before"), (after, "after")):
        part = SCALING[SCALING.stage == stage].sort_values("rank")
        np.testing.assert_allclose(axis.lines[0].get_ydata(), part.q50)
    assert "80 features, the faintest first" in words(ep.scaling(SCALING))


def test_importance_says_what_fifty_would_hold_if_all_were_alike():
    alike = ep.importance(np.full(200, 3.0))
    assert "The first 50 of 200 hold 25 % (used alike: 25 %)" in words(alike)
    np.testing.assert_allclose(alike.axes[1].lines[0].get_ydata(), np.linspace(0, 100, 201))


def test_margins_leaves_out_a_classifier_without_one():
    figure = ep.margins(MARGINS)
    np.testing.assert_allclose(spans(figure.axes[0]), [(0.194, 0.234), (-0.07, -0.03), (0.291, 0.331)])
    assert {"0.21", "-0.05", "0.31", "3-layer fully connected\nnetwork"} <= set(words(figure)) and "MLP" not in words(figure)


def test_beside_paper_draws_ours_with_and_the_papers_without_an_interval():
    axis = ep.beside_paper(PAPER).axes[0]
    assert spans(axis) == [(row["low"], row["high"]) for row in PAPER]
    diamonds = next(line for line in axis.lines if line.get_marker() == "D")
    assert list(diamonds.get_xdata()) == [85.20, 89.39]
    alone = ep.beside_paper([PAPER[1]])
    assert "52.5" in words(alone) and "ours, n = 160" in words(alone)


def test_seeds_says_mean_and_spread():
    assert "mean 54.0 %, standard deviation 0.34 points, n = 3,589" in words(ep.seeds(SEEDS))
    assert "mean 54.1 %, n = 3,589" in words(ep.seeds(SEEDS[:1]))


def test_threshold_curve_draws_the_gains_of_both_splits():
    figure = ep.threshold_curve(THRESHOLDS)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for split, label in (("val", "validation faces, n = 360"), ("test", "test faces, n = 720")):
        expected = [100 * row["gain"]["value"] for row in THRESHOLDS if row["split"] == split]
        np.testing.assert_allclose(lines[label].get_ydata(), expected)
    assert "grey: never frontalized; best on validation faces: 45 degrees" in words(figure)
    assert "best" not in " ".join(words(ep.threshold_curve([row for row in THRESHOLDS if row["split"] == "test"])))
