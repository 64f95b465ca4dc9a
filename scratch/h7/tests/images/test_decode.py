"""Odd images, as transformers' Pillow-backed processor sees them."""

import contextlib
import io
import zlib

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from lookalike.images.decode import DecodeSettings, decode
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.images.preprocess import Preprocessing

AS_REFERENCE = DecodeSettings(exif="ignore", bit_depth="clip", max_pixels=178_956_970)
CLIP = Preprocessing(
    resize="shortest_edge",
    size=(224, 224),
    resample=3,
    crop=(224, 224),
    crop_rounding="floor",
    scale=1 / 255,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
SIGLIP = Preprocessing("squash", (224, 224), 3, None, "floor", 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def texture(height, width, channels, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return values[:, :, 0] if channels == 1 else values


def picture(mode, height=61, width=83):
    """A picture of any Pillow mode, with structure in every channel."""
    if mode == "I;16":
        return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (height, width), np.uint16))
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
    if mode in channels:
        values = texture(height, width, channels[mode])
        return (
            Image.fromarray(values, mode=mode)
            if mode == "LA"
            else Image.fromarray(values).convert(mode)
            if mode != "CMYK"
            else Image.frombytes("CMYK", (width, height), values.tobytes())
        )
    return picture("RGB", height, width).convert(mode)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def palette_with_transparency():
    image = picture("RGB").quantize(16)
    return encoded(image, "PNG", transparency=3)


def rgb_with_transparent_colour():
    return encoded(picture("RGB"), "PNG", transparency=(7, 7, 7))


def animated_gif():
    frames = [picture("RGB").quantize(32), Image.new("P", (83, 61), 5)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def with_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture("RGB"), "JPEG", exif=exif)


ODD = {
    "jpeg baseline": lambda: encoded(picture("RGB"), "JPEG"),
    "jpeg progressive": lambda: encoded(picture("RGB"), "JPEG", progressive=True),
    "jpeg grey": lambda: encoded(picture("L"), "JPEG"),
    "jpeg cmyk": lambda: encoded(picture("CMYK"), "JPEG"),
    "png 16 bit": lambda: encoded(picture("I;16"), "PNG"),
    "png palette": lambda: encoded(picture("RGB").quantize(16), "PNG"),
    "png palette with transparency": palette_with_transparency,
    "png rgb with transparent colour": rgb_with_transparent_colour,
    "png 1 bit": lambda: encoded(picture("1"), "PNG"),
    "png grey with alpha": lambda: encoded(picture("LA"), "PNG"),
    "png rgba": lambda: encoded(picture("RGBA"), "PNG"),
    "gif animated": animated_gif,
    "tiff": lambda: encoded(picture("RGB"), "TIFF"),
    "tiff 16 bit": lambda: encoded(picture("I;16"), "TIFF"),
    "tiff lzw grey": lambda: encoded(picture("L"), "TIFF", compression="tiff_lzw"),
    "webp": lambda: encoded(picture("RGB"), "WEBP"),
    "webp with alpha": lambda: encoded(picture("RGBA"), "WEBP", lossless=True),
    "bmp": lambda: encoded(picture("RGB"), "BMP"),
    "avif": lambda: encoded(picture("RGB"), "AVIF"),
    "bmp 1 bit": lambda: encoded(picture("1"), "BMP"),
    "one pixel": lambda: encoded(picture("RGB", 1, 1), "PNG"),
    "one row": lambda: encoded(picture("L", 1, 40), "PNG"),
    "exif orientation, not applied": with_exif_orientation,
}


TRANSPARENT = {
    "png palette with transparency",
    "png rgb with transparent colour",
    "png grey with alpha",
    "png rgba",
    "webp with alpha",
}
#: What the installed transformers makes of a transparent black pixel: white, or black in older releases.
REFERENCE_COMPOSITES = (
    SiglipImageProcessorPil()(images=Image.new("RGBA", (8, 8)), return_tensors="np")["pixel_values"].min() > 0
)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    ("ours", "reference"), [(CLIP, CLIPImageProcessorPil), (SIGLIP, SiglipImageProcessorPil)], ids=["CLIP", "SigLIP"]
)
def test_odd_images_give_the_reference_processors_pixels(name, ours, reference):
    """Section 6: preprocessing is the repository's own processor; here bit for bit, also on odd images."""
    data = ODD[name]()
    if name in TRANSPARENT and not REFERENCE_COMPOSITES:
        pytest.skip("this release of transformers drops transparency; newer ones composite on white, as we do")
    expected = reference()(images=Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    pixels = ours(decode(data, AS_REFERENCE).image)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("shape", [(300, 300), (480, 641), (37, 500), (500, 37), (225, 224), (224, 225)])
def test_every_shape_gives_the_reference_processors_pixels(shape):
    data = encoded(picture("RGB", *shape), "PNG")
    expected = CLIPImageProcessorPil()(images=Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(CLIP(decode(data, AS_REFERENCE).image), expected)


def test_a_crop_larger_than_the_image_is_padded_as_the_reference_does():
    settings = {"size": {"shortest_edge": 20}, "crop_size": {"height": 33, "width": 34}}
    ours = Preprocessing("shortest_edge", (20, 20), 3, (33, 34), "floor", 1 / 255, CLIP.mean, CLIP.std)
    image = picture("RGB", 41, 29)
    expected = CLIPImageProcessorPil(**settings)(images=image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(ours(image), expected)


def test_exif_orientation_is_applied_on_request():
    data = with_exif_orientation()
    turned = decode(data, DecodeSettings("apply", "clip", 10**6)).image
    assert turned.size == (61, 83)
    upright = np.asarray(decode(data, AS_REFERENCE).image)
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(upright, -1))


def test_16_bit_images_are_clipped_as_in_the_reference_and_scaled_on_request():
    values = np.array([[0, 255, 256, 65535]], np.uint16)
    data = encoded(Image.fromarray(values), "PNG")
    clipped = decode(data, AS_REFERENCE)
    assert clipped.clipped
    assert np.asarray(clipped.image)[0, :, 0].tolist() == [0, 255, 255, 255]
    scaled = decode(data, DecodeSettings("ignore", "scale", 10**6))
    assert not scaled.clipped
    assert np.asarray(scaled.image)[0].tolist() == [0, 1, 1, 255]


def test_a_16_bit_file_with_8_bit_values_is_not_reported_as_clipped():
    data = encoded(Image.fromarray(np.array([[0, 200]], np.uint16)), "PNG")
    assert not decode(data, AS_REFERENCE).clipped


def test_scaling_does_not_depend_on_the_image():
    """A dark 16-bit frame stays darker than a bright one."""
    scale = DecodeSettings("ignore", "scale", 10**6)
    dark, bright = (encoded(Image.fromarray(np.array([[level]], np.uint16)), "PNG") for level in (255, 2570))
    assert np.asarray(decode(dark, scale).image)[0, 0] == 1
    assert np.asarray(decode(bright, scale).image)[0, 0] == 10


def test_a_floating_point_image_between_0_and_1_is_reported_as_lost():
    data = encoded(Image.fromarray(np.array([[0.2, 0.9]], np.float32)), "TIFF")
    assert decode(data, AS_REFERENCE).clipped


def huge_png():
    """A 200-megapixel PNG of a few bytes: only its header is read."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PNG = encoded(picture("RGB"), "PNG")
JPEG = encoded(picture("RGB"), "JPEG")
ICON = encoded(Image.new("RGB", (64, 64)), "ICO")
BROKEN_PNG = PNG[:60] + bytes(len(PNG) - 60)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.NOT_AN_IMAGE),
        (b"hello, I am text", Reason.NOT_AN_IMAGE),
        (JPEG[: len(JPEG) // 2], Reason.TRUNCATED),
        (PNG[: len(PNG) // 2], Reason.TRUNCATED),
        (BROKEN_PNG, Reason.UNREADABLE),
        (huge_png(), Reason.TOO_LARGE),
        (ICON, Reason.NOT_AN_IMAGE),
    ],
    ids=["empty", "text", "half a jpeg", "half a png", "damaged png", "200 megapixels", "a format that is not read"],
)
def test_bad_files_are_set_aside_with_their_reason(data, reason):
    with pytest.raises(ImageRejected) as rejected:
        decode(data, AS_REFERENCE)
    assert rejected.value.reason is reason
    assert rejected.value.size == len(data)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_never_escapes_as_another_exception(seed):
    """Bytes changed at random are decoded or rejected; any other exception would end a run."""
    random = np.random.default_rng(seed)
    data = bytearray(list(ODD.values())[seed % len(ODD)]())
    for position in random.integers(8, len(data), 12):
        data[position] = random.integers(256)
    with contextlib.suppress(ImageRejected):
        decode(bytes(data), AS_REFERENCE)
