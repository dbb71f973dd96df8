"""What an editing model is asked for: the paper's words, and each constraint by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcfer.frontalize.prompt import CONSTRAINTS, PROMPTS, Prompt, get_prompt

def test_the_papers_words():
    assert PROMPTS["constrained"].text() == (
        "Turn profile to frontal, keep the expression unchanged, keep the size of the open or closed mouth, "
        "maintain the degree of frowning, keep the size of the open or closed eyes, preserve facial identity."
    )
    assert PROMPTS["single_sentence"].text() == (
        "Please convert this profile photo to a frontal view while keeping the facial expression unchanged."
    )


@given(st.sets(st.sampled_from(CONSTRAINTS), max_size=3), st.sampled_from(sorted(PROMPTS)))
def test_a_constraint_switched_off_takes_its_words_along_and_no_others(off, name):
    kept = [words for each in CONSTRAINTS if (words := getattr(PROMPTS[name], each)) and each not in off]
    if not kept:
        with pytest.raises(ValueError, match="at least one constraint"):
            PROMPTS[name].without(*off)
        return
    text = PROMPTS[name].without(*off).text()
    assert [words.lower() in text.lower() for words in kept] == [True] * len(kept)
    gone = [getattr(PROMPTS[name], each) for each in off if getattr(PROMPTS[name], each)]
    assert not any(words.lower() in text.lower() for words in gone)
    assert text[0].isupper() and text.endswith(".") and "  " not in text and ", ." not in text and ",," not in text
    assert get_prompt("-".join([name, *off])) == PROMPTS[name].without(*off)


@pytest.mark.parametrize("yaw, words", [(61.9, "60 degrees to the right"), (-33.0, "35 degrees to the left"), (88.0, "90 degrees")])
def test_the_view_is_named_by_side_and_angle(yaw, words):
    assert words in get_prompt("constrained+view").text(yaw)
    assert get_prompt("constrained+view").text(yaw).startswith(get_prompt("constrained").text())


def test_the_view_is_left_out_where_it_is_unknown_or_not_asked_for():
    assert get_prompt("constrained+view").text(float("nan")) == get_prompt("constrained").text(60.0)


@pytest.mark.parametrize("spec", ["", "constrain", "constrained+", "constrained-Local", "constrained local", "constrained+view-local"])
def test_a_spec_that_names_no_prompt(spec):
    with pytest.raises(ValueError, match="^expected one of constrained, single_sentence"):
        get_prompt(spec)
    with pytest.raises(ValueError, match="at least one constraint"):
        Prompt()
