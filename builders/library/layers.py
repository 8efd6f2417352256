"""Keras layers of the library, which no module is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from builders import preprocessing
from builders.layers import register


@register
class Preprocessing(keras.layers.Layer):
    """Resize, crop and normalise images as a row's module does: `[batch, height, width, 3] -> [batch, side, side, 3]`, float32.

    Args:
      transform: a row of [transforms] in modules/preprocessing.toml.
      mean, std: three numbers each, for pixels in [0, 1].
      pixel_range: black and white of float images; uint8 is always 0 to 255.
    """

    def __init__(
        self,
        *,
        transform: Mapping[str, Any],
        mean: Sequence[float],
        std: Sequence[float],
        pixel_range: Sequence[float] = (0, 255),
        **kwargs: Any,
    ):
        super().__init__(**{"autocast": False, "dtype": "float32", "trainable": False} | kwargs)
        self.transform, self.mean, self.std = dict(transform), tuple(mean), tuple(std)
        self.pixel_range = (float(pixel_range[0]), float(pixel_range[1]))
        self._parsed = preprocessing.Transform.from_dict(self.transform)

    def call(self, inputs: Any) -> Any:
        return preprocessing.preprocess(
            inputs, self._parsed, mean=self.mean, std=self.std, pixel_range=self.pixel_range
        )

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        side = self._parsed.resolution
        return (input_shape[0], side, side, 3)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        own = {"transform": dict(self.transform), "mean": list(self.mean), "std": list(self.std)}
        return {**super().get_config(), **own, "pixel_range": list(self.pixel_range)}
