"""The engine: a cluster changes the time and nothing else, whoever is killed on the way."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qcfer.classify import train
from qcfer.core import engine as engines
from qcfer.core import remote
from qcfer.core.engine import ClusterError, Worker, get_engine, made_by, objection, recipe_of, shares, unpacked
from qcfer.core.files import sha256
from qcfer.core.model_cache import _Forwarding, compute
from qcfer.data.cartoons import draw_faces
from qcfer.data.label_files import DatasetError
from qcfer.data.manifest import FaceImages, load_manifest
from qcfer.frontalize.conditions import get_frontalizer
from qcfer.frontalize.job import frontalize_faces
from qcfer.run.config import Config, make_config
from qcfer.run.pipeline import make_run, run_id
from qcfer.run.study import Study

TESTS = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed: pip install 'qcfer[ray]'")


@pytest.fixture(scope="module")
def two(ray, tmp_path_factory):
    "An engine with two workers, on a cluster of this machine that lasts as long as this module."
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))  # workers find the models below
    out = tmp_path_factory.mktemp("out")
    yield get_engine("ray", {"actors": 2}, out=out)
    ray.shutdown()
    patch.undo()
    assert not list(out.iterdir())


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "Some drawn faces, from all sides as far as anybody knows."
    folder = tmp_path_factory.mktemp("faces")
    manifest = load_manifest("folder", draw_faces(folder / "set", per_class=4), out=folder)
    return FaceImages(manifest, folder / "set")


class Squares:
    """Rows in closed form; every forward pass is logged, a picture a line. Kills its process once, at a number, where it is told to."""

    def __init__(self, log="", pause=0.0, deadly=None):
        self.id, self.dim, self.log, self.pause, self.deadly = "squares", 4, str(log), pause, deadly

    def preprocess(self, image):
        return np.float32(image)

    def forward(self, batch):
        time.sleep(self.pause)
        if self.log:
            with open(self.log, "a") as file:
                file.write("".join(f"{int(value)}\n" for value in batch))
        if self.deadly is not None and self.deadly in batch and not os.path.exists(f"{self.log}.killed"):
            Path(f"{self.log}.killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch[:, None] ** np.arange(4, dtype=np.float32)


class Brightness:
    "The mean of a picture's pixels."

    id, dim = "brightness", 1

    def preprocess(self, image):
        return np.float32(np.asarray(image).mean())

    def forward(self, batch):
        return batch[:, None]


class Deadly:
    "A frontalizer that kills its process once."

    batch_size = 3

    def __init__(self, frontalizer, killed):
        self.id, self.frontalizer, self.killed = frontalizer.id, frontalizer, str(killed)

    def frontalize(self, *faces):
        if not os.path.exists(self.killed):
            Path(self.killed).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.frontalizer.frontalize(*faces)


class Absent:
    "What a worker sees of pictures on a disk that it does not share."

    def __getitem__(self, index):
        raise FileNotFoundError(2, "No such file or directory", f"set/{index}.png")


def keys_of(numbers):
    return [sha256(str(number)) for number in numbers]


def expected(numbers):
    return np.float32(list(numbers))[:, None] ** np.arange(4, dtype=np.float32)


def logged(log):
    return [int(line) for line in Path(log).read_text().split()] if Path(log).exists() else []


def stored(folder):
    "The keys in a store, one for each row that was ever written."
    return [key for path in Path(folder).glob("*/part-*.arrow") for key in pa.ipc.open_file(path).read_all()["key"].to_pylist()]


def turn(frontalizer, images, out, **options):
    poses = np.column_stack([np.linspace(-80, 80, len(images)), np.zeros((len(images), 2))])
    landmarks = np.full((len(images), 68, 2), np.nan)
    return frontalize_faces(frontalizer, images, poses, landmarks, out, **options)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))}


# ---- the same numbers


def test_every_stage_is_the_same_in_the_same_store(two, tmp_path):
    pose = "3ddfa_v2" if os.environ.get("QCFER_WEIGHTS") else "none"
    draw_faces(tmp_path / "set", per_class=4)
    studies = []
    for name, how in (("ray", {"engine": "ray", "ray": {"actors": 2}}), ("local", {})):
        config = Config("folder", str(tmp_path / "set"), pose=pose, conditions=["geometric+raw"], **how)
        studies.append(study := Study(config, tmp_path / name))
        study.see("geometric+raw")
    ours, theirs = studies
    np.testing.assert_array_equal(ours.see("geometric+raw"), theirs.see("geometric+raw"))
    pd.testing.assert_frame_equal(ours.manifest, theirs.manifest)
    assert run_id(ours.config, ours.ids, "data") == run_id(theirs.config, theirs.ids, "data")
    keys = [sorted(stored(tmp_path / name / "cache" / "embeddings")) for name in ("ray", "local")]
    assert keys[0] == keys[1] and len(set(keys[0])) == len(keys[0]) >= len(ours.manifest)
    assert files(tmp_path / "ray") == files(tmp_path / "local")


def test_a_whole_run_is_the_same_also_where_machines_share_an_object_store_alone(two, tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "cache"))
    set_here = draw_faces(tmp_path / "set", per_class=8)
    (tmp_path / "far").mkdir()
    how = {"pose": "none", "conditions": ["plain+raw"], "esv": {"candidates": "LR"}, "ladders": ["modules"]}
    here = make_run(Config("folder", str(set_here), **how), tmp_path / "here")
    far = Config("folder", f"file://{set_here}", engine="ray", ray={"actors": 2}, **how)
    there = make_run(far, f"file://{tmp_path}/far")
    assert there.path.name == here.path.name
    pd.testing.assert_frame_equal(there.predictions, here.predictions)
    assert there.record["metrics"] == here.record["metrics"]
    assert (tmp_path / "far" / "folder" / there.path.name / "run.json").is_file()


def test_every_machine_fetches_what_is_new_before_a_stage(two, tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "cache"))
    far = draw_faces(tmp_path / "set", per_class=4)
    root = remote.here(f"file://{far}")
    images = FaceImages(load_manifest("folder", root, out=tmp_path), root)
    engine = get_engine("ray", {"actors": 2}, root=root)
    shutil.rmtree(root / "anger")  # as on a machine that has not got it yet
    rows = compute(Brightness(), images, images.keys, None, engine=engine)
    assert len(list((root / "anger").iterdir())) == 4
    assert np.array_equal(rows, compute(Brightness(), images, images.keys, None))
    for path in (far / "fear").iterdir():
        path.write_bytes(b"another")
    with pytest.raises(DatasetError, match="as it was when the manifest was made"):
        compute(Brightness(), images, images.keys, None, engine=engine)
    shutil.rmtree(far)
    with pytest.raises(ClusterError, match=r"^the machine .*: expected at file://.* what was there before; found nothing"):
        compute(Brightness(), images, images.keys, None, engine=engine)


def test_rungs_are_the_same_when_a_worker_is_killed(two, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SMALL", 10)
    rng = np.random.default_rng()
    n = 80
    manifest = pd.DataFrame({"face": range(n), "image": [f"{row}.png" for row in range(n)], "label": np.arange(n) % 4})
    manifest["split"] = rng.choice(["train", "val", "test"], n)
    manifest["group"] = [f"g{row}" for row in range(n)]
    features = rng.normal(size=(n, 8)).astype(np.float32) + manifest["label"].to_numpy()[:, None]
    methods = [train.Method(esv={"candidates": "LR"}, seed=seed) for seed in range(3)]
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "cache"))
    ours = train.fit_methods(methods, lambda *_: features, manifest, tmp_path / "local")
    killing = partial(_fit_and_be_killed, str(tmp_path / "killed"), train._fit_rung)
    monkeypatch.setattr(train, "_fit_rung", killing)
    theirs = train.fit_methods(methods, lambda *_: features, manifest, tmp_path / "ray", engine=two)
    assert (tmp_path / "killed").exists()
    for one, other in zip(ours, theirs):
        assert one.folder.name == other.folder.name
        pd.testing.assert_frame_equal(one.predictions, other.predictions)


def _fit_and_be_killed(mark, fit, *given):
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    fit(*given)


# ---- kills


def test_a_killed_worker_loses_nothing_and_nothing_is_stored_twice(two, tmp_path):
    numbers = range(60)
    model = Squares(tmp_path / "log", pause=0.05, deadly=23)
    rows = compute(model, numbers, keys_of(numbers), tmp_path / "store", batch_size=5, engine=two)
    np.testing.assert_array_equal(rows, expected(numbers))
    assert Path(f"{model.log}.killed").exists()
    assert sorted(stored(tmp_path / "store")) == sorted(keys_of(numbers))
    again = len(logged(model.log)) - 60
    assert 5 <= again <= 10, "the killed worker's batches, of which it had two at most"


def test_a_worker_killed_while_it_turns_faces_loses_nothing(two, faces, tmp_path):
    geometric = get_frontalizer("geometric")
    table = turn(Deadly(geometric, tmp_path / "killed"), faces, tmp_path / "ray", engine=two)
    assert (tmp_path / "killed").exists()
    assert (table["status"] == "done").sum() == len(files(tmp_path / "ray")) > 10
    pd.testing.assert_frame_equal(table, turn(geometric, faces, tmp_path / "local"))
    assert files(tmp_path / "local") == files(tmp_path / "ray")


DRIVER = """
from test_engine import Squares, keys_of
from qcfer.core.engine import get_engine
from qcfer.core.model_cache import compute
compute(Squares({log!r}, pause=0.3), range(80), keys_of(range(80)), {folder!r}, batch_size=4, engine=get_engine("ray", {{"actors": 2}}))
"""


def test_a_killed_driver_is_started_again_and_does_only_what_was_missing(ray, two, tmp_path):
    folder, log = tmp_path / "store", tmp_path / "first"
    known = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(log=str(log), folder=str(folder))], env=os.environ | known)
    try:
        deadline = time.monotonic() + 60
        while len(stored(folder)) < 8:
            assert driver.poll() is None and time.monotonic() < deadline, "the driver stores batches as they come"
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    kept = len(stored(folder))
    assert 8 <= kept < 80
    model = Squares(tmp_path / "second")
    rows = compute(model, range(80), keys_of(range(80)), folder, batch_size=4, engine=two)
    np.testing.assert_array_equal(rows, expected(range(80)))
    assert len(logged(model.log)) == len(set(logged(model.log))) == 80 - kept
    assert sorted(stored(folder)) == sorted(keys_of(range(80)))
    assert kept >= len(logged(log)) - 4 * 2 * 3, "a killed driver loses what was under way and no more"


# ---- what can be wrong


def test_another_model_on_a_worker_stops_the_run_before_a_row_is_stored(two, tmp_path):
    model = made_by(Squares)
    model.id = "squares, with other weights"
    with pytest.raises(ValueError, match="expected the model squares, with other weights on every worker; found squares: give all"):
        compute(model, range(20), keys_of(range(20)), tmp_path, engine=two)
    assert stored(tmp_path) == []


def test_pictures_that_a_worker_does_not_see_are_told_in_one_line(ray, two):
    worker = Worker([ray.put((Squares(), _Forwarding(Absent())))], {})
    (((places, error)),) = worker({"batch": [np.arange(3)]})["result"]
    assert places == [0, 1, 2] and isinstance(error, ClusterError)
    assert re.fullmatch(r"expected set/0.png on the worker \S+; found none: workers and driver need one shared folder, .*", str(error))


def test_a_model_that_cannot_be_sent_says_so(two, tmp_path):
    model = Squares()
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match="expected a model with a recipe, or one that can be sent to workers; found cannot pickle .*lock"):
        compute(model, range(10), keys_of(range(10)), tmp_path, engine=two)


def test_other_versions_and_unshared_folders_are_found_before_anything_is_sent(two, tmp_path, monkeypatch):
    here = engines.versions_here()
    monkeypatch.setattr(engines, "versions_here", lambda: here | {"qcfer": "another"})
    with pytest.raises(ClusterError, match=r"the machine [\d.]+: expected the same versions as here; found qcfer \w+ \(here another\)"):
        get_engine("ray", {})
    monkeypatch.undo()
    with pytest.raises(ClusterError, match="expected the folder .*absent to be shared by all machines; found none by that path"):
        get_engine("ray", {}, root=tmp_path / "absent")
    assert "pip install 'qcfer[ray]' there" in objection(here, "No module named 'qcfer'", [])


def test_a_full_object_store_is_one_line(ray, two, tmp_path, monkeypatch):
    def full(*_):
        raise ray.exceptions.ObjectStoreFullError("no room\nwith much advice\nof many lines")

    monkeypatch.setattr(ray, "put", full)
    with pytest.raises(ClusterError, match="found ObjectStoreFullError: .*what was stored is kept: start again") as caught:
        compute(Squares(), range(10), keys_of(range(10)), tmp_path, engine=two)
    assert "\n" not in str(caught.value)


def test_more_cards_than_there_are(two):
    with pytest.raises(ValueError, match="expected a machine with 2 of a graphics card for each actor; found none: set ray.gpus=0"):
        get_engine("ray", {"gpus": 2})


def test_a_cluster_that_is_not_there_is_one_line_on_the_command_line(ray, tmp_path):
    draw_faces(tmp_path / "set", per_class=4)
    command = [sys.executable, "-m", "qcfer.cli", "embed", "folder", "--root", "set", "--pose", "none", "--engine", "ray"]
    nowhere = os.environ | {"RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(command, cwd=tmp_path, env=nowhere, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("qcfer: expected a Ray cluster at 127.0.0.1:1; found none")


@pytest.mark.parametrize("address", ["ray://there:10001", "there", "there:port"])
def test_an_address_that_is_none(ray, monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match="expected HOST:PORT or auto in RAY_ADDRESS; found"):
        get_engine("ray", {})


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"expected Ray for the engine ray; found .*: pip install 'qcfer\[ray\]'"):
        get_engine("ray", {})


# ---- without a cluster


@pytest.mark.parametrize(
    "assignments, said",
    [
        (["engine=spark"], "expected an engine out of local, ray; found spark"),
        (["ray.actor=2"], "expected ray settings out of actors, gpus; found actor: did you mean actors?"),
        (["ray.actors=half"], "expected a number of 0 or more, for actors a whole one, as ray.actors; found 'half'"),
        (["ray.gpus=-1"], "as ray.gpus; found -1"),
    ],
)
def test_wrong_settings_are_found_at_once(assignments, said):
    with pytest.raises(ValueError) as caught:
        make_config("folder", assignments=assignments, root=".")
    assert said in str(caught.value)


def test_the_local_engine_is_none_and_costs_nothing(tmp_path):
    assert get_engine("local", {"actors": 7}) is None
    assert Study(Config("folder", "."), tmp_path).config.engine == "local"
    code = "import sys, qcfer.run.pipeline, qcfer.core.engine; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_parts_of_a_model_travel_by_their_recipes():
    inner = made_by(Squares, "log")
    outer = made_by(_Holder, inner, spare=[3])
    inner.lock = outer.lock = threading.Lock()  # which cannot be sent
    again = unpacked(recipe_of(outer))
    assert (again.part.log, again.spare, again.part is inner) == ("log", [3], False)


class _Holder:
    id = "holder"

    def __init__(self, part, spare):
        self.part, self.spare = part, spare


@pytest.mark.parametrize(
    "nodes, settings, found",
    [
        ([{"CPU": 2.0}], {}, (1, 2)),
        ([{"CPU": 2.0}], {"actors": 4}, (4, 1)),
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0, "GPU": 8.0}], {"gpus": 1}, (9, 1)),
        ([{"CPU": 16.0, "GPU": 1.0}] * 100, {"gpus": 0.25}, (400, 4)),
        ([{"CPU": 16.0, "GPU": 1.0}] * 100, {"gpus": 1, "actors": 1000}, (100, 16)),
    ],
)
def test_the_cluster_is_shared_out(nodes, settings, found):
    assert shares(nodes, **settings) == found
