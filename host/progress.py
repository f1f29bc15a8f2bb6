"""A line of text under the node that is running."""

import sys

from comfy_execution.utils import get_executing_context


def tell(text: str) -> None:
    """Show it on the page; without a running graph or a server there is nobody to show it to."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    context = get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(text, context.node_id)


def duration(seconds: float) -> str:
    """Time left, as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
