"""Files that nobody would write: some hundred mutants, and the smallest of those that once came through as another error."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from official_trees import Tiny, put
from qcfer.classify.esv import load
from qcfer.core.checkpoint import read_checkpoint, read_numbers
from qcfer.core.files import WeightsError, on_one_line
from qcfer.core.labels import CLASSES
from qcfer.data.label_files import DatasetError, csv_rows
from qcfer.data.manifest import examine
from qcfer.data.official import read_npy_number
from qcfer.data.own import read_own
from qcfer.frontalize.gate import Thresholds
from qcfer.frontalize.job import _rate
from qcfer.frontalize.review import read_verdicts
from qcfer.recognize.predict import Journal, _line
from qcfer.recognize.video import VideoError, read_frames
from qcfer.run.config import assign, make_config, read_params
from qcfer.run.record import read_record

HERE = Path(__file__).parent
DEEP = b"[" * 100_000


def refused(error, read, *given):
    "The message of a refusal, which is one line that a terminal prints as it is."
    with pytest.raises(error) as told:
        read(*given)
    assert type(told.value) in (ValueError, DatasetError, WeightsError, VideoError)
    assert str(told.value).startswith("expected") and str(told.value).isprintable()
    return str(told.value)


def test_no_mutant_is_a_fault(tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "fuzz.py", "--files", "12", "--seed", "7", "--to", tmp_path / "fuzz.json"], capture_output=True, text=True
    )
    figures = json.loads((tmp_path / "fuzz.json").read_text())
    assert {name: told["faults"] for name, told in figures.items() if told["faults"]} == {}
    assert all(told["accepted"] + told["refused"] == told["files"] == 12 for told in figures.values())
    assert sum(told["accepted"] for told in figures.values()) > 50 and sum(told["refused"] for told in figures.values()) > 50
    assert done.returncode == 0, done.stderr


def test_quoted_text_stays_on_its_line():
    assert on_one_line("sad\nness \x1b[2J é\udce1\u202e") == "sad\\nness \\x1b[2J é\\xe1\\u202e"


def test_messages_about_label_files_obey_no_control_codes(tmp_path):
    (tmp_path / "faces.csv").write_bytes(b"ima\x1b[2Jge,label\n")
    assert "\\x1b" in refused(DatasetError, lambda: list(csv_rows(tmp_path / "faces.csv", ("image", "label"))))
    (tmp_path / "faces.csv").write_bytes(b"image,label,sub\x7fject\na.jpg,fear,1\n")
    assert "did you mean subject" in refused(DatasetError, read_own, tmp_path)
    (tmp_path / "faces.csv").unlink()
    for name in [*CLASSES, "sad\n\x1bness"]:
        put(tmp_path / name / "a.jpg", Tiny()(None))
    assert "\\n\\x1b" in refused(DatasetError, read_own, tmp_path)


def test_a_rejected_name_with_control_codes(tmp_path):
    for name in ("fear", "anger"):
        put(tmp_path / name / "a\x1b[2J.jpg", b"none")
    assert "a\\x1b[2J.jpg" in refused(DatasetError, examine, "folder", tmp_path)


def test_half_a_letter_in_a_table_of_classes(tmp_path):
    put(tmp_path / "0/a.jpg", Tiny()(None))
    (tmp_path / "classes.json").write_text('{"0": "\\ud800"}')
    assert "ud800" in refused(DatasetError, read_own, tmp_path)


def test_an_npy_header_that_ends_elsewhere_than_it_says():
    file = io.BytesIO()
    np.save(file, np.array(3))
    data = file.getvalue()
    assert read_npy_number(data) == 3
    with pytest.raises(ValueError, match="no npy file"):
        read_npy_number(data.replace(b" \n", b"\n"))


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"config: !!timestamp x", b"config: !!int ''", b"config: {seed: 2001-99-99}", DEEP, b'config: {"\x00": 1}']
    + [b"report: \x1b", b'{"a\\nb": 1}'],
)
def test_parameters_that_are_no_yaml(tmp_path, text):
    (tmp_path / "params.yaml").write_bytes(text)
    refused(ValueError, read_params, tmp_path / "params.yaml")


@pytest.mark.parametrize("text", [b"config: {1: 2, x: 3}", b"config: {gate: {embedder: x}}", b'config: {gate: {"a\\nb": 1}}'])
def test_parameters_that_are_no_settings(tmp_path, text):
    (tmp_path / "params.yaml").write_bytes(text)
    refused(ValueError, make_config, "folder", tmp_path / "params.yaml")


def test_an_assignment_that_is_no_yaml_and_a_threshold_that_is_no_number():
    refused(ValueError, assign, {}, ["seed=!!timestamp x"])
    refused(ValueError, lambda: Thresholds(embedder="0.8"))


def test_a_message_does_not_write_out_what_anchors_multiply(tmp_path):
    levels = "\n".join(f"  - &{one} [{', '.join([f'*{other}'] * 9)}]" for other, one in zip("abcdefg", "bcdefgh"))
    (tmp_path / "params.yaml").write_text(f"config:\n  seed:\n  - &a [x, x]\n{levels}\n")
    assert len(refused(ValueError, make_config, "folder", tmp_path / "params.yaml")) < 10_000


def test_json_that_is_too_deep(tmp_path):
    (tmp_path / "a.json").write_bytes(DEEP + b"\n")
    refused(ValueError, read_record, tmp_path / "a.json")
    refused(ValueError, read_verdicts, tmp_path / "a.json")
    (tmp_path / "frontalizer.json").write_bytes(DEEP)
    assert _rate(tmp_path, None) is None


def test_a_card_without_a_rate_that_is_one(tmp_path):
    for rate in ("x", [], -1, 1e300, True):
        (tmp_path / "frontalizer.json").write_text(json.dumps({"images_per_s": rate}))
        assert _rate(tmp_path, SimpleNamespace(images_per_s=3.0)) == 3.0
    (tmp_path / "frontalizer.json").write_text('{"images_per_s": 2}')
    assert _rate(tmp_path, SimpleNamespace(images_per_s=3.0)) == 2


@pytest.mark.parametrize("line", [b"{}", b'{"image": [], "stat": 1, "error": "", "rows": []}', DEEP])
@pytest.mark.parametrize(
    "row", [None, 3, {"face": None}, {"face": 0, "fear": "x"}, {"face": 10**30}, {"other": 1, "face": 1}, {"face": 0, "label": "\ud800"}]
)
def test_answers_end_where_a_line_is_none(tmp_path, line, row):
    answer = {"image": "a.jpg", "stat": [1, 2], "error": "", "rows": [{"face": 0, "fear": 0.5}]}
    good, bad = _line(answer).encode(), line if row is None else _line(answer | {"rows": [row]}).encode()
    (tmp_path / "a").write_bytes(b"\n".join([_line({"model": 1}).encode(), good, bad, good, b""]))
    journal = Journal(tmp_path / "a", {"model": 1})
    assert [entry["rows"] for entry in journal.entries(list(journal.done))] == [answer["rows"]]
    journal.close()
    assert len((tmp_path / "a").read_bytes().splitlines()) == 2


def test_a_video_with_a_title_that_is_no_text_and_one_of_an_unknown_kind(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "title"
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32)))))
        container.mux(stream.encode())
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(data.replace(b"title", b"t\xf2tle"))
    assert len(list(read_frames(tmp_path / "b.avi"))) == 1
    (tmp_path / "c.avi").write_bytes(data.replace(b"MJPG", b"XQZW"))
    refused(VideoError, lambda: list(read_frames(tmp_path / "c.avi")))


def repacked(source, target, change, packing=zipfile.ZIP_STORED):
    "Write an archive again, its members changed."
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", packing) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.mark.parametrize(
    "change",
    [
        lambda name, data: b'\x93NUMPY\x01\x00\x10\x00{"""            \n' if name.endswith(".npy") else data,
        lambda name, data: b"x\ny" if name.endswith(".npy") else data,
        lambda name, data: b"[" if name == "schema.json" else data,
        lambda name, data: DEEP if name == "schema.json" else data,
        lambda name, data: data.replace(b'"estimators_"', b'"estimators\\n"') if name == "schema.json" else data,
    ],
)
def test_a_damaged_ensemble(tmp_path, change):
    refused(ValueError, load, repacked(HERE / "data/model_before_rooms.skops", tmp_path / "a.skops", change))


def test_an_ensemble_whose_packing_is_damaged(tmp_path):
    data = bytearray((HERE / "data/model_before_rooms.skops").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        member = file.getinfo("schema.json")
    start = member.header_offset + 30 + len("schema.json")
    data[start : start + 40] = b"\xff" * 40
    (tmp_path / "a.skops").write_bytes(data)
    refused(ValueError, load, tmp_path / "a.skops")


def test_names_in_pickles_with_control_codes_and_damaged_packing(tmp_path):
    import torch

    (tmp_path / "a.pkl").write_bytes(b"\x80\x04cos\x1b\nsys\x1btem\n.")
    refused(WeightsError, read_numbers, tmp_path / "a.pkl")
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pth")
    repacked(tmp_path / "a.pth", tmp_path / "b.pth", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "b.pth") as file:
        member = next(info for info in file.infolist() if info.filename.endswith("data.pkl"))
    data, start = bytearray((tmp_path / "b.pth").read_bytes()), member.header_offset + 30 + len(os.fsencode(member.filename))
    data[start : start + 8] = b"\xff" * 8
    (tmp_path / "b.pth").write_bytes(data)
    refused(WeightsError, read_checkpoint, tmp_path / "b.pth")


def test_a_pickle_that_keeps_a_value_far_away_takes_no_memory(tmp_path):
    import resource

    bomb = b"\x80\x04}r" + (100_000_000).to_bytes(4, "little") + b"."  # LONG_BINPUT: some gigabytes of places
    (tmp_path / "a.pkl").write_bytes(bomb)
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a/data.pkl", bomb)
    (tmp_path / "b.pth").write_bytes(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "kept at place 100,000,000" in refused(WeightsError, read_numbers, tmp_path / "a.pkl")
    assert "kept at place 100,000,000" in refused(WeightsError, read_checkpoint, tmp_path / "a.pth")
    assert "kept at place 100,000,000" in refused(WeightsError, read_checkpoint, tmp_path / "b.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
