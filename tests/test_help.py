"""In-app help and translations: complete, and true to the nodes."""

import json
import re
from collections import Counter

import pytest
from conftest import ROOT
from helpers import all_nodes

DOCS = ROOT / "js" / "docs"
LOCALE = ROOT / "locales" / "en"


NODES = {name: node.GET_NODE_INFO_V1() for name, node in all_nodes().items()}


def inputs(info):
    return {
        name: options
        for group in ("required", "optional")
        for name, (_, options) in info["input"].get(group, {}).items()
    }


def translation(info):
    """A node's entry in nodeDefs.json, in the words of its own schema."""
    names = {
        name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
        for name, options in inputs(info).items()
    }
    outputs = {
        str(i): {"name": name, "tooltip": info["output_tooltips"][i]}
        for i, name in enumerate(info["output_name"])
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": names,
        "outputs": outputs,
    }


def test_every_node_is_in_the_translations(request):
    """After a change of names or tooltips: run this file once with --update-schemas, and read the diff."""
    path = LOCALE / "nodeDefs.json"
    found = {name: translation(info) for name, info in sorted(NODES.items())}
    if request.config.getoption("--update-schemas"):
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == found


def test_every_command_is_in_the_translations():
    text = (ROOT / "js" / "drafting.js").read_text(encoding="utf-8")
    for key, entry in json.loads((LOCALE / "commands.json").read_text(encoding="utf-8")).items():
        assert f'"{key.replace("_", ".", 1)}"' in text and f'label: "{entry["label"]}"' in text, key
    assert (
        text.count("label: ") == len(json.loads((LOCALE / "commands.json").read_text(encoding="utf-8"))) + 4
    )  # the top bar's buttons


LANGUAGES = sorted(path.name for path in LOCALE.parent.iterdir() if path != LOCALE)


def words(entry, place=()):
    """{keys: text} of nested dictionaries."""
    if isinstance(entry, str):
        return {place: entry}
    return {key: word for name in entry for key, word in words(entry[name], (*place, name)).items()}


NAME = r"^- \*\*[^*]+\*\*(?: \(`\w+`\))?: "  # of an input or output, at the beginning of its line


def held(english, text):
    """A translation has the figures, code and links of English, and digits for its words up to nine."""
    for kind in (r"`[^`]+`", r"\]\((\S+?)\)"):
        assert sorted(re.findall(kind, english)) == sorted(re.findall(kind, text)), text
    ours, theirs = (
        Counter(map(float, re.findall(r"\d*\.?\d+", re.sub(r"\]\(\S+?\)", "", each))))
        for each in (english, text)
    )
    assert not ours - theirs and all(figure in range(1, 10) for figure in theirs - ours), text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", ["nodeDefs.json", "commands.json"])
def test_every_language_has_every_word(language, file):
    """The same keys and figures as English, and no sentence left in English."""
    english, found = (
        words(json.loads((LOCALE.parent / each / file).read_text(encoding="utf-8")))
        for each in ("en", language)
    )
    assert found.keys() == english.keys() and all(found.values())
    sentences = {place for place in found if place[-1] in ("description", "tooltip", "label")}
    assert not [place for place in sentences if found[place].isascii()]
    for place in sentences:
        held(english[place], found[place])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NODES)
def test_help_in_every_language(name, language):
    """A page for each node, with the translated names and the English ones, which workflow files hold."""
    text = (DOCS / name / f"{language}.md").read_text(encoding="utf-8")
    node = json.loads((LOCALE.parent / language / "nodeDefs.json").read_text(encoding="utf-8"))[name]
    english = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {node['display_name']}\n")
    assert text.count("\n## ") == english.count("\n## ")
    labels = [(label, node["inputs"][label]) for label in inputs(NODES[name])]
    labels += zip(NODES[name]["output_name"], node["outputs"].values(), strict=True)
    for label, translated in labels:
        assert f"- **{translated['name']}** (`{label}`): " in text, label
    assert text.count("\n") == english.count("\n")
    for ours, theirs in zip(english.splitlines(), text.splitlines(), strict=True):
        held(re.sub(NAME, "", ours), re.sub(NAME, "", theirs))


@pytest.mark.parametrize("name", NODES)
def test_help(name):
    """A page for each node that names every input and output, with an example and a source."""
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {NODES[name]['display_name']}\n")
    for heading in ("## Inputs", "## Outputs", "## Example", "## Source"):
        assert f"\n{heading}\n" in text
    for label, options in inputs(NODES[name]).items():
        shown = options.get("display_name") or label
        assert f"- **{shown}**: " in text if shown == label else f"- **{shown}** (`{label}`): " in text, label
    for label in NODES[name]["output_name"]:
        assert f"- **{label}**: " in text, label


def test_no_help_for_nodes_that_are_gone():
    assert {path.stem for path in DOCS.iterdir()} == set(NODES)
    assert {path.stem for path in DOCS.glob("*/*.md")} == set(LANGUAGES)
