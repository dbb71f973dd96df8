"""The same numbers twice, on one thread, without the accelerated kernel machine, and from models of earlier versions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qcfer
from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_face, draw_faces

HERE = Path(__file__).parent

# By how much a feature of unit length may differ where another processor or number of threads adds in another order; none was seen.
EMBEDDING = 2e-6
# By how much a probability may differ where another solver stops at another point within its tolerance of 1e-3; 1.2e-6 was seen.
PROBABILITY = 1e-4


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    "A function: how a process is told to work, to the numbers of its run."
    folder = tmp_path_factory.mktemp("numbers")
    faces, made = draw_faces(folder / "faces", per_class=12), {}

    def run(name, **told):
        if name not in made:
            places = faces, folder / name, folder / f"{name}.npz"
            environment = os.environ | {"QCFER_CACHE": str(folder / f"cache-{name}")} | told
            subprocess.run([sys.executable, HERE / "same_numbers.py", *places], env=environment, check=True, capture_output=True)
            made[name] = np.load(places[-1])
        return made[name]

    return run


def differences(one, other):
    return {name: float(np.abs(one[name].astype(float) - other[name].astype(float)).max()) for name in ("embeddings", "probabilities")}


def alike(one, other):
    return all(np.array_equal(one[name], other[name]) for name in ("predicted", "metrics"))


def test_twice_in_a_row_to_the_last_bit(numbers):
    one, other = numbers("once"), numbers("again", PYTHONHASHSEED="7")
    assert differences(one, other) == {"embeddings": 0, "probabilities": 0} and alike(one, other)


def test_on_one_thread(numbers):
    threads = {"QCFER_CORES": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    one, other = numbers("once"), numbers("one thread", **threads)
    found = differences(one, other)
    assert found["embeddings"] <= EMBEDDING and found["probabilities"] <= PROBABILITY and alike(one, other), found


def test_without_the_accelerated_kernel_machine(numbers):
    one, other = numbers("once"), numbers("plain", QCFER_NO_INTELEX="1")
    found = differences(one, other)
    assert found["embeddings"] == 0 and found["probabilities"] <= PROBABILITY and alike(one, other), found


def test_a_model_of_an_earlier_version_says_what_it_said():
    model = qcfer.load(HERE / "data" / "model_before_0_2")
    found = model.predict([draw_face("anger", 10.0, 5), draw_face("happiness", -60.0, 6)], aligned=True)
    told = [[0.492245, 0.482087, 0.00061, 0, 0, 0.025036, 0.000021], [0.000876, 0.00001, 0.003655, 0.359118, 0.522091, 0.0922, 0.022049]]
    np.testing.assert_allclose(found[list(CLASSES)], told, atol=1e-5)


@pytest.mark.parametrize("schema", [0, 99, None, "1"])
def test_a_model_of_another_form_is_refused_in_one_line(tmp_path, schema):
    source = HERE / "data" / "model_before_0_2"
    (tmp_path / "ensemble.skops").write_bytes((source / "ensemble.skops").read_bytes())
    described = json.loads((source / "model.json").read_text()) | {"schema": schema}
    (tmp_path / "model.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="^expected ") as caught:
        qcfer.load(tmp_path)
    assert "\n" not in str(caught.value)
