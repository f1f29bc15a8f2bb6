"""Draft or final: which nodes run, all switches at once, and finishing a draft."""

import json
from io import BytesIO
from pathlib import Path

import numpy
import pytest
from desk import cached
from PIL import Image

EXAMPLE = json.loads(Path(__file__).with_name("draft_switch.json").read_text(encoding="utf-8"))
BOTH = {"Draft": 2, "Final": 3}  # steps, few: the picture does not matter here


@pytest.fixture
def drafts(desk):
    desk.load(EXAMPLE)
    for title, steps in BOTH.items():
        desk.change(title, "steps", steps)
    for name in ("width", "height"):
        desk.change("EmptyLatentImage", name, 64)
    desk.change("Seed of both", control(desk), "fixed")
    desk.remember()
    return desk


def test_only_the_chosen_branch_runs_and_nothing_cached_runs_again(drafts):
    draft, final, switch = (drafts.id(title) for title in ("Draft", "Final", "DDIMDraftSwitch"))
    drafts.change("Prompt", "text", f"red heart {drafts.screenshots.name}")  # nothing of it in the cache yet

    [entry] = drafts.finished(lambda: drafts.run("await app.queuePrompt(0, 1)"))
    assert draft in drafts.ran() and final not in drafts.ran()
    assert entry["prompt"][2][switch]["inputs"]["use_final"] is False

    drafts.command("DDIMToolkit.Finals")
    [entry] = drafts.finished(lambda: drafts.run("await app.queuePrompt(0, 1)"))
    assert final in drafts.ran() and draft not in drafts.ran()
    assert drafts.id("Prompt") in cached(entry)

    drafts.command("DDIMToolkit.Drafts")
    drafts.finished(lambda: drafts.run("await app.queuePrompt(0, 1)"))
    assert not drafts.ran() & {draft, final}
    drafts.command("DDIMToolkit.Finals")
    drafts.finished(lambda: drafts.run("await app.queuePrompt(0, 1)"))
    assert not drafts.ran() & {draft, final}


def test_branches_of_two_types_are_refused(drafts):
    """By the page, where the host matches the types of a node's slots, which a file of before has open; else
    by the queue."""
    matched = drafts.info["DDIMDraftSwitch"]["output"] != ["*"]
    slots = (
        "const s = find('DDIMDraftSwitch'); return [...s.inputs.slice(0, 2), s.outputs[0]].map(i => i.type)"
    )
    assert drafts.run(slots) == ["LATENT" if matched else "*"] * 3
    assert len(drafts.workflow()["links"]) == len(EXAMPLE["links"])
    linked = drafts.run(
        "const s = find('DDIMDraftSwitch'); return !!find('DDIMDemoModel').connect(0, s, s.inputs.findIndex("
        "i => i.name === 'final'))"
    )
    assert linked is not matched
    if linked:
        with pytest.raises(Exception, match="both branches must have the same type"):
            drafts.server.queue(drafts.prompt())


def test_buttons_and_key_turn_every_switch_and_undo_turns_them_back(drafts):
    drafts.run(
        "const s = LiteGraph.createNode('DDIMDraftSwitch'); s.title = 'Second'; s.pos = [1140, 700];"
        " app.graph.add(s)"
    )
    drafts.remember()

    def both():
        return [drafts.value(title, "use_final") for title in ("DDIMDraftSwitch", "Second")]

    drafts.find(".ddim-to-finals").click()
    drafts.wait(lambda: both() == [True, True])
    drafts.undo()
    assert both() == [False, False]
    drafts.page.keyboard.press("Shift+D")
    drafts.wait(lambda: both() == [True, True])
    drafts.find(".ddim-to-drafts").click()
    drafts.wait(lambda: both() == [False, False])


def shown_buttons(desk):
    return desk.page.locator(":is(.ddim-drafts, .ddim-switches):visible").count()


def test_the_buttons_are_there_for_graphs_with_drafts(desk):
    assert shown_buttons(desk) == 0
    for kind, buttons in (("DDIMDraftSwitch", 4), ("DDIMContactSheet", 2)):
        desk.add(kind)
        desk.wait(lambda buttons=buttons: shown_buttons(desk) == buttons)
        desk.run("app.graph.remove(find(it))", kind)
        desk.wait(lambda: shown_buttons(desk) == 0)


def test_the_active_button_is_seen(drafts):
    def pressed():
        return [
            drafts.find(f".ddim-to-{name}").get_attribute("aria-pressed") for name in ("drafts", "finals")
        ]

    drafts.wait(lambda: pressed() == ["true", "false"])
    drafts.change("DDIMDraftSwitch", "use_final", True)
    drafts.wait(lambda: pressed() == ["false", "true"])
    active, other = (
        drafts.find(f".ddim-to-{name}").evaluate("each => getComputedStyle(each).backgroundColor")
        for name in ("finals", "drafts")
    )
    assert active != other


def test_queue_a_draft_whatever_the_toggle_says_then_finish_it(drafts):
    switch, seed, draft, final = (
        drafts.id(title) for title in ("DDIMDraftSwitch", "Seed of both", "Draft", "Final")
    )
    drafts.command("DDIMToolkit.Finals")
    drafts.change("Seed of both", "value", 4321)
    drafts.change("Seed of both", control(drafts), "randomize")

    [entry] = drafts.finished(lambda: drafts.page.keyboard.press("Alt+Enter"))
    queued = entry["prompt"][2]
    assert queued[switch]["inputs"]["use_final"] is False and queued[seed]["inputs"]["value"] == 4321
    assert final not in drafts.ran()
    assert drafts.value("DDIMDraftSwitch", "use_final") is True  # the toggle itself stayed
    assert drafts.value("Seed of both", "value") != 4321  # the next draft will be another one
    assert drafts.prompt()[switch]["inputs"]["use_final"] is True

    assert "Finish this one" in drafts.run(
        "return app.collectNodeMenuItems(find('PreviewImage')).map(item => item?.content)"
    )
    drafts.command("DDIMToolkit.Drafts")
    following = drafts.value("Seed of both", "value")
    [entry] = drafts.finished(lambda: drafts.command("DDIMToolkit.Finish"))
    queued = entry["prompt"][2]
    assert queued[switch]["inputs"]["use_final"] is True and queued[seed]["inputs"]["value"] == 4321
    assert final in drafts.ran() and draft not in drafts.ran()
    drafts.screenshot("finished")
    assert state(drafts) == (following, "randomize", False)  # all as it was


def control(desk):
    """The name of the widget that changes the seed after each run: hosts differ."""
    return desk.run(
        "return find('Seed of both').widgets.find(w => w.options?.values?.includes?.('randomize')).name"
    )


def state(desk):
    seed = [desk.value("Seed of both", name) for name in ("value", control(desk))]
    return (*seed, desk.value("DDIMDraftSwitch", "use_final"))


def draw_draft(desk, seed):
    """A draft of a seed, new to the cache, which then moves on."""
    desk.change("Prompt", "text", f"cat {desk.screenshots.name} {seed}")
    desk.change("Seed of both", "value", seed)
    desk.change("Seed of both", control(desk), "randomize")
    desk.finished(lambda: desk.command("DDIMToolkit.QueueDraft"))


def queued(desk, entry):
    """(seed, use_final) of a history entry."""
    prompt = entry["prompt"][2]
    return tuple(
        prompt[desk.id(title)]["inputs"][name]
        for title, name in (("Seed of both", "value"), ("DDIMDraftSwitch", "use_final"))
    )


def test_a_control_of_another_name_is_known_by_what_it_is(drafts):
    """As newer hosts name it: after the control_after_generate that PrimitiveInt declares."""
    drafts.run(
        "find('Seed of both').widgets.find(w => w.options?.values?.includes?.('randomize')).name = 'fixed'"
    )
    draw_draft(drafts, 61)
    following = drafts.value("Seed of both", "value")
    [entry] = drafts.finished(lambda: drafts.command("DDIMToolkit.Finish"))
    assert queued(drafts, entry) == (61, True)
    assert state(drafts) == (following, "randomize", False)


def test_the_node_that_shows_a_draft_has_a_button(drafts):
    def button():
        return drafts.run("return find('PreviewImage').widgets?.filter(w => w.type === 'button').length ?? 0")

    draw_draft(drafts, 62)
    drafts.wait(lambda: button() == 1)
    drafts.page.wait_for_timeout(500)
    drafts.screenshot("button")
    if drafts.nodes2:
        press = drafts.find("[data-node-id='11'] button:has-text('Finish this one')").click
    else:

        def press():
            drafts.run("find('PreviewImage').widgets.find(w => w.type === 'button').callback()")

    [entry] = drafts.finished(press)
    assert queued(drafts, entry) == (62, True)
    drafts.run("app.graph.remove(find('DDIMDraftSwitch'))")  # nothing can be finished without
    drafts.wait(lambda: button() == 0)


def test_one_picture_of_a_batch(drafts):
    """The one that the node shows large is finished, alone."""
    drafts.change("EmptyLatentImage", "batch_size", 4)
    draw_draft(drafts, 63)
    drafts.run("find('PreviewImage').imageIndex = 2")
    [entry] = drafts.finished(lambda: drafts.command("DDIMToolkit.Finish"))
    assert queued(drafts, entry) == (63, True)
    [alone] = entry["outputs"][drafts.id("PreviewImage")]["images"]

    draw_draft(drafts, 64)
    draw_draft(drafts, 63)
    drafts.run("find('PreviewImage').imageIndex = null")
    [entry] = drafts.finished(lambda: drafts.command("DDIMToolkit.Finish"))
    whole = entry["outputs"][drafts.id("PreviewImage")]["images"]
    assert len(whole) == 4
    differ = [abs(pixels(drafts, alone) - pixels(drafts, each)).max() for each in whole]
    assert differ[2] <= 2 and min(differ[0], differ[1], differ[3]) > 20  # of 255


def pixels(desk, saved):
    return numpy.asarray(Image.open(BytesIO(desk.server.image(saved)))).astype(int)


def test_finals_are_those_of_the_last_draft(drafts):
    draw_draft(drafts, 64)
    following = drafts.value("Seed of both", "value")
    drafts.command("DDIMToolkit.Finals")
    [entry] = drafts.finished(lambda: drafts.run("await app.queuePrompt(0, 1)"))
    assert queued(drafts, entry) == (64, True)
    drafts.command("DDIMToolkit.Drafts")
    assert state(drafts) == (following, "randomize", False)

    drafts.change("Seed of both", "value", 65)  # the user wants this one
    drafts.command("DDIMToolkit.Finals")
    [entry] = drafts.finished(lambda: drafts.run("await app.queuePrompt(0, 1)"))
    assert queued(drafts, entry) == (65, True)


def test_nothing_is_queued_where_the_seed_has_gone(drafts):
    draw_draft(drafts, 66)
    drafts.run(
        "app.graph.remove(find('Seed of both')); for (const t of ['Draft', 'Final'])"
        " find(t).widgets[0].value = 5"
    )
    before = list(drafts.server.get("/history"))
    drafts.command("DDIMToolkit.Finish")
    assert "Seed of both" in drafts.toast("Nothing was queued")
    drafts.page.wait_for_timeout(500)
    assert list(drafts.server.get("/history")) == before and not drafts.server.get("/queue")["queue_running"]
