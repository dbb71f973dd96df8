"""Odd pictures, damaged ones and hostile ones: plain RGB comes out, or a reason."""

import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from qcfer.core.pictures import ImageError, decode_image

def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(data):
    return np.asarray(decode_image(data)).astype(int)


# Odd pictures that can be read: the pixels in closed form

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_pictures_keep_every_pixel(format, mode):
    values = NOISE if mode == "RGB" else NOISE[..., 0]
    expected = values if mode == "RGB" else np.repeat(values[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(values), format)), expected)


def test_palette_pictures_show_their_colours():
    palette = NOISE.reshape(-1, 3)
    image = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7), "L").copy()
    image.putpalette(palette.tobytes())
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(image, format)), NOISE)


def test_a_clear_palette_entry_is_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").copy()
    image.putpalette([10, 20, 30, 40, 50, 60])
    for format in ("PNG", "GIF"):
        assert pixels(encoded(image, format, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("format, options", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_alpha_lies_over_white(format, options):
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7, 1) * 7
    image = Image.fromarray(np.concatenate([NOISE, alpha], axis=2), "RGBA")
    expected = (NOISE * (alpha / 255)) + 255 * (1 - alpha / 255)
    np.testing.assert_allclose(pixels(encoded(image, format, **options)), expected, atol=1)


def test_grey_with_alpha_and_grey_with_a_clear_value():
    image = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.fromarray(np.array([[0, 255]], np.uint8))])
    assert pixels(encoded(image))[0, :, 0].tolist() == [255, 100]
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert pixels(encoded(grey, transparency=7))[0, :, 0].tolist() == [255, 8]


def test_cmyk_becomes_rgb():
    inks = np.random.default_rng(1).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    np.testing.assert_allclose(pixels(encoded(Image.fromarray(inks, "CMYK"), "TIFF")), expected, atol=1)
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(pixels(encoded(flat, "JPEG", quality=95)), np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=3)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, colour, rows):
    "A PNG written by hand, for what Pillow itself does not write."
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DEEP = np.array([[0, 255, 256, 32896, 65279, 65535]], np.uint16)


def test_sixteen_bits_are_scaled_to_eight():
    expected = (DEEP / 65535 * 255)[0]
    big_endian = DEEP.astype(">u2").tobytes()
    variants = {
        "png": encoded(Image.fromarray(DEEP)),
        "tiff": encoded(Image.fromarray(DEEP), "TIFF"),
        "pgm": b"P5\n6 1\n65535\n" + big_endian,
        "rgb png": png(6, 1, 16, 2, b"\0" + DEEP.astype(">u2").repeat(3).tobytes()),
        "grey and alpha png": png(6, 1, 16, 4, b"\0" + np.stack([DEEP, DEEP * 0 + 65535], axis=-1).astype(">u2").tobytes()),
    }
    for name, data in variants.items():
        np.testing.assert_allclose(pixels(data)[0], np.repeat(expected[:, None], 3, axis=1), atol=1, err_msg=name)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_are_spread_over_the_range(depth):
    values = np.arange(2**depth)
    bits = "".join(format(value, f"0{depth}b") for value in values).ljust(64, "0")
    data = png(len(values), 1, depth, 0, b"\0" + int(bits, 2).to_bytes(8, "big")[: max(1, len(values) * depth // 8)])
    assert pixels(data)[0, :, 0].tolist() == [255 * value // (2**depth - 1) for value in values]


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_exif_says_where_up_is(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(NOISE), format, exif=exif)
    np.testing.assert_array_equal(pixels(data), UPRIGHT[orientation](NOISE))


def test_exif_turns_pictures_of_every_depth():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(encoded(Image.fromarray(DEEP), exif=exif)).shape == (6, 1, 3)
    assert pixels(encoded(Image.new("CMYK", (6, 1)), "JPEG", exif=exif)).shape == (6, 1, 3)
    assert pixels(encoded(Image.new("RGBA", (6, 1)), exif=exif)).shape == (6, 1, 3)


def tag(number, kind, count, value):
    return struct.pack(">HHI4s", number, kind, count, value)


def jpeg_with_exif(*tags):
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    data = encoded(Image.new("RGB", (8, 4)), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


SIDEWAYS = tag(0x0112, 3, 1, b"\0\6\0\0")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("number", [0x010F, 0x011A, 0x014A, 0x8769, 0x8825, 0x927C, 0xA005])
@pytest.mark.parametrize("kind", range(14))
def test_strange_exif_does_not_cost_a_good_picture(number, kind):
    for count in (0, 1, 2, 1000):
        for value in (bytes(4), b"\xff" * 4, b"\0\0\0\x08"):
            assert decode_image(jpeg_with_exif(SIDEWAYS, tag(number, kind, count, value))).size == (4, 8)


@pytest.mark.parametrize("turn", [tag(0x0112, 3, 1, b"\0\x09\0\0"), tag(0x0112, 2, 2, b"6\0\0\0"), tag(0x0112, 3, 1, bytes(4))])
def test_an_unknown_orientation_turns_nothing(turn):
    assert decode_image(jpeg_with_exif(turn)).size == (8, 4)


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "lime")]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert pixels(data).tolist() == [[[255, 0, 0]] * 2] * 2


# Pictures that cannot be read

LARGER = Image.fromarray(np.tile(NOISE, (8, 8, 1)))
WHOLE = {format: encoded(LARGER, format) for format in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")}


@pytest.mark.parametrize("format", WHOLE)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused(format, share):
    data = WHOLE[format]
    assert decode_image(data).size == (56, 40)
    with pytest.raises(ImageError, match="damaged|not a picture"):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "the file is empty"),
        (b"<html>404 Not Found</html>", "not a picture in one of the formats JPEG, PNG"),
        (bytes(1000), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not a picture"),
        (b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 3.0), "mode F"),
        (encoded(Image.fromarray(np.array([[0, 100_000]], np.int32)), "TIFF"), "beyond 16 bits"),
        (png(0, 5, 8, 0, b""), "not a picture"),
        (b"P5\n0 5\n255\n", "not a picture"),
    ],
)
def test_the_reason_is_told(data, words):
    with pytest.raises(ImageError, match=words):
        decode_image(data)


def bomb(format, width, height):
    "A header alone that claims a picture of width x height."
    if format == "PNG":
        return png(width, height, 8, 2, b"")
    if format == "BMP":
        return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    if format == "GIF":
        frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08\x04abcd\0;"
        return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame
    return b"P6\n%d %d\n255\n" % (width, height)


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "PPM"])
@pytest.mark.parametrize("side", [8001, 10_000, 50_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_that_claims_too_much_is_refused_at_once(format, side):
    start = time.process_time()
    with pytest.raises(ImageError, match="pixels"):
        decode_image(bomb(format, side, side))
    assert time.process_time() - start < 0.2


def test_a_huge_header_takes_no_memory():
    code = (
        "import resource, sys; from qcfer.core.pictures import decode_image, ImageError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)\n"
        "try: decode_image(sys.stdin.buffer.read())\n"
        "except ImageError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", code], input=bomb("PNG", 50_000, 50_000), capture_output=True)
    assert b"2500000000 pixels" in answer.stdout, answer.stderr


def test_a_whole_picture_of_too_many_pixels_is_refused():
    data = encoded(Image.new("1", (8000, 8001)))
    assert len(data) < 20_000
    with pytest.raises(ImageError, match="8000 x 8001 pixels are more than 64,000,000"):
        decode_image(data)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    st.integers(1, 4000),
)
def test_a_damaged_picture_is_decoded_or_refused(format, changes, length):
    data = bytearray(WHOLE[format])
    for place, value in changes:
        data[place % len(data)] = value
    assert_decoded_or_refused(bytes(data[:length] if length % 3 == 0 else data))


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"RIFF\0\1\0\0WEBPVP8 ", b"II*\0", b"P6\n"]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=200))
def test_noise_is_decoded_or_refused(magic, noise):
    assert_decoded_or_refused(magic + noise)


def assert_decoded_or_refused(data):
    try:
        image = decode_image(data)
    except ImageError as error:
        assert str(error)
    else:
        assert image.mode == "RGB" and min(image.size) > 0


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(WHOLE)),
    st.sampled_from(["RGB", "L", "P", "1"]),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
    st.integers(0, 99),
)
def test_opaque_pictures_equal_pillows_own_reading(format, mode, shape, seed):
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).convert(mode)
    assume((format, mode) not in (("JPEG", "P"), ("PPM", "P")))
    data = encoded(image, format)
    with Image.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(pixels(data), np.asarray(reference.convert("RGB")))
