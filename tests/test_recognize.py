"""A trained method at work: the run's own answers for its own faces, model folders from anywhere, any pictures."""
import base64
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from qcfer.cli import main
from qcfer.core.labels import CLASSES, PROBABILITIES
from qcfer.data.cartoons import draw_face, draw_faces
from qcfer.frontalize.gate import Thresholds
from qcfer.recognize.limits import Limits
from qcfer.recognize.model_folder import check_card, describe, export_model, read_model, study_of
from qcfer.recognize.newcomers import Models, Newcomers
from qcfer.recognize.predict import find_pictures, name_of, predict_files, print_table
from qcfer.recognize.recognizer import TOGETHER, Recognizer, explain
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run
from qcfer.run.record import Run

CONDITIONS = ["geometric@paper+raw+3dmm", "mirrored+raw"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("faces"), per_class=20)


@pytest.fixture(scope="module")
def drawn(faces, tmp_path_factory):
    "A run on drawn faces, and its model folder."
    out = tmp_path_factory.mktemp("drawn")
    run = make_run(Config("folder", str(faces), pose="none", esv={"candidates": "LR"}, ladders=[]), out)
    return run, export_model(run, study_of(run, out, faces), out / "model")


@pytest.fixture(scope="module")
def turned(posebench_set, tmp_path_factory):
    "A run on rendered people whose main condition has frontal views, a gate and fusion; its study, and its model folder."
    out = tmp_path_factory.mktemp("turned")
    settings = {"conditions": CONDITIONS, "esv": {"candidates": "LR"}, "ladders": [], "gate": {"embedder": 0.75, "residual_yaw": 25}}
    run = make_run(Config("posebench", str(posebench_set), pose="3ddfa_v2", **settings), out)
    study = study_of(run, out, posebench_set)
    return run, study, export_model(run, study, out / "model")


# One path


def test_the_runs_own_test_faces_get_the_runs_own_answers(turned):
    run, study, folder = turned
    rows = np.flatnonzero(study.manifest["split"] == "test")
    table = Recognizer.load(folder).predict([study.images[row] for row in rows], aligned=True)
    told = run.test.set_index("image").loc[study.manifest["image"].iloc[rows]]
    np.testing.assert_allclose(table[list(CLASSES)].to_numpy(), told[PROBABILITIES].to_numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(table["yaw"], study.poses[rows, 0], atol=1e-4)
    assert study.see(run.main).shape[1] == 2 * study.embedder().dim + 512
    accepted, beyond = study.accepted(run.main)[rows], np.abs(study.poses[rows, 0]) > 30
    np.testing.assert_array_equal(table["seen"], np.where(~beyond, "raw", np.where(accepted, "frontalized", "reverted")))
    assert set(table["seen"]) == {"raw", "frontalized", "reverted"}  # or the gate was not tried


def test_reverted_faces_say_why_and_are_seen_as_they_are(turned):
    _run, study, folder = turned
    recognizer = Recognizer.load(folder)
    rows = np.flatnonzero((study.manifest["split"] == "test") & (study.manifest["yaw"].abs() > 50))[:24]
    look = recognizer.look([study.images[row] for row in rows])
    raw = recognizer.models.embedder().embed([study.images[row] for row in rows])
    seen, reverted = look.newcomers.seen, look.seen == "reverted"
    assert 0 < reverted.sum() < len(rows)
    np.testing.assert_allclose(seen[reverted][:, : raw.shape[1]], seen[reverted][:, raw.shape[1] : 2 * raw.shape[1]])
    assert all(("embedder" in why or "residual_yaw" in why) == was for why, was in zip(look.why, reverted))
    assert [look.frontal(place) is not None for place in range(len(rows))] == [True] * len(rows)
    found = explain(recognizer, study.images[rows[int(np.argmin(reverted))]], grid=2)
    assert set(found.maps) == {"frontal", "raw"} and found.seen == "frontalized"


def test_one_face_by_itself_and_in_company_is_the_same(turned):
    _, study, folder = turned
    recognizer = Recognizer.load(folder)
    crops = [study.images[row] for row in range(0, 60, 3)]
    together = recognizer.predict_proba(crops)
    np.testing.assert_allclose(np.concatenate([recognizer.predict_proba([crop]) for crop in crops[:6]]), together[:6], atol=1e-6)
    np.testing.assert_allclose(recognizer.predict_proba(crops[::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(recognizer.predict_proba(crops[:1] * 3), together[[0, 0, 0]], atol=1e-6)


def test_a_newcomer_is_embedded_once(turned, monkeypatch):
    _, study, folder = turned
    recognizer, asked = Recognizer.load(folder), []
    embedder = recognizer.models.embedder()
    monkeypatch.setattr(embedder, "forward", lambda batch, own=embedder.forward: (asked.append(len(batch)), own(batch))[1])
    look = recognizer.look([study.images[row] for row in range(20)])
    views = sum(look.frontal(row) is not None for row in range(20))
    assert sum(asked) == 20 + views


def test_a_run_of_a_graphics_card_is_used_without_one(drawn, faces, tmp_path):
    run, folder = drawn
    there = Run(shutil.copytree(run.path, tmp_path / run.path.name))
    record = json.loads((there.path / "run.json").read_text())
    record["ids"]["embedder"] += " amp"  # what a card adds
    there.save_record(record)
    model = export_model(there, study_of(there, tmp_path, faces), tmp_path / "model")
    files = sorted((faces / "happiness").iterdir())
    pd.testing.assert_frame_equal(*(Recognizer.load(each).predict(files, aligned=True) for each in (model, folder)))


# The model folder


def test_the_card_says_what_the_record_says(turned):
    run, study, folder = turned
    card, _ = read_model(folder)
    assert card["metrics"] == run.record["conditions"][run.main]["metrics"] and card["condition"] == run.main
    assert Thresholds(**card["gate"]) == run.thresholds[run.main]
    words = (folder / "README.md").read_text()
    accuracy = run.metrics["test"]["accuracy"]
    assert f"{100 * accuracy['value']:.1f} [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]" in words
    assert "It knows only rendered people." in words and "rendered people, none of whom exists" in words
    for name in ("turned beyond 30°", "yaw: extreme", "does\nnot say what somebody feels"):
        assert name in words
    assert not any(str(path) in (folder / "model.json").read_text() for path in (run.path.parent.parent, study.root, Path.home()))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda card: card.update(schema=2), "expected a model of schema 1"),
        (lambda card: card.pop("schema"), "expected a model's card"),
        (lambda card: card.update(classes=CLASSES[:6]), "expected the classes anger"),
        (lambda card: card.update(classes=[*CLASSES[1:], CLASSES[0]]), "expected the classes anger"),
        (lambda card: card["embedder"].update(id="another"), "expected the embedder another, which the model was made with"),
        (lambda card: card["embedder"].update(spec="nonsense"), "expected an embedder"),
        (lambda card: card.update(condition="qwen@paper"), "gate's thresholds where it has one"),
        (lambda card: card.update(condition="oracle"), "a condition of single faces"),
        (lambda card: card.update(condition="raw+3dmm"), "a condition of single faces"),
        (lambda card: card.update(condition="imported"), "a frontalizer that needs no set"),
        (lambda card: card.update(condition="no such"), "expected a condition"),
        (lambda card: card.update(gate={"embedder": 2}), "gate as numbers"),
        (lambda card: card.pop("limits"), "expected limits in the model's card"),
        (lambda card: card["limits"].update(yaw="far"), "limits as numbers"),
        (lambda card: card["files"].update({"ensemble.skops": "0" * 64}), "found other bytes"),
        (lambda card: card["files"].update({"../../x": "0" * 64}), "files with ensemble.skops"),
    ],
)
def test_a_card_that_is_not_ours_is_refused_in_a_line(drawn, tmp_path, damage, words):
    folder = shutil.copytree(drawn[1], tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    damage(card)
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError) as error:
        Recognizer.load(folder)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_another_version_of_a_frontalizer_is_told_and_another_frontalizer_refused(turned, tmp_path):
    folder = shutil.copytree(turned[2], tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    name, _, version = card["frontalizer"]["id"].rpartition("@")
    card["frontalizer"]["id"] = f"{name}@{'0' * len(version)}"
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.warns(UserWarning, match="another version of it: answers may differ a little"):
        Recognizer.load(folder)
    card["frontalizer"]["id"] = "plain"
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="expected the frontalizer plain, which the model was made with"):
        Recognizer.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"schema": NaN}', "\0" * 10, "1e999", '{"schema": 1}', " " * 2_000_000])
def test_a_card_that_is_none(drawn, tmp_path, text):
    folder = shutil.copytree(drawn[1], tmp_path / "model")
    (folder / "model.json").write_text(text)
    with pytest.raises(ValueError, match="^expected"):
        read_model(folder)


def test_damaged_and_foreign_ensembles_are_refused(drawn, tmp_path):
    import skops.io
    from sklearn.dummy import DummyClassifier

    from qcfer.core.files import file_sha256

    def refused(words):
        with pytest.raises(ValueError, match=words):
            read_model(folder)

    folder = shutil.copytree(drawn[1], tmp_path / "model")
    ensemble = folder / "ensemble.skops"
    ensemble.write_bytes(ensemble.read_bytes()[:-20])
    refused("other bytes: fetch the model again")
    skops.io.dump(DummyClassifier(), ensemble)
    card = json.loads((folder / "model.json").read_text())
    card["files"]["ensemble.skops"] = file_sha256(ensemble)
    (folder / "model.json").write_text(json.dumps(card))
    refused("expected an ensemble")
    ensemble.unlink()
    refused("expected ensemble.skops")
    with pytest.raises(FileNotFoundError, match="qcfer export DATASET --to FOLDER"):
        read_model(tmp_path)


def test_methods_that_need_their_set_are_not_exported(drawn, faces, tmp_path):
    run, _ = drawn
    record = json.loads((run.path / "run.json").read_text())
    study = study_of(run, tmp_path, faces)

    def refused(words, **changes):
        other = Run(tmp_path / "other")
        other.record = record | changes
        with pytest.raises(ValueError, match=words):
            describe(other, study)

    conditions = record["conditions"] | {"repaired+raw": {}, "imported": {}, "geometric@auto": {"gate": {"thresholds": {"agreement": 0.5}}}}
    refused("repaired, which is made of the set's own faces", main="repaired+raw", conditions=conditions)
    refused("imported, which is made of the set's own faces", main="imported", conditions=conditions)
    refused("a gate with the threshold agreement", main="geometric@auto", conditions=conditions)
    conditions |= {"mirrored": {}}
    refused("the set's own annotation", main="mirrored", conditions=conditions, ids=record["ids"] | {"pose": "annotation"})


def test_an_export_replaces_a_model_and_nothing_else(drawn, faces, tmp_path):
    run, folder = drawn
    study, there = study_of(run, tmp_path, faces), tmp_path / "kept"
    there.mkdir()
    (there / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="found other files in it"):
        export_model(run, study, there)
    assert (there / "thesis.txt").read_text() == "mine" and len(list(tmp_path.glob(".*.tmp"))) == 0
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / "README.md").write_text("old")
    export_model(run, study, copy)
    assert (copy / "README.md").read_bytes() == (folder / "README.md").read_bytes()
    with pytest.raises(ValueError, match="expected the pictures of run"):
        study_of(run, tmp_path / "elsewhere", draw_faces(tmp_path / "others", per_class=10))


def test_a_card_of_this_version_passes_its_own_check(turned):
    check_card(read_model(turned[2])[0], "here")


def on_the_hub(folder, home, name="owner/name"):
    "A copy of a model as the library keeps what it has fetched."
    home = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)


def test_whoever_asks_a_model_of_renders_is_told_so(turned, drawn, faces, capsys):
    picture = str(next((faces / "happiness").iterdir()))
    for (*_, model), words in ((turned, "knows rendered people alone; on photographs nobody has measured it"), (drawn, "")):
        main(["predict", str(model), picture, "--aligned"])
        said = capsys.readouterr().err
        assert words in said and bool(words) == ("rendered" in said)


def test_a_model_from_the_hub_without_a_network(drawn, faces, tmp_path):
    on_the_hub(drawn[1], tmp_path)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "qcfer.cli", "predict", "hf:owner/name", str(faces / "happiness"), "--aligned"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0 and answer.stdout.count("\n") == 21, answer.stderr
    command[4] = "hf:owner/absent"
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 1 and answer.stderr.startswith("qcfer: expected the model hf:owner/absent on the hub; found: ")
    assert answer.stderr.count("\n") == 1


class Hub(BaseHTTPRequestHandler):
    "As much of the hub as an upload needs; what was committed is kept."

    committed: ClassVar = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("/preupload/main"):
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in json.loads(body)["files"]]
            return self.say({"files": files})
        if "/commit/main" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.committed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.say({"commitUrl": "https://huggingface.co/owner/name/commit/" + "a" * 40, "commitOid": "a" * 40})
        return self.say({"url": "https://huggingface.co/owner/name", "name": "owner/name", "id": "1"})

    def do_GET(self):
        self.say({"id": "owner/name", "sha": "a" * 40, "siblings": [], "private": True})

    def say(self, answer):
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_a_push_sends_the_three_files_and_nothing_else(drawn, tmp_path):
    folder = shutil.copytree(drawn[1], tmp_path / "model")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "thesis.txt").write_text("mine")
    code = "import sys; from qcfer.recognize.model_folder import push_model; print(push_model(*sys.argv[1:]))"
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    answer = subprocess.run([sys.executable, "-c", code, str(folder), "hf:owner/name"], capture_output=True, text=True, env=environment)
    server.shutdown()
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert Hub.committed == {path.name: path.read_bytes() for path in drawn[1].iterdir()}


# Limits


def test_limits_are_those_of_the_test_faces(turned):
    _run, study, folder = turned
    limits, rows = Limits(**read_model(folder)[0]["limits"]), np.flatnonzero(study.manifest["split"] == "test")
    yaw = np.sort(np.abs(study.poses[rows, 0]))
    assert limits.yaw == pytest.approx(yaw[~np.isnan(yaw)][-20]) and limits.side == 224
    crops = [study.images[row] for row in rows[:100]]
    assert np.mean([bool(limits.warnings(crop, 0, 1)) for crop in crops]) < 0.1
    assert limits.warnings(crops[0].resize((40, 40)), 89.9, 0.1)[0] == "turned"


# Any pictures


def write_odd_pictures(folder):
    "Pictures as people have them; the names of the good ones."
    folder.mkdir()
    face = draw_face("happiness", seed=3)
    face.save(folder / "good.png")
    face.rotate(90, expand=True).save(folder / "sideways.jpg", exif=bytes(_turned()))
    Image.fromarray(np.asarray(face.convert("L"), np.int32)).save(folder / "deep.tif")
    cut = face.convert("RGBA")
    cut.putalpha(Image.radial_gradient("L").resize(face.size).point(lambda value: 255 * (value < 130)))
    cut.save(folder / "cut_out.png")
    face.save(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    (folder / "zip.jpg").write_bytes(b"PK\x03\x04" + bytes(50))
    (folder / "empty.png").touch()
    header = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    chunks = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + b"\0\0\x03\xe8IDAT" + bytes(1000))
    return {"good.png", "sideways.jpg", "deep.tif", "cut_out.png", "caf\\xe9.png"}


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def test_odd_pictures_among_good_ones(drawn, tmp_path):
    good, recognizer = write_odd_pictures(tmp_path / "odd"), Recognizer.load(drawn[1])
    left = predict_files(recognizer, find_pictures([tmp_path / "odd"]), tmp_path / "faces.csv", aligned=True)
    assert {Path(name).name: reason.split(":")[0] for name, reason in left} == {
        "zip.jpg": "not a picture in one of the formats JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM",
        "empty.png": "the file is empty",
        "huge.png": "Image size (2500000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.",
    }
    table = pd.read_csv(tmp_path / "faces.csv", keep_default_na=False).set_index("image")
    table.index = [Path(name).name for name in table.index]
    assert set(table.index) == good
    assert "transparent surround" in table.loc["cut_out.png", "warnings"]
    close = table.loc[["deep.tif", "caf\\xe9.png"], list(CLASSES)].to_numpy(float)
    np.testing.assert_allclose(close[1], table.loc["good.png", list(CLASSES)].to_numpy(float))
    assert table.loc["deep.tif", "label"] == "happiness" and "dark" not in table.loc["deep.tif", "warnings"]


def test_a_name_that_is_no_text_is_printed(drawn, tmp_path, capsys):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n,.png"))
    draw_face("happiness", seed=3).save(path)
    assert print_table(Recognizer.load(drawn[1]), [path], aligned=True) == []
    import io

    (row,) = pd.read_csv(io.StringIO(capsys.readouterr().out)).to_dict("records")
    assert row["image"] == name_of(path) and "\\xff" in row["image"]


def test_nothing_that_can_be_read(drawn, tmp_path):
    recognizer = Recognizer.load(drawn[1])
    (tmp_path / "empty.png").touch()
    for work in (
        lambda paths: print_table(recognizer, paths, aligned=True),
        lambda paths: predict_files(recognizer, paths, tmp_path / "x.csv", aligned=True),
    ):
        with pytest.raises(ValueError, match="found none in 1 files, the first: .*empty.png: the file is empty"):
            work([tmp_path / "empty.png"])
        with pytest.raises(ValueError, match="expected pictures; found none"):
            work([])
    with pytest.raises(ValueError, match="expected a file .csv, .jsonl, .parquet for --to; found x.xlsx"):
        predict_files(recognizer, [tmp_path / "empty.png"], tmp_path / "x.xlsx")
    assert not (tmp_path / "x.csv").exists()


def test_several_faces_a_picture_and_more_than_a_batch(drawn, tmp_path):
    "Faces of one picture may go through the stages with different company; they come back together and in order."

    class Grid(Recognizer):
        def find(self, images):
            def cut(image, number):
                box = (48 * number, 0, 48 * number + 48, 48)
                return faces_module.Face(image.crop(box), tuple(map(float, box)), 0.9, 1.0, number)

            return [[cut(image, number) for number in range(image.width // 48)] for image in images]

    import qcfer.recognize.recognizer as faces_module

    counts, paths = (3, 0, 1, TOGETHER + 5, 2, 2 * TOGETHER), []
    for place, count in enumerate(counts):
        picture = Image.new("RGB", (max(48 * count, 20), 48), (40 * place, 90, 120))
        pen = ImageDraw.Draw(picture)
        for number in range(count):
            pen.rectangle((48 * number + 5, 5, 48 * number + 5 + number % 37, 40), fill=(200, number % 256, 30))
        paths.append(tmp_path / f"{place}.png")
        picture.save(paths[-1])
    recognizer = Grid(*read_model(drawn[1]))
    predict_files(recognizer, paths, tmp_path / "faces.parquet", draw=tmp_path / "drawn")
    table = pd.read_parquet(tmp_path / "faces.parquet")
    assert table.groupby("image").size().to_dict() == {str(path): count for path, count in zip(paths, counts) if count}
    assert all(part["face"].tolist() == list(range(len(part))) for _, part in table.groupby("image"))
    picture = Image.open(paths[3]).convert("RGB")
    own = recognizer.predict_proba([picture.crop((48 * number, 0, 48 * number + 48, 48)) for number in (0, TOGETHER + 2)])
    mine = table[table["image"] == str(paths[3])].set_index("face").loc[[0, TOGETHER + 2], list(CLASSES)].to_numpy()
    np.testing.assert_allclose(mine, own, atol=1e-6)
    assert len(list((tmp_path / "drawn").iterdir())) == len(paths)


def test_killed_and_called_again_it_goes_on(drawn, tmp_path):
    (tmp_path / "many").mkdir()
    for seed in range(700):
        draw_face(CLASSES[seed % 7], seed=seed).resize((64, 64)).save(tmp_path / "many" / f"{seed:03}.png")
    to, part = tmp_path / "faces.csv", tmp_path / ".faces.csv.part"
    command = [sys.executable, "-m", "qcfer.cli", "predict", drawn[1], tmp_path / "many", "--to", to, "--aligned"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    while process.poll() is None and (not part.exists() or part.read_bytes().count(b"\n") < 150):
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    second = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert second.returncode == 1 and f"expected nobody else to write {to}; found another predict at it" in second.stderr
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not to.exists()
    known = part.read_bytes()
    assert 150 <= known.count(b"\n") < 701
    with open(part, "ab") as file:
        file.write(b'{"image": "cut')
    (tmp_path / "many" / "000.png").write_bytes((tmp_path / "many" / "001.png").read_bytes())  # changed since
    assert subprocess.run(list(map(str, command))).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.csv", "many"]
    table = pd.read_csv(to)
    assert [Path(name).stem for name in table["image"]] == [f"{seed:03}" for seed in range(700)]
    assert table.loc[0, list(CLASSES)].tolist() == table.loc[1, list(CLASSES)].tolist()
    first = json.loads(known.splitlines()[2])
    assert table.loc[1, "happiness"] == pytest.approx(first["rows"][0]["happiness"], abs=1e-5)


def test_an_export_that_is_killed_or_fails_keeps_the_earlier_model(drawn, tmp_path, monkeypatch):
    from qcfer.recognize import model_folder

    model = shutil.copytree(drawn[1], tmp_path / "model")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    old = tmp_path / ".model.0123.tmp"
    old.mkdir()
    os.utime(old, (0, 0))
    card = json.loads((model / model_folder.CARD).read_text())
    replace = os.replace

    def refuse(source, target):
        if Path(target) == model and not Path(source).name.endswith(".old.tmp"):
            raise OSError(28, "No space left on device")
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="No space left"):
            model_folder.write_model(card, model / model_folder.ENSEMBLE, model)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    model_folder.write_model(card, drawn[1] / model_folder.ENSEMBLE, model)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    read_model(model)


def test_an_answer_that_a_disk_has_changed_is_given_again(tmp_path):
    from qcfer.recognize.predict import Answer, Journal

    paths = [tmp_path / f"{number}.png" for number in range(4)]
    journal = Journal(tmp_path / "part", {"model": "one"})
    for number, path in enumerate(paths):
        path.touch()
        answer = Answer(path)
        answer.rows = [{"face": 0, "happiness": 0.25 + number}]
        journal.add(answer)
    journal.close()
    (tmp_path / "part").write_bytes((tmp_path / "part").read_bytes().replace(b"2.25", b"2.35"))
    again = Journal(tmp_path / "part", {"model": "one"})
    assert [again.knows(path) for path in paths] == [True, True, False, False]
    again.close()


def test_a_full_disk_leaves_what_was_done(drawn, faces, tmp_path):
    from qcfer.recognize import predict

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 3

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.left -= 1
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

    recognizer, paths, to = Recognizer.load(drawn[1]), find_pictures([faces / "happiness"]), tmp_path / "faces.csv"
    journal = predict.Journal

    class Cramped(journal):
        def __init__(self, *given):
            super().__init__(*given)
            self._file = Full(self._file)

    predict.Journal = Cramped
    try:
        with pytest.raises(OSError, match="No space left"):
            predict_files(recognizer, paths, to, aligned=True)
    finally:
        predict.Journal = journal
    assert not to.exists()
    predict_files(recognizer, paths, to, aligned=True)
    assert len(pd.read_csv(to)) == len(paths)


def test_models_without_faces_and_faces_without_models():
    models = Models(Config("folder", pose="none"))
    assert Newcomers(models, []).seen.shape == (0, models.embedder().dim)
    assert math.isnan(Newcomers(models, [draw_face("fear", seed=1)]).confidence[0])
