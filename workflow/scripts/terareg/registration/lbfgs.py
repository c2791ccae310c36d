"""Limited-memory BFGS with a strong-Wolfe line search, deterministic, in PyTorch.

References
----------
Liu, D. C. & Nocedal, J. Math. Program. 45, 503 (1989).
Nocedal, J. & Wright, S. Numerical Optimization, 2nd ed., algorithms 3.5, 3.6 and 7.4 (2006).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Objective = Callable[[torch.Tensor], tuple[float, torch.Tensor]]


@dataclass
class Memory:
    """Pairs (s, y) of the last steps, and s.y; kept while the objective changes little."""

    size: int = 12
    steps: list[torch.Tensor] = field(default_factory=list)
    changes: list[torch.Tensor] = field(default_factory=list)
    curvatures: list[float] = field(default_factory=list)

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Store a pair if its curvature is positive."""
        curvature = _dot(step, change)
        if curvature > 1e-10 * _dot(change, change) ** 0.5 * _dot(step, step) ** 0.5:
            self.steps.append(step)
            self.changes.append(change)
            self.curvatures.append(curvature)
            if len(self.steps) > self.size:
                del self.steps[0], self.changes[0], self.curvatures[0]

    def clear(self) -> None:
        """Forget all pairs."""
        self.steps.clear()
        self.changes.clear()
        self.curvatures.clear()

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Two-loop recursion: minus the approximate inverse Hessian times the gradient."""
        q = -gradient
        factors = []
        for s, y, curvature in zip(*map(reversed, (self.steps, self.changes, self.curvatures))):
            rho = 1.0 / curvature
            alpha = rho * _dot(s, q)
            q = q - alpha * y
            factors.append((alpha, rho))
        if self.steps:
            y = self.changes[-1]
            q = q * (self.curvatures[-1] / _dot(y, y))
        for (alpha, rho), s, y in zip(reversed(factors), self.steps, self.changes):
            q = q + (alpha - rho * _dot(y, q)) * s
        return q


@dataclass(frozen=True)
class Minimum:
    """End of a minimisation: point, value, gradient, evaluations used, and why it stopped."""

    x: torch.Tensor
    value: float
    gradient: torch.Tensor
    evaluations: int
    reason: str


def minimise(
    objective: Objective,
    x: torch.Tensor,
    memory: Memory,
    *,
    iterations: int,
    tolerance: float = 1e-5,
    first_step: float = 1.0,
    report: Callable[[torch.Tensor, float, int], None] | None = None,
) -> Minimum:
    """Minimise a smooth function of a vector.

    Parameters
    ----------
    objective : callable
        x -> (value, gradient).
    x : torch.Tensor, shape (n,)
    memory : Memory
        Initial approximation of the inverse Hessian; updated in place.
    iterations : int
        Largest number of steps.
    tolerance : float
        Stops when a step lowers the value by less than ``tolerance * (1 + |value|)``.
    first_step : float
        Length of the first trial step if the memory is empty.
    report : callable, optional
        Called after every step with (x, value, evaluations so far).
    """
    value, gradient = objective(x)
    evaluations = 1
    reason = "iterations"
    for _ in range(iterations):
        direction = memory.direction(gradient)
        slope = _dot(direction, gradient)
        if slope >= 0:
            memory.clear()
            direction = -gradient
            slope = -_dot(gradient, gradient)
        if slope == 0:
            reason = "gradient is zero"
            break
        start = 1.0
        if not memory.steps:
            start = first_step / max(_dot(direction, direction) ** 0.5, 1e-30)
        found = _strong_wolfe(objective, x, value, direction, slope, start)
        evaluations += found[3]
        if found[0] is None:
            if memory.steps:
                memory.clear()
                continue
            reason = "line search found no lower value"
            break
        step, new_value, new_gradient = found[:3]
        memory.add(step * direction, new_gradient - gradient)
        x = x + step * direction
        drop = value - new_value
        value, gradient = new_value, new_gradient
        if report is not None:
            report(x, value, evaluations)
        if drop < tolerance * (1 + abs(value)):
            reason = "converged"
            break
    return Minimum(x, value, gradient, evaluations, reason)


def _strong_wolfe(objective, x, value0, direction, slope0, step):
    """Return (step, value, gradient, evaluations); step is None if no lower value was found."""
    c1, c2, limit = 1e-4, 0.9, 12
    best = (None, value0, None)
    low = (0.0, value0, slope0)
    high = None
    used = 0
    while used < limit:
        value, gradient = objective(x + step * direction)
        used += 1
        slope = _dot(gradient, direction)
        finite = value == value and abs(value) != float("inf")
        if not finite or value > value0 + c1 * step * slope0 or value >= low[1]:
            high = (step, value if finite else None, slope)
        else:
            best = (step, value, gradient)
            if abs(slope) <= -c2 * slope0:
                break
            if high is None and slope < 0:
                low = (step, value, slope)
                step *= 2.5
                continue
            if high is None or slope * (high[0] - low[0]) >= 0:
                high = low
            low = (step, value, slope)
        step = _between(low, high)
        if abs(high[0] - low[0]) < 1e-7 * max(1e-12, abs(low[0])):
            break
    return (*best, used)


def _between(low, high) -> float:
    """Minimum of the parabola through value and slope at ``low`` and value at ``high``, guarded."""
    width = high[0] - low[0]
    trial = 0.5
    if high[1] is not None:
        curvature = high[1] - low[1] - low[2] * width
        if curvature > 0:
            trial = -low[2] * width / (2 * curvature)
    else:
        trial = 0.2
    return low[0] + width * min(max(trial, 0.1), 0.9)


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a.double(), b.double()))
