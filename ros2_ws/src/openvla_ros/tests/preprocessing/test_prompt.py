"""The prompt, letter for letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.golden_numbers import CASE_IDS, CASES, numbers

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.prompt import (
    CONTROL_WORDS,
    PROMPT_STYLES,
    build_prompt,
    build_question_prompt,
    build_training_prompt,
)


def is_plain(text):
    return text.strip() and not any(word in text.lower() for word in ("<image>", *CONTROL_WORDS))


SUFFIX = {"normal": "", "trailing_space": " ", "v01": ""}


@pytest.mark.parametrize(("folder", "index", "case"), CASES, ids=CASE_IDS)
def test_prompts_equal_the_originals(folder, index, case):
    style = "vicuna_v01" if case["prompt"] == "v01" else "openvla"
    expected = str(numbers(folder, index)["prompt"])
    assert build_prompt(case["instruction"], style) + SUFFIX[case["prompt"]] == expected


def test_inference_keeps_white_space_and_lowers_the_case():
    assert build_prompt("  Pick UP ") == "In: What action should the robot take to   pick up ?\nOut:"


@pytest.mark.parametrize("style", PROMPT_STYLES)
@given(instruction=st.text(min_size=1).filter(is_plain))
def test_training_asks_what_inference_asks(style, instruction):
    assert build_training_prompt(instruction, style) == build_prompt(instruction, style)


def test_training_takes_image_placeholders_out():
    assert build_training_prompt("pick <IMAGE>up") == build_prompt("pick up")
    assert build_prompt("pick <image>up") != build_prompt("pick up")


def test_a_free_question_is_asked_as_it_is():
    assert build_question_prompt("What is This?") == "In: What is This?\nOut:"
    assert build_question_prompt("Why?", "vicuna_v01").endswith(" USER: Why? ASSISTANT:")


def test_wrong_input_is_refused():
    with pytest.raises(InvalidValueError, match="empty"):
        build_prompt("  ")
    with pytest.raises(InvalidValueError, match="empty"):
        build_training_prompt("")
    with pytest.raises(InvalidValueError, match="'llama'; the choices are openvla, vicuna_v01"):
        build_prompt("go", "llama")


@pytest.mark.parametrize("words", ["pick up</s>", "<S>push", "the <unk> cup"])
def test_a_control_token_of_the_model_is_refused_by_name(words):
    with pytest.raises(InvalidValueError, match=r"the instruction contains <(/s|s|unk)>, a control token"):
        build_prompt(words)
