"""A Markdown table of rows that are dicts with the same keys."""


def table(rows, show=str):
    """Its lines: the keys of the first row, then each row's values as `show` writes them."""
    lines = ["| " + " | ".join(map(show, row.values())) + " |" for row in rows]
    return ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0]), *lines]
