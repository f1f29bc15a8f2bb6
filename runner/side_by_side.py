"""Draws pictures side by side with captions: side_by_side.py DESCRIPTION (JSON). Runs in ComfyUI's Python,
which has Pillow."""

import json
import sys

from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN, LINE = 384, 24, 28  # pixels
INK, FAINT, PAPER = "#1d2129", "#5b6472", "#eceef2"


def draw(description: dict) -> Image.Image:
    """{"heading", "pictures": [{"path", "title", "detail"}]} as one RGB picture."""
    pictures = description["pictures"]
    width = MARGIN + len(pictures) * (SIDE + MARGIN)
    page = Image.new("RGB", (width, SIDE + 3 * LINE + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(22), ImageFont.load_default(18)
    pen.text(
        (MARGIN, MARGIN * 3 // 4),
        fitted(pen, description["heading"], small, width - 2 * MARGIN),
        FAINT,
        small,
    )
    for index, each in enumerate(pictures):
        left, top = MARGIN + index * (SIDE + MARGIN), MARGIN + LINE
        picture = Image.open(each["path"]).convert("RGB")
        page.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        pen.text((left, top + SIDE + MARGIN // 2), fitted(pen, each["title"], large, SIDE), INK, large)
        pen.text((left, top + SIDE + MARGIN // 2 + LINE), each["detail"], FAINT, small)
    return page


def fitted(pen: ImageDraw.ImageDraw, text: str, font, width: int) -> str:
    """`text`, cut with dots where it is longer than `width` pixels."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


if __name__ == "__main__":
    description = json.loads(sys.argv[1])
    draw(description).save(description["output"])
