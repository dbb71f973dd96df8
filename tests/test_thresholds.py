"""What a threshold is worth: a curve that equals a count by hand, and no test face that could move it."""

import numpy as np
import pandas as pd
import pytest

from qcfer.frontalize.gate import SCORES, Thresholds, judge
from qcfer.frontalize.thresholds import best_threshold, calibrate, gated_accuracy

OFF = dict.fromkeys(SCORES)


def predictions(n=400, groups=80, seed=0):
    rng = np.random.default_rng(seed)
    faces = pd.DataFrame({"image": [f"{i}.png" for i in range(n)], "split": rng.choice(["val", "test"], n), "label": rng.integers(0, 7, n)})
    faces["group"] = rng.integers(0, groups, n)
    new, old = (faces.assign(predicted=np.where(rng.random(n) < p, faces["label"], (faces["label"] + 1) % 7)) for p in (0.7, 0.5))
    scores = pd.DataFrame({"image": faces["image"], "embedder": rng.random(n), "residual_yaw": 90 * rng.random(n)})
    return scores, new, old.sample(frac=1, random_state=seed)


@pytest.mark.parametrize("score", ["embedder", "residual_yaw"])
def test_the_curve_equals_a_count_by_hand(score):
    scores, new, old = predictions()
    curve = calibrate(scores, new, old, score, n_boot=50)
    old, value = old.set_index("image"), scores.set_index("image")[score]
    for row in curve[::7].itertuples():
        right, reverted, faces = 0, 0, 0
        for face in new[new["split"] == "val"].itertuples():
            passes = value[face.image] >= row.threshold if score == "embedder" else value[face.image] <= row.threshold
            right += (face.predicted if passes else old.loc[face.image, "predicted"]) == face.label
            reverted, faces = reverted + (not passes), faces + 1
        assert (row.n, row.accuracy, row.share_reverted) == (faces, pytest.approx(right / faces), pytest.approx(reverted / faces))
    assert curve["share_reverted"].is_monotonic_increasing
    assert (curve["low"] <= curve["accuracy"]).all() and (curve["accuracy"] <= curve["high"]).all()


def test_test_faces_cannot_move_the_curve():
    scores, new, old = predictions()
    curve = calibrate(scores, new, old, n_boot=50)
    is_test = new["split"] == "test"
    spoilt = new.assign(predicted=np.where(is_test, (new["label"] + 3) % 7, new["predicted"]))
    other = scores.assign(embedder=np.where(is_test, 0.5, scores["embedder"]))
    pd.testing.assert_frame_equal(curve, calibrate(other, spoilt, old, n_boot=50))
    with pytest.raises(ValueError, match="split 'val'"):
        calibrate(scores, new[is_test], old)


def test_the_ends_of_the_curve_are_all_and_nothing():
    scores, new, old = predictions()
    curve = calibrate(scores, new, old, grid=[1.1, -0.1], n_boot=50)
    for end, predicted in ((0, new), (1, old)):
        val = predicted[predicted["split"] == "val"]
        assert curve["accuracy"].iloc[end] == pytest.approx((val["label"] == val["predicted"]).mean())
    assert curve[["gain", "gain_low", "gain_high"]].iloc[0].tolist() == [0, 0, 0]
    assert curve["threshold"].tolist() == [-0.1, 1.1] and curve["share_reverted"].tolist() == [0, 1]


def test_an_unmeasured_score_reverts_at_every_threshold():
    scores, new, old = predictions()
    curve = calibrate(scores.assign(embedder=np.nan), new, old, n_boot=20)
    assert (curve["share_reverted"] == 1).all()


def test_intervals_draw_groups_as_a_whole():
    "Faces in identical pairs carry half the information: with their groups the interval is wider, by the root of two."
    rng = np.random.default_rng(1)
    predicted = np.repeat(rng.integers(0, 2, 1000), 2)
    faces = pd.DataFrame({"image": [f"{i}" for i in range(2000)], "split": "val", "label": 0, "predicted": predicted})
    scores = faces[["image"]].assign(embedder=1.0)
    widths = {}
    for name, group in (("alone", np.arange(2000)), ("pairs", np.arange(2000) // 2)):
        row = calibrate(scores, faces.assign(group=group), faces.assign(group=group), grid=[0.5]).iloc[0]
        widths[name] = row["high"] - row["low"]
        assert row["gain"] == row["gain_low"] == row["gain_high"] == 0
    share = faces["predicted"].eq(0).mean()
    assert widths["alone"] == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 2000), rel=0.1)
    assert widths["pairs"] / widths["alone"] == pytest.approx(np.sqrt(2), rel=0.1)


def test_of_equal_thresholds_the_one_that_reverts_least_is_chosen():
    curve = pd.DataFrame({"threshold": [0, 0.1, 0.2], "share_reverted": [0.0, 0.2, 0.4], "accuracy": [0.5, 0.6, 0.6]})
    assert best_threshold(curve) == 0.1


def test_gated_accuracy_agrees_with_the_curve():
    scores, new, old = predictions()
    row = calibrate(scores, new, old, grid=[0, 0.6]).iloc[1]
    judged = scores.assign(verdict=judge(scores, Thresholds(**OFF | {"embedder": 0.6})))
    result = gated_accuracy(judged, new, old, "val")
    assert result["gated"] == {"value": row["accuracy"], "low": row["low"], "high": row["high"], "n": row["n"]}
    assert result["gain"]["value"] == pytest.approx(result["gated"]["value"] - result["ungated"]["value"])
    assert result["share_reverted"] == pytest.approx(row["share_reverted"])
    everything = gated_accuracy(judged.assign(verdict="accept"), new, old)
    assert everything["gated"] == everything["ungated"] and everything["gain"]["high"] == 0
    nothing = gated_accuracy(judged.assign(verdict="review"), new, old)
    assert nothing["gated"] == nothing["reverted"]


def test_tables_that_do_not_belong_together_are_refused():
    scores, new, old = predictions()
    with pytest.raises(ValueError, match="same labels"):
        calibrate(scores, new, old.assign(label=(old["label"] + 1) % 7))
    with pytest.raises(ValueError, match="expected a score out of"):
        calibrate(scores, new, old, "sharpness")
    with pytest.raises(pd.errors.MergeError):
        calibrate(pd.concat([scores, scores]), new, old)
