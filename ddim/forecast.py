"""What a schedule will do near a recorded run, without a model call: a secant method for errors on their way
to sigma 0.

To first order an error e of x at sigma changes the slope there by J(sigma) e. J is too large to know; the
schedules that are looked for differ little, though, and so do their errors: a few true runs span most of
them. On that span J is what those runs saw, as in the multisecant methods of Fang and Saad (Numer. Linear
Algebra Appl. 16, 2009); outside it, a number.
"""

import numpy as np
import torch
from torch.nn.functional import pad

from .trajectory import interpolated, products, root_mean_square

# weight of the straying on the way against the error at the end; twice that where a step knows the one before
STRAYING = 1.0
LEAPS = 0.05  # weight of extrapolation against it, over one more than the pictures probed
RUNS = 8  # true runs that are remembered, the best,
# or fewer, with no more changes of slopes than this in all: bounds time and memory at many steps
CHANGES = 512
RIDGE = 1e-4  # of a run's own mean square: keeps mixtures of nearly equal runs small


class Forecast:
    """Errors of schedules as weights (D,) of a basis: the N recorded slopes, then what each true run's slopes
    differed by.

    reference: trajectory.Reference. solver: as in multistep. Schedules are positions (K,), floats that rise
    from 0.
    """

    def __init__(self, reference, solver):
        self.reference, self.solver, self.growth = reference, solver, reference.growth
        self.runs, self.losses = [], []  # (positions, changes (K, B, E)) of the true runs, and their losses
        self.grams = reference.grams
        self.mixture = self.rest = torch.zeros(
            len(reference.sigmas), 0, len(reference.slopes), dtype=torch.float64
        )

    def __call__(self, positions):
        """(P, K) -> the RMSE at sigma 0, a mean over the pictures, and the loss that a search makes small:
        (P,), (P,)."""
        growth = interpolated(self.growth, positions)

        def change(k, error):
            share = (interpolated(self.mixture, positions[:, k]) @ error[..., None])[..., 0]
            return (
                growth[:, k, None] * error + (share[:, None] @ interpolated(self.rest, positions[:, k]))[:, 0]
            )

        return self.judged(positions, self.errors(positions, change))

    def learn(self, positions, changes):
        """Take in a true run, whose slopes differed from the reference's by changes (K, B, E); returns its
        loss."""
        room = min(RUNS, max(CHANGES // len(positions), 2))
        best = sorted(range(len(self.runs)), key=lambda i: self.losses[i])[: room - 1]
        self.runs = [*(self.runs[i] for i in best), (positions, changes)]
        self.grams = products(torch.cat([self.reference.slopes, *(changes for _, changes in self.runs)]))
        own = torch.eye(self.grams.shape[1], dtype=torch.float64)[len(self.reference.slopes) :].split(
            [len(p) for p, _ in self.runs]
        )
        walks = [self.errors(p[None], lambda k, error, i=i: own[i][k]) for i, (p, _) in enumerate(self.runs)]
        self.losses = [
            float(self.judged(p[None], walk)[1]) for (p, _), walk in zip(self.runs, walks, strict=True)
        ]
        self._set_secants([torch.cat(walk[:-1]) for walk in walks], own)
        return self.losses[-1]

    def _set_secants(self, errors, changes):
        """From errors and changes (K, D) of each run at the levels that it visited: growth (M,), mixture and
        rest (M, R, D).

        An error e at a position is, as nearly as can be, the mixture `mixture @ e` of the runs' errors there;
        it changes the slope by growth e and the same mixture of rest. Between the visited levels errors, and
        sigma times changes, are linear.
        """
        sigmas, every = self.reference.sigmas, np.arange(len(self.reference.sigmas))
        places = [torch.tensor(np.interp(every, p, np.arange(len(p)))) for p, _ in self.runs]
        sized = [
            interpolated(sigmas, p)[:, None] * change
            for (p, _), change in zip(self.runs, changes, strict=True)
        ]
        errors = torch.stack(
            [interpolated(error, place) for error, place in zip(errors, places, strict=True)], 1
        )
        changes = (
            torch.stack([interpolated(change, place) for change, place in zip(sized, places, strict=True)], 1)
            / sigmas[:, None, None]
        )
        against = errors @ self.grams.mean(0)
        square = against @ errors.transpose(1, 2)
        own = square.diagonal(dim1=1, dim2=2)
        best = min(range(len(self.losses)), key=lambda i: self.losses[i])
        self.growth = (against[:, best] * changes[:, best]).sum(-1) / own[:, best].clamp(min=1e-30)
        ridge = RIDGE * own + 1e-12 * own.amax() + 1e-30  # no run has an error at the first level
        self.mixture = torch.linalg.solve(square + torch.diag_embed(ridge), against)
        self.rest = changes - self.growth[:, None, None] * errors

    def errors(self, positions, change):
        """Weights of the errors of schedules (P, K) at each of their levels and at sigma 0: K + 1 of (P, D).

        change(k, error) -> (P, D): what the slope at level k differs by from the reference's where the state
        does by error.
        """
        ref, steps = self.reference, positions.shape[1]

        def wide(rows):
            return pad(rows, (0, self.grams.shape[1] - rows.shape[-1]))

        sigmas = interpolated(ref.sigmas, positions)[..., None].unbind(1)
        value, integral = (
            wide(interpolated(ref.value, positions)),
            wide(interpolated(ref.integral, positions)),
        )
        errors, states, slopes = [torch.zeros_like(value[:, 0])], [], []
        for k in range(steps):
            states.insert(0, errors[k] + integral[:, k])
            slopes.insert(0, value[:, k] + change(k, errors[k]))
            if k + 1 == steps:  # sampling goes to 0 at first order
                return [*errors, states[0] - sigmas[k] * slopes[0] - wide(ref.end)]
            slope = self.solver.slope(sigmas[k + 1 :: -1], states, slopes)
            errors.append(states[0] + (sigmas[k + 1] - sigmas[k]) * slope - integral[:, k + 1])

    def judged(self, positions, errors):
        """RMSE and loss, (P,) each, of schedules whose errors are known.

        The loss counts beside the error at the end what the few probed pictures do not show of others.
        Straying, the mean over the way of the error as a part of the spread of the pictures: a run that
        strays may end as another picture. And leaps: a step that extrapolates far is exact where x0_hat has
        come to rest, and throws a picture where it has not.
        """
        ref = self.reference
        rmse = root_mean_square(errors[-1], self.grams).mean(0)
        shares = visit_shares(positions, len(ref.sigmas)) / interpolated(ref.spread, positions)
        straying = (shares * root_mean_square(torch.stack(errors[:-1], 1), self.grams.mean(0))).sum(1)
        leaps = self.solver.leaps(interpolated(ref.sigmas, positions)) / (len(self.grams) + 1)
        return rmse, rmse + ref.spread_end * (STRAYING * min(self.solver.order, 2) * straying + LEAPS * leaps)


def visit_shares(positions, count):
    """The part of the way that lies nearest to each visited position: (P, K)."""
    after = torch.cat([positions[:, 1:], torch.full_like(positions[:, :1], count - 1)], 1)
    before = torch.cat([torch.zeros_like(positions[:, :1]), positions[:, :-1]], 1)
    return (after - before) / (2 * (count - 1))
