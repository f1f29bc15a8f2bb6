"""Pictures of schedules, drawn with Pillow, which every ComfyUI has."""

import itertools
import math

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, FINE = 1280, 800, 2  # drawn FINE times as large and scaled down
INK, GREY, LINE, PAPER = "#1c2128", "#6b7280", "#e5e7eb", "#ffffff"
COLOURS = [
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#a5589a",
]  # Okabe and Ito: told apart by colour-blind eyes; each has its own mark too


def schedules(curves, sampling=None):
    """IMAGE (1, HEIGHT, WIDTH, 3) of [(name, sigmas as floats), ...]: sigma over step, and the steps on the
    training timeline."""
    pen = Pen()
    levels = [sigma for _, sigmas in curves for sigma in sigmas if sigma > 0]
    top, bottom = math.log10(max(levels)), math.log10(min(levels))
    room = max(0.05 * (top - bottom), 0.05)
    top, bottom = top + room, bottom - room
    steps = max(len(sigmas) for _, sigmas in curves) - 1

    left, right, upper, lower = 96, WIDTH - 40, 96, 500

    def across(step):
        return left + (right - left) * step / max(steps, 1)

    def down(sigma):
        return upper + (lower - upper) * (top - math.log10(sigma)) / (top - bottom)

    pen.text((left, 34), "Noise level at every model call", 26, INK)
    legend(pen, curves, right, 47)
    for tick in log_ticks(bottom, top):
        pen.line([(left, down(tick)), (right, down(tick))], LINE, 1)
        pen.text((left - 12, down(tick)), f"{tick:g}", 17, GREY, "rm")
    for step in range(0, steps + 1, max(1, math.ceil(steps / 20))):
        pen.text((across(step), lower + 14), str(step), 17, GREY, "mt")
    pen.text((left - 12, upper - 20), "sigma", 17, GREY, "rm")
    pen.text((right, lower + 38), "step", 17, GREY, "rt")
    for k, (_, sigmas) in enumerate(curves):
        points = [(across(i), down(sigma)) for i, sigma in enumerate(sigmas) if sigma > 0]
        if sigmas[-1] == 0:  # zero has no place on a log axis: the last jump leaves the picture
            pen.dashes(points[-1], (across(len(sigmas) - 1), lower), COLOURS[k])
        pen.line(points, COLOURS[k], 3)
        for point in points:
            pen.mark(k, point, 6)

    place, caption, ends = timeline(levels, sampling)
    upper, gap = 604, 40
    pen.text((left, upper - 34), caption, 21, INK, "lm")
    for k, (_, sigmas) in enumerate(curves):
        y = upper + 6 + gap * k
        pen.line([(left, y), (right, y)], LINE, 2)
        for sigma in sigmas:
            if sigma > 0:
                pen.mark(k, (left + (right - left) * place(sigma), y), 7)
    y = upper + 6 + gap * (len(curves) - 1) + 22
    pen.text((left, y), ends[0], 17, GREY, "lt")
    pen.text((right, y), ends[1], 17, GREY, "rt")
    return pen.image()


def timeline(levels, sampling):
    """(sigma -> 0 .. 1 from noise to picture, caption, texts of both ends)."""
    if sampling is None:
        top, bottom = math.log(max(levels)), math.log(min(levels))
        width = max(top - bottom, 1e-9)
        return (
            (lambda sigma: (top - math.log(sigma)) / width),
            "The steps by the logarithm of sigma",
            ("noise", "picture"),
        )

    def time(sigma):
        return float(sampling.timestep(torch.tensor(float(sigma)).to(sampling.sigmas)))

    first, last = time(sampling.sigma_max), time(sampling.sigma_min)

    def place(sigma):
        return min(max((first - time(sigma)) / (first - last), 0.0), 1.0)

    return (
        place,
        "The steps on the model's training timeline",
        (f"noise, t = {first:.6g}", f"t = {last:.6g}, picture"),
    )


def legend(pen, curves, right, y):
    for k, (name, sigmas) in reversed(list(enumerate(curves))):
        text = f"{name} ({len(sigmas) - 1})" if name else f"{len(sigmas) - 1} steps"
        pen.text((right, y), text, 19, INK, "rm")
        right -= pen.width(text, 19) + 18
        pen.mark(k, (right, y), 7)
        right -= 30


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
