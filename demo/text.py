"""Words to a context for cross-attention: the vocabulary, and the one-layer transformer over it."""

import re

import torch


class Vocabulary:
    """Lower-case words by number. Token 0 is padding, and an empty caption is nothing but padding."""

    def __init__(self, words, tokens, pattern):
        self.words, self.tokens, self.pattern = words, tokens, re.compile(pattern)

    def split(self, text):
        return self.pattern.findall(text.lower())

    def numbers(self, words):
        """The known words' numbers, cut and padded to `tokens`."""
        known = [self.words[w] for w in words if w in self.words][: self.tokens]
        return known + [0] * (self.tokens - len(known))


class TextNetwork(torch.nn.Module):
    """Token numbers [B, tokens] to a context [B, tokens, width]."""

    def __init__(self, vocabulary, tokens, width, heads, feedforward):
        super().__init__()
        self.emb = torch.nn.Embedding(vocabulary + 1, width)
        self.pos = torch.nn.Parameter(torch.zeros(1, tokens, width))
        self.layer = torch.nn.TransformerEncoderLayer(
            width, heads, feedforward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )

    def forward(self, numbers):
        return self.layer(self.emb(numbers) + self.pos)
