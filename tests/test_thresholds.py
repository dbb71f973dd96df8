"""What a threshold is worth: a curve that equals a count by hand, and no test face that could move it."""

import numpy as np
import pandas as pd
import pytest

from qcfer.frontalize.gate import SCORES, Thresholds, judge
from qcfer.frontalize.thresholds import best_threshold, calibrate, choose, gated_accuracy, read_both

OFF = dict.fromkeys(SCORES)


def readings(n=400, groups=80, seed=0):
    rng = np.random.default_rng(seed)
    faces = pd.DataFrame({"split": rng.choice(["val", "test"], n), "group": rng.integers(0, groups, n)})
    faces = faces.assign(new=1.0 * (rng.random(n) < 0.7), old=1.0 * (rng.random(n) < 0.5))
    return faces.assign(embedder=rng.random(n), residual_yaw=90 * rng.random(n), misfit=rng.random(n))


@pytest.mark.parametrize("score", ["embedder", "residual_yaw", "misfit"])
def test_the_curve_equals_a_count_by_hand(score):
    faces = readings()
    curve = calibrate(faces, score, n_boot=50)
    for row in curve[::7].itertuples():
        right, reverted, count = 0, 0, 0
        for face in faces[faces["split"] == "val"].to_dict("records"):
            passes = face[score] >= row.threshold if score == "embedder" else face[score] <= row.threshold
            right, reverted, count = right + (face["new"] if passes else face["old"]), reverted + (not passes), count + 1
        assert (row.n, row.accuracy, row.share_reverted) == (count, pytest.approx(right / count), pytest.approx(reverted / count))
    assert curve["share_reverted"].is_monotonic_increasing
    assert (curve["low"] <= curve["accuracy"]).all() and (curve["accuracy"] <= curve["high"]).all()


def test_test_faces_cannot_move_the_curve_or_the_choice():
    faces = readings()
    is_test = faces["split"] == "test"
    spoilt = faces.copy()
    spoilt.loc[is_test, ["new", "old", "embedder"]] = 0, 1, 0.5
    pd.testing.assert_frame_equal(calibrate(faces, n_boot=50), calibrate(spoilt, n_boot=50))
    assert choose(faces) == choose(spoilt)
    with pytest.raises(ValueError, match="train and val faces with the score embedder; found none"):
        calibrate(faces[is_test])


def test_the_ends_of_the_curve_are_all_and_nothing():
    faces = readings()
    curve, val = calibrate(faces, grid=[1.1, -0.1], n_boot=50), faces[faces["split"] == "val"]
    assert curve["accuracy"].tolist() == [pytest.approx(val["new"].mean()), pytest.approx(val["old"].mean())]
    assert curve[["gain", "gain_low", "gain_high"]].iloc[0].tolist() == [0, 0, 0]
    assert curve["threshold"].tolist() == [-0.1, 1.1] and curve["share_reverted"].tolist() == [0, 1]


def test_an_unmeasured_score_reverts_at_every_threshold():
    faces = readings()
    unknown = faces.assign(embedder=np.where(np.arange(len(faces)) == faces.index[faces["split"] == "val"][0], 1.0, np.nan))
    assert (calibrate(unknown, n_boot=20)["share_reverted"] > 0.99).all()


def test_intervals_draw_groups_as_a_whole():
    "Faces in identical pairs carry half the information: with their groups the interval is wider, by the root of two."
    right = np.repeat(np.random.default_rng(1).integers(0, 2, 1000), 2)
    faces = pd.DataFrame({"split": "val", "new": right, "old": right, "embedder": 1.0})
    widths = {}
    for name, group in (("alone", np.arange(2000)), ("pairs", np.arange(2000) // 2)):
        row = calibrate(faces.assign(group=group), grid=[0.5]).iloc[0]
        widths[name] = row["high"] - row["low"]
        assert row["gain"] == row["gain_low"] == row["gain_high"] == 0
    share = right.mean()
    assert widths["alone"] == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 2000), rel=0.1)
    assert widths["pairs"] / widths["alone"] == pytest.approx(np.sqrt(2), rel=0.1)


def test_of_equal_thresholds_the_one_that_reverts_least_is_chosen():
    curve = pd.DataFrame({"threshold": [0, 0.1, 0.2], "share_reverted": [0.0, 0.2, 0.4], "accuracy": [0.5, 0.6, 0.6]})
    assert best_threshold(curve) == 0.1


def test_gated_accuracy_agrees_with_the_curve():
    faces = readings()
    row = calibrate(faces, grid=[0, 0.6]).iloc[1]
    judged = faces.assign(verdict=judge(faces, Thresholds(**OFF | {"embedder": 0.6})))
    result = gated_accuracy(judged, "val")
    assert result["gated"] == {"value": row["accuracy"], "low": row["low"], "high": row["high"], "n": row["n"]}
    assert result["gain"]["value"] == pytest.approx(result["gated"]["value"] - result["ungated"]["value"])
    assert result["share_reverted"] == pytest.approx(row["share_reverted"])
    everything = gated_accuracy(judged.assign(verdict="accept"))
    assert everything["gated"] == everything["ungated"] and everything["gain"]["high"] == 0
    nothing = gated_accuracy(judged.assign(verdict="review"))
    assert nothing["gated"] == nothing["reverted"]
    assert gated_accuracy(judged.assign(new=np.nan)) == {}


def test_a_score_that_is_none_is_refused():
    with pytest.raises(ValueError, match="expected a score out of"):
        calibrate(readings(), "sharpness")


# ---- the choice


@pytest.mark.parametrize("score", ["embedder", "misfit"])
def test_a_score_that_tells_spoilt_views_is_found(score):
    rng, n = np.random.default_rng(0), 2000
    spoilt = rng.random(n) < 0.25
    value = rng.normal(np.where(spoilt, 0.3, 0.6), 0.08)
    faces = readings(n).assign(new=1.0 * (rng.random(n) < np.where(spoilt, 0.1, 0.8)), **{score: 1 - value if score == "misfit" else value})
    found, told = choose(faces)
    on = {name: threshold for name, threshold in vars(found).items() if name in SCORES and threshold is not None}
    assert list(on) == [score] and told["gain"] > 0.05 and told["n"] == (faces["split"] != "test").sum()
    assert abs((1 - on[score] if score == "misfit" else on[score]) - 0.45) < 0.08


def test_luck_is_seldom_taken_for_a_threshold():
    taken = [any(vars(choose(readings(600, 600, seed))[0])[name] is not None for name in SCORES) for seed in range(60)]
    fair = [readings(600, 600, seed).assign(new=lambda rows: rows["old"]) for seed in range(3)]
    assert all(choose(rows)[0] == Thresholds(**OFF) for rows in fair)  # what changes nothing is never chosen
    assert np.mean(taken) <= 0.2  # frontal views help here, and no score knows when they do not


def test_few_faces_choose_nothing():
    faces = readings(150).assign(new=0.0, old=1.0, embedder=0.5)
    assert choose(faces[: 90])[0] == Thresholds(**OFF)


# ---- one plain classifier reads both pictures


def world(n=600, seed=0):
    rng = np.random.default_rng(seed)
    split = np.repeat(["train", "val", "test"], n // 3)
    manifest = pd.DataFrame({"label": rng.integers(0, 7, n), "split": split, "group": np.arange(n) // 4, "duplicate": False})
    seen = np.eye(7)[manifest["label"]] + rng.normal(0, 0.4, (n, 7))
    scores = pd.DataFrame({"row": rng.permutation(n)[: n // 2]})
    return scores, manifest, seen


def test_the_same_picture_twice_is_read_the_same_and_agrees():
    scores, manifest, seen = world()
    read = read_both(scores, manifest, seen, seen)
    assert (read["new"] == read["old"]).all() and np.allclose(read["agreement"], 1) and read["new"].mean() > 0.6
    assert read.index.equals(scores.index) and "new" not in scores


def test_nobody_is_read_by_one_who_met_him_or_his_group():
    "Labels that belong to groups, not to pictures: whoever has met the group would know them."
    rng = np.random.default_rng(0)
    manifest = pd.DataFrame({"group": np.repeat(np.arange(100), 6), "split": "train", "duplicate": False})
    manifest["label"] = rng.integers(0, 7, 100)[manifest["group"]]
    seen = rng.normal(size=(100, 300))[manifest["group"]]
    read = read_both(pd.DataFrame({"row": np.arange(600)}), manifest, seen, seen)
    assert read["new"].mean() < 0.35


def test_labels_of_test_faces_and_copies_of_test_pictures_teach_nothing():
    scores, manifest, seen = world()
    read = read_both(scores, manifest, seen, seen)
    other = manifest.assign(label=np.where(manifest["split"] == "test", 6 - manifest["label"], manifest["label"]))
    pd.testing.assert_series_equal(read["agreement"], read_both(scores, other, seen, seen)["agreement"])
    copied = manifest.assign(duplicate=(manifest["split"] == "train"))
    spoilt = copied.assign(label=np.where(copied["duplicate"], 0, copied["label"]))
    test = scores["row"].isin(np.flatnonzero(manifest["split"] == "test"))
    first, second = (read_both(scores[test], table, seen, seen) for table in (copied, spoilt))
    pd.testing.assert_frame_equal(first, second)


def test_too_little_to_learn_from_is_said_by_blanks():
    scores, manifest, seen = world()
    alone = read_both(scores, manifest.assign(group=0), seen, seen)
    assert alone.loc[scores["row"].isin(np.flatnonzero(manifest["split"] != "test")), "new"].isna().all()
    one_class = read_both(scores, manifest.assign(label=3), seen, seen)
    assert one_class[["new", "old", "agreement"]].isna().all(axis=None)
    nobody = read_both(scores[:0], manifest, seen, seen)
    assert list(nobody) == ["row", "agreement", "new", "old"] and nobody.empty
