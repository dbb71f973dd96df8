"""The frontalization job: whole after any kill, each face once, and honest about what failed."""

import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.files import file_sha256
from qcfer.data.manifest import FaceImages
from qcfer.frontalize.job import FrontalizedFaces, frontalize_faces, plan

COLUMNS = ["turned", "status", "file", "sha256", "error", "misfit", "inside", "asymmetry"]


class Negative:
    """Gives each picture's negative; every call is logged, a key a line, before a result can be stored."""

    def __init__(self, id="negative", batch_size=4, log=None, pause=0.0):
        self.id, self.batch_size, self.log, self.pause, self.calls = id, batch_size, log, pause, []

    def frontalize(self, images, keys, poses, landmarks):
        time.sleep(self.pause)
        self.calls.append(list(keys))
        if self.log:
            with open(self.log, "a") as file:
                file.write("".join(f"{key}\n" for key in keys))
        return [Image.eval(image, lambda value: 255 - value) for image in images]


def make_set(root, n, sizes=((12, 12),), names=None):
    """n different pictures below `root` and their faces."""
    rows = []
    for index in range(n):
        name = names[index] if names else f"{index:04d}.png"
        width, height = sizes[index % len(sizes)]
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
        rows.append({"image": name, "sha256": file_sha256(path)})
    return FaceImages(pd.DataFrame(rows), root)


def angles(n, yaw=60.0):
    return np.stack([np.broadcast_to(np.float32(yaw), n), np.zeros(n), np.zeros(n)], axis=1).astype(np.float32)


def points(n):
    return np.full((n, 68, 2), np.nan, np.float32)


def run(frontalizer, images, folder, yaw=60.0, **options):
    return frontalize_faces(frontalizer, images, angles(len(images), yaw), points(len(images)), folder, **options)


def pictures(folder):
    return sorted(path for path in Path(folder).rglob("*.png") if not path.name.startswith("."))


def seen(frontalizer):
    return [key for call in frontalizer.calls for key in call]


def assert_whole(table, images, folder):
    """Every face is done, and its file holds its own picture's negative."""
    assert set(table["status"]) == {"done"} and not table["error"].any()
    for row, (file, digest) in enumerate(zip(table["file"], table["sha256"])):
        assert file_sha256(Path(folder, file)) == digest
        with Image.open(Path(folder, file)) as picture:
            np.testing.assert_array_equal(np.asarray(picture), 255 - np.asarray(images[row]))


# Which faces, and under which names


@pytest.mark.parametrize("yaw, turned", [(30.0, False), (-30.0, False), (30.1, True), (-30.1, True), (np.nan, False), (0, False)])
def test_only_faces_beyond_the_threshold_are_turned(tmp_path, yaw, turned):
    images = make_set(tmp_path / "set", 2)
    table = run(Negative(), images, tmp_path / "out", yaw)
    assert list(table) == COLUMNS
    assert table["turned"].tolist() == [turned] * 2
    assert set(table["status"]) == {"done" if turned else "kept"}
    assert len(pictures(tmp_path / "out")) == 2 * turned


def test_a_backend_says_from_which_yaw_on_it_turns_faces(tmp_path):
    images = make_set(tmp_path / "set", 4)
    yaw = [10, -20, 30, -40]
    for beyond, expected in ((15.0, [False, True, True, True]), (90.0, [False] * 4)):
        backend = Negative()
        backend.beyond = beyond
        assert run(backend, images, tmp_path / str(beyond), yaw)["turned"].tolist() == expected
    assert not (tmp_path / "90.0").exists()


def test_a_result_is_found_again_by_everything_it_depends_on(tmp_path):
    images = make_set(tmp_path / "set", 3)
    poses, landmarks = angles(3), points(3)
    landmarks[0] = 5.0
    frontalize_faces(Negative(), images, poses, landmarks, tmp_path / "out")

    def again(images=images, poses=poses, landmarks=landmarks, id="negative"):
        frontalizer = Negative(id)
        assert set(frontalize_faces(frontalizer, images, poses, landmarks, tmp_path / "out", limit=9)["status"]) == {"done"}
        return len(seen(frontalizer))

    assert again() == 0
    turned, moved = poses.copy(), landmarks.copy()
    turned[1, 2] += 1e-3
    moved[0, 67, 1] += 1e-3
    assert again(poses=turned) == 1
    assert again(landmarks=moved) == 1
    assert again(id="negative, seed 1") == 3
    (tmp_path / "set" / "0002.png").write_bytes((tmp_path / "set" / "0001.png").read_bytes())
    edited = FaceImages(pd.DataFrame({"image": ["0002.png"], "sha256": [file_sha256(tmp_path / "set" / "0002.png")]}), tmp_path / "set")
    assert again(edited, angles(1), points(1)) == 0  # the same pixels as 0001.png, so the same result
    Image.new("RGB", (12, 12), "red").save(tmp_path / "set" / "0002.png")
    edited = FaceImages(pd.DataFrame({"image": ["0002.png"], "sha256": [file_sha256(tmp_path / "set" / "0002.png")]}), tmp_path / "set")
    assert again(edited, angles(1), points(1)) == 1
    assert again(poses=-poses * np.float32(-1), landmarks=-landmarks * np.float32(-1)) == 0  # -0.0 and -NaN are no news


def test_ids_that_read_alike_do_not_share_a_folder(tmp_path):
    images = make_set(tmp_path / "set", 2)
    for id in ("a/b", "a-b", "a b" + "x" * 300, "a b" + "x" * 301):
        frontalizer = Negative(id)
        assert len(seen(frontalizer)) == 0
        run(frontalizer, images, tmp_path / "out")
        assert len(seen(frontalizer)) == 2
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_duplicates_are_done_once(tmp_path):
    make_set(tmp_path / "set", 3)
    names = ["0000.png", "0001.png", "0000.png", "0002.png", "0000.png", "0001.png"]
    manifest = pd.DataFrame({"image": names, "sha256": [file_sha256(tmp_path / "set" / name) for name in names]})
    images = FaceImages(manifest, tmp_path / "set")
    frontalizer = Negative(batch_size=2)
    table = run(frontalizer, images, tmp_path / "out")
    assert sorted(seen(frontalizer)) == sorted(set(images.keys))
    assert_whole(table, images, tmp_path / "out")
    assert table["file"].nunique() == 3 and table["file"][0] == table["file"][2] == table["file"][4]


def test_limit_counts_new_pictures(tmp_path):
    images = make_set(tmp_path / "set", 10)
    for done, limit in ((0, 0), (3, 3), (6, 3), (10, 99)):
        table = run(Negative(), images, tmp_path / "out", limit=limit)
        assert table["status"].tolist() == ["done"] * done + ["pending"] * (10 - done)
        assert (table["file"] != "").sum() == done == len(pictures(tmp_path / "out"))


def test_mixed_sizes_stay_with_their_pictures(tmp_path):
    images = make_set(tmp_path / "set", 12, sizes=((12, 12), (30, 7), (1, 1), (5, 64)))
    assert_whole(run(Negative(batch_size=5), images, tmp_path / "out"), images, tmp_path / "out")


ODD = ["a b.png", "ä/ö.png", "🙂.png", "-rf.png", "a\nb.png", "%2e.png", "..png.png", "x" * 240 + ".png", "CON.png", "'\"$(id).png"]


def test_odd_file_names(tmp_path):
    images = make_set(tmp_path / "set", len(ODD), names=ODD)
    assert_whole(run(Negative(), images, tmp_path / "out dir"), images, tmp_path / "out dir")


def test_an_empty_set(tmp_path):
    images = FaceImages(pd.DataFrame({"image": [], "sha256": []}), tmp_path)
    table = run(Negative(), images, tmp_path / "out")
    assert list(table) == COLUMNS and len(table) == 0
    assert plan(Negative(), images, angles(0), points(0), tmp_path / "out")["missing"] == 0


def test_a_row_for_every_picture(tmp_path):
    images = make_set(tmp_path / "set", 3)
    with pytest.raises(ValueError, match=r"expected poses of shape \(3, 3\), a row a picture; found \(2, 3\)"):
        frontalize_faces(Negative(), images, angles(2), points(3), tmp_path / "out")
    with pytest.raises(ValueError, match=r"expected landmarks of shape \(3, 68, 2\)"):
        plan(Negative(), images, angles(3), np.zeros((3, 136)), tmp_path / "out")


@settings(max_examples=20, deadline=None)
@given(
    yaw=st.lists(st.sampled_from([0.0, 29.0, 31.0, -80.0, np.nan]), min_size=1, max_size=12),
    batch_size=st.integers(1, 5),
    limits=st.lists(st.integers(0, 4), max_size=4),
)
def test_any_order_of_limited_runs_ends_at_the_same_place(many, yaw, batch_size, limits):
    images = FaceImages(many.manifest[: len(yaw)], many.root)
    with tempfile.TemporaryDirectory() as folder:
        tried = []
        for limit in [*limits, None]:
            frontalizer = Negative(batch_size=batch_size)
            table = run(frontalizer, images, folder, yaw, limit=limit)
            assert len(seen(frontalizer)) <= (99 if limit is None else limit)
            assert max(map(len, frontalizer.calls), default=0) <= batch_size
            tried += seen(frontalizer)
        turned = np.abs(np.float32(yaw)) > 30
        assert tried == [key for key, turn in zip(images.keys, turned) if turn]
        assert table["status"].tolist() == ["done" if turn else "kept" for turn in turned]


# Failures


def test_a_failing_face_is_recorded_and_tried_again(tmp_path):
    images = make_set(tmp_path / "set", 9)

    class Sometimes(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            results = super().frontalize(images, keys, poses, landmarks)
            return [RuntimeError("no face found\nat all") if key in bad else result for key, result in zip(keys, results)]

    bad = {images.keys[2], images.keys[7]}
    table = run(Sometimes(), images, tmp_path / "out")
    assert table.index[table["status"] == "failed"].tolist() == [2, 7]
    assert table["error"].tolist() == ["no face found" if row in (2, 7) else "" for row in range(9)]
    assert (table["file"][[2, 7]] == "").all()
    frontalizer = Negative()
    assert_whole(run(frontalizer, images, tmp_path / "out"), images, tmp_path / "out")
    assert set(seen(frontalizer)) == bad


def test_a_batch_that_fails_as_a_whole_is_tried_face_by_face(tmp_path):
    images = make_set(tmp_path / "set", 10)

    class Strict(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            if bad in keys:
                raise RuntimeError("a tensor of the wrong size")
            return super().frontalize(images, keys, poses, landmarks)

    bad = images.keys[5]
    table = run(Strict(batch_size=4), images, tmp_path / "out")
    assert table.index[table["status"] == "failed"].tolist() == [5]
    assert table["error"][5] == "a tensor of the wrong size"
    assert (table["status"].drop(5) == "done").all()


def test_pictures_that_cannot_be_read_are_recorded(tmp_path):
    images = make_set(tmp_path / "set", 6)
    (tmp_path / "set" / "0001.png").unlink()
    (tmp_path / "set" / "0003.png").write_bytes(b"other")
    table = run(Negative(batch_size=2), images, tmp_path / "out")
    assert table["status"].tolist() == ["done", "failed", "done", "failed", "done", "done"]
    assert "No such file" in table["error"][1] and "found other bytes" in table["error"][3]
    (tmp_path / "set" / "0000.png").unlink()  # what is done needs its picture no more
    assert run(Negative(), images, tmp_path / "out")["status"].tolist() == table["status"].tolist()


@pytest.mark.parametrize("result", [None, "picture", Image.new("L", (4, 4)), np.zeros((4, 4, 3))])
def test_what_is_no_rgb_picture_fails(tmp_path, result):
    class Odd(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            return [result] * len(images)

    table = run(Odd(), make_set(tmp_path / "set", 2), tmp_path / "out")
    assert set(table["status"]) == {"failed"}
    assert table["error"].str.startswith("expected an RGB picture; found ").all()


def test_as_many_out_as_in(tmp_path):
    class Short(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            return super().frontalize(images, keys, poses, landmarks)[:1]

    table = run(Short(batch_size=3), make_set(tmp_path / "set", 3), tmp_path / "out")
    assert_whole(table, make_set(tmp_path / "set", 3), tmp_path / "out")  # one at a time the numbers agree

    class None_(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            return []

    table = run(None_("none"), make_set(tmp_path / "set", 3), tmp_path / "out")
    assert table["error"].tolist() == ["expected 1 pictures from none; found 0"] * 3


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError])
def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path, error):
    images = make_set(tmp_path / "set", 40)

    class Big(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            super().frontalize(images, keys, poses, landmarks)
            if len(images) > 3:
                raise error("not enough memory")
            return [Image.eval(image, lambda value: 255 - value) for image in images]

    big = Big(batch_size=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = run(big, images, tmp_path / "out")
    assert_whole(table, images, tmp_path / "out")
    assert [len(call) for call in big.calls] == [16, 8, 4] + [2] * 20
    assert [str(each.message) for each in caught] == [f"out of memory: {n} faces a batch from here on" for n in (8, 4, 2)]


def test_torchs_own_error_counts_as_out_of_memory(tmp_path):
    torch = pytest.importorskip("torch")
    images, calls = make_set(tmp_path / "set", 4), []

    class Big(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            calls.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().frontalize(images, keys, poses, landmarks)

    with pytest.warns(UserWarning, match="2 faces a batch"):
        assert_whole(run(Big(), images, tmp_path / "out"), images, tmp_path / "out")
    assert calls == [4, 2, 2]


def test_a_single_face_that_does_not_fit_is_recorded(tmp_path):
    class Huge(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            if bad in keys:
                raise MemoryError
            return super().frontalize(images, keys, poses, landmarks)

    images = make_set(tmp_path / "set", 5)
    bad = images.keys[1]
    with pytest.warns(UserWarning, match="faces a batch"):
        table = run(Huge(), images, tmp_path / "out")
    assert table["status"].tolist() == ["done", "failed", "done", "done", "done"]
    assert table["error"][1] == "MemoryError"


def test_ctrl_c_stops_at_once_and_keeps_what_was_done(tmp_path):
    images = make_set(tmp_path / "set", 20)

    class Stopped(Negative):
        def frontalize(self, images, keys, poses, landmarks):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().frontalize(images, keys, poses, landmarks)

    with pytest.raises(KeyboardInterrupt):
        run(Stopped(), images, tmp_path / "out")
    assert len(pictures(tmp_path / "out")) == 12
    frontalizer = Negative()
    assert_whole(run(frontalizer, images, tmp_path / "out"), images, tmp_path / "out")
    assert seen(frontalizer) == images.keys[12:]


# The disk


def test_a_damaged_result_is_made_again(tmp_path):
    images = make_set(tmp_path / "set", 6)
    table = run(Negative(), images, tmp_path / "out")
    files = [tmp_path / "out" / file for file in table["file"]]
    os.truncate(files[0], 0)
    os.truncate(files[1], files[1].stat().st_size - 1)
    data = bytearray(files[2].read_bytes())
    data[len(data) // 2] ^= 1
    files[2].write_bytes(data)
    files[3].unlink()
    frontalizer = Negative()
    again = run(frontalizer, images, tmp_path / "out")
    assert sorted(seen(frontalizer)) == sorted(images.keys[:4])
    pd.testing.assert_frame_equal(again, table)


IMPORTS = """
import time
from pathlib import Path
import numpy as np
import pandas as pd
from PIL import Image
from qcfer.core.files import file_sha256
from qcfer.data.manifest import FaceImages
from qcfer.frontalize.job import frontalize_faces
"""
WORKER = IMPORTS + "\n".join(inspect.getsource(part) for part in (Negative, angles, points, run, make_set))


def worker(code, **options):
    """A fresh interpreter that runs `code` after the definitions above."""
    return subprocess.Popen([sys.executable, "-c", WORKER + code], **options)


def test_a_full_disk_stops_the_job_with_one_clear_line(tmp_path):
    images = make_set(tmp_path / "set", 8, sizes=((12, 12),) * 5 + ((300, 300),) * 3)
    code = f"""
import resource
images = make_set({str(tmp_path / "set")!r}, 8, sizes=((12, 12),) * 5 + ((300, 300),) * 3)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
run(Negative(batch_size=2), images, {str(tmp_path / "out")!r})
"""
    job = worker(code, stderr=subprocess.PIPE, text=True)
    last = job.communicate()[1].strip().splitlines()[-1]
    assert job.returncode == 1
    assert last.startswith(f"OSError: [Errno 27] cannot write to {tmp_path / 'out'}")
    assert last.endswith("File too large; what was done before is kept")
    assert len(pictures(tmp_path / "out")) == 5
    assert not [path for path in (tmp_path / "out").rglob("*.tmp")]
    frontalizer = Negative()
    assert_whole(run(frontalizer, images, tmp_path / "out"), images, tmp_path / "out")
    assert len(seen(frontalizer)) == 3


def test_a_file_in_the_place_of_the_store(tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(OSError, match="cannot write to"):
        run(Negative(), make_set(tmp_path / "set", 2), tmp_path / "out")


# Kills


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A thousand small pictures."""
    root = tmp_path_factory.mktemp("many")
    make_set(root, 1000)
    manifest = pd.DataFrame([{"image": path.name, "sha256": file_sha256(path)} for path in sorted(root.iterdir())])
    images = FaceImages(manifest, root)
    images.manifest = manifest
    manifest.to_parquet(root.parent / f"{root.name}.parquet")
    return images


def test_a_thousand_pictures_and_kills_at_random_moments(many, tmp_path):
    out, rng, batch = tmp_path / "out", np.random.default_rng(0), 8
    call = f"""
manifest = pd.read_parquet({str(many.root.parent / f"{many.root.name}.parquet")!r})
run(Negative(batch_size={batch}, log=LOG, pause=0.01), FaceImages(manifest, {str(many.root)!r}), {str(out)!r})
"""
    tried, kills = [], 0
    while len(pictures(out)) < 1000:
        before = {path.stem: path.read_bytes() for path in pictures(out)}
        log = tmp_path / f"log-{kills}"
        job = worker(f"LOG = {str(log)!r}" + call)
        deadline = time.monotonic() + 30
        while not log.exists() and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if kills < 7:
            time.sleep(rng.uniform(0.0, 0.3))
            job.kill()
        killed = job.wait() == -signal.SIGKILL
        kills += killed
        tried.append(log.read_text().split())
        after = {path.stem: path.read_bytes() for path in pictures(out)}
        assert before.items() <= after.items()  # nothing lost, nothing written again
        assert len(tried[-1]) <= len(after) - len(before) + 2 * batch  # what a kill costs: the batch at work, and the one being written
    assert kills >= 3
    everything = [key for keys in tried for key in keys]
    assert set(everything) == set(many.keys)
    assert len(everything) <= 1000 + 2 * batch * kills
    frontalizer = Negative()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_whole(run(frontalizer, many, out), many, out)
    assert seen(frontalizer) == []


def test_two_jobs_may_fill_one_store(many, tmp_path):
    call = f"""
manifest = pd.read_parquet({str(many.root.parent / f"{many.root.name}.parquet")!r})[:200]
table = run(Negative(pause=0.002), FaceImages(manifest, {str(many.root)!r}), {str(tmp_path / "out")!r})
assert set(table["status"]) == {{"done"}}
"""
    jobs = [worker(call) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    images = FaceImages(many.manifest[:200], many.root)
    frontalizer = Negative()
    assert_whole(run(frontalizer, images, tmp_path / "out"), images, tmp_path / "out")
    assert seen(frontalizer) == []


def test_what_a_killed_job_left_is_swept_but_not_a_living_ones(tmp_path):
    images = make_set(tmp_path / "set", 3)
    table = run(Negative(), images, tmp_path / "out", limit=2)
    beside = (tmp_path / "out" / table["file"][0]).parent
    old, young = beside / ".a.png.0000.tmp", beside / ".b.png.0000.tmp"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    run(Negative(), images, tmp_path / "out")
    assert young.exists() and not old.exists()


# Speed


def test_pictures_are_decoded_while_the_backend_works_and_not_too_far_ahead(tmp_path):
    class Watched(Negative):
        busy = False

        def frontalize(self, images, keys, poses, landmarks):
            self.busy = True
            time.sleep(0.02)
            self.busy = False
            return super().frontalize(images, keys, poses, landmarks)

    class Images(FaceImages):
        together = ahead = 0

        def __getitem__(self, index):
            self.ahead = max(self.ahead, index - len(seen(frontalizer)))
            time.sleep(0.005)
            self.together += frontalizer.busy
            return super().__getitem__(index)

    make_set(tmp_path / "set", 64)
    manifest = pd.DataFrame([{"image": path.name, "sha256": file_sha256(path)} for path in sorted((tmp_path / "set").iterdir())])
    images, frontalizer = Images(manifest, tmp_path / "set"), Watched(batch_size=8)
    run(frontalizer, images, tmp_path / "out")
    assert images.together > 0
    assert images.ahead < 3 * 8


def test_the_bar_shows_the_rate_and_the_time_left(tmp_path):
    code = f"images = make_set({str(tmp_path / 'set')!r}, 8)\nrun(Negative(batch_size=1, pause=0.4), images, {str(tmp_path / 'out')!r})"
    shown = worker(code, stderr=subprocess.PIPE, text=True).communicate()[1]
    assert "frontalize" in shown and "8/8" in shown and "images/s" in shown and "<00:0" in shown
    assert worker(code, stderr=subprocess.PIPE, text=True).communicate()[1] == ""


def test_the_plan_tells_what_the_job_would_do(tmp_path):
    images = make_set(tmp_path / "set", 20, sizes=((64, 64),))
    yaw = [60.0] * 12 + [0.0] * 8
    stated = Negative(batch_size=4, pause=0.02)
    stated.images_per_s, stated.size = 2.0, 64

    def planned():
        return plan(stated, images, angles(20, yaw), points(20), tmp_path / "out")

    bytes_each = 2 * 64 * 64
    first = {"faces": 20, "turned": 12, "done": 0, "missing": 12, "images_per_s": 2.0, "seconds": 6.0, "bytes": 12 * bytes_each}
    assert planned() == first
    assert not (tmp_path / "out").exists()
    run(stated, images, tmp_path / "out", yaw, limit=8)
    now = planned()
    size = np.mean([path.stat().st_size for path in pictures(tmp_path / "out")])
    assert (now["done"], now["missing"], now["bytes"]) == (8, 4, round(4 * size))
    assert 10 < now["images_per_s"] < 200 and now["seconds"] == pytest.approx(4 / now["images_per_s"])
    assert bytes_each == pytest.approx(size, rel=0.6)  # noise, the hardest picture there is
    plain = plan(Negative("no rate is known"), images, angles(20, yaw), points(20), tmp_path / "out")
    assert plain["seconds"] is None and plain["images_per_s"] is None
    for text in ("", "[]", "half a fi"):
        next((tmp_path / "out").glob("*/frontalizer.json")).write_text(text)
        assert planned()["images_per_s"] == 2.0


def test_importing_the_job_loads_no_framework():
    code = "import sys, qcfer.frontalize.job; print({*'torch diffusers onnxruntime sklearn'.split()} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# The faces as the next stage sees them


def test_faces_are_seen_turned_where_there_is_a_result(tmp_path):
    images = make_set(tmp_path / "set", 4)
    table = run(Negative(), images, tmp_path / "out", [60.0, 0.0, -60.0, 60.0], limit=2)
    faces = FrontalizedFaces(images, table, tmp_path / "out")
    assert len(faces) == 4
    assert faces.keys == [table["sha256"][0], images.keys[1], table["sha256"][2], images.keys[3]]
    for row in range(4):
        expected = np.asarray(images[row])
        np.testing.assert_array_equal(np.asarray(faces[row]), 255 - expected if row in (0, 2) else expected)
    (tmp_path / "out" / table["file"][0]).write_bytes(b"other")
    with pytest.raises(ValueError, match="found other bytes: run frontalize again"):
        faces[0]
    with pytest.raises(ValueError, match="a row of the table for each of 4 pictures; found 3"):
        FrontalizedFaces(images, table[:3], tmp_path / "out")


class Telling(Negative):
    "Says of each picture how well it went, and of some nonsense."

    def frontalize(self, images, keys, poses, landmarks):
        views = super().frontalize(images, keys, poses, landmarks)
        for place, view in enumerate(views):
            view.info.update(misfit=0.01 * place, inside=np.nan if place else 0.5, asymmetry="much", other=3)
        return views


def test_what_a_backend_says_of_its_pictures_stays_with_them(tmp_path):
    images = make_set(tmp_path / "set", 3)
    tables = [run(Telling("telling"), images, tmp_path / "out") for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["misfit"].tolist() == [0.0, 0.01, 0.02]
    assert tables[0]["inside"].iloc[0] == 0.5 and tables[0][["inside", "asymmetry"]].iloc[1:].isna().all(axis=None)
    silent = run(Negative(), images, tmp_path / "out")
    assert silent[["misfit", "inside", "asymmetry"]].isna().all(axis=None) and (silent["status"] == "done").all()
