"""Copies, exact and near: each is found, and counted as by hand."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from official_trees import Tiny, each, expw
from qcfer.data.cartoons import draw_faces
from qcfer.data.copies import content_keys, count_copies, near_copies, nearest_hash, perceptual_hashes
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


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30))
def test_the_nearest_hash_is_the_nearest(some, others):
    index, bits = nearest_hash(np.array(some, np.uint64), np.array(others, np.uint64))
    for place, value in enumerate(some):
        distances = [(value ^ other).bit_count() for other in others]
        assert bits[place] == min(distances) == distances[index[place]]


def test_near_copies_across_splits_are_found_and_exact_ones_are_not_named_again(drawn, tmp_path):
    for name in ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"):
        for split, numbers in (("train", range(6)), ("test", range(6, 10))):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for file in numbers:
                shutil.copy(drawn / name / f"{file:04d}.png", tmp_path / "set" / split / name)
    source = tmp_path / "set/test/fear/0006.png"
    Image.open(source).resize((70, 70)).save(tmp_path / "set/train/fear/smaller.jpg", quality=70)
    shutil.copy(source, tmp_path / "set/train/fear/same.png")
    manifest, root = prepare("folder", tmp_path / "set", tmp_path / "out", deep=True)
    near = near_copies(manifest, root, content_keys("folder", manifest))
    assert ("test/fear/0006.png", "train/fear/smaller.jpg") in set(zip(near["image"], near["like"]))
    assert not near["like"].str.endswith("same.png").any() and (near["bits"] <= 4).all()
    copies = count_copies(manifest["split"].to_numpy(), content_keys("folder", manifest))
    assert copies["train and test"] + copies["val and test"] == 1


def test_hashes_are_imagehashs_own(drawn):
    from imagehash import phash

    images = [Image.open(path).convert("RGB") for path in sorted(drawn.rglob("*.png"))[:5]]
    assert [f"{value:016x}" for value in perceptual_hashes(images)] == [str(phash(image)) for image in images]


def test_boxes_of_one_picture_are_not_copies(tmp_path):
    manifest, _ = prepare("expw", expw(tmp_path / "set", each("20 20 20 20 20 20 20"), Tiny()), tmp_path / "out")
    assert manifest["sha256"].nunique() < len(manifest)
    assert sum(count_copies(manifest["split"].to_numpy(), content_keys("expw", manifest)).values()) == 0
