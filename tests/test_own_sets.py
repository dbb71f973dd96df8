"""Sets as people have them: what classes are called, tables, patterns, class folders from Kaggle, lists with quirks, two laboratories."""

import io
import json
import shutil
import warnings
from itertools import count, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from official_trees import RAFDB, Tiny, each, put, rafdb
from qcfer.core.labels import CODES
from qcfer.data.cartoons import draw_face
from qcfer.data.class_names import plain, read_classes
from qcfer.data.copies import content_keys
from qcfer.data.label_files import Below, DatasetError
from qcfer.data.laboratory import kdef_name, rafd_name
from qcfer.data.layouts import ROW
from qcfer.data.manifest import FaceImages, examine, load_manifest, locate, manifest_sha256, prepare, survey
from qcfer.data.own import name_pattern, read_own

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
NUMBERS_OF_PICTURES = count()


def tiny(label):
    "The bytes of a picture whose pixels no other has."
    number, file = next(NUMBERS_OF_PICTURES), io.BytesIO()
    picture = Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, number // 65536))
    picture.putpixel((0, 0), (255, 0, 255))
    picture.save(file, "PNG")
    return file.getvalue()


def fill(folder, count=6):
    for number in range(count):
        put(folder / f"{number}.jpg", tiny(None))
    return folder


def reasons(table):
    return dict(zip(table["image"], table["reason"]))


def refused(words, *args, **told):
    "The one line that a set is refused with."
    with pytest.raises(DatasetError, match=words) as error:
        load_manifest(*args, **told)
    line = str(error.value)
    assert "\n" not in line and len(line) < 600
    line.encode()
    return line


# What classes are called


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("a.txt", "0 anger\n1 disgust\n", {"0": "anger", "1": "disgust"}),
        ("a.txt", "Anger 0\nDISGUST,1.0\n", {"0": "anger", "1": "disgust"}),
        ("a.csv", "\ufeffname,id\nanger,00\ndisgust,1\n", {"0": "anger", "1": "disgust"}),
        ("a.csv", 'class;number\n"anger";0\n', {"0": "anger"}),
        ("a.txt", "happyness happiness\nbored: neutral\n", {"happyness": "happiness", "bored": "neutral"}),
        ("a.json", '{"0": "Anger", "1": "disgust"}', {"0": "anger", "1": "disgust"}),
        ("a.json", '{"anger": 0, "contempt": 7}', {"0": "anger", "7": "contempt"}),
    ],
)
def test_a_file_says_what_numbers_mean(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_classes(tmp_path / name) == expected


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.txt", "anger\ndisgust\n", "expected a number and a class, such as '3 happiness', in line 1 of .*; found 'anger': an order"),
        ("a.txt", "0 anger\n1\n", "in line 2 of .*; found '1'"),
        ("a.txt", "0 anger 3\n", "in line 1"),
        ("a.txt", "0 anger\n0 fear\n", "expected one class for '0' in line 2 of .*; found anger and fear"),
        ("a.json", '{"1": "a\\nb", "joy": "1"}', r"expected one class for '1' in [^\n]*; found 'a\\nb' and joy$"),
        ("a.txt", "0 anger\n1 2\n", "in line 2 of .*; found '1 2'"),
        ("a.json", '["anger", "disgust"]', 'expected a table such as {"3": "happiness"} in .*; found list: an order'),
        ("a.json", '{"0": ["anger"]}', "found dict"),
        ("a.json", "{", "expected JSON in .*; found Expecting"),
        ("a.json", "[" * 100_000, "expected JSON in"),
        ("a.txt", "x" * 2_000_000, "found a longer one"),
    ],
)
def test_a_file_that_does_not_say_it_is_sent_back(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=words) as error:
        read_classes(tmp_path / name)
    assert "\n" not in str(error.value)


@given(st.binary(max_size=60), st.sampled_from(["a.txt", "a.json"]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_of_classes_is_read_or_refused(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    try:
        names = read_classes(tmp_path / name)
    except DatasetError as error:
        assert "\n" not in str(error)
        str(error).encode()
    else:
        assert all(key == plain(key) for key in names)


FORMS = st.sampled_from(["{0} {1}", "{1},{0}", "{0}: {1}", "{0}.0={1}"])


@given(st.dictionaries(st.integers(0, 99), st.sampled_from(CLASSES), min_size=1), FORMS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_what_is_read(tmp_path, table, form):
    (tmp_path / "c.txt").write_text("\n".join(form.format(number, name) for number, name in table.items()))
    assert read_classes(tmp_path / "c.txt") == {str(number): name for number, name in table.items()}


NUMBERS = {"rafdb": range(1, 8), "affectnet7": range(7), "expw": range(7), "fer2013": range(7)}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbered_folders_ask_whose_numbers_they_are_and_then_are_read(tmp_path, name):
    for number in NUMBERS[name]:
        fill(tmp_path / "set" / str(number), 3 + number)
    words = "expected to be told what the number [01] in the folder .* means; found nothing that says it"
    line = refused(words, "folder", tmp_path / "set")
    assert "--classes" in line and "classes.txt" in line
    manifest = load_manifest("folder", tmp_path / "set", classes=[name])
    folder = manifest["image"].str.partition("/")[0].astype(int)
    assert [CLASSES[label] for label in manifest["label"]] == [CODES[name][number] for number in folder]
    (tmp_path / "set" / "classes.json").write_text(json.dumps({str(code): word for code, word in CODES[name].items()}))
    pd.testing.assert_frame_equal(load_manifest("folder", tmp_path / "set"), manifest)
    assert prepare("folder", tmp_path / "set", tmp_path / "out")[0].attrs["told"].endswith("classes.json")


def test_names_are_changed_and_left_out(tmp_path):
    for name in ("Happyness", "sad", "fear", "contempt", "None of these"):
        fill(tmp_path / "set" / name)
    words = "expected one of anger, .* in the folder .*; found 'happyness': rename it .--classes happyness=CLASS. or leave it out"
    refused(words, "folder", tmp_path / "set")
    told = {"classes": ["happyness=happiness"], "ignore": ["contempt", "none of these"]}
    _, rejected, counts = survey("folder", tmp_path / "set", told=told)
    assert rejected.empty and counts.set_index("class")["found"].loc[["happiness", "left out: contempt"]].tolist() == [6, 6]
    assert load_manifest("folder", tmp_path / "set", **told)["label"].value_counts().to_dict() == {2: 6, 3: 6, 5: 6}
    refused("found no.*typo|expected NAME=CLASS, a set out of .*; found 'typo'", "folder", tmp_path / "set", classes=["typo"])


def test_a_set_takes_what_it_can_be_told(tmp_path):
    refused("expected posebench without such settings; found --names: a set of one's own is folder", "posebench", tmp_path, names="{yaw}")
    refused("expected rafdb of --classes, --ignore, --follow-links alone; found --names", "rafdb", tmp_path, names="{yaw}")


# A table beside the pictures


def write_faces(root, rows, name="faces.csv"):
    pd.DataFrame(rows).to_csv(root / name, index=False)
    return root


def laboratory(root, subjects=10, yaws=(-45, 0, 45)):
    "A table with who, what and from where; every picture has its own bytes."
    rows = []
    for subject, label, yaw in product(range(subjects), ("Happy", "sad"), yaws):
        image = f"s{subject}/{label}_{yaw}.jpg"
        put(root / image, tiny(None))
        rows.append({"image": image, "label": label, "subject": f"s{subject}", "yaw": yaw, "frontal": f"s{subject}/{label}_0.jpg"})
    return rows


def test_a_table_makes_a_set_that_can_be_measured(tmp_path):
    rows = laboratory(tmp_path / "set")
    manifest, root = prepare("folder", write_faces(tmp_path / "set", rows), tmp_path / "out")
    assert len(manifest) == 60 and list(manifest["group"]) == list(manifest["subject"])
    assert manifest.groupby("subject")["split"].nunique().max() == 1
    assert manifest.groupby("split")["subject"].nunique().to_dict() == {"train": 6, "val": 1, "test": 3}
    hashes = manifest.set_index("image")["sha256"]
    assert manifest["frontal_sha256"].tolist() == hashes[manifest["frontal"]].tolist()
    views = FaceImages(manifest.assign(image=manifest["frontal"], sha256=manifest["frontal_sha256"]), root)
    assert len(views) == 60 and len(set(views.keys)) == 20
    assert len(set(content_keys("folder", manifest))) == 60  # a person is a group, and no copy of himself
    assert manifest_sha256(manifest) != manifest_sha256(manifest.assign(yaw=-manifest["yaw"]))
    again = pd.read_parquet(tmp_path / "out/folder/manifest.parquet")
    assert manifest_sha256(again) == manifest_sha256(manifest)


def test_splits_of_a_table_are_kept_and_a_person_on_both_sides_is_marked(tmp_path):
    rows = [row | {"split": "Training" if row["subject"] < "s6" else "test"} for row in laboratory(tmp_path)]
    rows[0]["split"] = "test"
    manifest, _ = examine("folder", write_faces(tmp_path, rows))
    assert (manifest["split"] == "test").sum() == 25
    assert set(manifest["subject"][manifest["duplicate"]]) == {"s0"} and manifest["duplicate"].sum() == 5


def test_what_is_odd_in_a_table_is_named(tmp_path):
    rows = laboratory(tmp_path)
    put(tmp_path / "more.jpg", tiny(None)), put(tmp_path / "broken.jpg", b"no"), put(tmp_path / "notes.txt", b"")
    Image.new("RGB", (40, 40)).save(tmp_path / "black.jpg")
    own = {"label": "sad", "subject": "s0", "yaw": 45, "frontal": "s0/sad_0.jpg"}
    odd = {
        "s0/none.jpg": ({}, "missing"),
        "../secret.jpg": ({}, "the path leaves the root"),
        "notes.txt": ({}, "the name does not end like a picture's"),
        "black.jpg": ({}, "the picture is of one colour"),
        "s1/Happy_45.jpg": ({"label": "sad"}, "listed under several labels: happiness, sadness"),
    }
    rows += [own | {"image": image} | change for image, (change, _) in odd.items()]
    rows[2]["frontal"], rows[5]["frontal"], rows[14]["frontal"] = "", "s9/no.jpg", "broken.jpg"
    rows.append(dict(rows[20]))
    manifest, rejected, counts = survey("folder", write_faces(tmp_path, rows))
    found = reasons(rejected)
    assert {image: found[image] for image in odd} == {image: reason for image, (_, reason) in odd.items()}
    assert found[rows[2]["image"]] == "its frontal view: missing" == found[rows[5]["image"]]
    assert found[rows[14]["image"]].startswith("its frontal view: not a picture")
    assert found[rows[20]["image"]] == "the same face stands in the list twice" and rows[20]["image"] in set(manifest["image"])
    assert counts.set_index("class").loc["not in the list", "found"] == 1 == manifest.attrs["unlisted"]
    assert len(rejected) == len(odd) + 5 and len(manifest) == 56


def test_names_in_another_case_and_with_backslashes_are_found(tmp_path):
    rows = laboratory(tmp_path)
    rows[1]["image"], rows[3]["image"] = rows[1]["image"].replace("/", "\\"), rows[3]["image"].replace("jpg", "JPG")
    manifest, rejected = examine("folder", write_faces(tmp_path, rows))
    assert rejected.empty and set(manifest["image"]) == {row["image"] for row in laboratory(tmp_path)}


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("yaw", "left", "expected degrees from -180 to 180 as yaw in line 3 of .*faces.csv; found 'left'"),
        ("yaw", 400, "found '400'"),
        ("yaw", "", "expected degrees from -180 to 180 as yaw in line 3 of .*; found ''"),
        ("subject", "", "expected a subject in every row or no column subject; found none in line 3"),
        ("label", "contempt", "in the column label, line 3 of .*; found 'contempt': rename it .* or leave it out"),
        ("label", 3, "expected to be told what the number 3 in the column label, line 3 of .* means"),
        ("label", "", "expected a label in every row"),
        ("image", "", "expected a image in every row"),
    ],
)
def test_a_cell_that_cannot_be_read_stops_with_its_place(tmp_path, column, value, words):
    rows = laboratory(tmp_path)
    rows[1][column] = value
    refused(words, "folder", write_faces(tmp_path, rows))


@pytest.mark.parametrize(
    "names, words",
    [
        ({"yaw": "Yaw"}, "found Yaw: did you mean yaw?"),
        ({"subject": "subjects"}, "found subjects: did you mean subject?"),
        ({"image": "file"}, "expected columns image, label in .*faces.csv; found file, label"),
    ],
)
def test_a_column_that_is_nearly_known_is_asked_about(tmp_path, names, words):
    rows = [{names.get(key, key): value for key, value in row.items()} for row in laboratory(tmp_path)]
    refused(words, "folder", write_faces(tmp_path, rows))


def test_columns_of_ones_own_are_no_matter(tmp_path):
    rows = [row | {"age": 30, "camera": "c27"} for row in laboratory(tmp_path)]
    assert "age" not in load_manifest("folder", write_faces(tmp_path, rows))


def test_one_picture_of_two_people_is_left_out(tmp_path):
    rows = laboratory(tmp_path)
    shutil.copy(tmp_path / rows[1]["image"], tmp_path / rows[7]["image"])
    _, rejected = examine("folder", write_faces(tmp_path, rows))
    reason = "the same picture stands under several subjects: s0, s1"
    assert reasons(rejected) == dict.fromkeys([rows[1]["image"], rows[7]["image"]], reason)


CELLS = st.one_of(st.text(max_size=6), st.sampled_from(["a.png", "happy", "45", "-1e9", "../x", "=1", '"', "\0", "nan", ""]))


HEADS = st.lists(st.sampled_from(["image", "label", "subject", "yaw", "frontal", "split", "x"]), max_size=7)


@example(["image", "label"], [["a.png", ",\n,"]])  # its line break stood in the answer
@given(HEADS, st.lists(st.lists(CELLS, max_size=7), max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_or_refused(tmp_path, columns, lines):
    text = "\n".join(",".join(line) for line in [columns, *lines])
    (tmp_path / "faces.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        rows = read_own(tmp_path)
    except DatasetError as error:
        assert "\n" not in str(error)
        str(error).encode()
        return
    assert set(ROW) <= set(rows) and rows["label"].between(-1, 6).all() and not (rows["reason"] == "").any()
    rows["image"].map(str.encode)


# Names that tell


def test_names_tell_who_what_and_from_where(tmp_path):
    for subject, label, yaw, lamp in product("abcdefghij", ("Happy", "sad"), (-60, 0, 30), ("l1", "l2")):
        put(tmp_path / "set" / f"p_{subject}" / f"{subject}-{label}_{yaw:+d}_{lamp}.jpg", tiny(None))
    (tmp_path / "set/p_a/a-Happy_+0_l2.jpg").unlink()
    manifest, rejected = examine("folder", tmp_path / "set", told={"names": "{place}/{subject}-{label}_{yaw}_{lamp}"})
    assert reasons(rejected) == {f"p_a/a-Happy_{yaw}_l2.jpg": "its frontal view: missing" for yaw in ("+30", "-60")}
    assert len(manifest) == 117 and manifest["frontal"].eq(manifest["image"]).equals(manifest["yaw"] == 0)
    for face in manifest.itertuples():
        word = "sad" if face.label == 5 else "Happy"
        assert face.frontal == f"p_{face.subject}/{face.subject}-{word}_+0_{face.lamp}.jpg"
    assert manifest.groupby("subject")["split"].nunique().max() == 1
    told = {"names": "{subject}-{label:2}{rest}_{yaw}_{lamp}", "classes": ["ha=happiness", "sa=sadness"]}
    again = load_manifest("folder", tmp_path / "set", **told)
    assert again["frontal"].tolist() == manifest["frontal"].tolist()


def test_class_folders_may_say_the_label_and_names_the_rest(tmp_path):
    for subject, label, yaw in product(range(10), ("happy", "sad"), (0, 45)):
        put(tmp_path / label / f"{subject}_{yaw}.jpg", tiny(None))
    put(tmp_path / "sad" / "readme.jpg", tiny(None))
    manifest, rejected = examine("folder", tmp_path, told={"names": "{subject}_{yaw}"})
    assert reasons(rejected) == {"sad/readme.jpg": "the name does not fit the pattern"}
    assert manifest.loc[manifest["yaw"] == 45, "frontal"].str.contains("_0.jpg").all()
    assert manifest["label"].value_counts().to_dict() == {3: 20, 5: 20}


def test_a_pattern_that_fits_nothing_names_what_was_found(tmp_path):
    put(tmp_path / "happy" / "s1_45.jpg", tiny(None))
    refused(r"expected file names such as '\{subject\}-\{yaw\}' in .*; found happy/s1_45.jpg", "folder", tmp_path, names="{subject}-{yaw}")


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=300, deadline=500)
def test_any_pattern_is_compiled_or_refused(pattern, name):
    try:
        name_pattern(pattern).fullmatch(name)
    except DatasetError as error:
        str(error).encode("utf-8", "replace")


def test_a_pattern_takes_no_time_on_a_long_name():
    pattern = name_pattern("{a}_{b}_{c}_{d}_{e}_{f}")
    assert pattern.fullmatch("x" * 100_000 + "_" * 100_000) is None


# Class folders of published sets, as they are handed round


@pytest.mark.parametrize("test", ["test", "valid", "val", "Validation"])
@pytest.mark.parametrize("lists", ["none", "beside", "above"])
def test_rafdb_as_class_folders(tmp_path, test, lists):
    root = tmp_path / "archive" / "DATASET"
    sizes = {"train": each("9 10 8 14 13 12 11"), test: each("3 4 2 8 7 6 5")}
    for split, counts in sizes.items():
        lines = ["image,label"]
        for name, faces in counts.items():
            for number in range(faces):
                put(root / split / str(RAFDB[name]) / f"{split}_{RAFDB[name]}{number}_aligned.jpg", tiny(None))
                lines.append(f"{split}_{RAFDB[name]}{number}_aligned.jpg,{RAFDB[name]}")
        if lists != "none":
            put((root if lists == "beside" else root.parent) / f"{split}_labels.csv", "\n".join(lines).encode())
    manifest, found = prepare("rafdb", tmp_path / "archive", tmp_path / "out")
    assert found == root and "unlisted" not in manifest.attrs
    table = manifest.groupby(["usage", "label"]).size().unstack()
    assert table.loc["train"].tolist() == [9, 10, 8, 14, 13, 12, 11] and table.loc["test"].tolist() == [3, 4, 2, 8, 7, 6, 5]
    assert set(manifest["usage"][manifest["split"] == "test"]) == {"test"}


def test_a_list_beside_folders_counts(tmp_path):
    for split, code in product(("train", "test"), range(1, 8)):
        fill(tmp_path / split / str(code), 4)
    for split, code in product(("train", "test"), range(1, 8)):
        for number in range(4):
            (tmp_path / split / str(code) / f"{number}.jpg").rename(tmp_path / split / str(code) / f"{split}{code}{number}.jpg")
    lines = [f"train{code}{number}.jpg,{code}.0" for code, number in product(range(1, 8), range(4))]
    lines[0], lines[-1] = "train10.jpg,Fear", "train99.jpg,7"
    put(tmp_path / "train_labels.csv", "\n".join(["image,label", *lines]).encode())
    manifest, rejected = examine("rafdb", tmp_path)
    expected = {"train/1/train10.jpg": "its folder says another class than train_labels.csv", "train/7/train99.jpg": "missing"}
    assert reasons(rejected) == expected and manifest.attrs["unlisted"] == 1 and len(manifest) == 54


@pytest.mark.parametrize("splits", [("train", "val"), ("train_set", "val_set"), ("",)])
@pytest.mark.parametrize("named", [True, False])
def test_affectnet_as_class_folders(tmp_path, splits, named):
    words = ["neutral", "Happy", "sad", "surprise", "fear", "disgust", "anger", "Contempt"]
    for split, (code, word) in product(splits, enumerate(words)):
        fill(tmp_path / split / (word if named else str(code)), 5 + code)
    manifest, _, counts = survey("affectnet7", locate("affectnet7", tmp_path, tmp_path))
    expected = {label: (5 + code) * len(splits) for code, label in enumerate([4, 3, 5, 6, 2, 1, 0])}
    assert manifest["label"].value_counts().to_dict() == expected
    assert counts[counts["class"] == "left out: contempt"]["found"].sum() == 12 * len(splits)
    assert set(manifest["split"]) == {"train", "val", "test"}
    if len(splits) == 2:
        assert set(manifest["usage"][manifest["split"] == "test"]) == {"validation"}


def test_affectnets_folders_of_hashes_are_no_classes(tmp_path):
    for number in (1, 2, 3, 40, 500):
        fill(tmp_path / "Manually_Annotated_Images" / str(number), 2)
    refused("expected Manually_Annotated_file_lists", "affectnet7", tmp_path)


def test_fer2013_with_numbered_folders(tmp_path):
    for split, code in product(("train", "test"), range(7)):
        folder = tmp_path / split / str(code)
        for number in range(4 + code):
            picture = Image.new("L", (48, 48), 10 * code + number)
            picture.putpixel((0, 0), 200 + (split == "test"))
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{number}.png")
    manifest = load_manifest("fer2013", tmp_path)
    assert manifest["label"].value_counts().sort_index().tolist() == [8, 10, 12, 14, 20, 16, 18]  # neutral is 6, surprise 5


def test_linked_class_folders_are_refused_and_followed_when_told(tmp_path):
    fill(tmp_path / "set/happy"), fill(tmp_path / "set/fear"), fill(tmp_path / "elsewhere")
    (tmp_path / "set/sad").symlink_to(tmp_path / "elsewhere")
    words = r"too few: sadness \(6 files rejected, the first sad/0.jpg: the link leaves the root\); --follow-links"
    refused(words, "folder", tmp_path / "set")
    manifest, root = prepare("folder", tmp_path / "set", tmp_path / "out", told={"follow_links": True})
    assert len(manifest) == 18 and [picture.size for picture in FaceImages(manifest.assign(face=0), root)] == [(8, 8)] * 18
    again = pd.read_parquet(tmp_path / "out/folder/manifest.parquet")
    assert FaceImages(again, root)[17].size == (8, 8)
    again.attrs = {}
    with pytest.raises(ValueError, match="below the root"):
        FaceImages(again, root)[17]


# RAF-DB's list, as it comes back from somebody's spreadsheet


def relisted(tmp_path, change):
    root = rafdb(tmp_path / "set", each("9 10 8 14 13 12 11"), each("3 4 2 8 7 6 5"), Tiny())
    path = root / "EmoLabel/list_patition_label.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    return root


WORDS = {str(code): name for name, code in RAFDB.items()}
QUIRKS = {
    "commas": lambda line: line.replace(" ", ","),
    "commas and spaces": lambda line: line.replace(" ", ", "),
    "semicolons": lambda line: line.replace(" ", ";"),
    "fractions": lambda line: line + ".0",
    "aligned": lambda line: line.replace(".jpg", "_aligned.jpg"),
    "upper case": lambda line: line.replace(".jpg", ".JPG"),
    "no ending": lambda line: line.replace(".jpg", ""),
    "names": lambda line: line[:-1] + WORDS[line[-1]].upper(),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_list_says_the_same_in_other_words(tmp_path, quirk):
    manifest, rejected = examine("rafdb", relisted(tmp_path, lambda lines: [QUIRKS[quirk](line) for line in lines]))
    assert rejected.empty
    table = manifest.groupby(["usage", "label"]).size().unstack()
    assert table.loc["train"].tolist() == [9, 10, 8, 14, 13, 12, 11] and table.loc["test"].tolist() == [3, 4, 2, 8, 7, 6, 5]


@pytest.mark.parametrize(
    "line, words",
    [
        ("train_9.jpg 5 1", "expected a name and a code, such as 'train_00001.jpg 5', in line 113 of .*; found 3 fields: 'train_9"),
        ("train_9.jpg,5,0.9", "found 3 fields: 'train_9.jpg,5,0.9'"),
        ("train_9.jpg", "found 1 fields: 'train_9.jpg'"),
        ("image,label", "expected a name that starts with train_ or test_ in line 113 of .*; found 'image'"),
        ("train_9.jpg,5.5", "expected a rafdb code in line 113 of .*; found '5.5'"),
        ("train_9.jpg bored", "expected a rafdb code in line 113 of .*; found 'bored'"),
    ],
)
def test_a_line_that_says_something_else_is_named_by_its_cause(tmp_path, line, words):
    refused(words, "rafdb", relisted(tmp_path, lambda lines: [*lines, line]))


def test_listed_twice_and_not_at_all(tmp_path):
    def change(lines):
        train = [line for line in lines if line.startswith("train")]
        train = [train[0], train[0], train[1], train[1][:-1] + ("1" if train[1][-1] != "1" else "2"), *train[3:]]
        return train + [line for line in lines if line.startswith("test")]

    root = relisted(tmp_path, change)
    manifest, rejected, counts = survey("rafdb", root)
    found = rejected["reason"].str.partition(":")[0].value_counts().to_dict()
    assert found == {"listed under several labels": 2, "the same face stands in the list twice": 1}
    assert manifest["image"].is_unique and len(manifest) == 110 and manifest.attrs["unlisted"] == 1
    assert counts.iloc[-1][["class", "found"]].tolist() == ["not in the list", 1]


# Two laboratories


SIDES = {"FL": -90, "HL": -45, "S": 0, "HR": 45, "FR": 90}
WHAT = {"AF": 2, "AN": 0, "DI": 1, "HA": 3, "NE": 4, "SA": 5, "SU": 6}


def kdef(root, people=("F01", "F02", "F03", "M01", "M02", "M03", "M04"), form="{folder}/{stem}.JPG"):
    for session, person, what, side in product("AB", people, WHAT, SIDES):
        put(root / form.format(folder=session + person, stem=f"{session}{person}{what}{side}"), tiny(None))
    return root


@pytest.mark.parametrize("form", ["{folder}/{stem}.JPG", "{stem}.jpg", "{folder}/{stem}.jpeg"])
def test_kdef_by_its_names(tmp_path, form):
    root = kdef(tmp_path / "KDEF_and_AKDEF" / "KDEF", form=form)
    put(root.parent / "AKDEF" / "AFANS.JPG", tiny(None))
    manifest, found = prepare("kdef", root.parent, tmp_path / "out")
    assert found == root and len(manifest) == 490 and "unlisted" not in manifest.attrs
    assert (tmp_path / "out/kdef/rejected.csv").read_text() == "image,reason\n"
    for face in manifest.itertuples():
        stem = face.image.rpartition("/")[2].partition(".")[0]
        assert (face.subject, face.label, face.yaw) == (stem[1:4], WHAT[stem[4:6]], SIDES[stem[6:]])
        assert face.frontal == face.image.replace(stem, stem[:6] + "S")
    assert (manifest["group"] == manifest["subject"]).all() and manifest["group"].nunique() == 7
    assert manifest.groupby("group")["split"].nunique().max() == 1 and set(manifest["split"]) == {"train", "val", "test"}
    other = load_manifest("kdef", root, seed=1)
    assert (other.set_index("image")["split"] != manifest.set_index("image")["split"]).any()


def test_kdef_with_what_is_missing_blank_and_foreign(tmp_path):
    root = kdef(tmp_path, form="{folder}/{stem}.JPG")
    (root / "AF01/AF01ANS.JPG").unlink()
    (root / "BF01/BF01ANHL.JPG").unlink()
    (root / "AM01/AM01SUFR.JPG").write_bytes(b"")
    Image.new("RGB", (56, 76)).save(root / "AM02/AM02HAHL.JPG")
    Image.new("RGB", (56, 76)).save(root / "AM03/AM03HAS.JPG")
    for name in ("AF01/AF01ANFR (1).JPG", "AF01/notes.txt", "other/AF01ANS.JPG"):
        put(root / name, tiny(None))
    manifest, rejected = examine("kdef", root)
    found = reasons(rejected)
    assert {found.pop(f"AF01/AF01AN{side}.JPG") for side in ("FL", "HL", "HR", "FR")} == {"its frontal view: missing"}
    blank = "the picture is of one colour"
    assert {found.pop(f"AM03/AM03HA{side}.JPG") for side in ("FL", "HL", "HR", "FR")} == {f"its frontal view: {blank}"}
    assert found == {
        "AM01/AM01SUFR.JPG": "the file is empty",
        "AM02/AM02HAHL.JPG": blank,
        "AM03/AM03HAS.JPG": blank,
        "AF01/AF01ANFR (1).JPG": "the name is not the set's",
    }
    assert len(manifest) == 490 - 2 - 4 - 4 - 3 and manifest.attrs["unlisted"] == 1


EMOTIONS = {"angry": 0, "disgusted": 1, "fearful": 2, "happy": 3, "neutral": 4, "sad": 5, "surprised": 6, "contemptuous": -1}


def rafd(root, people=9):
    cameras, gazes = ("000", "045", "090", "135", "180"), ("frontal", "left", "right")
    for camera, person, word, gaze in product(cameras, range(1, people + 1), EMOTIONS, gazes):
        kind = "Kid_male" if person % 2 else "Caucasian_female"
        put(root / f"Rafd{camera}_{person:02d}_{kind}_{word}_{gaze}.jpg", tiny(None))
    return root


def test_rafd_by_its_names(tmp_path):
    manifest, _, counts = survey("rafd", locate("rafd", rafd(tmp_path / "RafD"), tmp_path))
    assert len(manifest) == 9 * 7 * 5 * 3 and not (manifest["label"] < 0).any()
    assert counts.set_index("class")["found"].loc[["every row", "left out: contempt"]].tolist() == [9 * 8 * 5 * 3, 135]
    assert counts.set_index("class")["expected"].loc["every row"] == 8040
    side = {"000": 90, "045": 45, "090": 0, "135": -45, "180": -90}
    for face in manifest.itertuples():
        assert face.yaw == side[face.image[4:7]] and face.subject == face.image[8:10] and face.label == EMOTIONS[face.image.split("_")[4]]
        assert face.frontal == face.image.replace(f"Rafd{face.image[4:7]}", "Rafd090")
    assert manifest.groupby("subject")["split"].nunique().max() == 1


def test_names_of_one_laboratory_are_not_the_others(tmp_path):
    refused("expected pictures named as AF01ANHL.JPG.* in .*; found RafD", "kdef", (rafd(tmp_path / "RafD", 1).parent))
    words = "expected pictures named as Rafd090_01_Caucasian_female_angry_frontal.jpg in .*; found"
    refused(words, "rafd", kdef(tmp_path / "KDEF", ("F01",)))


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_name_is_a_laboratorys_or_none(stem):
    for understand in (kdef_name, rafd_name):
        told = understand(stem)
        assert told is None or (-1 <= told["label"] <= 6 and told["yaw"] in (-90, -45, 0, 45, 90))


def test_the_paths_that_a_list_means_stay_below_the_root(tmp_path):
    (tmp_path / "root/deep").mkdir(parents=True)
    for name in ("root/A.png", "root/deep/b.JPG", "secret.png", "root/c.png", "root/C.png"):
        (tmp_path / name).write_bytes(b"x")
    below = Below(tmp_path / "root")
    expected = {
        "a.PNG": ("A.png", ""),
        "deep\\B.jpg": ("deep/b.JPG", ""),
        "..\\secret.png": ("..\\secret.png", "missing"),
        "c.PNG": ("c.PNG", "missing"),  # two could be meant
        "x/y.png": ("x/y.png", "missing"),
    }
    assert {name: below.find(name) for name in expected} == expected


# What the command says


def said(capsys, *arguments):
    from qcfer.cli import main

    main(["prepare", *map(str, arguments)])
    return capsys.readouterr().out


def test_prepare_tells_people_twins_and_what_no_list_names(tmp_path, capsys):
    write_faces(tmp_path / "set", laboratory(tmp_path / "set"))
    put(tmp_path / "set/more.jpg", tiny(None))
    text = said(capsys, "folder", "--root", tmp_path / "set", "--out", tmp_path / "out")
    assert "10 people, true frontal views known" in text and "1 pictures stand in the folder and not in the list" in text
    assert "1 pictures stand in the folder and not in the list" in (tmp_path / "out/folder/check.html").read_text()


def test_what_is_typed_reaches_the_reader(tmp_path, capsys):
    for name in ("3", "5", "happyness", "bored"):
        fill(tmp_path / "set" / name)
    fill(tmp_path / "elsewhere"), (tmp_path / "set/fear").symlink_to(tmp_path / "elsewhere")
    typed = ("--classes", "fer2013,happyness=happiness,5=anger", "--ignore", "bored", "--follow-links")
    text = said(capsys, "folder", "--root", tmp_path / "set", "--out", tmp_path / "out", *typed)
    assert "told by the numbers of fer2013" in text
    manifest = pd.read_parquet(tmp_path / "out/folder/manifest.parquet")
    assert manifest["label"].value_counts().to_dict() == {3: 12, 0: 6, 2: 6}


def test_a_yaw_with_the_other_sign_is_told():
    from qcfer.run.study import add_pose

    yaw = np.repeat([-90.0, -45, 0, 45, 90], 10)
    poses = np.stack([-yaw + 3, 0 * yaw, 0 * yaw], axis=1)
    with pytest.warns(UserWarning, match="expected yaw above 0 where the nose points to the image's right; found .* 100% of the turned"):
        add_pose(pd.DataFrame({"yaw": yaw}), poses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "pitch" not in add_pose(pd.DataFrame({"yaw": yaw}), -poses)


# A run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "Drawn faces with KDEF's names: eight people from five sides."
    root = tmp_path_factory.mktemp("drawn") / "KDEF"
    for number, person in enumerate(["F01", "F02", "F03", "F04", "M01", "M02", "M03", "M04"]):
        for (what, label), (side, yaw) in product(WHAT.items(), SIDES.items()):
            folder = root / f"A{person}"
            folder.mkdir(parents=True, exist_ok=True)
            picture = draw_face(CLASSES[label], yaw=max(-60, min(60, yaw)), seed=100 * number + label, size=48)
            picture.save(folder / f"A{person}{what}{side}.JPG", quality=92)
    return root


def test_a_laboratorys_photographs_are_measured_as_posebench_is_and_not_kept(drawn, tmp_path):
    from qcfer.run.config import make_config
    from qcfer.run.pipeline import make_run

    settings = {"pose": "annotation", "ladders": [], "conditions": ["mirrored"], "esv": {"candidates": "LR"}}
    run = make_run(make_config("kdef", root=drawn, **settings), tmp_path)
    score = run.posebench["score"]
    assert {"raw", "oracle", "mirrored"} <= set(score) and score["oracle"]["profile"]["n"] == 2 * 7 * 4
    assert {"large", "extreme"} <= set(score["raw"]) and "mirrored" in run.metrics["headroom"]
    assert set(run.posebench["fidelity"]["raw"]) == {"expression", "identity"} and "pose_error" not in run.posebench
    assert [path for path in run.path.rglob("*") if "pairs" in path.name or "contact" in path.name or "attention" in path.name] == []
    manifest = pd.read_parquet(run.path / "manifest.parquet")
    assert manifest.groupby("subject")["split"].nunique().max() == 1
    from qcfer.pages import posebench as page

    assert "test faces that are turned" in page.headline(run).data and "rendered" not in page.headline(run).data
    assert page.what_it_is(run).heading == "What is kdef?" and page.every_turn(run) is None
    assert all(part(run) is not None for part in (page.turning, page.effect, page.recovered, page.fidelity, page.pose_error))


def test_the_error_of_a_yaw_alone_is_drawn():
    from qcfer.evaluate.fidelity import pose_error, pose_offset
    from qcfer.pages.figures.yaw import pose_errors

    true = np.repeat([-90.0, -45, 0, 45, 90], 6)[:, None]
    estimated = true + np.tile([1.0, 3.0], 15)[:, None]
    error = pose_error(estimated, true, np.arange(30) % 5, pose_offset(estimated, true))
    assert error["offset"] == {"yaw": 2.0} and {tuple(row) for row in error["bins"].values()} == {("yaw",)}
    assert [row["yaw"]["value"] for row in error["bins"].values()] == [1.0] * 3
    assert [text.get_text() for text in pose_errors(error).axes[0].texts] == ["1.0"] * 3
