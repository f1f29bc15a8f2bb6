"""A training run measured in minutes: it ends on time, learning rate at zero, and goes on where it was
interrupted."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist


class Pace:
    """Steps until `minutes` of training are spent, counting what earlier sittings spent.

    `parts` are named objects with state_dict / load_state_dict, saved to `path` every two minutes (by the
    process with `saves`) and read from it at the start. `step` is the number of finished steps, `part` the
    spent fraction of the time.
    """

    def __init__(self, path, minutes, parts, saves=True):
        self.path, self.seconds, self.parts, self.saves = Path(path), minutes * 60, parts, saves
        self.step, self.spent = 0, 0.0
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            self.step, self.spent = saved["step"], saved["spent"]
            for name, part in parts.items():
                part.load_state_dict(saved[name])
        self._last = self._saved = self._told = self._due = time.monotonic()

    @property
    def part(self):
        return min(self.spent / self.seconds, 1.0)

    def save(self):
        state = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({"step": self.step, "spent": self.spent, **state}, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").replace(self.path)

    def __iter__(self):
        while self.part < 1:
            yield self.step
            now = time.monotonic()
            self.spent += now - self._last
            self._last = now
            self.step += 1
            if dist.is_initialized():  # the first process's clock is everybody's
                clock = torch.tensor([self.spent], dtype=torch.float64)
                dist.broadcast(clock, 0)
                self.spent = clock.item()
            if self.saves and (now - self._saved > 120 or self.part >= 1):
                self.save()
                self._saved = time.monotonic()

    def due(self, minutes):
        """True every so many minutes."""
        if time.monotonic() - self._due < minutes * 60:
            return False
        self._due = time.monotonic()
        return True

    def tell(self, text):
        """A progress line, at most one every ten seconds."""
        if time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            self.tell_now(text)

    def tell_now(self, text):
        sys.stderr.write(f"{self.part:4.0%}  step {self.step}  {self.spent / 60:.1f} min  {text}\n")
        sys.stderr.flush()


def rate(part, flat):
    """Learning-rate factor: 1 up to the fraction `flat` of the time, then falling linearly to 0."""
    return 1.0 if part < flat else (1 - part) / (1 - flat)
