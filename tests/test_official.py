"""Official sets: small and full-size trees with their names and quirks, counts by hand, codes that cannot be swapped unseen."""

import csv
import io
import itertools
import os
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from official_trees import CLASSES, EXPW, RAFDB, Drawn, Tiny, affectnet_csv, affectnet_npy, each, expw, ferplus, labels, put, rafdb
from qcfer.core import labels as codes_of
from qcfer.data.code_order import contradiction
from qcfer.data.fer2013 import ferplus_winner
from qcfer.data.label_files import DatasetError
from qcfer.data.layouts import ROW, dataset
from qcfer.data.manifest import FaceImages, examine, load_manifest, locate, prepare, survey
from qcfer.data.official import read_npy_number
from qcfer.data.splits import draw_shares

DATASETS = {name: entry.thing for name, entry in dataset.items()}

# Miniature trees. Every class has a count of its own, so that no two can change places unseen.
TREES = {
    "rafdb": lambda root: rafdb(root, each("9 10 8 14 13 12 11"), each("3 4 2 8 7 6 5"), Tiny()),
    "affectnet7": lambda root: affectnet_csv(root, each("10 7 8 14 13 11 9 6 5 4 3"), each("3 3 3 3 3 3 3 2 2 1 1"), Tiny()),
    "affectnet7-npy": lambda root: affectnet_npy(root, each("10 7 8 14 13 11 9 6"), each("3 3 3 3 3 3 3 2"), Tiny()),
    "expw": lambda root: expw(root, each("21 22 20 40 45 24 23"), Tiny()),
    "ferplus": lambda root: ferplus(
        root,
        {
            "Training": {**each("9 5 6 14 13 8 11 3"), "blank": 2},
            "PublicTest": {"anger": 2, "disgust": 1, "fear": 3, "happiness": 7, "neutral": 6, "sadness": 4, "surprise": 5, "NF": 1},
            "PrivateTest": {"anger": 2, "disgust": 1, "fear": 3, "happiness": 7, "neutral": 6, "sadness": 4, "surprise": 5, "unknown": 4},
        },
    ),
}
# anger, disgust, fear, happiness, neutral, sadness, surprise
COUNTS = {
    "rafdb": {"train": [9, 10, 8, 14, 13, 12, 11], "test": [3, 4, 2, 8, 7, 6, 5]},
    "affectnet7": {"training": [10, 7, 8, 14, 13, 11, 9], "validation": [3, 3, 3, 3, 3, 3, 3]},
    "affectnet7-npy": {"training": [10, 7, 8, 14, 13, 11, 9], "validation": [3, 3, 3, 3, 3, 3, 3]},
    "expw": {"": [21, 22, 20, 40, 45, 24, 23]},
    "ferplus": {"Training": [9, 5, 6, 14, 13, 8, 11], "PublicTest": [2, 1, 3, 7, 6, 4, 5], "PrivateTest": [2, 1, 3, 7, 6, 4, 5]},
}


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    return {name: write(folder / name / "set") for name, write in TREES.items()}


def counted(manifest):
    table = pd.crosstab(manifest["usage"], manifest["label"]).reindex(columns=range(7), fill_value=0)
    return {usage: table.loc[usage].tolist() for usage in table.index}


@pytest.mark.parametrize("tree", TREES)
def test_a_miniature_tree_has_every_face(trees, tree, tmp_path):
    name = tree.removesuffix("-npy")
    manifest, root = prepare(name, trees[tree], tmp_path)
    assert counted(manifest) == COUNTS[tree]
    assert (tmp_path / name / "rejected.csv").read_text() == "image,reason\n"
    assert not manifest["duplicate"].any() and set(manifest["split"]) == {"train", "val", "test"}
    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert [image.mode for image in FaceImages(manifest, root)] == ["RGB"] * len(manifest)


@pytest.mark.parametrize("tree, test", [("rafdb", "test"), ("affectnet7", "validation"), ("affectnet7-npy", "validation")])
def test_the_official_test_faces_are_the_test_set(trees, tree, test):
    manifest = load_manifest(tree.removesuffix("-npy"), trees[tree])
    assert set(manifest["usage"][manifest["split"] == "test"]) == {test}
    assert test not in set(manifest["usage"][manifest["split"] != "test"])


def test_ferplus_keeps_both_test_parts_out_of_training(trees, tmp_path):
    manifest = load_manifest("ferplus", trees["ferplus"], out=tmp_path)
    assert pd.crosstab(manifest["usage"], manifest["split"]).loc["Training", "test"] == 0
    assert set(manifest["split"][manifest["usage"] != "Training"]) == {"test"}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("named", ["..", "below"])
def test_the_root_is_found_one_level_off(trees, tree, named, tmp_path):
    root, name = trees[tree], tree.removesuffix("-npy")
    inner = {"rafdb": "EmoLabel", "affectnet7": "Manually_Annotated_Images", "affectnet7-npy": "train_set", "expw": "label", "ferplus": "."}
    found = locate(name, root / (inner[tree] if named == "below" else named), tmp_path)
    assert found == (root if name != "ferplus" else next((tmp_path / "pictures").iterdir()))


VARIANTS = {
    "rafdb original": ("rafdb", lambda root: rafdb(root, each("9 10 8 14 13 12 11"), each("3 4 2 8 7 6 5"), Tiny(), aligned=False)),
    "rafdb spelt right": (
        "rafdb",
        lambda root: rafdb(root, each("9 10 8 14 13 12 11"), each("3 4 2 8 7 6 5"), Tiny(), listing="list_partition_label.txt"),
    ),
    "affectnet lists at the root": (
        "affectnet7",
        lambda root: affectnet_csv(
            root, each("10 7 8 14 13 11 9 6 5 4 3"), each("3 3 3 3 3 3 3 2 2 1 1"), Tiny(), lists=".", headless=False
        ),
    ),
    "affectnet valid_set": (
        "affectnet7-npy",
        lambda root: affectnet_npy(root, each("10 7 8 14 13 11 9 6"), each("3 3 3 3 3 3 3 2"), Tiny(), valid="valid_set"),
    ),
    "expw image": ("expw", lambda root: expw(root, each("21 22 20 40 45 24 23"), Tiny(), images="image")),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_other_spellings(variant, tmp_path):
    tree, write = VARIANTS[variant]
    assert counted(load_manifest(tree.removesuffix("-npy"), write(tmp_path / "set"))) == COUNTS[tree]


def test_windows_line_ends_and_tabs(trees, tmp_path):
    shutil.copytree(trees["rafdb"], tmp_path / "set")
    path = tmp_path / "set/EmoLabel/list_patition_label.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n").replace(b" ", b"\t"))
    assert counted(load_manifest("rafdb", tmp_path / "set")) == COUNTS["rafdb"]


# Codes


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("one, other", itertools.combinations(CLASSES, 2))
def test_two_swapped_classes_change_the_counts(trees, tree, one, other, monkeypatch, tmp_path):
    "The counts above would not hold if any two codes of a set changed places."
    swap = {one: other, other: one}
    if tree == "ferplus":  # its columns have names
        shutil.copytree(trees[tree], tmp_path / "set")
        header, _, rest = (tmp_path / "set/fer2013new.csv").read_text().partition("\n")
        header = ",".join(swap.get(name, name) for name in header.split(","))
        (tmp_path / "set/fer2013new.csv").write_text(f"{header}\n{rest}")
        root = DATASETS["ferplus"].unpack(tmp_path / "set", tmp_path)
    else:
        name, root = tree.removesuffix("-npy"), trees[tree]
        monkeypatch.setitem(codes_of.CODES, name, {code: swap.get(label, label) for code, label in codes_of.CODES[name].items()})
    rows = DATASETS[tree.removesuffix("-npy")].read(root)
    assert counted(rows[rows["label"] >= 0]) != COUNTS[tree]


# Each set's own words for a few rows, by hand
BY_HAND = {
    "rafdb": ("1 2 3 4 5 6 7", "surprise fear disgust happiness sadness anger neutral"),
    "affectnet7": ("0 1 2 3 4 5 6", "neutral happiness sadness surprise fear disgust anger"),
    "expw": ("0 1 2 3 4 5 6", "anger disgust fear happiness sadness surprise neutral"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_code_by_hand(name, tmp_path):
    numbers, words = (text.split() for text in BY_HAND[name])
    if name == "rafdb":
        put(tmp_path / "EmoLabel/list_patition_label.txt", "\n".join(f"train_0000{i}.jpg {i}" for i in numbers).encode())
        put(tmp_path / "Image/aligned/x", b"")
    elif name == "affectnet7":
        lines = "".join(f"1/{i}.jpg,0,0,1,1,,{i},0,0\n" for i in numbers)
        put(tmp_path / "training.csv", lines.encode()), put(tmp_path / "validation.csv", HEADS[1].encode())
        put(tmp_path / "Manually_Annotated_Images/x", b"")
    else:
        put(tmp_path / "label/label.lst", "\n".join(f"{i}.jpg 0 0 0 1 1 9.5 {i}" for i in numbers).encode())
        put(tmp_path / "image/x", b"")
    rows = DATASETS[name].read(tmp_path)
    assert [CLASSES[label] for label in rows["label"]] == words


OFFICIAL = {
    "rafdb": (705, 717, 281, 4772, 2524, 1982, 1290),
    "affectnet7": (24882, 3803, 6378, 134415, 74874, 25459, 14090),
    "expw": (3671, 3995, 1088, 30537, 34883, 10559, 7060),
    "fer2013": (3995, 436, 4097, 7215, 4965, 4830, 3171),
}


def test_the_published_counts_are_the_published_ones():
    assert {name: next(iter(DATASETS[name].official.values())) for name in OFFICIAL} == OFFICIAL
    assert DATASETS["rafdb"].official["test"] == (162, 160, 74, 1185, 680, 478, 329)
    totals = {name: [int(np.sum(counts)) for counts in DATASETS[name].official.values()] for name in DATASETS}
    assert totals["rafdb"] == [12_271, 3_068] and totals["affectnet7"] == [283_901, 3_500] and totals["expw"] == [91_793]
    assert totals["fer2013"] == totals["ferplus"] == [28_709, 3_589, 3_589]


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("one, other", itertools.combinations(range(7), 2))
def test_a_whole_set_with_two_classes_exchanged_is_noticed(name, one, other):
    found = np.array(OFFICIAL[name])
    found[[one, other]] = found[[other, one]]
    assert contradiction(name, found, OFFICIAL[name]) == f"{CLASSES[one]} and {CLASSES[other]} exchanged"
    assert contradiction(name, OFFICIAL[name], OFFICIAL[name]) == ""


ORDERS = {
    "rafdb": "surprise fear disgust happiness sadness anger neutral",
    "affectnet7": "neutral happiness sadness surprise fear disgust anger",
    "expw": "anger disgust fear happiness sadness surprise neutral",
    "fer2013": "anger disgust fear happiness sadness surprise neutral",
}


@pytest.mark.parametrize("declared, true", [(a, b) for a in ORDERS for b in ORDERS if ORDERS[a] != ORDERS[b]])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_another_sets_order_is_named(declared, true, share):
    "The labels of `declared` were written with the codes of `true`."
    rng = np.random.default_rng(0)
    real = np.array(OFFICIAL[declared])
    real = real if share == 1 else rng.multinomial(int(share * real.sum()), real / real.sum())
    written = {name: place for place, name in enumerate(ORDERS[true].split())}
    read = ORDERS[declared].split()
    found = np.zeros(7, int)
    for name, count in zip(CLASSES, real):
        found[CLASSES.index(read[written[name]])] += count
    words = contradiction(declared, found, OFFICIAL[declared])
    assert ORDERS[true].replace(" ", ", ") in words and words.split("'")[0] in (true, "expw", "fer2013")


@given(st.sampled_from(sorted(OFFICIAL)), st.integers(1000, 5000), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_random_part_of_a_set_passes(name, size, seed):
    shares = np.array(OFFICIAL[name]) / sum(OFFICIAL[name])
    assert contradiction(name, np.random.default_rng(seed).multinomial(size, shares), OFFICIAL[name]) == ""


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("most", [300, 500, 1000, 3000])
def test_a_rebalanced_copy_passes(name, most):
    assert contradiction(name, np.minimum(OFFICIAL[name], most), OFFICIAL[name]) == ""


def test_a_label_file_in_another_order_stops_before_any_picture_is_opened(tmp_path):
    order = "surprise fear disgust happiness sadness anger neutral".split()
    wrong = {name: place + 1 for place, name in enumerate("neutral happiness sadness surprise fear disgust anger".split())}
    counts = dict(zip(CLASSES, (70, 72, 28, 477, 252, 198, 129)))
    rafdb(tmp_path, counts, each("3 4 2 8 7 6 5"), Tiny(), codes=wrong)
    words = "expected the class counts of rafdb; found .* which look like affectnet7's order, neutral, .*: check the label file"
    with pytest.raises(DatasetError, match=words):
        load_manifest("rafdb", tmp_path)
    assert list(RAFDB) == order


# Full size


def test_rafdb_at_its_full_size(tmp_path):
    root = rafdb(tmp_path / "set", each("705 717 281 4772 2524 1982 1290"), each("162 160 74 1185 680 478 329"), Tiny())
    manifest, rejected, counts = survey("rafdb", root)
    assert len(manifest) == 15_339 and len(rejected) == 0
    assert (counts["expected"] == counts["found"]).all() and (counts["found"] == counts["usable"]).all()
    assert manifest["split"].value_counts().to_dict() == {"train": 11_045, "test": 3_068, "val": 1_226}


def test_expw_at_its_full_size_gets_the_papers_split(tmp_path, monkeypatch):
    picture = Tiny()
    root = expw(tmp_path / "set", each("3671 3995 1088 30537 34883 10559 7060"), picture)
    manifest, rejected, counts = survey("expw", root)
    assert len(rejected) == 0 and counts["found"].tolist() == [3671, 3995, 1088, 30537, 34883, 10559, 7060]
    assert manifest["split"].value_counts().to_dict() == {"train": 68_845, "test": 13_769, "val": 9_179}
    assert manifest.groupby("image")["split"].nunique().max() == 1
    share = pd.crosstab(manifest["label"], manifest["split"], normalize="index")
    assert np.abs(share[["train", "val", "test"]].to_numpy() - [0.75, 0.10, 0.15]).max() < 0.002


def test_affectnets_lists_at_their_full_size(tmp_path):
    "414,797 rows of which 283,901 count; the pictures are few under many names, for their number is not what is tried here."
    folder = tmp_path / "Manually_Annotated_Images/1"
    folder.mkdir(parents=True)
    for number in range(40):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.jpg")
    names = (f"1/{number}.jpg" for number in itertools.count())
    order = "anger disgust fear happiness neutral sadness surprise".split()
    code = dict(zip(order, (6, 5, 4, 1, 0, 2, 3))) | {"contempt": 7, "none": 8, "uncertain": 9, "no-face": 10}
    counts = dict(zip(order, OFFICIAL["affectnet7"])) | {"contempt": 3750, "none": 33088, "uncertain": 11645, "no-face": 82414}
    for file, of_file in (("training", counts), ("validation", dict.fromkeys(order, 500))):
        named = [(next(names), name) for name in labels(of_file, 0)]
        for place, (picture, _) in enumerate(named):
            os.link(tmp_path / f"{place % 20 + 20 * (file == 'validation')}.jpg", tmp_path / "Manually_Annotated_Images" / picture)
        rows = [f"{picture},1,1,7,7,1.5;2.5,{code[name]},0,0" for picture, name in named]
        put(
            tmp_path / f"{file}.csv",
            (
                "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n" + "\n".join(rows)
            ).encode(),
        )
    counts = survey("affectnet7", tmp_path)[2]
    published = counts[counts["expected"].notna()]
    assert published["expected"].tolist() == published["found"].tolist() == [*OFFICIAL["affectnet7"], *[500] * 7]
    left = counts[counts["class"].str.startswith("left out")].set_index("class")["found"].to_dict()
    assert left == {"left out: contempt": 3750, "left out: none": 33088, "left out: uncertain": 11645, "left out: no-face": 82414}


def test_a_part_of_fer2013_is_told_from_the_whole(tmp_path):
    "28,709 Training and 3,589 PublicTest is the copy that goes round: PrivateTest is missing, and the table says so."
    for folder, usage in (("train", "Training"), ("test", "PublicTest")):
        for number, name in enumerate("angry disgust fear happy neutral sad surprise".split()):
            for copy in range(4):
                (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
                colour = (number, copy, 9 if folder == "test" else 0)
                Image.new("RGB", (4, 4), colour).save(tmp_path / folder / name / f"{usage}_{copy}.png")
    counts = survey("fer2013", tmp_path).counts.set_index(["usage", "class"])
    assert counts.loc[("Training", "disgust")].tolist() == [436, 4, 4]
    assert counts.loc[("PrivateTest", "neutral")].tolist() == [626, 0, 0]
    assert counts.groupby("usage")["expected"].sum().to_dict() == {"Training": 28_709, "PublicTest": 3_589, "PrivateTest": 3_589}


def test_the_table_tells_what_is_left_out_and_what_is_broken(trees, tmp_path):
    shutil.copytree(trees["affectnet7"], tmp_path / "set")
    first = next((tmp_path / "set/Manually_Annotated_Images").rglob("*.jpg"))
    first.unlink()
    manifest, rejected, counts = survey("affectnet7", tmp_path / "set")
    assert rejected["reason"].tolist() == ["missing"] and rejected["image"][0] == str(first.relative_to(tmp_path / "set"))
    assert counts["found"].sum() - counts["usable"].sum() == 1 + (6 + 5 + 4 + 3) + (2 + 2 + 1 + 1)
    assert counts["usable"].sum() == len(manifest) == 72 + 21 - 1


# Boxes, groups, twins


def test_affectnets_box_is_corner_and_size(tmp_path):
    affectnet_csv(tmp_path, each("9 9 9 9 9 9 9"), each("3 3 3 3 3 3 3"), Tiny())
    path = tmp_path / "Manually_Annotated_file_lists/training.csv"
    lines = path.read_text().splitlines()
    boxes = ["2,3,4,5", "-2,-3,5,6", "5,5,100,100", "20,20,4,4", "0,0,0,4", "NULL,NULL,-1,-1", "1.5,1.0,2.0,3.9", "1e9,1,1,1"]
    for number, box in enumerate(boxes, 1):
        fields = lines[number].split(",")
        lines[number] = ",".join([fields[0], box, *fields[5:]])
    path.write_text("\n".join(lines))
    rows = survey("affectnet7", tmp_path)
    names = ["Manually_Annotated_Images/" + line.split(",")[0] for line in lines[1 : len(boxes) + 1]]
    kept = rows.manifest.set_index("image")[["left", "top", "right", "bottom"]]
    assert [kept.loc[name].tolist() for name in names if name in kept.index] == [[2, 3, 6, 8], [0, 0, 3, 3], [5, 5, 8, 8], [1, 1, 3, 4]]
    reasons = dict(zip(rows.rejected["image"], rows.rejected["reason"]))
    no_box = "the label file gives no box of the face"
    assert [reasons.get(name, "") for name in names] == ["", "", "", "the face's box lies outside the picture", no_box, no_box, "", no_box]


def test_expws_box_is_top_left_right_bottom(tmp_path):
    expw(tmp_path, each("9 9 9 9 9 9 9"), Tiny())
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image/origin/box.png")
    with open(tmp_path / "label/label.lst", "a") as file:
        file.write("box.png 0 1 2 7 4 99.0 3\n")
    manifest = load_manifest("expw", tmp_path)
    row = manifest[manifest["image"] == "image/origin/box.png"]
    assert row[["left", "top", "right", "bottom"]].iloc[0].tolist() == [2, 1, 7, 4]
    np.testing.assert_array_equal(np.asarray(FaceImages(row, tmp_path)[0]), noise[1:4, 2:7])


def test_the_faces_of_a_picture_stay_together_and_twice_is_once(tmp_path):
    expw(tmp_path, each("20 20 20 20 20 20 20"), Tiny())
    path = tmp_path / "label/label.lst"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines + lines[:5]))
    shutil.copy(tmp_path / "image/origin" / lines[0].split()[0], tmp_path / "image/origin/copy.jpg")
    with open(path, "a") as file:
        file.write("\ncopy.jpg 0 1 1 7 7 99.0 3\n")
    manifest, rejected, _ = survey("expw", tmp_path)
    assert rejected["reason"].tolist() == ["the same face stands in the list twice"] * 5
    assert len(manifest) == 141 and manifest.groupby("group")["split"].nunique().max() == 1
    assert manifest.groupby("image").size().max() == 3 and manifest["image"].nunique() == manifest["group"].nunique() + 1


many = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 60)), min_size=1, max_size=300)


@given(many, st.integers(0, 3))
@settings(deadline=None)
def test_shares_keep_groups_whole(rows, seed):
    label, group = np.array([label for label, _ in rows]), np.array([f"g{name}" for _, name in rows])
    drawn = draw_shares(label, group, (0.75, 0.10, 0.15), seed)
    assert set(drawn) <= {"train", "val", "test"} and len(drawn) == len(rows)
    assert all(len(set(drawn[group == name])) == 1 for name in set(group))
    np.testing.assert_array_equal(drawn, draw_shares(label, group, (0.75, 0.10, 0.15), seed))


@given(st.lists(st.integers(0, 400), min_size=7, max_size=7).filter(any), st.integers(0, 3))
@settings(deadline=None)
def test_shares_are_exact_where_every_face_has_its_own_picture(counts, seed):
    label = np.repeat(range(7), counts)
    drawn = draw_shares(label, np.arange(len(label)).astype(str), (0.75, 0.10, 0.15), seed)
    assume(all(count == 0 or count >= 20 for count in counts))
    assert (drawn == "train").sum() == len(label) - round(0.10 * len(label)) - round(0.15 * len(label))
    for index, count in enumerate(counts):
        for name, share in (("train", 0.75), ("val", 0.10), ("test", 0.15)):
            assert abs((drawn[label == index] == name).sum() - share * count) < 2


def test_a_copy_of_a_test_picture_is_left_out_of_training(trees, tmp_path):
    shutil.copytree(trees["rafdb"], tmp_path / "set")
    images = tmp_path / "set/Image/aligned"
    shutil.copy(images / "test_0001_aligned.jpg", images / "train_00003_aligned.jpg")
    manifest, _ = prepare("rafdb", tmp_path / "set", tmp_path / "out")
    assert manifest["image"][manifest["duplicate"]].tolist() == ["Image/aligned/train_00003_aligned.jpg"]


def test_a_column_that_is_missing_is_named(trees, tmp_path):
    shutil.copytree(trees["affectnet7"], tmp_path / "set")
    path = tmp_path / "set/Manually_Annotated_file_lists/training.csv"
    path.write_text(path.read_text().replace("face_x", "\0face_x"))
    words = r"expected columns subDirectory_filePath, face_x, .*; found subDirectory_filePath, .x00face_x"
    with pytest.raises(DatasetError, match=words):
        load_manifest("affectnet7", tmp_path / "set")


# FER+


def test_ferplus_against_the_rule_written_another_way():
    rng = np.random.default_rng(0)
    names = "neutral happiness surprise sadness anger disgust fear contempt unknown NF".split()
    for _ in range(2000):
        votes = rng.multinomial(10, rng.dirichlet(np.full(10, 0.3)))
        strong = {name: int(count) for name, count in zip(names, votes) if count >= 2}
        winners = [name for name, count in strong.items() if count > sum(strong.values()) - count]
        assert ferplus_winner(votes.tolist()) == (winners[0] if winners else "unknown")


def test_ferplus_rows_keep_their_pixels(trees, tmp_path):
    manifest, root = prepare("ferplus", trees["ferplus"], tmp_path)
    with open(trees["ferplus"] / "fer2013.csv", newline="") as file:
        pixels = [row["pixels"] for row in csv.DictReader(file)]
    with open(trees["ferplus"] / "fer2013new.csv", newline="") as file:
        votes = list(csv.DictReader(file))
    images = FaceImages(manifest, root)
    for place, row in enumerate(manifest.itertuples()):
        number = int(row.image[-9:-4]) - 2
        assert votes[number][CLASSES[row.label]] == "8" and votes[number]["Usage"] == row.usage
        assert " ".join(map(str, np.asarray(images[place])[..., 0].ravel())) == pixels[number]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: lines[:-1], "expected as many rows in .*fer2013new.csv as in .*fer2013.csv; found more in one of them"),
        (lambda lines: [*lines, lines[-1]], "expected as many rows"),
        (lambda lines: [lines[0], *lines[:0:-1]], "expected the rows of .* in their order; found PrivateTest for Training in line 2"),
        (lambda lines: [lines[0].replace("fear", "afraid"), *lines[1:]], "expected columns Usage, Image name, neutral, .*; found .*afraid"),
        (lambda lines: [lines[0], lines[1].replace(",8", ",many"), *lines[2:]], "expected votes for .* in line 2 of .*; found 'many'"),
    ],
)
def test_votes_that_do_not_fit_the_pixels_stop(trees, tmp_path, change, words):
    shutil.copytree(trees["ferplus"], tmp_path / "set")
    path = tmp_path / "set/fer2013new.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(DatasetError, match=words) as error:
        load_manifest("ferplus", tmp_path / "set", out=tmp_path / "out")
    assert "\n" not in str(error.value)


# Label files that are not what they should be


def edited(trees, tree, tmp_path, line):
    "A copy of a tree whose label file has one more line, as bytes."
    root = tmp_path / "set"
    shutil.copytree(trees[tree], root)
    file = {
        "rafdb": "EmoLabel/list_patition_label.txt",
        "affectnet7": "Manually_Annotated_file_lists/training.csv",
        "expw": "label/label.lst",
    }[tree]
    with open(root / file, "ab") as label_file:
        label_file.write(line + b"\n")
    return root


@pytest.mark.parametrize(
    "tree, line, words",
    [
        ("rafdb", b"train_9.jpg 8", "expected a rafdb code from 1 to 7; found 8 in line 113 of .*list_patition_label.txt"),
        ("rafdb", b"train_9.jpg 0", "found 0 in line 113"),
        ("rafdb", b"train_9.jpg", "expected a name and a code, .* in line 113 of .*; found 1 fields: 'train_9.jpg'"),
        ("rafdb", b"train_9.jpg x", "expected a rafdb code in line 113 of .*; found 'x'"),
        ("rafdb", "train_9.jpg \u0663".encode(), "expected a rafdb code in line 113"),
        ("rafdb", b"train_9.jpg 1_0", "expected a rafdb code in line 113"),
        ("rafdb", b"train_9.jpg " + b"1" * 5000, "expected a rafdb code in line 113 of .*; found '1{40}'"),
        ("rafdb", b"valid_9.jpg 1", "expected a name that starts with train_ or test_ in line 113"),
        ("rafdb", b"x" * 10_000_000, "expected lines of at most 4,000,000 characters in .*; found a longer one, line 113"),
        ("affectnet7", b"1/a.jpg,1,1,2,2,,11,0,0", "expected a affectnet7 code from 0 to 6; found 11 in line 92"),
        ("affectnet7", b"1/a.jpg,1,1,2,2,,,0,0", "expected an affectnet7 code in line 92 of .*training.csv; found ''"),
        ("affectnet7", b"1/a.jpg", "expected an affectnet7 code in line 92 of .*; found 'None'"),
        ("affectnet7", b"1/a.jpg,1,1,2,2," + b"9" * 2_000_000 + b",1,0,0", "expected a CSV in .*; found field larger than field limit"),
        ("affectnet7", b"1,2," * 3_000_000, "expected lines of at most 4,000,000 characters in .*; found a longer one, line 92"),
        ("affectnet7", b'1/a.jpg,1,1,2,2,"', "expected an affectnet7 code|expected a CSV"),
        ("expw", b"a.jpg 0 1 1 7 7 9.5 7", "expected a expw code from 0 to 6; found 7 in line 196"),
        ("expw", b"a.jpg 0 1 1 7 9.5 3", "expected a name and seven numbers in line 196 of .*; found 'a.jpg 0"),
        ("expw", b"a.jpg 0 1 1 7 x 9.5 3", "expected a side of the face's box in line 196 of .*; found 'x'"),
        ("expw", b"a.jpg 0 1 1 7 99999999999 9.5 3", "expected a side of the face's box in line 196"),
        ("expw", b"\0", "expected a name and seven numbers"),
    ],
)
def test_a_line_that_is_not_the_sets_stops_with_its_place(trees, tree, line, words, tmp_path):
    with pytest.raises(DatasetError, match=words) as error:
        load_manifest(tree, edited(trees, tree, tmp_path, line))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    str(error.value).encode()


NAMES = {
    b"../../secret.jpg": "the path leaves the root",
    b"a\0b.jpg": "the path leaves the root",
    b"caf\xe9.jpg": "the name is not UTF-8",
    b"=HYPERLINK(1).jpg": "missing",
    b"<script>alert(1)</script>.jpg": "the path leaves the root|missing",
    b"x" * 300 + b".jpg": "cannot be read: File name too long",
    "\u202egpj.exe.jpg".encode(): "missing",
    b"out.jpg": "the link leaves the root",
}


@pytest.mark.parametrize("tree", ["rafdb", "affectnet7", "expw"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_picture_below_the_root_is_rejected(trees, tree, name, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    name, reason = (b"train_" + name if tree == "rafdb" else name), NAMES[name]
    if tree == "rafdb" and b".." in name:
        name = b"train_/../../../../secret.jpg"
    line = {"rafdb": name + b" 1", "affectnet7": name + b",1,1,5,5,,1,0,0", "expw": name + b" 0 1 1 7 7 9.5 3"}[tree]
    root = edited(trees, tree, tmp_path, line)
    folder = {"rafdb": "Image/aligned", "affectnet7": "Manually_Annotated_Images", "expw": "image/origin"}[tree]
    (root / folder / ("train_out_aligned.jpg" if tree == "rafdb" else "out.jpg")).symlink_to(tmp_path / "secret.jpg")
    manifest, _ = prepare(tree, root, tmp_path / "out")
    assert counted(manifest) == COUNTS[tree]
    with open(tmp_path / "out" / tree / "rejected.csv", newline="", encoding="utf-8") as file:
        (only,) = csv.DictReader(file)
    assert only["reason"] in reason.split("|") and only["image"].startswith(folder)


def npy(value, **options):
    file = io.BytesIO()
    np.save(file, value, **options)
    return file.getvalue()


def test_npy_files_are_read_as_numpy_reads_them():
    odd = np.array("5", ">U3"), np.array(6, ">i4"), np.array("7", "<U9"), np.float16(2)
    for value in (0, 7, -3, 3.0, "5", b"6", np.int8(4), np.uint16(300), np.float32(2), np.bool_(True), *odd):
        for array in (np.array(value), np.array([value])):
            for version in ((1, 0), (2, 0), (3, 0)):
                file = io.BytesIO()
                np.lib.format.write_array(file, array, version=version)
                expected = int(np.load(io.BytesIO(file.getvalue()), allow_pickle=False).item())
                assert read_npy_number(file.getvalue()) == expected


BAD_NPY = {
    "a pickle": npy(np.array({"code": 3}), allow_pickle=True),
    "terabytes": npy(np.int64(3)).replace(b"'shape': ()", b"'shape': (1000000000000,)"),
    "two": npy(np.array([1, 2])),
    "none": npy(np.array([])),
    "a fraction": npy(np.array(2.5)),
    "not a number": npy(np.array(np.nan)),
    "a word": npy(np.array("happy")),
    "empty": b"",
    "cut": npy(np.array(3))[:-1],
    "more": npy(np.array(3)) + b"x",
    "a program": npy(np.array(3)).replace(b"'shape': ()", b"'shape': __import__('os').abort()"),
    "a zip": b"PK\3\4" + bytes(100),
    "a type that is none": npy(np.array(3)).replace(b"<i8", b"<i80").replace(b" \n", b"\n", 1),
    "text beyond Unicode": npy(np.array("3")).replace(b"3\0\0\0", b"\xff\xff\xff\x7f"),
    "complex": npy(np.array(3j)),
    "infinite": npy(np.array(np.inf)),
}


@pytest.mark.parametrize("kind", BAD_NPY)
def test_an_npy_file_that_is_no_number_rejects_its_row(trees, kind, tmp_path):
    with pytest.raises(ValueError):
        read_npy_number(BAD_NPY[kind])
    shutil.copytree(trees["affectnet7-npy"], tmp_path / "set")
    happy = [name for name in range(72) if np.load(tmp_path / f"set/train_set/annotations/{name}_exp.npy").item() in (1, "1")]
    put(tmp_path / f"set/train_set/annotations/{happy[0]}_exp.npy", BAD_NPY[kind])
    os.unlink(tmp_path / f"set/train_set/annotations/{happy[1]}_exp.npy")
    os.unlink(tmp_path / f"set/train_set/images/{happy[2]}.jpg")
    manifest, rejected = examine("affectnet7", tmp_path / "set")
    assert counted(manifest)["training"] == [10, 7, 8, 11, 13, 11, 9]
    expected = ["its label file holds no number", "its label file is missing", "missing"]
    assert dict(zip(rejected["image"], rejected["reason"])) == {
        f"train_set/images/{number}.jpg": reason for number, reason in zip(happy, expected)
    }


# Fuzzing, in short: the long run stands in the notebook


PIECES = st.one_of(
    st.sampled_from(
        ["train_00001.jpg", "test_0001.jpg", "a.jpg", "1/a.jpg", "../x", "/etc/passwd", "=1+1", "NULL", "-1", "7", "0", "3", '"', "\0"]
    ),
    st.text(max_size=8),
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
)
LINES = st.lists(st.tuples(st.lists(PIECES, max_size=12), st.sampled_from([" ", ",", "\t", ", "])), max_size=6)
HEADS = ["", "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"]


def fuzzed(lines, head="", noise=b""):
    return (head + "\n".join(end.join(pieces) for pieces, end in lines)).encode("utf-8", "surrogatepass") + noise


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    "An empty tree of each set and the label file to fill."
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("rafdb/Image/aligned", "rafdb/EmoLabel", "affectnet7/Manually_Annotated_Images", "expw/image", "expw/label"):
        (folder / name).mkdir(parents=True)
    put(folder / "affectnet7/validation.csv", HEADS[1].encode())
    files = {"rafdb": "EmoLabel/list_patition_label.txt", "affectnet7": "training.csv", "expw": "label/label.lst"}
    return {name: (folder / name, folder / name / file) for name, file in files.items()}


@given(st.sampled_from(["rafdb", "affectnet7", "expw"]), LINES, st.sampled_from(HEADS), st.binary(max_size=20))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_label_file_is_read_or_refused(places, name, lines, head, noise):
    read_or_refused(places, name, fuzzed(lines, head, noise))


def read_or_refused(places, name, data):
    "Whether the rows were read; nothing but `DatasetError` may be raised, and rows are well formed."
    root, path = places[name]
    path.write_bytes(data)
    try:
        rows = DATASETS[name].read(root)
    except DatasetError as error:
        assert "\n" not in str(error)
        str(error).encode()
        return False
    assert list(rows)[:5] == list(ROW) and rows["label"].between(-1, 6).all()
    assert not (rows["reason"] == "").any()  # there is no picture at all, so every row needs a reason
    rows["image"].map(str.encode)
    return True


@given(
    st.lists(st.tuples(st.sampled_from(["train", "test"]), st.integers(0, 99999), st.sampled_from(sorted(RAFDB))), max_size=20),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_valid_rafdb_list_equals_a_reference_parse(places, faces, end):
    root, path = places["rafdb"]
    path.write_bytes(end.join(f"{split}_{number:05d}.jpg {RAFDB[name]}" for split, number, name in faces).encode())
    rows = DATASETS["rafdb"].read(root)
    assert [(usage, CLASSES[label]) for usage, label in zip(rows["usage"], rows["label"])] == [(split, name) for split, _, name in faces]
    assert rows["image"].tolist() == [f"Image/aligned/{split}_{number:05d}_aligned.jpg" for split, number, _ in faces]


WORDS = st.text(st.characters(codec="utf-8", exclude_characters='\r\n\0"', exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(WORDS, st.tuples(*[st.integers(0, 99)] * 4), st.sampled_from(sorted(EXPW))), max_size=20))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_valid_expw_list_equals_a_reference_parse(places, faces):
    faces = [(name, box, label) for name, box, label in faces if not any(c.isspace() or c in "\x1c\x1d\x1e\x1f\x85" for c in name)]
    root, path = places["expw"]
    path.write_bytes("\n".join(f"{name} 0 {' '.join(map(str, box))} 9.5 {EXPW[label]}" for name, box, label in faces).encode())
    rows = DATASETS["expw"].read(root)
    assert [CLASSES[label] for label in rows["label"]] == [label for _, _, label in faces]
    assert rows["image"].str.removeprefix("image/").tolist() == [name for name, _, _ in faces]
    assert rows[["top", "left", "right", "bottom"]].to_numpy().tolist() == [list(box) for _, box, _ in faces]


@given(st.lists(st.tuples(WORDS, st.integers(0, 10)), max_size=20))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_valid_affectnet_csv_equals_pandas_reading(places, faces):
    root, path = places["affectnet7"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADS[1].strip().split(","))
        writer.writerows([name, 1, 1, 2, 2, "1;2", code, 0, 0] for name, code in faces)
    reference = pd.read_csv(path, keep_default_na=False, dtype=str, encoding="utf-8", skipinitialspace=True, engine="python")
    rows = DATASETS["affectnet7"].read(root)
    assert rows["image"].str.removeprefix("Manually_Annotated_Images/").tolist() == reference["subDirectory_filePath"].tolist()
    names = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"]
    expected = [CLASSES.index(names[int(code)]) if int(code) < 7 else -1 for code in reference["expression"]]
    assert rows["label"].tolist() == expected


# A run on each miniature tree, with the set's own parameter file


SIZES = {name: {"train": 83, "val": 9, "test": 28} for name in ("rafdb", "affectnet7", "ferplus")}
SIZES["expw"] = {"train": 69, "val": 10, "test": 13}
VOTERS = {"rafdb": {"LR": 5, "SVM": 1}, "affectnet7": {"LR": 1}, "expw": {"RF": 2, "LR": 3}}  # paper, section 4.2


@pytest.mark.parametrize("tree", ["rafdb", "affectnet7", "expw", "ferplus"])
def test_a_report_runs_on_drawn_faces(tree, tmp_path):
    from qcfer.run.config import make_config
    from qcfer.run.pipeline import make_run

    counts = each("12 12 12 16 16 12 12")
    write = {
        "rafdb": lambda root: rafdb(root, counts, each("4 4 4 4 4 4 4"), Drawn()),
        "affectnet7": lambda root: affectnet_csv(root, counts, each("4 4 4 4 4 4 4"), Drawn()),
        "expw": lambda root: expw(root, counts, Drawn()),
        "ferplus": lambda root: ferplus(root, {"Training": counts, "PublicTest": each("4 4 4 4 4 4 4")}),
    }[tree]
    settings = {"preset": "paper", "conditions": [], "pose": "none", "embedder": "effnet_lite0", "ladders": ["modules"]}
    config = make_config(tree, root=write(tmp_path / "set"), **settings)
    record = make_run(config, tmp_path / "out").record
    assert {split: sum(record["counts"][split].values()) for split in ("train", "val", "test")} == SIZES[tree]
    voters = Counter(row["name"].split()[0] for row in record["esv"]["candidates"] if row["selected"])
    assert tree == "ferplus" or voters == VOTERS[tree]
