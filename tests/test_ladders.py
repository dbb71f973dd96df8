"""Ladders as data: what each rung changes, which stays the reference, and which are left out."""
import itertools

import numpy as np
import pytest

from qcfer.classify.afp import AFP
from qcfer.classify.esv import PRESETS
from qcfer.classify.ladders import (
    LADDERS,
    ONE_LR,
    UNWEIGHTED,
    Ladder,
    choices_ladder,
    extractor_ladder,
    pca_ladder,
    seeds_ladder,
)
from qcfer.classify.train import AS_SELECTED, Method, make_estimator

@pytest.mark.parametrize("name", LADDERS)
def test_built_in_ladders_end_in_the_whole_method_where_they_say_so(name):
    whole = Method("geometric", esv={"voting": "weighted"}, seed=3)
    ladder = LADDERS[name]
    rungs = ladder.methods(whole)
    assert ladder.reference in rungs and all(rung.seed == 3 for rung in rungs.values())
    if ladder.cumulative:
        assert list(rungs)[-1] == ladder.reference and rungs[ladder.reference] == whole
        assert [rung.condition for rung in rungs.values()] == ["raw"] + ["geometric"] * (len(rungs) - 1)
    unturned = ladder.methods(Method())
    assert not {"+ PFN", "+ pose normalization", "+ 3DMM features"} & set(unturned)


@pytest.mark.parametrize("search", [None, {}], ids=["configured", "searched"])
@pytest.mark.parametrize("name", ["modules", "components"])
def test_what_stands_beside_the_views_is_a_rung_of_its_own(name, search):
    ladder = LADDERS[name]
    assert "+ 3DMM features" not in ladder.methods(Method("geometric@auto+raw", search=search))
    rungs = ladder.methods(Method("geometric@auto+raw+3dmm", search=search))
    assert [rung.condition for rung in rungs.values()][:3] == ["raw", "geometric@auto+raw", "geometric@auto+raw+3dmm"]
    assert list(rungs)[2] == "+ 3DMM features" and {rung.condition for rung in list(rungs.values())[2:]} == {"geometric@auto+raw+3dmm"}


@pytest.mark.parametrize("name", LADDERS)
@pytest.mark.parametrize(
    "method",
    [
        Method("geometric", esv=ONE_LR),
        Method("geometric", esv={"candidates": {"LR": 1, "RF": 1}, "voting": "soft"}),
        Method(afp=None, esv=UNWEIGHTED),
        Method(esv={"cv": 5}),
    ],
    ids=["one LR", "soft LR + RF", "bare", "five folds"],
)
def test_the_reference_stays_whatever_it_equals(name, method):
    ladder = LADDERS[name]
    rungs = ladder.methods(method)
    assert ladder.reference in rungs and rungs[ladder.reference] == method.changed(ladder.rungs[ladder.reference])
    made = list(rungs.values())
    assert all(one != two for one, two in itertools.pairwise(made))


def test_of_twins_the_reference_stays():
    assert list(LADDERS["modules"].methods(Method("geometric", esv=ONE_LR))) == ["embedding + LR", "+ PFN", "+ ESV (full)"]
    same = {"a": {}, "b": {}, "c": {}, "other": {"seed": 1}, "d": {}}
    assert list(Ladder("", same, "c").methods(Method())) == ["c", "other", "d"]  # twins that are no neighbours do no harm
    assert list(Ladder("", same, "a").methods(Method())) == ["a", "other", "d"]


def test_the_yardstick_is_the_same_whatever_is_configured():
    own = {"normalize": False, "scaling": None, "n_components": 7, "whiten": True, "unit": True}
    assert set(own) == set(AFP().get_params()) - {"random_state"}  # a new setting of AFP belongs into the yardstick, too
    plain, configured = (LADDERS["reference"].methods(Method(afp=afp))["reference: SVC"] for afp in ({}, own))
    assert configured == plain
    afp = make_estimator(plain, np.zeros(0))[0]
    assert afp.get_params() == AFP(normalize=False, scaling="standard", random_state=0).get_params()


def test_components_change_one_thing_at_a_time():
    rungs = LADDERS["components"].methods(Method("geometric"))
    settings = [(rung.condition, rung.afp, rung.esv) for rung in rungs.values()]
    changed = [sum(one != two for one, two in zip(before, after)) for before, after in itertools.pairwise(settings)]
    assert changed == [1, 1, 1, 1, 1]
    assert rungs["+ class weights"].esv == ONE_LR


def test_ladders_of_the_run():
    assert list(pca_ladder(30_000, 1280).rungs) == ["128", "256", "384", "512", "640", "768", "1024"]
    assert pca_ladder(2_000, 1280).reference == "256"
    assert list(pca_ladder(100, 1280).rungs) == ["50"]
    assert list(extractor_ladder("effnet_lite0", ["timm:x", "effnet_lite0"]).rungs) == ["effnet_lite0", "timm:x"]
    assert list(seeds_ladder(4, 3).rungs) == ["seed 4", "seed 5", "seed 6"]
    choices = choices_ladder(["LR C=1"], 2_000, 1280)
    assert choices.methods(Method())["whitened"] == Method(afp={"whiten": True}, esv=AS_SELECTED | {"candidates": ["LR C=1"]})
    assert choices.methods(Method())[choices.reference] == Method()
    assert "PCA 512" in choices.rungs and "PCA 256" not in choices.rungs  # which 2,000 rows have anyway
    assert len({str(change) for change in choices.rungs.values()}) == len(choices.rungs)


def test_the_seeds_reach_the_ensemble():
    rungs = seeds_ladder(4, 3).methods(Method(seed=4)).values()
    assert [make_estimator(rung, np.zeros(0)).random_state for rung in rungs] == [4, 5, 6]
    with pytest.raises(ValueError, match="^expected one seed for all; found esv setting random_state=7: set seed instead$"):
        Method(esv={"random_state": 7})


def test_rungs_without_directions_whiten_none():
    method = Method(afp={"whiten": True})
    made = LADDERS["components"].methods(method)["+ robust scaling"], choices_ladder(["LR C=1"], 2_000, 1280).methods(method)["no PCA"]
    assert [rung.afp for rung in made] == [{"n_components": None, "whiten": False}] * 2


def test_a_choice_without_effect_is_left_out():
    some = {"no SVM beyond 20,000 rows", "SVM with C = 1"}
    assert not some & set(choices_ladder(["LR C=1", "SVM C=1"], 20_000, 1280).rungs)
    assert not some & set(choices_ladder(["LR C=1"], 60_001, 1280).rungs)  # so many rows have no kernel machine anyway
    rungs = choices_ladder(["SVM C=5", "LR C=1", "SVM C=1"], 30_000, 1280).methods(Method())
    assert rungs["SVM with C = 1"] == Method(esv=AS_SELECTED | {"candidates": ["SVM C=1", "LR C=1"]})
    assert rungs["no SVM beyond 20,000 rows"] == Method(esv={"svm_max_samples": 20_000})


@pytest.mark.parametrize("candidates", [*PRESETS, {"LR": 1, "RF": 1}])
def test_how_many_vote_is_no_choice_where_counts_of_kinds_say_it(candidates):
    choices, counted = choices_ladder(["LR C=1"], 2_000, 1280), {"one voter", "all candidates vote"}
    rungs = choices.methods(Method(esv={"candidates": candidates}))
    assert set(choices.rungs) - set(rungs) == counted and choices.reference in rungs
    assert not counted & set(choices.methods(Method(esv={"cv": None})))
    assert counted <= set(choices.methods(Method(esv={"candidates": "LR", "top_m": 2})))


@pytest.mark.parametrize("name", [*LADDERS, "choices"])
def test_a_searched_method_has_rungs_that_are_searched_as_it_is(name):
    whole = Method("geometric", search={"metric": "macro_f1"})
    ladder = choices_ladder(["LR C=1 unscaled PCA"], 30_000, 1280) if name == "choices" else LADDERS[name]
    rungs = ladder.methods(whole)
    assert ladder.reference in rungs and len(rungs) > 1
    for rung, method in rungs.items():
        make_estimator(method, np.zeros(0))
        assert method.search is None or method.search["metric"] == "macro_f1"
        assert method.search is not None or rung in ("reference: SVC", "the paper's AFP and ESV") or name == "choices"
    if ladder.cumulative:
        assert rungs[ladder.reference] == whole and all(method.search is not None for method in rungs.values())


def test_each_rung_of_a_searched_ladder_may_choose_among_all_that_the_one_before_may():
    rungs = [make_estimator(method, np.zeros(0)) for method in LADDERS["components"].methods(Method("geometric", search={})).values()]
    spaces = [set(rung.usable_candidates(np.zeros(1000, int))) for rung in rungs]
    assert all(one <= other for one, other in itertools.pairwise(spaces)) and len(spaces[0]) == 1
    assert [rung.vote for rung in rungs] == [False] * 5 + [True]
