"""Copies, exact and near: each is found, and counted as by hand."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from official_trees import Tiny, each, expw
from qcfer.core.labels import CLASSES
from qcfer.data.cartoons import draw_faces
from qcfer.data.copies import PRINTS, Fingerprint, content_keys, count_copies, leaks, near_copies, nearest
from qcfer.data.manifest import prepare

@pytest.fixture
def drawn(tmp_path):
    draw_faces(tmp_path / "faces", per_class=10)
    return tmp_path / "faces"


splits_and_keys = st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.integers(0, 9)), max_size=60)


@given(splits_and_keys)
def test_copies_are_counted_as_by_hand(rows):
    split, keys = np.array([split for split, _ in rows], dtype=object), np.array([f"k{key}" for _, key in rows], dtype=object)
    found = count_copies(split, keys)
    of = {name: [key for mine, key in zip(split, keys) if mine == name] for name in ("train", "val", "test")}
    for name, mine in of.items():
        assert found[name] == sum(mine.index(key) != place for place, key in enumerate(mine))
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        assert found[f"{one} and {other}"] == sum(key in of[other] for key in of[one])


def coarse(path, rng, side=96):
    "Noise of few frequencies, as different from other such noise as photographs of faces are and more."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def noise(tmp_path):
    rng = np.random.default_rng(0)
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        for label in CLASSES:
            for number in numbers:
                coarse(tmp_path / "set" / split / label / f"{number:04d}.png", rng)
    return tmp_path / "set"


def test_a_fingerprint_is_the_low_frequencies_of_a_small_grey_picture():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8))
    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    places = np.arange(32)
    basis = np.array([np.cos(np.pi * (places + 0.5) * k / 32) * np.sqrt((1 if k == 0 else 2) / 32) for k in range(8)])
    expected = (basis @ small @ basis.T).ravel()[1:]
    model = Fingerprint()
    [found] = model.forward(model.preprocess(image)[None])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_the_nearest_is_the_most_alike(some, others, seed):
    rng = np.random.default_rng(seed)
    prints, more = rng.normal(size=(some, 5)), rng.normal(size=(others, 5))
    index, alike = nearest(prints, more)
    products = prints @ more.T
    np.testing.assert_allclose(alike, products.max(1), rtol=1e-6)
    assert (products[np.arange(some), index] >= products.max(1) - 1e-9).all()


@pytest.mark.parametrize("change", ["smaller", "darker", "closer"])
def test_a_near_copy_of_a_test_picture_is_left_out_and_an_exact_one_is_not_named_again(noise, tmp_path, change):
    image = Image.open(noise / "test/fear/0006.png")
    changed = {"smaller": image.resize((70, 70)), "darker": image.point(lambda value: value // 2), "closer": image.crop((2, 2, 94, 94))}
    changed[change].save(noise / "train/fear/changed.jpg", quality=70)
    shutil.copy(noise / "test/fear/0006.png", noise / "train/fear/same.png")
    manifest, root = prepare("folder", noise, tmp_path / "out", deep=True)
    near = near_copies("folder", manifest, root, tmp_path / "out" / PRINTS)
    assert list(zip(near["image"], near["like"], near["other"])) == [("train/fear/changed.jpg", "test/fear/0006.png", "test")]
    assert manifest["image"][leaks(manifest, near)].tolist() == ["train/fear/changed.jpg"]
    assert sorted(manifest["image"][manifest["duplicate"]]) == ["train/fear/changed.jpg", "train/fear/same.png"]
    copies = count_copies(manifest["split"].to_numpy(), content_keys("folder", manifest))
    assert copies["train and test"] + copies["val and test"] == 1


def test_fingerprints_are_taken_once(noise, tmp_path):
    manifest, root = prepare("folder", noise, tmp_path / "out", deep=True)
    shutil.rmtree(noise)
    assert len(near_copies("folder", manifest, root, tmp_path / "out" / PRINTS)) == 0


def test_faces_that_are_all_alike_are_no_copies_of_each_other(drawn, tmp_path):
    manifest, root = prepare("folder", drawn, tmp_path / "out", deep=True)
    assert len(near_copies("folder", manifest, root)) == 0 and not manifest["duplicate"].any()


def test_two_people_who_look_alike_are_no_copies(noise, tmp_path):
    Image.open(noise / "test/fear/0006.png").resize((70, 70)).save(noise / "train/fear/twin.jpg")
    rows = [f"{path.relative_to(noise).as_posix()},{path.parent.name},{path.stem}" for path in sorted(noise.rglob("*.*g"))]
    people = tmp_path / "people"
    shutil.copytree(noise, people)
    (people / "faces.csv").write_text("\n".join(["image,label,subject", *rows]))
    manifest, root = prepare("folder", people, tmp_path / "out", deep=True)
    assert "subject" in manifest and len(near_copies("folder", manifest, root)) == 0


def test_boxes_of_one_picture_are_not_copies(tmp_path):
    manifest, _ = prepare("expw", expw(tmp_path / "set", each("20 20 20 20 20 20 20"), Tiny()), tmp_path / "out")
    assert manifest["sha256"].nunique() < len(manifest)
    assert sum(count_copies(manifest["split"].to_numpy(), content_keys("expw", manifest)).values()) == 0
