"""What the pack costs a page: the bytes of its modules and style sheets."""

from urllib.parse import urlsplit

from desk import Desk

OPENING = 40_000  # bytes, uncompressed, as the host sends them


def test_a_page_without_drafts_loads_little(chromium, servers, tmp_path):
    desk = Desk(chromium, servers("shipped"), "canvas", tmp_path, False)
    loaded = {}

    def note(response):
        parts = urlsplit(response.url).path.split("/")
        if parts[1] == "extensions" and "core" not in parts and parts[-1].endswith(("js", "css")):
            loaded["/".join(parts[3:])] = len(response.body())

    try:
        desk.page.on("response", note)
        desk.open()
        desk.add("DDIMKSampler")
        desk.add("DDIMInversion")
        opening = dict(loaded)
        assert {"graph.js", "eta_dial.js", "ddim.css", "drafting.js"} <= set(opening)
        assert sum(opening.values()) < OPENING, opening
        desk.add("DDIMContactSheet")
        desk.wait(lambda: "drafting/contact_sheet.mjs" in loaded)
    finally:
        desk.close()
