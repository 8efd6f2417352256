"""Run modules over labelled images and count their answers: a worker process of `tools.evaluation.running`.

    python -m tools.evaluation.worker        # then {"modules": [...], "ids": [...], ...}, then {"kind": "npz", "file": ..., ...}

The first message holds the arguments of `Evaluator`; each further one is a shard of images (`tools.evaluation.shards.Shard`), which
is answered by its counts (`tools.evaluation.counts.Totals`). Bad images are refused: `{"error": ...}`.

Images go to a module as they are, uint8 and of any size, because its preprocessing is inside: those of one size share a batch. A
module is a program: evaluating one runs it.
"""

import collections
import concurrent.futures
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tools.common import workers
from tools.common.printable import printable
from tools.common.problems import with_fix
from tools.evaluation import (
    MAX_BYTES,
    MAX_PIXELS,
    BadImagesError,
    EvaluationError,
    UnusableImage,
    arrays,
    lists,
    parquets,
    runtimes,
    tars,
    tfrecords,
)
from tools.evaluation.counts import Tally, Totals
from tools.evaluation.decoding import LargeImage, decode
from tools.evaluation.labels import Labels
from tools.evaluation.shards import NAMES_SHOWN, Content, Item, Pixels, Shard
from tools.hub.storage import StorageError

TOP = 5
BATCH_BYTES = 64 << 20  # of pixels that make a batch, however few images they are: a module has several floats for each
WAITING_BYTES = 256 << 20  # of pixels that wait for others of their size
PIXELS_AHEAD = 16_000_000  # of an image that is decoded before its turn
PACKAGES = ("tensorflow", "tensorflow-hub", "numpy", "pillow")

Decoded = tuple[str, int, Pixels]


class ModuleArguments(TypedDict):
    """A module to evaluate, its SavedModel or its file in `format` for another runtime.

    It answers `outputs` logits; which of them stand for the classes of the data say `columns` and `allowed`, those of
    `tools.evaluation.labels.ClassMapping`.
    """

    directory: str
    outputs: int
    columns: Sequence[int] | None
    allowed: Sequence[int] | None
    format: str | None


class Evaluator:
    """Counts the answers of several modules in one pass.

    Args:
      modules: the modules.
      ids: the identifier of each class of the data.
      names: the name of each.
      batch: images of one size that are run together.
      threads: how many images are decoded at the same time.
      skip_broken: count images that cannot be used, instead of refusing the shard.
      max_pixels: of an image; more than that is not decoded.
      max_bytes: of an encoded image; more than that is not read.
    """

    def __init__(
        self,
        *,
        modules: Sequence[ModuleArguments],
        ids: Sequence[str],
        names: Sequence[str],
        batch: int = 32,
        threads: int = 4,
        skip_broken: bool = False,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
    ):
        import PIL.Image

        PIL.Image.MAX_IMAGE_PIXELS = (
            max_pixels  # of the parts that an image is put together from; PIL refuses twice as many
        )
        self.modules = [LoadedModule(_load(each), **each) for each in modules]
        self.classes = Labels("the data", tuple(ids), tuple(names))
        self.batch = batch
        self.skip_broken = skip_broken
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.threads = threads
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)
        self.versions, self.device = versions(), device()
        self.is_warm = False

    def evaluate(self, shard: Shard) -> Totals:
        """Count one shard.

        Raises BadImagesError: an image or a label cannot be used, or a module answers no finite numbers.
        """
        start = time.monotonic()
        tallies = [Tally() for _ in self.modules]
        broken: list[tuple[str, str]] = []
        images = 0
        groups: dict[tuple[int, ...], list[Decoded]] = {}  # by height and width
        waiting_bytes = 0  # of the pixels in all groups
        for name, label, pixels in self._decoded(items(shard, self.classes, self.max_bytes)):
            if isinstance(pixels, UnusableImage):
                broken.append((printable(name), printable(str(pixels))))
                continue
            if not 0 <= label < len(self.classes):
                raise BadImagesError(
                    f"{name}: its label is class {label}, and there are {len(self.classes)}",
                    "correct the labels, or say which number the first class has (--first-label 0 or 1)",
                )
            images += 1
            group = groups.setdefault(pixels.shape, [])
            group.append((name, label, pixels))
            waiting_bytes += pixels.nbytes
            while self._is_full(group) or waiting_bytes > WAITING_BYTES:
                if not self._is_full(group):
                    group = max(groups.values(), key=lambda each: len(each) * each[0][2].nbytes)
                waiting_bytes -= self._run(groups.pop(group[0][2].shape), tallies)
                group = []
        for group in groups.values():
            self._run(group, tallies)
        if broken and not self.skip_broken:
            raise BadImagesError(_list_of_broken(broken))
        return Totals(
            shards=1,
            images=images,
            broken=broken,
            seconds=time.monotonic() - start,
            modules=tallies,
            versions=[self.versions],
            devices=[self.device],
        )

    def _is_full(self, group: Sequence[Decoded]) -> bool:
        return bool(group) and (len(group) == self.batch or len(group) * group[0][2].nbytes >= BATCH_BYTES)

    def _decoded(self, found: Iterable[Item]) -> Iterator[tuple[str, int, Pixels | UnusableImage]]:
        """Yield (name, label, pixels or why there are none) in the order of `found`, decoded a few images ahead.

        Large ones wait in their encoding for their turn, so that there is one of them at a time.
        """
        waiting: collections.deque[tuple[str, int, concurrent.futures.Future[Pixels | bytes | UnusableImage]]]
        waiting = collections.deque()

        def next_one() -> tuple[str, int, Pixels | UnusableImage]:
            name, label, future = waiting.popleft()
            pixels = future.result()
            return name, label, decode_large(pixels, self.max_pixels) if isinstance(pixels, bytes) else pixels

        for name, label, content in found:
            waiting.append((name, label, self.pool.submit(decode_ahead, name, content, self.max_pixels)))
            if len(waiting) > 2 * self.threads:
                yield next_one()
        while waiting:
            yield next_one()

    def _run(self, group: Sequence[Decoded], tallies: Sequence[Tally]) -> int:
        """Count one batch, images of one size; return the bytes of its pixels."""
        import tensorflow as tf

        images = np.stack([pixels for _, _, pixels in group])
        labels = np.array([label for _, label, _ in group])
        if not self.is_warm:  # a first call traces and allocates, which is no measure of speed
            self.is_warm = True
            for module in self.modules:
                module.call(images)
        for module, tally in zip(self.modules, tallies, strict=True):
            start = time.monotonic()
            try:
                logits = module.call(images)
            except (tf.errors.OpError, RuntimeError, ValueError) as error:
                reason = " ".join(str(getattr(error, "message", error)).split())[:200]
                raise BadImagesError(
                    f"{group[0][0]}: {module.directory} fails with {list(images.shape)} pixels: {reason}",
                    "leave the image out, or lower --batch or --max-pixels",
                ) from error
            tally.seconds += time.monotonic() - start
            if logits.shape != (len(group), module.outputs):
                raise BadImagesError(
                    f"{module.directory} answers {list(logits.shape)}, not [images, {module.outputs}] logits",
                    "publish the module again, and check it",
                )
            finite = np.isfinite(logits).all(axis=1)
            if not finite.all():
                raise BadImagesError(
                    f"{group[int(finite.argmin())][0]}: {module.directory} answers numbers that are not finite",
                    "publish the module again, and check it",
                )
            predicted, among_best = module.judge(logits, labels)
            tally.confusion.update(zip(labels.tolist(), predicted.tolist(), strict=True))
            tally.top5.update(labels[among_best].tolist())
        return images.nbytes


def _load(module: ModuleArguments) -> Callable[[Any], Any]:
    """Return a function from images, uint8 `[n, h, w, 3]`, to logits `[n, outputs]`."""
    if module.get("format"):
        return runtimes.load(module["directory"], str(module["format"]))
    import tensorflow as tf
    import tensorflow_hub as hub

    loaded = hub.load(module["directory"])
    return lambda images: loaded(tf.constant(images)).numpy()


class LoadedModule:
    """A loaded module, and the logits that stand for the classes of the data."""

    def __init__(
        self,
        call: Callable[..., Any],
        *,
        directory: str,
        outputs: int,
        columns: Sequence[int] | None = None,
        allowed: Sequence[int] | None = None,
        format: str | None = None,
    ):
        self.call, self.directory, self.outputs = call, directory, outputs
        self.columns = None if columns is None else np.array(columns)
        self.allowed = None if allowed is None else np.array(sorted(allowed))

    def judge(self, logits: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Compare logits `[n, outputs]` with the classes of the images `[n]`.

        Of equal logits the first counts as the larger one, as in argmax.

        Returns:
          The predicted logit `[n]`, and whether the right one is among the five largest `[n]`.
        """
        targets = labels if self.columns is None else self.columns[labels]
        numbers = np.arange(logits.shape[1]) if self.allowed is None else self.allowed
        logits = logits[:, numbers]
        predicted = numbers[logits.argmax(axis=1)]
        competes = np.isin(targets, numbers)
        place = np.where(competes, np.searchsorted(numbers, targets), 0)
        right = logits[np.arange(len(logits)), place][:, np.newaxis]
        before = (logits > right) | ((logits == right) & (numbers < targets[:, np.newaxis]))
        return predicted, competes & (before.sum(axis=1) < TOP)


def _list_of_broken(broken: Sequence[tuple[str, str]]) -> str:
    """Return a line for each of the first images that cannot be used."""
    fix = "repair or remove it, or leave out what cannot be used (--skip-broken)"
    lines = [with_fix(f"{name}: {reason}", fix) for name, reason in broken[:NAMES_SHOWN]]
    if len(broken) > NAMES_SHOWN:
        lines.append(f"... and {len(broken) - NAMES_SHOWN} more")
    return "\n".join(lines)


def items(shard: Shard, classes: Labels, max_bytes: int) -> Iterator[Item]:
    """Yield the images of a shard, whose labels are of `classes`. Raises EvaluationError: they, or their labels, cannot be read."""
    try:
        if shard["kind"] == "files":
            yield from lists.items(shard, max_bytes)
        elif shard["kind"] == "npz":
            yield from arrays.items(shard)
        elif shard["kind"] == "tar":
            yield from tars.items(shard, classes, max_bytes)
        elif shard["kind"] == "parquet":
            yield from parquets.items(shard, classes, max_bytes)
        else:
            yield from tfrecords.items(shard, classes, max_bytes)
    except (OSError, StorageError) as error:
        raise _unreadable("the images" if shard["kind"] == "files" else shard["file"], error) from error


def _unreadable(name: str, error: Exception) -> BadImagesError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BadImagesError(f"{name}: cannot be read: {reason}", "put it there, or leave it out")


def decode_ahead(name: str, content: Content, max_pixels: int) -> Pixels | bytes | UnusableImage:
    """Return the pixels of an image, its encoding if it is large, or why it cannot be used.

    Raises BadImagesError: it is not there, or the storage fails.
    """
    if isinstance(content, np.ndarray | UnusableImage):
        return content
    try:
        encoded = content if isinstance(content, bytes) else content()
    except UnusableImage as error:
        return error
    except (OSError, StorageError) as error:
        raise _unreadable(name, error) from error
    try:
        return decode(encoded, max_pixels, PIXELS_AHEAD)
    except LargeImage:
        return encoded
    except UnusableImage as error:
        return error


def decode_large(encoded: bytes, max_pixels: int) -> Pixels | UnusableImage:
    """Return the pixels of an image, or why it cannot be used."""
    try:
        return decode(encoded, max_pixels)
    except UnusableImage as error:
        return error


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide the counts, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name.replace("-", "_")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """Return the device that TensorFlow runs on: "CPU", or the name of the first GPU."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")) if gpus else "CPU"


def main() -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    evaluator: Evaluator | None = None

    def answer(message: dict[str, Any]) -> dict[str, Any]:
        nonlocal evaluator
        if evaluator is None:
            evaluator = Evaluator(**message)
            return {}
        shard: Any = message
        return evaluator.evaluate(shard).described()

    return workers.serve(answer, refusals=(EvaluationError,))


if __name__ == "__main__":
    sys.exit(main())
