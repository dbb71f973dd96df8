"""The command line as a person meets it: in a process of its own."""
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from qcfer.data.cartoons import draw_faces

COMMANDS = (
    "prepare", "pose", "frontalize", "review", "embed", "train", "finetune", "cross", "report",
    "export", "push", "predict", "video", "serve", "doctor",
)  # fmt: skip


def qcfer(*arguments, **options):
    command = [sys.executable, "-m", "qcfer.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return draw_faces(tmp_path_factory.mktemp("faces"), per_class=12)


def test_help_names_every_command():
    answer = qcfer("--help")
    assert answer.returncode == 0
    assert [name for name in COMMANDS if name not in answer.stdout] == []


@pytest.mark.parametrize("command", [["-c", "import qcfer"], ["-m", "qcfer.cli", "--help"]])
def test_starts_in_less_than_a_second(command):
    def seconds():
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 1


def test_help_imports_nothing_heavy():
    code = "import sys, qcfer.cli; print([m for m in ('torch', 'sklearn', 'onnxruntime', 'matplotlib') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["prepare", "folder"], "add --root"),
        (["prepare", "folder", "--root", "absent"], "found nothing at"),
        (["prepare", "imagenet", "--root", "."], "expected a dataset: "),
        (["train", "folder", "--root", ".", "--params", "absent.yaml"], "absent.yaml"),
        (["predict", "absent", "absent.png"], "qcfer export DATASET"),
        (["export", "folder", "--to", "absent", "--out", "absent"], "qcfer report folder"),
        (["train", "folder", "--root", ".", "--device", "tpu"], "expected the device cpu, or cuda where there is one; found 'tpu'"),
        (["train", "folder", "--root", ".", "--out", __file__], "expected a folder for --out; found the file"),
        (["train", "folder", "--root", ".", "--set", "esv.candidate=LR"], "found candidate: did you mean candidates?"),
        (["train", "folder", "--root", ".", "--set", "condition=geometric"], "found condition: did you mean conditions?"),
        (["train", "folder", "--root", ".", "--set", "seed"], "expected SETTING=VALUE"),
        (["train", "folder", "--root", ".", "--set", "gate.identity=0.78"], "add --recogniser FILE"),
        (["train", "folder", "--root", ".", "--conditions", "geometrik"], "found 'geometrik'"),
        (["train", "folder", "--root", ".", "--conditions", "imported"], "add --frontalized FOLDER"),
        (["train", "folder", "--sede", "1"], "--seed"),
        (["trian", "folder"], "train"),
    ],
)
def test_bad_input_gets_one_line(arguments, words, tmp_path):
    answer = qcfer(*arguments, cwd=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith("qcfer: ") and answer.stderr.count("\n") == 1
    assert words in answer.stderr


def test_cuda_without_a_card_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    answer = qcfer("train", "folder", "--root", ".", "--device", "cuda", cwd=tmp_path)
    assert answer.returncode == 1 and answer.stderr == "qcfer: expected the device cpu, or cuda where there is one; found 'cuda'\n"


def test_a_cache_that_cannot_be_made_is_named_with_what_to_do(tmp_path, faces):
    (tmp_path / "file").touch()
    environment = os.environ | {"QCFER_CACHE": str(tmp_path / "file" / "cache")}
    params = ("--set", "pose=none", "--set", "esv.candidates=LR")
    answer = qcfer("train", "folder", "--root", faces, "--out", tmp_path / "out", *params, env=environment)
    assert answer.returncode == 1 and answer.stderr.splitlines()[-1].startswith("qcfer: expected to read or write ")
    assert "set QCFER_CACHE to a folder that can be written" in answer.stderr.splitlines()[-1] and "Errno" not in answer.stderr


def test_every_setting_can_be_typed_once_and_its_help_is_configs(tmp_path):
    from dataclasses import fields

    from qcfer.run.config import Config

    answer = qcfer("train", "--help")
    for each in fields(Config):
        if each.name != "dataset" and each.type is not dict:
            assert answer.stdout.count(f"--{each.name.replace('_', '-')} ") == 1, each.name
    assert "Draws the splits, the forests" in answer.stdout


def test_what_is_set_on_the_command_line_reaches_the_record(faces, tmp_path):
    typed = ["--pose", "none", "--set", "esv.candidates=LR", "--set", "ladders=[]", "--set", "esv.top_m=1", "--seed", "5"]
    answer = qcfer("train", "folder", "--root", faces, "--out", tmp_path, *typed)
    assert answer.returncode == 0, answer.stderr
    record = json.loads(Path(answer.stdout.split()[-1]).read_text())
    assert record["config"]["esv"] == {"candidates": "LR", "top_m": 1} and record["config"]["ladders"] == [] and record["seed"] == 5


def test_ctrl_c_ends_with_130_and_one_line(faces, tmp_path):
    command = [sys.executable, "-m", "qcfer.cli", "train", "folder", "--root", str(faces), "--out", str(tmp_path), "--pose", "none"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it, and so are their children
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("embeddings/*/part-*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "qcfer: interrupted; what was finished is kept" and "Traceback" not in said


@pytest.mark.parametrize(
    "text, words",
    [
        ("seed: 3", "expected report: and config:"),
        ("config: {sead: 3}", "found sead"),
        ("config: {afp: {k: 3}}", "expected afp settings out of"),
        ("config: [", "expected YAML"),
    ],
)
def test_a_wrong_parameter_file_is_named_before_any_work(text, words, faces, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(text)
    answer = qcfer("train", "folder", "--root", faces, "--params", params, "--out", tmp_path / "out")
    assert answer.returncode == 1 and answer.stderr.count("\n") == 1
    assert words in answer.stderr
    assert not (tmp_path / "out").exists()


def test_stage_by_stage_then_predict(faces, tmp_path):
    out = tmp_path / "out"
    params = tmp_path / "params.yaml"
    params.write_text("config: {pose: none, esv: {candidates: LR}}")
    assert "84 faces" in qcfer("prepare", "folder", "--root", faces, "--out", out).stdout
    assert "84 faces, 1,280 numbers each" in qcfer("embed", "folder", "--root", faces, "--out", out).stdout
    stored = {path: path.stat().st_mtime_ns for path in (out / "cache" / "embeddings").rglob("*.arrow")}
    answer = qcfer("train", "folder", "--root", faces, "--out", out, "--params", params)
    assert answer.returncode == 0, answer.stderr
    assert {path: path.stat().st_mtime_ns for path in (out / "cache" / "embeddings").rglob("*.arrow")} == stored
    record = json.loads(Path(answer.stdout.split()[-1]).read_text())
    assert record["metrics"]["test"]["accuracy"]["n"] == record["counts"]["test"]["anger"] * 7

    model = tmp_path / "model"
    assert qcfer("export", "folder", "--root", faces, "--out", out, "--to", model, "--aligned").returncode == 0
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    answer = qcfer("predict", model, faces / "happiness", broken, "--aligned")
    assert answer.returncode == 3, answer.stderr
    rows = answer.stdout.splitlines()
    assert rows[0].startswith("image,face,left,top,right,bottom,detection,yaw")
    assert len(rows) == 13 and sum(",happiness," in row for row in rows[1:]) >= 9
    assert answer.stderr == f"qcfer: left out {broken}: the file is empty\n"
    assert qcfer("predict", model, faces / "happiness", "--aligned").returncode == 0
    answer = qcfer("predict", model, broken, "--aligned")
    assert answer.returncode == 1 and answer.stderr.endswith("broken.png: the file is empty\n")


def test_a_direct_papermill_run_reads_the_same_parameter_file(tmp_path):
    from qcfer.core.files import resources

    params = tmp_path / "params.yaml"
    params.write_text("report: {}\nconfig: {}\n")
    template = resources("reports") / "confusion.ipynb"
    command = [sys.executable, "-m", "papermill", template, tmp_path / "page.ipynb", "-f", params, "-k", "python3"]
    answer = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"QCFER_CACHE": str(tmp_path)})
    assert answer.returncode == 0, answer.stderr
    assert "test faces are recognised" in (tmp_path / "page.ipynb").read_text()
