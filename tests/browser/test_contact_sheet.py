"""Draft, pick, finish on the contact sheet, with the hands of a user."""

import re
from io import BytesIO

import numpy
import pytest
from ddim_toolkit.runner import gallery
from PIL import Image

DRAFT_OR_FINAL, DIAL_GRID = (gallery.read(name) for name in ("Draft or final", "Dial grid"))
SHEET, SEED = "DDIMContactSheet", "DDIMSeed"
BATCH = 8
CODE = re.compile(r"\.mjs\?")  # of the parts that come with the first sheet (js/load.js)


@pytest.fixture
def sheet(desk):
    """The flagship example, small and quick, with an id of its own: what earlier tests drafted stays away."""
    sheet.graphs += 1
    desk.load(DRAFT_OR_FINAL | {"id": f"00000000-0000-4000-8000-{sheet.graphs:012}"})
    for kind, steps in (("DDIMKSampler", 1), ("KSampler", 2)):
        desk.change(kind, "steps", steps)
    for name in ("width", "height"):
        desk.change("EmptyLatentImage", name, 64)
    desk.change("Prompt", "text", f"cat {desk.screenshots.name} {sheet.graphs}")  # new to the cache
    desk.run(
        "const node = find('DDIMContactSheet'); app.canvas.ds.scale = 0.8; app.canvas.ds.offset ="
        " [300 - node.pos[0], 160 - node.pos[1]]; app.canvas.setDirty(true, true)"
    )
    return desk


sheet.graphs = 0


def draw(desk, batches=1):
    """Run, as the button does: the seed of each batch, the newest first."""
    seeds = []
    for _ in range(batches):
        seeds.insert(0, desk.value(SEED, "seed"))
        desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    desk.wait(lambda: cells(desk).count() == BATCH * batches)
    return seeds


def cells(desk, run=None):
    runs = desk.page.locator(".ddim-run")
    return (runs if run is None else runs.nth(run)).locator(".ddim-cell")


def press(cell, button):
    cell.get_by_role("button", name=button).click()


def state(desk):
    control = "return find('DDIMSeed').widgets.find(w => w.options?.values?.includes?.('randomize')).value"
    return desk.value(SHEET, "picks"), desk.value(SEED, "seed"), desk.run(control)


def queued(desk, entry):
    """(picks, seed) of a history entry."""
    prompt = entry["prompt"][2]
    return prompt[desk.id(SHEET)]["inputs"]["picks"], prompt[desk.id(SEED)]["inputs"]["seed"]


def pixels(desk, saved):
    return numpy.asarray(Image.open(BytesIO(desk.server.image(saved)))).astype(int)


def finals(desk, entry):
    return [pixels(desk, image) for image in entry["outputs"][desk.id("SaveImage")]["images"]]


def test_one_click_finishes_one_picture(sheet):
    [seed] = draw(sheet)
    drafts, before = (sheet.id("DDIMKSampler"), sheet.id("VAEDecode")), state(sheet)
    assert before[0] == "" and before[1] != seed and before[2] == "randomize"
    sheet.screenshot("drafts")

    [entry] = sheet.finished(lambda: press(cells(sheet).nth(2), "Finish this one"))
    assert queued(sheet, entry) == ("3", seed) and not sheet.ran() & set(drafts)
    assert state(sheet) == before  # seed, its control and picks are what they were
    sheet.wait(lambda: cells(sheet).nth(2).locator(".ddim-over").count() == 1)  # the final over its draft
    assert sheet.page.locator(".ddim-over").count() == 1
    sheet.screenshot("finished")

    prompt = sheet.prompt()  # the same picture of the whole batch
    prompt[sheet.id(SEED)]["inputs"]["seed"] = seed
    prompt[sheet.id("KSampler")]["inputs"]["latent_image"] = [sheet.id("EmptyLatentImage"), 0]
    whole = finals(sheet, sheet.server.queue(prompt))
    [alone] = finals(sheet, entry)
    differ = [abs(alone - each).max() for each in whole]
    assert len(whole) == BATCH and differ[2] <= 2 and min(differ[:2] + differ[3:]) > 20  # of 255


def test_pictures_of_two_runs_are_finished_with_one_press(sheet):
    newer, older = draw(sheet, 2)
    before = state(sheet)
    for run, number in ((0, 5), (0, 2), (1, 7)):
        cells(sheet, run).nth(number - 1).click()
    assert state(sheet) == ("7", older, "fixed")  # Run would finish the older one
    cells(sheet, 0).nth(2).click()
    assert state(sheet) == ("2, 3, 5", newer, "fixed")
    cells(sheet, 0).nth(2).click()
    button = sheet.find(".ddim-sheet-bar .ddim-finish")
    assert button.inner_text() == "Finish 3"
    sheet.screenshot("picked")

    entries = sheet.finished(button.click, prompts=2)
    assert [queued(sheet, entry) for entry in entries] == [("2, 5", newer), ("7", older)]
    assert [len(finals(sheet, entry)) for entry in entries] == [2, 1]
    sheet.wait(lambda: state(sheet) == before and button.is_disabled())
    sheet.wait(lambda: sheet.page.locator(".ddim-over").count() == 3)
    assert cells(sheet, 1).nth(6).locator(".ddim-over").count() == 1


def test_the_final_is_of_the_picture_that_is_seen(sheet):
    """Whatever the user changed since: what made the drafts, they come from the cache; then it is back."""
    text = sheet.value("Prompt", "text")
    [seed] = draw(sheet)
    sheet.change("Prompt", "text", "something else")
    sheet.change("DDIMKSampler", "eta", 0.5)
    sheet.change("KSampler", "steps", 3)  # of the final: as it is now
    before = state(sheet)
    [entry] = sheet.finished(lambda: press(cells(sheet).nth(2), "Finish this one"))
    assert queued(sheet, entry) == ("3", seed) and sheet.id("DDIMKSampler") not in sheet.ran()
    inputs = {node["class_type"]: node["inputs"] for node in entry["prompt"][2].values()}
    assert (inputs["DDIMKSampler"]["eta"], inputs["KSampler"]["steps"]) == (0, 3)
    assert entry["prompt"][2][sheet.id("Prompt")]["inputs"]["text"] == text
    assert state(sheet) == before and sheet.value("Prompt", "text") == "something else"

    cells(sheet).nth(4).click()
    assert sheet.value("Prompt", "text") == text  # what Run would finish
    cells(sheet).nth(4).click()
    assert sheet.value("Prompt", "text") == "something else" and state(sheet) == before


def test_keys_and_names(sheet):
    [seed] = draw(sheet)
    before = state(sheet)
    grid = sheet.page.get_by_role("grid", name=f"Drafts, seed {seed}")
    assert grid.get_by_role("row").count() == 2 and grid.get_attribute("aria-multiselectable") == "true"

    def focused():
        return sheet.run("return document.activeElement.getAttribute('aria-label')")

    grid.get_by_role("gridcell", name="Draft 1,").focus()
    for key, number in (("ArrowRight", 2), ("ArrowDown", 6), ("ArrowLeft", 5), ("ArrowUp", 1), ("End", 8)):
        sheet.page.keyboard.press(key)
        assert focused() == f"Draft {number}, seed {seed}"
    sheet.page.keyboard.press("Space")
    sheet.page.keyboard.press("Home")
    sheet.page.keyboard.press("Space")
    assert state(sheet)[0] == "1, 8"
    selected = [cell.get_attribute("aria-selected") for cell in cells(sheet).all()]
    assert [i + 1 for i, each in enumerate(selected) if each == "true"] == [1, 8]
    sheet.page.keyboard.press("Space")
    [entry] = sheet.finished(lambda: sheet.page.keyboard.press("Enter"))
    assert queued(sheet, entry) == ("8", seed)
    sheet.wait(lambda: state(sheet) == before)
    [entry] = sheet.finished(lambda: sheet.page.keyboard.press("Enter"))  # nothing picked: where the focus is
    assert queued(sheet, entry) == ("1", seed)


def test_run_finishes_what_is_picked_and_undo_unpicks(sheet):
    [seed] = draw(sheet)
    before = state(sheet)
    sheet.remember()
    cells(sheet).nth(3).click()
    assert state(sheet) == ("4", seed, "fixed")
    sheet.page.wait_for_timeout(300)
    sheet.undo()
    sheet.wait(lambda: state(sheet) == before)
    sheet.wait(lambda: sheet.page.locator(".ddim-cell[aria-selected=true]").count() == 0)

    cells(sheet).nth(5).click()  # the part that is seen is that of the graph's new node
    assert state(sheet) == ("6", seed, "fixed")
    [entry] = sheet.finished(lambda: sheet.run("await app.queuePrompt(0, 1)"))
    assert queued(sheet, entry) == ("6", seed)
    sheet.wait(lambda: state(sheet) == before)


def test_a_draft_is_queued_whatever_is_picked(sheet):
    [seed] = draw(sheet)
    following = state(sheet)[1]
    cells(sheet).nth(0).click()
    [entry] = sheet.finished(lambda: sheet.command("DDIMToolkit.QueueDraft"))
    assert queued(sheet, entry) == ("", following)
    assert state(sheet) == ("1", seed, "fixed")  # what is picked stays picked
    cells(sheet, 1).nth(0).click()
    assert state(sheet)[0] == "" and state(sheet)[1:] != (seed, "fixed")


def test_the_button_of_the_bar_finishes_what_is_picked(sheet):
    [seed] = draw(sheet)
    for number in (4, 1):
        cells(sheet).nth(number - 1).click()
    [entry] = sheet.finished(sheet.find(".ddim-drafts:has-text('Finish')").click)
    assert queued(sheet, entry) == ("1, 4", seed)


def test_typed_picks_are_marked(sheet):
    sheet.change(SEED, "seed", 5)
    sheet.run(
        "find('DDIMSeed').widgets.find(w => w.options?.values?.includes?.('randomize')).value = 'fixed'"
    )
    draw(sheet)
    status, selected = ".ddim-sheet-count", ".ddim-cell[aria-selected=true]"
    for text, word in (("2, 3-5", "3-5"), ("2 9", "9"), ("0", "0")):  # the page refuses what the server does
        sheet.change(SHEET, "picks", text)
        sheet.wait(lambda word=word: f'"{word}" names no picture' in sheet.find(status).inner_text())
        assert sheet.page.locator(selected).count() == 0
        with pytest.raises(Exception, match=f'"{word}" names no picture; allowed are'):
            sheet.server.queue(sheet.prompt())
    sheet.change(SHEET, "picks", "2 8")
    sheet.wait(lambda: sheet.page.locator(selected).count() == 2)
    assert sheet.find(status).inner_text() == "2 of 8 picked"
    assert cells(sheet).nth(7).get_attribute("aria-selected") == "true"
    [entry] = sheet.finished(lambda: sheet.run("await app.queuePrompt(0, 1)"))
    assert queued(sheet, entry) == ("2 8", 5) and len(finals(sheet, entry)) == 2


def test_a_picture_looked_at_closely(sheet):
    draw(sheet)
    cells(sheet).nth(1).hover()
    press(cells(sheet).nth(1), "Look closely")
    closeup = sheet.find(".ddim-close-up")
    assert closeup.get_by_role("slider").count() == 0
    sheet.page.keyboard.press("Escape")
    assert not sheet.page.locator(".ddim-close-up:visible").count()

    sheet.finished(lambda: press(cells(sheet).nth(1), "Finish this one"))
    cells(sheet).nth(1).hover()
    press(cells(sheet).nth(1), "Look closely")
    slider = closeup.get_by_role("slider", name="From draft to final")
    slider.press("Home")
    clip = "each => getComputedStyle(each).clipPath"
    assert closeup.locator(".ddim-over").evaluate(clip) == "inset(0px 0px 0px 0%)"  # all final
    for _ in range(100):
        slider.press("ArrowRight")
    assert closeup.locator(".ddim-over").evaluate(clip) == "inset(0px 0px 0px 100%)"
    sheet.screenshot("closeup")
    closeup.get_by_role("button", name="Close").click()
    assert not closeup.is_visible()


def test_it_keeps_64_pictures_and_the_picked(sheet):
    seeds = draw(sheet, 8)
    cells(sheet, 7).nth(0).click()  # the oldest
    for _ in range(2):
        sheet.finished(lambda: sheet.command("DDIMToolkit.QueueDraft"))
    sheet.wait(lambda: cells(sheet).count() == 72)
    titles = sheet.page.locator(".ddim-run-title")
    assert titles.count() == 9 and f"seed {seeds[-1]} " in titles.last.inner_text()
    assert f"seed {seeds[-3]} " in titles.nth(7).inner_text()  # that between them is gone


def test_nothing_is_queued_where_the_seed_has_gone(sheet):
    draw(sheet)
    sheet.run("app.graph.remove(find('DDIMSeed'))")
    before = list(sheet.server.get("/history"))
    press(cells(sheet).nth(0), "Finish this one")
    assert "Seed of both" in sheet.toast("Nothing was queued")
    sheet.page.wait_for_timeout(500)
    assert list(sheet.server.get("/history")) == before


def test_the_dials_of_a_grid(desk):
    desk.load(DIAL_GRID)
    desk.change("DDIMDialGrid", "across_values", "0, 1")
    desk.change("DDIMDialGrid", "down_values", "1, 2")
    desk.change("Prompt", "text", f"hand {desk.screenshots.name}")
    for name in ("width", "height"):
        desk.change("EmptyLatentImage", name, 64)
    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    desk.wait(lambda: cells(desk).count() == 4)
    assert desk.page.get_by_role("columnheader").all_inner_texts() == ["eta 0", "eta 1"]
    assert desk.page.get_by_role("rowheader").all_inner_texts() == ["steps 1", "steps 2"]

    desk.add("DDIMKSampler", steps=50, eta=0.5, cfg=1)
    desk.run(
        "const node = find('DDIMContactSheet'); app.canvas.ds.scale = 0.8; app.canvas.ds.offset ="
        " [300 - node.pos[0], 160 - node.pos[1]]; app.canvas.setDirty(true, true)"
    )
    desk.page.wait_for_timeout(500)
    press(cells(desk).nth(3), "Copy its dials")
    assert [desk.value("DDIMKSampler", name) for name in ("steps", "eta", "cfg")] == [2, 1, 4]
    desk.screenshot("dials")


def test_app_mode(sheet):
    """The sheet as one of an app's inputs: narrow, and all of it works."""
    commands = sheet.run("return app.extensionManager.command.commands.map(each => each.id)")
    if "Comfy.ToggleLinear" not in commands:
        pytest.skip("a page without app mode")
    [seed] = draw(sheet)
    before, node = state(sheet), int(sheet.id(SHEET))
    shown = {"inputs": [[node, "contact_sheet"]], "outputs": [int(sheet.id("SaveImage"))]}
    workflow = sheet.workflow()
    workflow["extra"]["linearData"] = shown
    sheet.load(workflow)
    sheet.command("Comfy.ToggleLinear")
    try:
        sheet.page.wait_for_timeout(1500)
        for skip in sheet.page.get_by_role("button", name="Skip").all():  # the page's tour
            skip.click()
        box = sheet.find(".ddim-sheet").bounding_box()
        assert box["x"] > 1000 and box["width"] < 600  # the app's panel
        button, cell = (
            each.bounding_box() for each in (cells(sheet).nth(2).get_by_text("Finish"), cells(sheet).nth(2))
        )
        assert button["x"] + button["width"] <= cell["x"] + cell["width"]
        sheet.screenshot("app")
        [entry] = sheet.finished(lambda: press(cells(sheet).nth(2), "Finish this one"))
        assert queued(sheet, entry) == ("3", seed) and state(sheet) == before
        cells(sheet).nth(4).click()
        sheet.page.keyboard.press("ArrowRight")
        sheet.page.keyboard.press("Space")
        [entry] = sheet.finished(lambda: sheet.page.keyboard.press("Enter"))
        assert queued(sheet, entry) == ("5, 6", seed)
    finally:
        sheet.command("Comfy.ToggleLinear")


def test_what_ran_before_the_code_came_is_shown_and_finished(sheet):
    """Over a slow line, and one that breaks once."""
    asked, held = set(), []

    def route(request):
        name = request.request.url.split("?")[0]
        if name in asked:
            held.append(request)
        else:
            asked.add(name)
            request.abort()

    workflow = sheet.workflow()
    sheet.context.route(CODE, route)
    try:
        sheet.open()
        sheet.load(workflow)
        seed = sheet.value(SEED, "seed")
        sheet.finished(lambda: sheet.run("await app.queuePrompt(0, 1)"))
        sheet.wait(lambda: len(held) == len(asked))
        assert cells(sheet).count() == 0
        for request in held:
            request.continue_()
        sheet.wait(lambda: cells(sheet).count() == BATCH)
    finally:
        sheet.context.unroute(CODE)
    sheet.complaints.clear()  # of the broken line
    [entry] = sheet.finished(lambda: press(cells(sheet).nth(2), "Finish this one"))
    assert queued(sheet, entry) == ("3", seed)


def test_code_that_does_not_come_is_told(sheet):
    workflow = sheet.workflow()
    sheet.context.route(CODE, lambda each: each.abort())
    try:
        sheet.open()
        sheet.load(workflow)
        assert "Reload" in sheet.toast("Drafts and contact sheets do not work")
        assert "Reload" in sheet.find(".ddim-sheet").inner_text()
    finally:
        sheet.context.unroute(CODE)
        sheet.open()
    sheet.complaints.clear()
