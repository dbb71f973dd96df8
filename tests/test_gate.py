"""The gate: closed forms, properties that any gate must have, and a recogniser's plumbing with made-up weights."""

import warnings

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from sklearn.metrics.pairwise import cosine_similarity

from qcfer.core.pictures import PictureList
from qcfer.face.identity import ARCFACE_POINTS, ArcFace, align
from qcfer.frontalize.gate import (
    SCORES,
    Thresholds,
    agreement,
    gate_scores,
    identity_scores,
    judge,
    reasons,
    residual_yaw,
    similarity,
)

STRICTER = {name: -1 if name in ("residual_yaw", "misfit", "asymmetry") else 1 for name in SCORES}
OFF = dict.fromkeys(SCORES)


def table(n, seed=0, missing=0.1):
    rng = np.random.default_rng(seed)
    values = {name: rng.random(n) * (90 if name == "residual_yaw" else 1) for name in SCORES}
    scores = pd.DataFrame(values, index=[f"face {i}" for i in range(n)])
    return scores.mask(rng.random(scores.shape) < missing)


def test_similarity_is_the_cosine_of_scikit_learn():
    first, second = np.random.default_rng(0).normal(size=(2, 50, 12))
    assert np.allclose(similarity(first, second), np.diag(cosine_similarity(first, second)))
    assert np.allclose(similarity(first, 7 * first), 1)
    assert np.isnan(similarity([[np.nan, 1.0]], [[1.0, 1.0]])).all()


def test_rounding_makes_no_likeness_above_one_and_rows_of_nothing_no_noise():
    rows = np.random.default_rng(1).normal(size=(2000, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert similarity(rows, rows).max() == 1 and similarity(rows, -rows).min() == -1
        assert np.isnan(similarity(np.zeros((1, 5)), rows[:1])).all()


@given(arrays(float, (6, 7), elements=st.floats(0.01, 1)), arrays(float, (6, 7), elements=st.floats(0.01, 1)))
@settings(max_examples=50, deadline=None)
def test_agreement_is_one_minus_the_total_variation(first, second):
    first, second = (part / part.sum(1, keepdims=True) for part in (first, second))
    assert np.allclose(agreement(first, second), 1 - np.abs(first - second).sum(1) / 2)
    assert np.allclose(agreement(first, first), 1) and np.allclose(agreement(first, second), agreement(second, first))


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="sum to one"):
        agreement([[0.5, 0.6]], [[0.5, 0.5]])
    with pytest.raises(ValueError, match="one shape"):
        agreement([[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]])
    assert np.isnan(agreement([[np.nan, 0.5]], [[0.5, 0.5]])).all()
    assert agreement([[0.5, 0.5005]], [[0.5, 0.5]]) == pytest.approx(1)  # of float32, or rounded in a file
    with pytest.raises(ValueError, match="sum to one"):
        agreement([[0.5, 0.502]], [[0.5, 0.5]])


def test_residual_yaw_is_the_angle_whatever_the_side():
    assert residual_yaw([[-41, 3, 9], [12, -50, 0], [np.nan, 0, 0]])[:2].tolist() == [41, 12]


def test_verdicts_at_the_thresholds_themselves():
    scores = pd.DataFrame({"embedder": [0.82, 0.8199, 0.82 * 0.98 + 1e-9, 0.82 * 0.98 - 1e-9], "identity": [0.78, 0.9, 0.9, 0.9]})
    assert judge(scores).tolist() == ["accept", "review", "review", "revert"]
    assert judge(scores, Thresholds(margin=0)).tolist() == ["accept", "revert", "revert", "revert"]
    turned = pd.DataFrame({"residual_yaw": [20.0, 20.3, 20.5, np.nan]})
    only_yaw = Thresholds(**OFF | {"residual_yaw": 20})
    assert judge(turned, only_yaw).tolist() == ["accept", "review", "revert", "review"]
    assert reasons(turned, only_yaw).tolist()[2:] == ["residual_yaw 20.500 > 20", "residual_yaw not measured"]


def test_one_clear_failure_outweighs_what_is_unknown():
    scores = pd.DataFrame({"embedder": [np.nan, np.nan], "identity": [0.1, 0.9]})
    assert judge(scores).tolist() == ["revert", "review"]


def test_the_index_is_kept_and_an_empty_table_is_no_error():
    scores = table(30)
    assert judge(scores).index.equals(scores.index) and reasons(scores).index.equals(scores.index)
    assert judge(scores[:0]).empty and reasons(scores[:0]).empty


def test_with_every_check_off_all_is_accepted():
    assert (judge(table(30), Thresholds(**OFF)) == "accept").all()


@given(st.integers(0, 50), st.sampled_from(SCORES), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
@settings(max_examples=150, deadline=None)
def test_a_stricter_threshold_never_reverts_fewer(seed, name, first, second, margin):
    low, high = sorted((first, second))
    scale = 90 if name == "residual_yaw" else 1
    loose, strict = (low, high) if STRICTER[name] > 0 else (high, low)
    others = {"embedder": 0.3, "identity": 0.2, "agreement": 0.1, "residual_yaw": 80, "margin": margin}
    scores = table(60, seed)
    before, after = (judge(scores, Thresholds(**others | {name: value * scale})) for value in (loose, strict))
    rank = {"accept": 0, "review": 1, "revert": 2}
    assert (after.map(rank) >= before.map(rank)).all()


@given(st.integers(0, 50), st.floats(0, 1), st.floats(0, 0.5))
@settings(max_examples=80, deadline=None)
def test_verdicts_and_reasons_tell_the_same(seed, embedder, margin):
    scores, thresholds = table(60, seed), Thresholds(embedder=embedder, margin=margin)
    assert (judge(scores, thresholds).name, reasons(scores, thresholds).name) == ("verdict", "reason")
    assert ((judge(scores, thresholds) == "accept") == (reasons(scores, thresholds) == "")).all()
    without_margin = judge(scores.dropna(), Thresholds(embedder=embedder, margin=0))
    assert set(without_margin) <= {"accept", "revert"}


@pytest.mark.parametrize("odd", [{"embedder": 82}, {"identity": -0.1}, {"residual_yaw": 181}, {"margin": 2}, {"embedder": float("nan")}])
def test_impossible_thresholds_are_refused(odd):
    with pytest.raises(ValueError, match="expected a threshold"):
        Thresholds(**odd)


def test_a_missing_score_is_named():
    with pytest.raises(ValueError, match="found no identity: compute it or set its threshold to None"):
        judge(table(3).drop(columns="identity"))


# ---- agreement


def test_agreement_needs_probabilities():
    with pytest.raises(ValueError, match="sum to one"):
        agreement([[3.0, 0.0]], [[0.5, 0.5]])
    assert agreement([[1.0, 0.0]], [[0.0, 1.0]]) == [0.0]


# ---- the recogniser


def marked(scale=1.0, turn=0.0, shift=(0.0, 0.0), size=300):
    "A picture with five coloured dots where ArcFace's points lie after a similarity transform, and 68 landmarks that say so."
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    points = ARCFACE_POINTS @ np.array([[cos, -sin], [sin, cos]]).T + shift
    image = Image.new("RGB", (size, size), "#808080")
    for (x, y), colour in zip(points, ("red", "lime", "blue", "yellow", "cyan")):
        ImageDraw.Draw(image).ellipse((x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale), fill=colour)
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48], landmarks[30], landmarks[48], landmarks[54] = points
    return image, landmarks


@pytest.mark.parametrize("change", [{}, {"scale": 2}, {"scale": 1.7, "turn": 0.6, "shift": (90, -10)}, {"turn": -0.4, "shift": (20, 60)}])
def test_alignment_brings_the_points_home(change):
    aligned = np.asarray(align(*marked(**change))).astype(int)
    for (x, y), colour in zip(ARCFACE_POINTS, ([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255])):
        assert np.abs(aligned[round(y), round(x)] - colour).max() <= 2
    assert np.abs(aligned - np.asarray(align(*marked()))).mean() < 4


def test_features_follow_the_face_and_not_its_place(recogniser):
    model = ArcFace(recogniser)
    moved, black = marked(scale=2, turn=0.5, shift=(120, 10), size=400), (Image.new("RGB", (300, 300)), marked()[1])
    images, landmarks = zip(marked(), moved, black, marked())
    landmarks = np.stack(landmarks)
    landmarks[3, 7] = np.nan
    features = model.embed(list(images), landmarks)
    assert features.shape == (4, model.dim) and features.dtype == np.float32
    assert np.allclose(np.linalg.norm(features[:3], axis=1), 1, atol=1e-5) and np.isnan(features[3]).all()
    same, other, unknown = similarity(features[[0, 0, 0]], features[1:])
    assert same > 0.99 > other and np.isnan(unknown)


def test_the_id_names_the_weights(recogniser, tmp_path):
    assert ArcFace(recogniser).id == ArcFace(recogniser).id
    model = onnx.load(recogniser)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((147, 512), np.float32), "w"))
    onnx.save(model, tmp_path / "tiny.onnx")
    assert ArcFace(tmp_path / "tiny.onnx").id != ArcFace(recogniser).id


def test_another_model_is_refused(tmp_path):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 224, 224]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="112, 112"):
        ArcFace(tmp_path / "other.onnx")


@pytest.fixture
def turned_faces():
    "Originals, frontalized pictures and both's landmarks: the same face moved, another face, not turned, landmarks unknown."
    moved, black = marked(scale=2, turn=0.5, shift=(120, 10), size=400), (Image.new("RGB", (300, 300)), marked()[1])
    (originals, before), (frontalized, after) = zip(*[marked()] * 4), zip(moved, black, marked(), moved)
    after = np.stack(after)
    after[3, 7] = np.nan
    return PictureList(originals), PictureList(frontalized), np.stack(before), after


def test_identity_is_scored_where_there_is_something_to_compare(recogniser, turned_faces):
    same, other, untouched, unknown = identity_scores(ArcFace(recogniser), *turned_faces)
    assert same > 0.99 > other and np.isnan([untouched, unknown]).all()
    with pytest.raises(ValueError, match=r"landmarks for each face; found \[4, 4, 4, 3\]"):
        identity_scores(ArcFace(recogniser), *turned_faces[:3], turned_faces[3][:3])


def test_every_face_is_compared_and_no_more_than_64_at_once():
    class Counting:
        "Features that are the picture's own number."

        def embed(self, pictures, points):
            counts.append(len(pictures))
            return np.array([[np.cos(number), np.sin(number)] for number in (picture.getpixel((0, 0)) / 100 for picture in pictures)])

    counts, points = [], np.zeros((150, 68, 2))
    before, after = (PictureList([Image.new("L", (1, 1), number) for number in range(start, start + 150)]) for start in (0, 50))
    assert identity_scores(Counting(), before, after, points, points) == pytest.approx(np.full(150, np.cos(0.5)))
    assert counts == [64, 64, 64, 64, 22, 22]


def test_a_threshold_for_identity_can_be_met(recogniser, turned_faces):
    "The paper's second check: with the recogniser's scores in the table the gate judges by them, and says so."
    manifest = pd.DataFrame({"image": list("abcd"), "label": 0, "split": "val", "group": range(4)})
    table = pd.DataFrame({"status": ["done", "done", "kept", "done"], "sha256": list("1234")})
    rows, poses = np.ones((4, 2)), np.zeros((4, 3))
    scores = gate_scores(manifest, table, rows, rows, poses, identity=identity_scores(ArcFace(recogniser), *turned_faces))
    assert scores["image"].tolist() == ["a", "b", "d"] and scores.index.tolist() == [0, 1, 2]
    assert list(scores) == ["image", "label", "split", "group", "key", "row", "embedder", "residual_yaw", "identity"]
    assert scores["key"].tolist() == list("124") and scores["row"].tolist() == [0, 1, 3]
    assert judge(scores, Thresholds(identity=0.78)).tolist() == ["accept", "revert", "review"]
    assert reasons(scores, Thresholds(identity=0.78)).str.partition(" ")[0].tolist() == ["", "identity", "identity"]
    assert "identity" not in gate_scores(manifest, table, rows, rows, poses)
