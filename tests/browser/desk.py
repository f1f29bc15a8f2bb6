"""ComfyUI's page as the tests use it."""

import json
import time
import urllib.request

SETTINGS = {  # no dialogs, no network, nothing in front of the graph
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.UseNewMenu": "Top",
}
DRAWN = "for (let frame = 0; frame < 4; frame++) await new Promise(requestAnimationFrame);"
FIND = "const find = title => app.graph.nodes.find(n => n.title === title || n.comfyClass === title);"


class Desk:
    """One open page. Nodes are named by their title or type."""

    def __init__(self, chromium, server, renderer, screenshots, keep):
        self.server, self.nodes2 = server, renderer == "nodes2"
        self.screenshots, self.keep_screenshots = screenshots, keep
        self.info = server.get("/object_info")
        self.set({**SETTINGS, "Comfy.VueNodes.Enabled": renderer == "nodes2"})
        self.context = chromium.new_context(viewport={"width": 1920, "height": 1080})
        self.context.route(lambda url: not url.startswith(server.url), lambda route: route.abort())
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints = []
        self.page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))
        self.page.on("console", self.hear)
        self.open()

    def open(self):
        """Load the page, anew where it is open."""
        self.page.goto(self.server.url, timeout=90_000)
        self.page.wait_for_function(
            "() => !!window.LiteGraph?.registered_node_types?.DDIMDraftSwitch &&"
            " !!window.app?.extensionManager",
            timeout=90_000,
        )
        self.page.wait_for_function(
            "() => document.querySelectorAll('.p-dialog-mask').length === 0 && !!window.app.graph"
        )
        self.run(
            "window.ran = []; app.api.addEventListener('executing', e => e.detail &&"
            " window.ran.push(String(e.detail.node ?? e.detail))); window.succeeded = [];"
            " app.api.addEventListener('execution_success', e => window.succeeded.push(e.detail.prompt_id))"
        )

    def close(self):
        self.context.close()

    def set(self, settings):
        body = json.dumps(settings).encode()
        urllib.request.urlopen(
            urllib.request.Request(self.server.url + "/settings", body, {"Content-Type": "application/json"})
        ).close()

    def hear(self, message):
        if message.type == "error":
            self.complaints.append(f"{message.text} ({message.location.get('url')})")

    def errors(self):
        """What the console said about files of this pack."""
        return [
            each
            for each in self.complaints
            if "ddim-toolkit" in each.lower() or "ddimtoolkit" in each.lower()
        ]

    def run(self, script, argument=None):
        """The value of a script (statements; `return` gives it); `find(title)` gives a node, `it` is the
        argument."""
        text = self.page.evaluate(
            f"async it => {{ const app = window.app; {FIND} return JSON.stringify(await (async () => {{"
            f" {script} }})()) }}",
            argument,
        )
        return None if text is None else json.loads(text)

    def clear(self):
        self.complaints.clear()
        empty = {name: [] for name in ("nodes", "links", "groups")} | {"config": {}, "extra": {}}
        self._load(empty | {"last_node_id": 0, "last_link_id": 0, "version": 0.4})
        self.run("app.extensionManager.toast.removeAll?.();" + DRAWN)  # they may lie over a button

    def load(self, workflow):
        self._load(workflow)
        self.settle()

    def _load(self, workflow):
        self.run(
            "await app.loadGraphData(it, true, true, app.extensionManager.workflow.activeWorkflow);"
            " window.ran.length = 0",
            workflow,
        )

    def settle(self):
        """Let the parts see what has changed (js/watch.js looks every 200 ms), and both renderers draw it."""
        self.page.wait_for_timeout(250)
        self.run(DRAWN)

    def add(self, kind, **values):
        """A new node at the top left, scale 1, its widgets set."""
        self.run(
            """app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0];
            const node = LiteGraph.createNode(it.kind); node.pos = [200, 200]; app.graph.add(node);
            for (const [name, value] of Object.entries(it.values))
                node.widgets.find(w => w.name === name).value = value;
            app.canvas.setDirty(true, true)""",
            {"kind": kind, "values": values},
        )
        self.settle()

    def value(self, title, name):
        return self.run("return find(it[0]).widgets.find(w => w.name === it[1]).value", [title, name])

    def change(self, title, name, value):
        """Set a widget as other code on the page would."""
        self.run(
            "const node = find(it[0]), w = node.widgets.find(w => w.name === it[1]); w.value = it[2];"
            " w.callback?.(it[2], app.canvas, node)",
            [title, name, value],
        )

    def prompt(self):
        """What the page would queue: {node id: {"class_type", "inputs"}}."""
        return self.run("return (await app.graphToPrompt()).output")

    def workflow(self):
        return self.run("return app.graph.serialize()")

    def id(self, title):
        return str(self.run("return find(it).id", title))

    def command(self, name):
        self.run("await app.extensionManager.command.execute(it)", name)

    def remember(self):
        """Let the page's undo take what the test made up to here as a step of its own."""
        self.run("app.canvas.emitBeforeChange(); app.canvas.emitAfterChange()")
        self.page.wait_for_timeout(150)  # newer frontends merge what follows within 50 ms

    def undo(self):
        self.page.keyboard.press("Control+z")
        self.page.wait_for_timeout(700)

    def find(self, selector):
        """The visible element of the page that matches."""
        return self.page.locator(f"{selector}:visible").first

    def toast(self, summary):
        """The text of a message of the page, once it is there: newer frontends list them by themselves."""
        toast = self.find(f":is(.p-toast-message, ol > li):has-text('{summary}')")
        toast.wait_for()
        return toast.inner_text()

    def wait(self, ready, seconds=15):
        """Wait until `ready()` gives something; that is returned."""
        limit = time.monotonic() + seconds
        while not (result := ready()):
            assert time.monotonic() < limit, f"waited {seconds} s in vain"
            self.page.wait_for_timeout(100)
        return result

    def still(self, script):
        """The value of a script, once it has been the same five times."""
        seen = []

        def same():
            seen.append(self.run(script))
            return len(seen) >= 5 and all(each == seen[-1] for each in seen[-5:])

        self.wait(same)
        return seen[-1]

    def finished(self, action, prompts=1):
        """The history entries that an action on the page brings about, so many or more, once the queue is
        empty again."""
        before = set(self.server.get("/history"))
        self.run("window.ran.length = 0")
        action()

        def done():
            queue = self.server.get("/queue")
            new = {key: entry for key, entry in self.server.get("/history").items() if key not in before}
            idle = not queue["queue_running"] and not queue["queue_pending"]
            return new if len(new) >= prompts and idle else None

        entries = self.wait(done, 90)
        assert all(entry["status"]["status_str"] == "success" for entry in entries.values()), entries
        self.wait(lambda: set(entries) <= set(self.run("return window.succeeded")))
        self.settle()  # what follows from the last messages
        return list(entries.values())

    def ran(self):
        """The ids of the nodes that the server said it executed since the last `finished` began."""
        return set(self.run("return window.ran"))

    def screenshot(self, name):
        if not self.keep_screenshots:
            return
        self.screenshots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.screenshots / f"{name}.png")


def cached(entry):
    """The ids of the nodes that a history entry took from the cache."""
    return {
        node
        for event, data in entry["status"]["messages"]
        if event == "execution_cached"
        for node in data["nodes"]
    }
