"""What all families' networks have in common: their arguments, the tensor that they are built on, and the model around them.

Arguments are checked here, so that every family refuses the same values in the same words; a family's own stand in its file.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras


def check(*, num_classes: Any, include_top: Any, pooling: Any, poolings: Sequence[str], drop_path_rate: Any) -> None:
    """Check the arguments of `builders.create` that are not about images; `poolings` are those that the family knows.

    Raises ValueError.
    """
    if not isinstance(include_top, bool):
        raise ValueError(f"include_top={include_top!r} is neither True nor False. Fix: pass one of them.")
    if (include_top or num_classes is not None) and not _is_whole(num_classes):
        raise ValueError(
            f"num_classes={num_classes!r} is not a number of classes. "
            "Fix: pass a whole number from 1, or None with include_top=False for a model without logits."
        )
    if pooling not in (None, *poolings):
        raise ValueError(f"pooling={pooling!r} is unknown. Fix: use 'avg' for the feature vector or None for the map.")
    if include_top and pooling is not None:
        raise ValueError(
            f"pooling={pooling!r} and include_top=True contradict each other: a classifier gives logits. "
            "Fix: add include_top=False for the feature vector, or leave pooling out."
        )
    if not _is_number(drop_path_rate) or not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate={drop_path_rate!r} is not a rate. Fix: pass a number from 0 to less than 1.")


def images(input_shape: Any, input_tensor: Any, *, default: tuple[int | None, ...]) -> Any:
    """Return the Keras tensor `[batch, height, width, 3]` that a network is built on: an input, or `input_tensor`.

    `default` is the family's `input_shape`. Raises ValueError.
    """
    if input_tensor is None:
        shape = default if input_shape is None else input_shape
        if not _is_image_shape(shape):
            raise ValueError(
                f"input_shape={shape!r} is not a shape of images. Fix: pass (height, width, 3), sizes as whole numbers "
                "from 1 or None for any; the batch is not part of it. For other channels than 3 use input_tensor."
            )
        return keras.Input([size and int(size) for size in shape], name="images")
    if input_shape is not None:
        raise ValueError(
            "input_shape and input_tensor contradict each other: a tensor has a shape. Fix: pass one of them."
        )
    if not keras.utils.is_keras_tensor(input_tensor) or not _sources(input_tensor):
        raise ValueError(
            f"input_tensor is not an output of a Keras layer, but of type {type(input_tensor).__name__}. "
            "Fix: pass keras.Input(...) or what layers make of one; call the model on images."
        )
    shape = tuple(input_tensor.shape)
    if not _is_image_shape(shape[1:]):
        raise ValueError(
            f"input_tensor has the shape {shape}. Fix: pass a tensor [batch, height, width, 3]; "
            "keras.layers.Conv2D(3, 1), for example, makes 3 channels of others."
        )
    if "float" not in input_tensor.dtype:
        raise ValueError(
            f"input_tensor has the type {input_tensor.dtype}. "
            "Fix: make it a floating-point one, for example with keras.layers.Rescaling(1 / 255)."
        )
    return input_tensor


def check_size(images: Any, smallest: int) -> None:
    """Raise ValueError if the height or width of `images` is known and less than `smallest`, with which a map would be empty."""
    height, width = images.shape[1:3]
    if any(size is not None and size < smallest for size in (height, width)):
        raise ValueError(
            f"images of {height} x {width} are too small for this network. "
            f"Fix: pass images of at least {smallest} x {smallest}."
        )


def check_whole(**arguments: Any) -> None:
    """Raise ValueError for an argument that is neither a whole number from 1 nor a sequence of such."""
    for name, value in arguments.items():
        several = isinstance(value, Sequence) and not isinstance(value, str)
        if not (value and all(map(_is_whole, value)) if several else _is_whole(value)):
            raise ValueError(f"{name}={value!r} is not possible. Fix: use whole numbers from 1.")


def check_epsilon(**arguments: Any) -> None:
    """Raise ValueError for an argument that is not a number above 0 and below 1, to be added to a variance."""
    for name, value in arguments.items():
        if not (_is_number(value) and 0 < value < 1):
            raise ValueError(f"{name}={value!r} is not possible. Fix: use a small number above 0, such as 1e-6.")


def model(images: Any, outputs: Any, name: str) -> Any:
    """Return the Keras model from what `images` was made of to `outputs`; its input is a list only if those are several."""
    sources = _sources(images)
    return keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=name)


def _sources(tensor: Any) -> list[Any]:
    """Return the inputs that a Keras tensor was made of; none for a tensor that no layer made."""
    found = keras.utils.get_source_inputs(tensor)
    return found if isinstance(found, list) else []


def _is_image_shape(shape: Any) -> bool:
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
        return False
    return all(size is None or _is_whole(size) for size in shape[:2]) and _is_whole(shape[2]) and shape[2] == 3


def _is_whole(value: Any) -> bool:
    """Return whether `value` is a whole number from 1, of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
