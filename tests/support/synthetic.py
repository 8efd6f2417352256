"""Records as publishing writes them, made up here: no checkpoint, no model, only the facts that pages are made of."""

import copy
import hashlib
import json

from tests.support.commands import ROOT
from tools.catalog import vocabularies
from tools.catalog.catalog import Collection, Publisher
from tools.site import pages

TAGS = vocabularies.load(ROOT / "modules/tags")
BASE_URL = "https://models.example.org/hub"
PUBLISHER = Publisher(
    "hubpress", "hubpress", "Vision backbones as TF-Hub modules.", "Every module was *checked*.\n", BASE_URL
)


def collection(name: str, title: str, **select) -> Collection:
    columns = ("reported_top1", "measured_top1", "parameters", "gflops", "resolution", "download")
    return Collection(
        name,
        title,
        f"{title} models.",
        f"About {title}, see [the paper](https://example.org/paper).\n",
        columns,
        select,
    )


COLLECTIONS = (
    collection("convnext", "ConvNeXt", family=("convnext",), data=("1k",)),
    collection("quickstart", "Quickstart", data=("digits",)),
    collection("vit", "Vision Transformer", family=("vit",)),
    collection("unpublished", "Unpublished", family=("regnety",)),
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record(
    name: str, *, feature_extractor: bool = False, version: int = 1, sibling: str | None = None, **changes
) -> dict:
    """A record; `changes` replace facts, with `row__size="tiny"` for what lies deeper."""
    handle = f"hubpress/{name}/{version}"
    width = 96 if feature_extractor else 10
    output = {"name": "features" if feature_extractor else "logits", "dtype": "float32", "shape": [None, width]}
    made = {
        "schema": 1,
        "kind": "Module",
        "handle": handle,
        "publisher": "hubpress",
        "name": name,
        "version": version,
        "head": "feature_extractor" if feature_extractor else "classifier",
        "sibling": sibling,
        "task": "image-feature-vector" if feature_extractor else "image-classification",
        "row": {
            "file": "modules/convnext.toml",
            "stem": name.removesuffix("_fe"),
            "version": version,
            "family": "convnext",
            "title": "ConvNeXt",
            "size": "digits",
            "data": "digits",
            "data_text": "trained on 8x8 images of handwritten digits",
            "datasets": ["optical-recognition-of-handwritten-digits"],
            "network_architecture": "convnext",
            "architecture": {"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 96]},
            "resolution": 32,
            "classes": 10,
            "labels": "digits",
            "transform": "digits_32",
            "normalization": "imagenet",
            "pixel_range": [0.0, 1.0],
            "checkpoint": "modules/quickstart/convnext_digits.safetensors",
            "format": "timm",
            "sha256": None,
            "licence": "apache-2.0",
            "source_text": "this repository, where `tools/train_digits.py` trains it",
            "numbers": None,
            "parameters": None,
            "gflops": None,
            "top1": None,
            "top5": None,
            "paper": {
                "title": "A ConvNet for the 2020s",
                "authors": "Zhuang Liu, Hanzi Mao, Chao-Yuan Wu, Christoph Feichtenhofer, Trevor Darrell, Saining Xie",
                "venue": "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
                "url": "https://arxiv.org/abs/2201.03545",
                "key": "liu2022convnet",
                "year": 2022,
            },
            "fine_tunable": True,
            "evaluation": "quickstart/digits_test.npz",
            "changes": None,
            "names": {"classifier": name, "feature_extractor": f"{name}_fe"},
        },
        "preprocessing": {
            "transform": {
                "resize": "warp",
                "size": 32,
                "text": "both sides to 32 whatever the aspect ratio (bicubic, antialiased)",
            },
            "normalization": {"text": "ImageNet mean subtracted, divided by the standard deviation"},
        },
        "signature": {
            "inputs": [
                {"name": "images", "dtype": "float32", "shape": [None, None, None, 3], "range": [0.0, 1.0]},
                {"name": "images", "dtype": "uint8", "shape": [None, None, None, 3], "range": [0, 255]},
            ],
            "outputs": [output],
            "arguments": {"training": False, "drop_path_rate": 0.0},
        },
        "measured": {
            "parameters": 185584 if feature_extractor else 186554,
            "trainable_parameters": 185584 if feature_extractor else 186554,
            "gflops": 0.0021,
            "top1": None
            if feature_extractor
            else {
                "value": 98.61,
                "correct": 355,
                "images": 360,
                "dataset": "optical-recognition-of-handwritten-digits",
                "split": "test",
                "date": "2026-11-20",
            },
        },
        "checkpoint": {
            "url": "modules/quickstart/convnext_digits.safetensors",
            "file": "convnext_digits.safetensors",
            "format": "timm",
            "bytes": 752000,
            "sha256": digest("checkpoint of " + name),
        },
        "archive": {
            "path": f"{handle}.tar.gz",
            "bytes": 712345,
            "unpacked_bytes": 912345,
            "sha256": digest(handle),
            "md5": digest(handle)[:32],
            "members": 9,
        },
        "verification": {
            "golden_tolerance": 0.0001,
            "keras_difference": 1.2e-07,
            "fine_tuned": True,
            "sizes": ["1x1", "4000x3000"],
        },
        "versions": {
            "tensorflow": "2.21.0",
            "keras": "3.15.1",
            "tensorflow_hub": "0.16.1",
            "python": "3.11",
            "hubpress": "0.1.0",
        },
        "build": {"key": digest(f"build {handle}")},
        "published": "2026-11-20T10:30:00Z",
    }
    return change(made, **changes)


def change(made: dict, **changes) -> dict:
    made = copy.deepcopy(made)
    for path, value in changes.items():
        *folders, key = path.split("__")
        at = made
        for folder in folders:
            at = at[folder]
        assert key in at, f"a record has no {path}"
        at[key] = value
    return made


def imagenet(size: str, **changes) -> dict:
    """Return what the rows of a large family have: an upstream address, reported figures, nothing evaluated here."""
    facts = {
        "row__size": size,
        "row__data": "1k",
        "row__data_text": "trained on ImageNet-1k",
        "row__datasets": ["imagenet-ilsvrc-2012-cls"],
        "row__resolution": 224,
        "row__labels": "imagenet_1k",
        "row__licence": "mit",
        "row__source_text": "the authors' repository",
        "row__numbers": "https://github.com/facebookresearch/ConvNeXt",
        "row__parameters": 28_589_128,
        "row__gflops": 4.5,
        "row__top1": 82.1,
        "row__architecture": {"depths": [3, 3, 9, 3], "dims": [96, 192, 384, 768]},
        "checkpoint__url": f"https://example.org/weights/convnext_{size}.pth",
        "checkpoint__file": f"convnext_{size}.pth",
        "measured__top1": None,
        "measured__parameters": 28_589_128,
        "measured__gflops": 4.455523,
        "archive__bytes": 106_183_220,
        "published": "2026-11-22T08:00:00Z",
    }
    facts.update(changes)
    return facts


def records() -> list[dict]:
    """One record of every kind that pages must be able to show."""
    tiny = imagenet("tiny")
    no_labels = imagenet(
        "large",
        row__data="21k",
        row__data_text="trained on ImageNet-21k, with its head of 21,841 classes",
        row__datasets=["imagenet-21k"],
        row__labels=None,
        row__top1=None,
        signature__outputs=[{"name": "logits", "dtype": "float32", "shape": [None, 21841]}],
    )
    vit = imagenet(
        "b_16",
        row__family="vit",
        row__title="Vision Transformer",
        row__network_architecture="vit",
        row__top1=84.0,
        row__fine_tunable=False,
        row__architecture={"patch": 16, "width": 768},
        row__paper={
            "title": "How to train your ViT? Data, Augmentation & Regularization",
            "authors": "Andreas Steiner, Alexander Kolesnikov",
            "venue": "Transactions on Machine Learning Research",
            "url": "https://arxiv.org/abs/2106.10270",
            "key": "steiner2022train",
            "year": 2022,
        },
        measured__top1={
            "value": 83.98,
            "correct": 41990,
            "images": 50000,
            "dataset": "imagenet-ilsvrc-2012-cls",
            "split": "validation",
            "date": "2026-11-23",
        },
    )
    levels = imagenet(
        "800mf",
        row__licence="cc-by-nc-4.0",
        row__pixel_range=[0.0, 255.0],
        row__numbers=None,
        row__top1=None,
        row__parameters=None,
        row__gflops=None,
        measured__gflops=None,
        signature__inputs=[
            {"name": "images", "dtype": "float32", "shape": [None, None, None, 3], "range": [0.0, 255.0]}
        ],
        signature__arguments={},
    )
    return [
        record("convnext_digits", sibling="hubpress/convnext_digits_fe/1"),
        record("convnext_digits_fe", feature_extractor=True, sibling="hubpress/convnext_digits/1"),
        record("convnext_tiny_1k_224", sibling="hubpress/convnext_tiny_1k_224_fe/1", **tiny),
        record("convnext_tiny_1k_224_fe", feature_extractor=True, **tiny),
        record("convnext_tiny_1k_224", version=2, **tiny),
        record("convnext_tiny_1k_224", version=10, **imagenet("tiny", published="2026-11-25T08:00:00Z")),
        record("convnext_large_21k_224", sibling="hubpress/never_published/1", **no_labels),
        record("vit/b_16/classification", **vit),
        record("nc.800mf-features", feature_extractor=True, **levels),
    ]


YANKED = {"hubpress/convnext_tiny_1k_224/2": "its labels were in the wrong order"}
TINY = "hubpress/convnext_tiny_1k_224/10"
LARGE = "hubpress/vit/b_16/classification/1"
DIGITS = "hubpress/convnext_digits/1"
VERSIONS = {"tensorflow": "2.99.1", "python": "3.11"}


def note(handle, number, action, **measurement):
    date = f"2026-12-0{number}T08:00:00Z"
    measurement |= {"versions": VERSIONS}
    return {"schema": 1, "kind": "Note", "handle": handle, "number": number, "action": action, "date": date} | {
        "measurement": measurement
    }


def evaluation(handle, number, top1, *, top5=None, images=50_000, dataset="imagenet-ilsvrc-2012-cls"):
    def accuracy(value):
        return value and {"value": value, "correct": round(value * images / 100)}

    figures = {"dataset": dataset, "split": "validation", "images": images, "list_sha256": "0" * 64}
    return note(handle, number, "evaluation", **figures, top1=accuracy(top1), top5=accuracy(top5))


def speed(handle, number, one, eight, *, cpu="Test CPU <b>9000</b>", threads=2):
    return note(
        handle, number, "speed", cpu=cpu, threads=threads, resolution=224, images_per_second={"1": one, "8": eight}
    )


MEASUREMENTS = {
    TINY: [
        evaluation(TINY, 1, 70.5, top5=90.25),
        evaluation(TINY, 2, 82.02, top5=95.96),
        evaluation(TINY, 3, 71.0, images=10_000, dataset="imagenet-v2"),  # not what it was trained for
        speed(TINY, 4, 11.25, 12.5, threads=4),
        speed(TINY, 5, 31.25, 1240.5),
    ],
    DIGITS: [evaluation(DIGITS, 1, 97.5, images=360, dataset="optical-recognition-of-handwritten-digits")],
}
# As `tools/benchmark.py` writes it.
BENCHMARKS = json.loads((ROOT / "tests/support/benchmarks.json").read_text(encoding="utf-8"))


def build(records, **changes):
    """The pages of some records, with everything else as it is here."""
    arguments = {"publisher": PUBLISHER, "collections": COLLECTIONS, "base_url": BASE_URL, "tags": TAGS}
    return pages.build(records, **{**arguments, **changes})
