"""What passes between server and page: GET /ddim_toolkit/stride, which timesteps a stride or a written list
visits, for the page's picture of it; a line of text on a node while it runs; the noise levels that a run
gave: as an event and no `ui`, of which older pages count every entry as an output of the run."""

import sys
from collections.abc import Mapping

import torch
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import get_executing_context

from . import schedule
from .model import model_sampling, rows_of, table

PATH = "/ddim_toolkit/stride"
TIMESTEPS = 1000  # of most models' tables; the page has no model before the first run
SIGMAS = "ddim_toolkit.sigmas"
LONGEST_LIST = 8000  # characters; a request line is not longer


def register() -> None:
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


def server() -> object | None:
    """The host's PromptServer; None in tests and scripts."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def tell(text: str) -> None:
    """Show a line of text on the node that runs; without a running graph or a server nobody is there to see
    it."""
    running = get_executing_context()
    if running is not None and server() is not None:
        server().send_progress_text(text, running.node_id)


def tell_sigmas(model: ModelPatcher, sigmas: torch.Tensor, note: str = "") -> None:
    """Show on the running node's stride strip the noise levels that it gave, at their places among the
    model's timesteps, with a note on them."""
    sampling, levels = model_sampling(model), sigmas.tolist()
    visited = rows_of(sampling, [level for level in levels if level > 0])
    said = {"timesteps": visited, "total": len(table(sampling)), "note": note, "sigmas": levels}
    send(SIGMAS, said)


def send(event: str, said: dict) -> None:
    """Send to the page, with the id of the node that runs."""
    running = get_executing_context()
    if running is not None and server() is not None:
        server().send_sync(event, said | {"node": running.node_id}, server().client_id)


def picture(query: Mapping[str, str]) -> dict:
    """{"total", "timesteps"} for `steps`, `stride`, `denoise`, with a "note" on them where there is one, or
    for a written list `timesteps`; {"sigmas"} for a list of noise levels. Raises ValueError for what the
    nodes would refuse.
    """
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


def whole(text: str) -> int:
    """The query's `steps`. Raises ValueError for anything but a whole number."""
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ValueError(f"steps is {text[:20]!r}; it must be a whole number")
    return int(text)


def fraction(text: str) -> float:
    """The query's `denoise`. Raises ValueError for what is no number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"denoise is {text[:20]!r}; it must be a number between 0 and 1") from None
