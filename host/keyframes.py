"""Hooks whose strength changes along a run (keyframes), asked at any sigma in any order."""

import torch
from comfy.samplers import CFGGuider


class Keyframes:
    """Brings the hooks of a guider to where sampling has them at a sigma. The host's own only move on, from
    high sigma to low, and count the steps that they have been used for: so they are taken back to the start
    and walked down to it.

    sigmas  the run's, as (B,) tensors; it may grow
    """

    def __init__(self, guider: CFGGuider, model_options: dict, sigmas: list[torch.Tensor]):
        conds = [cond for many in guider.conds.values() for cond in many]
        self.groups = [
            cond["hooks"]
            for cond in conds
            if cond.get("hooks") and any(not hook.hook_keyframe.is_empty() for hook in cond["hooks"].hooks)
        ]
        self.patcher, self.options = guider.inner_model.current_patcher, model_options
        self.sigmas, self.at = sigmas, None

    def move(self, i: int) -> None:
        """To sigmas[i], for the calls of the model there."""
        if not self.groups or self.at is self.sigmas[i]:
            return
        for group in self.groups:
            for hook in group.hooks:
                hook.hook_keyframe.reset()
        self.patcher.clear_cached_hook_weights()
        for sigma in self.sigmas[:i]:
            for group in self.groups:
                self.patcher.prepare_hook_patches_current_keyframe(sigma, group, self.options)
        self.at = self.sigmas[i]
