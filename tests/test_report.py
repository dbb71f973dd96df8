"""The page of PoseBench: tables and captions from a record, the executed page, and the published one."""

import base64
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

import qcfer.pages.site
from qcfer.pages import overview as report
from qcfer.evaluate.scores import evaluate, posebench_score
from qcfer.evaluate.fidelity import pose_error, pose_offset
from qcfer.run.pipeline import PROBABILITIES, adjust, demo_run, versus_raw
from qcfer.core.files import resources
from qcfer.run.record import Run, open_run

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
        bench["pose_error"] = pose_error(read, true, np.repeat(np.arange(20), 28), pose_offset(read, true), n_boot=200)
    ids = {"pose": f"{pose}:weights" if pose == "3ddfa_v2" else pose, "frontalizer": "none", "embedder": "effnet_lite0"}
    conditions = {name: {"ids": ids | {"frontalizer": name}, "metrics": part, "timings_s": {}} for name, part in metrics.items()}
    rows = dict(list(predictions.groupby("condition")))
    for name in names[1:]:
        conditions[name]["versus_raw"] = versus_raw(rows["raw"], rows[name], 0)
    adjust([part["versus_raw"] for part in conditions.values() if "versus_raw" in part])
    return {"metrics": metrics["raw"] | {"headroom": score["headroom"]}, "conditions": conditions, "ids": ids, "posebench": bench}


def posebench_run(out, names=("raw", "oracle", "geometric"), pose="3ddfa_v2"):
    """A run as one on PoseBench leaves it: the drawn faces' run, with the record and the tables of simulated conditions."""
    folder = out / "posebench" / "0123456789ab"
    shutil.copytree(demo_run(), folder, ignore=shutil.ignore_patterns("pages"))
    predictions = posebench_predictions(names)
    record = json.loads((folder / "run.json").read_text()) | posebench_record(predictions, names, pose)
    record["config"]["dataset"] = "posebench"
    (folder / "run.json").write_text(json.dumps(record, allow_nan=False))
    predictions.to_parquet(folder / "predictions.parquet")
    manifest = pd.read_parquet(folder / "manifest.parquet")
    yaw = np.linspace(-90, 90, len(manifest))
    manifest.assign(yaw=yaw, estimated_yaw=yaw + (pose == "3ddfa_v2")).to_parquet(folder / "manifest.parquet")
    (folder / "pictures").mkdir()
    for name, size in (("contact-sheet", (900, 700)), ("yaw-strip", (1300, 300))):
        Image.linear_gradient("L").resize(size).save(folder / "pictures" / f"{name}.jpg")
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Run(posebench_run(tmp_path_factory.mktemp("bench")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "Without a frontalizer, without an estimator, without pictures."
    folder = posebench_run(tmp_path_factory.mktemp("plain"), ("raw", "oracle"), "annotation")
    shutil.rmtree(folder / "pictures")
    return Run(folder)


def cell(metric):
    return f"{100 * metric['value']:.1f} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


# ---- words and tables


def test_the_tables_hold_the_records_numbers(bench):
    score, table = bench.posebench["score"], report.posebench_table(bench)
    assert list(table.columns) == ["pictures as they are", "true frontal views (oracle)", "frontalized: geometric", "faces"]
    assert len(table) == 6 and table["faces"].tolist() == [140, 140, 140, 140, 280, 560]
    assert table.loc["extreme, above", "frontalized: geometric"] == cell(score["geometric"]["extreme"])
    effect = report.effect_table(bench)
    assert effect["accuracy, %"].tolist() == [cell(metric) for metric in list(bench.posebench["effect"].values())[:4]]
    assert effect.index.is_unique
    fidelity = report.fidelity_table(bench)
    row = fidelity.loc[("frontalized: geometric", "large, to 45°")]
    assert len(fidelity) == 9 and row["landmarks off, %"] == "5.1 [4.8, 5.5]"
    assert row["identity, %"] == cell(score["geometric"]["large"])
    errors = report.pose_error_table(bench)
    yaw = bench.posebench["pose_error"]["bins"]["frontal"]["yaw"]
    assert errors.loc["frontal, to 15°", "yaw"] == f"{yaw['value']:.1f} [{yaw['low']:.1f}, {yaw['high']:.1f}]"
    assert [name[0] for name in report.scores(bench).index[::2]] == list(table.columns[:3])


def test_the_headline_and_the_captions_give_the_differences(bench):
    raw, oracle = (bench.posebench["score"][name]["profile"] for name in ("raw", "oracle"))
    points = f"{100 * (oracle['value'] - raw['value']):.1f} points ["
    assert (
        points in report.posebench_headline(bench).data
        and f"**{100 * raw['value']:.1f} %**" in report.posebench_headline(bench).data
    )
    share = bench.metrics["headroom"]["geometric"]["profile"]
    assert (
        f"on faces beyond 30°; of these geometric recovers **{100 * share['value']:.1f} %**" in report.headroom_caption(bench).data
        and points in report.headroom_caption(bench).data
    )
    words = report.effect_caption(bench).data
    assert "turning them beyond 30° changes its accuracy by -32.1 points [-40.0, -25.0]" in words
    assert "turned ones among them, changes it by +12.3 points [-1.0, +20.0]" in words
    words = report.pose_error_caption(bench).data
    assert "error of 3ddfa_v2" in words and "pitch +14" in words and "n = 560" in words
    assert "Landmarks were not measured" not in report.fidelity_caption(bench).data


def test_what_was_not_measured_is_said(plain):
    assert "no frontalizer was run" in report.headroom_caption(plain).data
    assert "the set's own (annotation) and exact" in report.pose_error_caption(plain).data
    assert report.pose_error_table(plain) is None
    assert "Landmarks were not measured: they need 3DDFA-V2" in report.fidelity_caption(plain).data
    assert list(report.fidelity_table(plain).columns) == ["expression, %", "identity, %", "faces"]
    assert "contact-sheet.jpg is not in the run's folder" in report.picture(plain, "contact-sheet").data


def test_headroom_within_chance_is_said(bench, tmp_path):
    other = Run(bench.path)
    other.metrics = other.metrics | {"headroom": {"geometric": {}}}
    assert "they are within chance" in report.headroom_caption(other).data


def test_a_kernel_that_dies_at_its_start_is_started_once_more(tmp_path):
    script = "import pathlib, sys; tries = pathlib.Path(sys.argv[1]); tries.open('a').write('x'); sys.exit(sys.argv[2])"
    for reason, tries in (("RuntimeError: Kernel died before replying to kernel_info", 2), ("NameError: x", 1)):
        counter = tmp_path / str(tries)
        done = report._run_template([sys.executable, "-c", script, str(counter), reason])
        assert done.returncode == 1 and reason in done.stderr and counter.read_text() == tries * "x"


def test_a_picture_is_inside_the_page_and_described(bench):
    shown = report.picture(bench, "yaw-strip")
    image = BeautifulSoup(shown.data, "html.parser").img
    assert (
        base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        == (bench.path / "pictures/yaw-strip.jpg").read_bytes()
    )
    assert image["alt"] == (
        "One face turned from -90 to 90 degrees in steps of 15. "
        "Rows: the picture as it is, frontalized: geometric, the true frontal view."
    )


def test_the_yaw_is_called_exact_where_it_is(bench, plain):
    assert "exact, for the set knows it" in report.yaw_caption(bench).data
    assert "exact, for the set knows it" in report.yaw_caption(plain).data
    read = Run(bench.path)
    read.manifest = read.manifest.assign(estimated_yaw=read.manifest["yaw"])
    assert "as the pose estimator reads it" in report.yaw_caption(read).data


def test_other_runs_have_no_part_on_posebench():
    other = open_run()
    assert "is about PoseBench, and this run is on folder" in report.posebench_headline(other).data
    shows = [report.posebench_table, report.effect_table, report.fidelity_table, report.pose_error_table]
    shows += [
        report.posebench_caption,
        report.effect_caption,
        report.headroom_caption,
        report.pose_error_caption,
        report.fidelity_caption,
    ]
    assert [show(other) for show in shows] == [None] * 9
    assert report.picture(other, "yaw-strip") is None


# ---- pages


@pytest.fixture(scope="module")
def site(bench, plain, tmp_path_factory):
    "The published pages of both runs; not all of them, for each takes seconds."
    out = tmp_path_factory.mktemp("out")
    for run, pages in ((bench, ("overview", "posebench", "profile")), (plain, ("posebench",))):
        folder = out / "posebench" / run.path.parent.parent.name.rstrip("0123456789")
        shutil.copytree(run.path, folder)
        (folder / "pages").mkdir()
        for name in pages:
            template, page = resources("reports") / f"{name}.ipynb", folder / "pages" / f"{name}.ipynb"
            report._make_page(template, page, {"dataset": "posebench", "out": ".", "run": folder.name})
    return qcfer.pages.site.build_site(out).parent


def page_of(site, run):
    return BeautifulSoup((site / "reports" / run / "posebench.html").read_text(encoding="utf-8"), "html.parser")


def test_only_runs_on_posebench_have_its_page(site, bench):
    others = {template.stem for template in report._templates(open_run().path)}
    assert others == {"ablation", "confusion", "overview", "paper", "profile", "reliability", "tsne"}
    assert {template.stem for template in report._templates(bench.path)} - others == {"posebench"}
    overview = BeautifulSoup((site / "reports/posebench/bench/overview.html").read_text(encoding="utf-8"), "html.parser")
    assert [link.get_text() for link in overview("nav")[1]("a")] == ["Overview", "PoseBench", "Profile"]
    profile = (site / "reports/posebench/bench/profile.html").read_text(encoding="utf-8")
    assert "exact, for the set knows it" in profile


def test_the_page_keeps_its_pictures_and_numbers_its_figures(site):
    page = page_of(site, "posebench/bench")
    sources = [image["src"].split(",")[0] for image in page.main("img")]
    assert sources == ["data:image/jpeg;base64"] * 2 + ["data:image/svg+xml;base64"] * 3
    assert [image.parent.get("role") for image in page.main("img")[:3]] == ["region", "region", None]  # on a phone they scroll
    assert [image["alt"].split(" ")[0] for image in page.main("img")] == ["Rendered", "One", "Figure", "Figure", "Figure"]
    captions = [text.strong.get_text() for text in page.select("p.caption")]
    figures, tables = ([name for name in captions if name.startswith(kind)] for kind in ("Figure", "Table"))
    assert figures == [f"Figure {number}." for number in range(1, 6)]
    assert tables == [f"Table {number}." for number in range(1, 5)] and len(page.main("table")) == 4
    assert "A render is not a photograph" in page.main.get_text()
    assert "None" not in page.main.get_text() and "nan" not in page.main.get_text()


def test_the_page_without_frontalizer_estimator_and_pictures_is_whole(site):
    text = page_of(site, "posebench/plain").main.get_text(" ", strip=True)
    for words in ("no frontalizer was run", "is not in the run's folder", "and exact", "Landmarks were not measured"):
        assert words in text


def test_the_template_on_its_own_says_that_the_run_is_on_another_set(tmp_path):
    template, page = resources("reports") / "posebench.ipynb", tmp_path / "page.ipynb"
    command = [sys.executable, "-m", "papermill", template, page, "-k", "python3", "--no-progress-bar"]
    answer = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ)
    assert answer.returncode == 0, answer.stderr
    outputs = [output for part in json.loads(page.read_text())["cells"] for output in part.get("outputs", [])]
    shown = ["".join(output["data"]["text/markdown"]) for output in outputs if "data" in output]
    assert len(shown) == 1 and "`qcfer report posebench` makes one that is" in shown[0]
