"""The stride strip: what it shows is what the node's own formula visits."""

import pytest
from ddim_toolkit.ddim.stride import timesteps


def drawn(desk):
    """The timesteps at which the strip has ticks, read off the picture."""
    path = desk.find(".ddim-strip").locator("path").get_attribute("d") or ""
    return [round(999 * (1 - float(tick.split()[0]) / 1000)) for tick in path.split("M ")[1:]]


@pytest.mark.parametrize("kind", ["DDIMStrideScheduler", "DDIMKSampler"])
def test_it_follows_steps_stride_and_denoise(desk, kind):
    desk.add(kind, steps=5)
    desk.wait(lambda: drawn(desk) == timesteps("trailing", 1000, 5))
    desk.change(kind, "steps", 8)
    desk.wait(lambda: drawn(desk) == timesteps("trailing", 1000, 8))
    desk.change(kind, "stride", "quadratic")
    desk.wait(lambda: drawn(desk) == timesteps("quadratic", 1000, 8))
    desk.change(kind, "denoise", 0.5)
    desk.wait(lambda: drawn(desk) == timesteps("quadratic", 500, 8))
    note = "quadratic starts at timestep 400 of 499 here; trailing starts at the top. "
    assert desk.find(".ddim-caption").text_content() == f"{note}8 steps of 1000: 400, 293, 204 … 0"
    assert desk.find(".ddim-strip").bounding_box()["width"] <= desk.run("return find(it).size[0]", kind)
    desk.screenshot(f"strip_{kind}")


def test_it_says_what_is_wrong(desk):
    desk.add("DDIMStrideScheduler", steps=2000)
    desk.wait(lambda: "steps is 2000" in desk.find(".ddim-caption").text_content())
    assert drawn(desk) == []
    desk.change("DDIMStrideScheduler", "steps", 1)
    desk.wait(lambda: drawn(desk) == [999])


def test_a_written_list(desk):
    desk.add("DDIMCustomSchedule", timesteps="999, 500\n20")
    desk.wait(lambda: drawn(desk) == [999, 500, 20])
    desk.change("DDIMCustomSchedule", "timesteps", "sigmas: 10, 1, 0.1")
    desk.wait(
        lambda: (
            desk.find(".ddim-strip").locator("path").get_attribute("d")
            == "M 0.0 3 V 17 M 500.0 3 V 17 M 1000.0 3 V 17"
        )
    )
    desk.change("DDIMCustomSchedule", "timesteps", "20, 500")
    desk.wait(lambda: "go down" in desk.find(".ddim-caption").text_content())


def test_a_linked_input_is_not_guessed(desk):
    desk.add("DDIMStrideScheduler", steps=5)
    desk.run(
        """const from = LiteGraph.createNode("PrimitiveInt"), to = find("DDIMStrideScheduler");
        from.pos = [900, 200]; app.graph.add(from);
        from.connect(0, to, to.inputs.findIndex(input => input.name === "steps"))"""
    )
    desk.wait(lambda: desk.find(".ddim-caption").text_content().startswith("steps comes from a link"))
    assert drawn(desk) == []


def test_parts_lie_within_their_node(desk):
    """A new node, and one from a file that was saved without the parts."""
    desk.add("DDIMKSampler")
    saved = desk.workflow()
    for size in (None, [300, 200]):
        if size:
            saved["nodes"][0]["size"] = size
            desk.load(saved)
        low = desk.run(
            "const node = find('DDIMKSampler'); return (node.pos[1] + node.size[1] + app.canvas.ds.offset[1])"
            " * app.canvas.ds.scale"
        )
        top = desk.page.locator("#graph-canvas").bounding_box()["y"]
        box = desk.find(".ddim-strip").bounding_box()
        assert box["y"] + box["height"] <= top + low
