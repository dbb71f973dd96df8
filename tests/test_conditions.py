"""Names of conditions: read in one place, written back as they were, and what they ask of a frontalizer."""
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.pictures import PictureList
from qcfer.frontalize.conditions import (
    STORE,
    Condition,
    frontalizer,
    fuse,
    get_frontalizer,
    main_condition,
    prompt_conditions,
    settings_of,
    show,
    view_names,
)
from qcfer.frontalize.prompt import CONSTRAINTS, get_prompt

class Asked(Exception):
    "What a frontalizer was asked for, in the place of a model."


@pytest.fixture
def asked(monkeypatch):
    "What `Qwen` would be made with, for a name and the settings of a run."
    import qcfer.frontalize.qwen

    def refuse(model, **settings):
        raise Asked(model, {name: settings[name] for name in ("preset", "prompt", "seed")}, settings["device"], settings["estimator"])

    monkeypatch.setattr(qcfer.frontalize.qwen, "Qwen", refuse)

    def ask(name, settings=None, **given):
        with pytest.raises(Asked) as caught:
            get_frontalizer(name, settings, **given)
        return caught.value.args

    return ask


DEFAULTS = {"preset": "a100", "prompt": get_prompt("constrained"), "seed": 0}


@pytest.mark.parametrize(
    "name, settings, model, told",
    [
        ("qwen", {}, "Qwen/Qwen-Image-Edit", {}),
        ("qwen", {"seed": 4, "preset": "12gb"}, "Qwen/Qwen-Image-Edit", {"seed": 4, "preset": "12gb"}),
        ("qwen?seed=3", {"seed": 4, "preset": "12gb"}, "Qwen/Qwen-Image-Edit", {"seed": 3, "preset": "12gb"}),
        ("qwen:Qwen/Edit@abc?preset=12gb&seed=0", {}, "Qwen/Edit@abc", {"preset": "12gb"}),
        ("qwen?prompt=single_sentence", {"prompt": "constrained"}, "Qwen/Qwen-Image-Edit", {"prompt": get_prompt("single_sentence")}),
        ("qwen?prompt=constrained+view", {}, "Qwen/Qwen-Image-Edit", {"prompt": get_prompt("constrained+view")}),
        ("qwen?prompt=constrained%2Dlocal", {}, "Qwen/Qwen-Image-Edit", {"prompt": get_prompt("constrained-local")}),
        ("qwen?without=identity", {}, "Qwen/Qwen-Image-Edit", {"prompt": get_prompt("constrained-identity")}),
        ("qwen?without=pose,local+raw", {}, "Qwen/Qwen-Image-Edit", {"prompt": get_prompt("constrained-pose-local")}),
        ("qwen", {"without": "local"}, "Qwen/Qwen-Image-Edit", {"prompt": get_prompt("constrained-local")}),
    ],
)
def test_a_name_overrides_the_settings_of_the_run(asked, name, settings, model, told):
    before = dict(settings)
    found = asked(name, settings, device="cpu", estimator="finder", embedder="not asked for")
    assert found == (model, DEFAULTS | told, "cpu", "finder") and settings == before


@given(st.lists(st.sampled_from(CONSTRAINTS), min_size=1, max_size=3, unique=True), st.integers(0, 10**9), st.booleans())
def test_names_are_written_as_they_are_read(without, seed, fused):
    name = f"qwen?without={','.join(without)}&seed={seed}" + ("+raw" if fused else "")
    condition = Condition.parse(name)
    assert str(condition) == name and condition.view == name.removesuffix("+raw")
    assert condition.views == (("frontal", "raw") if fused else ("frontal",))
    assert condition.settings == (("without", ",".join(without)), ("seed", str(seed)))
    assert not set(condition.file_name) & set("?&=:/ ")


@pytest.mark.parametrize(
    "query",
    ["", "sede=3", "seed", "seed=", "seed=3&seed=4", "seed=3&", "device=cuda", "estimator=x", "batch_size=1", "seed=3;preset=fast"],
)
def test_settings_that_are_none_give_one_line(query):
    with pytest.raises(ValueError, match="^expected (KEY=VALUE&... with keys out of preset, prompt, without, seed|a whole)") as caught:
        Condition.parse(f"qwen?{query}")
    assert "\n" not in str(caught.value) and "qwen?" in str(caught.value)


@pytest.mark.parametrize("query", ["seed=-1", "seed=x", "seed=1.5", "seed=²"])
def test_a_seed_is_a_whole_number(query):
    with pytest.raises(ValueError, match="expected a whole number as seed"):
        Condition.parse(f"qwen?{query}")


BESIDE = ["raw+raw", "oracle+raw", "raw+raw+3dmm", "raw+3dmm+raw", "3dmm", "+3dmm", "raw+3dmm+3dmm", "geometric+3dmm+raw", "raw@auto"]
NONE = ["geometric?seed=3", "mirrored?x=1", "plain?", "qwen:", "qwenx", "qwen:?seed=3", "refined?seed=1", "", "+raw", "geometric:x"]


@pytest.mark.parametrize("name", [*NONE, *BESIDE, "geometric+oracle", "raw_with_duplicates", "Geometric"])
def test_what_is_no_condition_is_answered_with_those_there_are(name):
    with pytest.raises(ValueError, match="expected a condition: raw, or a frontalizer, then @paper or @auto .*geometric.*found"):
        Condition.parse(name)


def test_every_registered_frontalizer_is_among_those_that_are_answered():
    with pytest.raises(ValueError) as caught:
        Condition.parse("frontal")
    forms = str(caught.value).partition("or not: ")[2].partition("; found")[0].split(", ")
    assert "" not in forms and {re.split("[:?]", form)[0].rstrip("[") for form in forms} == set(frontalizer)


def test_unknown_constraints_and_prompts_are_named():
    with pytest.raises(ValueError, match="expected constraints of pose, expression, local, identity; found nose"):
        get_frontalizer("qwen?without=nose")
    with pytest.raises(ValueError, match="at least one constraint"):
        get_frontalizer("qwen?without=pose,expression,local,identity")


def test_unknown_settings_of_a_run_are_named_beside_those_there_are():
    with pytest.raises(ValueError, match="^expected settings of qwen out of preset, prompt, without, seed; found sede, stops$"):
        get_frontalizer("qwen", {"stops": 1, "seed": 2, "sede": 3})
    with pytest.raises(ValueError, match="^expected settings of geometric out of none; found seed$"):
        get_frontalizer("geometric", {"seed": 1})


def test_settings_come_from_the_signature_and_what_the_run_gives_is_none():
    assert settings_of("qwen") == {"preset": "a100", "prompt": "constrained", "without": "", "seed": 0}
    assert settings_of("geometric") == settings_of("refined") == settings_of("imported") == {}


def test_which_conditions_are_compared():
    names = ["raw", "qwen", "qwen+raw", "geometric", "qwen:a/b@c?seed=3", "qwenish", "qwen?prompt=constrained+view"]
    assert prompt_conditions(names) == {"qwen": "A", "qwen:a/b@c?seed=3": "B", "qwen?prompt=constrained+view": "C"}
    assert prompt_conditions(["qwen?seed=1", "raw", "qwen?seed=0"]) == {"qwen?seed=1": "A", "qwen?seed=0": "B"}
    assert prompt_conditions(["raw", "qwen", "qwen+raw"]) == prompt_conditions([]) == {}


def test_conditions_of_equal_names_are_one_and_none_is_changed_in_place():
    found = {Condition.parse(name) for name in ("qwen?seed=3@auto+raw", "qwen?seed=3@auto+raw", "qwen?seed=4@auto+raw")}
    assert {str(condition) for condition in found} == {"qwen?seed=3@auto+raw", "qwen?seed=4@auto+raw"} and len(found) == 2
    with pytest.raises(FrozenInstanceError):
        found.pop().gate = ""


def test_a_run_stands_on_the_first_that_makes_pictures():
    assert str(main_condition(["plain", "mirrored+raw", "refined", "geometric@auto+raw", "imported"])) == "geometric@auto+raw"
    assert view_names(["geometric+raw", "geometric", "qwen?seed=1", "raw"]) == ["geometric", "qwen?seed=1"]


@pytest.mark.parametrize("name", ["geometric@auto", "geometric@paper+raw", "qwen:a/b@c?seed=3@auto+raw"])
def test_a_gate_stands_between_the_frontalizer_and_the_fusion(name):
    found = Condition.parse(name)
    assert str(found) == name and found.gate in ("auto", "paper") and found.is_method
    assert str(found.ungated) == name.replace("@auto", "").replace("@paper", "") and found.ungated.gate == "" and "@auto" not in found.view


@pytest.mark.parametrize(
    ("name", "words", "file_name"),
    [
        ("raw", "pictures as they are", "raw"),
        ("raw+3dmm", "pictures as they are + 3dmm", "raw+3dmm"),
        ("oracle", "true frontal views (oracle)", "oracle"),
        ("geometric@auto+raw", "frontalized: geometric@auto+raw", "geometric_auto+raw"),
        ("qwen:a/b?seed=3", "frontalized: qwen:a/b?seed=3", "qwen_a_b_seed_3"),
    ],
)
def test_a_condition_in_words_and_as_a_part_of_a_files_name(name, words, file_name):
    assert (Condition.parse(name).words, Condition.parse(name).file_name) == (words, file_name)


def test_a_models_revision_is_no_gate():
    found = Condition.parse("qwen:a/b@c")
    assert (found.model, found.gate) == ("a/b@c", "")


def test_both_views_side_by_side_weigh_the_same():
    rng = np.random.default_rng(0)
    seen, raw = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 5, 8)).astype(np.float32))
    both = fuse(Condition.parse("mirrored+raw"), seen, raw, np.empty((5, 0)))
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(both @ both.T, (seen @ seen.T + raw @ raw.T) / 2, atol=1e-6)
    morphable = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    names = {"mirrored+raw+3dmm": [seen, raw, morphable], "mirrored+3dmm": [seen, morphable], "raw+3dmm": [seen, morphable]}
    for name, parts in names.items():
        fused = fuse(Condition.parse(name), seen, raw, morphable)
        np.testing.assert_allclose(fused @ fused.T, sum(part @ part.T for part in parts) / len(parts), atol=1e-6)
    one = fuse(Condition.parse("raw+3dmm"), seen, raw, np.ones((5, 1), np.float32))
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
    assert one.shape == (5, 9) and one.dtype == np.float32
    unknown = fuse(Condition.parse("mirrored+raw+3dmm"), seen, raw, np.empty((5, 0), np.float32))
    np.testing.assert_allclose(unknown, both, atol=1e-6)


@pytest.mark.parametrize(
    "name, views, method",
    [
        ("raw+3dmm", ("raw", "3dmm"), False),
        ("oracle+3dmm", ("frontal", "3dmm"), False),
        ("geometric+3dmm", ("frontal", "3dmm"), True),
        ("normalized@auto+raw+3dmm", ("frontal", "raw", "3dmm"), True),
        ("qwen:a/b@c?seed=3@paper+raw+3dmm", ("frontal", "raw", "3dmm"), True),
    ],
)
def test_what_stands_beside_is_read_and_written(name, views, method):
    found = Condition.parse(name)
    assert (str(found), found.views, found.is_method) == (name, views, method)
    assert "3dmm" not in found.view and name.endswith("+3dmm") and "3dmm" in found.words


def test_what_is_shown_is_kept_below_the_folder_of_the_runs_or_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    images = PictureList([Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)) for _ in range(4)])
    poses, landmarks = np.array([[50.0, 0, 0], [np.nan] * 3, [-40.0, 0, 0], [0.0, 0, 0]]), np.full((4, 68, 2), np.nan)
    mirror, turned = get_frontalizer("mirrored"), [True, False, True, True]  # however frontal, where the pose is known
    kept, held = (show(mirror, images, pd.DataFrame(index=range(4)), poses, landmarks, out) for out in (tmp_path, None))
    assert len(list((tmp_path / STORE).rglob("*.png"))) == 3
    for view, on_disk in ((kept, True), (held, False)):
        assert view.id == "mirrored" and view.table["status"].tolist() == ["done" if each else "kept" for each in turned]
        assert [bool(file) for file in view.table["file"]] == [each and on_disk for each in turned]
        for row, each in enumerate(turned):
            expected = np.asarray(images[row])[:, ::-1] if each else np.asarray(images[row])
            np.testing.assert_array_equal(np.asarray(view.pictures[row]), expected)


def test_what_another_program_frontalized_is_shown_as_it_is(tmp_path):
    images = PictureList([Image.new("RGB", (12, 12), colour) for colour in ("red", "green")])
    faces = pd.DataFrame({"image": ["a.jpg", "b.jpg"]})
    Image.new("RGB", (12, 12), "blue").save(tmp_path / "a.png")
    poses, landmarks = np.array([[60.0, 0, 0], [0.0, 0, 0]]), np.full((2, 68, 2), np.nan)
    view = show(get_frontalizer("imported", directory=tmp_path, device="cpu"), images, faces, poses, landmarks, tmp_path / "out")
    assert [view.pictures[row].getpixel((5, 5)) for row in (0, 1)] == [(0, 0, 255), (0, 128, 0)]
    assert view.table["status"].tolist() == ["done", "kept"] and view.id.startswith("imported@") and not (tmp_path / "out").exists()
