"""Run modules over labelled images and count their answers: a worker process of `tools.evaluation.running`.

    python -m tools.evaluation.worker        # then {"modules": [...], "classes": 10, ...}, then {"kind": "npz", "file": ..., ...}

The first message holds the arguments of `Evaluator`; each further one is a shard of images (`tools.evaluation.images.Shard`), which
is answered by its counts (`tools.evaluation.counts.Totals`). Bad images are refused: `{"error": ...}`.

Images go to a module as they are, uint8 and of any size, because its preprocessing is inside: those of one size share a batch.
They are decoded as upstream evaluations do, by PIL: converted to RGB whatever they are (grey, palette, CMYK, with transparency),
and not turned by what EXIF says. A module is a program: evaluating one runs it.
"""

import collections
import concurrent.futures
import functools
import importlib.metadata
import io
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tools.common import workers
from tools.common.problems import with_fix
from tools.evaluation import BadImagesError
from tools.evaluation.counts import BROKEN_NAMED, Tally, Totals
from tools.evaluation.images import ArraysShard, FilesShard, RecordsShard, Shard

TOP = 5
WAITING_BYTES = 256 << 20  # of pixels that wait for others of their size
PACKAGES = ("tensorflow", "tensorflow-hub", "numpy", "pillow")

Pixels = NDArray[np.uint8]  # [height, width, 3]
Content = bytes | Callable[[], bytes] | Pixels  # an encoded image, a function that reads one, or one that is decoded
Item = tuple[str, int, Content]  # the name of an image, the number of its class, and the image
Decoded = tuple[str, int, Pixels]


class ModuleArguments(TypedDict):
    """A module to evaluate: its SavedModel, how many logits it answers, and which of them stand for the classes of the data.

    `columns` and `allowed` are those of `tools.evaluation.labels.ClassMapping`.
    """

    directory: str
    outputs: int
    columns: Sequence[int] | None
    allowed: Sequence[int] | None


class Evaluator:
    """Counts the answers of several modules in one pass.

    Args:
      modules: the modules.
      classes: how many classes the data has; labels are from 0 to classes - 1.
      ids: the identifier of each class, for records whose labels are text.
      batch: images of one size that are run together.
      threads: how many images are decoded at the same time.
      skip_broken: count images that cannot be decoded, instead of refusing the shard.
    """

    def __init__(
        self,
        *,
        modules: Sequence[ModuleArguments],
        classes: int,
        ids: Sequence[str] = (),
        batch: int = 32,
        threads: int = 4,
        skip_broken: bool = False,
    ):
        import PIL.Image  # noqa: F401  missing, it would make every image a broken one
        import tensorflow_hub as hub

        self.modules = [LoadedModule(hub.load(each["directory"]), **each) for each in modules]
        self.classes = classes
        self.index = {name: index for index, name in enumerate(ids)}
        self.batch = batch
        self.skip_broken = skip_broken
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
        for name, label, pixels in self._decoded(items(shard, self.index)):
            if not 0 <= label < self.classes:
                raise BadImagesError(
                    f"{name}: its label is class {label}, and there are {self.classes}", "correct the labels"
                )
            if isinstance(pixels, str):
                broken.append((name, pixels))
                continue
            images += 1
            group = groups.setdefault(pixels.shape, [])
            group.append((name, label, pixels))
            waiting_bytes += pixels.nbytes
            while len(group) == self.batch or waiting_bytes > WAITING_BYTES:
                if len(group) < self.batch:
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
            broken=len(broken),
            broken_names=[name for name, _ in broken[:BROKEN_NAMED]],
            seconds=time.monotonic() - start,
            modules=tallies,
            versions=[self.versions],
            devices=[self.device],
        )

    def _decoded(self, found: Iterable[Item]) -> Iterator[tuple[str, int, Pixels | str]]:
        """Yield (name, label, pixels or why there are none) in the order of `found`, decoded a few images ahead."""
        waiting: collections.deque[tuple[str, int, concurrent.futures.Future[Pixels | str]]] = collections.deque()
        for name, label, content in found:
            waiting.append((name, label, self.pool.submit(_pixels, name, content)))
            if len(waiting) > 2 * self.threads:
                name, label, future = waiting.popleft()
                yield name, label, future.result()
        for name, label, future in waiting:
            yield name, label, future.result()

    def _run(self, group: Sequence[Decoded], tallies: Sequence[Tally]) -> int:
        """Count one batch, images of one size; return the bytes of its pixels."""
        import tensorflow as tf

        images = np.stack([pixels for _, _, pixels in group])
        labels = np.array([label for _, label, _ in group])
        if not self.is_warm:  # a first call traces and allocates, which is no measure of speed
            self.is_warm = True
            for module in self.modules:
                module.call(tf.constant(images))
        for module, tally in zip(self.modules, tallies, strict=True):
            start = time.monotonic()
            logits = module.call(tf.constant(images)).numpy()
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
    """Return a line for each of the first images that cannot be decoded."""
    fix = "repair or remove it, or leave out what cannot be decoded (--skip-broken)"
    lines = [with_fix(f"{name}: cannot be decoded: {reason}", fix) for name, reason in broken[:BROKEN_NAMED]]
    if len(broken) > BROKEN_NAMED:
        lines.append(f"... and {len(broken) - BROKEN_NAMED} more")
    return "\n".join(lines)


def items(shard: Shard, index: Mapping[str, int]) -> Iterator[Item]:
    """Yield the images of a shard; labels that are text are looked up in `index`."""
    if shard["kind"] == "files":
        return _files(shard)
    if shard["kind"] == "npz":
        return _arrays(shard)
    return _records(shard, index)


def _files(shard: FilesShard) -> Iterator[Item]:
    for path, label in shard["items"]:
        place = path if "://" in path or os.path.isabs(path) or not shard["root"] else f"{shard['root']}/{path}"
        yield place, label, functools.partial(_read, place)


def _read(place: str) -> bytes:
    with _open(place) as file:
        return file.read()


def _open(place: str) -> IO[bytes]:
    if "://" not in place:
        return open(place, "rb")
    from tools.common import remote

    return remote.open_file(place)


@functools.lru_cache(maxsize=1)  # all shards of a file follow each other
def _read_arrays(file: str) -> tuple[NDArray[Any], NDArray[Any]]:
    with _open(file) as stream, np.load(stream, allow_pickle=False) as arrays:
        return arrays["images"], arrays["labels"]


def _arrays(shard: ArraysShard) -> Iterator[Item]:
    images, labels = _read_arrays(shard["file"])
    for number in range(shard["start"], shard["end"]):
        yield f"{shard['file']}: image {number}", int(labels[number]), images[number]


def _records(shard: RecordsShard, index: Mapping[str, int]) -> Iterator[Item]:
    from tensorflow.core.example import example_pb2

    with _open(shard["file"]) as file:
        file.seek(shard["start"])
        while shard["end"] is None or file.tell() < shard["end"]:
            name = f"{shard['file']}: record at byte {file.tell()}"
            content = _record(file, name)
            if content is None:
                return
            try:
                features = example_pb2.Example.FromString(content).features.feature
            except ValueError as error:
                raise BadImagesError(
                    f"{name}: it is no tf.train.Example: {error}", "give a file of tf.train.Examples"
                ) from error
            image = _feature(features, shard["image_key"], "image-key", name)
            label = _feature(features, shard["label_key"], "label-key", name)
            if not isinstance(image, bytes):
                raise BadImagesError(
                    f"{name}: {shard['image_key']!r} is a number", "choose the encoded image with --image-key"
                )
            if isinstance(label, bytes):
                text = label.decode(errors="replace")
                if text not in index:
                    raise BadImagesError(
                        f"{name}: its label {text!r} is no class of the data", "say of which --labels it is one"
                    )
                yield name, index[text], image
            elif shard["first_label"] is None:
                raise BadImagesError(
                    f"{name}: labels are numbers", "say which one the first class has: --first-label 0 or 1"
                )
            else:
                yield name, label - shard["first_label"], image


def _record(file: IO[bytes], name: str) -> bytes | None:
    """Read the next record of a TFRecord file, None at its end: length (8 bytes), its checksum (4), content, its checksum (4)."""
    header = file.read(12)
    if not header:
        return None
    content = b""
    if len(header) == 12 and _checksum(header[:8]) == struct.unpack("<I", header[8:])[0]:
        length = struct.unpack("<Q", header[:8])[0]
        content = file.read(length)
        checksum = file.read(4)
        if len(content) == length and len(checksum) == 4 and _checksum(content) == struct.unpack("<I", checksum)[0]:
            return content
    raise BadImagesError(
        f"{name}: it is damaged or cut off, or the file is compressed or no TFRecord file", "get the right one"
    )


def _checksum(content: bytes) -> int:
    """Return TFRecord's masked CRC-32C."""
    import google_crc32c

    value: int = google_crc32c.value(content)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _feature(features: Any, key: str, option: str, name: str) -> int | bytes:
    """Return the one value of a feature of a tf.train.Example."""
    if key not in features:
        raise BadImagesError(
            f"{name}: it has no {key!r}, only {', '.join(sorted(features))}", f"choose one with --{option}"
        )
    kind = features[key].WhichOneof("kind")
    values: list[int | bytes] = list(getattr(features[key], kind).value) if kind in ("bytes_list", "int64_list") else []
    if len(values) != 1:
        raise BadImagesError(
            f"{name}: {key!r} holds {len(values)} texts or numbers, not one", f"choose another with --{option}"
        )
    return values[0]


def _pixels(name: str, content: Content) -> Pixels | str:
    """Return the pixels of an image, or why it cannot be decoded. Raises BadImagesError if it cannot be read at all."""
    if isinstance(content, np.ndarray):
        return content
    if not isinstance(content, bytes):
        try:
            content = content()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadImagesError(f"{name}: cannot be read: {reason}", "put it there, or leave it out") from error
    try:
        return decode(content)
    except MemoryError:
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error and more for broken images
        reason = re.sub(r"<_io\.BytesIO[^>]*>", "", f"{type(error).__name__}: {error}")
        return " ".join(reason.split())


def decode(content: bytes) -> Pixels:
    """Decode an image to uint8 `[height, width, 3]`, as torchvision's and timm's loaders do."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


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

    return workers.serve(answer, refusals=(BadImagesError,))


if __name__ == "__main__":
    sys.exit(main())
