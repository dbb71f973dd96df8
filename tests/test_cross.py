"""One set's models on another's faces."""
import json
import shutil
from dataclasses import replace

import pytest

from qcfer.data.cartoons import draw_faces
from qcfer.pages.publish import make_pages
from qcfer.pages.site import build_site
from qcfer.run.config import Config
from qcfer.run.cross import cross, shared_conditions
from qcfer.run.pipeline import make_run
from qcfer.run.record import Run

QUICK = {"candidates": "LR"}


@pytest.fixture(scope="module")
def trained(posebench_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    config = Config("posebench", str(posebench_set), pose="annotation", esv=QUICK, ladders=[], conditions=["mirrored", "mirrored+raw"])
    return config, out, make_run(config, out)


def test_on_its_own_set_a_model_says_what_it_said_before(trained):
    config, out, done = trained
    record = cross(done, config, out).record
    assert record["config"] == {"train": "posebench", "test": "posebench"} and record["train_run"] == done.path.name
    assert list(record["cross"]) == ["raw", "oracle", "mirrored", "mirrored+raw"]
    for name, scores in record["cross"].items():
        assert scores == done.record["conditions"][name]["metrics"], name
    assert record["versus_raw"]["mirrored"] == done.record["conditions"]["mirrored"]["versus_raw"]


def test_drawn_faces_with_their_page_and_a_place_in_the_site(trained, tmp_path):
    _, _, done = trained
    faces = draw_faces(tmp_path / "faces", per_class=6, seed=3)
    config = Config("folder", str(faces), pose="none", conditions=shared_conditions(done))
    assert config.conditions == ["mirrored", "mirrored+raw"]
    finished = cross(done, config, tmp_path / "out")
    assert finished.path.parent.name == "posebench-to-folder"
    assert cross(done, config, tmp_path / "out").path == finished.path  # not made again
    assert cross(done, replace(config, seed=1), tmp_path / "out").path != finished.path
    rows, manifest = finished.predictions, finished.manifest
    tested = manifest[(manifest["split"] == "test") & ~manifest["duplicate"]]
    assert rows[rows["condition"] == "raw"]["image"].tolist() == tested["image"].tolist()
    assert [page.stem for page in make_pages(finished)] == ["cross"]
    page = build_site(tmp_path / "out").read_text()
    assert "posebench-to-folder" in page


def test_other_embedders_and_missing_models_are_named(trained, tmp_path):
    config, _, done = trained
    other = tmp_path / "run"
    shutil.copytree(done.path, other)
    Run(other).model("raw").unlink()
    with pytest.raises(ValueError, match="expected model.skops in .*make the run again"):
        cross(Run(other), config, tmp_path / "out")
    record = json.loads((other / "run.json").read_text())
    record["ids"]["embedder"] = "another one"
    Run(other).save_record(record)
    with pytest.raises(ValueError, match="expected the embedder of the run, another one; found effnet_lite0"):
        cross(Run(other), config, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*-to-*/*"))
