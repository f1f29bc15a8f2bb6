"""What the registry and the reader get: metadata, pictures, links."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import folder_paths
import pytest
from conftest import ROOT
from PIL import Image

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings the same under its older name
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        ROOT / ".github" / "pull_request_template.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "demo").glob("*.md"),
        *(ROOT / "js" / "docs").glob("*.md"),
    ]
)


def test_the_registry_takes_the_metadata():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z](-?[a-z0-9]+)*", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["dependencies"] == [] and comfy["PublisherId"] and comfy["DisplayName"]


def test_requirements_are_what_comfyui_brings():
    """Unpinned, and never torch: a pack that installs a version of its own breaks others."""
    comfyui = (Path(folder_paths.__file__).parent / "requirements.txt").read_text(encoding="utf-8")
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    assert names and set(names) <= set(re.findall(r"^[\w.-]+", comfyui, re.MULTILINE)) - {"torch"}


def test_the_citation_names_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", text, re.MULTILINE)[1] == PROJECT["project"]["version"]


def test_the_changelog_begins_with_the_version():
    """Behind what is not released yet."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[headings[0] == "Unreleased"] == PROJECT["project"]["version"]


def test_icon_and_banner_have_the_registrys_sizes():
    icon, banner = (Image.open(ROOT / "docs" / "images" / f"{name}.png") for name in ("icon", "banner"))
    assert icon.width == icon.height <= 800
    assert banner.width * 9 == banner.height * 21


def test_the_publish_workflow_writes_addresses_that_parse(tmp_path):
    """Its Python step, run on a copy."""
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    step = re.search(r"<<'END'\n(.*?)\n +END\n", text, re.DOTALL)[1]
    step = "\n".join(line[10:] for line in step.splitlines())
    (tmp_path / "pyproject.toml").write_text(
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    subprocess.run(
        [sys.executable, "-c", step],
        cwd=tmp_path,
        env={"GITHUB_REPOSITORY": "somebody/ddim-toolkit", "GITHUB_SHA": "0a"},
        check=True,
    )
    written = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    assert written["project"]["urls"]["Repository"] == "https://github.com/somebody/ddim-toolkit"
    for key, name in (("Icon", "icon"), ("Banner", "banner")):
        address = written["tool"]["comfy"].pop(key)
        assert (ROOT / address.partition("/0a/")[2]).name == f"{name}.png" and (
            ROOT / address.partition("/0a/")[2]
        ).is_file()
    del written["project"]["urls"]
    assert written == PROJECT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if not re.match(r"https?://|#", target):
            assert (page.parent / unquote(target.partition("#")[0])).exists(), target


def test_the_readme_shows_every_example():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = unquote(text)
    for path in (ROOT / "example_workflows").glob("*.json"):
        assert f"example_workflows/{path.name}" in text and f"example_workflows/{path.stem}.jpg" in text
