"""The eta dial: mouse, wheel, keys, typing; the widget is what holds the value."""

import pytest


@pytest.fixture
def dial(desk):
    desk.add("DDIMSampler", eta=0.5)
    return desk


def eta(desk):
    """The widget's value, which must be what the queue would get."""
    value = desk.value("DDIMSampler", "eta")
    assert desk.prompt()[desk.id("DDIMSampler")]["inputs"]["eta"] == value
    return value


def middle(element):
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_dragging_turns_it_and_rests_on_the_stops(dial):
    x, y = middle(dial.find(".ddim-knob"))
    mouse = dial.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 20, y - 20, steps=4)
    assert eta(dial) == pytest.approx(0.75)
    mouse.move(x + 200, y, steps=4)
    assert eta(dial) == 1
    mouse.move(x - 79, y, steps=4)  # 0.006 is rounded to the stop
    mouse.up()
    assert eta(dial) == 0
    mouse.move(x + 50, y)
    assert eta(dial) == 0  # released
    assert dial.run("return [...find('DDIMSampler').pos]") == [200, 200]  # the node stayed where it was


def test_one_drag_is_one_undo_step(dial):
    dial.remember()
    x, y = middle(dial.find(".ddim-knob"))
    dial.page.mouse.move(x, y)
    dial.page.mouse.down()
    dial.page.mouse.move(x + 32, y, steps=8)
    dial.page.mouse.up()
    assert eta(dial) == pytest.approx(0.7)
    dial.undo()
    assert eta(dial) == pytest.approx(0.5)


def test_the_wheel_moves_it_only_once_it_was_clicked(dial):
    knob = dial.find(".ddim-knob")
    x, y = middle(knob)
    dial.page.mouse.move(x, y)
    knob.click()
    scale = dial.run("return app.canvas.ds.scale")
    dial.page.mouse.wheel(0, -100)
    dial.wait(lambda: eta(dial) == pytest.approx(0.55))
    dial.page.mouse.wheel(0, 100)
    dial.page.mouse.wheel(0, 100)
    dial.wait(lambda: eta(dial) == pytest.approx(0.45))
    assert dial.run("return app.canvas.ds.scale") == scale
    dial.run("document.activeElement.blur()")
    dial.page.mouse.wheel(0, -100)
    dial.page.wait_for_timeout(200)
    assert eta(dial) == pytest.approx(0.45)


def test_arrow_keys(dial):
    dial.find(".ddim-knob").focus()
    for key, expected in [
        ("ArrowUp", 0.55),
        ("ArrowLeft", 0.5),
        ("Shift+ArrowRight", 0.51),
        ("End", 1),
        ("ArrowUp", 1),
        ("Home", 0),
        ("ArrowDown", 0),
    ]:
        dial.page.keyboard.press(key)
        assert eta(dial) == pytest.approx(expected), key


def test_typing(dial):
    number = dial.find(".ddim-number")
    for text, expected in [("0.35", 0.35), ("0,2", 0.2), ("7", 1), ("no number", 1), ("", 1)]:
        number.fill(text)
        number.press("Enter")
        assert eta(dial) == pytest.approx(expected), text
    assert number.input_value() == "1"


def test_the_stops_are_buttons(dial):
    dial.find(".ddim-dial [data-stop='1']").click()
    assert eta(dial) == 1
    dial.screenshot("dial")
    dial.find(".ddim-dial [data-stop='0']").click()
    assert eta(dial) == 0


def test_it_follows_the_widget(dial):
    dial.change("DDIMSampler", "eta", 0.25)
    dial.wait(lambda: dial.find(".ddim-knob").get_attribute("aria-valuenow") == "0.25")
    assert dial.find(".ddim-number").input_value() == "0.25"


def test_a_link_to_eta_takes_the_dial_out_of_play(dial):
    dial.run(
        """const from = LiteGraph.createNode("PrimitiveFloat"), to = find("DDIMSampler");
        from.pos = [900, 200]; app.graph.add(from);
        from.connect(0, to, to.inputs.findIndex(input => input.name === "eta"))"""
    )
    dial.wait(lambda: dial.find(".ddim-number").is_disabled())
    dial.find(".ddim-knob").focus()
    dial.page.keyboard.press("End")
    assert dial.value("DDIMSampler", "eta") == pytest.approx(0.5)
