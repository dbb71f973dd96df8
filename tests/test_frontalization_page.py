"""The page on frontalization: gains, gates, the main frontalizer, pictures and prompts."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from qcfer.core.pictures import PictureList
from qcfer.frontalize.gate import SCORES, Thresholds
from qcfer.frontalize.prompt import get_prompt
from qcfer.pages import frontalization as page
from qcfer.pages import overview
from qcfer.run.pipeline import demo_run
from qcfer.run.record import Run
from qcfer.run.thumbnails import pairs, thumbnail

METRIC = {"value": 0.5, "low": 0.45, "high": 0.55, "n": 140}
GATE = {
    **dict.fromkeys(("ungated", "gated", "reverted", "gain"), METRIC),
    "share_reverted": 0.25,
    "verdicts": {"accept": 1200, "revert": 3},
    "best_threshold": 0.5,
    "thresholds": {"embedder": 0.5, "misfit": 0.125},
}


def qwen_id(prompt, seed=0):
    return "qwen-1 tiny " + json.dumps({"prompt": asdict(get_prompt(prompt)), "seed": seed, "steps": 2}, sort_keys=True)


@pytest.fixture(scope="module")
def demo():
    return demo_run()


@pytest.fixture
def run(demo, tmp_path):
    "The drawn faces' run with invented conditions; it stands on the second frontalizer, whose gate is the second of two."
    run = Run(tmp_path / "folder" / "0123456789ab")
    shutil.copytree(demo.path, run.path)
    record = json.loads((run.path / "run.json").read_text())
    raw = record["conditions"]["raw"]
    tested = METRIC | {"p_permutation": 0.0001, "p_holm": 0.0004}
    metrics = raw["metrics"] | {"profile": {"accuracy": METRIC}}
    for name, frontalizer, gate in [
        ("geometric@auto", "geometric:x", GATE),
        ("qwen@paper", qwen_id("constrained"), GATE | {"trained": {"profile": METRIC | {"value": 0.02}}}),
        ("qwen", qwen_id("constrained"), None),
        ("qwen?without=local&seed=3", qwen_id("constrained-local", 3), None),
        ("qwen+raw", qwen_id("constrained"), None),
        ("mirrored", "mirrored", None),
    ]:
        versus = {"test": tested.copy(), "profile": tested.copy()}
        part = {"ids": raw["ids"] | {"frontalizer": frontalizer}, "metrics": metrics, "timings_s": {}, "versus_raw": versus}
        record["conditions"][name] = part | ({"gate": gate} if gate else {})
    run.save_record(record | {"main": "qwen@paper", "metrics": metrics})
    for name, count in (("geometric@auto", 40), ("qwen@paper", 50)):
        judged = pd.DataFrame({"embedder": np.linspace(0.3, 0.9, count), "yaw": np.linspace(-80, 80, count)})
        grid = np.linspace(0, 1, 5)
        curve = pd.DataFrame({"threshold": grid, "share_reverted": grid, "accuracy": grid, "low": grid, "high": grid, "n": count})
        run.save_gate(name, judged, {"embedder": curve, "agreement": curve})
    return Run(run.path)


def keep_pairs(run, name, shade=0):
    faces = PictureList(Image.new("RGB", (30, 20), (60 * row, shade, 0)) for row in range(3))
    told = {"row": range(3), "image": ["a", "b", "<c>"], "label": [0, 3, 3], "yaw": [40.0, -50.0, 75.0], "verdict": "accept"}
    run.save_pictures(f"pairs {name}", pairs(pd.DataFrame(told | {"embedder": [0.9, 0.4, 0.6]}), faces, faces, worst=2))


def said(section):
    return [part.data for part in section.says if part is not None]


def test_the_gates_tables_are_two_and_fit_the_page(run):
    accuracy, verdicts = page.gate(run).table, page.verdicts(run).table
    assert list(accuracy.index) == list(verdicts.index) == ["geometric@auto", "qwen@paper"]
    assert accuracy.shape[1] == 5 and verdicts.shape[1] == 5
    assert accuracy.loc["qwen@paper", "gain of the gate"] == "+50.0 [+45.0, +55.0]"
    assert accuracy["gain of the method"].tolist() == ["", "+2.0 [+45.0, +55.0]"]
    assert verdicts.loc["qwen@paper"].tolist() == ["1,200", "0", "3", "25.0", "embedder ≥ 0.5, misfit ≤ 0.125"]


def test_a_gate_that_found_no_threshold_says_so(run):
    gate = {"thresholds": {}, "chosen": {"n": 90, "gain": 0.0}, "verdicts": {"accept": 90}}
    run.record["conditions"]["geometric@auto"]["gate"] = gate
    assert page.verdicts(run).table.loc["geometric@auto"].tolist() == ["90", "0", "0", "", "none worth having"]
    assert page.gate(run).table.loc["geometric@auto"].tolist() == [""] * 5


def test_the_corrected_p_value_says_what_helps(run):
    (words,) = said(page.gain(run))
    assert "Help beyond 30°: geometric@auto (+50.0 points)" in words and "Within chance" not in words
    run.record["conditions"]["geometric@auto"]["versus_raw"]["profile"]["p_holm"] = 0.05
    assert "Within chance: geometric@auto." in said(page.gain(run))[0]


def test_the_figures_are_of_the_frontalizer_that_the_run_stands_on(run):
    assert page.main_gate(run) == "qwen@paper" and page.frontalizers(run) == ["qwen", "geometric", "qwen?without=local&seed=3"]
    assert list(page.calibration(run)) == ["embedder", "agreement"] and set(page.calibration(run)) <= set(SCORES)
    assert page.calibration(run)["embedder"]["n"].iloc[0] == 50
    assert "the pictures of qwen@paper are" in said(page.alike(run))[0]
    assert "the gate of qwen@paper tightens" in said(page.thresholds(run))[0]
    bars = [patch.get_height() for container in page.alike(run).figure.axes[0].containers for patch in container]
    assert sum(bars) == 50
    for name in ("geometric", "qwen"):
        keep_pairs(run, name)
    assert [head.get_text() for head in BeautifulSoup(page.pictures(run).figure.data, "html.parser")("h3")] == ["qwen", "geometric"]


def test_a_run_that_stands_on_a_condition_without_a_gate_shows_the_first_that_has_one(run):
    del run.record["conditions"]["qwen@paper"]["gate"]
    assert page.main_gate(run) == "geometric@auto"


def test_the_threshold_of_the_run_is_drawn(run):
    def drawn():
        return [text.get_text() for text in page.alike(run).figure.axes[0].texts]

    assert drawn() == ["0.5"]
    del run.record["conditions"]["qwen@paper"]["gate"]["thresholds"]["embedder"]
    assert drawn() == []
    del run.record["conditions"]["qwen@paper"]["gate"]["thresholds"]  # as records of schema 0
    assert drawn() == [f"{Thresholds().embedder:g}"] == ["0.82"]


def test_photographs_are_not_published_and_that_is_said(run):
    assert "are photographs" in said(page.pictures(run))[0] and page.pictures(run).figure is None
    assert page.failures(run) is None and page.attention(run) is None


def test_the_pairs_and_the_failures_come_from_the_runs_thumbnails(run):
    keep_pairs(run, "qwen")
    drawn, worst = (BeautifulSoup(show(run).figure.data, "html.parser") for show in (page.pictures, page.failures))
    assert [head.get_text() for head in drawn.thead("th")] == ["class", "large", "extreme"]
    assert [image["alt"].split(":")[0] for image in worst("img")] == ["b", "<c>"]


def test_the_maps_of_attention_come_from_the_runs_bytes(run):
    picture = thumbnail(Image.new("RGB", (30, 30)), 112)
    warm = np.zeros((2, 4, 4), np.uint8)
    warm[0, 0, 0] = 255
    rows = {"label": [0, 3], "side": 4, "original": picture, "frontalized": picture}
    kept = pd.DataFrame(rows | {f"{view}_map": [each.tobytes() for each in warm] for view in ("original", "frontalized")})
    run.save_pictures("attention geometric", kept)  # the main one has none
    image = BeautifulSoup(page.attention(run).figure.data, "html.parser").img
    assert image["class"] == ["wide"] and image["src"].startswith("data:image/jpeg;base64,")


def test_the_section_on_prompts(run):
    shades = [(0, name, thumbnail(Image.new("RGB", (30, 20)))) for name in ("original", "A")]
    run.save_pictures("prompts", pd.DataFrame(shades, columns=["label", "column", "picture"]))
    section = page.prompts(run)
    asked = BeautifulSoup(section.figure.data, "html.parser")
    first, second = asked("p")[:2]
    assert section.heading == "What does the prompt change?"
    assert first.get_text().startswith("A qwen, tiny, seed 0, 2 steps: Turn profile to frontal") and "frowning" in first.get_text()
    assert second.get_text().startswith("B qwen?without=local&seed=3, tiny, seed 3, 2 steps:") and "frowning" not in second.get_text()
    assert section.table.index.tolist() == ["A", "B"] and len(asked("img")) == 2
    assert [words.split(".")[0] for words in said(section)] == ["**Figure 7", "**Table 4"]


def test_a_run_with_one_prompt_or_none_has_no_such_section(run):
    assert "img" not in page.prompts(run).figure.data and [words[:9] for words in said(page.prompts(run))] == ["**Table 4"]
    del run.record["conditions"]["qwen"]
    assert page.prompts(run) is None


def test_a_run_without_frontalization_has_nothing_to_show(demo):
    shows = [page.gain, page.headroom, page.gate, page.verdicts, page.alike, page.thresholds]
    shows += [page.pictures, page.failures, page.attention, page.prompts]
    assert [show(demo) for show in shows] == [None] * 10 and page.calibration(demo) == {}


def test_the_headline_stands_on_the_method_with_the_pictures_as_they_are_beside_it(run, demo):
    raw = run.raw["test"]["accuracy"]
    words = overview.headline(run).data
    assert f"test faces are recognised (method: qwen@paper; as they are {100 * raw['value']:.1f} [" in words
    assert "Of the 140 that are turned beyond 30°, **50.0 %** [45.0, 55.0] are." in words  # raw has no faces beyond 30 degrees here
    run.record["conditions"]["raw"]["metrics"]["profile"] = {"accuracy": METRIC | {"value": 0.47}}
    assert "**50.0 %** [45.0, 55.0] are (as they are 47.0 [45.0, 55.0])." in overview.headline(run).data
    assert "as they are" not in overview.headline(demo).data


def test_a_record_of_the_older_form_has_its_sections():
    old = Run(Path(__file__).parent / "data/record_0")
    assert page.main_gate(old) == old.main == "geometric"
    assert page.gain(old) is not None and page.gate(old) is not None and page.pictures(old) is None and page.failures(old) is None
