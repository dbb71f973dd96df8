"""Large sets: training copies the features at most once and a half, and a hard limit of the system's holds it to that."""

import os
import subprocess
import sys

import pytest

TRAIN = """
import os, resource
import numpy as np
from sklearn.model_selection import PredefinedSplit
from qcfer.classify.search import ESVSearch

rows, beside = 50_000, {beside}
rng = np.random.default_rng(0)
small, label = rng.standard_normal((2_000, 768), np.float32), np.arange(2_000) % 7
ESVSearch(kinds=("LR",), scalings=("robust",), n_jobs=2, cv=2, random_state=0).fit(small[:700], label[:700])  # all libraries are there
X, y = np.empty((rows, 768), np.float32), rng.integers(0, 7, rows)
centres = rng.standard_normal((7, 768), np.float32)
for start in range(0, rows, 1_000):
    X[start : start + 1_000] = rng.standard_normal((1_000, 768), np.float32) + 0.1 * centres[y[start : start + 1_000]]
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (int(held + beside * X.nbytes),) * 2)
split = PredefinedSplit(np.where(np.arange(rows) % 10 == 0, 0, -1))
ensemble = ESVSearch(kinds=("LR",), scalings=(None, "robust"), cv=split, n_jobs=2, random_state=0).fit(X, y)
print((ensemble.predict(X[:2_000]) == y[:2_000]).mean() > 0.6)
"""


def train(beside):
    "What training says with room for so many matrices beside the features."
    quiet = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-c", TRAIN.format(beside=beside)], env=os.environ | quiet, capture_output=True, text=True, timeout=600
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the address space can only be measured on Linux")
def test_training_copies_the_features_at_most_once_and_a_half():
    done = train(1.5)
    assert done.returncode == 0 and done.stdout.strip() == "True", done.stderr[-2000:]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the address space can only be measured on Linux")
def test_the_limit_is_one_that_can_be_felt():
    "Without room for one copy nothing can be trained: the test above tests something."
    done = train(0.5)
    assert done.returncode != 0 and "MemoryError" in done.stderr
