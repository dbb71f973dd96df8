"""The registry of the paper's numbers: literals typed by hand from the paper's text, arithmetic, look-ups."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcfer.core.files import resources
from qcfer.core.labels import CLASSES
from qcfer.paper.checks import checks, reachable
from qcfer.paper.claims import claims, contradictions, paper_value, read_claims
from qcfer.paper.numbers import DATASETS, UNITS, number_index, numbers, read_numbers

# Read off the paper's text, page by page, without a look at the registry.
BY_HAND = [
    ("Table 1", "rafdb", "QC-FER", "accuracy", 89.39),
    ("Table 1", "rafdb", "DMUE", "accuracy", 89.42),
    ("Table 1", "rafdb", "EfficientFace", "accuracy", 88.36),
    ("Table 1", "affectnet7", "QC-FER", "accuracy", 62.66),
    ("Table 1", "affectnet7", "MRAN", "accuracy", 62.48),
    ("Table 1", "affectnet7", "RUL", "accuracy", 61.43),
    ("Table 1", "rafdb", "RUL", "accuracy", 88.98),
    ("Table 1", "expw", "QC-FER", "accuracy", 67.17),
    ("Table 1", "expw", "LPL", "accuracy", 66.90),
    ("Table 1", "expw", "AGRA", "accuracy", 63.94),
    ("Table 2", "rafdb", "fear", "precision", 58.5),
    ("Table 2", "rafdb", "surprise", "recall", 91.7),
    ("Table 2", "affectnet7", "anger", "f1", 57.5),
    ("Table 2", "affectnet7", "surprise", "recall", 50.0),
    ("Table 2", "expw", "happiness", "precision", 83.0),
    ("Table 2", "expw", "neutral", "f1", 69.1),
    ("Table 3", "rafdb", "CLIP Baseline", "accuracy", 85.20),
    ("Table 3", "affectnet7", "QC-FER (Full Pipeline)", "accuracy", 62.29),
    ("Table 3", "expw", "PFN + CLIP + AFP", "accuracy", 66.85),
    ("Table 4", "rafdb", "+Robust Standardization", "accuracy", 87.88),
    ("Table 4", "rafdb", "+Robust Standardization", "gain", 1.37),
    ("Table 4", "affectnet7", "Complete Model", "gain", 0.59),
    ("Table 4", "expw", "+PCA Dimensionality Reduction", "accuracy", 66.51),
    ("Table 5", "rafdb", "CLIP ViT-B/32", "accuracy", 87.59),
    ("Table 5", "", "ResNet-50 (ImageNet)", "dimension", 2048),
    ("Table 5", "expw", "ViT-B/16 (ImageNet-21K)", "accuracy", 64.50),
    ("Table 6", "rafdb", "384", "variance", 95.8),
    ("Table 6", "rafdb", "512", "seconds", 25.3),
    ("Table 6", "rafdb", "640", "accuracy", 88.17),
    ("Table 7", "affectnet7", "Single RF", "accuracy", 58.42),
    ("Table 7", "rafdb", "Hard Voting (LR + RF)", "accuracy", 88.85),
    ("Table 7", "expw", "Soft Voting (LR + RF)", "accuracy", 67.08),
    ("Table 8", "affectnet7", "profile", "faces", 121),
    ("Table 8", "rafdb", "before", "accuracy", 74.35),
    ("Table 8", "expw", "after", "accuracy", 54.96),
    ("Table 8", "rafdb", "profile", "gain", 6.82),
    ("Table 9", "", "QC-FER", "parameters", 1.6),
    ("Table 9", "", "QC-FER", "latency", 6.8),
    ("Table 9", "", "MA-Net (ResNet-101)", "hours", 24.7),
    ("Table 9", "", "3DDFA-V2 + FFGAN", "memory", 9.6),
    ("Section 1", "rafdb", "beyond 30", "share", 1.75),
    ("Section 1", "affectnet7", "beyond 30", "share", 15.41),
    ("Section 4.1", "rafdb", "test", "faces", 3068),
    ("Section 4.1", "expw", "val", "faces", 9179),
    ("Section 4.2", "affectnet7", "frontalized", "faces", 48300),
    ("Section 4.2", "rafdb", "LR C=10, five folds", "accuracy", 88.94),
    ("Section 4.2", "expw", "ensemble", "accuracy", 56.78),
    ("Section 4.2", "affectnet7", "LR", "steps", 512),
    ("Section 4.2", "affectnet7", "disgust", "weight", 22.5),
    ("Section 4.4", "", "three-layer network", "margin", 0.29),
    ("Section 4.4", "", "with the RF's gain", "components", 50),
    ("Section 4.5.2", "affectnet7", "frontalized", "share", 23.8),
    ("Section 4.5.2", "rafdb", "disgust, with weights", "f1", 67),
    ("Section 4.5.3", "", "CLIP ViT-L/14, mean", "accuracy", 72.25),
    ("Section 4.5.5", "", "ungated, most harm", "gain", -0.58),
    ("Section 4.5.5", "", "3DDFA, an image", "seconds", 5.2),
    ("Section 4.5.5", "expw", "reverted", "share", 2.4),
    ("Section 4.5.6", "affectnet7", "QC-FER", "accuracy", 56.1),
    ("Section 4.5.6", "expw", "without PFN", "accuracy", 55.4),
    ("Section 4.5.6", "expw", "over ResNet-50 end to end", "gain", 4.1),
    ("Section 4.5.7", "", "CLIP", "latency", 12.4),
    ("Section 4.5.8", "affectnet7", "happiness", "recall", 89),
    ("Section 4.5.8", "expw", "disgust", "error", 45),
]


@pytest.fixture(scope="module")
def table():
    return numbers()


@pytest.fixture(scope="module")
def tested():
    return checks()


@pytest.mark.parametrize(("place", "dataset", "row", "measure", "value"), BY_HAND)
def test_a_number_is_the_papers(place, dataset, row, measure, value):
    assert paper_value(place, dataset, row, measure)["value"] == value


def test_every_table_is_complete(table):
    """How many numbers each table of the paper has, counted on its pages."""
    counts = table[table.place.str.startswith("Table")].groupby("place").size()
    assert counts.to_dict() == {
        "Table 1": 36,
        "Table 2": 63,
        "Table 3": 12,
        "Table 4": 18 + 15,
        "Table 5": 12 + 8,
        "Table 6": 18,
        "Table 7": 15,
        "Table 8": 12,
        "Table 9": 16,
    }


def test_numbers_are_of_their_kind(table):
    assert set(table.columns) == {"place", "dataset", "row", "measure", "value", "unit"}
    assert (table.unit == table.measure.map(UNITS)).all()
    percent = table[(table.unit == "%") & (table.measure != "gain")]
    assert percent.value.between(0, 100).all()
    assert not table.duplicated(["place", "dataset", "row", "measure"]).any()
    assert set(table[table.place == "Table 2"].row) == set(CLASSES)


SLIPS = {
    "62,66 for 62.66": ("62.66", "62,66", "expected five columns in numbers.csv; found: "),
    "a column more from the start": ("QC-FER,accuracy,89.39", "QC-FER,accuracy,89.39,%", "expected a place .*; found .rafdb. in line 2"),
    "no number": ("89.39", "89.39 %", "expected a number; found '89.39 %' in line 2 of numbers.csv$"),
    "not finite": ("89.39", "inf", "expected a number; found 'inf' in line 2 of numbers.csv$"),
    "nothing": ("89.39", "", "expected a number; found '' in line 2 of numbers.csv$"),
    "another set": ("affectnet7,", "affectnet8,", "expected a data set of rafdb, affectnet7, expw, or none; found 'affectnet8' in line 3"),
    "another measure": ("accuracy", "acuracy", "expected a measure of .*; found 'acuracy' in line 2"),
    "another place": ("Table 1,", "Tabel 1,", "expected a place of the paper; found 'Tabel 1' in line 5"),
    "a number twice": ("MA-Net,", "EfficientFace,", "expected each number once; found 'EfficientFace' in line 6"),
    "another head": ("measure,", "what,", "expected the columns place, dataset, row, measure, value in numbers.csv; found .* what"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_table_is_named_in_one_line(slip, tmp_path):
    right, wrong, words = SLIPS[slip]
    text = (resources("paper_data") / "numbers.csv").read_text(encoding="utf-8")
    (tmp_path / "numbers.csv").write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        read_numbers(tmp_path / "numbers.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {claim: a, choice: b}", "expected claim, choice, why and perhaps .* in claims.yaml; found {.*}$"),
        ("- {claim: a, choice: b, why: c, rungs: d}", "expected claim, choice, why .*'rungs': 'd'}$"),
        ("- {claim: a, choice: b, why: 7}", "expected claim, choice, why .*'why': 7}$"),
        ("- {claim: a, choice: b, why: c, about: [[Table 6, rafdb, 512, accuracy]]}", "expected numbers .* for 'a' in claims.yaml; found"),
        ("- {claim: a, choice: b, why: c, places: Table 1}", "expected numbers of the paper for 'a' in claims.yaml; found"),
        ("- just words", "expected claim, choice, why"),
        ("claim: a", "expected a list of claims in claims.yaml; found {'claim': 'a'}$"),
        ("", "expected a list of claims in claims.yaml; found None"),
        ("- {claim: a", "expected a list of claims in claims.yaml; found no YAML: "),
    ],
)
def test_a_slip_in_a_claim_is_named_in_one_line(text, words, tmp_path):
    (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{words}") as caught:
        read_claims(tmp_path / "claims.yaml")
    assert "\n" not in str(caught.value)


def test_numbers_are_as_printed():
    "All 380, as they were typed from the paper at first."
    assert len(number_index()) == 380
    assert pd.util.hash_pandas_object(numbers()).sum() == 3983461550762648064


def test_columns_go_to_their_set(table):
    row = table[(table.place == "Table 2") & (table.row == "disgust")]
    assert row[["dataset", "measure", "value"]].to_numpy().tolist() == [
        ["rafdb", "precision", 63.0],
        ["rafdb", "recall", 74.2],
        ["rafdb", "f1", 68.1],
        ["affectnet7", "precision", 48.6],
        ["affectnet7", "recall", 45.0],
        ["affectnet7", "f1", 46.7],
        ["expw", "precision", 48.0],
        ["expw", "recall", 52.7],
        ["expw", "f1", 50.2],
    ]


def test_sets_that_the_paper_does_not_have():
    assert paper_value("Table 1", "posebench", "QC-FER") is None
    assert paper_value("Table 1", "fer2013", "no such row") is None
    assert paper_value("Table 6", "affectnet7", "512") is None
    assert paper_value("Section 4.5.6", "rafdb", "QC-FER") is None


@pytest.mark.parametrize(
    ("place", "row", "words"),
    [("Table 3", "PFN", "PFN + CLIP"), ("Table 12", "QC-FER", "no such number"), ("Table 8", "QC-FER", "before, after")],
)
def test_a_slip_in_a_row_is_named(place, row, words):
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        paper_value(place, "rafdb", row)


def test_alternatives_are_of_the_same_thing():
    found = paper_value("Table 1", "affectnet7", "QC-FER")
    assert found["alternatives"] == [{"place": "Table 3", "value": 62.29}, {"place": "Section 4.2", "value": 63.51}]
    assert paper_value("Table 1", "expw", "QC-FER")["alternatives"] == [{"place": "Section 4.2", "value": 56.78}]
    assert [other["value"] for other in paper_value("Section 4.2", "affectnet7", "frontalized", "share")["alternatives"]] == [15.41, 23.8]
    assert paper_value("Section 4.5.5", "", "CLIP similarity", "threshold")["alternatives"] == []
    assert paper_value("Table 2", "expw", "happiness", "recall")["alternatives"] == [{"place": "Section 4.5.8", "value": 82.0}]


def test_alternatives_are_mutual(table):
    for key in {key for entry in claims() for key in entry["places"]}:
        for other in paper_value(*key)["alternatives"]:
            back = table[(table.place == other["place"]) & (table.measure == key[3]) & (table.value == other["value"])]
            found = [paper_value(*row[["place", "dataset", "row", "measure"]]) for _, row in back.iterrows()]
            assert any({"place": key[0], "value": paper_value(*key)["value"]} in one["alternatives"] for one in found), key


def test_contradictions_are_whole():
    shown = contradictions()
    assert len(shown) == len(claims()) and shown.claim.is_unique
    assert (shown[["claim", "choice", "why"]].map(len) > 3).all().all()
    said = shown.set_index("claim").said
    assert said["accuracy on ExpW"] == "67.17 % (Table 1, ExpW); 56.78 % (Section 4.2, ExpW)"
    assert "400 M (Section 4.2)" in said["CLIP's pictures"] and "2000 M (Table 5)" in said["CLIP's pictures"]
    assert shown[shown.rung != ""].rung.is_unique


def test_rungs_that_measure_an_effect_are_rungs():
    from qcfer.classify.ladders import LADDERS, choices_ladder

    choices = [choices_ladder(["LR C=1", "SVM C=5"], rows, 1280) for rows in (2_000, 30_000)]
    known = {f"{name}: {rung}" for name, ladder in LADDERS.items() for rung in ladder.rungs}
    known |= {f"choices: {rung}" for ladder in choices for rung in ladder.rungs}
    assert set(contradictions().rung) - known == {"", "gate", "PFN"}


def test_settings_that_flip_are_settings():
    """What a contradiction names as its setting is a parameter of the code, with that value allowed."""
    import yaml

    from qcfer.classify.afp import AFP
    from qcfer.classify.esv import ESV, NAMES, PRESETS
    from qcfer.frontalize.conditions import settings_of
    from qcfer.run.config import Config

    parts = {"afp": AFP().get_params(), "esv": ESV().get_params(deep=False)}
    for setting in filter(None, contradictions().setting):
        name, _, value = setting.partition(": ")
        outer, _, inner = name.partition(".")
        assert outer in Config.__dataclass_fields__, setting
        if outer in parts:
            assert inner in parts[outer], setting
        if outer == "frontalizers":
            frontalizer, _, inner = inner.partition(".")
            assert inner in settings_of(frontalizer), setting
        if inner == "candidates":
            assert value in PRESETS or set(yaml.safe_load(value)) <= set(NAMES)


# ---- arithmetic, each redone here from literals


def f1(precision, recall):
    return 2 * precision * recall / (precision + recall)


def test_f1_agree_everywhere(tested):
    rows = tested[tested.check.str.startswith("F1 of")]
    assert len(rows) == 21 and rows.agrees.all()
    assert f1(58.5, 83.1) == pytest.approx(68.7, abs=0.06) and f1(44.0, 59.3) == pytest.approx(50.5, abs=0.06)


def test_recalls_imply_other_accuracies(tested):
    rows = tested[tested.check == "accuracy from the recalls"].set_index("dataset")
    rafdb = np.average([86.7, 74.2, 83.1, 95.2, 89.5, 86.1, 91.7], weights=[162, 160, 74, 1185, 680, 478, 329])
    affectnet = np.mean([52, 45, 60, 82, 58, 71, 50])
    assert not rows.agrees.any()
    assert rows.loc["rafdb", ["low", "high"]].mean() == pytest.approx(rafdb) and round(rafdb, 1) == 90.3
    assert rows.loc["affectnet7", ["low", "high"]].mean() == pytest.approx(affectnet) and round(affectnet, 1) == 59.7


def test_predicted_faces_do_not_add_up(tested):
    """Of each class n recall / precision faces are predicted, which should be as many as there are."""
    rows = tested[tested.check == "faces predicted, of 100 there"].set_index("dataset")
    recall, precision = [52, 45, 60, 82, 58, 71, 50], [64.2, 48.6, 58.3, 71.0, 64.8, 60.4, 67.5]
    affectnet = 100 / 7 * sum(r / p for r, p in zip(recall, precision))
    assert rows.loc["affectnet7", "low"] < affectnet < rows.loc["affectnet7", "high"] < 100
    assert rows.loc["rafdb", "low"] > 103 and not rows.agrees.any()


def test_gain_on_profiles_is_too_small_for_the_claim(tested):
    rows = tested[tested.check.str.startswith("PFN's gain")].set_index("dataset")
    spread = {"rafdb": 6.82 * 308 / 3068, "affectnet7": 6.61 * 121 / 3500, "expw": 6.73 * 1878 / 13769}
    for name, gain in spread.items():
        assert rows.loc[name, ["low", "high"]].mean() == pytest.approx(gain) and not rows.loc[name, "agrees"]
    assert [round(gain, 2) for gain in spread.values()] == [0.68, 0.23, 0.92]


def test_ladders_end_where_table_1_does_but_for_one(tested):
    rows = tested[tested.check.str.startswith("full method")]
    odd = rows[~rows.agrees]
    assert len(rows) == 12 and odd[["check", "dataset", "low"]].to_numpy().tolist() == [["full method as in Table 3", "affectnet7", 62.29]]


def test_the_steps_of_table_4(tested):
    rows = tested[tested.check.str.startswith("gain of ") & (tested.place == "Table 4")]
    assert len(rows) == 15
    assert rows[~rows.agrees][["dataset", "stated"]].to_numpy().tolist() == [["affectnet7", 0.59]]  # 62.66 - 61.97 = 0.69


def test_averages_of_the_text(tested):
    odd = tested[~tested.agrees].set_index(["check", "place"]).stated.to_dict()
    assert odd["mean accuracy", "Section 4.5.3"] == 72.25 and ("mean accuracy", "Section 4.3") not in odd
    assert odd["mean lead of soft over hard voting", "Section 4.5.4"] == 0.32
    assert odd["mean lead of the full ensemble", "Section 4.5.4"] == 0.06
    assert odd["mean lead of one LR over one RF", "Section 4.5.4"] == 3.17
    assert odd["AFP's greatest gain", "Section 4.5.1"] == 1.55
    assert ("mean gain on profiles", "Section 4.5.5") not in odd and ("mean on profiles, after", "Section 4.5.5") not in odd
    assert ("mean gain of +Pose Normalization", "Section 4.5.2") not in odd


def test_weights_follow_from_the_counts(tested):
    rows = tested[tested.check.str.startswith("weight N")]
    disgust, happiness = 283901 / (7 * 3803), 283901 / (7 * 134415)
    assert rows[["low", "high"]].mean(axis=1).tolist() == pytest.approx([disgust, happiness]) and not rows.agrees.any()
    assert round(disgust, 1) == 10.7 and round(happiness, 2) == 0.30
    ratios = tested[tested.check.str.startswith("happiness for one")][["low", "high"]].mean(axis=1)
    assert ratios.tolist() == pytest.approx([134415 / 3803, 22.5])


def test_shares_of_training_faces_agree(tested):
    rows = tested[tested.check == "share of frontalized training faces"]
    assert len(rows) == 3 and rows.agrees.all()


def test_a_check_allows_what_rounding_allows(tested):
    assert set(tested.columns) == {"check", "place", "dataset", "stated", "low", "high", "agrees"}
    assert (tested.low <= tested.high).all()
    grim = tested.check.str.startswith("a whole number")
    inside = (tested.stated >= tested.low - 1e-9) & (tested.stated <= tested.high + 1e-9)
    assert (tested.agrees == inside)[~grim].all() and set(tested.dataset) <= {"", *DATASETS}


@given(st.integers(1, 20_000), st.data())
def test_what_faces_can_make_is_reachable(n, data):
    right = data.draw(st.integers(0, n))
    assert reachable(round(100 * right / n, 2), n)


@given(st.integers(1, 400), st.integers(0, 10_000))
def test_reachable_is_what_trying_all_says(n, hundredths):
    percent = hundredths / 100
    tried = np.abs(100 * np.arange(n + 1) / n - percent).min() <= 0.005 + 1e-9
    assert reachable(percent, n) == tried


def test_profile_accuracies_of_expw_fit_no_count(tested):
    rows = tested[tested.check.str.startswith("a whole number of 1,878")]
    assert rows.stated.tolist() == [48.23, 54.96] and not rows.agrees.any()
    assert round(100 * 905 / 1878, 2) == 48.19 and round(100 * 906 / 1878, 2) == 48.24
    small = tested[tested.check.str.startswith(("a whole number of 121", "a whole number of 308"))]
    assert len(small) == 4 and small.agrees.all()


def test_tables_are_fresh_copies():
    first = numbers()
    first["value"] = 0.0
    assert numbers().value.max() > 1000 and isinstance(checks(), pd.DataFrame)


def test_the_check_page_quotes_the_same_shares(table):
    """The check page comes long before the registry and has the paper's shares of turned faces for itself."""
    from qcfer.pages.dataset import PAPER_BEYOND_30

    places = {"introduction": "Section 1", "section 4.2": "Section 4.2", "section 4.5": "Section 4.5.2"}
    for name, shares in PAPER_BEYOND_30.items():
        for words, share in shares.items():
            place = places.get(words.partition(" (")[0])
            known = table[(table.dataset == name) & (table.measure == "share") & (table.place == place)].value.tolist()
            profile, test = (paper_value(*key, "faces")["value"] for key in (("Table 8", name, "profile"), ("Section 4.1", name, "test")))
            assert share in (known if place else [round(100 * profile / test, 1)]), (name, words)
