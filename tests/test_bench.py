"""The bench: ours, the plain way and the floor do the same work, take turns, and are told as they were measured."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qcfer import bench as benches
from qcfer.bench import Work, bench, measure, plain_ways, row, save_bench
from qcfer.cli import main

PLAIN = Path(__file__).parent / "bench" / "plain.py"


@pytest.fixture(scope="module")
def plain():
    return plain_ways(PLAIN)


def test_they_take_turns_and_the_first_round_does_not_count():
    said = []
    work = Work(10, lambda: said.append("ours"), lambda: said.append("plain") or time.sleep(0.2), lambda: said.append("floor"))
    found = measure(work, repeats=2)
    assert said == ["ours", "plain", "floor"] * 3
    assert found["plain"] == pytest.approx(10 / 0.2, rel=0.3) and found["versus_plain"] > 10


def test_ratios_are_of_the_same_round(monkeypatch):
    "A machine that slows down tenfold in the middle changes rates and no ratio."
    took = iter([1, 2, 3, 6, 30, 60, 3, 6])  # ours and plain, four rounds
    monkeypatch.setattr(benches, "_seconds", lambda piece: next(took))
    found = measure(Work(6, lambda: None, lambda: None), repeats=3)
    assert found == {"ours": 2.0, "plain": 1.0, "floor": None, "versus_plain": 2.0, "versus_floor": None, "said": ""}


def test_the_plain_embeddings_are_ours(plain, tmp_path):
    "Otherwise the race would be between two different things."
    from qcfer.embed.embedders import get_embedder

    faces, paths = benches._faces(tmp_path, 6)
    assert plain.embed(paths)() == pytest.approx(get_embedder("effnet_lite0").embed(list(faces)), abs=0.02)


@pytest.mark.skipif(not os.environ.get("QCFER_WEIGHTS"), reason="QCFER_WEIGHTS names no folder with 3DDFA-V2")
def test_the_plain_poses_are_ours(plain, tmp_path):
    from qcfer.face.tddfa import TDDFA

    (faces, _), estimator = benches._faces(tmp_path, 6), TDDFA()
    theirs = np.concatenate([angles for angles, *_ in plain.pose(estimator, faces)()])
    assert theirs == pytest.approx(estimator.estimate(list(faces)).angles, abs=0.05, nan_ok=True)


def test_the_plain_vote_knows_what_ours_knows(plain):
    X, y = benches._features(700)
    from sklearn.model_selection import PredefinedSplit

    from qcfer.classify.search import ESVSearch

    split = PredefinedSplit(np.where(np.arange(700) % 5 == 0, 0, -1))
    new, truth = benches._features(400, seed=1)
    theirs = (plain.search(X, y, split)().predict(new) == truth).mean()
    ours = (ESVSearch(cv=split, random_state=0).fit(X, y).predict(new) == truth).mean()
    assert theirs > 0.4 and ours > theirs - 0.05


def test_a_first_run_is_a_first_run_every_time(tmp_path, monkeypatch):
    "Neither an earlier bench in the same folder nor the user's remembered fits may make it short."
    monkeypatch.setenv("QCFER_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        found = row["again"].thing(tmp_path, 0.2, None)
        found.ours()
        first, again = benches._seconds(found.plain), benches._seconds(found.ours)
        assert first > 2 * again
        assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "cache", "runs"]
    assert os.environ["QCFER_CACHE"] == str(tmp_path / "cache")


@pytest.mark.skipif(not os.environ.get("QCFER_WEIGHTS"), reason="QCFER_WEIGHTS names no folder with 3DDFA-V2")
def test_no_face_of_the_frontal_views_fails(tmp_path):
    from PIL import Image

    found = row["frontalize"].thing(tmp_path, 0.1, None)
    views = found.ours()
    assert all(isinstance(view, Image.Image) for view in views) and len(views) == found.count > 5


def test_a_row_that_cannot_run_says_why_and_the_others_go_on(tmp_path, monkeypatch):
    def missing(*_):
        raise ImportError("expected anny; found none: pip install 'qcfer[posebench]'")

    monkeypatch.setitem(row._entries, "render", replace(row["render"], thing=missing))
    *_, found = bench(tmp_path, ["render", "thousand"], 0.1, None, repeats=1)
    assert found["rows"][0]["left_out"].startswith("expected anny") and "ours" not in found["rows"][0]
    assert found["rows"][1]["ours"] > 0
    text = save_bench(found, tmp_path / "bench.json").read_text()
    assert "left out: expected anny; found none: pip install &#39;qcfer[posebench]&#39;" in text
    assert json.loads((tmp_path / "bench.json").read_text())["rows"] == found["rows"]


def test_the_command_prints_and_writes(tmp_path, capsys):
    main(["bench", "--rows", "thousand", "--size", "0.1", "--repeats", "1", "--plain", str(PLAIN), "--to", str(tmp_path / "b.json")])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("probabilities of 1,000 faces: ") and "of VotingClassifier, one face at a time" in told[0]
    assert Path(told[-1]).name == "b.html" and json.loads((tmp_path / "b.json").read_text())["rows"][0]["versus_plain"] > 1
    with pytest.raises(SystemExit, match="expected a row: .*; found 'speed'"):
        main(["bench", "--rows", "speed", "--to", str(tmp_path / "c.json")])


def test_growth_is_the_slope_of_the_logarithms(tmp_path, monkeypatch):
    from qcfer.bench import grow, grown

    took = iter([2, 8, 32])
    monkeypatch.setattr(benches, "_seconds", lambda work: next(took))
    entry = replace(grown.find("afp"), thing=lambda folder, count: lambda: None, facts={"words": "nothing", "sizes": (10, 20, 40)})
    monkeypatch.setitem(grown._entries, "afp", entry)
    (found,) = grow(tmp_path, ["afp"])
    assert found["exponent"] == pytest.approx(2) and found["seconds"] == [2, 8, 32] and found["sizes"] == [10, 20, 40]
    told = {"machine": {"cores": 2, "libraries": []}, "versions": {}, "size": 1, "rows": [], "growth": [found]}
    page = save_bench(told, tmp_path / "g.json")
    assert '<span class="bad">2.00</span>' in page.read_text()


def test_every_stage_can_be_measured_at_a_small_size(tmp_path):
    from qcfer.bench import grow

    found = grow(tmp_path, ["manifest", "store", "afp", "linear", "search", "evaluate"], 0.03)
    assert all(min(each["seconds"]) > 0 and np.isfinite(each["exponent"]) for each in found)
