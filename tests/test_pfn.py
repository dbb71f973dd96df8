"""Names of conditions, the gate's agreement, and the page on frontalization."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcfer.frontalize import conditions as pfn
from qcfer.pages import frontalization as pfn_report
from qcfer.frontalize.prompt import CONSTRAINTS, get_prompt
from qcfer.frontalize.conditions import find_frontalizer, prompt_conditions
from qcfer.pages.exhibits import side_by_side
from qcfer.run.pipeline import demo_run
from qcfer.frontalize.gate import SCORES, Thresholds
from qcfer.run.record import Run

# Names with settings


@pytest.mark.parametrize(
    "name, settings, model, merged",
    [
        ("qwen", {}, [], {}),
        ("qwen", {"seed": 4, "preset": "fast"}, [], {"seed": 4, "preset": "fast"}),
        ("qwen?seed=3", {"seed": 4, "preset": "fast"}, [], {"seed": 3, "preset": "fast"}),
        ("qwen:Qwen/Edit@abc?preset=12gb&seed=0", {}, ["Qwen/Edit@abc"], {"preset": "12gb", "seed": 0}),
        ("qwen?prompt=single_sentence", {"prompt": "constrained"}, [], {"prompt": "single_sentence"}),
        ("qwen?prompt=constrained+view", {}, [], {"prompt": "constrained+view"}),
        ("qwen?prompt=constrained%2Dlocal", {}, [], {"prompt": "constrained-local"}),
        ("qwen?without=identity", {}, [], {"prompt": get_prompt("constrained-identity")}),
        ("qwen?without=pose,local", {"prompt": "constrained"}, [], {"prompt": get_prompt("constrained-pose-local")}),
        ("qwen", {"without": "local"}, [], {"prompt": get_prompt("constrained-local")}),
        ("qwen?without=expression", {"prompt": get_prompt("single_sentence")}, [], {"prompt": get_prompt("single_sentence-expression")}),
    ],
)
def test_a_name_overrides_the_settings_of_the_run(name, settings, model, merged):
    before = dict(settings)
    assert pfn._qwen_settings(name, settings) == (model, merged)
    assert settings == before


@given(st.lists(st.sampled_from(CONSTRAINTS), min_size=1, max_size=3, unique=True), st.integers(0, 10**9))
def test_any_constraints_and_any_seed_can_be_asked_for(without, seed):
    _, merged = pfn._qwen_settings(f"qwen?without={','.join(without)}&seed={seed}", {})
    assert merged == {"prompt": get_prompt("constrained").without(*without), "seed": seed}


@pytest.mark.parametrize(
    "query", ["", "sede=3", "seed", "seed=", "seed=3&seed=4", "seed=3&", "device=cuda", "estimator=x", "batch_size=1", "seed=3;preset=fast"]
)
def test_settings_that_are_none_give_one_line(query):
    with pytest.raises(ValueError, match="^expected (KEY=VALUE&... with keys out of preset, prompt, without, seed|a whole)") as caught:
        find_frontalizer(f"qwen?{query}")
    assert "\n" not in str(caught.value) and "qwen?" in str(caught.value)


@pytest.mark.parametrize("query", ["seed=-1", "seed=x", "seed=1.5", "seed=²"])
def test_a_seed_is_a_whole_number(query):
    with pytest.raises(ValueError, match="expected a whole number as seed"):
        find_frontalizer(f"qwen?{query}")


@pytest.mark.parametrize("name", ["geometric?seed=3", "mirrored?x=1", "plain?", "qwen:", "qwenx", "qwen:?seed=3", "refined?seed=1"])
def test_other_names_take_no_settings(name):
    with pytest.raises(ValueError, match="expected a frontalizer: geometric, refined, qwen.*found"):
        find_frontalizer(name)


def test_unknown_constraints_and_prompts_are_named():
    with pytest.raises(ValueError, match="expected constraints of pose, expression, local, identity; found nose"):
        find_frontalizer("qwen?without=nose")
    with pytest.raises(ValueError, match="at least one constraint"):
        find_frontalizer("qwen?without=pose,expression,local,identity")


def test_which_conditions_are_compared():
    names = ["raw", "qwen", "qwen+raw", "geometric", "qwen:a/b@c?seed=3", "qwenish", "qwen?prompt=constrained+view"]
    assert prompt_conditions(names) == {"qwen": "A", "qwen:a/b@c?seed=3": "B", "qwen?prompt=constrained+view": "C"}
    assert prompt_conditions(["raw", "qwen", "qwen+raw"]) == prompt_conditions([]) == {}


# Side by side


class Shades(list):
    "Pictures with keys, as a set of faces has them; the rows that are not done are those of the originals."

    def __init__(self, n, shift=0, kept=()):
        shift = [0 if row in kept else shift for row in range(n)]
        super().__init__(Image.new("RGB", (30, 20), (10 * row + more, 0, 0)) for row, more in enumerate(shift))
        self.keys = [f"{row} {more}" for row, more in enumerate(shift)]


def test_the_sheet_shows_one_test_face_a_class_that_every_condition_turned():
    split = ["test", "test", "train", "test", "test", "val"]
    manifest = pd.DataFrame({"label": [0, 0, 0, 3, 3, 6], "split": split}, index=[9, 8, 7, 6, 5, 4])
    turned = {
        "A": Shades(6, 100, kept=[1]),
        "<B>": Shades(6, 150, kept=[3]),
    }
    page = BeautifulSoup(side_by_side(manifest, Shades(6), turned), "html.parser")
    assert [head.get_text() for head in page.thead("th")] == ["class", "original", "A", "<B>"]
    assert [row.th.get_text() for row in page.tbody("tr")] == ["anger", "happiness"]
    assert [image["alt"] for image in page.tbody("tr")[1]("img")] == ["happiness, original", "happiness, A", "happiness, <B>"]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page("img"))


def test_the_sheet_is_drawn_by_its_seed_and_may_be_empty():
    manifest = pd.DataFrame({"label": [0] * 6, "split": ["test"] * 6})
    sheets = {side_by_side(manifest, Shades(6), {"A": Shades(6, 100)}, seed) for seed in (0, 0, 1, 2, 3, 4)}
    assert 1 < len(sheets) < 6
    assert side_by_side(manifest, Shades(6), {"A": Shades(6)}) == ""


# The page


METRIC = {"value": 0.5, "low": 0.45, "high": 0.55, "n": 140}
GATE = {
    **dict.fromkeys(("ungated", "gated", "reverted", "gain"), METRIC),
    "share_reverted": 0.25,
    "verdicts": {"accept": 1200, "revert": 3},
    "best_threshold": 0.5,
}


def qwen_id(prompt, seed=0):
    from dataclasses import asdict

    return "qwen-1 tiny " + json.dumps({"prompt": asdict(get_prompt(prompt)), "seed": seed, "steps": 2}, sort_keys=True)


@pytest.fixture
def run(tmp_path):
    "The drawn faces' run with invented conditions."
    folder = tmp_path / "folder" / "0123456789ab"
    shutil.copytree(demo_run(), folder, ignore=shutil.ignore_patterns("pages"))
    record = json.loads((folder / "run.json").read_text())
    raw = record["conditions"]["raw"]
    tested = METRIC | {"p_permutation": 0.0001, "p_holm": 0.0004}
    metrics = raw["metrics"] | {"profile": raw["metrics"]["test"]}
    for name, frontalizer, gate in [
        ("geometric", "geometric:x", GATE),
        ("qwen", qwen_id("constrained"), GATE),
        ("qwen?without=local&seed=3", qwen_id("constrained-local", 3), None),
        ("qwen+raw", qwen_id("constrained"), None),
    ]:
        versus = {"test": tested.copy(), "profile": tested.copy()}
        part = {"ids": raw["ids"] | {"frontalizer": frontalizer}, "metrics": metrics, "timings_s": {}, "versus_raw": versus}
        record["conditions"][name] = part | ({"gate": gate} if gate else {})
    (folder / "run.json").write_text(json.dumps(record))
    scores = pd.DataFrame({"embedder": np.linspace(0.3, 0.9, 50), "yaw": np.linspace(-80, 80, 50)})
    scores.to_parquet(folder / "gate-geometric.parquet")
    for score in ("", "-agreement"):
        pd.DataFrame({"threshold": [0.0, 1.0], "gate": score}).to_parquet(folder / f"gate-curve-geometric{score}.parquet")
    return Run(folder)


def test_the_gates_tables_are_two_and_fit_the_page(run):
    accuracy, verdicts = pfn_report.gate_table(run), pfn_report.verdict_table(run)
    assert list(accuracy.index) == list(verdicts.index) == ["geometric", "qwen"]
    assert accuracy.shape[1] == 4 and verdicts.shape[1] == 5
    assert accuracy.loc["qwen", "gain of the gate"] == "+50.0 [+45.0, +55.0]"
    assert verdicts.loc["qwen"].tolist() == ["1,200", "0", "3", "25.0", "0.50"]


def test_the_corrected_p_value_says_what_helps(run):
    said = pfn_report.gain_caption(run).data
    assert "Help beyond 30°: geometric (" in said and "Within chance" not in said
    run.record["conditions"]["geometric"]["versus_raw"]["profile"]["p_holm"] = 0.05
    assert "Within chance: geometric." in pfn_report.gain_caption(run).data


def test_the_figures_are_of_the_main_frontalizer(run):
    assert pfn_report.main_frontalizer(run) == "geometric"
    assert list(pfn_report.calibration(run)) == ["embedder", "agreement"] and set(pfn_report.calibration(run)) <= set(SCORES)
    told = pfn_report.alikeness(run)
    assert told["threshold"] == Thresholds().embedder == 0.82 and len(told["values"]) == len(told["yaw"]) == 50
    run.record["config"]["gate"] = {"embedder": None}
    assert pfn_report.alikeness(run)["threshold"] is None


def test_the_section_on_prompts(run):
    sheet = side_by_side(pd.DataFrame({"label": [0], "split": ["test"]}), Shades(1), {"A": Shades(1, 100)})
    (run.path / "prompts.html").write_text(sheet)
    page = BeautifulSoup(pfn_report.prompt_ablation(run).data, "html.parser")
    assert page.h2.get_text() == "What does the prompt change?"
    first, second = page("p")[:2]
    assert first.get_text().startswith("A qwen, tiny, seed 0, 2 steps: Turn profile to frontal") and "frowning" in first.get_text()
    assert second.get_text().startswith("B qwen?without=local&seed=3, tiny, seed 3, 2 steps:") and "frowning" not in second.get_text()
    assert [row.th.get_text() for row in page("table")[0].tbody("tr")] == ["A", "B"]
    assert len(page("img")) == 2
    assert [re.match(r"(Table|Figure) \d", part.get_text())[0] for part in page("p")[2:]] == ["Table 4", "Figure 7"]


def test_a_run_with_one_prompt_or_none_has_no_such_section(run):
    (run.path / "prompts.html").unlink(missing_ok=True)
    assert "img" not in pfn_report.prompt_ablation(run).data
    del run.record["conditions"]["qwen"]
    assert pfn_report.prompt_ablation(run) is None


def test_a_run_without_frontalization_has_nothing_to_show():
    run = Run(demo_run())
    assert pfn_report.gate_table(run).empty and pfn_report.verdict_table(run).empty and pfn_report.calibration(run) == {}
    assert len(pfn_report.alikeness(run)["values"]) == 0 and pfn_report.prompt_ablation(run) is None
