"""The prompt, spelled exactly as in training.

Text only; the tokenizer turns it into ids. ``openvla`` is the format of openvla-7b and its fine-tunes,
``vicuna_v01`` that of the first release (openvla-v01-7b, on Vicuna 1.5).
"""

from __future__ import annotations

from typing import Literal, get_args

from openvla_ros.errors import InvalidValueError

PromptStyle = Literal["openvla", "vicuna_v01"]
PROMPT_STYLES: tuple[PromptStyle, ...] = get_args(PromptStyle)

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_IMAGE_PLACEHOLDER = "<image>"
# What Llama 2's tokenizer reads as one control token wherever it stands.
CONTROL_WORDS = ("<s>", "</s>", "<unk>")


def build_prompt(instruction: str, style: PromptStyle = "openvla") -> str:
    """Return the prompt that asks for an action, without a trailing space.

    The instruction is converted to lower case; its white space is kept. Raises ``InvalidValueError`` for an
    empty instruction, one with a word that would end or begin the text for the model, or an unknown style.
    """
    if not instruction.strip():
        raise InvalidValueError("the instruction is empty")
    if found := [word for word in CONTROL_WORDS if word in instruction.lower()]:
        raise InvalidValueError(
            f"the instruction contains {', '.join(found)}, a control token to the model; leave it out"
        )
    return build_question_prompt(_action_question(instruction), style)


def build_training_prompt(instruction: str, style: PromptStyle = "openvla") -> str:
    """Return the prompt that a training example starts with.

    It differs from ``build_prompt`` in the same way as in the original: image placeholders are removed from
    the turn, and white space around the whole turn is stripped. The action tokens follow after one space,
    then the end-of-sequence token.
    """
    if not instruction.strip():
        raise InvalidValueError("the instruction is empty")
    turn = _action_question(instruction).replace(_IMAGE_PLACEHOLDER, "").strip()
    return build_question_prompt(turn, style)


def build_question_prompt(question: str, style: PromptStyle = "openvla") -> str:
    """Return the prompt for a free-form question, in Prismatic's format."""
    match style:
        case "openvla":
            return f"In: {question}\nOut:"
        case "vicuna_v01":
            return f"{_VICUNA_SYSTEM} USER: {question} ASSISTANT:"
        case _:
            raise InvalidValueError(f"prompt style {style!r}; the choices are {', '.join(PROMPT_STYLES)}")


def _action_question(instruction: str) -> str:
    return f"What action should the robot take to {instruction.lower()}?"
