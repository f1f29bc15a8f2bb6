"""The pictures and captions the shipped model learns from, prepared the same way every time.

Pictures: npm package @lobehub/fluent-emoji-3d (Microsoft Fluent Emoji, MIT). Captions: the English names in
the PyPI package `emoji`. Category words ("animal", "food", "face" ...): the Unicode subgroups in npm
emojibase-data (MIT).
"""

import io
import json
import re
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = "@lobehub/fluent-emoji-3d@1.1.0"
GROUPS = "emojibase-data@17.0.0"
SIZE = 128
HELD_OUT = 20  # one name in so many is never trained on

# Words of a Unicode subgroup's name that say what is in the picture, as people would write them.
_SUBGROUP_WORDS = {
    "face",
    "cat",
    "monkey",
    "heart",
    "hand",
    "body",
    "person",
    "gesture",
    "fantasy",
    "sport",
    "family",
    "animal",
    "mammal",
    "bird",
    "reptile",
    "bug",
    "plant",
    "flower",
    "food",
    "fruit",
    "vegetable",
    "sweet",
    "drink",
    "map",
    "building",
    "religious",
    "time",
    "weather",
    "medal",
    "game",
    "clothing",
    "music",
    "musical",
    "instrument",
    "phone",
    "computer",
    "book",
    "paper",
    "money",
    "mail",
    "writing",
    "office",
    "lock",
    "tool",
    "science",
    "medical",
    "household",
    "sign",
    "warning",
    "arrow",
    "religion",
    "zodiac",
    "math",
    "currency",
    "keycap",
    "geometric",
    "flag",
    "country",
}
_EXTRA_WORDS = {
    "animal-marine": ["fish"],
    "transport-ground": ["vehicle"],
    "transport-water": ["vehicle", "boat"],
    "transport-air": ["vehicle"],
    "hands": ["hand"],
    "dishware": ["household"],
    "sky-weather": ["sky"],
}
_GROUP_WORDS = {3: ["nature"], 7: ["object"], 8: ["symbol"]}


def fetch(package, folder):
    """Path of the package's archive in `folder`, downloaded with `npm pack` if it is not there."""
    name = package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz"
    path = Path(folder) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", package, "--silent"], cwd=path.parent, check=True)
    return path


def _code_points(text):
    """The hexadecimal code points of an emoji or a file name, without the variation selector FE0F."""
    points = (
        re.split("[-_ ]", text.lower())
        if re.fullmatch(r"[0-9A-Fa-f\-_ ]+", text)
        else [f"{ord(c):x}" for c in text]
    )
    return "-".join(p.lstrip("0") for p in points if p != "fe0f")


def _captions():
    import emoji

    names = {}
    for symbol, entry in emoji.EMOJI_DATA.items():
        names.setdefault(
            _code_points("-".join(f"{ord(c):x}" for c in symbol)),
            entry["en"].strip(":").replace("_", " ").lower(),
        )
    return names


def _categories(archive):
    with tarfile.open(archive) as tar:
        entries = json.load(tar.extractfile("package/en/data.json"))
        meta = json.load(tar.extractfile("package/meta/groups.json"))
    words = {}
    for entry in entries:
        for variant in [entry, *entry.get("skins", [])]:
            subgroup = meta["subgroups"].get(str(variant.get("subgroup")), "")
            found = [w for w in subgroup.split("-") if w in _SUBGROUP_WORDS]
            found += _EXTRA_WORDS.get(subgroup, []) + _GROUP_WORDS.get(variant.get("group"), [])
            words[_code_points(variant["hexcode"])] = list(dict.fromkeys(found))
    return words


def is_held_out(name):
    """Whether the picture of this file name is kept for tests and benchmarks; depends on the name alone."""
    return zlib.crc32(name.encode()) % HELD_OUT == 0


def prepare(folder, pictures=None, groups=None, size=SIZE):
    """Pictures [N, size, size, 3] uint8 on white and N records, cached in `folder`.

    A record: `name`, `caption` (None when Unicode has none), `categories` (words), `held_out`.
    `pictures` and `groups` are archives; left out, they are fetched with `npm pack`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    array, index = folder / f"pictures{size}.npy", folder / "records.json"
    if array.exists() and index.exists():
        return np.load(array, mmap_mode="r"), json.loads(index.read_text())
    captions = _captions()
    categories = _categories(groups or fetch(GROUPS, folder))
    images, records = [], []
    with tarfile.open(pictures or fetch(PICTURES, folder)) as tar:
        for member in sorted((m for m in tar if m.name.endswith(".webp")), key=lambda m: m.name):
            name = Path(member.name).stem
            picture = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGBA")
            page = Image.new("RGBA", picture.size, "white")
            page.alpha_composite(picture)
            images.append(np.asarray(page.convert("RGB").resize((size, size), Image.LANCZOS)))
            points = _code_points(name)
            records.append(
                {
                    "name": name,
                    "caption": captions.get(points),
                    "categories": categories.get(points, []),
                    "held_out": is_held_out(name),
                }
            )
    np.save(array, np.stack(images))
    index.write_text(json.dumps(records, indent=1))
    return np.load(array, mmap_mode="r"), records
