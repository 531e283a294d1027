"""Vision-language data: questions and answers about images, learned alongside actions.

Co-fine-tuning preserves a model's language knowledge while it learns to act (RT-2, arXiv 2307.15818). A
dataset is a JSON-lines file, or a folder with ``questions.jsonl``, of objects with ``image`` (a path
relative to the file), ``question`` and ``answer``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.integrity.text_file import read_text
from openvla_ros.preprocessing.image_file import read_image
from openvla_ros.values.arrays import Image

LIST = "questions.jsonl"
_FIELDS = ("image", "question", "answer")


@dataclass(frozen=True)
class QuestionAnswer:
    """One pair about one image."""

    image: Path
    question: str
    answer: str

    def pixels(self) -> Image:
        """Return the image as RGB; raises ``DatasetError`` if it cannot be read."""
        try:
            return read_image(self.image)
        except InvalidValueError as error:
            raise DatasetError(str(error)) from error


def read_questions(path: Path) -> list[QuestionAnswer]:
    """Return the pairs of a dataset; raises ``DatasetError`` naming the file, the line and what is wrong."""
    file = path / LIST if path.is_dir() else path
    lines = read_text(file, DatasetError).splitlines()
    pairs = [_pair(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise DatasetError(f"{file} contains no questions")
    return pairs


def _pair(file: Path, number: int, line: str) -> QuestionAnswer:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{file}:{number}: not valid JSON: {error}") from error
    for name in _FIELDS:
        value = data.get(name) if isinstance(data, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise DatasetError(
                f"{file}:{number}: {name} is {value!r}; it must be text ({', '.join(_FIELDS)})"
            )
    image = file.parent / data["image"]
    if not image.is_file():
        raise DatasetError(f"{file}:{number}: image {image} does not exist")
    return QuestionAnswer(image, data["question"], data["answer"])
