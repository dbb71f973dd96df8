"""The public face as a user's program has it: `make test` lets mypy read this file, which nothing runs."""
from typing import assert_type

import numpy as np
import pandas as pd
from PIL import Image

import qcfer
from qcfer.embed.base import Embedder

def embeddings(pictures: list[Image.Image]) -> np.ndarray:
    embedder = qcfer.get_embedder("effnet_lite0")
    assert_type(embedder, Embedder)
    return embedder.embed(pictures)


def ensemble(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    fitted = qcfer.ESV(qcfer.AFP()).fit(features, labels)
    assert_type(fitted, qcfer.ESV)
    return fitted.predict_proba(features)


def a_run(folder: str) -> float:
    config = qcfer.Config("folder", folder)
    study = qcfer.Study(config)
    assert_type(study.poses, np.ndarray)
    assert_type(study.see("raw+3dmm"), np.ndarray)
    assert_type(study.manifest, pd.DataFrame)
    assert_type(qcfer.open_run("folder"), qcfer.Run)
    run = qcfer.make_run(config)
    assert_type(run, qcfer.Run)
    return run.metrics["test"]["accuracy"]["value"]


def poses(manifest: pd.DataFrame) -> str:
    name, _ = qcfer.get_pose_estimator("auto", manifest)
    return name


def a_model(place: str) -> pd.DataFrame:
    recognizer = qcfer.load(place)
    assert_type(recognizer, qcfer.Recognizer)
    return recognizer.predict(["party.jpg"])


def a_set(root: str) -> pd.DataFrame:
    qcfer.get_frontalizer("geometric")
    return qcfer.load_manifest("folder", root)


assert_type(qcfer.__version__, str)
qcfer.show_versions()
