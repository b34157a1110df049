"""SGHMC: sample weights from a posterior by noisy momentum steps (Chen et al. 2014, arXiv 1402.4102)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from byol_ext.rng import sample_keys
from byol_ext.schedules import Schedule


class SGHMC(torch.optim.Optimizer):
    """``m <- (1 - b) m - lr grad U + sqrt(2 b T lr) xi``, ``w <- w + m``, with ``xi`` standard normal.

    For small ``lr`` the weights' distribution is ``exp(-U / T)``. With a mean loss over ``N`` samples plus a prior's
    penalty over ``N``, ``T = 1 / N`` is the posterior. The noise of a minibatch's gradient is not corrected for.

    Args:
        params: Parameters, or groups.
        lr: Step size, ``dt^2`` over the mass (arXiv 2205.10279's code: .1).
        friction: ``b``, in (0, 1]; 1 is Langevin dynamics without momentum. The default is ours; that
            code has .95, and calls it momentum.
        temperature: ``T``; 0 is gradient descent with momentum (that code: 2e-8).
        seed: Of the noise. The noise of a step depends on seed, step and parameter alone: a resumed run repeats it,
            and so does every process of a data-parallel one.

    Raises:
        ValueError: For a value out of its range.

    Example:
        >>> w = torch.zeros(1, requires_grad=True)
        >>> optimizer = SGHMC([w], lr=0.1, friction=0.1, temperature=0.0)
        >>> w.grad = torch.ones(1)
        >>> _ = [optimizer.step() for _ in range(2)]
        >>> round(w.item(), 4)
        -0.29
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.1,
        friction: float = 0.05,
        temperature: float = 2e-8,
        seed: int = 0,
    ) -> None:
        if lr < 0 or not 0 < friction <= 1 or temperature < 0:
            raise ValueError(
                f"lr={lr}, friction={friction}, temperature={temperature}: expected lr >= 0, friction in (0, 1] and a "
                "temperature of at least 0"
            )
        super().__init__(params, {"lr": lr, "friction": friction, "temperature": temperature, "seed": seed, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; parameters without gradient stay where they are.

        Args:
            closure: Computes the loss again.

        Returns:
            Its value.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            lr, friction = float(group["lr"]), group["friction"]
            deviation = math.sqrt(2.0 * friction * group["temperature"] * lr)
            generators: dict[torch.device, torch.Generator] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(1.0 - friction).add_(parameter.grad, alpha=-lr)
                if deviation:
                    device = parameter.device
                    if device not in generators:
                        key = sample_keys(group["seed"], number, torch.tensor([group["steps"]])).item()
                        generators[device] = torch.Generator(device).manual_seed(int(key))
                    momentum.add_(_normal_like(parameter, generators[device]), alpha=deviation)
                parameter.add_(momentum)
            group["steps"] += 1
        return loss


def cyclic_cosine(peak: float, steps: int, cycles: int) -> Schedule:
    """Half a cosine from the peak down to nearly 0, again each cycle (cSG-MCMC, arXiv 1902.03932).

    The large rate at a cycle's start leaves a mode, the small one at its end explores the next.

    Args:
        peak: Rate at the start of each cycle.
        steps: Steps in all.
        cycles: Cycles (arXiv 2205.10279's code: 4).

    Raises:
        ValueError: If the steps are no multiple of the cycles.

    Example:
        >>> rate = cyclic_cosine(0.1, steps=8, cycles=2)
        >>> [round(rate(k), 4) for k in (0, 2, 4)]
        [0.1, 0.05, 0.1]
    """
    length = _cycle(steps, cycles)
    return lambda step: peak * 0.5 * (1.0 + math.cos(math.pi * (step % length) / length))


def sampling_steps(steps: int, *, cycles: int, samples: int, burn: float = 0.25) -> list[int]:
    """Numbers of steps after which to keep the weights: spread evenly over the later part of each cycle.

    Args:
        steps: Steps in all.
        cycles: Cycles.
        samples: Samples in all, at least one a cycle (arXiv 2205.10279's code: 12 over 4 cycles).
        burn: Share of a cycle that is left for finding the next mode.

    Raises:
        ValueError: If samples or steps are no multiple of the cycles, or the samples do not fit in.

    Example:
        >>> sampling_steps(80, cycles=2, samples=6)
        [20, 30, 40, 60, 70, 80]
    """
    length = _cycle(steps, cycles)
    if samples < cycles or samples % cycles or not 0.0 <= burn < 1.0:
        raise ValueError(
            f"samples={samples}, cycles={cycles}, burn={burn}: expected a multiple of the cycles, burn < 1"
        )
    each = samples // cycles
    offsets = [length - round((each - 1 - k) * length * (1.0 - burn) / each) for k in range(each)]
    if len(set(offsets)) < each:
        raise ValueError(f"a cycle of {length} steps is too short for {each} samples; take more steps")
    return [cycle * length + offset for cycle in range(cycles) for offset in offsets]


def _cycle(steps: int, cycles: int) -> int:
    if cycles < 1 or steps < cycles or steps % cycles:
        raise ValueError(f"steps={steps}, cycles={cycles}: expected cycles, and a multiple of them as steps")
    return steps // cycles


def _normal_like(parameter: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype)
