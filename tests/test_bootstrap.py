"""The core's tests C1-C12 and invariants I1-I6 of the specification (core-ssl 1.4 and 1.6)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byol_ext import EMA, Bootstrap, Branch, Ctx, Edge, SetTerm, Target
from byol_ext.graph import horizon
from byol_ext.heads import WindowBatchNorm2d, mlp_head
from byol_ext.losses.pair import cosine_distance, negative_cosine, normalized_mse
from byol_ext.losses.sets import vicreg
from byol_ext.predictors import Learned, linear_predictor, mlp_predictor

WIDTH = 8


def branch(norm="layer", width=WIDTH) -> Branch:
    return Branch(nn.Sequential(nn.Linear(6, 16), nn.ReLU()), mlp_head([16, 16, width], norm=norm))


def byol(
    *, tau=0.9, norm="layer", pair=normalized_mse, source="ema", weight=1.0, predictor=None, **kwargs
) -> Bootstrap:
    online = {"net": branch(norm)}
    return Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=Target(online, tau=tau, source=source),
        predictors={"p": predictor or mlp_predictor(WIDTH, 16, norm=norm)},
        plan=[Edge("a", "b", "p", weight), Edge("b", "a", "p", weight)],
        pair=pair,
        **kwargs,
    )


def views(batch=5) -> dict[str, Tensor]:
    return {"a": torch.randn(batch, 6), "b": torch.randn(batch, 6)}


def slap_edges(inter=0.5, intra=0.5, predictors=("p", "p")) -> list[Edge]:
    a, t = predictors
    return [
        Edge("audio", "text", a, inter),
        Edge("text", "audio", t, inter),
        Edge("audio", "audio", a, intra),
        Edge("text", "text", t, intra),
    ]


def test_c1_one_branch_byol_equals_slap_wiring():
    online, predictor = {"net": branch().double()}, mlp_predictor(WIDTH, 16, norm="layer").double()
    slap = Bootstrap(
        online,
        {"audio": "net", "text": "net"},
        target=Target(online, tau=0.9),
        predictors={"p": predictor},
        plan=slap_edges(),
    )
    plain = Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=slap.target,
        predictors={"p": predictor},
        plan=[Edge("a", "b", "p"), Edge("b", "a", "p")],
        pair=normalized_mse,
    )
    x = torch.randn(5, 6, dtype=torch.float64)
    # One input under both names makes the four distances equal: 2 D for SLAP, 2 (2 - 2 cos) = 4 D for BYOL.
    loss, reference = slap({"audio": x, "text": x}).loss, plain({"a": x, "b": x}).loss
    assert abs(2 * loss.item() - reference.item()) < 1e-12
    y = torch.randn(5, 6, dtype=torch.float64)
    out = slap({"audio": x, "text": y})
    inter_only = plain({"a": x, "b": y}).loss.item() / 2
    assert abs(out.terms["audio->text"] + out.terms["text->audio"] - inter_only) < 1e-12


def test_c2_ema_closed_form():
    source = nn.Linear(3, 3).double()
    average = EMA(source, 0.9)
    with torch.no_grad():
        for parameter in average.module.parameters():
            parameter.add_(1.0)
    for step in range(10):
        assert average.update(step) == 0.9
    for new, old in zip(average.module.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(new, 0.3486784401), rtol=0, atol=1e-12)
    assert average.updates == 10


def test_c4_without_decay_byol_is_four_times_simsiam():
    torch.manual_seed(1)
    model = byol(tau=0.0)
    simsiam = Bootstrap(
        dict(model.branches.items()),
        model.views,
        target=Target(dict(model.branches.items()), source="self"),
        predictors=dict(model.predictors.items()),
        plan=[Edge("a", "b", "p", 0.5), Edge("b", "a", "p", 0.5)],
        pair=negative_cosine,
    )
    with torch.no_grad():
        for parameter in model.branches.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.after_step(0)
    for online, target in zip(model.branches.parameters(), model.target.parameters(), strict=True):
        assert torch.equal(online, target)
    batch = views()
    loss, small = model(batch).loss, simsiam(batch).loss
    torch.testing.assert_close(loss, 4 * small + 4)
    of = list(model.branches.parameters()) + list(model.predictors.parameters())
    for big, little in zip(torch.autograd.grad(loss, of), torch.autograd.grad(small, of), strict=True):
        torch.testing.assert_close(big, 4 * little, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("source", ["ema", "frozen", "self"])
def test_c5_no_gradient_reaches_the_target(source):
    model = byol(source=source)
    out = model(views())
    for latent in out.target.values():
        assert latent.z.grad_fn is None
        assert not latent.z.requires_grad
    before = copy.deepcopy(model.target.state_dict())
    out.loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.target.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.target.state_dict().items())
    online = [*model.branches.parameters(), *model.predictors.parameters()]
    assert all(p.grad is not None for p in online)


def test_c5_self_target_equals_online_latents_and_its_detach_matters():
    model = byol(source="self", pair=negative_cosine)
    out = model(views())
    for view in ("a", "b"):
        assert torch.equal(out.target[view].z, out.online[view].z)
    of = list(model.branches.parameters())
    stopped = torch.autograd.grad(out.loss, of, retain_graph=True)
    leaking = sum(negative_cosine(q=out.predictions[(s, "p")], target=out.online[d].z).mean() for s, d in ("ab", "ba"))
    leaked = torch.autograd.grad(leaking, of)
    assert any(not torch.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in zip(stopped, leaked, strict=True))


def test_c6_edge_weights_add_up():
    model, batch = byol(), views()

    def loss(first, second):
        model.plan = [Edge("a", "b", "p", first), Edge("b", "a", "p", second)]
        return model(batch).loss

    torch.testing.assert_close(loss(1.0, 0.0) + loss(0.0, 1.0), loss(1.0, 1.0))
    torch.testing.assert_close(loss(lambda step: 0.25, 0.0), 0.25 * loss(1.0, 0.0))


@pytest.mark.parametrize("policy", ["own", "copy", "ema"])
def test_c7_integer_buffers_survive(policy):
    source = nn.BatchNorm1d(4)
    average = EMA(source, 0.5, buffers=policy)
    source(torch.randn(8, 4))
    average.update(0)
    tracked = average.module.num_batches_tracked
    assert tracked.dtype == torch.int64
    assert tracked.item() == (0 if policy == "own" else 1)
    expected = {"own": torch.zeros(4), "copy": source.running_mean, "ema": source.running_mean / 2}[policy]
    torch.testing.assert_close(average.module.running_mean, expected)


def test_c8_save_load_step_is_bitwise(tmp_path):
    torch.manual_seed(3)
    model, batches = byol(norm="batch"), [views(8) for _ in range(4)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def take(m, o, step):
        o.zero_grad()
        m(batches[step], step=step).loss.backward()
        o.step()
        m.after_step(step)

    take(model, optimiser, 0)
    take(model, optimiser, 1)
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, tmp_path / "s.pt")
    take(model, optimiser, 2)
    other = byol(norm="batch")
    other_optimiser = torch.optim.AdamW(other.parameters(), lr=1e-2)
    state = torch.load(tmp_path / "s.pt", weights_only=True)
    other.load_state_dict(state["model"])
    other_optimiser.load_state_dict(state["optimiser"])
    take(other, other_optimiser, 2)
    assert int(other.target.ema.updates) == 3
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


class Rollout(nn.Module):
    """Predict K steps from each time by K linear maps."""

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(width, width) for _ in range(steps)])

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([m(z) for m in self.maps], dim=-2)


def test_c9_horizon_alignment_equals_a_double_loop():
    batch, time, steps = 2, 9, 3
    online = {"net": Branch(nn.Linear(6, WIDTH))}
    model = Bootstrap(
        online,
        {"obs": "net"},
        target=Target(online, tau=0.5),
        predictors={"world": Learned(Rollout(WIDTH, steps))},
        plan=[Edge("obs", "obs", "world", align=horizon(steps))],
    )
    ends = torch.zeros(batch, time, dtype=torch.bool)
    ends[0, 2] = ends[0, 5] = ends[1, 0] = True
    x = torch.randn(batch, time, 6)
    out = model({"obs": x}, Ctx(data={"ends": ends}))
    q, z = out.predictions[("obs", "world")], out.target["obs"].z
    elements = out.elements["obs->obs"]
    assert elements.shape == (batch, time, steps)
    for b in range(batch):
        for t in range(time):
            for k in range(steps):
                reached = t + 1 + k < time and not ends[b, t : t + 1 + k].any()
                expected = 1 - F.cosine_similarity(q[b, t, k], z[b, t + 1 + k], dim=0) if reached else torch.tensor(0.0)
                torch.testing.assert_close(elements[b, t, k], expected, atol=1e-6, rtol=1e-5)


def test_c10_periodic_plan_visits_pairs_equally():
    pairs = [("a", "b"), ("b", "a"), ("a", "a"), ("b", "b")]
    model = byol()
    model.plan = lambda step: [Edge(*pairs[step % 4], "p")]
    seen = [next(iter(model(views(2), step=step).elements)) for step in range(400)]
    assert {name: seen.count(name) for name in seen} == {f"{s}->{d}": 100 for s, d in pairs}


def test_c11_permutation_moves_elements_and_leaves_set_losses():
    term = SetTerm("vicreg", ("a", "b"), vicreg)
    model, batch, order = byol(set_terms=[term]), views(7), torch.randperm(7)
    out, moved = model(batch), model({k: v[order] for k, v in batch.items()})
    for name, elements in out.elements.items():
        torch.testing.assert_close(moved.elements[name], elements[order])
    torch.testing.assert_close(moved.terms["vicreg"], out.terms["vicreg"])


def test_c12_loss_is_float32_under_autocast():
    model = byol()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(views())
    assert out.predictions[("a", "p")].dtype == torch.bfloat16
    assert out.loss.dtype == torch.float32
    assert all(e.dtype == torch.float32 for e in out.elements.values())
    reference = cosine_distance(q=out.predictions[("a", "p")].float(), target=out.target["b"].z.float())
    torch.testing.assert_close(out.elements["a->b"], 2 * reference)


def test_i1_target_is_not_in_the_optimiser():
    model = byol()
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert not trainable & {id(p) for p in model.target.parameters()}
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})


def test_i3_elements_keep_gradient_and_mean_to_the_terms():
    out = byol()(views())
    assert out.elements["a->b"].requires_grad
    torch.testing.assert_close(out.elements["a->b"].mean().detach(), out.terms["a->b"])
    torch.testing.assert_close(out.loss.detach(), out.terms["a->b"] + out.terms["b->a"])


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: byol(norm="layer"), None),
        (lambda: byol(norm="gn_ws"), None),
        (lambda: byol(norm="none"), None),
        (lambda: byol(norm="batch"), "branches.net.projector"),
        (lambda: byol(predictor=mlp_predictor(WIDTH, 16, norm="batch")), "predictors.p"),
        (lambda: byol(set_terms=[SetTerm("vicreg", ("a", "b"), vicreg)]), "set_terms.vicreg"),
    ],
)
def test_i5_coupling_is_declared(build, reason):
    model = build()
    assert model.couples_samples == (reason is not None)
    if reason is not None:
        assert any(r.startswith(reason) for r in model.coupling_reasons())
    assert not model.encoder_couples_samples
    assert byol(norm="batch").eval().couples_samples is False


def test_i5_declaration_matches_behaviour():
    batch = views(6)
    changed = {k: torch.cat([v[:1], torch.randn(5, 6)]) for k, v in batch.items()}
    for norm in ("layer", "gn_ws", "none", "batch"):
        model = byol(norm=norm)
        same = torch.allclose(model(batch).elements["a->b"][0], model(changed).elements["a->b"][0], atol=1e-6)
        assert same != model.couples_samples, norm


def test_i5_encoder_coupling():
    model = byol()
    model.branches["net"].encoder.append(nn.BatchNorm1d(16))
    assert model.encoder_couples_samples


def test_i6_view_batching_differs_only_through_batch_statistics():
    batch = {"a": torch.randn(5, 6), "b": 3 + torch.randn(5, 6)}
    for norm, equal in (("layer", True), ("batch", False)):
        model = byol(norm=norm, source="frozen")
        model.branches["net"].encoder.append(mlp_head([16, 16, 16], norm=norm))
        model.target = Target(dict(model.branches.items()), source="frozen")
        separate = model(batch).loss
        model.view_batching = "concat"
        assert torch.allclose(separate, model(batch).loss, atol=1e-5) == equal


def test_each_view_is_encoded_once_per_network():
    model = byol()
    calls = []
    for name, net in (("online", model.branches["net"]), ("target", model.target.branch("net"))):
        net.encoder.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.plan = [Edge(s, d, "p") for s in "ab" for d in "ab"]
    model(views())
    assert sorted(calls) == ["online", "online", "target", "target"]


def test_masked_rows_count_zero_in_a_mean_over_all_rows():
    model, batch = byol(), views(4)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    model.plan = [Edge("a", "b", "p", mask="both")]
    full = model(batch).elements["a->b"]
    out = model(batch, Ctx(masks={"both": mask}))
    torch.testing.assert_close(out.loss, (full * mask).sum() / 4)


def test_auxiliary_losses_join_once():
    class WithAux(Learned):
        def forward(self, z, ctx):
            q, *_ = super().forward(z, ctx)
            return type(super().forward(z, ctx))(q, {"critic": z.square().mean(-1)})

    model, batch = byol(predictor=WithAux(nn.Linear(WIDTH, WIDTH))), views()
    model.plan = [Edge("a", "b", "p"), Edge("a", "a", "p")]
    out = model(batch)
    expected = out.terms["a->b"] + out.terms["a->a"] + out.terms["a/p/critic"]
    torch.testing.assert_close(out.loss.detach(), expected)


def test_set_term_on_predictions_and_data():
    def spread(*, x, y, labels=None):
        return (x - y).square().mean() + (labels.float().mean() if labels is not None else 0.0), {}

    term = SetTerm("s", ("a", "b"), spread, keys=("x", "y"), on="q", predictor=("p", "p"), data=("labels",), weight=2.0)
    model, batch = byol(set_terms=[term]), views()
    out = model(batch, Ctx(data={"labels": torch.ones(5)}))
    q = out.predictions
    expected = (q[("a", "p")] - q[("b", "p")]).square().mean() + 1
    torch.testing.assert_close(out.terms["s"], expected.detach())
    torch.testing.assert_close(out.loss.detach(), out.terms["a->b"] + out.terms["b->a"] + 2 * expected.detach())


def test_embed_runs_only_the_online_network():
    model, batch = byol(), views()
    result = model.embed({"a": batch["a"]})
    assert set(result) == {"a"}
    assert set(result["a"]) == {"y", "z", "q"}
    torch.testing.assert_close(result["a"]["q"], model(batch).predictions[("a", "p")])


def test_mapping_inputs_are_keyword_arguments():
    class Masked(nn.Module):
        def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
            return ids.float() * keep

    online = {"net": Branch(Masked())}
    model = Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=Target(online),
        predictors={"p": linear_predictor(4)},
        plan=[Edge("a", "b", "p")],
        view_batching="concat",
    )
    x = {"ids": torch.ones(2, 4, dtype=torch.int64), "keep": torch.ones(2, 4)}
    assert model({"a": x, "b": x}).target["b"].z.shape == (2, 4)


def test_target_modes_and_errors():
    online = {"net": branch("batch")}
    with pytest.raises(ValueError, match="never updates BatchNorm"):
        Target(online, mode="eval", buffers="own")
    target = Target(online, mode="eval", buffers="copy")
    assert not any(m.training for m in target.modules())
    with pytest.raises(ValueError, match="source='emma'"):
        Target(online, source="emma")
    with pytest.raises(ValueError, match="'c'; known are"):
        Bootstrap(online, {"a": "net"}, target=Target(online), plan=[Edge("a", "c")])
    with pytest.raises(ValueError, match="predictor 'x'"):
        Bootstrap(online, {"a": "net"}, target=Target(online), plan=[Edge("a", "a", "x")])
    with pytest.raises(ValueError, match="needs a target"):
        Bootstrap(online, {"a": "net"}, plan=[Edge("a", "a")])
    with pytest.raises(KeyError, match="missing from the batch"):
        byol()({"a": torch.randn(2, 6)})


class WindowedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_norm = WindowBatchNorm2d(3, mode="window")
        self.linear = nn.Linear(3, 6)

    def norm_input(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.input_norm(x).mean((2, 3)))


@pytest.mark.parametrize("batching", ["separate", "concat"])
def test_windowed_input_norm_equals_the_full_batch(batching):
    online = {"net": Branch(WindowedEncoder())}
    model = Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=Target(online, tau=0.9),
        predictors={"p": linear_predictor(6)},
        plan=[Edge("a", "b", "p"), Edge("b", "a", "p")],
        view_batching=batching,
    )
    assert not model.couples_samples
    full = {"a": torch.randn(6, 3, 4, 4), "b": 2 + torch.randn(6, 3, 4, 4)}
    micro = [{k: v[:2] for k, v in full.items()}, {k: v[2:] for k, v in full.items()}]
    reference = model(full).elements["a->b"]
    ordinary = copy.deepcopy(model.branches["net"].encoder.input_norm)
    model.begin_window(micro)
    parts = torch.cat([model(views).elements["a->b"] for views in micro])
    model.end_window()
    torch.testing.assert_close(parts, reference, rtol=1e-4, atol=1e-5)
    norm = model.branches["net"].encoder.input_norm
    assert not norm._windows
    assert norm.num_batches_tracked - ordinary.num_batches_tracked == (2 if batching == "separate" else 1)


def test_a_row_mask_covers_time_and_horizon():
    online = {"net": Branch(nn.Linear(6, WIDTH))}
    model = Bootstrap(
        online,
        {"obs": "net"},
        target=Target(online),
        predictors={"p": linear_predictor(WIDTH)},
        plan=[Edge("obs", "obs", "p", mask="alive")],
    )
    x, mask = torch.randn(4, 4, 6), torch.tensor([1.0, 0, 0, 0])
    elements = model({"obs": x}, Ctx(masks={"alive": mask})).elements["obs->obs"]
    assert (elements[1:] == 0).all()
    assert (elements[0] != 0).all()
    with pytest.raises(ValueError, match="does not fit elements"):
        model({"obs": x}, Ctx(masks={"alive": torch.ones(3)}))
    with pytest.raises(KeyError, match="'alive' is not among"):
        model({"obs": x}, Ctx(masks={"other": mask}))


def test_concat_keeps_rows_with_their_view():
    model = byol(norm="layer", source="frozen")
    batch = {"a": torch.randn(6, 6), "b": torch.randn(2, 6)}
    separate = model.encode(batch)
    model.view_batching = "concat"
    together = model.encode(batch)
    for view in ("a", "b"):
        torch.testing.assert_close(together.online[view], separate.online[view])


def test_concat_shares_the_statistics_of_encoder_and_projector():
    model, batch = byol(norm="batch", source="frozen"), views()
    model.view_batching = "concat"
    out = model(batch)
    assert model.target is not None
    for latents, network in ((out.online, model.branches["net"]), (out.target, model.target.branch("net"))):
        together = network(torch.cat([batch["a"], batch["b"]])).z.split(len(batch["a"]))
        for view, expected in zip(("a", "b"), together, strict=True):
            if view in latents:
                torch.testing.assert_close(latents[view].z, expected)


def test_edges_with_equal_ends_need_labels():
    model, batch = byol(), views()
    model.predictors["other"] = linear_predictor(WIDTH)
    model.plan = [Edge("a", "b", "p"), Edge("a", "b", "other")]
    with pytest.raises(ValueError, match="give edges with equal ends a label"):
        model(batch)
    model.plan = [Edge("a", "b", "p"), Edge("a", "b", "other", label="equivariant")]
    out = model(batch)
    assert set(out.elements) == {"a->b", "equivariant"}
    torch.testing.assert_close(out.loss.detach(), out.terms["a->b"] + out.terms["equivariant"])


def test_plans_are_checked_when_they_come_and_embed_follows_the_step():
    model = byol()
    model.plan = lambda step: [Edge("a", "b", "p")] if step == 0 else [Edge("b", "a", "q" if step == 2 else "p")]
    with pytest.raises(ValueError, match="predictor 'q'"):
        model(views(), step=2)
    assert "q" in model.embed({"b": torch.randn(2, 6)}, step=1)["b"]
    model.plan = lambda step: []
    with pytest.raises(ValueError, match="nothing to learn"):
        model(views())


def test_a_branch_named_encoder_is_no_encoder():
    online = {"encoder": branch("batch")}
    model = Bootstrap(online, {"a": "encoder"}, target=Target(online), plan=[Edge("a", "a")])
    assert model.couples_samples
    assert not model.encoder_couples_samples


def test_set_terms_can_read_the_target_and_be_per_row():
    def rows(*, q, z):
        return cosine_distance(q=q, target=z).mean(), {}

    term = SetTerm("rows", ("a", "b"), rows, keys=("q", "z"), on=("q", "target"), predictor=("p", None), couples=False)
    model = byol(set_terms=[term], pair=cosine_distance)
    out = model(views())
    torch.testing.assert_close(out.terms["rows"], out.terms["a->b"])
    assert not model.couples_samples
    assert out.target["b"].z.grad_fn is None


def test_concat_and_self_are_refused_together():
    online = {"net": branch()}
    with pytest.raises(ValueError, match="does not go with"):
        Bootstrap(online, {"a": "net"}, target=Target(online, source="self"), plan=[], view_batching="concat")


def test_windows_hold_what_the_step_encodes():
    online = {"net": Branch(WindowedEncoder())}
    model = Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=Target(online, tau=0.9),
        predictors={"p": linear_predictor(6)},
        plan=[Edge("a", "b", "p")],
    )
    full = {"a": torch.randn(6, 3, 4, 4), "b": 2 + torch.randn(6, 3, 4, 4)}
    model.begin_window([full])
    model.end_window()
    assert model.branches["net"].encoder.input_norm.num_batches_tracked == 1
    assert model.target.branch("net").encoder.input_norm.num_batches_tracked == 1
    torch.testing.assert_close(
        model.branches["net"].encoder.input_norm.running_mean, 0.1 * full["a"].mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("norm", ["batch", "gn_ws", "layer"])
def test_predictors_take_any_leading_dims(norm):
    predictor = mlp_predictor(WIDTH, 32, norm=norm)
    z = torch.randn(5, 32, WIDTH)
    q = predictor(z, Ctx()).q
    torch.testing.assert_close(q, predictor(z.reshape(-1, WIDTH), Ctx()).q.view_as(q))
    changed = z.clone()
    changed[0, 1:] = torch.randn(31, WIDTH)
    same = torch.allclose(predictor(changed, Ctx()).q[0, 0], q[0, 0], atol=1e-6)
    assert same != predictor.couples_samples
