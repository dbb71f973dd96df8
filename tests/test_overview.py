"""Sections, and those of the overview, on confusion, profiles and maps."""

import json
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest

from qcfer.pages import overview
from qcfer.pages.words import Section, caption
from qcfer.run.pipeline import demo_run

METRIC = {"value": 0.5, "low": 0.45, "high": 0.55, "n": 140}


@pytest.fixture(scope="module")
def demo():
    return demo_run()


@pytest.fixture
def run(demo):
    "The same run as if a frontalizer had been in it that everybody took for anger."
    other = type(demo)(demo.path)
    method = deepcopy(other.record["conditions"]["raw"])
    method["metrics"]["test"]["accuracy"] = METRIC
    method["metrics"] |= {"profile": {"accuracy": METRIC}, "yaw_bins": {"frontal": {"accuracy": METRIC | {"value": 0.6}}}}
    other.record["conditions"]["geometric"] = method
    other.record["main"] = "geometric"
    raw = other.predictions[other.predictions["condition"] == "raw"]
    other.predictions = pd.concat([other.predictions, raw.assign(condition="geometric", predicted=0)])
    return other


def shown(section, monkeypatch):
    import IPython.display

    seen = []
    monkeypatch.setattr(IPython.display, "display", seen.append)
    section._ipython_display_()
    return [getattr(part, "data", part) for part in seen]


def test_a_section_shows_its_parts_in_order_and_nothing_that_it_has_not(monkeypatch):
    assert shown(Section("Why?", "figure", "table", ("first", "second")), monkeypatch) == ["## Why?", "figure", "first", "table", "second"]
    assert shown(Section("Why?", table="table", says=("first", "second")), monkeypatch) == ["## Why?", "table", "first", "second"]
    assert shown(Section("", "figure", "table", (None, "second")), monkeypatch) == ["figure", "table", "second"]
    assert shown(Section("", "figure"), monkeypatch) == ["figure"] and shown(Section(), monkeypatch) == []


def test_no_cell_of_a_sections_table_is_cut(monkeypatch):
    import IPython.display

    seen = []
    monkeypatch.setattr(IPython.display, "display", lambda part: seen.append(part._repr_html_()))
    long = " ".join(["word"] * 40)
    Section(table=pd.DataFrame({"value": [long] * 100}))._ipython_display_()
    assert seen[0].count(long) == 100


def test_a_caption_says_on_how_many_faces_it_rests():
    assert caption(2, "See.", {"n": 1234}, "Table").data.startswith("**Table 2.** See. n = 1,234 faces; 95 % intervals")
    assert caption(1, "See.").data == "**Figure 1.** See."


def test_confusion_classes_and_yaws_stand_on_the_method_and_say_so(run):
    sections = [show(run) for show in (overview.mistakes, overview.class_by_class, overview.classes, overview.turning)]
    assert all("Method: geometric." in section.says[0].data for section in sections)
    mistakes, turning = sections[0], sections[-1]
    assert "100 % of disgust is taken for anger" in mistakes.says[0].data
    assert turning.table.loc["frontal", "accuracy, %"] == "60.0 [45.0, 55.0]"
    assert "10.0 points less often than frontal ones; the intervals overlap" in turning.says[0].data
    np.testing.assert_array_equal(run.confusion[:, 0], run.confusion.sum(1))


def test_a_run_on_pictures_as_they_are_has_no_method_to_name(demo):
    sections = [show(demo) for show in (overview.mistakes, overview.class_by_class, overview.classes, overview.turning)]
    assert not any("Method" in section.says[0].data for section in sections)
    assert "nothing to compare" in sections[-1].says[0].data and sections[-1].table is None
    assert overview.yaws(demo) is None


def test_the_tables_of_the_overview_hold_the_record(demo):
    settings = overview.what_was_run(demo).table["value"]
    assert settings["dataset"] == "folder" and settings["esv.candidates"] == "LR" and settings["seed"] == "0"
    assert overview.balance(demo).table["all"].sum() == 140
    assert list(overview.costs(demo).table.index) == list(demo.record["timings_s"])
    assert len(overview.results(demo).table) == len(demo.record["conditions"])
    assert json.dumps(overview.maps(demo).says[0].data).count("test faces, coloured") == 1
    assert f"The {demo.record['afp']['n_components']} components" in overview.directions(demo).says[0].data


def test_drawn_faces_are_said_to_be_no_result_wherever_the_page_is_made(demo, monkeypatch):
    monkeypatch.chdir(demo.path.parents[1])  # as pages are made, so that no path of the machine stands in them
    for path in (demo.path, demo.path.relative_to(demo.path.parents[1])):
        assert "nothing here is a result" in overview.headline(type(demo)(path)).data


def test_a_run_too_small_for_a_map_has_none(demo):
    other = type(demo)(demo.path)
    other.projections = other.projections.head(0)
    assert overview.maps(other) is None
