"""The page of PoseBench: sections from a record, the executed page, and the published one."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

import qcfer.pages.site
from qcfer.classify.train import PROBABILITIES
from qcfer.core.files import resources
from qcfer.evaluate.bootstrap import Metric
from qcfer.evaluate.fidelity import pose_error, pose_offset
from qcfer.evaluate.scores import evaluate, posebench_score
from qcfer.pages import overview
from qcfer.pages import posebench as page
from qcfer.pages.publish import check_templates, make_page, read_template
from qcfer.run.measure import adjust, versus
from qcfer.run.pipeline import demo_run
from qcfer.run.record import Run
from qcfer.run.thumbnails import thumbnail

SKILL = {"raw": (0.85, 0.008), "oracle": (0.85, 0.0), "geometric": (0.84, 0.005)}


def posebench_predictions(names):
    """Simulated predictions of 20 subjects, 7 expressions and 4 yaws in the given conditions, on the same faces."""
    rng = np.random.default_rng(0)
    subject, label, yaw = (part.ravel() for part in np.meshgrid(range(20), range(7), [5.0, -22.0, 38.0, -75.0], indexing="ij"))
    luck, guess = rng.random(560), (label + rng.integers(1, 7, 560)) % 7
    faces = {"image": [f"test/{row:04}.jpg" for row in range(560)], "split": "test", "label": label, "yaw": yaw}
    faces |= {"group": [f"s{number:03}" for number in subject]} | dict.fromkeys(PROBABILITIES, 1 / 7)
    right = {name: luck < SKILL[name][0] - SKILL[name][1] * np.abs(yaw) for name in names}
    return pd.concat(
        [pd.DataFrame(faces).assign(condition=name, predicted=np.where(right[name], label, guess)) for name in names]
    )


def posebench_record(predictions, names, pose):
    """What a run on PoseBench adds to its record, with its metrics from the predictions; invented where those do not tell."""
    score = posebench_score(predictions, names, n_boot=200)
    metrics = {name: evaluate(predictions[predictions.condition == name], n_boot=200) for name in names}
    parts = ("profile", "large", "extreme")
    fidelity = {name: {"expression": {part: score["accuracy"][name][part] for part in parts}} for name in names}
    for measures in fidelity.values():
        measures["identity"] = measures["expression"]
        if pose != "annotation":
            measures["landmarks"] = {part: {"value": 0.051, "low": 0.048, "high": 0.055, "n": 140} for part in parts}
    profiles = {name: score["accuracy"][name]["profile"] for name in names}
    effect = {
        "frontal_to_frontal": profiles["oracle"],
        "frontal_to_profile": profiles["raw"] | {"value": 0.25, "low": 0.2, "high": 0.3},
    }
    effect |= {"raw_profile": profiles["raw"], "oracle_profile": profiles["oracle"]}
    differences = {"turning": (-0.321, -0.4, -0.25), "training_on_turned": (0.123, -0.01, 0.2)}
    effect |= {name: dict(zip(("value", "low", "high"), values)) | {"n": 280} for name, values in differences.items()}
    bench = {"score": score["accuracy"], "effect": effect, "fidelity": fidelity}
    if pose != "annotation":
        true = predictions[predictions.condition == "raw"][["yaw"]].assign(pitch=0.0, roll=0.0).to_numpy()
        read = true + [0, 14, 0] + np.random.default_rng(0).normal(0, 2, true.shape)
        bench["pose_by_crop"] = crop_errors(read, true)
        bench["pose_error"] = pose_error(read, true, np.repeat(np.arange(20), 28), pose_offset(read, true), n_boot=200)
    ids = {"pose": f"{pose}:weights" if pose == "3ddfa_v2" else pose, "frontalizer": "none", "embedder": "effnet_lite0"}
    conditions = {name: {"ids": ids | {"frontalizer": name}, "metrics": part, "timings_s": {}} for name, part in metrics.items()}
    rows = dict(list(predictions.groupby("condition")))
    for name in names[1:]:
        conditions[name]["versus_raw"] = versus(rows["raw"], rows[name], 0)
    adjust([part["versus_raw"] for part in conditions.values() if "versus_raw" in part])
    main = "geometric" if "geometric" in names else "raw"
    top = {"metrics": metrics[main] | {"headroom": score["headroom"]}, "main": main}
    return top | {"conditions": conditions, "ids": ids, "posebench": bench}


def crop_errors(read, true):
    """As `qcfer.evaluate.crops.pose_by_crop` has them: what is read at one look is twice as wrong."""
    groups = np.repeat(np.arange(20), 28)
    bins = {way: pose_error(true + by * (read - true), true, groups, n_boot=50)["bins"] for way, by in (("whole", 2), ("recropped", 1))}
    part = {way: {"bins": {name: row["yaw"] for name, row in rows.items()}, "unknown": 3} for way, rows in bins.items()}
    moved = {"moved": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 557}}
    return {"faces": 560, "crops": {crop: {way: rows | moved for way, rows in part.items()} for crop in ("0.75", "1", "1.6")}}


def posebench_run(out, names=("raw", "oracle", "geometric"), pose="3ddfa_v2"):
    """A run as one on PoseBench leaves it: the drawn faces' run, with the record and the tables of simulated conditions."""
    run = Run(out / "posebench" / "0123456789ab")
    shutil.copytree(demo_run().path, run.path)
    predictions = posebench_predictions(names)
    record = json.loads((run.path / "run.json").read_text()) | posebench_record(predictions, names, pose)
    record["config"]["dataset"] = "posebench"
    run.save_table("predictions", predictions)
    manifest = run.manifest
    yaw = np.linspace(-90, 90, len(manifest))
    run.save_table("manifest", manifest.assign(yaw=yaw, estimated_yaw=yaw + (pose == "3ddfa_v2")))
    run.save_record(record)
    return Run(run.path)


def sheets(lines, columns):
    shade = thumbnail(Image.new("RGB", (40, 40), (30, 60, 90)))
    return pd.DataFrame([(line, column, shade) for line in lines for column in columns], columns=["line", "column", "picture"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    run = posebench_run(tmp_path_factory.mktemp("bench"))
    run.save_pictures("contact", sheets(range(8), range(7)))
    run.save_pictures("strip", sheets(["raw", "geometric", "frontal"], range(-6, 7)))
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "Without a frontalizer, without an estimator, without pictures."
    return posebench_run(tmp_path_factory.mktemp("plain"), ("raw", "oracle"), "annotation")


def cell(metric):
    return f"{Metric.of(metric):%}"


def words(section):
    return [caption.data for caption in section.says]


# ---- sections


def test_the_errors_of_every_crop_are_told(bench, plain):
    section = page.crop_error(bench, table=9)
    assert section.table.index.tolist()[:2] == [("0.75", "as they are, at one look"), ("0.75", "re-cropped")] and len(section.table) == 6
    row, metric = section.table.iloc[-1], bench.posebench["pose_by_crop"]["crops"]["1.6"]["recropped"]["bins"]["extreme"]
    assert row["extreme, above"] == f"{metric['value']:.1f} [{metric['low']:.1f}, {metric['high']:.1f}]"
    assert (row["moved, %"], section.table.loc["1"]["moved, %"].tolist(), row["no face"]) == ("25.0 [20.0, 30.0]", ["", ""], 3)
    assert words(section)[0].startswith("**Table 9") and "560" in words(section)[0]
    assert page.crop_error(plain) is None


def test_the_tables_hold_the_records_numbers(bench):
    score, table = bench.posebench["score"], page.turning(bench).table
    assert list(table.index) == ["pictures as they are", "true frontal views (oracle)", "frontalized: geometric"]
    assert [column.partition(" (n = ")[2] for column in table] == ["140)"] * 4 + ["280)", "560)"]
    assert table.loc["frontalized: geometric", "extreme, above (n = 140)"] == cell(score["geometric"]["extreme"])
    effect = page.effect(bench).table
    assert effect["accuracy, %"].tolist() == [cell(metric) for metric in list(bench.posebench["effect"].values())[:4]]
    assert effect.index.is_unique
    fidelity = page.fidelity(bench).table
    row = fidelity.loc[("frontalized: geometric", "large, to 45°")]
    assert len(fidelity) == 9 and row["landmarks off, %"] == "5.1 [4.8, 5.5]"
    assert row["identity, %"] == cell(score["geometric"]["large"])
    errors = page.pose_error(bench).table
    yaw = bench.posebench["pose_error"]["bins"]["frontal"]["yaw"]
    assert errors.loc["frontal, to 15°", "yaw"] == f"{yaw['value']:.1f} [{yaw['low']:.1f}, {yaw['high']:.1f}]"
    assert [name[0] for name in overview.scores(bench).index[::2]] == list(table.index)


def test_the_headline_and_the_captions_give_the_differences(bench):
    raw, oracle = (bench.posebench["score"][name]["profile"] for name in ("raw", "oracle"))
    points = f"{100 * (oracle['value'] - raw['value']):.1f} points ["
    headline = page.headline(bench).data
    assert points in headline and f"**{100 * raw['value']:.1f} %** [{100 * raw['low']:.1f}" in headline
    share, (said,) = bench.metrics["headroom"]["geometric"]["profile"], words(page.recovered(bench))
    assert f"on faces beyond 30°; of these geometric recovers **{100 * share['value']:.1f} %**" in said and points in said
    (said,) = words(page.effect(bench))
    assert "turning them beyond 30° changes its accuracy by -32.1 points [-40.0, -25.0]" in said
    assert "turned ones among them, changes it by +12.3 points [-1.0, +20.0]" in said
    said = words(page.pose_error(bench))[0]
    assert "error of 3ddfa_v2" in said and "pitch +14" in said and "n = 560" in said
    assert "Landmarks were not measured" not in words(page.fidelity(bench))[0]


def test_what_was_not_measured_is_said(plain):
    assert "no frontalizer was run" in words(page.recovered(plain))[0]
    assert "the set's own (annotation) and exact" in words(page.pose_error(plain))[0]
    assert page.pose_error(plain).table is None
    assert "Landmarks were not measured: they need 3DDFA-V2" in words(page.fidelity(plain))[0]
    assert list(page.fidelity(plain).table.columns) == ["expression, %", "identity, %", "faces"]
    assert page.every_turn(plain) is None and page.what_it_is(plain).figure is None
    assert "A render is not a photograph" in words(page.what_it_is(plain))[0]


def test_headroom_within_chance_is_said(bench):
    other = Run(bench.path)
    other.record["metrics"]["headroom"] = {"geometric": {}}
    assert "they are within chance" in words(page.recovered(other))[0]


def test_a_sheet_is_inside_the_page_and_described(bench):
    image = BeautifulSoup(page.every_turn(bench).figure.data, "html.parser").img
    drawn = Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))))
    assert drawn.size == (13 * 100 - 4, 3 * 100 - 4) and image["class"] == ["wide"]
    assert image["alt"] == (
        "One face turned from -90 to 90 degrees in steps of 15. "
        "Rows: the picture as it is, frontalized: geometric, the true frontal view."
    )


def test_loose_and_tight_stand_side_by_side(tmp_path):
    loose = posebench_run(tmp_path)
    assert page.loose_and_tight(loose) is None
    tight = Run(tmp_path / "posebench_tight" / "0")
    shutil.copytree(loose.path, tight.path)
    record = json.loads((tight.path / "run.json").read_text())
    record["config"]["dataset"] = "posebench_tight"
    record["posebench"]["score"]["geometric"]["profile"] |= {"value": 0.123, "low": 0.1, "high": 0.15}
    tight.save_record(record)
    shown, other = (page.loose_and_tight(Run(run.path)).table for run in (loose, tight))
    pd.testing.assert_frame_equal(shown, other)
    row = shown.loc["frontalized: geometric"]
    assert row["loose, %"] == cell(loose.posebench["score"]["geometric"]["profile"]) and row["tight, %"] == "12.3 [10.0, 15.0]"
    versus = loose.record["conditions"]["geometric"]["versus_raw"]["profile"]
    assert row["loose, gain"].startswith(f"{100 * versus['value']:+.1f} [") and shown["tight, gain"].iloc[0] == ""
    assert "eyes are level" in words(page.what_it_is(tight))[0] and "eyes are level" not in words(page.what_it_is(loose))[0]


def test_each_expression_at_each_turn(tmp_path):
    run = posebench_run(tmp_path)
    assert page.each_turn(run) is None
    columns = {"yaw": np.tile(np.repeat([45, 60, 75, 90], 3), 7), "view": ["raw", "geometric", "frontal"] * 28}
    run.save_pictures("turns", sheets(range(7), range(12)).assign(**columns))
    (said,) = words(page.each_turn(run))
    assert "at 45°, 60°, 75°, 90°, each time the picture as it is, frontalized: geometric, the true frontal view" in said


def test_the_yaw_is_called_exact_where_it_is(bench, plain):
    assert "exact, for the set knows it" in words(overview.yaws(bench))[0]
    assert "exact, for the set knows it" in words(overview.yaws(plain))[0]
    read = Run(bench.path)
    read.manifest = read.manifest.assign(estimated_yaw=read.manifest["yaw"])
    assert "as the pose estimator reads it" in words(overview.yaws(read))[0]


def test_other_runs_have_no_part_on_posebench():
    other = demo_run()
    assert "is about PoseBench, and this run is on folder" in page.headline(other).data
    shows = [page.what_it_is, page.every_turn, page.turning, page.effect, page.recovered, page.fidelity, page.pose_error]
    shows += [page.crop_error, page.loose_and_tight, page.each_turn]
    assert [show(other) for show in shows] == [None] * 10


def test_a_record_of_the_older_form_has_its_sections_and_no_pictures():
    old = Run(Path(__file__).parent / "data/record_0")
    assert old.record.get("schema", 0) == 0 and old.main == "geometric"
    assert page.turning(old).table.shape == (8, 6) and page.effect(old).table.shape == (4, 2)
    assert page.every_turn(old) is None and page.what_it_is(old).figure is None


# ---- pages


@pytest.fixture(scope="module")
def site(bench, plain, tmp_path_factory):
    "The published pages of both runs; not all of them, for each takes seconds."
    out = tmp_path_factory.mktemp("out")
    for name, run, pages in (("bench", bench, ("overview", "posebench")), ("plain", plain, ("posebench",))):
        shutil.copytree(run.path, out / "posebench" / name)
        for each in pages:
            make_page(read_template(resources("reports") / f"{each}.ipynb"), Run(out / "posebench" / name))
    return qcfer.pages.site.build_site(out).parent


def page_of(site, run):
    return BeautifulSoup((site / "reports" / run / "posebench.html").read_text(encoding="utf-8"), "html.parser")


def test_only_runs_on_posebench_have_its_page(site, bench):
    suited = [{each.path.stem for each in check_templates() if each.needs in run.record} for run in (demo_run(), bench)]
    assert suited[0] == {"ablation", "confusion", "overview", "paper", "profile", "reliability", "tsne"}
    assert suited[1] - suited[0] == {"posebench"}
    shown = BeautifulSoup((site / "reports/posebench/bench/overview.html").read_text(encoding="utf-8"), "html.parser")
    assert [link.get_text() for link in shown("nav")[1]("a")] == ["Overview", "PoseBench"]
    assert "(method: geometric; as they are" in shown.main.get_text()


def test_the_page_keeps_its_pictures_and_numbers_its_figures(site):
    page = page_of(site, "posebench/bench")
    sources = [image["src"].split(",")[0] for image in page.main("img")]
    assert sources == ["data:image/jpeg;base64"] * 2 + ["data:image/svg+xml;base64"] * 3
    assert [image.parent.get("role") for image in page.main("img")[:3]] == ["region", "region", None]  # on a phone they scroll
    assert [image["alt"].split(" ")[0] for image in page.main("img")] == ["Rendered", "One", "Figure", "Figure", "Figure"]
    captions = [text.strong.get_text() for text in page.select("p.caption")]
    figures, tables = ([name for name in captions if name.startswith(kind)] for kind in ("Figure", "Table"))
    assert figures == [f"Figure {number}." for number in range(1, 6)]
    assert tables == [f"Table {number}." for number in range(1, 7)] and len(page.main("table")) == 6
    assert "A render is not a photograph" in page.main.get_text()
    assert "None" not in page.main.get_text() and "nan" not in page.main.get_text()


def test_the_page_without_frontalizer_estimator_and_pictures_is_whole(site):
    text = page_of(site, "posebench/plain").main.get_text(" ", strip=True)
    for said in ("A render is not a photograph", "no frontalizer was run", "and exact", "Landmarks were not measured"):
        assert said in text


def test_the_template_on_its_own_says_that_the_run_is_on_another_set(tmp_path):
    template, made = resources("reports") / "posebench.ipynb", tmp_path / "page.ipynb"
    command = [sys.executable, "-m", "papermill", template, made, "-k", "python3", "--no-progress-bar"]
    answer = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ)
    assert answer.returncode == 0, answer.stderr
    outputs = [output for part in json.loads(made.read_text())["cells"] for output in part.get("outputs", [])]
    shown = ["".join(output["data"]["text/markdown"]) for output in outputs if "data" in output]
    assert len(shown) == 1 and "`qcfer report posebench` makes one that is" in shown[0]
