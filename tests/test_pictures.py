"""Schedule plot and film strip."""

import math

import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from comfy_extras import nodes_custom_sampler as core
from ddim_toolkit.bench import analytic
from ddim_toolkit.drawing import pen, schedules
from ddim_toolkit.host import film_strip, schedule
from ddim_toolkit.host.model import model_sampling
from ddim_toolkit.nodes.pictures import DDIMSchedulePlot, DDIMTrajectory
from ddim_toolkit.nodes.sampling import DDIMKSampler
from ddim_toolkit.nodes.schedules import DDIMStrideScheduler

LATENT = {"samples": torch.zeros(1, 4, 8, 8)}


def colour_columns(image, colour):
    """Columns of the timeline's row in which a colour is."""
    wanted = torch.tensor([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return (image[0, 600:740] - wanted).abs().amax(-1).lt(0.02).any(0).nonzero().flatten()


def test_marks_stand_where_the_timesteps_are():
    model = analytic.model()
    sigmas = schedule.custom_sigmas(model, "999, 500, 0")
    image = schedules.draw([("mine", sigmas.tolist())], model_sampling(model))
    assert (
        image.shape == (1, pen.HEIGHT, pen.WIDTH, 3)
        and image.dtype == torch.float32
        and 0 <= image.min()
        and image.max() <= 1
    )
    columns = colour_columns(image, pen.COLOURS[0])
    left, right = 96, pen.WIDTH - 40
    for place in (0.0, 499 / 999, 1.0):
        assert (columns - (left + place * (right - left))).abs().min() <= 2
    assert columns.numel() < 60  # three marks, nothing else


def test_plot_node_shows_one_to_four(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    given = [torch.tensor([10.0, 3.0, 1.0, 0.2 * k, 0.0]) for k in (1, 2, 3, 4)]
    for count in (1, 2, 3, 4):
        result = DDIMSchedulePlot.execute(*given[:count])
        assert all(
            (result.args[0] - plot_colour(k)).abs().amax(-1).lt(0.02).any() == (k < count) for k in range(4)
        )
        assert result.ui.as_dict()["images"]
    with pytest.raises(ValueError, match="sigmas_b"):
        DDIMSchedulePlot.execute(given[0], torch.tensor([1.0, 2.0]))


def test_labels_may_hold_line_breaks(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    pictures = [
        DDIMSchedulePlot.execute(torch.tensor([10.0, 1.0, 0.0]), labels=text).args[0]
        for text in ("one\n two\r\n,\n", "one two")
    ]
    assert torch.equal(*pictures)


def plot_colour(k):
    return torch.tensor([int(pen.COLOURS[k][i : i + 2], 16) / 255 for i in (1, 3, 5)])


def test_plot_draws_a_single_jump_and_equal_levels():
    for sigmas in ([5.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.5]):
        assert schedules.draw([("", sigmas)]).isfinite().all()


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_film_strip_ends_in_the_picture_that_the_sampler_makes(kind):
    model = analytic.model(kind, analytic.four_modes())
    c = analytic.CONDITIONING
    strip, latent, _ = DDIMTrajectory.execute(model, 3, 6, 1.0, 0.5, "trailing", c, c, LATENT, 1.0).args
    expected = DDIMKSampler.execute(model, 3, 6, 1.0, 0.5, "trailing", c, c, LATENT, 1.0).args[0]["samples"]
    assert strip["samples"].shape == (6, 4, 8, 8)
    assert torch.equal(latent["samples"], expected)
    torch.testing.assert_close(strip["samples"][-1:], expected)
    own = torch.tensor([0.9, 0.4, 0.0])
    assert (
        len(
            DDIMTrajectory.execute(model, 3, 6, 1.0, 0.0, "trailing", c, c, LATENT, 1.0, own).args[0][
                "samples"
            ]
        )
        == 2
    )


def test_film_strip_of_any_sampler_and_guider():
    """The host's dpmpp_2m under a guider of two prompts ends where the host's own run of it ends."""
    model, c = analytic.model(ModelType.EPS, analytic.four_modes()), analytic.CONDITIONING
    guider = core.DualCFGGuider.execute(model, c, c, c, 1.5, 1.2, "regular").args[0]
    with_sampler = comfy.samplers.sampler_object("dpmpp_2m")
    sigmas = DDIMStrideScheduler.execute(model, 6, "trailing", 1.0).args[0]
    strip, latent, table = DDIMTrajectory.execute(
        model, 3, 6, 1.0, 0.5, "trailing", c, c, LATENT, 1.0, sigmas, with_sampler, guider
    ).args
    noise = core.Noise_RandomNoise(3)
    expected = core.SamplerCustomAdvanced.execute(noise, guider, with_sampler, sigmas, LATENT).args[0]
    torch.testing.assert_close(latent["samples"], expected["samples"][:1])
    assert strip["samples"].shape == (6, 4, 8, 8) and "nan" not in table


def test_table_holds_the_textbook_jump():
    """alpha_bar .36 -> .64: a = .6 / .8, b = .8 - a .6."""
    sampling = model_sampling(analytic.model())
    levels = [math.sqrt(1 / 0.36 - 1), math.sqrt(1 / 0.64 - 1), 0.0]
    first, last = rows_of(film_strip.table(sampling, levels, [1.0, 1.0, 1.0], 0.0, [1.0, 0.5]))
    assert list(map(float, first[3:])) == pytest.approx([0.36, levels[0], 0.75, 0.35, 0.0, 1.0], abs=1e-5)
    assert last[2] == "end" and list(map(float, last[5:])) == pytest.approx([0.0, 1.0, 0.0, 0.5])


def rows_of(table):
    """The cells of a table in Markdown, its two heading lines left out, which must be as long as the rest."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_table_of_a_flow_model_is_in_its_own_frame():
    sampling = model_sampling(analytic.model(ModelType.FLOW))
    first, _ = rows_of(film_strip.table(sampling, [0.8, 0.4, 0.0], [0.2, 0.6, 1.0], 0.0, [1.0, 1.0]))
    assert list(map(float, first[3:])) == pytest.approx([0.04, 0.8, 0.5, 0.5, 0.0, 1.0], abs=1e-5)
