"""index.html: the sweep as a contact sheet that needs no server and no network."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .results import Results

TEMPLATE = Path(__file__).with_name("page.html")


def write(results: Results, title: str, command: list[str]) -> None:
    """Write the page of a folder's pictures. `command` is what finishes picked ones, up to its --set and
    --finish."""
    data = {
        "title": title,
        "dials": results.dials,
        "rows": results.rows,
        "command": command,
        "windows": os.name == "nt",
    }
    text = json.dumps(data).replace("<", "\\u003c")  # a text in it cannot end the script
    page = TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", text)
    results.write("index.html", page.encode())
