"""The pipeline as a whole: the record, resuming after a kill, faults, real photographs."""
import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, f1_score

from qcfer.core.files import SUMS
from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_faces
from qcfer.data.manifest import prepare
from qcfer.evaluate.bootstrap import holm
from qcfer.frontalize.conditions import main_condition
from qcfer.frontalize.gate import Thresholds
from qcfer.pages.publish import make_pages
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run, open_run, run_id
from qcfer.run.study import Meter, Study
from qcfer.run.train import overall

QUICK = {"candidates": "LR"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = draw_faces(tmp_path_factory.mktemp("faces"), per_class=16)
    shutil.copy(folder / "anger" / "0000.png", folder / "anger" / "copy.png")
    (folder / "fear" / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def done(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return make_run(Config("folder", str(faces), pose="none", esv=QUICK), out)


def test_the_record_agrees_with_its_predictions(done):
    test = done.test
    metrics = done.metrics["test"]
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy_score(test.label, test.predicted))
    assert metrics["macro_f1"]["value"] == pytest.approx(f1_score(test.label, test.predicted, average="macro"))
    assert metrics["accuracy"]["low"] <= metrics["accuracy"]["value"] <= metrics["accuracy"]["high"]
    assert metrics["accuracy"]["n"] == len(test) == sum(done.record["counts"]["test"].values())
    assert done.confusion.sum() == len(test) and np.trace(done.confusion) == (test.label == test.predicted).sum()
    probabilities = test[[f"p_{name}" for name in CLASSES]].to_numpy()
    assert np.allclose(probabilities.sum(1), 1, atol=1e-4)
    assert (probabilities.argmax(1) == test.predicted).all()


def test_the_record_says_what_the_run_depends_on(done):
    record = done.record
    assert {"config", "seed", "versions", "git_sha", "data_sha256", "ids", "timings_s", "peak_memory_mb", "metrics"} <= set(record)
    assert record["ids"] == {"pose": "none", "frontalizer": "none", "embedder": record["ids"]["embedder"]}
    assert (record["schema"], record["main"]) == (1, "raw")
    assert record["rejected"] == 1
    assert "root" not in record["config"]
    assert [rung["name"] for rung in record["ladders"]["modules"]["rungs"]] == ["embedding + LR", "+ AFP", "+ ESV (full)"]
    assert set(record["timings_s"]) == set(record["peak_memory_mb"]) >= {"prepare", "embed", "train", "ladders"}
    assert min(record["peak_memory_mb"].values()) > 50


def test_predictions_cover_every_split_and_condition_once(done):
    rows = done.predictions
    assert not rows.duplicated(["condition", "image"]).any()
    assert set(rows.query("condition == 'raw'")["split"]) == {"val", "test"}
    sizes = done.manifest["split"].value_counts()
    assert (rows.query("split == 'test'").groupby("condition").size() == sizes["test"]).all()


def test_the_ladders_top_is_the_run_itself(done):
    ladders = done.record["ladders"]
    for ladder in ladders.values():
        full = next(rung for rung in ladder["rungs"] if rung["name"] == ladder["reference"])
        assert full["metrics"] == overall(done.metrics) and full["versus_full"] is None
        assert full["metrics"]["test"]["macro_f1"] == done.metrics["test"]["macro_f1"] and "per_class" not in full["metrics"]["test"]
        for rung in ladder["rungs"]:
            assert (rung["versus_previous"] is not None) == (ladder["cumulative"] and rung is not ladder["rungs"][0])
            if rung is not full:
                gain = rung["metrics"]["test"]["accuracy"]["value"] - full["metrics"]["test"]["accuracy"]["value"]
                assert rung["versus_full"]["value"] == pytest.approx(gain)
                assert rung["versus_full"]["p_holm"] >= rung["versus_full"]["p_permutation"]


def test_costs_are_those_of_the_whole_method(done):
    costs = done.record["costs"]
    assert costs["trainable_parameters"] == 7 * done.record["afp"]["n_components"] + 7  # one logistic regression
    assert costs["embed_ms"] > 0 and costs["train_s"] > 0 and costs["peak_memory_mb"] > 50


@pytest.mark.parametrize(
    "conditions, main",
    [
        ([], "raw"),
        (["geometric"], "geometric"),
        (["plain", "mirrored+raw", "geometric@auto+raw", "qwen"], "geometric@auto+raw"),
        (["mirrored+raw"], "raw"),
    ],
)
def test_the_ladders_stand_on_the_first_frontalizer(conditions, main):
    assert str(main_condition(conditions)) == main
    assert str(Config("folder", conditions=conditions).main) == main


def test_an_unknown_ladder_is_named():
    with pytest.raises(ValueError, match="expected ladders out of modules.*found tables"):
        Config("folder", "x", ladders=["tables"])


def test_a_second_seed_is_refused_before_any_work():
    with pytest.raises(ValueError, match="expected one seed for all; found esv setting random_state=7"):
        Config("folder", esv={"random_state": 7})


def test_a_finished_run_is_not_made_again(done, faces):
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("*")}
    out = done.path.parent.parent
    assert make_run(Config("folder", str(faces), pose="none", esv=QUICK), out).path == done.path
    assert {path: path.stat().st_mtime_ns for path in done.path.rglob("*")} == before
    assert open_run("folder", out).path == done.path


def test_every_setting_that_matters_renames_the_run():
    config, ids = Config("folder", "x"), {"embedder": "a"}
    names = {
        run_id(config, ids, "data"),
        run_id(Config("folder", "x", seed=1), ids, "data"),
        run_id(Config("folder", "x", afp={"whiten": True}), ids, "data"),
        run_id(config, {"embedder": "b"}, "data"),
        run_id(config, ids, "other"),
    }
    assert len(names) == 5
    assert run_id(Config("folder", "elsewhere"), ids, "data") == run_id(config, ids, "data")


def test_a_copy_of_a_test_picture_is_left_out_and_both_numbers_are_given(tmp_path):
    faces = draw_faces(tmp_path / "whole", per_class=16)
    manifest, _ = prepare("folder", faces, tmp_path / "first")
    for split in ("train", "test"):
        for row in manifest[(manifest.split == "test") == (split == "test")].itertuples():
            target = tmp_path / "faces" / split / row.image
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(faces / row.image, target)
    copied = manifest[manifest.split == "test"].image.iloc[0]
    shutil.copy(faces / copied, tmp_path / "faces" / "train" / Path(copied).parent / "twin.png")
    done = make_run(Config("folder", str(tmp_path / "faces"), pose="none", esv=QUICK), tmp_path / "out")
    assert sum(done.record["counts"]["duplicates"].values()) == 1
    assert list(done.record["conditions"]) == ["raw", "raw_with_duplicates"]
    assert not done.predictions.query("condition == 'raw'")["image"].str.endswith("twin.png").any()


def _train(faces, out, **options):
    params = Path(out) / "params.yaml"
    params.parent.mkdir(parents=True, exist_ok=True)
    params.write_text("config: {pose: none, esv: {candidates: LR}}")
    arguments = ["train", "folder", "--root", faces, "--out", out, "--params", params]
    return subprocess.Popen([sys.executable, "-m", "qcfer.cli", *map(str, arguments)], stdout=subprocess.PIPE, **options)


def _kill_when(process, ready):
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def _stored_keys(out):
    keys = []
    for path in (out / "cache" / "embeddings").rglob("part-*.arrow"):
        keys += pa.ipc.open_file(path).read_all().column(0).to_pylist()
    return keys


def test_kill_in_embedding_and_in_training_then_the_same_numbers(done, faces, tmp_path):
    _kill_when(_train(faces, tmp_path), lambda: len(list((tmp_path / "cache" / "embeddings").rglob("part-*.arrow"))) >= 1)
    kept = set(_stored_keys(tmp_path))
    assert 0 < len(kept)
    _kill_when(_train(faces, tmp_path), lambda: list((tmp_path / "cache" / "rungs").glob("*/facts.json")))
    assert not list(tmp_path.glob("folder/*/run.json"))
    process = _train(faces, tmp_path)
    record = Path(process.communicate()[0].decode().split()[-1])
    assert json.loads(record.read_text())["metrics"] == done.metrics
    keys = _stored_keys(tmp_path)
    assert len(keys) == len(set(keys)) and kept <= set(keys)
    assert len(keys) == done.manifest["sha256"].nunique()


def test_nothing_is_published_when_the_record_cannot_be_written(faces, tmp_path):
    config = Config("folder", str(faces), pose="none", esv=QUICK)
    (tmp_path / "folder").mkdir()
    shutil.copytree(Path(faces), tmp_path / "pictures")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "runs").touch()  # a file where the run's folder should grow
    with pytest.raises(OSError):
        make_run(config, tmp_path)
    assert not list(tmp_path.glob("folder/*/run.json"))
    (tmp_path / "cache" / "runs").unlink()
    assert make_run(config, tmp_path).is_finished


def test_a_run_that_a_disk_has_changed_is_made_again(faces, tmp_path):
    config = Config("folder", str(faces), pose="none", esv=QUICK, ladders=[])
    run = make_run(config, tmp_path)
    right, runs = run.metrics, tmp_path / "cache" / "runs"
    old, young, fitted = runs / ".a.0123.tmp", runs / ".b.0123.tmp", runs.with_name("rungs") / ".c.0123.tmp"  # killed, alive, killed
    for left in (old, young, fitted):
        left.mkdir()
    for left in (old, fitted):
        os.utime(left, (0, 0))
    text = (run.path / "run.json").read_text()
    place = text.index('"accuracy"') + text[text.index('"accuracy"') :].index("0.") + 2
    (run.path / "run.json").write_text(text[:place] + str(9 - int(text[place])) + text[place + 1 :])
    with pytest.warns(UserWarning, match=r"is damaged \(run.json\): set aside in .*runs, and made again"):
        again = make_run(config, tmp_path)
    assert again.path == run.path and again.damaged == [] and again.metrics == right
    assert young.exists() and not old.exists() and not fitted.exists()
    assert [path.suffix for path in runs.iterdir() if path != young] == [".damaged"]


def test_the_meter_measures_time_and_memory():
    meter = Meter()
    with meter.stage("hold"):
        block = np.ones(40_000_000)
        time.sleep(0.2)
    assert meter.timings_s["hold"] >= 0.2
    assert meter.peak_memory_mb["hold"] >= block.nbytes / 1e6


def test_pages_are_made_once_and_hold_no_path_of_the_machine(done):
    here = os.getcwd()
    pages = make_pages(done)
    assert os.getcwd() == here  # a relative --out must still mean the same folder
    assert sorted(page.stem for page in pages) == ["ablation", "confusion", "overview", "paper", "profile", "reliability", "tsne"]
    stamps = [page.stat().st_mtime_ns for page in pages]
    for page in pages:
        text = page.read_text()
        assert "test faces are recognised" in text
        cells = json.loads(text)["cells"]
        assert str(done.path.parent.parent) not in json.dumps([cell["source"] for cell in cells])
        assert "image/svg+xml" in text or page.stem == "paper"  # drawn faces have no number in the paper
    assert [page.stat().st_mtime_ns for page in make_pages(done)] == stamps


def test_report_templates_define_nothing_and_carry_no_output():
    from qcfer.core.files import resources

    for template in resources("reports").glob("*.ipynb"):
        cells = [cell for cell in json.loads(template.read_text())["cells"] if cell["cell_type"] == "code"]
        nodes = {type(node) for cell in cells for node in ast.walk(ast.parse("".join(cell["source"])))}
        assert not nodes & {ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.ListComp, ast.DictComp}
        assert any("parameters" in cell["metadata"].get("tags", []) for cell in cells)
        assert not any(cell["outputs"] for cell in cells)


def test_real_photographs_end_to_end(fer2013, tmp_path):
    if not os.environ.get("QCFER_WEIGHTS"):
        pytest.skip("QCFER_WEIGHTS names no folder with the 3DDFA-V2 weights")
    root = tmp_path / "fer2013"
    for split, per_class in (("train", 40), ("test", 15)):
        for folder in sorted((Path(fer2013) / split).iterdir()):
            (root / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:per_class]:
                shutil.copy(image, root / split / folder.name)
    done = make_run(Config("fer2013", str(root), esv=QUICK), tmp_path / "out")
    assert done.record["ids"]["pose"].startswith("3ddfa_v2")
    assert done.metrics["test"]["accuracy"]["value"] > 0.2  # chance is 1/7
    assert pd.notna(done.manifest["yaw"]).mean() > 0.9  # a few are drawings and signs
    assert sum(part["accuracy"]["n"] for part in done.metrics["yaw_bins"].values()) == done.test["yaw"].notna().sum() > 95
    assert set(done.manifest["usage"]) == {"Training", "PublicTest"}


@pytest.fixture(scope="module")
def posebench_run(posebench_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("posebench-run")
    return make_run(Config("posebench", str(posebench_set), pose="annotation", esv=QUICK), out)


def test_posebench_has_an_oracle_condition_trained_on_its_own_pictures(posebench_run):
    record = posebench_run.record
    assert list(record["conditions"]) == ["raw", "oracle"]
    assert record["conditions"]["oracle"]["ids"]["frontalizer"] == "oracle"
    assert record["conditions"]["raw"]["ids"]["frontalizer"] == "none"
    assert record["metrics"]["headroom"] == {}
    raw, oracle = (posebench_run.predictions.query(f"condition == '{name}' and split == 'test'") for name in ("raw", "oracle"))
    assert raw["image"].tolist() == oracle["image"].tolist() and len(raw) == 4 * 7 * 4
    accuracy = accuracy_score(oracle["label"], oracle["predicted"])
    assert record["conditions"]["oracle"]["metrics"]["test"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert record["posebench"]["score"]["oracle"]["test"]["value"] == pytest.approx(accuracy)


def test_only_turned_faces_are_seen_from_the_front(posebench_set, tmp_path):
    study = Study(Config("posebench", str(posebench_set), pose="annotation"), tmp_path)
    raw, frontal, oracle = study.see("raw"), study.embedded("frontal"), study.see("oracle")
    turned = study.manifest["yaw"].abs().to_numpy() > 30
    np.testing.assert_array_equal(oracle[turned], frontal[turned])
    np.testing.assert_array_equal(oracle[~turned], raw[~turned])
    assert turned.mean() > 0.25 and (frontal[turned] != raw[turned]).any(1).all()


def test_posebench_tells_what_the_pose_costs(posebench_run):
    measured = posebench_run.record["posebench"]
    assert set(measured) == {"score", "effect", "fidelity"}  # nothing was estimated
    effect = measured["effect"]
    scores = ("frontal_to_frontal", "frontal_to_profile", "raw_profile", "oracle_profile")
    assert set(effect) == {*scores, "turning", "training_on_turned"}
    assert all(metric["n"] == 4 * 7 * 2 for metric in effect.values())
    value = {name: metric["value"] for name, metric in effect.items()}
    assert value["turning"] == pytest.approx(value["frontal_to_profile"] - value["frontal_to_frontal"])
    assert value["training_on_turned"] == pytest.approx(value["raw_profile"] - value["frontal_to_profile"])
    assert measured["fidelity"]["oracle"]["identity"]["profile"]["value"] == 1.0
    assert measured["fidelity"]["oracle"]["expression"]["profile"] == measured["effect"]["frontal_to_frontal"]
    assert measured["fidelity"]["raw"]["expression"]["profile"] == measured["effect"]["frontal_to_profile"]


def test_the_estimate_decides_and_the_truth_is_kept(posebench_set, tmp_path):
    if not os.environ.get("QCFER_WEIGHTS"):
        pytest.skip("QCFER_WEIGHTS names no folder with the 3DDFA-V2 weights")
    done = make_run(Config("posebench", str(posebench_set), esv=QUICK), tmp_path)
    manifest, exact = done.manifest, pd.read_parquet(posebench_set / "posebench.parquet")
    np.testing.assert_array_equal(manifest["yaw"], exact["yaw"])
    assert 0.1 < (manifest["estimated_yaw"] - manifest["yaw"]).abs().mean() < 5
    bins = done.record["posebench"]["pose_error"]["bins"]
    assert list(bins) == ["frontal", "moderate", "large", "extreme"]
    assert all(part["yaw"]["value"] < 6 for part in bins.values())
    assert set(done.record["posebench"]["fidelity"]["oracle"]) == {"expression", "identity", "landmarks"}
    kept = {f"pictures-{sheet}.parquet" for sheet in ("contact", "strip", "turns")}
    assert {path.name for path in done.path.glob("pictures-*")} == kept
    assert not [path for path in done.path.rglob("*") if path.suffix in (".html", ".jpg", ".png", ".svg")]
    names = [page.stem for page in make_pages(done)]
    assert "posebench" in names and "overview" in names


@pytest.fixture(scope="module")
def frontalized_run(posebench_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("frontalized-run")
    conditions = ["geometric@paper", "geometric", "geometric@paper+raw", "mirrored+raw", "raw+3dmm"]
    config = Config("posebench", str(posebench_set), pose="annotation", esv=QUICK, conditions=conditions)
    return config, out, make_run(config, out)


def test_every_condition_is_trained_and_compared_with_raw(frontalized_run):
    _, _, done = frontalized_run
    record = done.record
    assert list(record["conditions"]) == ["raw", "oracle", *done.record["config"]["conditions"]] and len(record["conditions"]) == 7
    without = record["conditions"]["raw+3dmm"]
    assert without["ids"]["frontalizer"] == "none" and without["versus_raw"]["test"]["value"] == 0  # the annotation knows no features
    assert set(record["frontalizers"]) == {"geometric", "mirrored"}
    for name in ("geometric@paper", "geometric", "geometric@paper+raw"):
        assert record["conditions"][name]["ids"]["frontalizer"].startswith("geometric:")
    raw, other = (done.predictions.query(f"condition == '{name}' and split == 'test'").set_index("image") for name in ("raw", "geometric"))
    gain = accuracy_score(other["label"], other["predicted"]) - accuracy_score(raw["label"], raw["predicted"])
    assert record["conditions"]["geometric"]["versus_raw"]["test"]["value"] == pytest.approx(gain)
    assert set(record["posebench"]["fidelity"]) == {"raw", "oracle", "geometric@paper", "geometric"}
    gate = record["conditions"]["geometric@paper"]["gate"]
    assert sum(gate["verdicts"].values()) == (done.manifest["estimated_yaw"].abs() > 30).sum() and gate["thresholds"] == {"embedder": 0.82}
    assert gate["gain"]["value"] == pytest.approx(gate["gated"]["value"] - gate["ungated"]["value"])
    both = (record["conditions"][name]["metrics"]["test"]["accuracy"]["value"] for name in ("geometric@paper", "geometric"))
    assert gate["trained"]["test"]["value"] == pytest.approx(next(both) - next(both))
    assert "gate" not in record["conditions"]["geometric"] and "gate" in record["conditions"]["geometric@paper+raw"]


def test_a_rejected_face_is_seen_as_it_is_in_training_and_in_test(frontalized_run):
    config, out, done = frontalized_run
    study, judged = Study(config, out), done.gate("geometric@paper")
    rejected, accepted = (judged["row"][(judged["verdict"] == "accept") == taken].to_numpy() for taken in (False, True))
    assert {"train", "test"} <= set(done.manifest["split"].iloc[rejected]) and len(accepted)
    seen, raw, frontal = (study.see(name) for name in ("geometric@paper", "raw", "geometric"))
    np.testing.assert_array_equal(seen[rejected], raw[rejected])
    np.testing.assert_array_equal(seen[accepted], frontal[accepted])
    assert (frontal[rejected] != raw[rejected]).any(1).all()
    both = study.see("geometric@paper+raw")
    np.testing.assert_array_equal(both[rejected][:, : raw.shape[1]], both[rejected][:, raw.shape[1] :])
    np.testing.assert_array_equal(study.see("geometric@paper+raw+3dmm"), both)  # the annotation knows no features


def test_a_gate_that_others_have_set_is_not_chosen_anew(frontalized_run):
    config, out, done = frontalized_run
    asked = Thresholds(embedder=1.0, identity=None)
    study = Study(config, out, thresholds={"geometric@paper": asked})
    np.testing.assert_array_equal(study.see("geometric@paper"), study.see("raw"))
    assert done.thresholds["geometric@paper"] == Thresholds(embedder=0.82, identity=None) and list(done.thresholds) == [
        "geometric@paper",
        "geometric@paper+raw",
    ]


def test_everything_at_the_top_is_of_the_main_condition(frontalized_run):
    record, done = frontalized_run[2].record, frontalized_run[2]
    assert record["main"] == done.main == "geometric@paper"
    main = record["conditions"]["geometric@paper"]
    assert {name: part for name, part in record["metrics"].items() if name != "headroom"} == main["metrics"]
    assert record["ids"] == main["ids"] and done.metrics["test"] == main["metrics"]["test"] != done.raw["test"]
    assert done.test["condition"].unique().tolist() == ["geometric@paper"]
    ladder = record["ladders"]["modules"]
    full = next(rung for rung in ladder["rungs"] if rung["name"] == ladder["reference"])
    assert full["settings"]["condition"] == "geometric@paper" and full["metrics"] == overall(main["metrics"])
    yardstick = record["ladders"]["reference"]["rungs"]  # on the pictures as they are, on both sides
    assert {rung["settings"]["condition"] for rung in yardstick} == {"raw"}


def test_a_runs_folder_holds_data_only(frontalized_run):
    done = frontalized_run[2]
    files = [path for path in done.path.rglob("*") if path.is_file() and path.name != SUMS]
    assert {path.suffix for path in files} == {".json", ".parquet", ".skops", ".csv"}
    pairs = done.pictures("pairs geometric")
    assert set(pairs["sheet"]) == {"drawn", "worst"} and pairs["original"].str[:2].eq(b"\xff\xd8").all()
    assert (pairs["original"] != pairs["frontalized"]).all()


def test_a_threshold_of_identity_is_judged_from_the_recognisers_file(posebench_set, recogniser, tmp_path):
    pose = "3ddfa_v2" if os.environ.get("QCFER_WEIGHTS") else "annotation"
    settings = {"pose": pose, "esv": QUICK, "ladders": [], "conditions": ["mirrored@paper"]}
    config = Config("posebench", str(posebench_set), recogniser=str(recogniser), gate={"identity": 0.78}, **settings)
    study = Study(config, tmp_path)
    scores = study.scores("mirrored")
    assert study.ids["recogniser"].startswith("arcface:tiny@")
    if pose == "3ddfa_v2":
        assert scores["identity"].between(-1, 1).all()
    else:
        assert scores["identity"].isna().all()  # nobody knows where the landmarks of new pictures are
    run = make_run(config, tmp_path)
    assert run.gate("mirrored@paper")["identity"].equals(scores["identity"])


def test_pages_know_a_condition_that_no_frontalizer_made(frontalized_run):
    from qcfer.pages.frontalization import frontalizers, gain

    done = frontalized_run[2]
    assert frontalizers(done) == ["geometric"]
    assert "pictures as they are + 3dmm" in gain(done).table.index and "raw+3dmm" in gain(done).says[0].data


def test_comparisons_that_are_read_together_are_corrected_together(frontalized_run):
    conditions = frontalized_run[2].record["conditions"]
    family = [versus for part in conditions.values() for versus in part.get("versus_raw", {}).values()]
    assert len(family) == 6 * 2  # conditions beside raw, all faces and profiles
    assert [versus["p_holm"] for versus in family] == pytest.approx(holm([versus["p_permutation"] for versus in family]))


def test_other_weights_of_a_compared_embedder_are_another_run(faces, tmp_path):
    config = Config("folder", str(faces), pose="none", ladders=["extractors"], extractors=["timm:mobilenetv3_small_050?random=0"])
    ids = Study(config, tmp_path).ids
    assert list(ids["extractors"]) == config.extractors and "mobilenetv3_small_050" in ids["extractors"][config.extractors[0]]
    other = ids | {"extractors": {config.extractors[0]: "other weights"}}
    assert run_id(config, ids, "data") != run_id(config, other, "data")


def test_a_persons_verdicts_make_a_new_run(frontalized_run):
    from qcfer.frontalize.review import Journal

    config, out, done = frontalized_run
    judged = done.gate("geometric@paper")
    accepted = judged.loc[judged["verdict"] != "revert", "key"].iloc[0] if (judged["verdict"] != "revert").any() else judged["key"].iloc[0]
    wanted = "revert" if (judged.set_index("key")["verdict"][accepted] != "revert") else "accept"
    with Journal(Study(config, out).journal("geometric")) as book:
        book.decide(accepted, wanted)
    again = make_run(config, out)
    assert again.path != done.path
    after = again.gate("geometric@paper").set_index("key")
    assert after.loc[accepted, "verdict"] == wanted and after["reviewed"].sum() == 1
    row = [int(after.loc[accepted, "row"])]
    before, now = (Study(config, folder).see("geometric@paper")[row] for folder in (out / "elsewhere", out))
    assert (before != now).any()  # the verdict changes what the classifier sees
    predictions = [run.predictions.query("condition == 'raw'").reset_index(drop=True) for run in (done, again)]
    pd.testing.assert_frame_equal(*predictions)
    page = next(page for page in make_pages(again) if page.stem == "frontalization")
    assert "geometric" in page.read_text()


def test_pictures_from_elsewhere_are_a_condition(posebench_set, tmp_path):
    from PIL import Image, ImageOps

    from qcfer.frontalize.imported import import_names

    manifest, root = prepare("posebench", posebench_set, tmp_path / "a")
    for name, image in zip(import_names(manifest), manifest["image"]):
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        ImageOps.mirror(Image.open(root / image)).save(tmp_path / "made" / f"{name}.png")
    shared = {"dataset": "posebench", "root": str(posebench_set), "pose": "annotation", "esv": QUICK}
    config = Config(**shared, conditions=["imported", "mirrored"], frontalized=str(tmp_path / "made"))
    done = make_run(config, tmp_path / "out")
    assert done.record["conditions"]["imported"]["ids"]["frontalizer"].startswith("imported@")
    study = Study(config, tmp_path / "out")
    turned = (study.view("imported").table["status"] == "done").to_numpy()
    assert 0 < turned.sum() < len(turned)  # the same pixels, whoever made them, for those whom it takes
    np.testing.assert_array_equal(study.see("imported"), np.where(turned[:, None], study.see("mirrored"), study.see("raw")))


def test_a_wrong_condition_is_named_before_any_work(posebench_set):
    with pytest.raises(ValueError, match="expected a condition.*found 'angelic'"):
        Config("posebench", str(posebench_set), pose="annotation", esv=QUICK, conditions=["angelic"])
    with pytest.raises(ValueError, match="expected a threshold embedder from 0 to 1"):
        Config("folder", "x", gate={"embedder": 2})


def test_several_faces_in_one_picture_keep_their_own_answers(posebench_set, tmp_path):
    "As in ExpW: two faces share a picture, and the sweep must not mix them up."
    from qcfer.classify.train import prediction_rows
    from qcfer.evaluate.curves import threshold_sweep
    rng = np.random.default_rng(0)
    n = 400
    manifest = pd.DataFrame({"image": [f"{i // 2}.jpg" for i in range(n)], "label": rng.integers(0, 7, n), "yaw": rng.uniform(-90, 90, n)})
    manifest = manifest.assign(group=manifest["image"], face=np.arange(n), split=np.repeat(["val", "test"], n // 2))
    raw, new = (prediction_rows(manifest, np.eye(7)[guess], guess) for guess in rng.integers(0, 7, (2, n)))
    turned = (manifest["yaw"].abs() > 30).to_numpy()
    shuffled = new.sample(frac=1, random_state=1)
    swept = [row for row in threshold_sweep(raw, shuffled) if row["split"] == "test" and row["threshold"] == 30]
    mixed = np.where(turned, new["predicted"], raw["predicted"])
    assert swept[0]["accuracy"]["value"] == pytest.approx((mixed == manifest["label"])[n // 2 :].mean())


def test_refined_moves_embeddings_and_makes_no_pictures(posebench_set, tmp_path, monkeypatch):
    from dataclasses import replace
    from functools import partial

    from qcfer.frontalize.conditions import frontalizer
    from qcfer.frontalize.refined import Refined, Training

    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "user-cache"))
    small = replace(frontalizer["refined"], thing=partial(Refined, training=Training(people=6, turns=2)))
    monkeypatch.setitem(frontalizer._entries, "refined", small)
    conditions = ["refined", "refined+raw"]
    config = Config("posebench", str(posebench_set), pose="annotation", esv=QUICK, conditions=conditions)
    done = make_run(config, tmp_path / "out")
    record = done.record
    assert list(record["conditions"]) == ["raw", "oracle", "refined", "refined+raw"]
    assert record["frontalizers"]["refined"].startswith("refined:6x2@") and "geometric:" in record["frontalizers"]["refined"]
    assert "gate" not in record["conditions"]["refined"] and done.pictures("pairs refined") is None
    assert set(record["posebench"]["fidelity"]["refined"]) == {"expression", "identity"}
    assert "refined" in next(page for page in make_pages(done) if page.stem == "frontalization").read_text()


def test_a_comment_makes_no_new_run_and_what_no_run_uses_does_not_either(tmp_path):
    import qcfer

    shutil.copytree(Path(qcfer.__file__).parent, tmp_path / "qcfer")
    code = "from qcfer.run.pipeline import code_version; print(code_version())"

    def version_after(module, old, new):
        path = tmp_path / "qcfer" / f"{module}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        said = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env=environment)
        path.write_text(text)
        return said

    before = version_after("data/hub", "import", "import")
    assert version_after("data/hub", "# %% ../../nbs/", "# %% ../../elsewhere/") == before
    assert version_after("data/hub", "\n\n\n", "\n\n# a remark\n\n\n") == before
    assert version_after("embed/finetune", "import", "import os, os.path\nimport") == before
    assert version_after("data/hub", "import ", "import os\nimport ") != before
