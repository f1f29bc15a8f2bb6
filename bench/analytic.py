"""MODELs whose denoiser is known in closed form, for every prediction type, around the host's own
BaseModel."""

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import torch
from comfy.model_base import ModelType


class Mixture(torch.nn.Module):
    """E[x0 | x_t] of a mixture of isotropic Gaussians, on every element vector of the latent's channels and
    pixels.

    means: (modes, *shape of one picture) ; deviation: of each mode.
    """

    def __init__(self, means, deviation):
        super().__init__()
        self.register_buffer("means", means)
        self.deviation = deviation
        self.dtype = torch.float32

    def x0(self, x, alpha, sigma):
        shape = (-1,) + (1,) * (x.ndim - 1)
        alpha, sigma = alpha.view(shape).double(), sigma.view(shape).double()
        x, means, variance = x.double(), self.means.double().to(x.device), self.deviation**2
        total = alpha**2 * variance + sigma**2
        gap = x[:, None] - alpha[:, None] * means[None]
        weight = torch.softmax(-(gap**2 / (2 * total[:, None])).flatten(2).sum(-1), dim=1)
        weight = weight.view(*weight.shape, *[1] * (x.ndim - 1))
        return (weight * (means[None] + alpha[:, None] * variance / total[:, None] * gap)).sum(1)

    def forward(self, x, timestep, context=None, control=None, transformer_options=None, **kwargs):
        sampling, kind = self.sampling[0], self.kind
        sigma = sampling.sigma(timestep).view(-1)
        flow = kind == ModelType.FLOW
        shape = (-1,) + (1,) * (x.ndim - 1)
        s = sigma.view(shape).double()
        x_t = (
            x.double() if flow else x.double() * torch.sqrt(s**2 + getattr(sampling, "sigma_data", 1.0) ** 2)
        )
        x0 = self.x0(x_t, 1 - sigma if flow else torch.ones_like(sigma), sigma)
        if kind in (ModelType.EPS, ModelType.FLOW):
            out = (x_t - x0) / s
        elif kind == ModelType.V_PREDICTION:
            out = (x_t / (s**2 + 1) - x0) * torch.sqrt(s**2 + 1) / s
        elif kind == ModelType.EDM:
            d = sampling.sigma_data
            out = (x0 - x_t * d**2 / (s**2 + d**2)) * torch.sqrt(s**2 + d**2) / (s * d)
        return out.float()


class Config(comfy.supported_models_base.BASE):
    latent_format = comfy.latent_formats.LatentFormat


def model(kind=ModelType.EPS, means=None, deviation=0.5, shape=(4, 8, 8)):
    """A MODEL over Mixture. kind: ModelType.EPS, V_PREDICTION, EDM or FLOW. Without means: one Gaussian at
    .3."""
    if means is None:
        means = torch.full((1, *shape), 0.3)
    config = Config({"disable_unet_model_creation": True})
    config.latent_format.latent_channels = means.shape[1]
    config.latent_format.latent_dimensions = means.ndim - 2
    base = comfy.model_base.BaseModel(config, model_type=kind, device=torch.device("cpu"))
    base.diffusion_model = Mixture(means, deviation)
    base.diffusion_model.sampling, base.diffusion_model.kind = [base.model_sampling], kind
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


def four_modes(shape=(4, 8, 8), seed=0):
    """Means of a four-mode mixture of unit spread."""
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed))


CONDITIONING = [[torch.zeros(1, 1, 8), {}]]
