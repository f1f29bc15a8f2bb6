"""Pictures to invert and edit, which the shipped model was not trained on (`data.is_held_out`), each named by
its caption.

They are Microsoft Fluent Emoji (MIT), from the npm package that data.py names, under the names they have
there.
"""

from pathlib import Path

from ..ddim.checks import allowed

FILES = {
    "woman cook light skin tone": "1f469-1f3fb-200d-1f373",
    "purple heart": "1f49c",
    "man guard dark skin tone": "1f482-1f3ff-200d-2642-fe0f",
    "man pilot": "1f468-200d-2708-fe0f",
    "woman judge": "1f469-200d-2696-fe0f",
    "banana": "1f34c",
    "doughnut": "1f369",
    "tiger": "1f405",
    "rooster": "1f413",
    "castle": "1f3f0",
}
NAMES = list(FILES)


def load(name):
    """IMAGE (1, 128, 128, 3) in 0 to 1. Raises ValueError for another name than those of NAMES."""
    import numpy
    import torch
    from PIL import Image

    allowed("picture", name, NAMES)
    with Image.open(Path(__file__).parent / "held_out" / f"{FILES[name]}.png") as picture:
        pixels = numpy.array(picture.convert("RGB"), dtype=numpy.float32)
    return torch.from_numpy(pixels / 255)[None]
