"""The page that a sweep leaves behind, opened from the disk."""

import io
import shlex

import pytest
from ddim_toolkit.runner.sweep import page as sweep_page
from ddim_toolkit.runner.sweep.plan import Job
from ddim_toolkit.runner.sweep.results import Results
from PIL import Image


def picture(shade):
    content = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, 90, 160)).save(content, "png")
    return ".png", content.getvalue()


@pytest.fixture
def opened(chromium, tmp_path):
    """The page of seeds 2 and 10 at two etas, and of seed 3 with a batch of two and its second final."""
    results = Results(tmp_path, "fingerprint", ["eta"])
    for seed in (10, 2):
        for eta in (1.0, 0.3):
            results.add(Job("draft", seed, (("eta", eta),)), [picture(20 * seed)], 1.0, "here:1")
    results.add(Job("draft", 3, (("eta", 0.3),)), [picture(0), picture(250)], 1.0, "here:1")
    results.add(Job("final", 3, (), 2), [picture(130)], 1.0, "here:1")
    sweep_page.write(results, "a <title>", ["python", "run.py", "sweep", "it's $one.json"])
    page = chromium.new_page(offline=True)
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((tmp_path / "index.html").as_uri())
    yield page
    page.close()
    assert not errors


def cells(page):
    return [text.replace("\xa0", " ").split() for text in page.locator(".cell").all_inner_texts()]


def test_pictures_stand_by_seed_and_filters_hide_the_others(opened):
    assert [words[0] for words in cells(opened)] == ["2", "2", "3:1", "3:2", "10", "10"]
    opened.wait_for_function("[...document.images].every((image) => image.naturalWidth === 32)")
    opened.get_by_label("eta").select_option("0.3")
    assert [words[0] for words in cells(opened)] == ["2", "3:1", "3:2", "10"]
    opened.get_by_label("eta").select_option("")
    opened.get_by_label("show").select_option("final")
    assert [words[0] for words in cells(opened)] == ["3:2"]


def test_picks_make_one_command_for_each_setting_of_the_dials(opened):
    for name in ("draft, seed 2, eta 0.3", "draft, seed 3:2, eta 0.3", "draft, seed 10, eta 1"):
        opened.get_by_role("button").filter(has=opened.get_by_alt_text(name, exact=True)).click()
    start = ["python", "run.py", "sweep", "it's $one.json", "--set"]
    expected = [[*start, "eta=0.3", "--finish", "2,3:2"], [*start, "eta=1", "--finish", "10"]]
    assert [shlex.split(line) for line in opened.locator("#text").inner_text().splitlines()] == expected
    opened.get_by_text("Copy the seeds").click()
    assert opened.locator("#seeds").inner_text() == "Copied"
    opened.reload()
    assert opened.locator('.cell[aria-pressed="true"]').count() == 3
    opened.get_by_text("Pick none").click()
    assert opened.locator('.cell[aria-pressed="true"]').count() == 0
