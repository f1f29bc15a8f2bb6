"""Draws pictures side by side with captions: side_by_side.py DESCRIPTION (JSON). Runs in ComfyUI's Python, which has Pillow."""

import json
import sys

from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN, LINE = 384, 24, 30
INK, FAINT, PAPER = "#1d2129", "#6b7280", "#ffffff"


def draw(description: dict) -> Image.Image:
    """{"heading", "pictures": [{"path", "title", "detail"}]} as one RGB picture."""
    pictures = description["pictures"]
    width = MARGIN + len(pictures) * (SIDE + MARGIN)
    page = Image.new("RGB", (width, 5 * MARGIN + SIDE + 2 * LINE), PAPER)
    pen = ImageDraw.Draw(page)
    title, plain = ImageFont.load_default(22), ImageFont.load_default(18)
    pen.text((MARGIN, MARGIN), fitted(pen, description["heading"], plain, width - 2 * MARGIN), INK, plain)
    for index, each in enumerate(pictures):
        left, top = MARGIN + index * (SIDE + MARGIN), MARGIN + LINE + MARGIN // 2
        picture = Image.open(each["path"]).convert("RGB")
        page.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        pen.text((left, top + SIDE + MARGIN // 2), each["title"], INK, title)
        pen.text((left, top + SIDE + MARGIN // 2 + LINE), each["detail"], FAINT, plain)
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
