"""What passes between server and page: GET /ddim_toolkit/stride, which timesteps a stride or a written list
visits, for the page's picture of it; a line of text on a node while it runs; the noise levels that a run
gave, and the dials of a grid's pictures: as events and no `ui`, of which older pages count every entry as an
output of the run."""

import sys

PATH = "/ddim_toolkit/stride"
TIMESTEPS = 1000  # of most models' tables; the page has no model before the first run
SIGMAS, CELLS = "ddim_toolkit.sigmas", "ddim_toolkit.cells"
LONGEST_LIST = 8000  # characters; a request line is not longer


def register():
    """Add the route to the running server; without one (tests, scripts) there is nothing to do. Safe to call
    twice."""
    instance = server()
    if instance is None or any(getattr(route, "path", None) == PATH for route in instance.routes):
        return
    from aiohttp import web

    @instance.routes.get(PATH)
    async def stride(request):
        try:
            return web.json_response(picture(request.query))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)


def server():
    """The host's PromptServer; None in tests and scripts."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def tell(node_id, text):
    """Show a line of text on a node of the page while it runs."""
    if server() is not None:
        server().send_progress_text(text, node_id)


def tell_sigmas(model, sigmas, note=""):
    """Show on the running node's stride strip the noise levels that it gave, at their places among the
    model's timesteps, with a note on them."""
    from .model import model_sampling, table

    levels, sigmas = table(model_sampling(model)), sigmas.detach().cpu()
    said = {"timesteps": rows(levels, sigmas[sigmas > 0]), "total": len(levels), "note": note}
    send(SIGMAS, said | {"sigmas": sigmas.tolist()})


def tell_cells(dials):
    """Let the page know the dials of each picture of the running DDIM Dial Grid."""
    send(CELLS, {"cells": dials})


def send(event, said):
    """Send to the page, with the id of the node that runs."""
    from comfy_execution.utils import get_executing_context

    running = get_executing_context()
    if running is not None and server() is not None:
        server().send_sync(event, said | {"node": running.node_id}, server().client_id)


def rows(levels, sigmas):
    """Where noise levels above 0 lie in a model's table of them, low to high, in fractions of a row."""
    import numpy

    return numpy.interp(sigmas.log(), levels.log(), range(len(levels))).tolist()


def picture(query):
    """{"total", "timesteps"} for `steps`, `stride`, `denoise`, with a "note" on them where there is one, or
    for a written list `timesteps`; {"sigmas"} for a list of noise levels. Raises ValueError for what the
    nodes would refuse.
    """
    from . import schedule

    if "timesteps" in query:
        text = query["timesteps"]
        if len(text) > LONGEST_LIST:
            raise ValueError(f"timesteps has {len(text)} characters; at most {LONGEST_LIST} are drawn")
        kind, numbers = schedule.written(text)
        if kind == "sigmas":
            return {"sigmas": numbers}
        if kind == "times":
            return {"total": TIMESTEPS, "timesteps": numbers}
        return {"total": TIMESTEPS, "timesteps": schedule.written_rows(numbers, TIMESTEPS)}
    steps, stride = whole(query.get("steps", "")), query.get("stride", "trailing")
    denoise = fraction(query.get("denoise", "1"))
    rows = schedule.visited(TIMESTEPS, steps, stride, denoise)
    note = schedule.low_start(TIMESTEPS, rows, stride, denoise)
    return {"total": TIMESTEPS, "timesteps": rows} | ({"note": note} if note else {})


def whole(text):
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ValueError(f"steps is {text[:20]!r}; it must be a whole number")
    return int(text)


def fraction(text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"denoise is {text[:20]!r}; it must be a number between 0 and 1") from None
