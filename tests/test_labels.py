"""Labels against each set's own documentation, written out by hand."""

import re

import pytest

from qcfer.core.labels import CLASSES, CODES, COLOURS, from_code, label_index

# The order that the authors of each set give, starting with the first code.
PUBLISHED = {
    "rafdb": (1, "surprise fear disgust happiness sadness anger neutral"),
    "affectnet7": (0, "neutral happiness sadness surprise fear disgust anger"),
    "expw": (0, "anger disgust fear happiness sadness surprise neutral"),
    "fer2013": (0, "anger disgust fear happiness sadness surprise neutral"),
}
ORDER = {"anger": 0, "disgust": 1, "fear": 2, "happiness": 3, "neutral": 4, "sadness": 5, "surprise": 6}


def test_the_order_of_the_paper():
    assert CLASSES == tuple(ORDER)


def test_every_set_has_its_published_order():
    assert set(CODES) == set(PUBLISHED)
    for dataset, (first, names) in PUBLISHED.items():
        assert [from_code(dataset, first + i) for i in range(7)] == [ORDER[name] for name in names.split()]


@pytest.mark.parametrize("dataset, code", [("rafdb", 0), ("rafdb", 8), ("affectnet7", 7), ("expw", -1), ("fer2013", 7)])
def test_a_code_out_of_range_is_named(dataset, code):
    with pytest.raises(ValueError, match=rf"expected a {dataset} code from [01] to [67]; found {code}$"):
        from_code(dataset, code)


def test_folder_names_of_published_copies():
    kaggle = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert [label_index(name) for name in kaggle] == list(range(7))
    assert [label_index(name) for name in ("Anger", "DISGUSTED", " Fearful ", "Joy", "Calm", "Sadness", "surprised")] == list(range(7))


@pytest.mark.parametrize("name", ["contempt", "", "3", "happyy", "sad sad", "ｈａｐｐｙ", "neutral\0"])
def test_a_word_that_is_no_class_is_named(name):
    with pytest.raises(ValueError, match=re.escape(f"expected one of {', '.join(ORDER)}; found {name!r}")):
        label_index(name)


def test_every_class_has_a_colour_of_its_own():
    assert list(COLOURS) == list(ORDER)
    assert len(set(COLOURS.values())) == 7
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in COLOURS.values())
