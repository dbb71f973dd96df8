"""Figures: what the figures hold is read back from the figures; how they look is measured on the laid-out text."""

import copy
import os
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from figure_texts import check_texts, words
from qcfer.core.labels import CLASSES, COLOURS
from qcfer.core.yaw import YAW_BINS
from qcfer.evaluate.bootstrap import confusion
from qcfer.evaluate.scores import evaluate
from qcfer.pages.figures import classes, evaluation, style, yaw
from qcfer.pages.words import condition_name

def predictions(n=600, seed=0, classes=range(7), hit=0.6):
    rng = np.random.default_rng(seed)
    label = rng.choice(list(classes), n)
    predicted = np.where(rng.random(n) < hit, label, rng.choice(list(classes), n))
    image = [f"{row}.png" for row in range(n)]
    yaw = rng.normal(0, 25, n).round(1)
    return pd.DataFrame({"image": image, "label": label, "predicted": predicted, "group": image, "split": "test", "yaw": yaw})


TABLE = predictions()
METRICS = evaluate(TABLE, n_boot=200)
MATRIX = confusion(TABLE.label, TABLE.predicted)
CANDIDATES = [
    {"name": "LR C=1", "accuracy": 0.471, "selected": True, "weight": 0.4},
    {"name": "RF", "accuracy": 0.412, "selected": False, "weight": 0.0},
    {"name": "SVM C=5", "accuracy": 0.541, "selected": True, "weight": 0.6},
]
VARIANCE = np.linspace(0.3, 1, 64)
COUNTS = {
    "train": {name: 134_415 - 20_000 * c for c, name in enumerate(CLASSES)},
    "val": {"fear": 7},
    "test": dict.fromkeys(CLASSES, 100),
}
POINTS = pd.concat(
    pd.DataFrame(np.random.default_rng(seed).normal(size=(500, 2)), columns=["x", "y"]).assign(
        space=space, method=method, label=np.arange(500) % 7
    )
    for seed, (space, method) in enumerate([("raw", "tsne"), ("afp", "tsne"), ("raw", "umap"), ("afp", "umap")])
)


def about(value, reach=0.04, n=560):
    return {"value": value, "low": value - reach, "high": value + reach, "n": n}


CURVES = {"oracle": (0.84, 0.72, 0.83, 0.81), "raw": (0.84, 0.71, 0.42, 0.24), "geometric": (0.83, 0.7, 0.58, 0.33)}
CURVES |= {"qwen": (0.8, 0.7, 0.72, 0.6), "refined": (0.8, 0.69, 0.62, 0.4)}
SCORE = {name: {bin: about(value) for bin, value in zip(YAW_BINS, row)} for name, row in CURVES.items()}
SHARES = {"profile": about(0.31, 0.05, 1120), "large": about(0.39, 0.08), "extreme": about(-0.16, 0.07)}
HEADROOM = {"geometric": SHARES, "qwen": {"profile": about(1.12, 0.1, 1120)}}
DEGREES = {"frontal": (1.4, 2.1, 0.9), "moderate": (1.8, 2.4, 1.2), "large": (2.6, 3.0, 1.9), "extreme": (16.9, 12.3, 24.8)}
POSE_ERROR = {
    "bins": {bin: {angle: about(v, v / 8) for angle, v in zip(("yaw", "pitch", "roll"), row)} for bin, row in DEGREES.items()}
}

PICTURES = [Image.new("RGB", (40 + 10 * i, 48), (30 * i, 90, 200)) for i in range(6)]

FIGURES = {
    "confusion_matrix": lambda: classes.confusion_matrix(MATRIX, METRICS["test"]["accuracy"]),
    "confusion_matrix_large": lambda: classes.confusion_matrix(MATRIX * 1000, METRICS["test"]["accuracy"] | {"n": 600_000}),
    "confusion_matrix_of_two": lambda: classes.confusion_matrix(np.diag([0, 0, 3, 4, 0, 0, 0]), METRICS["test"]["accuracy"]),
    "per_class": lambda: classes.per_class(METRICS["test"]),
    "yaw_histogram": lambda: yaw.yaw_histogram(TABLE.yaw),
    "yaw_accuracy": lambda: yaw.yaw_accuracy(METRICS),
    "candidates": lambda: classes.candidates(CANDIDATES),
    "variance_curve": lambda: evaluation.variance_curve(VARIANCE, 40),
    "variance_curve_to_its_end": lambda: evaluation.variance_curve(VARIANCE, 64),
    "class_counts": lambda: classes.class_counts(COUNTS),
    "projections": lambda: classes.projections(POINTS),
    "faces": lambda: classes.faces(PICTURES, [f"{name}, taken for {name}" for name in CLASSES[:6]]),
    "yaw_conditions": lambda: yaw.yaw_conditions(SCORE),
    "yaw_conditions_of_two": lambda: yaw.yaw_conditions({name: SCORE[name] for name in ("raw", "oracle")}),
    "headroom": lambda: yaw.headroom({"headroom": HEADROOM}),
    "pose_errors": lambda: yaw.pose_errors(POSE_ERROR),
    "nothing": lambda: yaw.yaw_accuracy({"test": METRICS["test"]}),
}
each_figure = pytest.mark.parametrize("name", FIGURES)


def intervals(axis):
    """The thick interval lines of an axis, as (low, high, height, colour)."""
    lines = [line for line in axis.lines if line.get_linewidth() == 7 and len(line.get_xdata())]
    return [(*line.get_xdata(), line.get_ydata()[0], to_hex(line.get_color()).upper()) for line in lines]


# ---- all figures


@each_figure
def test_text_is_large_inside_the_figure_and_overlaps_nothing(name, monkeypatch):
    check_texts(FIGURES[name](), monkeypatch)


@each_figure
def test_the_same_numbers_give_the_same_bytes(name, tmp_path):
    figure = FIGURES[name]()
    first = [path.read_bytes() for path in style.save(figure, tmp_path, "first")]
    assert [path.read_bytes() for path in style.save(figure, tmp_path, "again")] == first
    assert [path.read_bytes() for path in style.save(FIGURES[name](), tmp_path, "fresh")] == first
    assert style.svg(FIGURES[name]()).encode() == first[0]
    assert b"<svg" in first[0] and b"<text" in first[0] and not re.search(rb"<dc:date>|Matplotlib v", first[0])
    assert first[1].startswith(b"\x89PNG")


def test_another_process_writes_the_same_bytes():
    imports = "import sys; from qcfer.pages.figures import evaluation, style"
    code = f"{imports}; sys.stdout.write(style.svg(evaluation.variance_curve([0.5, 0.8, 1.0], 2)))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert other.stdout.decode() == style.svg(evaluation.variance_curve([0.5, 0.8, 1.0], 2))


def test_figures_neither_use_nor_leave_global_state():
    names = ("confusion_matrix_of_two", "per_class", "yaw_accuracy", "variance_curve", "projections")
    some = {name: FIGURES[name] for name in names}
    expected = {name: style.svg(make()) for name, make in some.items()}
    with plt.rc_context({"font.size": 30, "axes.facecolor": "black", "text.color": "red", "svg.fonttype": "path"}):
        before = copy.deepcopy(dict(plt.rcParams))
        assert {name: style.svg(make()) for name, make in some.items()} == expected
        assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []


def test_a_failed_save_leaves_the_last_good_figure(tmp_path):
    path, _ = style.save(FIGURES["candidates"](), tmp_path, "figure")
    good = path.read_bytes()
    bad = FIGURES["candidates"]()
    bad.axes[0].set_title(r"$\nosuchsymbol$")
    with pytest.raises(ValueError, match="nosuchsymbol"):
        style.save(bad, tmp_path, "figure")
    assert path.read_bytes() == good and sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "figure.svg"]


def test_matplotlib_is_not_imported_before_it_is_needed():
    code = "import sys, qcfer.pages.figures.style; print(sorted({'matplotlib', 'seaborn', 'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip() == "[]"


def test_notebooks_show_the_svg_that_is_saved():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    call = "evaluation.variance_curve([0.5, 0.8, 1.0], 2)"
    use = "from qcfer.pages.figures import evaluation, style\nstyle.use_svg()"
    cells = [use, call, "import matplotlib.pyplot as plt\nplt.figure()\nplt.close()", call]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    expected = style.svg(evaluation.variance_curve([0.5, 0.8, 1.0], 2))
    for cell in (notebook.cells[1], notebook.cells[3]):
        (output,) = cell.outputs
        assert output.data["image/svg+xml"] == expected and "image/png" not in output.data


def test_use_svg_does_nothing_outside_a_notebook():
    assert style.use_svg() is None


# ---- each figure


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({"value": 0.541, "low": 0.5251, "high": 0.5584, "n": 3589}, "54.1 % [52.5, 55.8], n = 3,589"),
        ({"value": 1.0, "low": 1.0, "high": 1.0, "n": 3}, "100.0 % [100.0, 100.0], n = 3"),
        ({"value": -0.0125, "low": -0.02, "high": 0.003, "n": 9}, "-1.2 % [-2.0, 0.3], n = 9"),
    ],
)
def test_percent(metric, expected):
    assert style.percent(metric) == expected


def test_confusion_matrix_holds_shares_counts_and_the_accuracy():
    counts = np.zeros((7, 7), int)
    counts[0, 0], counts[0, 3], counts[3, 3], counts[3, 5] = 30, 10, 1500, 500
    figure = classes.confusion_matrix(counts, {"value": 0.75, "low": 0.7, "high": 0.8, "n": 2040})
    found = words(figure)
    assert {"75 %", "25 %", "1,500", "500", "anger (40)", "happiness (2,000)", "sadness (0)"} <= set(found)
    assert "Accuracy 75.0 % [70.0, 80.0], n = 2,040" in found
    assert not any("fear" in text for text in found)
    colours = figure.axes[0].collections[0].get_array().reshape(3, 3)
    np.testing.assert_allclose(colours, [[0.75, 0.25, 0], [0, 0.75, 0.25], [0, 0, 0]])


def test_confusion_text_can_be_read_on_its_colour():
    figure = FIGURES["confusion_matrix"]()
    figure.draw_without_rendering()
    axis = figure.axes[0]
    fills = axis.collections[0].get_facecolors().reshape(7, 7, 4)

    def luminance(colour):  # of WCAG 2
        shares = np.array(colour[:3])
        return np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for text in axis.texts:
        column, row = (int(part) for part in text.get_position())
        one, other = sorted([luminance(to_rgb(text.get_color())), luminance(fills[row, column])])
        assert (other + 0.05) / (one + 0.05) >= 3.5


def test_per_class_draws_the_intervals_in_the_class_colours():
    figure = classes.per_class(METRICS["test"])
    for axis, key in zip(figure.axes, ("precision", "recall", "f1")):
        scores = [METRICS["test"]["per_class"][name][key] for name in CLASSES]
        expected = [(100 * s["low"], 100 * s["high"], row, COLOURS[CLASSES[row]]) for row, s in enumerate(scores)]
        assert intervals(axis) == expected
        assert [text.get_text() for text in axis.texts] == [f"{100 * s['value']:.1f}" for s in scores]
    assert f"disgust ({METRICS['test']['per_class']['disgust']['n']:,})" in words(figure)


def test_per_class_leaves_out_a_class_that_does_not_occur():
    two = evaluate(predictions(classes=(1, 4)), n_boot=20)["test"]
    figure = classes.per_class(two)
    assert [label.get_text().split(" ")[0] for label in figure.axes[0].get_yticklabels()] == ["disgust", "neutral"]
    assert {line[3] for line in intervals(figure.axes[0])} == {COLOURS["disgust"], COLOURS["neutral"]}


def test_yaw_histogram_counts_every_known_face_once_in_its_bins_colour():
    degrees = [-95, -50, -31, -30, 0, 15, 15.5, 29.9, 31, 44, 46, 90, np.nan, np.nan]
    figure = yaw.yaw_histogram(degrees)
    heights = {}
    for patch in figure.axes[0].patches:
        colour = to_hex(patch.get_facecolor()).upper()
        heights[colour] = heights.get(colour, 0) + patch.get_height()
    assert heights == dict(zip(map(str.upper, style.YAW_COLOURS.values()), (2, 3, 3, 4)))
    assert figure.axes[0].get_title(loc="left") == "58.3 % beyond 30°, 33.3 % beyond 45°, n = 12, 2 of unknown pose"
    assert not set(style.YAW_COLOURS.values()) & set(COLOURS.values())


def test_yaw_accuracy_draws_bins_profile_and_the_whole():
    figure = yaw.yaw_accuracy(METRICS)
    axis = figure.axes[0]
    parts = [*METRICS["yaw_bins"].values(), METRICS["profile"]]
    assert [bar.get_height() for bar in axis.patches] == [100 * part["accuracy"]["value"] for part in parts]
    lines = [tuple(line.get_ydata()) for line in axis.lines[:-1]]
    assert lines == [(100 * part["accuracy"]["low"], 100 * part["accuracy"]["high"]) for part in parts]
    assert list(axis.lines[-1].get_ydata()) == [100 * METRICS["test"]["accuracy"]["value"]] * 2
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels[1] == f"moderate\n15–30°\nn = {METRICS['yaw_bins']['moderate']['accuracy']['n']}"
    assert labels[-1].startswith("profile\n> 30°")


def test_yaw_accuracy_of_frontal_faces_alone():
    frontal = evaluate(TABLE.assign(yaw=0.0), n_boot=10)
    labels = [label.get_text() for label in yaw.yaw_accuracy(frontal).axes[0].get_xticklabels()]
    assert labels == ["frontal\n≤ 15°\nn = 600"]


def test_what_a_run_lacks_is_said_in_its_figure():
    without = evaluate(TABLE.drop(columns="yaw"), n_boot=10)
    assert words(yaw.yaw_accuracy(without)) == ["The head pose of the test faces is not known."]
    for degrees in ([np.nan], []):
        assert words(yaw.yaw_histogram(degrees)) == ["The head pose of these faces is not known."]
    assert words(classes.projections(POINTS[:0])) == ["No projection was made."]
    assert words(classes.faces([], [])) == ["No faces to show."]


def test_candidates_stand_best_first_and_the_chosen_are_filled():
    figure = classes.candidates(CANDIDATES)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["SVM C=5", "LR C=1", "RF"]
    assert [line.get_xdata()[0] for line in axis.lines] == pytest.approx([54.1, 47.1, 41.2])
    assert [line.get_markerfacecolor() != "white" for line in axis.lines] == [True, True, False]
    assert {"54.1", "weight 0.60", "weight 0.40", "Filled: the voters"} <= set(words(figure))
    assert "weight 0.00" not in words(figure)
    assert len(classes.candidates(CANDIDATES[:1]).axes[0].lines) == 1


def test_the_variance_curve_marks_k():
    figure = evaluation.variance_curve(VARIANCE, 40)
    curve, _, point = figure.axes[0].lines
    np.testing.assert_allclose(curve.get_ydata(), 100 * VARIANCE)
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([40], [pytest.approx(100 * VARIANCE[39])])
    assert figure.axes[0].get_title(loc="left") == f"40 of 64 components keep {100 * VARIANCE[39]:.1f} % of the variance"


def test_class_counts_are_the_lengths_of_the_bars():
    figure = classes.class_counts(COUNTS)
    for axis, (split, counts) in zip(figure.axes, COUNTS.items()):
        assert [bar.get_width() for bar in axis.patches] == [counts.get(name, 0) for name in CLASSES]
        assert [to_hex(bar.get_facecolor()).upper() for bar in axis.patches] == list(COLOURS.values())
        assert axis.get_title(loc="left") == f"{split}\nn = {sum(counts.values()):,}"
    assert len(classes.class_counts({"test": {}}).axes) == 1


def test_projections_show_every_point_in_its_class_colour_as_pixels():
    figure = classes.projections(POINTS)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"{m}, {s} (n = 500)" for m in ("t-SNE", "UMAP") for s in ("raw features", "after AFP")]
    for axis, (_, part) in zip(figure.axes, POINTS.groupby(["method", "space"], sort=False)):
        (dots,) = axis.collections
        colours = [to_hex(colour).upper() for colour in dots.get_facecolors()]
        expected = {(round(x, 6), round(y, 6)): COLOURS[CLASSES[label]] for x, y, label in zip(part.x, part.y, part.label)}
        assert {(round(x, 6), round(y, 6)): c for (x, y), c in zip(dots.get_offsets(), colours)} == expected
        assert dots.get_rasterized()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASSES)


def test_an_svg_of_many_points_stays_small():
    many = pd.concat([POINTS.assign(x=POINTS.x + shift) for shift in range(8)])
    drawn = style.svg(classes.projections(many))
    assert drawn.count("<image") == 4 and len(drawn) < 1_000_000


def test_projections_of_one_space_and_two_classes():
    part = POINTS[(POINTS.space == "raw") & (POINTS.method == "umap") & POINTS.label.isin([2, 6])]
    figure = classes.projections(part)
    assert len(figure.axes) == 1 and [text.get_text() for text in figure.legends[0].get_texts()] == ["fear", "surprise"]


def test_faces_keep_their_pixels_and_titles():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (48, 48), np.uint8)) for _ in range(5)]
    figure = classes.faces([*pictures, Image.new("RGB", (2000, 1000))], list("abcdef"))
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    np.testing.assert_array_equal(shown[2][..., 0], np.array(pictures[2]))
    assert len(shown) == 6 and shown[5].shape == (112, 224, 3) and pictures[0].mode == "L"
    assert [axis.get_title() for axis in figure.axes[:6]] == list("abcdef")
    with pytest.raises(ValueError, match="found 5 images and 1 titles"):
        classes.faces(pictures, ["a"])


# ---- PoseBench's figures


def test_each_condition_has_its_line_with_its_intervals():
    axis = yaw.yaw_conditions(SCORE).axes[0]
    lines = [line for line in axis.lines if line.get_marker() != "None"]
    labels = [
        "pictures as they are",
        *("geometric", "qwen", "refined"),
        "true frontal views (oracle)",
    ]
    assert [line.get_label() for line in lines] == labels  # raw first, the oracle last, whatever the order in the record
    for name, line, bars in zip(("raw", "geometric", "qwen", "refined", "oracle"), lines, axis.collections):
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(CURVES[name]))
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, 100 * np.array([[m["low"], m["high"]] for m in SCORE[name].values()]))
        np.testing.assert_allclose([segment[0, 0] for segment in bars.get_segments()], line.get_xdata())
    (chance,) = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert chance.get_ydata()[0] == pytest.approx(100 / 7)


def test_of_many_conditions_as_many_are_drawn_as_can_be_told_apart():
    many = {name: SCORE["geometric"] for name in ("main", "b+raw", "raw", "c", "d", "e", "oracle", "f")}
    lines = [line.get_label() for line in yaw.yaw_conditions(many).axes[0].lines if line.get_marker() != "None"]
    assert lines == ["pictures as they are", "main", "b+raw", "c", "d", "true frontal views (oracle)"]
    labels = [label.get_text() for label in yaw.headroom({"headroom": dict.fromkeys("abcdef", SHARES)}).axes[0].get_yticklabels()]
    assert {label[0] for label in labels if label} <= set("abcd")


def test_conditions_can_be_told_apart_without_colour():
    lines = [line for line in yaw.yaw_conditions(SCORE).axes[0].lines if line.get_marker() != "None"]
    assert len({line.get_marker() for line in lines}) == len(lines)
    colours = {to_hex(line.get_color()).upper() for line in lines}
    assert len(colours) == len(lines) and not colours & set(COLOURS.values())
    for line in lines:  # dark enough on white: WCAG's 3 : 1 for graphics
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(line.get_color())]
        assert 1.05 / (np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05) >= 3


def test_a_bin_that_no_face_is_in_is_left_out_of_the_conditions():
    score = {name: {bin: row[bin] for bin in ("frontal", "extreme")} for name, row in SCORE.items()}
    axis = yaw.yaw_conditions(score).axes[0]
    assert [tick.get_text().split("\n")[0] for tick in axis.get_xticklabels()] == ["frontal", "extreme"]


def test_headroom_draws_every_share_with_its_interval():
    figure = yaw.headroom({"headroom": HEADROOM})
    rows = [metric for parts in HEADROOM.values() for metric in parts.values()]
    drawn = intervals(figure.axes[0])
    np.testing.assert_allclose([row[:2] for row in drawn], [[100 * m["low"], 100 * m["high"]] for m in rows])
    low, high = figure.axes[0].get_xlim()
    assert low < -23 and high > 122  # harm and more than the oracle are both in sight
    assert {"geometric, profile\n> 30° (n = 1,120)", "geometric, extreme\n> 45° (n = 560)", "31.0", "-16.0"} <= set(words(figure))


def test_pose_errors_are_the_heights_of_the_bars():
    figure = yaw.pose_errors(POSE_ERROR)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == pytest.approx([row[angle] for angle in range(3) for row in DEGREES.values()])
    assert {"24.8", "yaw", "pitch", "roll", "mean absolute error (degrees)"} <= set(words(figure))
    tops = [max(line.get_ydata()) for line in figure.axes[0].lines]
    assert max(tops) < figure.axes[0].get_ylim()[1]


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (lambda: yaw.headroom({}), "No frontalizer was run."),
        (
            lambda: yaw.headroom({"headroom": {"geometric": {}}}),
            "The true frontal views help no more than chance would.",
        ),
        (lambda: yaw.pose_errors({}), "The pose comes with the pictures: there is no error to show."),
        (lambda: yaw.yaw_conditions({}), "The conditions were not scored by yaw."),
        (lambda: yaw.yaw_conditions({"raw": {"test": about(0.5)}}), "The conditions were not scored by yaw."),
    ],
)
def test_what_a_posebench_run_lacks_is_said_in_its_figure(figure, message):
    assert words(figure()) == [message]


def test_every_condition_has_a_name_for_readers():
    keys = ["raw", "raw_with_duplicates", "oracle", "geometric"]
    names = [condition_name(key) for key in keys]
    assert len(set(names)) == 4 and names[3] == "frontalized: geometric" and "_" not in "".join(names)
