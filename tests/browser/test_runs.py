"""What a run gives back to the page: the noise levels of a schedule, and a report as text."""

from comfy.model_sampling import ModelSamplingDiscrete
from ddim_toolkit.ddim.stride import timesteps

PROMPT = {
    "1": {"class_type": "DDIMDemoModel", "inputs": {}},
    "2": {"class_type": "DDIMDemoPicture", "inputs": {}},
    "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["1", 2]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
    "5": {
        "class_type": "DDIMStrideScheduler",
        "inputs": {"model": ["1", 0], "steps": 3, "stride": "linspace", "denoise": 1.0},
    },
    "6": {
        "class_type": "DDIMInversion",
        "inputs": {
            "model": ["1", 0],
            "positive": ["4", 0],
            "negative": ["4", 0],
            "cfg": 1.0,
            "latent_image": ["3", 0],
            "sigmas": ["5", 0],
            "method": "ddim",
        },
    },
    "7": {"class_type": "PreviewAny", "inputs": {"source": ["6", 3]}},
}


STRIP = """const { element } = find('DDIMStrideScheduler').widgets.find(w => w.name === 'stride_strip');
return [element.textContent, element.querySelector('path').getAttribute('d')]"""
SIGMAS = ModelSamplingDiscrete().sigmas  # SD's own, which the shipped model has


def test_real_sigmas_and_report(desk):
    steps = (
        4 if "nodes2" in desk.screenshots.name else 3
    )  # the server's cache would not run the other renderer's graph again
    desk.run("await app.loadApiJson(it, 'runs.json')", PROMPT)
    desk.page.wait_for_timeout(500)
    desk.change("DDIMStrideScheduler", "steps", steps)
    desk.wait(lambda: desk.run(STRIP)[0].startswith(f"{steps} steps of 1000"))
    _, before = desk.run(STRIP)  # the axis stays what it was
    [entry] = desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    outputs = entry["outputs"]
    assert desk.id("DDIMStrideScheduler") not in outputs  # older pages would count each number as an output

    sigmas = SIGMAS[timesteps("linspace", 1000, steps)].tolist()
    assert sigmas[0] > 10
    strip, ticks = desk.run(STRIP)
    assert strip == f"{steps} steps, as run: sigma {', '.join(f'{sigma:.3g}' for sigma in sigmas)}"
    assert ticks == before
    report = desk.run(
        "return find('DDIMInversion').widgets.find(w => w.name === 'report').element.textContent"
    )
    assert report == outputs[desk.id("PreviewAny")]["text"][0] and "\n" in report
    desk.wait(lambda: desk.find(".ddim-report").is_visible())
    desk.run(
        "const node = find('DDIMInversion'); app.canvas.ds.scale = 1; app.canvas.ds.offset = [300 -"
        " node.pos[0], 200 - node.pos[1]]; app.canvas.setDirty(true, true)"
    )
    desk.page.wait_for_timeout(500)
    desk.screenshot("report")

    note = "quadratic starts at timestep 800 of 999"
    desk.change("DDIMStrideScheduler", "stride", "quadratic")
    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    desk.wait(lambda: note in (strip := desk.run(STRIP)[0]) and "as run" in strip)

    desk.change("DDIMStrideScheduler", "steps", 7)  # what the node would give now, no longer what it gave
    desk.wait(lambda: "7 steps of 1000" in desk.run(STRIP)[0])


def test_the_strip_and_the_report_have_roles(desk):
    desk.add("DDIMStrideScheduler", steps=5)
    strip = desk.find(".ddim-strip")
    desk.wait(lambda: "5 steps of 1000" in (strip.get_attribute("aria-label") or ""))
    assert strip.get_attribute("role") == "img"
    desk.clear()
    desk.add("DDIMInversion")
    report = desk.find(".ddim-report")
    assert (report.get_attribute("role"), report.get_attribute("aria-label")) == ("status", "Report")
