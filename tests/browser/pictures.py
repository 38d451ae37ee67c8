"""Pictures as small files: at most 256 colours, which is more than a page needs.

The browser itself takes the picture apart into colours, for there is no library here that reads one.
"""

import base64
import struct
import zlib
from typing import Any

from playwright.sync_api import Page

_TAKE_APART = """async encoded => {
    const image = new Image();
    image.src = 'data:image/png;base64,' + encoded;
    await image.decode();
    const [width, height] = [image.width, image.height];
    const canvas = new OffscreenCanvas(width, height).getContext('2d');
    canvas.drawImage(image, 0, 0);
    const pixels = new Uint32Array(canvas.getImageData(0, 0, width, height).data.buffer);
    const counts = new Map();
    for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) || 0) + 1);
    const palette = [...counts].sort((one, other) => other[1] - one[1] || one[0] - other[0]).slice(0, 256)
        .map(([pixel]) => pixel);
    const far = (one, other) => [0, 8, 16].map(bits => ((one >> bits) & 255) - ((other >> bits) & 255))
        .reduce((sum, step) => sum + step * step, 0);
    const places = new Map(palette.map((pixel, place) => [pixel, place]));
    for (const pixel of counts.keys()) {
        if (places.has(pixel)) continue;
        let best = 0;
        for (let place = 1; place < palette.length; place++) {
            if (far(pixel, palette[place]) < far(pixel, palette[best])) best = place;
        }
        places.set(pixel, best);
    }
    const indices = Uint8Array.from(pixels, pixel => places.get(pixel));
    const read = await new Promise(done => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result);
        reader.readAsDataURL(new Blob([indices]));
    });
    return {width, height, palette, indices: read.slice(read.indexOf(',') + 1)};
}"""


def small(picture: bytes, blank: Page) -> bytes:
    """Return a PNG with its most frequent colours, the others as the nearest of these. ``blank`` is an empty page."""
    found: dict[str, Any] = blank.evaluate(_TAKE_APART, base64.b64encode(picture).decode())
    width, height = found["width"], found["height"]
    indices = base64.b64decode(found["indices"])
    rows = b"".join(b"\0" + indices[width * row : width * (row + 1)] for row in range(height))
    colours = b"".join(struct.pack("<I", pixel)[:3] for pixel in found["palette"])
    chunks = (
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        _chunk(b"PLTE", colours),
        _chunk(b"IDAT", zlib.compress(rows, 6)),
        _chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
