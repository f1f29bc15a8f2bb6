"""What the page makes of the nodes' inputs: numbers to type, and names that are not cut."""

import pytest


def needs_nodes2(desk):
    if "nodes2" not in desk.screenshots.name:
        pytest.skip("the canvas has no elements for its widgets")


def test_a_small_tolerance_is_shown_and_typed(desk):
    needs_nodes2(desk)
    desk.add("DDIMInversion")
    desk.run("find('DDIMInversion').showAdvanced = true")
    row = "input[aria-label=tolerance], [data-testid=node-widget]:has-text('tolerance') input"
    number = desk.find(row)
    desk.wait(lambda: float(number.input_value()) == 1e-5)
    for text in ("0.0003", "0.00002"):
        number.focus()
        desk.page.keyboard.press("Control+a")
        desk.page.keyboard.type(text)
        desk.page.keyboard.press("Tab")
        desk.wait(lambda text=text: desk.value("DDIMInversion", "tolerance") == pytest.approx(float(text)))
        assert float(desk.find(row).input_value()) == pytest.approx(float(text))


CORES = {"filename_prefix", "sampler_name"}  # as the host's own nodes have them
CUT = """const names = new Set((find(it).widgets ?? []).flatMap(w => [w.label, w.name]).filter(Boolean));
return [...document.querySelectorAll('[data-node-id] *')].filter(e => !e.children.length &&
    names.has(e.textContent.trim()) && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflow !==
    'visible').map(e => e.textContent.trim())"""


def test_names_are_not_cut(desk):
    needs_nodes2(desk)
    cut = {}
    for kind in sorted(name for name in desk.info if name.startswith("DDIM")):
        desk.clear()
        desk.add(kind)
        cut[kind] = set(desk.run(CUT, kind)) - CORES
    assert not any(cut.values()), cut


def test_a_long_report_scrolls_and_the_node_keeps_its_size(desk):
    desk.add("DDIMAdaptiveScheduler")
    report = desk.page.locator(".ddim-report")
    before = report.bounding_box()
    desk.run(
        "const text = Array(40).fill('a line of a report').join('\\n');"
        " find('DDIMAdaptiveScheduler').onExecuted({ text: [text] })"
    )
    desk.settle()
    assert report.bounding_box() == before
    assert report.evaluate("element => element.scrollHeight > 2 * element.clientHeight")
