"""Videos: frames by their time, faces that keep their number, answers that lean on their neighbours."""
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_face, draw_faces
from qcfer.recognize import video
from qcfer.recognize.model_folder import export_model, study_of
from qcfer.recognize.recognizer import Face, Recognizer
from qcfer.recognize.video import Tracker, VideoError, overlaps, read_frames, read_video, save_timeline, smooth, timeline
from qcfer.run.config import Config
from qcfer.run.pipeline import make_run

av = pytest.importorskip("av")


def film(path, pictures, rate=10, codec="mpeg4"):
    "Write pictures as a video."
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *pictures[0].size, "yuv420p", 6_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


class Red(Recognizer):
    "Finds a square of 96 pixels in the upper and one in the lower half of a picture, whose upper left corner is marked in red."

    def find(self, images):
        return [list(self._marked(image)) for image in images]

    def _marked(self, image):
        pixels = np.asarray(image, int)
        red = (pixels[:, :, 0] > 180) & (pixels[:, :, 1] < 90) & (pixels[:, :, 2] < 90)
        for number, half in enumerate((0, image.height // 2)):
            down, right = np.nonzero(red[half : half + image.height // 2])
            if len(down):
                box = (int(right.min()), half + int(down.min()), int(right.min()) + 96, half + int(down.min()) + 96)
                yield Face(image.crop(box), tuple(map(float, box)), 0.9, 1.0, number)


def scene(*faces, size=(480, 240)):  # (name, left, top)
    picture = Image.new("RGB", size, "white")
    for name, left, top in faces:
        picture.paste(draw_face(name, seed=7).resize((96, 96)), (left, top))
        picture.paste((230, 20, 20), (left, top, left + 10, top + 10))
    return picture


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    root = draw_faces(tmp_path_factory.mktemp("faces"), per_class=20)
    run = make_run(Config("folder", str(root), pose="none", esv={"candidates": "LR"}, ladders=[]), out)
    return Red.load(export_model(run, study_of(run, out, root), out / "model"))


@pytest.mark.parametrize(
    "every, times", [(0.2, np.arange(15) * 0.2), (0.25, [0, 0.3, 0.5, 0.8, 1, 1.3, 1.5, 1.8, 2, 2.3, 2.5, 2.8]), (10, [0])]
)
def test_frames_are_taken_by_their_time(tmp_path, every, times):
    path = film(tmp_path / "film.mp4", [Image.new("RGB", (64, 48), (8 * number, 0, 0)) for number in range(30)])
    found = list(read_frames(path, every))
    np.testing.assert_allclose([at for at, _ in found], times, atol=1e-6)
    reds = [np.asarray(picture)[:, :, 0].mean() for _, picture in found]
    np.testing.assert_allclose(reds, 80 * np.asarray(times), atol=8)


def test_two_faces_are_followed_and_answered_as_their_frames_are(recognizer, tmp_path):
    steps = [("happiness", 10 + 6 * step, 10) for step in range(30)], [("sadness", 300 - 6 * step, 130) for step in range(30)]
    path = film(tmp_path / "film.mp4", [scene(one, other) for one, other in zip(*steps)])
    table = read_video(recognizer, path, 0.1)
    assert len(table) == 60 and table["track"].nunique() == 2
    for _, own in table.groupby("track"):
        assert np.ptp(own["top"]) < 6 and (np.abs(np.diff(own["left"])) < 12).all()
    frames = [picture for _, picture in read_frames(path, 0.1)]
    apart = recognizer.predict(frames[:5])
    np.testing.assert_allclose(apart[list(CLASSES)], table[list(CLASSES)][: len(apart)], atol=1e-5)
    assert set(table["smoothed_label"]) <= set(table["label"])
    save_timeline(table, tmp_path / "line.png")
    assert Image.open(tmp_path / "line.png").width > 800


def test_a_single_bad_frame_does_not_change_the_smoothed_label():
    times = np.arange(21) * 0.1
    probabilities = np.tile(np.eye(7)[3] * 0.8 + 0.2 / 7, (21, 1))
    probabilities[10] = np.eye(7)[0]
    assert (smooth(times, probabilities).argmax(1) == 3).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_smoothing_is_its_closed_form_and_lags_neither_way(seed, n):
    rng = np.random.default_rng(seed)
    times, values = np.sort(rng.uniform(0, 20, n)), rng.dirichlet(np.ones(7), n)
    weights = np.array([[np.exp(-abs(a - b) / 0.5) for b in times] for a in times])
    expected = weights @ values / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(smooth(times, values), expected, atol=1e-9)
    np.testing.assert_allclose(smooth(-times[::-1], values[::-1])[::-1], expected, atol=1e-9)
    shape = np.concatenate([times, times[-1] + 1e3 + np.arange(2_001) * 1e3])
    long = smooth(shape, np.concatenate([values, np.tile(values[:1], (2_001, 1))]))
    np.testing.assert_allclose(long[:n], expected, atol=1e-6)


def test_overlaps_are_torchvisions():
    import torch
    from torchvision.ops import box_iou

    rng = np.random.default_rng(0)
    one, other = (np.concatenate([corner, corner + rng.uniform(1, 30, (20, 2))], 1) for corner in rng.uniform(0, 40, (2, 20, 2)))
    np.testing.assert_allclose(overlaps(one, other), box_iou(torch.tensor(one), torch.tensor(other)))


def test_a_face_that_is_hidden_for_a_moment_is_the_same_and_after_long_another():
    tracker, box = Tracker(), np.array([[10, 10, 50, 50]])
    seen = [tracker.follow(at, box if shown else np.empty((0, 4))) for at, shown in ((0, 1), (0.2, 1), (0.4, 0), (0.8, 1), (3.0, 1))]
    assert seen == [[0], [0], [], [0], [1]]


# Faults


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(300), b"\x89PNG\r\n\x1a\n" + bytes(300), bytes(5000)])
def test_what_is_no_video(tmp_path, data):
    (tmp_path / "film.mp4").write_bytes(data)
    with pytest.raises(VideoError) as error:
        list(read_frames(tmp_path / "film.mp4"))
    assert str(error.value).startswith("expected a video") and "\n" not in str(error.value)


def test_sound_without_pictures(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="found no pictures in"):
        list(read_frames(tmp_path / "sound.wav"))


def test_a_video_that_breaks_off_is_read_as_far_as_it_goes(tmp_path):
    noise = [Image.effect_noise((160, 120), 60).convert("RGB") for _ in range(60)]
    path = film(tmp_path / "film.ts", noise, codec="mpeg2video")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = len(list(read_frames(path, 0.1)))
    assert 10 < count < 60


def test_frames_too_large_and_no_face(recognizer, tmp_path, monkeypatch):
    path = film(tmp_path / "film.mp4", [Image.new("RGB", (64, 48))] * 3)
    table = read_video(recognizer, path)
    assert len(table) == 0 and {"time_s", "track", "smoothed_label", *CLASSES} <= set(table)
    with pytest.raises(ValueError, match="expected a face in the video"):
        timeline(table)
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    with pytest.raises(VideoError, match="expected frames of at most 1,000 pixels; found 64 x 48"):
        list(read_frames(path))
    with pytest.raises(VideoError, match="more than 0 seconds"):
        list(read_frames(path, 0))


def test_memory_is_flat(tmp_path):
    pictures = [Image.new("RGB", (320, 240), (number % 256, 0, 0)) for number in range(40)]
    path = film(tmp_path / "film.mp4", pictures * 30, rate=25)
    frames = read_frames(path, 0.04)
    for _ in range(50):
        next(frames)
    tracemalloc.start()
    count = sum(1 for _ in frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 1_000 and peak < 20_000_000


def test_the_command(recognizer, tmp_path):
    path = film(tmp_path / "film.mp4", [Image.new("RGB", (64, 48))] * 3)
    command = [sys.executable, "-m", "qcfer.cli", "video", tmp_path / "absent", path, "--to", tmp_path / "x.csv"]
    answer = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert answer.returncode == 1 and "qcfer export DATASET" in answer.stderr and answer.stderr.count("\n") == 1


def test_tables_hold_the_same_in_each_form(recognizer, tmp_path):
    path = film(tmp_path / "film.mp4", [scene(("anger", 20, 20))] * 4)
    table = read_video(recognizer, path, 0.1)
    forms = {".csv": pd.read_csv, ".jsonl": lambda file: pd.read_json(file, lines=True), ".parquet": pd.read_parquet}
    for suffix, read in forms.items():
        video.save_video_table(table, tmp_path / f"x{suffix}")
        np.testing.assert_allclose(read(tmp_path / f"x{suffix}")[list(video.SMOOTHED)], table[list(video.SMOOTHED)], atol=1e-5)
