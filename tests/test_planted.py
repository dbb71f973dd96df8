"""Whoever can write to a cache cannot run anything: what unpickles to a deed is put in the place of every file that a run keeps."""
import io
import os
import pickle
import warnings
import zipfile
import zlib
from itertools import cycle

import numpy as np
import pytest

from qcfer.data.cartoons import draw_faces
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run

class Planted:
    "Makes a folder when it is unpickled."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def as_npy(thing):
    np.save(stream := io.BytesIO(), np.array([thing], dtype=object), allow_pickle=True)
    return stream.getvalue()


def as_archive(name):
    "An archive as PyTorch's checkpoints and NumPy's npz are, with a pickle in it."
    def write(thing):
        with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
            archive.writestr(name, pickle.dumps(thing) if name.endswith("pkl") else as_npy(thing))
        return stream.getvalue()

    return write


FORMS = {
    "pickles": [pickle.dumps],
    "what holds pickles": [
        as_npy,
        as_archive("weights.npy"),
        as_archive("archive/data.pkl"),
        lambda thing: zlib.compress(pickle.dumps(thing)),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_planted_in_a_cache_never_runs(form, tmp_path, monkeypatch):
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "cache"))
    root, out, ran = draw_faces(tmp_path / "faces", per_class=12), tmp_path / "out", tmp_path / "ran"

    def run(strategy):
        esv = {"candidates": ["LR C=1", "SVM C=1"], "voting": strategy}
        config = Config("folder", str(root), pose="none", conditions=["mirrored+raw"], esv=esv, ladders=[])
        with warnings.catch_warnings(action="ignore"):
            return make_run(config, out).record["metrics"]["test"]["accuracy"]

    first = run("soft")
    kept = [path for folder in (out / "cache", tmp_path / "cache") for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in kept if path.suffix != ".json"]  # cards, which end a run by a word and are read as JSON alone
    assert len(kept) > 10 and any("fits" in path.parts for path in kept)
    for path, plant in zip(sorted(kept), cycle(FORMS[form])):
        path.write_bytes(plant(Planted(ran)))
    run("hard")  # other rungs, of the same fits
    assert run("soft") == first
    assert not ran.exists()
    pickle.loads(pickle.dumps(Planted(ran)))
    assert ran.is_dir()  # it would have run
