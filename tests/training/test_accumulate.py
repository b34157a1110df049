"""T5 of slap 16: which accumulation modes give the gradient of the full batch, and which do not."""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import training_toy as toy
from accelerate import Accelerator
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Ctx, Encoded
from byol_ext.heads import WindowBatchNorm2d
from byol_ext.training import Accumulator, check_exact
from byol_ext.training import accumulate as module
from byol_ext.training.accumulate import BufferGuard, batch_size, join_contexts, to_device

Gradients = dict[str, Tensor]
EXACT = 1e-5


def batch(rows: slice) -> dict[str, Any]:
    items = [toy.Items(64)[i, 0] for i in range(64)[rows]]
    return torch.utils.data.default_collate(items)


def split(*sizes: int) -> list[dict[str, Any]]:
    ends = list(itertools.accumulate(sizes))
    return [batch(slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def prepare(data: dict[str, Any], step: int, *, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Any], Ctx]:
    views, ctx = toy.prepare(data, step)
    return {name: x.to(dtype) for name, x in views.items()}, ctx


def accumulator(model: Bootstrap, mode: str, steps: int) -> Accumulator:
    as_model = partial(prepare, dtype=next(model.parameters()).dtype)
    return Accumulator(Accelerator(cpu=True), model, model, prepare=as_model, mode=mode, steps=steps)


def gradients(model: Bootstrap, mode: str, batches: list[dict[str, Any]]) -> tuple[Gradients, float]:
    model.train()
    window = accumulator(model, mode, len(batches)).run(iter(batches), step=0)
    factor = window.nominal / window.samples
    return {n: p.grad * factor for n, p in model.named_parameters() if p.grad is not None}, float(window.loss)


def precise(model: Bootstrap) -> Bootstrap:
    """In float64, but for the windowed norm, which computes in float32."""
    return model if any(isinstance(m, WindowBatchNorm2d) for m in model.modules()) else model.double()


def difference(model: Callable[[], Bootstrap], mode: str, *sizes: int) -> float:
    """Largest gradient difference between a window and the full batch, relative to the tensor's largest gradient.

    Gradients that are zero but for rounding (of a bias before BatchNorm) are measured against a thousandth of the
    model's largest.
    """
    full, full_loss = gradients(precise(model()), "naive", split(sum(sizes)))
    parts, loss = gradients(precise(model()), mode, split(*sizes))
    assert full.keys() == parts.keys()
    floor = 1e-3 * max(float(g.abs().max()) for g in full.values())
    worst = max(float((full[n] - parts[n]).abs().max() / full[n].abs().max().clamp_min(floor)) for n in full)
    return max(worst, abs(loss - full_loss) / abs(full_loss))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_exact", lambda model, mode: None)


exact_cases = {
    "naive+layer": (partial(toy.slap, norm="layer"), "naive", (8, 8, 8, 8)),
    "naive+gn_ws": (partial(toy.slap, norm="gn_ws"), "naive", (8, 8, 8, 8)),
    "naive+none, ragged": (partial(toy.slap, norm="none"), "naive", (8, 8, 8, 5)),
    "cached+batch": (partial(toy.slap, norm="batch"), "cached", (8, 8, 8, 8)),
    "cached+batch, ragged": (partial(toy.slap, norm="batch"), "cached", (8, 8, 8, 5)),
    "cached+layer": (partial(toy.slap, norm="layer"), "cached", (8, 8, 8, 8)),
    "cached infonce": (toy.clap, "cached", (8, 8, 8, 8)),
    "cached infonce, ragged": (toy.clap, "cached", (8, 8, 3)),
    "cached infonce, one micro-batch": (toy.clap, "cached", (16,)),
    "naive, windowed input norm": (partial(toy.slap, window="window"), "naive", (8, 8, 8, 8)),
    "naive, windowed input norm, ragged": (partial(toy.slap, window="window"), "naive", (8, 8, 8, 5)),
    "cached, windowed input norm": (partial(toy.slap, window="window"), "cached", (8, 8, 8, 8)),
    "naive, frozen input norm": (partial(toy.slap, window="frozen"), "naive", (8, 8, 8, 8)),
}
inexact_cases = {
    "naive+batch": (partial(toy.slap, norm="batch"), "naive", (8, 8, 8, 8)),
    "naive infonce": (toy.clap, "naive", (8, 8, 8, 8)),
    "naive, batch input norm": (partial(toy.slap, window="batch"), "naive", (8, 8, 8, 8)),
    "cached, batch input norm": (partial(toy.slap, norm="batch", window="batch"), "cached", (8, 8, 8, 8)),
}


@pytest.mark.parametrize("case", exact_cases)
def test_exact_modes_give_the_gradient_of_the_full_batch(case: str) -> None:
    model, mode, sizes = exact_cases[case]
    assert difference(model, mode, *sizes) < EXACT


@pytest.mark.parametrize("case", inexact_cases)
def test_inexact_modes_do_not_and_are_refused(case: str, request: pytest.FixtureRequest) -> None:
    model, mode, sizes = inexact_cases[case]
    with pytest.raises(ValueError, match="not exact"):
        accumulator(model(), mode, len(sizes))
    request.getfixturevalue("unchecked")
    assert difference(model, mode, *sizes) > 1e-2


def test_the_refusal_names_the_coupling_layers() -> None:
    with pytest.raises(ValueError, match=r"predictors\.a.*cached"):
        check_exact(toy.slap(norm="batch"), "naive")
    with pytest.raises(ValueError, match=r"set_terms\.infonce"):
        check_exact(toy.clap(), "naive")
    with pytest.raises(ValueError, match=r"encoder\.input_norm"):
        check_exact(toy.slap(window="batch"), "cached")


def test_one_micro_batch_is_never_refused() -> None:
    accumulator(toy.slap(norm="batch", window="batch"), "naive", 1)


def test_cached_replays_dropout() -> None:
    """Against the same forwards with all graphs kept: micro-batch by micro-batch encoders, then heads on all rows."""
    batches = split(8, 8, 5)
    model = toy.slap(norm="batch", dropout=0.5)
    torch.manual_seed(3)
    found, _ = gradients(model, "cached", batches)
    state = torch.get_rng_state()

    oracle = toy.slap(norm="batch", dropout=0.5).train()
    torch.manual_seed(3)
    prepared = [toy.prepare(part, 0) for part in batches]
    encoded = [oracle.encode(views, 0) for views, _ in prepared]
    joined = Encoded(
        {v: torch.cat([part.online[v] for part in encoded]) for v in ("a", "b")},
        {v: torch.cat([part.target[v] for part in encoded]) for v in ("a", "b")},
    )
    oracle.objective(joined, join_contexts([ctx for _, ctx in prepared]), 0).loss.backward()
    for name, parameter in oracle.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7)
    # The replay leaves the generator where a plain forward would have.
    assert torch.equal(state, torch.get_rng_state())


def test_cached_counts_running_statistics_once() -> None:
    model = toy.slap(norm="batch", window="window").train()
    accumulator(model, "cached", 3).run(iter(split(8, 8, 8)), 0)
    assert model.branches["a"].encoder.input_norm.num_batches_tracked == 1
    assert model.branches["a"].projector[1].num_batches_tracked == 1
    assert model.target is not None
    assert model.target.branch("a").encoder.input_norm.num_batches_tracked == 1


def test_the_replay_does_not_count_running_statistics_again() -> None:
    cached, plain = toy.slap(window="batch").train(), toy.slap(window="batch").train()
    accumulator(cached, "cached", 1).run(iter(split(8)), 0)
    accumulator(plain, "naive", 1).run(iter(split(8)), 0)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(dict(cached.named_buffers())[name], value)


class Meter:
    """Bytes that autograd holds for the backward, now and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> tuple[Tensor, _Held]:
        return tensor, _Held(self, tensor.numel() * tensor.element_size())

    def __enter__(self) -> Meter:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda held: held[0])
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)


class _Held:
    def __init__(self, meter: Meter, size: int) -> None:
        self.meter, self.size = meter, size
        meter.now += size
        meter.peak = max(meter.peak, meter.now)

    def __del__(self) -> None:
        self.meter.now -= self.size


def peak(model: Bootstrap, mode: str, sizes: tuple[int, ...]) -> int:
    batches = split(*sizes)
    runner = accumulator(model.train(), mode, len(sizes))
    with Meter() as meter:
        runner.run(iter(batches), 0)
    return meter.peak


def test_memory_of_pair_losses_does_not_grow_with_the_effective_batch() -> None:
    small, large = (peak(toy.slap(norm="layer"), "naive", (4,) * n) for n in (2, 16))
    # Some operations keep a zero-size or per-parameter tensor; activations would make it eight times as much.
    assert large <= small * 1.05
    assert peak(toy.clap(), "naive", (64,)) > 7 * peak(toy.clap(), "naive", (8,))


def test_naive_takes_one_micro_batch_at_a_time_from_the_source() -> None:
    model, alive = toy.slap().train(), []

    def counting() -> Iterator[dict[str, Any]]:
        for part in split(8, 8, 8):
            alive.append(sum(p.grad is not None for p in model.parameters()))
            yield part

    accumulator(model, "naive", 3).run(counting(), 0)
    assert alive[0] == 0
    assert alive[1] > 0


def test_a_source_that_ends_is_an_error() -> None:
    with pytest.raises(ValueError, match="ended at step 4"):
        accumulator(toy.slap(), "naive", 2).run(iter(split(8)), 4)


def test_views_may_have_a_multiple_of_the_batch_but_nothing_else() -> None:
    assert batch_size({"crops": torch.zeros(12, 2), "whole": torch.zeros(4, 2), "name": "x"}) == 4
    with pytest.raises(ValueError, match=r"\{'a': 4, 'b': 6\} cannot all be the batch.*batch-major"):
        batch_size({"a": torch.zeros(4, 2), "b": torch.zeros(6, 2)})


def test_cached_gradients_of_views_with_different_rows() -> None:
    """Two crops a sample in view b, averaged by the loss; cached windows cut each view by its own rows."""

    def crops(data: dict[str, Any], step: int) -> tuple[dict[str, Any], Ctx]:
        return {"a": data["a"], "b": torch.stack([data["b"], data["a"]], 1).flatten(0, 1)}, Ctx()

    def by_sample(*, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return (a - b.unflatten(0, (-1, 2)).mean(1)).square().mean(), {}

    found = []
    for sizes in ((16,), (8, 8)):
        model = toy.clap().train()
        model.set_terms[0].fn, model.set_terms[0].scale = by_sample, None
        runner = Accumulator(Accelerator(cpu=True), model, model, prepare=crops, mode="cached", steps=len(sizes))
        assert runner.run(iter(split(*sizes)), 0).samples == 16
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-7)


def test_a_window_tells_the_model_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, steps = toy.slap(window="window"), []
    begin = Bootstrap.begin_window

    def spied(self: Bootstrap, micro_views: Any, step: int = -1) -> None:
        steps.append(step)
        begin(self, micro_views, step)

    monkeypatch.setattr(Bootstrap, "begin_window", spied)
    for mode in ("naive", "cached"):
        accumulator(model, mode, 2).run(iter(split(8, 8)), 7)
    assert steps == [7, 7]


def test_batch_size_reads_nested_views_and_refuses_empty_ones() -> None:
    assert batch_size({"text": {"ids": torch.zeros(3, 5)}}) == 3
    with pytest.raises(ValueError, match="without rows"):
        batch_size({"a": torch.zeros(0, 2)})
    with pytest.raises(ValueError, match="must return views"):
        batch_size({"a": "caption"})


def test_contexts_join_and_differences_are_refused() -> None:
    rows = [Ctx(masks={"m": torch.ones(2)}, data={"scale": 3, "names": ["x"]}) for _ in range(2)]
    joined = join_contexts(rows)
    assert joined.masks["m"].shape == (4,)
    assert joined.data == {"scale": 3, "names": ["x", "x"]}
    with pytest.raises(ValueError, match="equal in all micro-batches"):
        join_contexts([Ctx(data={"scale": 3}), Ctx(data={"scale": 4})])


def test_buffer_guard_brings_statistics_back() -> None:
    norm = nn.BatchNorm1d(3)
    guard = BufferGuard(norm)
    norm(torch.full((4, 3), float("nan")))
    assert norm.running_mean is not None
    assert norm.running_mean.isnan().all()
    guard.restore()
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.num_batches_tracked == 0


class Moments(nn.Module):
    """Buffers that each forward replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("C", torch.zeros(2, 2))
        self.register_buffer("mean", None)

    def forward(self, x: Tensor) -> Tensor:
        self.C = self.C + x.T @ x
        self.mean = x.mean(0)
        return x


def test_buffer_guard_brings_back_buffers_that_a_module_rebinds() -> None:
    model = nn.Sequential(Moments())
    guard = BufferGuard(model)
    model(torch.full((3, 2), float("nan")))
    guard.restore()
    assert torch.equal(model[0].C, torch.zeros(2, 2))
    assert model[0].mean is None
    model(torch.ones(3, 2))
    guard.save()
    model(torch.full((3, 2), float("nan")))
    guard.restore()
    assert torch.equal(model[0].C, torch.full((2, 2), 3.0))
    assert torch.equal(model[0].mean, torch.ones(2))
    assert dict(model.named_buffers()).keys() == {"0.C", "0.mean"}


def test_to_device_walks_nested_batches() -> None:
    pair = namedtuple("pair", ["x", "n"])
    batch = {"x": {"y": torch.ones(2)}, "names": ["a"], "list": [torch.ones(1)], "pair": pair(torch.ones(1), 3)}
    moved = to_device({**batch, "tuple": (torch.ones(1), "b")}, torch.device("meta"))
    assert moved["names"] == ["a"]
    assert isinstance(moved["pair"], pair)
    assert (moved["pair"].n, moved["tuple"][1]) == (3, "b")
    for tensor in (moved["x"]["y"], moved["list"][0], moved["pair"].x, moved["tuple"][0]):
        assert tensor.device.type == "meta"
