"""Damaged images, made from real ones by a seeded generator: flips, cuts, edited headers, bombs, no images."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

SIDE = 200  # pixels of the longer side of the photographs, so that those which survive are segmented quickly
LARGE = (0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)  # what a size in a header is set to
SUFFIXES = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "WEBP": "webp", "BMP": "bmp", "GIF": "gif"}
Damage = Callable[[bytes, str, random.Random], bytes]


def damaged_images(nuclei: Path, photos: Path, count: int = 300, seed: int = 0) -> dict[str, bytes]:
    """File names and contents of so many damaged images; the same for the same seed."""
    generator = random.Random(seed)
    sources = _sources(nuclei, photos)
    images = {**_bombs(), **_no_images(sources[0][1])}
    damages: Sequence[Damage] = (flip_bits, cut, edit_header, edit_size, blank, splice)
    while len(images) < count:
        number = len(images)
        damage = damages[number % len(damages)]
        kind, data = sources[generator.randrange(len(sources))]
        images[f"{number:03d}-{damage.__name__}.{SUFFIXES[kind]}"] = damage(data, kind, generator)
    return dict(list(images.items())[:count])


def _sources(nuclei: Path, photos: Path) -> list[tuple[str, bytes]]:
    """Real images in all formats: shipped files as they are, and photographs stored anew in the others."""
    small = sorted((p for p in nuclei.glob("*.png")), key=lambda p: (p.stat().st_size, p.name))[:6]
    sources = [("PNG", p.read_bytes()) for p in small]
    options: dict[str, list[dict]] = {
        "JPEG": [{"quality": 90}, {"quality": 60, "progressive": True}],
        "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"}],
        "WEBP": [{"quality": 80}, {"lossless": True}],
        "BMP": [{}],
        "GIF": [{}, {"interlace": 1}],
        "PNG": [{"optimize": True}],
    }
    for number, path in enumerate(sorted(photos.glob("*.jpg"))):
        image = Image.open(path).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        for kind, ways in options.items():
            sources.append((kind, stored(image, kind, **ways[number % len(ways)])))
    grey = Image.open(small[0]).convert("L").resize((SIDE, SIDE))
    sources += [("PNG", stored(grey.convert("I;16"), "PNG")), ("TIFF", stored(grey.convert("F"), "TIFF"))]
    sources += [("PNG", stored(grey.quantize(16), "PNG")), ("JPEG", stored(grey.convert("CMYK"), "JPEG"))]
    deep = np.asarray(image, np.uint16) * 100
    sources += [("TIFF", stored_array(deep, photometric="rgb", compression="lzw", predictor=True))]
    channels = np.ascontiguousarray(deep.transpose(2, 0, 1))
    sources += [("TIFF", stored_array(channels, imagej=True, metadata={"axes": "CYX"}))]
    sources += [("TIFF", stored_array(channels, ome=True, metadata={"axes": "CYX"}, tile=(64, 64)))]
    return sources


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file of a format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def stored_array(values: np.ndarray, **options: Any) -> bytes:
    """Values of any depth as a TIFF file."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def flip_bits(data: bytes, kind: str, generator: random.Random) -> bytes:
    """One to 64 bits anywhere."""
    out = bytearray(data)
    for _ in range(2 ** generator.randrange(7)):
        out[generator.randrange(len(out))] ^= 1 << generator.randrange(8)
    return bytes(out)


def cut(data: bytes, kind: str, generator: random.Random) -> bytes:
    """The end is missing, from nearly all of the file to a few bytes; sometimes others follow."""
    end = generator.choice([generator.randrange(1, 64), generator.randrange(1, len(data)), len(data) - 1])
    return data[:end] + generator.randbytes(generator.choice([0, 0, 500]))


def edit_header(data: bytes, kind: str, generator: random.Random) -> bytes:
    """One to eight bytes of the first 128, behind the signature."""
    out = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        out[generator.randrange(8, min(128, len(out)))] = generator.choice([0, 1, 255, generator.randrange(256)])
    return bytes(out)


def edit_size(data: bytes, kind: str, generator: random.Random) -> bytes:
    """A width, height or count that is another, in a header that is otherwise valid."""
    out, value = bytearray(data), generator.choice(LARGE)
    if kind == "PNG":
        struct.pack_into(">I", out, generator.choice([16, 20]), value)
        struct.pack_into(">I", out, 29, zlib.crc32(bytes(out[12:29])))
    elif kind == "JPEG":
        frame = next((i for i in range(2, len(out) - 9) if out[i] == 0xFF and out[i + 1] in (0xC0, 0xC2)), 2)
        struct.pack_into(">H", out, frame + generator.choice([2, 5, 7]), value & 0xFFFF)
    elif kind == "TIFF":
        _edit_tag(out, value, generator)
    elif kind == "GIF":
        struct.pack_into("<H", out, generator.choice([6, 8]), value & 0xFFFF)
    elif kind == "BMP":
        struct.pack_into("<I", out, generator.choice([10, 18, 22]), value)
    else:
        struct.pack_into("<I", out, generator.choice([4, 16, 26]), value)
    return bytes(out)


def _edit_tag(out: bytearray, value: int, generator: random.Random) -> None:
    """The count or the value of one entry of a TIFF's first directory."""
    order = "<" if out[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", out, 4)
    (entries,) = struct.unpack_from(order + "H", out, directory)
    entry = directory + 2 + 12 * generator.randrange(entries)
    struct.pack_into(order + "I", out, entry + generator.choice([4, 8]), value)


def blank(data: bytes, kind: str, generator: random.Random) -> bytes:
    """A stretch of zeros, as a disk or a download leaves them."""
    start = generator.randrange(len(data))
    length = min(generator.randrange(1, 4096), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def splice(data: bytes, kind: str, generator: random.Random) -> bytes:
    """A piece of the file in another place of it."""
    start, to = generator.randrange(len(data)), generator.randrange(8, len(data))
    return data[:to] + data[start : start + generator.randrange(1, 2000)] + data[to:]


def png(width: int, height: int, depth: int, colours: int, pixels: bytes, extra: bytes = b"") -> bytes:
    """A PNG of these fields; `pixels` is the compressed stream."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its check sum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(count: int) -> bytes:
    """So many zero bytes, compressed, without ever having them."""
    compress, out = zlib.compressobj(9), []
    for start in range(0, count, 1 << 20):
        out.append(compress.compress(bytes(min(1 << 20, count - start))))
    return b"".join(out) + compress.flush()


def _bombs() -> dict[str, bytes]:
    """Small files that ask for much memory."""
    text = chunk(b"zTXt", b"Comment\0\0" + zeros(200 << 20))
    profile = chunk(b"iCCP", b"icc\0\0" + zeros(200 << 20))
    row = zeros(100)
    loop = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<HHHIII", 1, 256, 4, 1, 9, 8)  # next directory: itself
    many = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", 65535) + bytes(12 * 200)
    return {
        "bomb-header.png": png(60_000, 60_000, 8, 2, row),
        "bomb-largest.png": png(0x7FFFFFFF, 0x7FFFFFFF, 8, 2, row),
        "bomb-zero-width.png": png(0, 60_000, 8, 2, row),
        "bomb-grey-16.png": png(4000, 4000, 16, 0, zeros(4000 * 8001)),
        "bomb-one-bit.png": png(8000, 2400, 1, 0, zeros(2400 * 1001)),
        "bomb-palette-missing.png": png(500, 500, 8, 3, zeros(500 * 501)),
        "bomb-too-little.png": png(4000, 4000, 8, 2, zeros(1000)),
        "bomb-too-much.png": png(10, 10, 8, 2, zeros(300 << 20)),
        "bomb-text.png": png(10, 10, 8, 2, zeros(310), text),
        "bomb-profile.png": png(10, 10, 8, 2, zeros(310), profile),
        "bomb-canvas.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"\x2c" + bytes(9) + b"\x02\x00;",
        "bomb-frame.gif": b"GIF89a"
        + struct.pack("<HHBBB", 4, 4, 0, 0, 0)
        + b"\x2c"
        + b"\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, -60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "bomb-loop.tif": loop,
        "bomb-entries.tif": many,
        "strip.png": png(1, 5000, 8, 0, zeros(5000 * 2)),
        "line.png": png(5000, 1, 8, 0, zeros(5001)),
        "dot.png": png(1, 1, 8, 0, zeros(2)),
    }


def _no_images(whole: bytes) -> dict[str, bytes]:
    """What else is found under the name of an image; and images under the wrong name."""
    return {
        "empty.jpg": b"",
        "empty.tif": b"",
        "newline.png": b"\n",
        "page.jpg": b"<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n",
        "xml.png": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9999999" height="9999999"/>',
        "script.gif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\nshowpage\n",
        "wide.jpg": "Это не картинка".encode("utf-16"),
        "zeros.png": bytes(5000),
        "start.jpg": b"\xff\xd8\xff",
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "signature.webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
        "signature.tif": b"II*\x00",
        "renamed.jpg": whole,
        "renamed.tif": whole,
        "preceded.png": b"\xef\xbb\xbf" + whole,
        "twice.png": whole + whole,
    }
