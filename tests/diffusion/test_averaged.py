"""Both baselines under ``fit``: they learn a law to its entropy, and resume to the bit."""

import pytest
import torch

from byol_ext.diffusion.autoregressive import Autoregressive, AutoregressiveConfig, token_nll
from byol_ext.diffusion.averaged import Averaged
from byol_ext.diffusion.mdlm import MDLM, MDLMConfig, bound
from byol_ext.diffusion.times import TokenContext
from byol_ext.diffusion.transformer import TransformerConfig
from byol_ext.training import LoaderSource, ResumableSampler, Run, Trainable, TrainConfig, fit

V, L = 4, 4
SIZE = TransformerConfig(width=16, depth=1, heads=2)


class CyclicWords(torch.utils.data.Dataset):
    """The first token is uniform; each visible token then says all others."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        ident, epoch = index
        return {"tokens": (torch.arange(L) + ident) % V, "id": ident, "epoch": epoch}


def built(kind):
    torch.manual_seed(0)
    model = MDLM(MDLMConfig(V, SIZE)) if kind == "mdlm" else Autoregressive(AutoregressiveConfig(V, SIZE))
    return Averaged(model, ema=0.9)


def train(kind, folder, steps, *, resume=False, accumulate_steps=1):
    model = built(kind)
    config = TrainConfig(
        steps=steps,
        lr=1e-2,
        warmup=0.0,
        schedule="const",
        device="cpu",
        accumulate_steps=accumulate_steps,
        trackers=(),
        log_every=1000,
        monitor_every=0,
    )
    source = LoaderSource(CyclicWords(), ResumableSampler(40, 20, rank=0, world_size=1))
    run = Run.create(folder, recipe="cdcd", resume=resume)
    fit(model, source, config, prepare=TokenContext(0), run=run, resume=resume)
    return model


@pytest.mark.parametrize("kind", ["mdlm", "ar"])
def test_it_learns_cyclic_words_to_their_entropy(kind, tmp_path):
    average = train(kind, tmp_path, 120).average.eval()
    words = torch.stack([(torch.arange(L) + i) % V for i in range(V)])
    if kind == "mdlm":
        nats_B = bound(average, words, draws=5 * L, generator=torch.Generator().manual_seed(0)) * L
    else:
        nats_B = token_nll(average, words).detach().sum(1)
    entropy = float(torch.tensor(V).log())
    assert entropy - 0.1 < float(nats_B.mean()) < 0.55 * L * entropy  # without learning L * entropy


@pytest.mark.parametrize("kind", ["mdlm", "ar"])
def test_a_resumed_run_equals_an_uninterrupted_one(kind, tmp_path):
    whole = train(kind, tmp_path / "whole", 6, accumulate_steps=2)
    train(kind, tmp_path / "parts", 3, accumulate_steps=2)
    resumed = train(kind, tmp_path / "parts", 6, resume=True, accumulate_steps=2)
    state, fresh = whole.state_dict(), built(kind).state_dict()
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in state.items())
    assert not torch.equal(state["model.output.weight"], fresh["model.output.weight"])


def test_the_average_follows_the_weights_and_is_not_trained():
    model = built("ar")
    assert isinstance(model, Trainable)
    assert not any(p.requires_grad for p in model.average.parameters())
    with torch.no_grad():
        model.model.output.bias.fill_(1.0)
    assert model.after_step(0) == {"ema/decay": pytest.approx(0.1)}
    torch.testing.assert_close(model.average.output.bias, torch.full((V,), 0.9))


def test_only_modules_are_averaged():
    with pytest.raises(TypeError, match="a object"):
        Averaged(object())
