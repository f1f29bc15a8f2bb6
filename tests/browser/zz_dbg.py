from test_subgraph import *


def test_dbg(desk):
    _, kinds = dropped(desk, "Contact sheet", f"cat {desk.screenshots.name}")
    desk.run(
        "window.ev=[]; app.api.addEventListener('executed', e => window.ev.push([e.detail.node, e.detail.display_node, Object.keys(e.detail.output||{}), e.detail.prompt_id]))"
    )
    [e] = desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    print(
        "DBG",
        kinds["DDIMContactSheet"],
        desk.run("return window.ev"),
        desk.run("return [app.graph.id, app.rootGraph?.id]"),
        e["prompt"][3].get("extra_pnginfo", {}).get("workflow", {}).get("id"),
    )
    desk.run("""app.canvas.setGraph(app.graph.nodes.find(n => n.id == 10).subgraph);
        const node = app.canvas.graph.nodes.find(n => n.comfyClass === 'DDIMContactSheet');
        app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [300 - node.pos[0], 160 - node.pos[1]];
        app.canvas.setDirty(true, true)""")
    desk.page.wait_for_timeout(1500)
    print(
        "DBG",
        desk.run(
            "return [document.querySelectorAll('.ddim-sheet').length, document.querySelectorAll('.ddim-cell').length, [...document.querySelectorAll('.ddim-sheet')].map(e=>JSON.stringify(e.getBoundingClientRect())), app.canvas.graph.id, app.graph.id]"
        ),
    )
    desk.screenshot("dbg")
    desk.run("app.canvas.setGraph(app.rootGraph ?? app.graph)")
