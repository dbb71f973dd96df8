"""Settings: where they come from, which wins, and how a wrong one is answered."""
from dataclasses import fields

import pytest

from qcfer.run.config import Config, assign, defaults_of, gate_of, make_config

def test_each_source_overrides_the_one_before(tmp_path):
    params = tmp_path / "mine.yaml"
    params.write_text("config:\n  seed: 2\n  esv: {candidates: LR, top_m: 2}\n  conditions: [plain]\n")
    config = make_config("fer2013", params, ["esv.top_m=3", "afp.whiten=true"], seed=4, conditions=None)
    assert defaults_of("fer2013")["conditions"][0] == "normalized@auto+raw+3dmm" and config.conditions == ["plain"]
    assert (config.seed, config.esv, config.afp) == (4, {"candidates": "LR", "top_m": 3}, {"whiten": True})
    assert config.ladders == defaults_of("fer2013")["ladders"]


def test_a_sets_defaults_are_not_changed_by_what_is_typed():
    before = defaults_of("rafdb")
    make_config("rafdb", None, ["esv.candidates=LR", "gate.embedder=0.1"])
    assert defaults_of("rafdb") == before


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("esv.candidates", "expected SETTING=VALUE"),
        ("=3", "expected SETTING=VALUE"),
        ("esv.=3", "expected SETTING=VALUE"),
        ("seed.part=3", "found seed|expected a whole number"),
        ("esv.candidates=[", "expected a value as YAML"),
        ("sede=3", "found sede: did you mean seed"),
        ("esv.candidate=LR", "found candidate: did you mean candidates"),
        ("afp.n_component=3", "did you mean n_components"),
        ("gate.embeder=0.7", "did you mean embedder"),
        ("gate.embedder=7", "expected a threshold embedder from 0 to 1"),
        ("frontalizers.qwen.sed=7", "expected settings of qwen out of .*did you mean seed"),
        ("frontalizers.qven.seed=7", "did you mean qwen"),
        ("ladders=[module]", "did you mean modules"),
        ("pose=auto3", "expected a pose estimator out of .*did you mean auto"),
        ("seed=x", "expected a whole number for seed; found 'x'"),
        ("seed=true", "expected a whole number for seed; found True"),
        ("esv=LR", "expected a table for esv; found 'LR'"),
        ("conditions={a: 1}", "expected a list of words for conditions"),
        ("embedder=3", "expected a word for embedder; found 3"),
        ("device=tpu", "expected the device cpu"),
    ],
)
def test_a_wrong_setting_is_answered_in_one_line_before_any_work(assignment, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_config("posebench", None, [assignment])
    assert "\n" not in str(caught.value)


def test_anything_a_file_can_say_can_be_typed():
    settings = {}
    assign(settings, [f"{each.name}=1" for each in fields(Config)])
    assert set(settings) == {each.name for each in fields(Config)}


def test_identity_takes_a_recogniser(tmp_path):
    model = tmp_path / "arcface.onnx"
    model.touch()
    assert gate_of(Config("folder")).identity is None
    with pytest.raises(ValueError, match="expected a recogniser for the gate's threshold identity; found none: add --recogniser FILE"):
        Config("folder", gate={"identity": 0.78})
    assert gate_of(Config("folder", gate={"identity": 0.7}, recogniser=str(model))).identity == 0.7
    assert gate_of(Config("folder", recogniser=str(model))).identity == 0.78  # the paper's
    with pytest.raises(ValueError, match="expected an ArcFace model .ONNX. for the recogniser; found no file at absent.onnx"):
        Config("folder", recogniser="absent.onnx")


@pytest.mark.parametrize("name", ["fer2013", "ferplus", "rafdb", "affectnet7", "expw", "posebench", "folder", "hf"])
def test_the_defaults_of_every_set_are_accepted(name):
    assert make_config(name, root="x").dataset == name
