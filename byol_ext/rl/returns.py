"""Advantages over segments of environments that auto-reset on the next step (see :class:`Segment`).

Legend: ``T`` transitions, ``B`` environments; time-major. ``V`` are values of the observations, row ``T`` bootstraps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from byol_ext.losses.pair import as_float


@torch.no_grad()
def gae(
    rewards_TB: Tensor,
    values_TB: Tensor,
    *,
    terminated_TB: Tensor,
    truncated_TB: Tensor,
    real_TB: Tensor,
    discount: float,
    trace: float = 0.95,
    episodic: bool = True,
) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438, eq. 16); ``advantages + values[:-1]`` are the returns.

    With ``s(t)`` the row of the observation that follows row ``t``,

        delta_t = r_t + discount V_s(t) - V_t,      A_t = delta_t + discount trace A_s(t),

    and ``A`` is 0 from row ``T`` on and in rows that are not real. Nothing else is read of those rows but the value of
    the observation a truncated episode ended in.

    - Episodic: ``s(t) = t + 1``. After a truncation the value goes on (``V_{t+1}`` is that of the episode's last
      observation) and the trace stops; after a termination the value is 0 too.
    - Not episodic (RND's intrinsic stream): the return runs on into the next episode. ``s(t)`` is the first real row
      after ``t``, so at an episode's end, whatever its kind, that of the reset observation; ``T`` if there is none.

    Args:
        rewards_TB: ``[T, B]``.
        values_TB: ``[T + 1, B]``.
        terminated_TB: ``[T, B]`` bool.
        truncated_TB: ``[T, B]`` bool; a row that is both counts as terminated.
        real_TB: ``[T, B]`` bool.
        discount: Per step, in [0, 1]. RND: 0.999 extrinsic, 0.99 intrinsic.
        trace: Lambda; 0.95 in RND.
        episodic: Whether the return ends with the episode.

    Returns:
        ``[T, B]`` in float32 (float64 for float64 inputs).

    Raises:
        ValueError: If there is not one more row of values than of rewards.

    Example:
        >>> flag = torch.zeros(2, 1, dtype=torch.bool)
        >>> rewards, values = torch.ones(2, 1), torch.zeros(3, 1)
        >>> options = {"truncated_TB": flag, "real_TB": ~flag, "discount": 0.5, "trace": 1.0}
        >>> gae(rewards, values, terminated_TB=flag, **options).flatten()
        tensor([1.5000, 1.0000])
    """
    check_rows(rewards_TB, values_TB)
    rewards, values = as_float(rewards_TB), as_float(values_TB)
    following = successor_values(values, terminated_TB=terminated_TB, real_TB=real_TB, episodic=episodic)
    delta = torch.where(real_TB, rewards + discount * following - values[:-1], 0.0)
    carry = trace_coefficients(
        torch.full_like(delta, discount * trace),
        ended_TB=terminated_TB | truncated_TB,
        real_TB=real_TB,
        episodic=episodic,
    )
    return torch.where(real_TB, suffix_scan(delta, carry), 0.0)


def check_rows(rewards_TB: Tensor, values_TB: Tensor) -> None:
    """Refuse values that do not have one row more than the rewards.

    Raises:
        ValueError: With both shapes.
    """
    if values_TB.shape != (len(rewards_TB) + 1, *rewards_TB.shape[1:]):
        raise ValueError(
            f"rewards [T, B] go with values [T + 1, B], got {tuple(rewards_TB.shape)} and {tuple(values_TB.shape)}; "
            "the last row of values is that of the bootstrap observation"
        )


def successor_values(values_TB: Tensor, *, terminated_TB: Tensor, real_TB: Tensor, episodic: bool) -> Tensor:
    """The value of the state after each transition ``[T, B]``, as :func:`gae` defines it; 0 in rows that are not real.

    Args:
        values_TB: ``[T + 1, B]``.
        terminated_TB: ``[T, B]`` bool.
        real_TB: ``[T, B]`` bool.
        episodic: Whether a termination is worth 0; if not, values skip to the next episode.
    """
    if episodic:
        return torch.where(real_TB & ~terminated_TB, values_TB[1:], 0.0)
    steps = len(real_TB)
    row = torch.arange(steps, device=real_TB.device).unsqueeze(-1)
    next_real = torch.where(real_TB, row, steps).flip(0).cummin(0).values.flip(0)
    after = torch.cat([next_real[1:], next_real.new_full((1, next_real.shape[1]), steps)])
    return torch.where(real_TB, values_TB.gather(0, after), 0.0)


def trace_coefficients(decay_TB: Tensor, *, ended_TB: Tensor, real_TB: Tensor, episodic: bool) -> Tensor:
    """What a row keeps of the sum that comes from the row below it, for :func:`suffix_scan`.

    Args:
        decay_TB: Coefficients of real rows inside an episode ``[T, B]``.
        ended_TB: ``[T, B]`` bool.
        real_TB: ``[T, B]`` bool.
        episodic: Whether sums stop at an episode's end; if not, a row that is not real hands the sum on unchanged.
    """
    if episodic:
        return torch.where(real_TB & ~ended_TB, decay_TB, 0.0)
    return torch.where(real_TB, decay_TB, 1.0)


def suffix_scan(delta_TB: Tensor, carry_TB: Tensor) -> Tensor:
    """``x_t = delta_t + carry_t x_{t+1}`` with ``x_T = 0``, in ``log2 T`` passes (recursive doubling).

    After the pass of stride ``s``, ``x_t`` holds the terms of rows ``t .. t + 2s - 1`` and ``carry_t`` what row
    ``t + 2s`` would count; a dozen library calls in place of one a row.

    Args:
        delta_TB: ``[T, B]``.
        carry_TB: ``[T, B]``.
    """
    x, carry, stride = delta_TB.clone(), carry_TB.clone(), 1
    while stride < len(x):
        x[:-stride] = torch.addcmul(x[:-stride], carry[:-stride], x[stride:])
        carry[:-stride] = carry[:-stride] * carry[stride:]
        stride *= 2
    return x


def row_mean(x_TB: Tensor, real_TB: Tensor) -> Tensor:
    """Mean over all ``T B`` rows, those that are not real counting as 0 whatever they hold.

    The divisor does not depend on the data, so that the losses of minibatches and processes of equal size average to
    the loss of the whole.

    Args:
        x_TB: ``[T, B]``.
        real_TB: ``[T, B]`` bool.
    """
    return torch.where(real_TB, x_TB, 0.0).mean()


@torch.no_grad()
def explained_variance(*, values_TB: Tensor, returns_TB: Tensor, real_TB: Tensor) -> Tensor:
    """``1 - Var(returns - values) / Var(returns)`` over real rows; 0 if the returns do not vary.

    Args:
        values_TB: ``[T, B]``.
        returns_TB: ``[T, B]``.
        real_TB: ``[T, B]`` bool.
    """

    def variance(x_TB: Tensor) -> Tensor:
        mean = torch.where(real_TB, x_TB, 0.0).sum() / count
        return torch.where(real_TB, x_TB - mean, 0.0).square().sum() / count

    count = real_TB.sum().clamp(min=1)
    total = variance(as_float(returns_TB))
    residual = variance(as_float(returns_TB) - as_float(values_TB))
    return torch.where(total > 0, 1 - residual / total, 0.0)
