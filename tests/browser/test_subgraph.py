"""The reusable subgraph in the page: offered, expanded for the queue as by run.py, and only the chosen branch
runs."""

import json

import pytest
from blueprint import FILE, around, nested
from ddim_toolkit.runner.workflow import to_prompt

BLUEPRINT = """
const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
try { return stores.get('subgraph').getBlueprint('SubgraphBlueprint.' + it) } catch { return null }
"""


def test_the_subgraph(desk):
    [key] = [key for key, each in desk.server.get("/global_subgraphs").items() if each["name"] == FILE.stem]
    blueprint = desk.wait(lambda: desk.run(BLUEPRINT, key))  # as the page's node list holds it

    desk.load(around(blueprint, f"red heart {desk.screenshots.name}"))
    desk.screenshot("subgraph")
    prompt = desk.prompt()
    kinds = {node["class_type"]: (key, node["inputs"]) for key, node in prompt.items()}
    assert "Cannot" not in str(prompt) and len(prompt) == 9
    draft, final, switch = (kinds[kind] for kind in ("DDIMKSampler", "KSampler", "DDIMDraftSwitch"))
    assert draft[1]["seed"] == final[1]["seed"] == 7 and draft[1]["cfg"] == final[1]["cfg"] == 4
    assert (draft[1]["steps"], draft[1]["eta"], final[1]["steps"], switch[1]["use_final"]) == (
        8,
        0,
        30,
        False,
    )

    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    assert draft[0] in desk.ran() and final[0] not in desk.ran()
    desk.command("DDIMToolkit.Finals")
    assert desk.prompt()[switch[0]]["inputs"]["use_final"] is True


@pytest.mark.parametrize("change", [lambda workflow: workflow, nested], ids=["alone", "in another"])
@pytest.mark.parametrize("seed", [3, None], ids=["its own widgets", "those inside"])
def test_the_queue_gets_what_the_conversion_gives(desk, change, seed):
    workflow = change(around(json.loads(FILE.read_text(encoding="utf-8")), "red heart", seed))
    desk.load(workflow)
    prompt = essence(desk.prompt())
    assert essence(to_prompt(workflow, desk.info)) == prompt
    assert essence(to_prompt(desk.workflow(), desk.info)) == prompt
    assert (prompt["10:1"] if "10:1" in prompt else prompt["10:5:1"])["inputs"]["seed"] == (seed or 7)


def essence(prompt):
    return {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in prompt.items()}
