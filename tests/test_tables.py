"""The tables of a run: what stands in them, beside the paper and without it, and what their sentences call noise."""

import itertools
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from qcfer.core.labels import CLASSES
from qcfer.evaluate.bootstrap import compare, holm
from qcfer.evaluate.calibration import calibrate as calibrate_probabilities
from qcfer.evaluate.curves import margin, margin_difference, threshold_sweep
from qcfer.evaluate.scores import evaluate
from qcfer.frontalize.thresholds import best_threshold, calibrate
from qcfer.pages import paper
from qcfer.pages.cross import other_set, zero_shot
from qcfer.pages.figures import evaluation as figures
from qcfer.pages.ladders import SHOWN, candidates, importance, ladder, scaling
from qcfer.pages.profile import gate_thresholds, profiles, yaw_curves, yaw_thresholds
from qcfer.pages.reliability import calibration, margins, seeds
from qcfer.paper.claims import paper_value
from qcfer.run.pipeline import demo_run
from qcfer.run.record import Run

N, SUBJECTS = 560, 20
LADDERS = {
    "modules": (True, {"embedding + LR": 0.55, "+ PFN": 0.6, "+ AFP": 0.601, "+ ESV (full)": 0.72}),
    "components": (True, {"embedding + LR": 0.55, "+ robust scaling": 0.56, "+ PCA": 0.57, "+ ensemble (full)": 0.72}),
    "extractors": (False, {"effnet_lite0": 0.72, "timm:resnet50": 0.6, "timm:resnet18?random=0": 0.2}),
    "pca": (False, {"128": 0.6, "256": 0.7, "300": 0.69}),
    "ensembling": (False, {"LR": 0.6, "RF": 0.5, "hard LR + RF": 0.62, "soft LR + RF": 0.65, "full": 0.72}),
    "margins": (False, {"LR": 0.6, "SVM": 0.7, "MLP": 0.5}),
    "choices": (False, {"as selected": 0.72, "standard scaling": 0.719, "no class weights": 0.4}),
    "seeds": (False, {"seed 0": 0.72, "seed 1": 0.715, "seed 2": 0.725}),
}
REFERENCE = {"ensembling": "full", "pca": "256"}


def faces():
    """560 simulated test faces of 20 subjects at four yaws."""
    subject, label, yaw = (part.ravel() for part in np.meshgrid(range(SUBJECTS), range(7), [5.0, -22.0, 38.0, -75.0], indexing="ij"))
    rows = {"image": [f"{row:04}.jpg" for row in range(N)], "label": label, "yaw": yaw, "split": "test"}
    return pd.DataFrame(rows | {"group": [f"s{number:03}" for number in subject]})


def predictions(skill):
    """Predictions that are right for the luckiest share of the faces: a better skill is right wherever a worse one is."""
    made = faces()
    luck, guess = np.random.default_rng(0).random(N), (made.label + 1 + np.random.default_rng(1).integers(0, 6, N)) % 7
    return made.assign(predicted=np.where(luck < skill, made.label, guess))


def compared(worse, better):
    return compare(worse.label, worse.predicted, better.predicted, worse.group, n_boot=200)


def facts(name, place):
    found = {"members": ["LR C=1"], "n_components": 256, "variance": 0.912, "fit_s": 1.25, "predict_ms": 0.01, "parameters": 1799}
    margin = {"value": 0.2 + 0.2 * place, "low": 0.15 + 0.2 * place, "high": 0.25 + 0.2 * place, "n": N}
    return found | {"margin": margin, "importance": (np.arange(100, 0, -1) / 5050).tolist() if name == "RF" else None}


def simulated_ladder(name):
    """A ladder as a record holds it, its comparisons made by `qcfer.evaluate.scores`."""
    cumulative, skills = LADDERS[name]
    made = {rung: predictions(skill) for rung, skill in skills.items()}
    names, reference = list(made), list(made)[-1] if cumulative else REFERENCE.get(name, next(iter(made)))
    full = {rung: compared(made[reference], made[rung]) for rung in names if rung != reference}
    step = {rung: compared(made[last], made[rung]) for last, rung in itertools.pairwise(names)} if cumulative else {}
    for family in (full, step):
        for rung, p in zip(family, holm([versus["p_permutation"] for versus in family.values()])):
            family[rung]["p_holm"] = float(p)
    rungs = [
        {
            "name": rung,
            "settings": {"embedder": rung if name == "extractors" else "effnet_lite0"},
            "metrics": evaluate(made[rung], n_boot=200),
            "versus_full": full.get(rung),
            "versus_previous": step.get(rung),
            "facts": facts(rung, place),
        }
        for place, rung in enumerate(names)
    ]
    return {"title": f"Ladder {name}", "source": "", "cumulative": cumulative, "reference": reference, "wall_s": 1.0, "rungs": rungs}


def gate(after):
    value = {"value": after, "low": after - 0.03, "high": after + 0.03, "n": 280}
    lost = {"value": -0.08, "low": -0.12, "high": -0.05, "n": 280}
    parts = {"ungated": value, "gated": value | {"value": after - 0.08}, "reverted": value, "gain": lost}
    return parts | {"share_reverted": 0.9, "verdicts": {"accept": 28, "revert": 252}, "best_threshold": 0.49}


def stated(ece):
    """Calibration as `qcfer.evaluate.calibration.calibrate` gives it, invented: off by `ece` as it is, within luck with a temperature."""
    bins = [{"confidence": 0.6, "accuracy": 0.5, "low": 0.4, "high": 0.6, "n": N}]
    metric = {"value": ece, "low": ece - 0.01, "high": ece + 0.01, "n": N}
    over = {"value": 0.04, "low": 0.02, "high": 0.06, "n": N}
    found = {"ece": metric, "floor": 0.03, "overconfidence": over, "nll": metric | {"value": 1.2}, "bins": bins}
    scaled = {"ece_scaled": metric | {"value": 0.01, "low": 0.0}, "floor_scaled": 0.03, "nll_scaled": metric | {"value": 1.1}}
    return found | scaled | {"bins_scaled": bins, "temperature": 1.4, "n_val": 100}


def curve_of(front):
    """A curve as `qcfer.evaluate.curves.yaw_curve` gives it, invented: flat to 30 degrees, then lower."""
    yaw = list(range(0, 91, 10))
    value = [front if angle <= 30 else front - 0.2 for angle in yaw[:-1]] + [None]
    bands = {name: [None if one is None else one + step for one in value] for name, step in (("low", -0.05), ("high", 0.05))}
    return {"yaw": yaw, "value": value, "n": [50.0] * 10, "bandwidth": 10.0} | bands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with every part that a table is made of, simulated."""
    path = tmp_path_factory.mktemp("out") / "rafdb" / "0123456789ab"
    shutil.copytree(demo_run().path, path)
    record = json.loads((path / "run.json").read_text())
    raw, turned = predictions(0.6), predictions(0.72)
    versus = {"test": compared(raw, turned), "profile": compared(raw[raw.yaw.abs() > 30], turned[turned.yaw.abs() > 30])}
    ids = record["ids"]
    conditions = {
        "raw": {"ids": ids, "metrics": evaluate(raw, n_boot=200), "timings_s": {}, "yaw_curve": curve_of(0.6)},
        "geometric": {"ids": ids, "metrics": evaluate(turned, n_boot=200), "timings_s": {}, "versus_raw": versus, "gate": gate(0.7)},
    }
    conditions["geometric"]["calibration"] = stated(0.05)
    costs = {"embed_ms": 9.2, "classify_ms": 0.034, "trainable_parameters": 1799, "embedder_parameters": None}
    costs |= {"train_s": 12.0, "peak_memory_mb": 900}
    record |= {"main": "geometric", "metrics": conditions["geometric"]["metrics"], "conditions": conditions, "costs": costs}
    record["ladders"] = {name: simulated_ladder(name) for name in LADDERS}
    record["afp"] = {"n_components": 256, "cumulative_variance": np.linspace(0.01, 1, 300).tolist()}
    record |= {"zero_shot": {"metrics": evaluate(predictions(0.3), n_boot=200), "prompts": "expressions"}}
    record["config"] |= {"dataset": "rafdb", "conditions": ["geometric"]}
    curve = pd.DataFrame({"threshold": np.linspace(0, 1, 101), "share_reverted": np.linspace(0, 1, 101)})
    curve = curve.assign(accuracy=0.5, low=0.45, high=0.55, gain=-0.05, gain_low=-0.1, gain_high=0.0, n=233)
    curve.to_parquet(path / "gate-curve-geometric.parquet")
    Run(path).save_record(record)
    return path


@pytest.fixture
def run(folder):
    """The simulated run on a set that the paper has."""
    return Run(folder)


@pytest.fixture
def elsewhere(folder):
    """The same run on a set that the paper does not have."""
    run = Run(folder)
    run.record["config"]["dataset"] = "posebench"
    return run


@pytest.fixture
def bare():
    """A run without ladders, costs, calibration, poses."""
    run = demo_run()
    for name in ("ladders", "costs", "zero_shot"):
        run.record.pop(name, None)
    for part in run.record["conditions"].values():
        part.pop("calibration", None)
    return run


def words(section):
    return " ".join(said.data for said in section.says if said is not None)


def rungs(run, name):
    return run.record["ladders"][name]["rungs"]


PARTS = (margins, importance, gate_thresholds, seeds, zero_shot, paper.costs, profiles, calibration)
ALWAYS = (paper.result, paper.classes)
DRAWN = (paper.accuracies, yaw_curves)


def test_what_a_run_has_not_is_none(bare):
    assert [part(bare) for part in (*PARTS, *DRAWN, yaw_thresholds, other_set)] == [None] * 12
    assert [ladder(bare, name) for name in (*LADDERS, "nothing")] == [None] * 9
    assert [number for number in paper.TABLES if paper.table(bare, number)] == [1, 2]


def test_a_run_from_one_set_to_another_has_one_section():
    run = crossed("rafdb", "expw")
    assert [part(run) for part in (*ALWAYS, *PARTS, *DRAWN, yaw_thresholds, candidates)] == [None] * 14
    assert other_set(run) is not None


def test_every_table_names_n_and_an_interval(run):
    shown = {part.__name__: part(run) for part in (*ALWAYS, profiles, margins)}
    shown |= {name: ladder(run, name) for name in LADDERS}
    for name, section in shown.items():
        assert section.table.ours.str.fullmatch(r"[-+]?\d+\.\d+ \[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]").all(), name
        assert section.table.n.str.fullmatch(r"[\d,]+").all(), name


@pytest.mark.parametrize("part", [*ALWAYS, *PARTS, *DRAWN], ids=lambda part: part.__name__)
def test_every_sentence_is_whole(run, part):
    said = words(part(run, 4))
    assert re.match(r"\*\*(Table|Figure) 4\.\*\* [A-Z]", said) and said.endswith(".") and "nan" not in said and "None" not in said


def test_the_papers_tables_go_by_their_numbers(run):
    for number in paper.TABLES:
        section = paper.table(run, number)
        assert section.heading.startswith(f"Table {number}: ") and words(section).startswith(f"**Table {number}.** ")
        assert section.figure is None
    assert paper.table(run, 6).table.equals(ladder(run, "pca").table) and SHOWN["pca"].place == "Table 6"


def test_a_figure_stands_under_its_question(run):
    assert ladder(run, "modules").figure is not None and ladder(run, "choices").figure is None
    assert margins(run).figure is not None and margins(run, drawn=False).figure is None
    assert ladder(run, "margins").heading == "Ladder margins"  # one that no page asks for has its own title
    assert candidates(run).heading and candidates(run).figure is not None


def test_the_result_stands_beside_table_1(run):
    table = paper.result(run).table
    row, ours = table.iloc[0], run.record["conditions"]["geometric"]["metrics"]["test"]["accuracy"]["value"]
    assert table.index.tolist() == ["frontalized: geometric", "pictures as they are"] and table.iloc[1].paper == ""
    assert row.paper == "89.39" and row["elsewhere in the paper"] == "89.32 (Section 4.2)"
    assert float(row.difference) == pytest.approx(100 * ours - 89.39, abs=0.051)
    assert "outside our interval" in words(paper.result(run))


def test_without_a_frontalizer_the_result_says_so(run):
    run.main = "raw"
    assert paper.result(run).table.index.tolist() == ["pictures as they are"]
    assert "the paper's number has PFN in it and ours has not" in words(paper.result(run))


def test_no_paper_column_where_the_paper_has_no_such_set(elsewhere):
    for name in LADDERS:
        assert not {"paper", "difference", "paper's step"} & set(ladder(elsewhere, name).table.columns), name
    for part in (*ALWAYS, profiles, margins):
        assert "paper" not in part(elsewhere).table.columns, part.__name__
    assert list(paper.classes(elsewhere).table.columns) == ["precision", "recall", "F1", "n"]
    assert "no numbers on posebench" in words(paper.result(elsewhere))
    assert not paper.paper_rows(elsewhere)


def test_classes_stand_beside_table_2(run):
    table = paper.classes(run).table
    assert len(table) == 21 and table.loc[("disgust", "F1"), "paper"] == "68.1" and set(table.n) == {"80"}
    assert "21 of the paper's 21" in words(paper.classes(run)) or "of the paper's 21 numbers" in words(paper.classes(run))


def test_a_class_of_few_groups_takes_no_part_in_the_verdict(run):
    classes = run.record["conditions"]["geometric"]["metrics"]["test"]["per_class"]
    assert "Too few to judge" not in words(paper.classes(run))
    sure = {"value": 1.0, "low": 0.9, "high": 1.0, "n": 40}
    classes["fear"] = {"precision": sure, "recall": sure, "f1": sure, "n": 40, "groups": 4}
    said = words(paper.classes(run))
    assert "Too few to judge, with fewer than 20 groups: fear." in said
    assert "Largest F1: " in said and "Largest F1: fear" not in said and said.count("fear") == 1
    classes["fear"] |= {"n": 19}
    classes["fear"].pop("groups")  # an older record counts faces alone
    assert "20 groups: fear" in words(paper.classes(run))
    for part in classes.values():
        part["groups"] = 10
    assert "Largest F1" not in words(paper.classes(run))


def test_overlapping_classes_are_not_said_to_be_alike(run):
    classes = run.record["conditions"]["geometric"]["metrics"]["test"]["per_class"]
    for value, part in zip((0.8, 0.79, 0.5), list(classes.values())[:3]):
        part["f1"] = {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 80}
    for part in list(classes.values())[3:]:
        part["f1"] = {"value": 0.1, "low": 0.05, "high": 0.15, "n": 80}
    said = words(paper.classes(run))
    assert "Largest F1: anger. Apart from it, for the intervals do not overlap: fear (-30.0 points), happiness" in said
    assert "Overlapping intervals, which decide nothing: disgust (-1.0 points)." in said


def test_a_cumulative_ladder_is_compared_with_the_rung_before(run):
    table = ladder(run, "modules").table
    assert table.paper.tolist() == ["85.2", "86.51", "88.73", "89.39"]
    assert table["against the rung before"].iloc[0] == ""
    step = rungs(run, "modules")[3]["versus_previous"]
    assert table["against the rung before"].iloc[3].startswith(f"{100 * step['value']:+.1f} [")
    said = words(ladder(run, "modules"))
    assert "compared with the rung before: " in said and "+ ESV (full)" in said.split("Not distinguishable")[0]
    assert "+ AFP" in said.split("Not distinguishable from noise:")[1]


def test_other_ladders_are_compared_with_their_reference(run):
    table = ladder(run, "ensembling").table
    assert table.loc["full", "against full"] == "" and table.loc["RF", "against full"].startswith("-")
    assert table.loc["RF", "paper"] == "85.86"
    assert "compared with 256" in words(ladder(run, "pca"))
    assert "against as selected" in ladder(run, "choices").table.columns


def test_holm_and_not_the_bare_p_value_decides(run):
    rung = rungs(run, "choices")[1]
    rung["versus_full"] |= {"p_permutation": 0.03, "p_mcnemar": 0.01, "p_holm": 0.06}
    said = words(ladder(run, "choices"))
    assert "standard scaling" in said.split("Not distinguishable from noise:")[1]
    rung["versus_full"]["p_holm"] = 0.04
    assert "Not distinguishable" not in words(ladder(run, "choices"))
    assert ladder(run, "choices").table.loc["standard scaling", "permutation p, Holm"] == "0.040"


def test_components_show_the_papers_steps(run):
    table = ladder(run, "components").table
    assert table["paper's step"].tolist() == ["", "+1.37", "+0.44", "+0.66"]
    assert "No frontalizer was run" in words(ladder(run, "components"))
    assert "No frontalizer was run" not in words(ladder(run, "modules"))


def test_pca_has_variance_and_time_beside_the_papers(run):
    table = ladder(run, "pca").table
    assert table.loc["128", ["paper", "variance, paper, %", "fit, paper, s"]].tolist() == ["84.71", "83.7", "8.2"]
    assert table.loc["300", "paper"] == "" and table.loc["300", "variance, %"] == "91.2"


def test_random_weights_are_called_plumbing(run):
    table = ladder(run, "extractors").table
    assert table.weights.tolist() == ["trained", "trained", "random: plumbing, no result"]
    assert table.loc["timm:resnet50", "paper"] == "84.3"
    assert "random weights show that the code runs and nothing else" in words(ladder(run, "extractors"))


def test_profiles_before_and_after(run):
    table = profiles(run).table.loc["frontalized: geometric"]
    assert list(table.index) == ["before", "after", "gain", "ungated", "gated", "gain of the gate"]
    assert table.paper.tolist() == ["74.35", "81.17", "+6.82", "", "", ""] and table.loc["before", "n"] == "280"
    said = words(profiles(run))
    assert "compared with no gate (each by its own interval): gate of frontalized: geometric (-8.0 points)" in said
    assert "6.82 points on 308 of 3,068 faces make 0.68 points of all; it claims 1.31" in said


def test_holm_decides_on_profiles_as_well(run):
    versus = run.record["conditions"]["geometric"]["versus_raw"]["profile"]
    versus |= {"p_permutation": 0.03, "p_holm": 0.06}
    assert profiles(run).table.loc[("frontalized: geometric", "gain"), "permutation p, Holm"] == "0.060"
    assert "No difference from the pictures as they are is distinguishable from noise" in words(profiles(run))


def test_costs_stand_beside_table_9_on_every_set(elsewhere):
    table = paper.costs(elsewhere).table
    assert table.loc["trainable parameters"].tolist() == ["1.6 M", "1,799"]
    assert table.loc["training"].tolist() == ["4.2 h an epoch", "12.0 s"]
    assert table.loc["the embedder's parameters, frozen"].tolist() == ["", ""]


def test_margins_beside_section_4_4(run):
    table = margins(run).table
    assert table.paper.tolist() == ["0.41", "0.44", "0.29"] and table.loc["LR", "ours"] == "0.200 [0.150, 0.250]"
    assert "against LR" not in table
    said = words(margins(run))
    assert "Largest margin: MLP. Apart from it, for the intervals do not overlap: LR (-0.40), SVM (-0.20)." in said


def with_margins(run, paired):
    """The run with margins of simulated classifiers: SVM is a little clearer than LR on every face, MLP the same on average."""
    rng = np.random.default_rng(0)
    logits, face = rng.normal(0, 1, (N, 7)), faces().reset_index(drop=True)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    made = {"LR": p, "SVM": 0.98 * p + 0.02 * np.eye(7)[face.label], "MLP": p[rng.permutation(N)]}
    rows = {name: face.join(pd.DataFrame(part, columns=[f"p_{label}" for label in CLASSES])) for name, part in made.items()}
    for rung in run.record["ladders"]["margins"]["rungs"]:
        rung["facts"]["margin"] = margin(rows[rung["name"]], n_boot=200)
        if paired and rung["name"] != "LR":
            rung["facts"]["margin_versus"] = margin_difference(rows["LR"], rows[rung["name"]], n_boot=200)
    return run


def test_overlapping_margins_are_no_evidence_of_equality(run):
    said = words(margins(with_margins(run, paired=False)))
    assert "Largest margin: SVM. Overlapping intervals, which decide nothing: LR" in said and "istinguishable" not in said


def test_margins_of_the_same_faces_are_compared_in_pairs(run):
    run = with_margins(run, paired=True)
    versus = rungs(run, "margins")[1]["facts"]["margin_versus"]
    said, table = words(margins(run)), margins(run).table
    shown = f"{versus['value']:+.3f} [{versus['low']:+.3f}, {versus['high']:+.3f}]"
    assert table["against LR"].tolist()[:2] == ["", shown] and versus["low"] > 0
    assert f"Compared with LR on the same faces, each by its own interval: SVM {shown}, distinguishable from noise; MLP" in said
    assert "not distinguishable from noise." in said.split("; MLP")[1]


def test_importance_of_the_first_components(run):
    table = importance(run).table
    share = 100 * sum(range(51, 101)) / 5050
    assert table.loc["first 50", "importance, %"] == f"{share:.1f}" and table.loc["first 50", "if all counted alike, %"] == "50.0"
    assert table.index[-1] == "first 100" and f"hold {share:.0f} %" in words(importance(run))
    assert "It was measured once" in words(importance(run))


def test_the_variance_is_that_of_the_forests_own_components(run):
    assert importance(run).table["variance, %"].tolist() == ["", "", "", "91.2"]  # the rung's facts; not the features' as they are
    rungs(run, "ensembling")[1]["facts"]["variance"] = None
    assert "variance, %" not in importance(run).table


def test_a_forest_on_another_network_or_on_no_components_is_not_shown(run):
    forest = rungs(run, "ensembling")[1]["facts"].pop("importance")
    rungs(run, "extractors")[1]["facts"]["importance"] = forest
    assert importance(run) is None
    other = rungs(run, "choices")[1]["facts"]
    other |= {"importance": forest, "n_components": None}
    assert importance(run) is None
    other["n_components"] = 100
    assert importance(run).table.index[-1] == "first 100"


def test_thresholds_name_the_papers_and_the_best(run):
    table = gate_thresholds(run).table
    assert table.loc["0.82", ""] == "the paper's, for CLIP" and table.loc["0.49", ""] == "best here"
    assert table.loc["0.82", "not accepted, %"] == "82.0" and set(table.n) == {"233"}
    said = words(gate_thresholds(run))
    assert "The best threshold on train and val faces is 0.49, -5.0 points against no gate. It is the best of 101" in said
    assert "changes the accuracy by -5.0 [-10.0, +0.0] points here, which is not distinguishable from noise" in said


def gate_without_effect(seed):
    """The curve of a gate on 233 val faces for which it makes no difference which picture is classified."""
    rng, image = np.random.default_rng(seed), [f"{row:03}" for row in range(233)]
    rows = [pd.DataFrame({"image": image, "split": "val", "label": 0, "predicted": rng.integers(0, 2, 233), "group": image}) for _ in "ab"]
    answers = rows[0].assign(new=rows[0]["predicted"] == 0, old=rows[1]["predicted"] == 0, embedder=rng.uniform(0.3, 1, 233))
    return calibrate(answers, n_boot=200, seed=seed)


def test_a_gate_without_effect_is_seldom_said_to_have_one(folder, tmp_path):
    shutil.copy(folder / "run.json", tmp_path)
    run, said, best_beats_chance = Run(tmp_path), [], []
    for seed in range(150):
        curve = gate_without_effect(seed)
        curve.to_parquet(tmp_path / "gate-curve-geometric.parquet")
        run.record["conditions"]["geometric"]["gate"]["best_threshold"] = best_threshold(curve)
        said.append(words(gate_thresholds(run)))
        best_beats_chance.append((curve.gain_low > 0).any())
    assert np.mean(["which is distinguishable from noise" in one for one in said]) <= 0.09
    assert np.mean(best_beats_chance) > 0.09  # the best of many, by its own interval
    assert not any("more than chance" in one for one in said)


def test_a_threshold_of_yaw_is_chosen_on_val_and_tested_on_test(run, monkeypatch):
    monkeypatch.setattr(figures, "threshold_curve", len)  # a hundred figures take their time
    said = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        face = {"image": [f"{row:03}" for row in range(400)], "split": np.repeat(["val", "test"], 200), "label": 0, "group": np.arange(400)}
        raw, turned = (pd.DataFrame(face | {"predicted": rng.integers(0, 2, 400)}) for _ in "ab")
        sweep = threshold_sweep(raw.assign(yaw=rng.uniform(-90, 90, 400)), turned, range(30, 91, 6), n_boot=200, seed=seed)
        run.record["conditions"]["geometric"]["threshold_sweep"] = sweep
        said.append(words(yaw_thresholds(run)))
    assert np.mean(["not distinguishable from noise" not in one for one in said]) <= 0.1
    assert all("Below 30°" not in one for one in said)


def test_seeds_have_a_mean_and_a_spread(run):
    values = [rung["metrics"]["test"]["accuracy"]["value"] for rung in rungs(run, "seeds")]
    table = seeds(run).table
    assert table.loc["mean", "ours"] == f"{100 * np.mean(values):.1f}"
    assert table.loc["standard deviation", "ours"] == f"{100 * np.std(values, ddof=1):.2f}"
    assert "No seed is distinguishable from seed 0" in words(seeds(run))


def test_calibration_is_held_against_luck(run):
    table = calibration(run).table
    assert table["luck's floor, %"].tolist() == ["3.0", "3.0"] and table.temperature.tolist() == ["1", "1.40"]
    assert table.iloc[0]["ECE, %"] == "5.0 [4.0, 6.0]"
    said = words(calibration(run))
    assert "by 5.0 points, more than luck;" in said and "by 1.0 points, within luck" in said
    assert "confidence minus accuracy is +4.0 [+2.0, +6.0] points: the classifier is too sure of itself, beyond chance" in said
    assert "does not help" not in said
    run.record["conditions"]["geometric"]["calibration"].pop("overconfidence")
    assert "too sure" not in words(calibration(run))  # an older record
    run.record["conditions"]["geometric"]["calibration"] = {}
    assert calibration(run) is None


def test_the_direction_is_the_test_faces_and_not_the_temperatures(run):
    """Too sure of itself on val, too modest on test: a temperature above 1 makes it worse."""

    def stating(sharpness, seed, n):
        rng = np.random.default_rng(seed)
        true = rng.dirichlet(np.full(7, 0.4), n).clip(1e-4)
        true /= true.sum(1, keepdims=True)
        stated = true**sharpness / (true**sharpness).sum(1, keepdims=True)
        label = (true.cumsum(1) < rng.random((n, 1))).sum(1).clip(0, 6)
        return pd.DataFrame(stated, columns=[f"p_{name}" for name in CLASSES]).assign(label=label, group=np.arange(n))

    found = calibrate_probabilities(stating(1.8, 0, 400), stating(0.7, 1, 1500), n_boot=200)
    assert found["temperature"] > 1
    run.record["conditions"]["geometric"]["calibration"] = found
    said = words(calibration(run))
    assert "the classifier is too modest, beyond chance" in said and "too sure" not in said
    assert "The temperature does not help here: with it the error is larger." in said


def test_the_curve_says_where_accuracy_falls(run):
    assert "accuracy is distinguishable from that at 0° from 40° on" in words(yaw_curves(run))
    flat = curve_of(0.6)
    run.record["conditions"]["raw"]["yaw_curve"] = flat | {name: [flat[name][0]] * 9 + [None] for name in ("value", "low", "high")}
    assert "accuracy has no band that stays clear of that at 0°" in words(yaw_curves(run))
    run.record["conditions"]["raw"]["yaw_curve"] = {}
    assert yaw_curves(run) is None


def test_scaled_features_are_there_or_not(folder, tmp_path):
    assert scaling(Run(tmp_path)) is None
    shutil.copy(folder / "scaling.parquet", tmp_path)
    section = scaling(Run(tmp_path))
    assert section.figure is not None and "tests nothing" in words(section)


def test_text_prompts_beside_training(run):
    assert zero_shot(run).table.index.tolist() == ["all test faces", "profile, beyond 30°"]
    said = words(zero_shot(run))
    assert "Better than a blind guess among seven. Apart from the trained method, for the intervals do not overlap." in said
    run.record["config"]["embedder"] = "open_clip:ViT-B-32?random=0"
    assert "plumbing, no result" in words(zero_shot(run))


def test_prompts_are_compared_with_training_on_the_same_faces(run):
    prompts, trained = predictions(0.57), predictions(0.6)
    found = run.record["zero_shot"]
    found["metrics"] = evaluate(prompts, n_boot=200)
    assert "Its interval overlaps that of the trained method, which decides nothing." in words(zero_shot(run))
    found["versus_trained"] = {"test": compared(trained, prompts)}
    versus, said = found["versus_trained"]["test"], words(zero_shot(run))
    assert versus["p_permutation"] < 0.05 and "on the same faces: -" in said and "points, distinguishable from noise" in said
    assert zero_shot(run).table.loc["all test faces", "against trained"].startswith(f"{100 * versus['value']:+.1f} [")
    versus["p_permutation"] = 0.06
    assert "points, not distinguishable from noise" in words(zero_shot(run))


def test_prompts_may_be_worse_than_a_blind_guess(run):
    run.record["zero_shot"]["metrics"] = evaluate(predictions(0.05), n_boot=200)
    assert "Worse than a blind guess among seven." in words(zero_shot(run))


def crossed(train, test):
    raw, turned = predictions(0.5), predictions(0.7)
    scores = {"raw": evaluate(raw, n_boot=200), "qwen": evaluate(turned, n_boot=200)}
    cross = {name: {part: found[part] for part in ("test", "profile")} for name, found in scores.items()}
    versus = {"qwen": {"test": compared(raw, turned)}}
    run = Run("nowhere")
    run.record = {"config": {"train": train, "test": test}, "cross": cross, "versus_raw": versus}
    return run


def test_cross_dataset_results_beside_section_4_5_6():
    section = other_set(crossed("rafdb", "expw"))
    assert section.table.paper.tolist() == ["", "55.4", "", "58.7"]
    assert "paper" not in other_set(crossed("posebench", "expw")).table
    said = words(section)
    assert said.startswith("**Table 1.** Trained on rafdb, tested on expw") and "qwen on all test faces" in said


def test_everything_beside_the_paper(run):
    rows = paper.paper_rows(run)
    assert all(set(row) == {"name", "paper", "value", "low", "high", "n"} for row in rows)
    found = {row["name"]: row["paper"] for row in rows}
    assert found["Table 6: 256"] == paper_value("Table 6", "rafdb", "256")["value"] and found["Table 8: profiles, before"] == 74.35
    assert "Table 6: 300" not in found and len(rows) == 1 + 4 + 4 + 1 + 2 + 5 + 2


def test_the_record_is_left_as_it_was(run, folder):
    for part in (*ALWAYS, *PARTS, *DRAWN):
        part(run)
    for name in LADDERS:
        ladder(run, name)
    assert run.record == Run(folder).record
