"""The presets: the paper's and the searched one run on miniature trees, and the searched one loses to none of its parts on faces."""
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from official_trees import CLASSES, Drawn, affectnet_csv, rafdb
from qcfer.classify.esv import load
from qcfer.classify.ladders import LADDERS
from qcfer.classify.search import ESVSearch
from qcfer.classify.train import Method, fit_methods
from qcfer.doctor import diagnose, memory_gb
from qcfer.evaluate.scores import ladder as score_ladder
from qcfer.run.config import Config, defaults_of, gate_of, make_config
from qcfer.run.pipeline import make_run
from qcfer.run.train import whole_method

TREES = {"rafdb": rafdb, "affectnet7": affectnet_csv}
CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


# What a preset says


@pytest.mark.parametrize("name", ["rafdb", "affectnet7", "expw", "fer2013", "posebench", "folder"])
def test_paper_is_exactly_the_papers(name):
    config = make_config(name, root="x", preset="paper")
    assert (config.embedder, config.conditions) == ("open_clip:ViT-L-14/openai", ["qwen@paper"])
    assert (gate_of(config).embedder, gate_of(config).identity) == (0.82, None)
    assert whole_method(config).search is None
    own = {"rafdb", "affectnet7", "expw"} & {name}
    assert config.esv == ({"candidates": name, "voting": "soft"} if own else {})


def test_identity_is_asked_where_there_is_a_recogniser(tmp_path):
    (tmp_path / "arcface.onnx").touch()
    assert gate_of(make_config("rafdb", root="x", preset="paper", recogniser=str(tmp_path / "arcface.onnx"))).identity == 0.78


def test_what_is_typed_wins_over_the_preset(tmp_path):
    config = make_config("rafdb", None, ["preset=paper", "esv.top_m=2", "gate.embedder=0.7"], root="x", embedder="effnet_lite0")
    assert (config.embedder, config.esv["candidates"], config.esv["top_m"]) == ("effnet_lite0", "rafdb", 2)
    assert gate_of(config).embedder == 0.7
    (tmp_path / "mine.yaml").write_text("config: {preset: paper, conditions: [plain]}")
    config = make_config("expw", tmp_path / "mine.yaml", root="x")
    assert (config.preset, config.conditions, config.esv["candidates"]) == ("paper", ["plain"], "expw")


def test_the_default_searches_unless_the_method_is_given():
    assert whole_method(make_config("rafdb", root="x")).search == {}
    assert whole_method(make_config("rafdb", root="x")).esv == {} and "paper" not in defaults_of("rafdb")
    assert whole_method(Config("folder", esv={"candidates": "LR"})).search is None
    assert whole_method(Config("folder", search={"metric": "macro_f1"})).search == {"metric": "macro_f1"}


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"preset": "papers"}, "expected a preset out of default, paper; found papers: did you mean paper"),
        ({"search": {"metrik": "accuracy"}}, "expected search settings out of .*did you mean metric"),
        ({"search": {"random_state": 3}}, "found search setting random_state=3: set seed instead"),
        ({"search": {"vote": False}, "esv": {"top_m": 2}}, "expected search settings where something is searched"),
    ],
)
def test_a_wrong_preset_is_answered_in_a_line(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        Config("folder", **settings)
    assert "\n" not in str(caught.value)


def test_the_doctor_says_what_the_preset_needs(monkeypatch):
    found = {name: (there, hint) for name, there, hint in diagnose() if name.startswith("preset paper")}
    assert len(found) == 4 and all(there or hint for there, hint in found.values())
    machines = [(503, 80, True, ""), (64, 24, True, "24gb"), (128, 12, True, "12gb"), (16, 12, False, ""), (64, 0, False, "")]
    for *memory, runs, way in machines:
        monkeypatch.setattr("qcfer.doctor.memory_gb", lambda memory=memory: tuple(memory))
        name, there, hint = diagnose()[-1]
        assert there == runs and ("frontalizers.qwen.preset=" + way in name if way else "frontalizers" not in name)
        assert runs or "--conditions imported --frontalized FOLDER" in hint
    assert memory_gb()[0] > 0


# Miniature trees


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "CLIP and Qwen as small as they can be, with random weights."
    open_clip = pytest.importorskip("open_clip", reason="qcfer[clip] is not installed")
    pytest.importorskip("diffusers", reason="qcfer[qwen] is not installed")
    import diffusers
    import torch
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit

    from qcfer.frontalize import qwen

    if not os.environ.get("QCFER_WEIGHTS"):
        pytest.skip("QCFER_WEIGHTS names no folder with the 3DDFA-V2 weights")
    folder, dimensions = tmp_path_factory.mktemp("tiny"), edit.calculate_dimensions
    (folder / "smallest-clip.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder / "smallest-clip.json")
    torch.manual_seed(1)
    torch.save(open_clip.create_model("smallest-clip").state_dict(), folder / "random.pt")
    diffusers.logging.disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit, "calculate_dimensions", lambda area, ratio: dimensions(area / 256, ratio))
        patch.setattr(qwen, "_SIDE", 64)
        patch.setitem(qwen.PRESETS, "trial", qwen.Preset(batch_size=8, steps=1, dtype="float32"))
        patch.setenv("QCFER_OFFLINE", "1")
        model = qwen.tiny_model(folder / "qwen")
        yield {
            "embedder": f"open_clip:smallest-clip@{folder / 'random.pt'}",
            "conditions": [f"qwen:{model}@paper"],
            "frontalizers": {"qwen": {"preset": "trial"}},
        }


def tree(name, folder):
    "Fourteen train and four test faces of each class."
    return TREES[name](folder, dict.fromkeys(CLASSES, 14), dict.fromkeys(CLASSES, 4), Drawn())


@pytest.mark.parametrize("name", TREES)
def test_the_papers_method_runs_on_a_miniature_tree(name, tiny, tmp_path):
    config = make_config(name, root=tree(name, tmp_path / "set"), preset="paper", ladders=["modules"], **tiny)
    run = make_run(config, tmp_path / "out")
    assert run.main == tiny["conditions"][0] and run.record["config"]["preset"] == "paper"
    kinds = [row["name"].split()[0] for row in run.record["esv"]["candidates"] if row["selected"]]
    assert sorted(kinds) == (["LR"] * 5 + ["SVM"] if name == "rafdb" else ["LR"])
    assert "smallest-clip" in run.record["ids"]["embedder"] and "qwen" in run.record["ids"]["frontalizer"]
    assert run.metrics["test"]["accuracy"]["n"] == 28 and not isinstance(load(run.model()), ESVSearch)


@pytest.mark.parametrize("name", TREES)
def test_the_default_runs_on_a_miniature_tree(name, tmp_path):
    config = make_config(name, root=tree(name, tmp_path / "set"), ladders=["modules", "reference"])
    run = make_run(config, tmp_path / "out")
    record, model = run.record, load(run.model())
    assert run.main == "normalized@auto+raw+3dmm" and list(record["conditions"])[:5] == ["raw", *defaults_of(name)["conditions"]]
    assert isinstance(model, ESVSearch) and record["esv"]["strategy"] == model.strategy_
    assert {"name", "finalist", "rows", "accuracy", "score", "weight"} <= set(record["esv"]["candidates"][0])
    assert set(record["esv"]["comparisons"]) == {"best candidate", "first rung"}
    rungs = [rung["name"] for rung in record["ladders"]["reference"]["rungs"]]
    assert rungs == ["reference: SVC", "one LR", "best candidate", "the paper's AFP and ESV", "full"]
    assert run.metrics["test"]["accuracy"]["value"] > 0.5  # drawn faces are easy


# The rule, on faces


def significantly_worse(features, manifest, out, names=("modules", "reference")):
    "Rungs of the searched ladders that are below the one before, or below which the full method is, by more than chance (Holm)."
    found = []
    for name in names:
        rungs = LADDERS[name].methods(Method(search={}))
        rows = dict(zip(rungs, fit_methods(list(rungs.values()), lambda condition, embedder: features, manifest, out)))
        tables = {rung: made.predictions for rung, made in rows.items()}
        for entry in score_ladder(tables, LADDERS[name].reference, LADDERS[name].cumulative, n_boot=200):
            step, full = entry["versus_previous"], entry["versus_full"]
            if step and step["value"] < 0 and step["p_holm"] < 0.05:
                found.append((name, entry["name"], step))
            if full and full["value"] > 0 and full["p_holm"] < 0.05:
                found.append((name, entry["name"], full))
    return found


@pytest.fixture
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "user-cache"))


def test_on_rendered_faces_no_rung_loses_to_the_one_before(posebench_set, tmp_path, own_memory):
    from qcfer.run.study import Study

    study = Study(make_config("posebench", root=posebench_set, pose="annotation", conditions=[]), tmp_path)
    assert significantly_worse(study.see("raw"), study.manifest, tmp_path) == []


def test_on_photographs_no_rung_loses_to_the_one_before(tmp_path, own_memory):
    from qcfer.data.manifest import FaceImages, prepare
    from qcfer.embed.embedders import get_embedder

    root = os.environ.get("QCFER_FER2013")
    if not root:
        pytest.skip("QCFER_FER2013 names no folder with FER2013")
    manifest, root = prepare("fer2013", Path(root), tmp_path)
    manifest = manifest[~manifest["duplicate"]]
    sizes = {"train": 700, "val": 200, "test": 400}
    some = np.concatenate([manifest[manifest["split"] == split].sample(size, random_state=0).index for split, size in sizes.items()])
    manifest = manifest.loc[np.sort(some)].reset_index(drop=True)
    features = get_embedder("effnet_lite0").embed(FaceImages(manifest, root))
    assert significantly_worse(features, manifest, tmp_path) == []


def test_an_extra_that_is_not_whole_is_named(monkeypatch):
    from importlib import metadata

    from qcfer.doctor import missing_extras

    wanted = ["numpy>=1", 'pip>=1; extra == "tools"', 'nothing-of-the-kind; extra == "dreams"', 'pip>=1000; extra == "future"']
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    assert missing_extras() == {"dreams": ["nothing-of-the-kind"], "future": ["pip"]}


def test_the_machine_is_told_in_words():
    from qcfer.doctor import machine, wide_instructions

    told = machine()
    assert re.search(r"\d+ cores for this process", told["processor"]) and "ONNX Runtime" in told["fast paths"]
    assert all(words in told["processor"] for words in wide_instructions())
