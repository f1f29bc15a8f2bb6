"""Draws contact sheets. As a program, contact_sheet.py DESCRIPTION (JSON) draws a sheet of drafts beside the
final of one of them; it runs in ComfyUI's Python, which has Pillow."""

import json
import sys

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, MARGIN, LINE = 192, 8, 24, 28  # pixels
INK, FAINT, PAPER, PICKED = "#1d2129", "#5b6472", "#eceef2", "#e4572e"


def sheet(pictures: list[Image.Image], columns: int, picked=(), labels=()) -> Image.Image:
    """Pictures in rows, each with its number from 1 or its label below; the picked ones are framed."""
    cell = (CELL + GAP, CELL + GAP + (20 if labels else 0))
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * cell[0] - GAP, rows * cell[1] - GAP), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for index, picture in enumerate(pictures):
        left, top = index % columns * cell[0], index // columns * cell[1]
        page.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
        if labels:
            pen.text((left + 2, top + CELL + 1), labels[index], FAINT, font)
        else:
            pen.text((left + 6, top + 3), str(index + 1), FAINT, font)
        if index + 1 in picked:
            pen.rectangle([left, top, left + CELL - 1, top + CELL - 1], outline=PICKED, width=4)
    return page


def draw(description: dict) -> Image.Image:
    """{"heading", "drafts", "columns", "picked", "final", "captions"} as one RGB picture: the sheet, the
    final as high as it, and a caption with a detail under each. Pictures are given by their paths."""
    drafts = [Image.open(path).convert("RGB") for path in description["drafts"]]
    left = sheet(drafts, description["columns"], [description["picked"]])
    right = Image.open(description["final"]).convert("RGB")
    right = right.resize(
        (round(right.width * left.height / right.height), left.height), Image.Resampling.LANCZOS
    )
    width = left.width + right.width + 3 * MARGIN
    page = Image.new("RGB", (width, left.height + 3 * LINE + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(22), ImageFont.load_default(18)
    heading = fitted(pen, description["heading"], small, width - 2 * MARGIN)
    pen.text((MARGIN, MARGIN * 3 // 4), heading, FAINT, small)
    place, top = MARGIN, MARGIN + LINE
    for picture, (title, detail) in zip((left, right), description["captions"], strict=True):
        page.paste(picture, (place, top))
        below = top + picture.height + MARGIN // 2
        pen.text((place, below), fitted(pen, title, large, picture.width), INK, large)
        pen.text((place, below + LINE), detail, FAINT, small)
        place += picture.width + MARGIN
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
