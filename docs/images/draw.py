"""Draws icon.png and banner.png beside this file: one picture, cleaner from left to right, and the jumps over
it.

The noise is the real thing: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps. Needs Pillow and numpy.
"""

import itertools
from math import cos, pi, sin
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
NIGHT, PAPER, FAINT, JUMP = "#14171f", "#f4f1ea", "#9aa3b2", "#ffb347"
FINE = 4  # everything is drawn this much larger first, for smooth edges


def heart(size):
    """The picture x_0: a heart on the night, (size, size, 3) in -1 to 1."""
    canvas = Image.new("RGB", (size * FINE, size * FINE), NIGHT)
    pen, r = ImageDraw.Draw(canvas), size * FINE / 2
    turns = [2 * pi * k / 400 for k in range(400)]
    outline = [(16 * sin(t) ** 3, -13 * cos(t) + 5 * cos(2 * t) + 2 * cos(3 * t) + cos(4 * t)) for t in turns]
    pen.polygon([(r + x * r / 19, r * 0.97 + y * r / 19) for x, y in outline], "#ff4d6d")
    pen.ellipse([r * 0.5, r * 0.42, r * 0.8, r * 0.66], "#ff8fa3")
    picture = canvas.resize((size, size), Image.Resampling.LANCZOS)
    return numpy.asarray(picture, dtype=numpy.float64) / 127.5 - 1


def noised(x_0, alpha_bar, grain, seed=0):
    """x_t of a picture as an image; alpha_bar is a number, or one for each column. A grain of noise is
    `grain` pixels wide."""
    size = x_0.shape[0]
    eps = numpy.random.default_rng(seed).standard_normal((-(-size // grain), -(-size // grain), 3)) * 0.8
    eps = eps.repeat(grain, 0).repeat(grain, 1)[:size, :size]
    alpha_bar = numpy.broadcast_to(alpha_bar, size)[None, :, None]
    x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * eps
    return Image.fromarray(((x_t.clip(-1, 1) + 1) * 127.5).astype(numpy.uint8))


def rounded(picture, radius):
    """The picture with round corners, as (picture, mask)."""
    mask = Image.new("L", [side * FINE for side in picture.size])
    ImageDraw.Draw(mask).rounded_rectangle([0, 0, mask.width - 1, mask.height - 1], radius * FINE, 255)
    return picture, mask.resize(picture.size, Image.Resampling.LANCZOS)


def arcs(image, points, height, width):
    """Half ellipses from each point to the next, with a dot at every point."""
    layer = Image.new("RGBA", [side * FINE for side in image.size])
    pen = ImageDraw.Draw(layer)
    for (x, y), (x_next, _) in itertools.pairwise(points):
        pen.arc(
            [x * FINE, (y - height) * FINE, x_next * FINE, (y + height) * FINE], 180, 360, JUMP, width * FINE
        )
    for x, y in points:
        r = width * 1.7
        pen.ellipse([(x - r) * FINE, (y - r) * FINE, (x + r) * FINE, (y + r) * FINE], JUMP)
    layer = layer.resize(image.size, Image.Resampling.LANCZOS)
    image.paste(layer, (0, 0), layer)


def icon(side=400):
    image = Image.new("RGBA", (side, side))
    ground, mask = rounded(Image.new("RGB", (side, side), NIGHT), side // 6)
    image.paste(ground, (0, 0), mask)
    size, top = 264, 112
    columns = numpy.linspace(-0.15, 1.35, size).clip(0, 1)
    picture, mask = rounded(noised(heart(size), columns, 12), 28)
    image.paste(picture, ((side - size) // 2, top), mask)
    arcs(image, [((side - size) // 2 + size * k / 3, 92) for k in range(4)], 52, 9)
    return image


def banner(width=1344, height=576):
    image = Image.new("RGB", (width, height), NIGHT)
    pen, size, gap = ImageDraw.Draw(image), 190, 48
    left, top = (width - 5 * size - 4 * gap) // 2, 170
    for k, alpha_bar in enumerate((0.0, 0.15, 0.45, 0.8, 1.0)):
        picture, mask = rounded(noised(heart(size), alpha_bar, 6, seed=0), 22)
        image.paste(picture, (left + k * (size + gap), top), mask)
    arcs(image, [(left + size / 2 + k * (size + gap), top - 24) for k in range(5)], 70, 6)
    pen.text((left, top + size + 50), "DDIM Toolkit", PAPER, ImageFont.load_default(72))
    pen.text(
        (left + 3, top + size + 138),
        "eta dial, strides, inversion and noise for ComfyUI",
        FAINT,
        ImageFont.load_default(32),
    )
    return image


if __name__ == "__main__":
    icon().save(HERE / "icon.png", optimize=True)
    banner().save(HERE / "banner.png", optimize=True)
