"""The pictures that the shipped model was not trained on, as what a distance of distributions needs:
quantiles and captions.

`python -m demo.training.evaluate --only held_out` makes the file from the pictures themselves.
"""

import json
from pathlib import Path

from safetensors import safe_open

FILE = Path(__file__).parent / "held_out.safetensors"


class HeldOut:
    """captions: one of each picture; training: the training pictures' distance to them."""

    def __init__(self):
        with safe_open(FILE, "pt") as file:
            about = file.metadata()
            self.quantiles = file.get_tensor("quantiles").float()
        self.captions, self.training = json.loads(about["captions"]), float(about["training"])

    def distance(self, pictures):
        """Sliced Wasserstein distance of pictures [N, 128, 128, 3] in 0..1 to them."""
        from ddim_toolkit.demo.training import evaluate

        return (evaluate.projected(evaluate.small(pictures.cpu())) - self.quantiles).abs().mean().item()
