"""What passes between server and page: GET /ddim_toolkit/stride, which timesteps a stride or a written list
visits, for the page's picture of it; and a line of text on a node while it runs."""

import math
import sys

PATH = "/ddim_toolkit/stride"
LONGEST_LIST = 8000  # characters; a request line is not longer


class Rows:
    """Stands for a MODEL whose table of noise levels is that of most models, 1000 rows, each level its row
    plus 1.

    The page has no model before the first run; with these levels a schedule can be read back as timesteps.
    """

    TIMESTEPS = 1000
    sigma_max = math.inf

    def __init__(self):
        import torch  # the host has it by the time a request comes

        self.sigmas = torch.arange(1, self.TIMESTEPS + 1)

    def get_model_object(self, name):
        return self


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


def picture(query):
    """{"total", "timesteps"} for `steps`, `stride`, `denoise`, or for a written list `timesteps`; {"sigmas"}
    for a list of noise levels. Raises ValueError for what the nodes would refuse.
    """
    from . import schedule

    if "timesteps" in query:
        text = query["timesteps"]
        if len(text) > LONGEST_LIST:
            raise ValueError(f"timesteps has {len(text)} characters; at most {LONGEST_LIST} are drawn")
        sigmas = schedule.custom_sigmas(Rows(), text).tolist()
        if text.strip().lower().startswith("sigmas"):
            return {"sigmas": sigmas}
        return {"total": Rows.TIMESTEPS, "timesteps": [round(sigma) - 1 for sigma in sigmas[:-1]]}
    steps = whole(query.get("steps", ""))
    _, visited = schedule.stride_sigmas(
        Rows(), steps, query.get("stride", "trailing"), fraction(query.get("denoise", "1"))
    )
    return {"total": Rows.TIMESTEPS, "timesteps": visited}


def whole(text):
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ValueError(f"steps is {text[:20]!r}; it must be a whole number")
    return int(text)


def fraction(text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"denoise is {text[:20]!r}; it must be a number between 0 and 1") from None
