"""Every widget of every node, through the queue's JSON: whatever is written there, a prompt gives finite
numbers or an error that names the input."""

import math

import graphs
import pytest
from comfy_api.latest import io
from ddim_toolkit.runner.comfyui import RunError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from test_schema import NODES

pytestmark = pytest.mark.server

SMALL = {
    "steps": 2,
    "probe_steps": 4,
    "probe_images": 1,
    "refine": 1,
    "teacher_runs": 1,
    "rounds": 1,
    "frames": 2,
    "rows": 2,
    "max_iterations": 3,
    "timesteps": "999, 500",
    "across_values": "0, 1",
    "down_values": "1, 2",
}
WIDGETS = (io.Float.Input, io.Int.Input, io.String.Input, io.Boolean.Input, io.Combo.Input)


class Work(graphs.Graph):
    """A prompt with one node of the pack, its links made and all of its outputs drawn or shown."""

    def __init__(self, name, widgets):
        super().__init__(size=64)
        schema = NODES[name].GET_SCHEMA()
        self.cfg, self.own_sigmas = widgets.get("cfg", 1.0), None
        links = {each.id: self.link(each) for each in schema.inputs if not isinstance(each, WIDGETS)}
        inputs = {key: link for key, link in links.items() if link is not None}
        node = self.node(name, "work", **inputs, **widgets)
        kinds = [output.io_type for output in schema.outputs]
        if "SIGMAS" in kinds:  # a sampler of the same node may be for them alone
            self.own_sigmas = node.out(kinds.index("SIGMAS"))
        for k, output in enumerate(schema.outputs):
            self.show(output.io_type, node.out(k), f"output {k}")

    def link(self, wanted):
        """Something of the type that an input wants; None for an optional one of a type without a maker."""
        makers = {
            "MODEL": lambda: self.model,
            "CONDITIONING": lambda: self.conds["positive"],
            "LATENT": self.empty,
            "NOISE": lambda: self.noise(1),
            "SIGMAS": lambda: self.sigmas(2),
            "SAMPLER": self.ddim,
            "GUIDER": lambda: self.guider(self.cfg),
            "*": self.empty,
        }
        if wanted.id == "replay":
            return self.inversion("recorded", 1, 2).out(2)
        if wanted.io_type in makers:
            return makers[wanted.io_type]()
        if not wanted.optional:
            pytest.skip(f"{wanted.id}: no {wanted.io_type} at hand")

    def show(self, kind, value, name):
        if kind == "NOISE":
            value = self.node("DDIMLatentFromNoise", noise=value, latent_image=self.empty()).out(0)
        elif kind == "SAMPLER":
            sigmas = self.own_sigmas or self.sigmas(2)
            value = self.advanced(f"run of {name}", self.noise(1), value, sigmas, self.empty(), self.cfg)
        elif kind != "LATENT":
            self.node("PreviewAny", name, source=value)
            return
        self.saved(value, name)


def widgets(name):
    return [each for each in NODES[name].GET_SCHEMA().inputs if isinstance(each, WIDGETS)]


def defaults(name):
    return {each.id: SMALL.get(each.id, first(each)) for each in widgets(name)}


def first(widget):
    combo = isinstance(widget, io.Combo.Input) and widget.default is None
    return next(iter(widget.options), "") if combo else widget.default


def written(widget):
    """What somebody may write for a widget: right or wrong, but nothing that rightly takes minutes."""
    other = [st.none(), st.booleans(), st.text(max_size=8), st.just({}), st.just({"a": 1})]
    if isinstance(widget, io.Combo.Input):
        return st.one_of(st.sampled_from(list(widget.options) or [""]), *other)
    if isinstance(widget, io.String.Input):
        texts = ["\0", "\ud800", "a\nb", "../x", "/", "sigmas: nan", "1e999", "9" * 400, "%year%/", ","]
        return st.one_of(st.sampled_from(texts), st.text(max_size=40), *other)
    if isinstance(widget, io.Float.Input):
        edges = st.sampled_from([math.nan, math.inf, -math.inf, "nan", "1e999", 1e300, 5e-324, -0.0])
        return st.one_of(edges, st.floats(widget.min, widget.max), st.floats(), *other)
    if isinstance(widget, io.Int.Input):
        small = st.integers(widget.min, min(widget.max, widget.min + 3))
        beyond = st.one_of(st.integers(max_value=widget.min - 1), st.integers(widget.max + 1, 2**70))
        seeds = [st.integers(widget.min, widget.max)] if "seed" in widget.id else []
        return st.one_of(small, beyond, *seeds, st.sampled_from([math.nan, math.inf, "x", 1.5]), *other)
    return st.one_of(st.booleans(), *other)


@pytest.mark.parametrize("name", [name for name in NODES if widgets(name)])
def test_whatever_is_written_is_right_or_named(server, info, name):
    base = defaults(name)
    if "file" in base:
        made = graphs.Graph(size=64)
        noise, latent = made.noise(1), made.empty()
        made.node("DDIMSaveNoise", noise=noise, latent_image=latent, filename_prefix="a")
        [saved] = queue(server, made)["outputs"].values()
        base["file"] = f"{saved['noise'][0]['filename']} [output]"

    @settings(max_examples=8, deadline=None, database=None, derandomize=True)
    @given(st.data())
    def check(data):
        changed = data.draw(st.sampled_from(widgets(name)))
        value = data.draw(written(changed), changed.id)
        outputs = right_or_named(server, Work(name, base | {changed.id: value}), changed.id, value)
        if outputs is not None and "has_intermediate_output" in info[name]:  # newer hosts want to know of it
            told = info[name]["has_intermediate_output"] or info[name]["output_node"]
            assert ("work" in outputs) == told

    check()


def right_or_named(server, graph, changed, value):
    """The outputs that the prompt shows; None if it was refused as it should be."""
    try:
        entry = queue(server, graph)
    except RunError as error:
        text = str(error)
        assert "ComfyUI refused" in text or " failed: ValueError: " in text, text
        assert changed in text or str(value) in text, text
        return None
    for output in entry["outputs"].values():
        for saved in output.get("latents", []):
            assert load(server.image(saved))["latent_tensor"].isfinite().all()
    return entry["outputs"]


def queue(server, graph):
    return server.queue({key: node | {"_meta": {"title": key}} for key, node in graph.finalize().items()})


def test_the_name_that_save_gives_may_be_linked_to_load(server):
    graph = graphs.Graph(size=64)
    noise, latent = graph.noise(5), graph.empty()
    file = graph.node("DDIMSaveNoise", noise=noise, latent_image=latent, filename_prefix="linked").out(0)
    chosen = graph.node("DDIMDraftSwitch", draft=file, final=file, use_final=True).out(0)
    values = {"saved": noise}
    for name, each in (("linked", file), ("chosen", chosen)):
        values[name] = graph.node("DDIMLoadNoise", file=each).out(0)
    for name, value in values.items():
        drawn = graph.node("DDIMLatentFromNoise", noise=value, latent_image=graph.empty()).out(0)
        graph.saved(drawn, name)
    outputs = queue(server, graph)["outputs"]
    saved, *loaded = (
        load(server.image(outputs[f"save {name}"]["latents"][0]))["latent_tensor"] for name in values
    )
    assert all(each.equal(saved) for each in loaded)


def test_one_draft_switch_may_follow_another(server):
    """The host does not know the type of what the first one gives."""
    graph = graphs.Graph(size=64)
    chosen = graph.empty()
    for use_final in (True, False):
        chosen = graph.node("DDIMDraftSwitch", draft=chosen, final=graph.empty(), use_final=use_final).out(0)
    graph.saved(chosen, "chosen")
    assert queue(server, graph)["outputs"]["save chosen"]["latents"]


@pytest.mark.parametrize(
    "node, given, words",
    [
        ("DDIMDraftSwitch", "use_final", "use_final is STRING; it must be BOOLEAN"),
        ("DDIMLoadNoise", "file", "file is LATENT; it must be STRING"),
    ],
)
def test_a_link_of_another_type_is_refused_by_name(server, node, given, words):
    graph = graphs.Graph(size=64)
    steps = {"steps": 2, "stride": "trailing", "denoise": 1.0}
    text = graph.node("DDIMStrideScheduler", model=graph.model, **steps).out(1)
    links = {"use_final": text, "file": graph.empty(), "draft": graph.empty(), "final": graph.empty()}
    wanted = [each.id for each in NODES[node].GET_SCHEMA().inputs]
    graph.node("PreviewAny", source=graph.node(node, **{key: links[key] for key in wanted}).out(0))
    with pytest.raises(RunError, match=words):
        queue(server, graph)
