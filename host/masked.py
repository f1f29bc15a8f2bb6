"""What a model sees where a noise mask covers the picture in part."""

import torch
from comfy.samplers import KSamplerX0Inpaint

from ..ddim import invert
from .model import Start


class MaskedNoise:
    """Where a mask m covers the picture in part, the host shows the model

        m x_t + (1 - m) (alpha_t picture + sigma_t noise)

    with the noise that the run started from. An inversion is still looking for it. So it is run with what is
    known of the difference d_t = alpha_t picture + sigma_t noise - x_t, at first nothing, and repeated with
    the d_t that it came to until they stay. Where the mask covers all, any noise will do: the one given.

    model    the host's KSamplerX0Inpaint, which holds the noise
    mask     as the run has it, fitting the picture; None without
    start    host.model.Start of the run
    alphas, levels  those of the run; they may grow, with `grow`
    """

    def __init__(
        self,
        model: KSamplerX0Inpaint,
        mask: torch.Tensor | None,
        start: Start,
        alphas: list[float],
        levels: list[float],
        stepwise: bool,
    ):
        self.model, self.mask, self.start, self.alphas, self.levels = model, mask, start, alphas, levels
        self.picture, self.given = model.latent_image.float(), model.noise.float()
        self.rests = [torch.zeros(1)] * len(levels)
        # stepwise: the mask is another one at other sigmas (DifferentialDiffusion)
        self.soft = mask is not None and bool(((mask != 0) & ((mask != 1) | stepwise)).any())

    def show(self, x: torch.Tensor, i: int) -> None:
        """Before the model is asked at level i about x."""
        if self.soft:
            seen = x + self.rests[i].to(x)
            self.model.noise = self.uncovered((seen - self.alphas[i] * self.picture) / self.levels[i])

    def grow(self, i: int) -> None:
        """A level was put in before level i."""
        self.rests.insert(i, (self.rests[i - 1] + self.rests[i]) / 2)

    def settle(self, run: invert.Inversion) -> float:
        """Take over what an Inversion found: how far the d_t moved, root mean square of the worst picture in
        units of sqrt(alpha_t^2 + sigma_t^2)."""
        if self.mask is None:
            return 0.0
        noise = self.uncovered(self.start.noise(run.states[0].to(self.picture), self.picture))
        self.model.noise, moved = noise, [0.0]
        for i, state in enumerate(run.states[:-1]):
            line = self.alphas[i] * self.picture + self.levels[i] * noise
            rest = (self.mask != 0) * (line - state.to(line))
            size = (self.alphas[i] ** 2 + self.levels[i] ** 2) ** 0.5
            step = (1 - self.mask) * (rest - self.rests[i].to(rest))
            moved.append(invert.root_mean_square(step).max().item() / size)
            self.rests[i] = invert.on_cpu(rest)
        run.states[0] = invert.on_cpu(self.start.alpha * self.picture + self.start.scale * noise)
        return max(moved) if self.soft else 0.0

    def uncovered(self, noise: torch.Tensor) -> torch.Tensor:
        return torch.where(self.mask != 0, noise, self.given)
