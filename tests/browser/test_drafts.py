"""Draft or final: which nodes run, all switches at once, and finishing a draft."""

import json
from pathlib import Path

import pytest
from desk import cached

EXAMPLE = json.loads(Path(__file__).with_name("draft_switch.json").read_text(encoding="utf-8"))
BOTH = {"Draft": 2, "Final": 3}  # steps, few: the picture does not matter here


@pytest.fixture
def drafts(desk):
    desk.load(EXAMPLE)
    for title, steps in BOTH.items():
        desk.change(title, "steps", steps)
    for name in ("width", "height"):
        desk.change("EmptyLatentImage", name, 64)
    desk.change("Seed of both", "control_after_generate", "fixed")
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
    drafts.run(
        "const s = find('DDIMDraftSwitch'); find('DDIMDemoModel').connect(0, s, s.inputs.findIndex(i =>"
        " i.name === 'final'))"
    )
    prompt = drafts.prompt()
    with pytest.raises(Exception, match="both branches must have the same type"):
        drafts.server.queue(prompt)


def test_buttons_and_key_turn_every_switch_and_undo_turns_them_back(drafts):
    drafts.run(
        "const s = LiteGraph.createNode('DDIMDraftSwitch'); s.title = 'Second'; s.pos = [1140, 700];"
        " app.graph.add(s)"
    )
    drafts.remember()

    def both():
        return [drafts.value(title, "use_final") for title in ("DDIMDraftSwitch", "Second")]

    drafts.find(".ddim-drafts:has-text('Finals')").click()
    assert both() == [True, True]
    drafts.undo()
    assert both() == [False, False]
    drafts.page.keyboard.press("Shift+D")
    drafts.wait(lambda: both() == [True, True])
    drafts.find(".ddim-drafts:has-text('Drafts')").click()
    assert both() == [False, False]


def test_the_buttons_are_there_for_graphs_with_a_switch(desk):
    assert desk.page.locator(".ddim-drafts:visible").count() == 0
    desk.add("DDIMDraftSwitch")
    desk.wait(lambda: desk.page.locator(".ddim-drafts:visible").count() == 3)
    desk.run("app.graph.remove(find('DDIMDraftSwitch'))")
    desk.wait(lambda: desk.page.locator(".ddim-drafts:visible").count() == 0)


def test_queue_a_draft_whatever_the_toggle_says_then_finish_it(drafts):
    switch, seed, draft, final = (
        drafts.id(title) for title in ("DDIMDraftSwitch", "Seed of both", "Draft", "Final")
    )
    drafts.command("DDIMToolkit.Finals")
    drafts.change("Seed of both", "value", 4321)
    drafts.change("Seed of both", "control_after_generate", "randomize")

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
    [entry] = drafts.finished(lambda: drafts.command("DDIMToolkit.Finish"))
    queued = entry["prompt"][2]
    assert queued[switch]["inputs"]["use_final"] is True and queued[seed]["inputs"]["value"] == 4321
    assert final in drafts.ran() and draft not in drafts.ran()
    drafts.screenshot("finished")
    assert (
        drafts.value("Seed of both", "value"),
        drafts.value("Seed of both", "control_after_generate"),
    ) == (4321, "fixed")
