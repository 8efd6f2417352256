"""Run modules over labelled images and count what they answer: an order a line on standard input, an answer a line.

    python -m tools.evaluation.worker        # then {"modules": [...], "classes": 10}, then {"kind": "npz", "file": ..., ...}

The first line says what is asked (the arguments of `Evaluator`), each further one is a shard of the images (see `items`). Answers
are `{"images": n, "modules": [{"confusion": [[true, predicted, n], ...], ...}], ...}` (`Evaluator.evaluate`), or `{"error": ...}`.

Images go to a module as they are, uint8 and of any size, because its preprocessing is inside: those of one size share a batch.
They are decoded as upstream evaluations do, by PIL: converted to RGB whatever they are (grey, palette, CMYK, with transparency),
and not turned by what EXIF says. A module is a program: evaluating one runs it.
"""

import collections
import concurrent.futures
import importlib.metadata
import io
import json
import os
import re
import struct
import sys
import time

import numpy as np

TOP = 5
HELD_BYTES = 256 << 20  # of pixels that wait for others of their size
NAMED = 20  # broken images that an answer names
PACKAGES = ("tensorflow", "tensorflow-hub", "numpy", "pillow")


class BadImages(ValueError):
    """Images or labels that cannot be used; the message names each."""


class Evaluator:
    """Counts the answers of several modules in one pass.

    Args:
      modules: for each `directory` (a SavedModel), `outputs` (how many logits it answers), `columns` (which logit stands for each
        class of the data, -1 for none; None if they are the same) and `allowed` (the logits that compete; None for all).
      classes: how many classes the data has; labels are from 0 to classes - 1.
      ids: the identifier of each class, for records whose labels are text.
      batch: images of one size that are run together.
      threads: how many images are decoded at the same time.
      skip_broken: count images that cannot be decoded, instead of refusing the shard.
    """

    def __init__(self, *, modules, classes, ids=None, batch=32, threads=4, skip_broken=False):
        import PIL.Image  # noqa: F401  missing, it would make every image a broken one
        import tensorflow_hub as hub

        self.modules = [_Module(hub.load(each["directory"]), **each) for each in modules]
        self.classes = classes
        self.index = {name: index for index, name in enumerate(ids or ())}
        self.batch = batch
        self.skip_broken = skip_broken
        self.threads = threads
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)
        self.warm = False

    def evaluate(self, shard):
        """The exact counts of one shard.

        Returns `images` that were evaluated, `broken` that could not be decoded with the first `broken_names`, `seconds` in all,
        and for each of `modules` its `seconds`, `confusion` `[[true class, predicted logit, images], ...]` and `top5`
        `[[true class, images], ...]`.

        Raises BadImages: an image or a label cannot be used, or a module answers no finite numbers.
        """
        start = time.monotonic()
        counts = [_Counts() for _ in self.modules]
        broken, images = [], 0
        groups, held = {}, 0  # images by height and width, and the bytes of all
        for name, label, pixels in self._decoded(items(shard, self.index)):
            if not 0 <= label < self.classes:
                raise BadImages(f"{name}: its label is class {label}, and there are {self.classes}; correct the labels")
            if isinstance(pixels, str):
                broken.append((name, pixels))
                continue
            images += 1
            group = groups.setdefault(pixels.shape, [])
            group.append((name, label, pixels))
            held += pixels.nbytes
            while len(group) == self.batch or held > HELD_BYTES:
                if len(group) < self.batch:
                    group = max(groups.values(), key=lambda each: len(each) * each[0][2].nbytes)
                held -= self._run(groups.pop(group[0][2].shape), counts)
                group = ()
        for group in groups.values():
            self._run(group, counts)
        if broken and not self.skip_broken:
            more = f"\n... and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
            lines = [f"{name}: cannot be decoded: {reason}" for name, reason in broken[:NAMED]]
            raise BadImages("\n".join(lines) + more)
        return {
            "images": images,
            "broken": len(broken),
            "broken_names": [name for name, _ in broken[:NAMED]],
            "seconds": time.monotonic() - start,
            "modules": [each.described() for each in counts],
        }

    def _decoded(self, found):
        """(name, label, pixels or why there are none) in the order of `found`, decoded a few images ahead."""
        waiting = collections.deque()
        for name, label, content in found:
            waiting.append((name, label, self.pool.submit(_pixels, name, content)))
            if len(waiting) > 2 * self.threads:
                name, label, future = waiting.popleft()
                yield name, label, future.result()
        for name, label, future in waiting:
            yield name, label, future.result()

    def _run(self, group, counts):
        """Count one batch, images of one size; the bytes of its pixels."""
        import tensorflow as tf

        images = np.stack([pixels for _, _, pixels in group])
        labels = np.array([label for _, label, _ in group])
        if not self.warm:  # what a first call does once is no measure of speed
            self.warm = True
            for module in self.modules:
                module.call(tf.constant(images))
        for module, count in zip(self.modules, counts, strict=True):
            start = time.monotonic()
            logits = module.call(tf.constant(images)).numpy()
            count.seconds += time.monotonic() - start
            if logits.shape != (len(group), module.outputs):
                raise BadImages(
                    f"{module.directory} answers {list(logits.shape)}, not [images, {module.outputs}] logits"
                )
            finite = np.isfinite(logits).all(axis=1)
            if not finite.all():
                raise BadImages(
                    f"{group[int(finite.argmin())][0]}: {module.directory} answers numbers that are not finite"
                )
            predicted, near = module.judge(logits, labels)
            count.confusion.update(zip(labels.tolist(), predicted.tolist(), strict=True))
            count.top5.update(labels[near].tolist())
        return images.nbytes


class _Module:
    """A loaded module, and how its logits answer the classes of the data."""

    def __init__(self, call, *, directory, outputs, columns=None, allowed=None):
        self.call, self.directory, self.outputs = call, directory, outputs
        self.columns = None if columns is None else np.array(columns)
        self.allowed = None if allowed is None else np.array(sorted(allowed))

    def judge(self, logits, labels):
        """The predicted logit `[n]`, and whether the right one is among the five largest `[n]`, for logits `[n, outputs]`.

        Of equal logits the first counts as the larger one, as in argmax.
        """
        targets = labels if self.columns is None else self.columns[labels]
        numbers = np.arange(logits.shape[1]) if self.allowed is None else self.allowed
        logits = logits[:, numbers]
        predicted = numbers[logits.argmax(axis=1)]
        there = np.isin(targets, numbers)
        place = np.where(there, np.searchsorted(numbers, targets), 0)
        own = logits[np.arange(len(logits)), place][:, np.newaxis]
        before = (logits > own) | ((logits == own) & (numbers < targets[:, np.newaxis]))
        return predicted, there & (before.sum(axis=1) < TOP)


class _Counts:
    """Of one module: images by true class and predicted logit, and those with the true class among the best five."""

    def __init__(self):
        self.confusion, self.top5, self.seconds = collections.Counter(), collections.Counter(), 0.0

    def described(self):
        return {
            "seconds": self.seconds,
            "confusion": [[*pair, count] for pair, count in sorted(self.confusion.items())],
            "top5": [[label, count] for label, count in sorted(self.top5.items())],
        }


def items(shard, index):
    """(name, label, encoded bytes, a callable that reads them, or pixels) of each image of a shard.

    Shards are one of

        {"kind": "files", "root": "/data", "items": [[path, label], ...]}
        {"kind": "npz", "file": ..., "start": 0, "end": 9}          arrays images, uint8 [n, height, width, 3], and labels [n]
        {"kind": "tfrecord", "file": ..., "start": 0, "end": None, "image_key": ..., "label_key": ..., "first_label": 1}

    of which the last is the bytes from `start` to `end` (None for all) of tf.train.Examples; labels that are text are looked
    up in `index`.
    """
    return {"files": _files, "npz": _arrays, "tfrecord": _records}[shard["kind"]](shard, index)


def _files(shard, _index):
    for path, label in shard["items"]:
        place = path if "://" in path or os.path.isabs(path) or not shard["root"] else f"{shard['root']}/{path}"
        yield place, label, lambda place=place: _read(place)


def _read(place):
    with _opened(place) as file:
        return file.read()


def _opened(place):
    if "://" not in place:
        return open(place, "rb")
    import fsspec

    return fsspec.open(place, "rb").open()


_arrays_kept: dict = {}  # the arrays that were read last: all shards of a file follow each other


def _arrays(shard, _index):
    if shard["file"] not in _arrays_kept:
        _arrays_kept.clear()
        with _opened(shard["file"]) as file, np.load(file, allow_pickle=False) as arrays:
            _arrays_kept[shard["file"]] = arrays["images"], arrays["labels"]
    images, labels = _arrays_kept[shard["file"]]
    for number in range(shard["start"], shard["end"]):
        yield f"{shard['file']}: image {number}", int(labels[number]), images[number]


def _records(shard, index):
    from tensorflow.core.example import example_pb2

    with _opened(shard["file"]) as file:
        file.seek(shard["start"])
        while shard["end"] is None or file.tell() < shard["end"]:
            name = f"{shard['file']}: record at byte {file.tell()}"
            content = _record(file, name)
            if content is None:
                return
            try:
                features = example_pb2.Example.FromString(content).features.feature
            except ValueError as error:
                raise BadImages(f"{name}: it is no tf.train.Example: {error}") from error
            image = _feature(features, shard["image_key"], "image-key", name)
            label = _feature(features, shard["label_key"], "label-key", name)
            if isinstance(label, bytes):
                text = label.decode(errors="replace")
                if text not in index:
                    raise BadImages(
                        f"{name}: its label {text!r} is no class of the data; say of which --labels it is one"
                    )
                label = index[text]
            elif shard["first_label"] is None:
                raise BadImages(f"{name}: labels are numbers; say which one the first class has: --first-label 0 or 1")
            else:
                label -= shard["first_label"]
            yield name, label, image


def _record(file, name):
    """The next record of a TFRecord file, None at its end: length (8 bytes), its checksum (4), content, its checksum (4)."""
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
    raise BadImages(
        f"{name}: it is damaged or cut off, or the file is compressed or no TFRecord file; get the right one"
    )


def _checksum(content):
    """TFRecord's masked CRC-32C."""
    import google_crc32c

    value = google_crc32c.value(content)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _feature(features, key, option, name):
    """The one value of a feature, int or bytes."""
    if key not in features:
        raise BadImages(f"{name}: it has no {key!r}, only {', '.join(sorted(features))}; choose one with --{option}")
    kind = features[key].WhichOneof("kind")
    values = list(getattr(features[key], kind).value) if kind in ("bytes_list", "int64_list") else []
    if len(values) != 1:
        raise BadImages(
            f"{name}: {key!r} holds {len(values)} texts or numbers, not one; choose another with --{option}"
        )
    return values[0]


def _pixels(name, content):
    """The pixels of an image, uint8 `[height, width, 3]`, or why it has none. Raises BadImages if it cannot be read at all."""
    if isinstance(content, np.ndarray):
        return content
    if callable(content):
        try:
            content = content()
        except Exception as error:
            raise BadImages(
                f"{name}: cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
            ) from error
    try:
        return decode(content)
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # PIL raises OSError, SyntaxError, struct.error and more for what is no image, or half of one
        reason = re.sub(r"<_io\.BytesIO[^>]*>", "", f"{type(error).__name__}: {error}")
        return " ".join(reason.split())


def decode(content):
    """Encoded bytes to uint8 `[height, width, 3]`, as torchvision's and timm's loaders do."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def versions():
    """Of the packages that decide the counts, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name.replace("-", "_")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device():
    """What TensorFlow runs on: "CPU", or the name of the first GPU."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What libraries print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    evaluator = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if evaluator is None:
                evaluator = Evaluator(**order)
                answer = {"versions": versions(), "device": device()}
            else:
                answer = evaluator.evaluate(order)
        except BadImages as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
