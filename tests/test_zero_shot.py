"""Zero-shot classification: equal to open_clip's own code, and picky about the file of prompts."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.labels import CLASSES
from qcfer.embed import zero_shot as module
from qcfer.embed.embedders import get_embedder
from qcfer.embed.zero_shot import Prompts, load_prompts, zero_shot

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip", reason="qcfer[clip] is not installed")

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    "A tiny CLIP whose random weights are in a file."
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-text-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-text-clip.json")
    torch.manual_seed(5)
    torch.save(open_clip.create_model("tiny-text-clip").state_dict(), folder / "random.pt")
    return f"open_clip:tiny-text-clip@{folder}/random.pt"


@pytest.fixture(scope="module")
def features(spec):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(9)]
    return get_embedder(spec).embed(images)


def reference(spec, features, prompts):
    "open_clip's own zero-shot path."
    name, _, file = spec.removeprefix("open_clip:").partition("@")
    network = open_clip.create_model(name, pretrained=file).eval()
    weights = open_clip.build_zero_shot_classifier(network, open_clip.get_tokenizer(name), prompts.names, prompts.templates)
    with torch.no_grad():
        logits = network.logit_scale.exp() * torch.from_numpy(features) @ weights
    return weights.T.numpy(), logits.softmax(1).numpy()


@pytest.mark.parametrize("count", [1, 6])
def test_it_equals_open_clips_own_classifier(spec, features, count):
    prompts = load_prompts()
    prompts = replace(prompts, templates=prompts.templates[:count])
    weights, expected = reference(spec, features, prompts)
    np.testing.assert_allclose(module._class_vectors(*module._text_model(spec, "cpu"), prompts), weights, atol=1e-5)
    found = zero_shot(spec, features, prompts)
    assert found.dtype == np.float32 and found.shape == (9, 7)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_the_models_own_scale_is_used(spec, features, tmp_path):
    state = torch.load(spec.partition("@")[2], weights_only=True)
    state["logit_scale"] += 1.0
    torch.save(state, tmp_path / "sharper.pt")
    plain, sharper = zero_shot(spec, features), zero_shot(f"open_clip:tiny-text-clip@{tmp_path}/sharper.pt", features)
    expected = plain.astype(float) ** np.e
    np.testing.assert_allclose(sharper, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_the_packaged_prompts_are_the_default_and_no_face_at_all_is_fine(spec, features):
    np.testing.assert_array_equal(zero_shot(spec, features), zero_shot(spec, features, load_prompts("")))
    assert zero_shot(spec, features[:0]).shape == (0, 7)


@pytest.mark.parametrize("other", ["effnet_lite0", "timm:resnet18?random=0", ""])
def test_a_model_that_cannot_read(other, features):
    with pytest.raises(ValueError, match="expected an embedder that reads text, open_clip:ARCHITECTURE/TAG; found"):
        zero_shot(other, features)


def test_features_of_another_model(spec):
    for rows in (np.zeros((3, 23)), np.zeros(24), np.zeros((2, 3, 24))):
        with pytest.raises(ValueError, match=r"expected features \(N, 24\) of open_clip:tiny.*; found shape"):
            zero_shot(spec, rows)


# The file of prompts


GOOD = {"classes": {name: f"{name} indeed" for name in CLASSES}, "templates": ["a {}.", "one more {} face"]}


def written(folder, text):
    path = folder / "own.yaml"
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def test_the_packaged_file_has_a_word_for_each_class_and_several_templates():
    prompts = load_prompts()
    assert len(prompts.names) == 7 and len(set(prompts.names)) == 7 and len(prompts.templates) >= 5
    assert prompts.sentences[3][0] == "a photo of a person who looks happy."


def test_a_file_of_ones_own(tmp_path):
    prompts = load_prompts(written(tmp_path, GOOD))
    assert prompts == Prompts(tuple(GOOD["classes"].values()), ("a {}.", "one more {} face"))
    assert prompts.sentences[0] == ["a anger indeed.", "one more anger indeed face"]


def test_the_id_tells_any_two_files_apart():
    base = Prompts(tuple(CLASSES), ("a {}.", "b {}."))
    others = [replace(base, templates=("a {}.",)), replace(base, templates=("b {}.", "a {}.")), replace(base, names=tuple(CLASSES[::-1]))]
    assert len({each.id for each in (base, *others)}) == 4
    assert base.id == Prompts(tuple(CLASSES), ("a {}.", "b {}.")).id


FAULTS = [
    ("", "two entries"),
    ("- a\n- b", "two entries"),
    ({**GOOD, "more": 1}, "two entries"),
    ({"classes": GOOD["classes"]}, "two entries"),
    ({**GOOD, "classes": {**GOOD["classes"], "contempt": "c"}}, "words for each of anger"),
    ({**GOOD, "classes": dict(list(GOOD["classes"].items())[1:])}, "words for each of anger"),
    ({**GOOD, "classes": {**GOOD["classes"], "anger": 3}}, "words for each of anger"),
    ({**GOOD, "classes": {**GOOD["classes"], "anger": " "}}, "words for each of anger"),
    ({**GOOD, "templates": []}, "expected templates"),
    ({**GOOD, "templates": "a {}"}, "expected templates"),
    ({**GOOD, "templates": ["a {} {}"]}, "expected templates"),
    ({**GOOD, "templates": ["a {0.__class__}"]}, "expected templates"),
    ("{", "expected YAML"),
    ("a: !!python/object/apply:os.system ['echo']", "expected YAML"),
    ("[" * 5000, "expected YAML"),
]


@pytest.mark.parametrize("text, words", FAULTS)
def test_another_file_gives_one_clear_line(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=words) as caught:
        load_prompts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_bytes_that_are_no_text_and_no_file_at_all(tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="expected YAML"):
        load_prompts(tmp_path / "own.yaml")
    with pytest.raises(OSError):
        load_prompts(tmp_path / "absent.yaml")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80) | st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_whatever_the_file_holds_it_is_prompts_or_a_value_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", errors="replace")
    with pytest.raises(ValueError, match="^expected"):
        load_prompts(path)
