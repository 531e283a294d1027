"""Training augmentation: random resized crop, brightness, contrast, saturation, hue.

The arithmetic is TensorFlow's, in float32, as OpenVLA's data pipeline (dlimp) applies it after the
resize; the random numbers are numpy's, drawn from a generator that the caller seeds. Knows nothing
of datasets. ``Augmentation.draw`` chooses the factors, ``AugmentationDraw`` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.tf_image_ops import (
    Pixels,
    crop_and_resize,
    transform_uint8_to_unit,
    transform_unit_to_uint8,
)
from openvla_ros.values.arrays import Image, image_array

Box = tuple[float, float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class AugmentationDraw:
    """The factors for one image; ``None`` leaves that property alone."""

    crop: Box | None = None  # top, left, bottom, right as shares of the image
    brightness: float | None = None  # added, in units of full scale
    contrast: float | None = None  # factor about each channel's mean
    saturation: float | None = None  # factor of the saturation
    hue: float | None = None  # added, in turns of the colour circle

    def __call__(self, image: Image) -> Image:
        """Return the augmented uint8 image, of the same size as ``image`` (H, W, 3)."""
        pixels = transform_uint8_to_unit(image_array("image", image))
        if self.crop is not None:
            pixels = _clip(crop_and_resize(pixels, self.crop, (image.shape[0], image.shape[1])))
        if self.brightness is not None:
            pixels = _clip(pixels + np.float32(self.brightness))
        if self.contrast is not None:
            pixels = _clip(adjust_contrast(pixels, self.contrast))
        if self.saturation is not None:
            pixels = _clip(adjust_saturation(pixels, self.saturation))
        if self.hue is not None:
            pixels = _clip(adjust_hue(pixels, self.hue))
        return transform_unit_to_uint8(pixels)


@dataclass(frozen=True)
class Augmentation:
    """The ranges that factors are drawn from; the defaults are those of OpenVLA's fine-tuning."""

    crop_area: Range | None = (0.9, 0.9)  # share of the image's area
    crop_ratio: Range = (1.0, 1.0)  # width / height, drawn uniformly in its logarithm
    brightness: float = 0.2  # largest change, either way
    contrast: Range = (0.8, 1.2)
    saturation: Range = (0.8, 1.2)
    hue: float = 0.05  # largest change, either way
    # The original seeds both offsets alike, so every crop lies on the image's diagonal.
    diagonal_crops: bool = True

    def __post_init__(self) -> None:
        ranges = {"crop_ratio": self.crop_ratio, "contrast": self.contrast, "saturation": self.saturation}
        if self.crop_area is not None:
            ranges["crop_area"] = self.crop_area
            if self.crop_area[1] > 1.0:
                raise InvalidValueError(f"augmentation crop_area {self.crop_area} must not exceed 1")
        for name, (low, high) in ranges.items():
            if not 0.0 < low <= high < np.inf:
                raise InvalidValueError(
                    f"augmentation {name} {(low, high)} must be above 0, the smaller first"
                )
        if not 0.0 <= self.brightness <= 1.0 or not 0.0 <= self.hue <= 0.5:
            raise InvalidValueError(
                f"augmentation brightness {self.brightness} must lie within 0 .. 1 and hue {self.hue} "
                "within 0 .. 0.5"
            )

    def draw(self, random: np.random.Generator) -> AugmentationDraw:
        """Return factors for one image."""
        return AugmentationDraw(
            crop=None if self.crop_area is None else self._draw_crop(self.crop_area, random),
            brightness=random.uniform(-self.brightness, self.brightness),
            contrast=random.uniform(*self.contrast),
            saturation=random.uniform(*self.saturation),
            hue=random.uniform(-self.hue, self.hue),
        )

    def _draw_crop(self, area_range: Range, random: np.random.Generator) -> Box:
        area = random.uniform(*area_range)
        ratio = np.exp(random.uniform(*np.log(self.crop_ratio)))
        height, width = (float(np.clip(np.sqrt(side), 0.0, 1.0)) for side in (area / ratio, area * ratio))
        vertical, horizontal = random.uniform(size=2)
        if self.diagonal_crops:
            horizontal = vertical
        top, left = vertical * (1.0 - height), horizontal * (1.0 - width)
        return top, left, min(top + height, 1.0), min(left + width, 1.0)


def adjust_contrast(pixels: Pixels, factor: float) -> Pixels:
    """Return pixels (H, W, C) spread by ``factor`` about each channel's mean."""
    mean = _channel_mean(pixels)
    out: Pixels = (pixels - mean) * np.float32(factor) + mean
    return out


def adjust_saturation(pixels: Pixels, factor: float) -> Pixels:
    """Return RGB pixels (H, W, 3) within 0 .. 1 with their HSV saturation scaled by ``factor``."""
    r, g, b = np.moveaxis(pixels, -1, 0)
    value, chroma = pixels.max(axis=-1), pixels.max(axis=-1) - pixels.min(axis=-1)
    grey = chroma <= 0.0
    norm = np.float32(1.0) / (np.float32(6.0) * np.where(grey, np.float32(1.0), chroma))
    # The thirds of a turn are added in double precision, as TensorFlow's kernel does.
    after_green = (norm * (b - r) + np.float64(2.0 / 6.0)).astype(np.float32)
    after_blue = (norm * (r - g) + np.float64(4.0 / 6.0)).astype(np.float32)
    hue = np.where(r == value, norm * (g - b), np.where(g == value, after_green, after_blue))
    hue = np.where(grey, np.float32(0.0), np.where(hue < 0.0, hue + np.float32(1.0), hue))
    saturation = np.where(
        value > 0.0, chroma / np.where(value > 0.0, value, np.float32(1.0)), np.float32(0.0)
    )
    scaled = np.clip(saturation * np.float32(factor), 0.0, 1.0)
    return _hsv_to_rgb(hue, scaled, value)


def adjust_hue(pixels: Pixels, turn: float) -> Pixels:
    """Return RGB pixels (H, W, 3) with their hue moved by ``turn`` of the colour circle."""
    r, g, b = np.moveaxis(pixels, -1, 0)
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    middle = np.maximum(np.minimum(r, g), np.minimum(np.maximum(r, g), b))
    sector = _hue_sector(r, g, b)
    grey = high == low
    ratio = (middle - low) / np.where(grey, np.float32(1.0), high - low)
    rising = sector % 2 == 0
    position = np.where(grey, np.float32(0.0), sector + np.where(rising, ratio, np.float32(1.0) - ratio))
    moved = position.astype(np.float32) + np.float32(turn) * np.float32(6.0)
    moved = np.where(moved < 0.0, moved + np.float32(6.0), moved)
    moved = np.where(moved >= 6.0, moved - np.float32(6.0), moved)
    sector = moved.astype(np.intp)
    ratio = moved - sector.astype(np.float32)
    ratio = np.where(sector % 2 == 0, ratio, np.float32(1.0) - ratio)
    return _arrange(sector, high, (low + ratio * (high - low)).astype(np.float32), low)


def _channel_mean(pixels: Pixels) -> Pixels:
    """Return the mean (C,) of pixels (H, W, C), folding the image in halves as TensorFlow does."""
    total = pixels.reshape(-1, pixels.shape[-1])
    count = np.float32(len(total))
    while len(total) > 1:
        left = (len(total) + 1) // 2
        folded = total[:left].copy()
        folded[: len(total) - left] += total[left:]
        total = folded
    mean: Pixels = total[0] * (np.float32(1.0) / count)
    return mean


def _clip(pixels: Pixels) -> Pixels:
    clipped: Pixels = np.clip(pixels, np.float32(0.0), np.float32(1.0))
    return clipped


def _hue_sector(r: Pixels, g: Pixels, b: Pixels) -> NDArray[np.intp]:
    """Return which sixth of the colour circle each pixel lies in, 0 .. 5 from red."""
    green_over_red = np.where(b < r, 1, np.where(b > g, 3, 2))
    red_over_green = np.where(b < g, 0, np.where(b > r, 4, 5))
    return np.where(r < g, green_over_red, red_over_green).astype(np.intp)


def _hsv_to_rgb(hue: Pixels, saturation: Pixels, value: Pixels) -> Pixels:
    chroma = saturation * value
    sixths = hue * np.float32(6.0)
    sector = sixths.astype(np.intp)
    folded = np.abs(np.fmod(sixths, np.float32(2.0)) - np.float32(1.0))
    middle = chroma * (np.float32(1.0) - folded)
    offset = value - chroma
    # A hue of exactly one turn has no sector: TensorFlow gives it no chroma.
    drawn = _arrange(np.minimum(sector, 5), chroma, middle, np.zeros_like(chroma))
    shown: Pixels = np.where((sector < 6)[..., None], drawn, np.float32(0.0)) + offset[..., None]
    return shown


def _arrange(sector: NDArray[np.intp], high: Pixels, middle: Pixels, low: Pixels) -> Pixels:
    """Return RGB (..., 3) with the three levels in the order of each pixel's sixth of the circle."""
    levels = np.stack([high, middle, low], axis=-1)
    order = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1], [2, 1, 0], [1, 2, 0], [0, 2, 1]])
    arranged: Pixels = np.take_along_axis(levels, order[sector], axis=-1)
    return arranged
