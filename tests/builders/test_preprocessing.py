"""The transforms against the libraries that they reproduce: goldens, then PIL, OpenCV and tf.image themselves."""

import pathlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from builders import export, preprocessing
from builders.preprocessing import Transform
from tools import catalog
from tools.catalog import preprocessing as rows

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "preprocessing"
TRANSFORMS = {name: Transform.from_dict(row) for name, row in rows.load()["transforms"].items()}
SIZES = [(1, 1), (2, 3), (7, 500), (224, 224), (256, 256), (301, 199), (640, 480), (1000, 17)]
ARITHMETICS = [("pil", True), ("opencv", False), ("tensorflow", True), ("tensorflow", False)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(*shape, seed=0):
    """Random uint8 images: every pixel differs from its neighbours, so every weight shows."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def resize_with_library(image, height, width, interpolation, library, antialias):
    if library == "pil":
        # The passes one by one: horizontal first, which Pillow 13 changed for some sizes.
        kernel = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
        narrow = Image.fromarray(image).resize((width, image.shape[0]), kernel)
        return np.asarray(narrow.resize((width, height), kernel), np.float32)
    if library == "opencv":
        kernel = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}[interpolation]
        return cv2.resize(image.astype(np.float32), (width, height), interpolation=kernel)
    return tf.image.resize(image.astype(np.float32), (height, width), interpolation, antialias=antialias).numpy()


def upstream(image, transform):
    """The whole transform as upstream writes it: resize the image, then cut."""
    height, width = image.shape[:2]
    if transform.resize == "warp":
        new_height = new_width = transform.size
        top = left = 0
    else:
        new_height, new_width = (int(transform.size * side / min(height, width)) for side in (height, width))
        offset = {"round": round, "ceil": lambda x: int(np.ceil(x))}[transform.crop_offset]
        top, left = (offset((side - transform.crop) / 2.0) for side in (new_height, new_width))
    resized = resize_with_library(
        image, new_height, new_width, transform.interpolation, transform.library, transform.antialias
    )
    return resized[top : top + transform.resolution, left : left + transform.resolution]


def assert_agrees(levels, reference, library):
    difference = np.abs(levels - reference)
    if library == "pil":
        assert np.array_equal(levels, np.round(levels))
        # Integer sums that lie exactly between two levels are the only ones that may round differently in float32.
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    else:
        # OpenCV's and TensorFlow's own sums are float32; OpenCV keeps positions in it as well.
        assert difference.max() < 0.02


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*__*")), ids=lambda path: path.stem)
def test_goldens(path):
    image_name, name = path.stem.split("__")
    image = np.asarray(Image.open(GOLDEN / f"{image_name}.png").convert("RGB"))
    levels = preprocessing.resize_and_crop(image[None], TRANSFORMS[name]).numpy()[0]
    if path.suffix == ".png":
        difference = np.abs(levels - np.asarray(Image.open(path), np.float32))
        assert difference.max() <= 1 and difference.mean() < 1e-4
    else:
        assert np.abs(levels - np.load(path)["rgb_0_255"].astype(np.float32)).max() < 0.07  # float16 steps of 0.125


@pytest.mark.parametrize(("library", "antialias"), ARITHMETICS)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_agrees_with_the_library(size, interpolation, library, antialias):
    image = noise(*size)
    common = {"interpolation": interpolation, "antialias": antialias, "library": library}
    for transform in (
        Transform(
            resize="short_side", size=110, crop=97, crop_offset="round", **common
        ),  # 97 is no multiple of a block
        Transform(resize="warp", size=31, **common),
    ):
        levels = preprocessing.resize_and_crop(image[None].astype(np.float32), transform).numpy()[0]
        if size == (2, 3) and library == "pil":
            # So few weights that whole columns of sums lie between two levels.
            assert np.abs(levels - upstream(image, transform)).max() <= 1
        else:
            assert_agrees(levels, upstream(image, transform), library)


COMMON = [
    {"interpolation": interpolation, "antialias": antialias, "library": library}
    for library, antialias in ARITHMETICS
    for interpolation in ("bicubic", "bilinear")
]


@pytest.mark.parametrize(
    "row",
    [
        *rows.load()["transforms"].values(),
        *({"resize": "warp", "size": size, **common} for common in COMMON for size in (32, 33)),
        *({"resize": "short_side", "size": 45, "crop": 45, "crop_offset": "round", **common} for common in COMMON),
    ],
    ids=lambda row: "-".join(
        map(str, (row["library"], row["interpolation"], row["resize"], row["size"], row["antialias"]))
    ),
)
def test_golden_images_are_resized_without_rounding(row):
    """Sums that float32 holds exactly are the same in any order and in any library, down to the last bit."""
    images, transform = export.golden_images(row), Transform.from_dict(row)
    assert images.dtype == np.uint8 and images.shape[:2] == (2, 2 * transform.size) and images.std() > 40
    levels = preprocessing.resize_and_crop(images, transform).numpy()
    np.testing.assert_array_equal(levels, [upstream(image, transform) for image in images])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_row_agrees_with_its_library(name):
    transform = TRANSFORMS[name]
    for size in ((333, 500), (501, 334), (150, 111)):
        image = noise(*size, seed=size[0])
        levels = preprocessing.resize_and_crop(image[None], transform).numpy()[0]
        assert_agrees(levels, upstream(image, transform), transform.library)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_catalog_and_builders_agree_on_the_resolution(name):
    assert rows.resolution(rows.load()["transforms"][name]) == TRANSFORMS[name].resolution
    assert f"_{TRANSFORMS[name].resolution}" in name


@pytest.mark.parametrize("crop_offset", ["round", "ceil"])
def test_crop_offset(crop_offset):
    """All remainders of an odd or even margin: half to even, and up."""
    for size in range(20, 32):
        transform = Transform(
            resize="short_side", size=size, crop=17, crop_offset=crop_offset, interpolation="bilinear", antialias=False,
            library="opencv",
        )  # fmt: skip
        image = noise(size, size, seed=size)  # already `size`: the transform only crops
        assert np.array_equal(preprocessing.resize_and_crop(image[None], transform)[0], upstream(image, transform))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_own_resolution_is_not_resampled(name):
    transform = TRANSFORMS[name]
    side = transform.resolution
    images = (
        np.random.default_rng(1).uniform(-20, 280, (2, side, side, 3)).astype(np.float32)
    )  # neither whole nor clipped

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def any_size(images):
        return preprocessing.resize_and_crop(images, transform)

    assert np.array_equal(any_size(images), images)
    assert np.array_equal(preprocessing.resize_and_crop(images, transform), images)
    normalized = preprocessing.preprocess(images, transform, mean=MEAN, std=STD, pixel_range=(0, 255))
    np.testing.assert_allclose(normalized, (images / 255 - MEAN) / STD, atol=2e-5)


@pytest.mark.parametrize("name", ["convnext_224", "pycls_224", "augreg_224", "digits_32"])
@pytest.mark.parametrize("size", [(240, 300), (224, 224)], ids=str)
def test_uint8_and_float_agree(name, size):
    transform = TRANSFORMS[name]
    images = noise(2, *size)
    expected = preprocessing.preprocess(images, transform, mean=MEAN, std=STD).numpy()
    levels = preprocessing.resize_and_crop(images, transform).numpy()
    np.testing.assert_allclose(expected, (levels / 255 - MEAN) / STD, atol=2e-5)
    for black, white in ((0, 1), (0, 255), (-1, 1)):
        floats = (images / 255 * (white - black) + black).astype(np.float32)
        normalized = preprocessing.preprocess(floats, transform, mean=MEAN, std=STD, pixel_range=(black, white))
        np.testing.assert_allclose(normalized, expected, atol=1e-5 if transform.library == "pil" else 1e-4)


def test_batches_equal_singles_and_may_be_empty():
    images = noise(3, 130, 97)
    for name in ("convnext_224", "pycls_224", "augreg_224"):
        together = preprocessing.resize_and_crop(images, TRANSFORMS[name]).numpy()
        for single, image in zip(together, images, strict=True):
            np.testing.assert_allclose(
                preprocessing.resize_and_crop(image[None], TRANSFORMS[name])[0], single, atol=1e-4
            )
        assert preprocessing.resize_and_crop(images[:0], TRANSFORMS[name]).shape == (0, 224, 224, 3)


@pytest.mark.parametrize("name", ["convnext_224", "convnext_384", "pycls_224", "augreg_224"])
def test_one_graph_takes_any_size(name):
    transform = TRANSFORMS[name]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def function(images):
        assert images.shape[1] is None
        result = preprocessing.preprocess(images, transform, mean=MEAN, std=STD)
        assert result.shape.as_list() == [None, transform.resolution, transform.resolution, 3]
        return result

    for size in ((1, 1), (1, 4000), (4000, 1), (3, 5000), (224, 224), (224, 225), (1200, 900)):
        # A constant image stays constant, whatever weights its size gives.
        expected = np.broadcast_to((0.2 - np.array(MEAN)) / STD, (1, *function.input_signature[0].shape[3:]))
        result = function(tf.fill([1, *size, 3], 0.2)).numpy()
        np.testing.assert_allclose(result.reshape(-1, 3), np.broadcast_to(expected, (result.size // 3, 3)), atol=1e-4)


def test_4000x3000_image():
    image = noise(4000, 3000)
    transform = TRANSFORMS["convnext_224"]
    assert_agrees(preprocessing.resize_and_crop(image[None], transform)[0].numpy(), upstream(image, transform), "pil")


@pytest.mark.parametrize(("library", "antialias"), ARITHMETICS)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 5000)], ids=str)
def test_extreme_aspect_ratios(size, interpolation, library, antialias):
    """The crop alone is computed; the library resizes all 30,000 pixels or more of the long side."""
    transform = Transform(
        resize="short_side", size=20, crop=17, crop_offset="round", interpolation=interpolation, antialias=antialias,
        library=library,
    )  # fmt: skip
    image = noise(*size)
    levels = preprocessing.resize_and_crop(image[None], transform).numpy()[0]
    # TensorFlow's kernels keep positions in float32, which has steps of 1/4000 pixel there.
    limit = 1 if library == "pil" else 0.1
    assert np.abs(levels - upstream(image, transform)).max() <= limit


@pytest.mark.parametrize("name", ["convnext_224", "pycls_224", "augreg_224"])
@pytest.mark.parametrize("size", [(50, 70), (300, 260), (224, 224)], ids=str)
def test_gradients_reach_the_images(name, size):
    """Whether the size is known to the graph or not; of no images there is an empty gradient."""
    images = tf.constant(noise(1, *size).astype(np.float32) / 255)

    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(preprocessing.preprocess(images, TRANSFORMS[name], mean=MEAN, std=(1, 1, 1)))
        return tape.gradient(total, images)

    result = tf.function(gradient)(images).numpy()
    of_any_size = tf.function(gradient, input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    np.testing.assert_allclose(of_any_size(images), result, rtol=1e-4, atol=1e-6)
    assert of_any_size(images[:0]).shape == (0, *size, 3)
    assert np.isfinite(result).all()
    middle = result[0, size[0] // 2 - 5 : size[0] // 2 + 5, size[1] // 2 - 5 : size[1] // 2 + 5]
    # Every output's weights sum to 1: the gradients' mean is the enlargement, also through the roundings.
    transform = TRANSFORMS[name]
    if transform.resize == "warp":
        enlargement = transform.resolution**2 / (size[0] * size[1])
    else:
        enlargement = (transform.size / min(size)) ** 2 if size != (224, 224) else 1.0
    assert middle.mean() == pytest.approx(enlargement, rel=0.2)


def test_runs_on_a_gpu_without_xla_and_without_strings():
    """Every operation that touches pixels has a GPU kernel for its types; sizes and weights are pinned to the CPU."""
    from tensorflow.python.framework import kernels

    for dtype in (tf.float32, tf.uint8):
        for name in ("convnext_224", "pycls_224", "augreg_224"):
            function = tf.function(
                lambda images, name=name: preprocessing.preprocess(images, TRANSFORMS[name], mean=MEAN, std=STD)
            )
            graph = function.get_concrete_function(tf.TensorSpec([None, None, None, 3], dtype)).graph.as_graph_def()
            nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
            operations = {}
            for node in nodes:
                assert node.op not in ("PyFunc", "EagerPyFunc", "XlaLaunch", "Assert", "StringFormat"), node.name
                # A GPU's images must not be fetched for their shape.
                assert node.op != "Shape" or "CPU" not in node.device
                if "CPU" not in node.device and node.op not in ("Placeholder", "Const"):
                    operations.setdefault(node.op, []).append(node)
            assert "BatchMatMulV2" in operations and not {"If", "StatelessIf", "Case", "StatelessCase"} & set(
                operations
            )
            for operation, users in operations.items():
                registered = [
                    kernel
                    for kernel in kernels.get_registered_kernels_for_op(operation).kernel
                    if kernel.device_type in ("GPU", "DEFAULT")
                ]
                for node in users:
                    assert any(
                        all(
                            node.attr[constraint.name].type in constraint.allowed_values.list.type
                            for constraint in kernel.constraint
                        )
                        for kernel in registered
                    ), f"{operation} {node.name} has no GPU kernel for its types"


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((224, 224, 3), np.float32),
        np.zeros((1, 224, 224, 1), np.float32),
        np.zeros((1, 3, 224, 224), np.uint8),
        np.zeros((1, 224, 224, 3), np.float64),
        np.zeros((1, 224, 224, 3), np.int32),
    ],
    ids=lambda images: f"{images.dtype}{images.shape}",
)
def test_refuses_what_cannot_be_images(images):
    with pytest.raises(ValueError, match=r"give RGB images, float32 or uint8, \[batch, height, width, 3\]"):
        preprocessing.preprocess(images, TRANSFORMS["convnext_224"], mean=MEAN, std=STD)


@pytest.mark.parametrize("shape", [(1, 0, 5, 3), (2, 5, 0, 3)])
@pytest.mark.parametrize("name", ["convnext_224", "augreg_224"])
def test_refuses_images_without_pixels(name, shape):
    function = tf.function(lambda images: preprocessing.resize_and_crop(images, TRANSFORMS[name]))
    function = function.get_concrete_function(tf.TensorSpec([None, None, None, 3]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="images_of_at_least_1x1_pixel"):
        function(tf.zeros(shape))


def test_refuses_an_empty_pixel_range():
    with pytest.raises(ValueError, match="black < white"):
        preprocessing.preprocess(
            noise(1, 8, 8).astype(np.float32), TRANSFORMS["digits_32"], mean=MEAN, std=STD, pixel_range=(1, 1)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": "stretch"}, "resize"),
        ({"interpolation": "lanczos"}, "interpolation"),
        ({"library": "pillow"}, "library"),
        ({"antialias": False}, "antialias"),
        ({"crop": 300}, "crop"),
        ({"crop": None}, "crop"),
        ({"crop": 0}, "resolution"),
        ({"crop_offset": None}, "crop_offset"),
        ({"resize": "warp", "crop_offset": None}, "crop"),
        ({"colour": "RGB"}, "unknown keys"),
    ],
)
def test_refuses_impossible_transforms(change, message):
    row = rows.load()["transforms"]["convnext_224"]
    with pytest.raises(ValueError, match=message):
        Transform.from_dict({**row, **change})


ROW = """
[transforms.some_224]
resize = "short_side"
size = 256
crop = 224
crop_offset = "round"
interpolation = "bicubic"
antialias = true
library = "pil"
text = "short side to 256, centre crop to 224"

[normalizations.half]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
text = "mean 0.5, divided by 0.5"
"""


def load_text(tmp_path, text):
    path = tmp_path / "preprocessing.toml"
    path.write_text(text)
    return rows.load(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size = 256", "size = 0", "`size = 0` is no size of an image. Fix: write a whole number of pixels from 1 to 4096."),
        ("size = 256", "size = 256.0", "`size = 256.0` is not a whole number. Fix: write a whole number."),
        ("size = 256", "size = true", "`size = True` is not a whole number. Fix: write a whole number."),
        ("size = 256", "", "`size` is missing. Fix: add `size = ...` (a whole number)."),
        ("crop = 224", "crop = 257", "`crop = 257` is larger than `size = 256`. Fix: write a crop of at most 256."),
        ('resize = "short_side"', 'resize = "warp"', "`crop = 224` with `resize = \"warp\"`, which crops nothing. Fix: delete it"),
        ('resize = "short_side"', 'resize = "long_side"', "'long_side'. Fix: did you mean `short_side`?"),
        ('"bicubic"', '"lanczos"', "'lanczos'. Fix: write one of bicubic, bilinear."),
        ('"bicubic"', "3", "`interpolation = 3` is not a string"),
        ("antialias = true", "antialias = false", "write true (PIL always antialiases)"),
        ("antialias = true", "antialias = 1", "write true or false"),
        ('"pil"', '"opencv"', "write false (INTER_LINEAR"),
        ('crop_offset = "round"', 'crop_offset = "floor"', "write one of ceil, round"),
        ("crop = 224", "crop = 224\ncolour = 1", "unknown key `colour`. Fix: "),
        ("to 224", "to 225", "does not name 224"),
        ('text = "short side to 256, centre crop to 224"', "", "`text` is missing"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [127.5, 127.5, 127.5]", "divide by 255"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.5]", "has not three numbers"),
        ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.5, 0]", "write positive numbers"),
        ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.5, nan]", "write finite numbers"),
        ("[transforms.some_224]", "[transforms.Some-224]", "transforms.Some-224: 'Some-224' is no name. Fix: begin with a lower-case letter"),
        ("[normalizations.half]", "[normalisations.half]", "unknown key `normalisations`. Fix: did you mean `normalizations`?"),
        ("[normalizations.half]", "[normalizations.half", "is not valid TOML"),
    ],
)  # fmt: skip
def test_rows_are_read_strictly(tmp_path, old, new, message):
    assert load_text(tmp_path, ROW)["transforms"]["some_224"]["size"] == 256
    assert ROW.count(old) == 1
    with pytest.raises(catalog.CatalogError) as caught:
        load_text(tmp_path, ROW.replace(old, new))
    assert any(message in str(problem) and "preprocessing.toml" in problem.file for problem in caught.value.problems)


def test_all_problems_of_the_rows_are_reported_together(tmp_path):
    with pytest.raises(catalog.CatalogError) as caught:
        load_text(tmp_path, ROW.replace('"pil"', '"pillow"').replace("= 224", "= -1").replace("[0.5, 0.5, 0.5]", "0.5"))
    where = [problem.row for problem in caught.value.problems]
    assert where.count("transforms.some_224") >= 2 and where.count("normalizations.half") == 2


def test_rows_that_cannot_be_read(tmp_path):
    with pytest.raises(catalog.CatalogError, match="restore the file"):
        rows.load(tmp_path / "nothing.toml")
