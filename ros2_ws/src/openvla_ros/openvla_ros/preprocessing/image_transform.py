"""The image transform: a camera image to the pixels for the vision towers.

``ImageTransform`` follows a checkpoint's ``preprocessor_config.json`` and is bit-exact with the original
processor (PIL resampling, then float32 arithmetic). Training, evaluation and the live policy use the same
object. Knows nothing of models and torch; TensorFlow's resampling, which evaluation needs, is in
``tf_image_ops``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_transform_config import ConfigFields
from openvla_ros.preprocessing.tf_image_ops import crop_center
from openvla_ros.values.arrays import Image, image_array

ResizeStrategy = Literal["resize-naive", "letterbox", "resize-crop"]
RESIZE_STRATEGIES: tuple[ResizeStrategy, ...] = get_args(ResizeStrategy)

# torchvision's integer and PIL's are the same numbers (0 nearest .. 5 hamming).
_RESAMPLING = {
    "nearest": PILImage.Resampling.NEAREST,
    "lanczos": PILImage.Resampling.LANCZOS,
    "bilinear": PILImage.Resampling.BILINEAR,
    "bicubic": PILImage.Resampling.BICUBIC,
    "box": PILImage.Resampling.BOX,
    "hamming": PILImage.Resampling.HAMMING,
}

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class TowerTransform:
    """The transform of one vision tower's pixels, after padding."""

    size: int | tuple[int, int]  # shorter side, or (height, width) regardless of the aspect
    crop: tuple[int, int]  # (height, width) cut from the middle
    resampling: PILImage.Resampling
    mean: RGB  # of pixels scaled to 0 .. 1
    std: RGB

    def __call__(self, image: PILImage.Image) -> NDArray[np.float32]:
        """Return the normalised pixels (3, H, W) float32 of an RGB image."""
        levels = self.levels(image).transpose(2, 0, 1)
        return np.ascontiguousarray(self._normalise(levels.reshape(3, -1)).reshape(levels.shape))

    def levels(self, image: PILImage.Image) -> Image:
        """Return this tower's input image (H, W, 3) uint8, before normalisation."""
        return np.asarray(_crop_middle(_resize(image, self.size, self.resampling), self.crop))

    def normalised_levels(self) -> NDArray[np.float32]:
        """Return the normalised value of each level of each channel (3, 256)."""
        return self._normalise(np.tile(np.arange(256, dtype=np.uint8), (3, 1)))

    def _normalise(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return levels (3, N), scaled to 0 .. 1, minus the channels' means, divided by their deviations."""
        scaled = levels.astype(np.float32) / np.float32(255.0)
        mean, std = (np.array(values, dtype=np.float32)[:, None] for values in (self.mean, self.std))
        normalised: NDArray[np.float32] = (scaled - mean) / std
        return normalised


@dataclass(frozen=True)
class ImageTransform:
    """A checkpoint's transform: one ``TowerTransform`` per tower, stacked along the channels."""

    strategy: ResizeStrategy
    towers: tuple[TowerTransform, ...]
    letterbox_fill: tuple[int, int, int] | None = None  # colour of the padding to a square, 0 .. 255

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], origin: str = "preprocessor_config.json"
    ) -> ImageTransform:
        """Return the transform for a ``preprocessor_config.json``.

        The saved ``tvf_*`` parameters take precedence over ``means``, ``stds`` and ``interpolations``, as
        in the original: the published ones are rounded to bfloat16. Raises ``CheckpointError`` naming
        ``origin``, the key, its value and the choices.
        """
        reader = ConfigFields(config, origin)
        towers = tuple(_tower_from_config(reader, index) for index in range(_tower_count(reader)))
        if len({tower.crop for tower in towers}) > 1:
            raise reader.error("input_sizes", "all towers must have the same size")
        return cls(
            strategy=_strategy(reader.get("image_resize_strategy"), reader),
            towers=towers,
            letterbox_fill=_letterbox_fill(reader, towers),
        )

    def __call__(self, image: Any, center_crop: bool = False) -> NDArray[np.float32]:
        """Return the pixels (3 × towers, H, W) float32 of one image.

        ``image`` is uint8 (H, W, 3) RGB or any PIL image. ``center_crop`` first crops to the middle 90%
        of the area, for models that were trained with random crops.
        """
        prepared = self._prepared(image, center_crop)
        return np.concatenate([tower(prepared) for tower in self.towers])

    def levels(self, image: Any, center_crop: bool = False) -> Image:
        """Return the towers' input images before normalisation, uint8 (views, H, W, 3).

        There is one view if all towers resize alike, otherwise one per tower.
        """
        prepared = self._prepared(image, center_crop)
        towers = self.towers[:1] if self._resize_alike else self.towers
        return np.stack([tower.levels(prepared) for tower in towers])

    def resized(self, image: Any) -> Image:
        """Return the towers' common input image uint8 (H, W, 3), before normalisation.

        Transforming the result is the same as transforming ``image``, so it can be stored instead. Raises
        ``InvalidValueError`` if the towers resize differently.
        """
        if not self._resize_alike:
            raise InvalidValueError("the towers resize differently, so there is no common resized image")
        return self.towers[0].levels(self._prepared(image, center_crop=False))

    @property
    def _resize_alike(self) -> bool:
        return len({(tower.size, tower.crop, tower.resampling) for tower in self.towers}) == 1

    def _prepared(self, image: Any, center_crop: bool) -> PILImage.Image:
        rgb = to_rgb(image)
        cropped = PILImage.fromarray(crop_center(rgb) if center_crop else rgb)
        return cropped if self.letterbox_fill is None else _letterbox(cropped, self.letterbox_fill)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        return self.towers[0].crop

    def describe(self) -> dict[str, Any]:
        """Return the transform as JSON values, for ``from_description``."""
        return {
            "strategy": self.strategy,
            "letterbox_fill": None if self.letterbox_fill is None else list(self.letterbox_fill),
            "towers": [
                {
                    "size": tower.size if isinstance(tower.size, int) else list(tower.size),
                    "crop": list(tower.crop),
                    "resampling": tower.resampling.name.lower(),
                    "mean": list(tower.mean),
                    "std": list(tower.std),
                }
                for tower in self.towers
            ],
        }

    @classmethod
    def from_description(cls, data: Mapping[str, Any], origin: str) -> ImageTransform:
        """Return the transform that ``describe`` wrote; raises ``CheckpointError``."""
        reader = ConfigFields(data, origin)
        reader.only("strategy", "letterbox_fill", "towers")
        fill = reader.get("letterbox_fill")
        return cls(
            strategy=_strategy(reader.get("strategy"), reader, "strategy"),
            towers=tuple(
                _tower_from_description(ConfigFields(tower, f"{origin}: towers[{index}]"))
                for index, tower in enumerate(reader.rows("towers"))
            ),
            letterbox_fill=None if fill is None else _fill(reader, "letterbox_fill", fill),
        )


def to_rgb(image: Any) -> Image:
    """Return any PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), as RGB uint8.

    Raises ``InvalidValueError`` for anything else; the range of floats is never guessed.
    """
    if isinstance(image, PILImage.Image):
        return image_array("image", np.asarray(image.convert("RGB")))
    array = np.asarray(image)
    if array.dtype == np.uint8 and array.ndim == 2:
        array = array[:, :, None]
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 4:
        array = array[:, :, :3]
    if 0 in array.shape:
        raise InvalidValueError(f"image of shape {array.shape} has no pixels")
    return image_array("image", np.ascontiguousarray(array))


def rotate(image: Image, degrees: int) -> Image:
    """Return ``image`` (H, W, 3) rotated clockwise by a multiple of 90 degrees, contiguous."""
    if degrees % 90:
        raise InvalidValueError(f"rotation is {degrees} degrees; the choices are 0, 90, 180 and 270")
    turned: Image = np.ascontiguousarray(np.rot90(image_array("image", image), -(degrees // 90) % 4))
    return turned


def _resize(
    image: PILImage.Image, size: int | tuple[int, int], resampling: PILImage.Resampling
) -> PILImage.Image:
    width, height = image.size
    if isinstance(size, int):
        # torchvision: the shorter side becomes ``size``, the longer one is truncated.
        short, long = min(width, height), max(width, height)
        other = int(size * long / short)
        target = (size, other) if width <= height else (other, size)
    else:
        target = (size[1], size[0])
    return image if image.size == target else image.resize(target, resampling)


def _crop_middle(image: PILImage.Image, crop: tuple[int, int]) -> PILImage.Image:
    width, height = image.size
    if (height, width) == crop:
        return image
    # Python's round (half to even), as torchvision's center_crop.
    top, left = round((height - crop[0]) / 2.0), round((width - crop[1]) / 2.0)
    return image.crop((left, top, left + crop[1], top + crop[0]))


def _letterbox(image: PILImage.Image, fill: tuple[int, int, int]) -> PILImage.Image:
    """Pad symmetrically; an odd difference leaves the sides one pixel apart, as in the original."""
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    padded = PILImage.new("RGB", (width + 2 * left, height + 2 * top), fill)
    padded.paste(image, (left, top))
    return padded


def _tower_count(reader: ConfigFields) -> int:
    count = len(reader.rows("input_sizes"))
    for key in (
        "interpolations",
        "means",
        "stds",
        "tvf_resize_params",
        "tvf_crop_params",
        "tvf_normalize_params",
    ):
        if reader.data.get(key) is not None and len(reader.rows(key)) != count:
            raise reader.error(key, f"expected {count} entries, one for each of input_sizes")
    return count


def _tower_from_config(reader: ConfigFields, index: int) -> TowerTransform:
    shape = reader.numbers("input_sizes", reader.rows("input_sizes")[index], 3)
    default_crop = (int(shape[1]), int(shape[2]))
    if default_crop[0] != default_crop[1]:
        raise reader.error("input_sizes", "only square inputs are supported")
    naive = _strategy(reader.get("image_resize_strategy"), reader) == "resize-naive"
    size = reader.saved("tvf_resize_params", index, "size")
    crop = reader.saved("tvf_crop_params", index, "output_size")
    method = reader.saved("tvf_resize_params", index, "interpolation")
    mean = reader.saved("tvf_normalize_params", index, "mean")
    std = reader.saved("tvf_normalize_params", index, "std")
    return _tower(
        reader,
        size=(default_crop if naive else default_crop[0]) if size is None else size,
        crop=default_crop if crop is None else crop,
        resampling=reader.rows("interpolations")[index] if method is None else method,
        mean=reader.rows("means")[index] if mean is None else mean,
        std=reader.rows("stds")[index] if std is None else std,
    )


def _tower_from_description(reader: ConfigFields) -> TowerTransform:
    keys = ("size", "crop", "resampling", "mean", "std")
    reader.only(*keys)
    return _tower(reader, **{name: reader.get(name) for name in keys})


def _tower(
    reader: ConfigFields, *, size: Any, crop: Any, resampling: Any, mean: Any, std: Any
) -> TowerTransform:
    height, width = _pair(reader, "crop", crop)
    shorter = min(_pair(reader, "size", size))
    if max(height, width) > shorter:
        raise reader.error("crop", f"the crop ({height}, {width}) is larger than the resized image {size!r}")
    r, g, b = reader.numbers("mean", mean, 3)
    deviation = reader.numbers("std", std, 3)
    if min(deviation) <= 0.0:
        raise reader.error("std", f"standard deviations {std!r} must be above 0")
    return TowerTransform(
        size=size if isinstance(size, int) else _pair(reader, "size", size),
        crop=(height, width),
        resampling=_resampling(reader, resampling),
        mean=(r, g, b),
        std=(deviation[0], deviation[1], deviation[2]),
    )


def _pair(reader: ConfigFields, key: str, value: Any) -> tuple[int, int]:
    if isinstance(value, Sequence) and len(value) == 2:
        return reader.pixels(key, value[0]), reader.pixels(key, value[1])
    return reader.pixels(key, value), reader.pixels(key, value)


def _resampling(reader: ConfigFields, value: Any) -> PILImage.Resampling:
    for name, resampling in _RESAMPLING.items():
        if value == resampling.value or (isinstance(value, str) and value.lower() == name):
            return resampling
    names = ", ".join(f"{name} ({resampling.value})" for name, resampling in _RESAMPLING.items())
    raise reader.error("interpolations", f"unknown interpolation {value!r}; the choices are {names}")


def _strategy(value: Any, reader: ConfigFields, key: str = "image_resize_strategy") -> ResizeStrategy:
    for strategy in RESIZE_STRATEGIES:
        if value == strategy:
            return strategy
    raise reader.error(key, f"unknown resize strategy; the choices are {', '.join(RESIZE_STRATEGIES)}")


def _letterbox_fill(reader: ConfigFields, towers: tuple[TowerTransform, ...]) -> tuple[int, int, int] | None:
    saved = reader.data.get("tvf_do_letterbox")
    strategy = reader.get("image_resize_strategy")
    if not (strategy == "letterbox" if saved is None else saved):
        return None
    fill = reader.data.get("tvf_letterbox_fill")
    if fill is None:
        # The original truncates the last tower's stated mean.
        fill = [
            int(value * 255) for value in reader.numbers("means", reader.rows("means")[len(towers) - 1], 3)
        ]
    return _fill(reader, "tvf_letterbox_fill", fill)


def _fill(reader: ConfigFields, key: str, value: Any) -> tuple[int, int, int]:
    r, g, b = reader.numbers(key, value, 3)
    if any(level != int(level) or not 0 <= level <= 255 for level in (r, g, b)):
        raise reader.error(key, "a colour has three whole numbers within 0 .. 255")
    return int(r), int(g), int(b)
