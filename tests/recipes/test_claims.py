"""Claims of the SLAP recipe on ToneCaps, over seeds and with controls (slap 16, T9); minutes, by `make test-all`."""

from dataclasses import replace

import pytest

from recipes.slap import train
from recipes.slap_config import LossConfig, tiny
from recipes.slap_eval import evaluate

pytestmark = pytest.mark.slow


def trained(tmp_path, *, seed, steps=None, **loss):
    preset = tiny()
    config = replace(
        preset,
        root=str(tmp_path),
        seed=seed,
        loss=LossConfig(**loss),
        train=replace(preset.train, seed=seed, steps=steps or preset.train.steps, trackers=()),
    )
    _, towers, splits, run = train(config)
    return evaluate(towers, test=splits.test, config=config, prompts={}).metrics, run.metrics()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["slap", "clap-infonce"])
def test_retrieval_is_five_times_chance_on_unheard_combinations(tmp_path, name, seed):
    metrics, log = trained(tmp_path, seed=seed, name=name)
    for direction in ("text_to_audio", "audio_to_text"):
        assert metrics[f"retrieval/{direction}/R@1"] >= 5 * metrics[f"retrieval/{direction}/chance/R@1"]
    assert metrics["gap/audio/effective_rank"] > 8
    assert metrics["gap/text/effective_rank"] > 8
    assert log[-1]["collapse/collapsed"] == 0


@pytest.mark.parametrize(
    "loss",
    [{"predictor": False}, {"predictor": False, "stop_gradient": False}],
    ids=["no predictor", "no stop-gradient"],
)
def test_controls_collapse_and_the_monitor_says_so(tmp_path, loss, caplog):
    # A collapsed space still ranks by what little is left in it, so the verdict is the spectrum's, not the recall's.
    metrics, log = trained(tmp_path, seed=0, steps=300, **loss)
    assert log[-1]["collapse/collapsed"] == 1
    assert log[-1]["collapse/audio/z/effective_rank"] < 8
    assert "the embeddings have collapsed" in caplog.text
    assert metrics["gap/random_cosine"] > 0.8
