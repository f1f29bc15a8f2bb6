"""What a picture is called in training: often its whole caption, often less, so that a short caption means
many pictures."""

import random

EMPTY, SHORT, WHOLE = 0.1, 0.4, 0.25  # the rest loses each word with the probability DROP
DROP = 1 / 3


def vary(words, categories, rng: random.Random):
    """The words of one training caption, from the picture's own `words` and its category words."""
    kind = rng.random()
    if kind < EMPTY:
        return []
    if kind < EMPTY + SHORT:
        choice = list(dict.fromkeys([*words, *categories]))
        kept = set(rng.sample(choice, min(len(choice), rng.choice((1, 1, 2)))))
        return [w for w in choice if w in kept]
    if kind > 1 - WHOLE:
        kept = list(words)
    else:
        kept = [w for w in words if rng.random() >= DROP]
    if categories and rng.random() < 0.3:
        word = rng.choice(categories)
        if word not in kept:
            kept.insert(rng.choice((0, len(kept))), word)
    return kept
