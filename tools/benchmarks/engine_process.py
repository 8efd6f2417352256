"""The process of one engine: it opens a network and runs it on images, as it is told by `tools.benchmarks.engines`.

    python tools/benchmarks/engine_process.py --threads 2

Every engine has a process of its own, so that no thread pool, allocator or library disturbs another. A Python that has PyTorch need
run this file only: it imports numpy and the engine, nothing of the repository. It is therefore a worker of `tools.common.workers`
with a loop of its own: requests and answers are lines of JSON in the same protocol,
    {"do": "open", "engine": ENGINE, ...}                               {"versions": {...}}
    {"do": "prepare", "batch": 8, "pixels": "float32"}                  {"seconds": of the first call, "answer": [shape]}
    {"do": "run", "batch": 8, "pixels": "float32", "seconds": 1.0}      {"images": n, "seconds": s, "cpu_seconds": c}
    {"do": "export", "model": NAME, "path": FILE}                       {}
and a request that fails is answered by {"error": TEXT}. With "training": true, a step of training is prepared and run: logits,
cross-entropy, gradients of every trainable variable, and plain gradient descent.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]  # runs a network on images and returns its answer, an array

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEARNING_RATE = 1e-3


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, required=True)
    options = arguments.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not break the conversation
    limit(options.threads)
    session = Session(options.threads)
    for line in sys.stdin:
        try:
            answer = session.answer(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


class Session:
    """One engine, and the calls that were prepared for it by batch size, kind of pixels and whether it trains."""

    def __init__(self, threads: int):
        self._threads = threads
        self._engine: Any = None
        self._calls: dict[tuple[int, str, bool], Call] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "open":
            self._engine = ENGINES[request["engine"]](self._threads, request)
            return {"versions": self._engine.versions}
        if request["do"] == "export":
            export(request["model"], request["path"])
            return {}
        batch, pixels, training = key = request["batch"], request["pixels"], request.get("training", False)
        if request["do"] == "run":
            return run(self._calls[key], batch, request["seconds"])
        start = time.perf_counter()
        call = self._engine.prepare_training(batch) if training else self._engine.prepare(batch, pixels)
        answer = call()
        seconds = time.perf_counter() - start
        call()
        self._calls[key] = call
        return {"seconds": seconds, "answer": list(answer.shape)}


def limit(threads: int) -> None:
    """Give the process `threads` cores and tell the libraries, before any is imported; no GPU takes part."""
    os.environ.update(
        {
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
        }
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def run(call: Call, batch: int, seconds: float) -> dict[str, float]:
    """Call for at least `seconds`; return the images that were answered, in wall time and in CPU time.

    The first call warms caches and is not counted, unless it took the whole turn: what caches gain is nothing then.
    """
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    call()
    if time.perf_counter() - start >= seconds:
        images = batch
    else:
        start, cpu = time.perf_counter(), time.process_time()
    while not images or time.perf_counter() - start < seconds:
        call()
        images += batch
    return {"images": images, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def raw(batch: int, side: int, pixels: str, pixel_range: tuple[float, float] = (0.0, 1.0)) -> Any:
    """Return images as people have them: `[batch, side, side, 3]`, uint8, or float32 in `pixel_range`; always the same."""
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    if pixels == "uint8":
        return images
    low, high = pixel_range
    return images.astype(np.float32) / np.float32(255) * np.float32(high - low) + np.float32(low)


def normalised(batch: int, side: int) -> Any:
    """Return the same images as peers get them: normalised already, `[batch, 3, side, side]` float32, contiguous."""
    import numpy as np

    images = (raw(batch, side, "float32") - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def classes_of(batch: int) -> Any:
    """Return the classes of the images, `[batch]` int64; any will do."""
    import numpy as np

    return np.arange(batch, dtype=np.int64) % 10


class HubModule:
    """A SavedModel through `hub.load`, from a folder or an address; its preprocessing is part of what is measured."""

    def __init__(self, threads: int, request: dict[str, Any]):
        tf = _tensorflow(threads)
        import tensorflow_hub as hub

        self._tf, self._request = tf, request
        self._module = hub.load(request["module"])
        self.versions = {"tensorflow": tf.__version__, "tensorflow_hub": hub.__version__}

    def prepare(self, batch: int, pixels: str) -> Call:
        images = raw(batch, self._request["side"], pixels, self._request.get("pixel_range", (0.0, 1.0)))
        return lambda: self._module(self._tf.constant(images)).numpy()

    def prepare_training(self, batch: int) -> Call:
        images = raw(batch, self._request["side"], "float32", self._request.get("pixel_range", (0.0, 1.0)))
        return _training_step(self._tf, self._module, images, batch)


class KerasApplications:
    """The same architecture of keras.applications with random weights, as one graph; where it has preprocessing, that is inside."""

    def __init__(self, threads: int, request: dict[str, Any]):
        tf = _tensorflow(threads)
        import keras

        self._side = request["side"]
        self._model = model = getattr(keras.applications, request["model"])(weights=None, classifier_activation=None)
        self._tf, self._graph = tf, tf.function(lambda images: model(images, training=False))
        self.versions = {"keras": keras.__version__, "tensorflow": tf.__version__}

    def prepare(self, batch: int, pixels: str) -> Call:
        images = raw(batch, self._side, pixels, (0.0, 255.0))
        return lambda: self._graph(self._tf.constant(images)).numpy()

    def prepare_training(self, batch: int) -> Call:
        return _training_step(self._tf, self._model, raw(batch, self._side, "float32", (0.0, 255.0)), batch)


class OnnxRuntime:
    """An ONNX file in ONNX Runtime."""

    def __init__(self, threads: int, request: dict[str, Any]):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        self._session = onnxruntime.InferenceSession(request["onnx"], settings, providers=["CPUExecutionProvider"])
        self._input, self._side = self._session.get_inputs()[0].name, request["side"]
        self.versions = {"onnxruntime": onnxruntime.__version__}

    def prepare(self, batch: int, pixels: str) -> Call:
        images = normalised(batch, self._side)
        return lambda: self._session.run(None, {self._input: images})[0]


class OpenVino:
    """An ONNX file in OpenVINO, in float32 (it would choose bfloat16 by itself where the processor has it)."""

    def __init__(self, threads: int, request: dict[str, Any]):
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = openvino.Core().compile_model(request["onnx"], "CPU", settings).create_infer_request()
        self._side = request["side"]
        self.versions = {"openvino": openvino.__version__}

    def prepare(self, batch: int, pixels: str) -> Call:
        images = normalised(batch, self._side)
        return lambda: self._request.infer([images])[0]


class Timm:
    """timm's model with random weights, eager or compiled by torch.compile."""

    def __init__(self, threads: int, request: dict[str, Any]):
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        timm = import_timm()
        self._model = timm.create_model(request["model"]).eval()
        if request.get("compile"):
            self._model = torch.compile(self._model, dynamic=False)
        self._torch, self._side = torch, request["side"]
        self.versions = {"torch": torch.__version__, "timm": timm.__version__}

    def prepare(self, batch: int, pixels: str) -> Call:
        torch, images = self._torch, normalised(batch, self._side)

        def call() -> Any:
            with torch.inference_mode():
                return self._model(torch.from_numpy(images)).numpy()

        return call

    def prepare_training(self, batch: int) -> Call:
        torch, images, classes = self._torch, normalised(batch, self._side), classes_of(batch)
        self._model.train()
        descent = torch.optim.SGD(self._model.parameters(), lr=LEARNING_RATE)

        def step() -> Any:
            descent.zero_grad()
            loss = torch.nn.functional.cross_entropy(self._model(torch.from_numpy(images)), torch.from_numpy(classes))
            loss.backward()
            descent.step()
            return loss.detach().numpy()

        return step


ENGINES: dict[str, Callable[[int, dict[str, Any]], Any]] = {
    "hub": HubModule,
    "keras.applications": KerasApplications,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "timm": Timm,
}


def export(model: str, path: str) -> None:
    """Write timm's model with random weights as ONNX, `images` `[batch, 3, side, side]` to `logits` `[batch, classes]`."""
    import torch

    made = import_timm().create_model(model, exportable=True).eval()
    example = torch.zeros(2, *made.pretrained_cfg["input_size"])
    free = {0: "batch"}
    torch.onnx.export(
        made,
        (example,),
        path + ".part",
        dynamo=False,
        opset_version=20,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": free, "logits": free},
    )
    os.replace(path + ".part", path)


def import_timm() -> Any:
    """Import timm, also beside a torchvision whose compiled operators do not fit this PyTorch: none of them is needed here."""
    try:
        import timm
    except RuntimeError:  # torchvision describes the outputs of operators that PyTorch does not know
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        describe, torch.library.register_fake = torch.library.register_fake, lambda *_, **__: lambda function: function
        try:
            import timm
        finally:
            torch.library.register_fake = describe
    return timm


def _training_step(tf: Any, model: Any, images: Any, batch: int) -> Call:
    """Return a step of a model of TensorFlow, `model(images, training=True)` with its `trainable_variables`, as one graph."""
    classes = classes_of(batch)

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(images: Any, classes: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, model(images, training=True))
            loss = tf.reduce_mean(losses)
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            (variable if hasattr(variable, "handle") else variable.value).assign_sub(LEARNING_RATE * gradient)
        return loss

    return lambda: step(tf.constant(images), tf.constant(classes)).numpy()


def _tensorflow(threads: int) -> Any:
    """Import TensorFlow with that many threads."""
    import warnings

    warnings.filterwarnings("ignore", message="pkg_resources")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


if __name__ == "__main__":
    sys.exit(main())
