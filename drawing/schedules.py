"""A picture of schedules: sigma over step, and the steps on the training timeline."""

import math

import torch

from .pen import COLOURS, GREY, INK, LINE, WIDTH, Pen, log_ticks


def draw(curves, sampling=None):
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
