"""The core of the package does without PyTorch and all that needs it: train, export, load, predict."""

import subprocess
import sys

BLOCKED = """
import sys

ABSENT = "torch torchvision anny av fastapi huggingface_hub timm open_clip pyvista vtk diffusers transformers".split()

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

USED = """
from pathlib import Path

import numpy as np
from qcfer.data.cartoons import draw_faces
from qcfer.core.device import check_device
from qcfer.recognize.model_folder import export_model, study_of
from qcfer import get_embedder, get_frontalizer, load
from qcfer.core.files import WeightsError
from qcfer.recognize.serve import make_app
from qcfer.recognize.video import read_frames
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run

out = Path(sys.argv[1])
root = draw_faces(out / "faces", per_class=12)
run = make_run(Config(dataset="folder", root=str(root), esv={"candidates": "LR"}, conditions=["geometric+raw"], ladders=[]), out / "out")
folder = export_model(run, study_of(run, out / "out", root), out / "model")
table = load(folder).predict(sorted((root / "happiness").iterdir()), aligned=True)
assert len(table) == 12 and np.isfinite(table["happiness"]).all(), table
print(run.main, run.record["ids"]["frontalizer"], run.record["ids"]["embedder"])
assert "geometric" in str(run.main) and run.record["ids"]["embedder"].startswith("effnet_lite0")
recognizer = load(folder)


def said(call):
    try:
        call()
    except (ImportError, ValueError, WeightsError) as error:
        print(error)


said(lambda: check_device("cuda"))
said(lambda: list(read_frames(out / "film.mp4")))
said(lambda: make_app(recognizer, "secret"))
said(lambda: get_frontalizer("qwen"))
said(lambda: get_embedder("timm:test_vit?random=0"))
assert not any(name in sys.modules for name in ("torch", "anny"))
"""


def test_the_default_method_needs_no_torch(tmp_path):
    answer = subprocess.run([sys.executable, "-c", BLOCKED + USED, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-3000:]
    *_, device, video, page, qwen, embedder = answer.stdout.splitlines()
    assert device == "expected the device cpu, or cuda where there is one; found 'cuda'"
    assert video == "expected PyAV, to read videos; found none: pip install 'qcfer[video]'"
    assert page == "expected FastAPI, to serve; found no fastapi: pip install 'qcfer[serve]'"
    assert qwen == "expected what Qwen runs with; found no huggingface_hub: pip install 'qcfer[qwen]'"
    assert embedder == "expected the package timm; found none: pip install 'qcfer[clip]'"
