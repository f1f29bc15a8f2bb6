"""The noise levels that few-step models were distilled for, as their authors publish them.

A distilled model knows the jumps between its own levels and no others. Lists as DDIM Custom Schedule reads
them; where a table is meant, it is SD's of 1000 timesteps.
"""

PUBLISHED = {
    # Every 20th of 1000 timesteps was distilled (skipping interval k = 20); four of those fifty, evenly.
    # Luo et al., LCM (arXiv 2310.04378), section 4.3; diffusers' LCMScheduler.
    "LCM": "999, 759, 499, 259",
    # Zheng et al., TCD (arXiv 2402.19159); diffusers' TCDScheduler.
    "TCD": "999, 759, 499, 259",
    # Sauer et al., ADD (arXiv 2311.17042); diffusers' page on SDXL Turbo: trailing, 1 to 4 steps.
    # (Stability's own demo, scripts/demo/turbo.py of generative-models, and core's
    # SDTurboScheduler: 999, 899, 799, 699.)
    "SDXL-Turbo": "999, 749, 499, 249",
    # Lin et al., SDXL-Lightning (arXiv 2402.13929); its model card: trailing, the checkpoint's steps.
    "Lightning 4": "999, 749, 499, 249",
    "Lightning 8": "999, 874, 749, 624, 499, 374, 249, 124",
    # Ren et al., Hyper-SD (arXiv 2404.13686); its model card: DDIM, trailing; the one-step UNet at 800.
    "Hyper-SD 1": "800",
    "Hyper-SD 4": "999, 749, 499, 249",
    "Hyper-SD 8": "999, 874, 749, 624, 499, 374, 249, 124",
    # The card of fal/FLUX.2-dev-Turbo has 1, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031 for
    # diffusers, whose pipeline shifts them once more by the size of the picture. These are what its network
    # then sees at 1024 x 1024: 3t / (1 + 2t) of eight t even from 1 to 0.001.
    "FLUX.2-turbo": "sigmas: 1, 0.9474, 0.8825, 0.8003, 0.6928, 0.5462, 0.3347, 0.003",
    # LightX2V's distilled configs: denoising_step_list 1000, 750, 500, 250 with sample_shift 5, which makes
    # 5s / (1 + 4s) of s.
    "LightX2V Wan": "sigmas: 1, 0.9375, 0.83333333, 0.625",
}
