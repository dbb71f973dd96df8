"""The figures of the gate show the tables' own numbers."""

import numpy as np
import pandas as pd
import pytest

from qcfer.pages.figures.gate import gate_curves, score_histogram
from qcfer.pages.figures.style import svg

def curve(n=21, n_faces=77):
    grid = np.linspace(0, 1, n)
    accuracy = 0.5 + 0.2 * np.sin(3 * grid)
    spans = {"low": accuracy - 0.05, "high": accuracy + 0.05}
    return pd.DataFrame({"threshold": grid, "share_reverted": grid**2, "accuracy": accuracy, "n": n_faces} | spans)


def test_the_line_is_the_curve_and_the_marks_are_on_it():
    table = curve()
    figure = gate_curves({"embedder": table}, {"embedder": 0.82, "identity": None})
    line, best, used = figure.axes[0].lines[:3]
    assert np.allclose(line.get_xydata(), 100 * table[["share_reverted", "accuracy"]])
    top = table.loc[table["accuracy"].idxmax()]
    assert np.allclose(best.get_xydata(), 100 * top[["share_reverted", "accuracy"]].to_numpy(float))
    assert np.allclose(used.get_xydata()[0, 0], 100 * 0.8**2)  # 0.82 lies nearest to the grid's 0.80
    assert "77 train and val faces" in figure.axes[0].get_xlabel()


def test_without_a_used_threshold_there_is_no_diamond():
    figure = gate_curves({"embedder": curve(), "residual_yaw": curve()})
    assert [text.get_text().partition(",")[0] for text in figure.legends[0].texts] == ["embedder", "residual yaw"]


@pytest.mark.parametrize("figure", [gate_curves({}), score_histogram([], [], 0.82), score_histogram([np.nan], [40.0])])
def test_nothing_to_show_is_said(figure):
    assert figure.axes[0].texts[0].get_text().startswith("No ")


def test_the_bars_hold_every_measured_face():
    rng = np.random.default_rng(0)
    values, yaw = rng.random(300), rng.uniform(-80, 80, 300)
    values[:20] = np.nan
    figure = score_histogram(values, yaw, 0.5)
    heights = [patch.get_height() for container in figure.axes[0].containers for patch in container]
    assert sum(heights) == 280 and svg(figure) == svg(score_histogram(values, yaw, 0.5))
    assert [text.get_text().partition(" ")[0] for text in figure.legends[0].texts] == ["frontal", "moderate", "large", "extreme"]
