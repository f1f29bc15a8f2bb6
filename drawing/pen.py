"""A pen for plots, drawn with Pillow, which every ComfyUI has."""

import itertools
import math

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, FINE = 1280, 800, 2  # drawn FINE times as large and scaled down
INK, GREY, LINE, PAPER = "#1c2128", "#6b7280", "#e5e7eb", "#ffffff"
# Okabe and Ito: told apart by colour-blind eyes; each has its own mark too.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#a5589a"]


def log_ticks(bottom, top):
    """Round numbers between two powers of ten, few enough to read."""
    for digits in (range(1, 10), (1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**k for k in range(math.floor(bottom), math.ceil(top) + 1) for d in digits]
        ticks = [tick for tick in ticks if bottom <= math.log10(tick) <= top]
        if len(ticks) <= 12:
            break
    return ticks


class Pen:
    """ImageDraw in units of the finished picture."""

    def __init__(self):
        self.canvas = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), PAPER)
        self.draw = ImageDraw.Draw(self.canvas)

    def text(self, at, text, size, colour, anchor="lt"):
        self.draw.text(
            (at[0] * FINE, at[1] * FINE), text, colour, ImageFont.load_default(size * FINE), anchor
        )

    def width(self, text, size):
        return self.draw.textlength(text, ImageFont.load_default(size * FINE)) / FINE

    def line(self, points, colour, width):
        self.draw.line([(x * FINE, y * FINE) for x, y in points], colour, width * FINE, "curve")

    def dashes(self, start, end, colour):
        count = max(2, int(math.dist(start, end) / 10)) | 1
        between = [
            (start[0] + (end[0] - start[0]) * i / count, start[1] + (end[1] - start[1]) * i / count)
            for i in range(count + 1)
        ]
        for a, b in list(itertools.pairwise(between))[::2]:
            self.line([a, b], colour, 2)

    def mark(self, kind, at, radius):
        x, y, r = at[0] * FINE, at[1] * FINE, radius * FINE
        if kind == 0:
            self.draw.ellipse((x - r, y - r, x + r, y + r), COLOURS[0], PAPER, FINE)
            return
        corners = {
            1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
            2: [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
            3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        }
        scale = 0.85 * r if kind == 1 else r
        self.draw.polygon([(x + a * scale, y + b * scale) for a, b in corners[kind]], COLOURS[kind], PAPER)

    def image(self):
        picture = self.canvas.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        return torch.from_numpy(numpy.array(picture, dtype=numpy.float32) / 255)[None]
