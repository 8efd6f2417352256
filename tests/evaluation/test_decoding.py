"""Encoded images to pixels: what PIL's `convert` gives for 8 bits, scaled by the range of the format for more, refused otherwise."""

import io
import struct

import numpy as np
import PIL.Image
import pytest

from tests.support.image_sets import encoded
from tools.evaluation import BadImagesError, UnusableImage, worker
from tools.evaluation.decoding import FORMATS, decode, rgb
from tools.evaluation.lists import ENDINGS

RNG = np.random.default_rng(0)
COLOURS = PIL.Image.fromarray(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8))
GREY = np.asarray(COLOURS.convert("L"))
UPSTREAM, SCALED = "as upstream", "scaled"
# Every mode that PIL has: as upstream's loaders convert it, scaled by the range of its format, or refused with a reason.
MODES = {
    **dict.fromkeys(
        ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"], UPSTREAM
    ),
    **dict.fromkeys(["I", "I;16", "I;16B", "I;16L", "I;16N"], SCALED),
    "F": "floats whose black and white",
    "La": "conversion from La to L not supported",  # no format of images has it
}


def image_of(mode):
    """An image of each mode, in memory; deep greys as PNG holds them."""
    if mode in ("La", "PA"):
        return PIL.Image.frombytes(mode, (9, 6), RNG.bytes(9 * 6 * 2))
    if mode == "I":
        return PIL.Image.fromarray(GREY.astype(np.int32) * 257)
    if mode.startswith("I;16"):
        return PIL.Image.frombytes(mode, (9, 6), (GREY.astype(">u2" if mode == "I;16B" else "<u2") * 257).tobytes())
    if mode == "F":
        return PIL.Image.fromarray(GREY.astype(np.float32) / 255)
    if mode == "RGBa":
        return COLOURS.convert("RGBA").convert("RGBa")
    if mode == "LAB":
        return PIL.Image.frombytes("LAB", (9, 6), COLOURS.tobytes())
    return COLOURS.convert(mode)


def test_the_table_has_every_mode():
    PIL.Image.init()
    assert set(MODES) == set(PIL.Image.MODES)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode):
    image = image_of(mode)
    assert image.mode == mode
    if MODES[mode] == UPSTREAM:
        np.testing.assert_array_equal(rgb(image), np.asarray(image.convert("RGB")))
    elif MODES[mode] == SCALED:
        with pytest.raises(UnusableImage, match="nothing does not define"):
            rgb(image)  # of no format
        image.format = "PNG"
        np.testing.assert_array_equal(rgb(image), np.stack([GREY] * 3, axis=-1))
    else:
        with pytest.raises((UnusableImage, ValueError), match=MODES[mode]):
            rgb(image)


def tiff(samples, *, bits, photometric=1, sample_format=1, order="<"):
    """A TIFF of one strip, by hand: PIL writes few of the kinds that it reads."""
    data = samples if isinstance(samples, bytes) else samples.tobytes()
    tags = {
        256: 9,
        257: 6,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: 6,
        279: len(data),
        339: sample_format,
    }
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def packed12(values):
    """Two samples of 12 bits in three bytes, most significant first; each row begins with a byte."""
    rows = ["".join(f"{value:012b}" for value in row) + "0000" for row in values]
    return b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)


def pgm(maximum):
    samples = np.rint(GREY / 255 * maximum).astype(">u2" if maximum > 255 else "u1")
    return b"P5\n9 6\n%d\n" % maximum + samples.tobytes()


WIDE = GREY.astype(np.uint32)
GREYS = {
    "PNG 8": encoded(GREY),
    "PNG 16": encoded((WIDE * 257).astype(np.uint16)),
    "PNG 16, zeros below": encoded((WIDE << 8).astype(np.uint16)),
    "PGM 255": pgm(255),
    "PGM 1023": pgm(1023),
    "PGM 65535": pgm(65535),
    "JPEG 2000, 16": encoded((WIDE * 257).astype(np.uint16), "JPEG2000"),
    "TIFF 8": tiff(GREY, bits=8),
    "TIFF 8, white is zero": tiff(255 - GREY, bits=8, photometric=0),
    "TIFF 12": tiff(packed12(WIDE << 4 | WIDE >> 4), bits=12),
    "TIFF 16": tiff((WIDE * 257).astype("<u2"), bits=16),
    "TIFF 16, big end first": tiff((WIDE * 257).astype(">u2"), bits=16, order=">"),
    "TIFF 16, white is zero": tiff((65535 - WIDE * 257).astype("<u2"), bits=16, photometric=0),
    "TIFF 32": tiff((WIDE * 0x01010101).astype("<u4"), bits=32),
    "TIFF 16, deflated": encoded((WIDE * 257).astype(np.uint16), "TIFF", compression="tiff_deflate"),
}
REFUSED = {
    "TIFF signed 8": tiff(GREY.astype("<i1"), bits=8, sample_format=2),
    "TIFF signed 16": tiff(GREY.astype("<i2"), bits=16, sample_format=2),
    "TIFF signed 32": tiff(GREY.astype("<i4"), bits=32, sample_format=2),
    "TIFF float": tiff(GREY.astype("<f4"), bits=32, sample_format=3),
    "PIL's TIFF of integers": encoded(GREY.astype(np.int32), "TIFF"),
    "PIL's TIFF of floats": encoded(GREY.astype(np.float32), "TIFF"),
    "PFM": b"Pf\n9 6\n-1.0\n" + GREY.astype("<f4").tobytes(),
}


@pytest.mark.parametrize("kind", GREYS)
def test_greys_of_more_than_8_bits_are_scaled_by_the_range_of_their_format(kind):
    pixels = decode(GREYS[kind])
    assert pixels.dtype == np.uint8
    slack = 1 if kind == "PGM 1023" else 0  # 10 bits were rounded when they were written
    assert pixels.shape == (6, 9, 3) and np.abs(pixels.astype(int) - GREY[:, :, np.newaxis]).max() <= slack


@pytest.mark.parametrize("kind", REFUSED)
def test_greys_without_a_range_are_refused(kind):
    with pytest.raises(UnusableImage, match=r"whose black and white (TIFF|PPM) does not define: store 8 or 16 bits"):
        decode(REFUSED[kind])


def animation(kind):
    stream = io.BytesIO()
    frames = [PIL.Image.fromarray(np.full((6, 9, 3), level, np.uint8)) for level in (200, 10, 20)]
    frames[0].save(
        stream, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    return stream.getvalue()


def kinds_of_8_bits():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    palette = COLOURS.convert("P")
    yield "RGB", encoded(COLOURS)
    yield "palette", encoded(palette)
    yield "palette with a transparent colour", encoded(palette, transparency=3)
    yield "palette with transparencies", encoded(palette, transparency=bytes(range(256)))
    yield "grey with transparency", encoded(COLOURS.convert("LA"))
    yield "RGBA", encoded(COLOURS.convert("RGBA"))
    yield "1 bit", encoded(COLOURS.convert("1"))
    yield "CMYK", encoded(COLOURS.convert("CMYK"), "JPEG")
    yield "YCbCr", encoded(COLOURS.convert("YCbCr"), "JPEG")
    yield "LAB", encoded(image_of("LAB"), "TIFF")
    yield "16 bits a colour", b"P6\n9 6\n65535\n" + (np.asarray(COLOURS).astype(">u2") * 257).tobytes()
    yield "EXIF", encoded(COLOURS, "JPEG", exif=exif)
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        yield f"{kind} with frames", animation(kind)
    for kind in FORMATS:
        yield kind, encoded(COLOURS, kind)


@pytest.mark.parametrize(("kind", "data"), kinds_of_8_bits(), ids=lambda each: each if isinstance(each, str) else "")
def test_8_bits_are_decoded_as_pil_converts_them(kind, data):
    """What EXIF says of rotation is left alone; of several frames the first counts."""
    pixels = decode(data)
    assert pixels.shape == (6, 9, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")))
    assert "frames" not in kind or abs(int(pixels.mean()) - 200) <= 1


def test_what_is_damaged_or_of_another_format():
    PIL.Image.init()
    for broken in (GREYS["PNG 8"][:40], b"", b"GIF89a", b"no image at all", encoded(COLOURS, "JPEG")[:-200]):
        with pytest.raises(UnusableImage, match="cannot be decoded"):
            decode(broken)
    assert {f".{name}" for name in ("jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "jp2")} <= set(ENDINGS)
    for kind in ("EPS", "TGA", "ICO", "PCX", "SGI", "IM", "PDF"):
        with pytest.raises(UnusableImage, match="none of JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, JPEG2000"):
            decode(encoded(COLOURS.resize((32, 32)), kind))


def test_limits_hold_before_anything_is_decoded():
    data = encoded(PIL.Image.new("RGB", (101, 100)))
    assert decode(data, 10_100).shape == (100, 101, 3)
    for limit in (10_099, 1_000, 1):
        with pytest.raises(UnusableImage, match=rf"^it has more than {limit:,} pixels \(--max-pixels\)$"):
            decode(data, limit)
    assert isinstance(worker.decode_ahead("x", data, 1), UnusableImage)


def test_large_images_wait_for_their_turn():
    data = encoded(PIL.Image.new("L", (4001, 4000)))
    assert worker.decode_ahead("x", data, 64_000_000) == data
    assert worker.decode_large(data, 64_000_000).shape == (4000, 4001, 3)
    assert isinstance(worker.decode_large(data, 16_000_000), UnusableImage)


def test_what_cannot_be_read():
    def read():
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(BadImagesError, match=r"^x: cannot be read: .*No such file"):
        worker.decode_ahead("x", read, 1)
