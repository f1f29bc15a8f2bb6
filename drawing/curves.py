"""Error over model calls, a panel for each model, on a common log axis."""

import math

from PIL import Image

from .pen import COLOURS, GREY, HEIGHT, INK, LINE, WIDTH, Pen, log_ticks


def draw(path, title, panels, accents):
    """Save one picture. panels: {name: {series: {calls: value}}}. accents: the series in colour, at most
    four; the rest is grey."""
    pen = Pen()
    values = [
        value
        for series in panels.values()
        for points in series.values()
        for value in points.values()
        if value > 0 and math.isfinite(value)
    ]
    top, bottom = math.log10(max(values)) + 0.05, math.log10(min(values)) - 0.05
    width = (WIDTH - 90) / len(panels)

    def down(value):
        return 130 + (HEIGHT - 230) * (top - math.log10(value)) / (top - bottom)

    pen.text((70, 30), title, 26, INK)
    for tick in log_ticks(bottom, top):
        pen.text((72, down(tick)), f"{tick:g}", 17, GREY, "rm")
        pen.line([(80, down(tick)), (WIDTH - 20, down(tick))], LINE, 1)
    for k, (name, series) in enumerate(panels.items()):
        left = 80 + k * width
        calls = sorted({n for points in series.values() for n in points})
        across = {n: left + width * (0.08 + 0.52 * i / max(len(calls) - 1, 1)) for i, n in enumerate(calls)}
        pen.text((left + 20, 96), name, 20 * min(1, (width - 40) / pen.width(name, 20)), INK)
        for n in calls:
            pen.text((across[n], HEIGHT - 86), str(n), 17, GREY, "mt")
        ends = {}
        for label, points in sorted(
            series.items(), key=lambda each: each[0] in accents
        ):  # colours over greys
            places = [
                (across[n], down(value))
                for n, value in sorted(points.items())
                if value > 0 and math.isfinite(value)
            ]
            kind = accents.index(label) if label in accents else None
            pen.line(places, "#b8bec8" if kind is None else COLOURS[kind], 2 if kind is None else 4)
            if kind is not None:
                for place in places:
                    pen.mark(kind, place, 7)
            ends[label] = places[-1], kind
        lowest = 0
        for label, ((x, y), kind) in sorted(ends.items(), key=lambda each: each[1][0][1]):
            lowest = max(y, lowest + 17)  # names that would overlap move down
            pen.text((x + 12, lowest), label, 15, GREY if kind is None else COLOURS[kind], "lm")
    pen.text((WIDTH - 20, HEIGHT - 52), "model calls", 17, GREY, "rt")
    Image.fromarray((pen.image()[0] * 255).byte().numpy()).save(path)
