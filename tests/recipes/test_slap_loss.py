"""SLAP's loss on the core's edges: T1-T3 of the specification (slap 16), row masks, CLAP through the same code."""

import pytest
import torch
from torch import nn

from byol_ext.bootstrap import Bootstrap, Branch, Ctx, Target
from byol_ext.predictors import Learned
from recipes.slap_config import EmaConfig, HeadConfig, LossConfig
from recipes.slap_model import build_bootstrap, slap_edges


class Table(nn.Module):
    """Latents that are given, so that the four distances can be chosen."""

    width = 2

    def forward(self, x):
        return x


class Fixed(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.as_tensor(value, dtype=torch.float64))

    def forward(self, z):
        return self.value.expand_as(z)


def wired(lam, *, q_audio, q_text, z_audio, z_text):
    """SLAP's graph with chosen predictions and target latents; rows are one pair."""
    online = {"audio": Branch(Table()), "text": Branch(Table())}
    model = Bootstrap(
        online,
        {"audio": "audio", "text": "text"},
        target=Target(online),
        predictors={"audio": Learned(Fixed(q_audio)), "text": Learned(Fixed(q_text))},
        plan=slap_edges(lam),
    )
    views = {"audio": torch.tensor([z_audio], dtype=torch.float64), "text": torch.tensor([z_text], dtype=torch.float64)}
    return model(views)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_t1_loss_equals_hand_computed_values(lam):
    out = wired(lam, q_audio=[3.0, 4.0], q_text=[1.0, 0.0], z_audio=[0.0, 2.0], z_text=[4.0, 3.0])
    # cos(qA, zT) = 24/25, cos(qT, zA) = 0, cos(qA, zA) = 4/5, cos(qT, zT) = 4/5
    assert out.terms["audio->text"].item() == pytest.approx(1 - 24 / 25)
    assert out.terms["text->audio"].item() == pytest.approx(1.0)
    assert out.terms["audio->audio"].item() == pytest.approx(1 - 4 / 5)
    assert out.terms["text->text"].item() == pytest.approx(1 - 4 / 5)
    assert out.loss.item() == pytest.approx(lam * (1 / 25 + 1) + (1 - lam) * (1 / 5 + 1 / 5))


@pytest.mark.parametrize(
    ("one", "total"), [("audio->text", 0.8), ("text->audio", 0.8), ("audio->audio", 0.2), ("text->text", 0.2)]
)
def test_t2_each_term_has_its_own_weight(one, total):
    # Three zero distances make all four vectors parallel, so no vectors leave exactly one distance at 1: the pair
    # loss is replaced by one that recognises its arguments, which also catches a swap of query and target.
    src, dst = one.split("->")
    online = {"audio": Branch(Table()), "text": Branch(Table())}
    edges = slap_edges(0.8)

    def pair(*, q, target):
        return (q[..., 0] == code[src]).double() * (target[..., 1] == code[dst]).double()

    code = {"audio": 1.0, "text": 2.0}
    model = Bootstrap(
        online,
        {"audio": "audio", "text": "text"},
        target=Target(online),
        predictors={v: Learned(nn.Identity()) for v in code},
        plan=edges,
        pair=pair,
    )
    out = model({view: torch.full((3, 2), value, dtype=torch.float64) for view, value in code.items()})
    assert out.loss.item() == pytest.approx(total)
    assert out.terms[one].item() == 1.0
    assert sum(t.item() for t in out.terms.values()) == 1.0


class Encoder(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(6, width), nn.Tanh())

    def forward(self, x):
        return self.net(x)


def build(**loss) -> Bootstrap:
    heads = HeadConfig(dim=8, projector_hidden=16, predictor_hidden=16, predictor_norm="layer")
    return build_bootstrap(
        Encoder(), Encoder(), heads=heads, loss=LossConfig(**loss), ema=EmaConfig(), steps=10, batch=4
    )


def views(batch=4):
    return {"audio": torch.randn(batch, 6), "text": torch.randn(batch, 6)}


def test_t3_gradients():
    model = build()
    out = model(views())
    assert set(out.terms) == {"audio->text", "text->audio", "audio->audio", "text->text"}
    assert 0 <= out.loss.item() <= 4
    out.loss.backward()
    assert all(p.grad is None for p in model.target.parameters())
    for name, p in model.named_parameters():
        if not name.startswith("target."):
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_audio_only_and_text_only_rows_train_their_intra_terms():
    model, batch = build(lam=0.3), views(4)
    audio, text = torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, 0, 1, 1])
    out = model(batch, Ctx(masks={"audio": audio, "text": text, "both": audio * text}))
    full = model(batch).elements
    expected = (
        0.3 * (full["audio->text"] + full["text->audio"]) * audio * text
        + 0.7 * (full["audio->audio"] * audio + full["text->text"] * text)
    ).mean()
    torch.testing.assert_close(out.loss, expected)
    out.loss.backward()
    assert torch.isfinite(out.loss)


@pytest.mark.parametrize("name", ["clap-infonce", "clap-sigmoid"])
def test_clap_shares_towers_and_has_a_learnable_temperature(name):
    model = build(name=name)
    assert model.target is None
    assert not model.predictors
    assert model.couples_samples
    out = model(views(), Ctx(masks={"both": torch.tensor([1, 1, 0, 1])}))
    out.loss.backward()
    scale = model.set_terms[0].scale.log_scale
    assert scale.grad is not None
    assert scale.grad != 0
    model.after_step(0)
    assert set(model.branches.state_dict()) == set(build().branches.state_dict())


def test_mask_duplicates_reaches_the_loss():
    batch, ctx = views(), Ctx(data={"groups": torch.tensor([0, 0, 1, 2])})
    torch.manual_seed(0)
    plain = build(name="clap-infonce")
    torch.manual_seed(0)
    masked = build(name="clap-infonce", mask_duplicates=True)
    assert plain(batch, ctx).loss > masked(batch, ctx).loss


def test_controls_are_different_graphs():
    assert not build(predictor=False).predictors
    leaking = build(stop_gradient=False)
    assert leaking.target is None
    out = leaking(views())
    assert set(out.terms) == {"audio->text", "text->audio", "audio->audio", "text->text"}
    out.loss.backward()
    none = build(predictor=False, stop_gradient=False)(views())
    expected = torch.stack(list(none.terms.values())).sum() / 2
    torch.testing.assert_close(none.loss.detach(), expected)


def test_decay_follows_the_batch():
    heads = HeadConfig(dim=8, projector_hidden=16, predictor_hidden=16)
    model = build_bootstrap(
        Encoder(),
        Encoder(),
        heads=heads,
        loss=LossConfig(),
        ema=EmaConfig(tau=0.9, reference_batch=8),
        steps=10,
        batch=16,
    )
    assert model.after_step(0)["ema/tau"] == pytest.approx(0.81)
    cosine = build_bootstrap(
        Encoder(), Encoder(), heads=heads, loss=LossConfig(), ema=EmaConfig(schedule="cosine"), steps=10, batch=4
    )
    assert cosine.after_step(10)["ema/tau"] == pytest.approx(1.0)
