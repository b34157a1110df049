import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from byol_ext.metrics.probes import ProbeResult, Split, knn_probe, linear_probe, mlp_probe, probe_summary


@pytest.fixture(scope="module")
def digits() -> tuple[Split, Split, Split]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:900]
    x_ND, y_N = torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order])
    return Split(x_ND[:400], y_N[:400]), Split(x_ND[400:600], y_N[400:600]), Split(x_ND[600:], y_N[600:])


def test_plain_knn_equals_sklearn(digits):
    train, _, test = digits
    reference = KNeighborsClassifier(20, metric="cosine").fit(train.x_ND.numpy(), train.y_N.numpy())
    ours = knn_probe(train=train, test=test, vote="plain", chunk=64)
    agree = (ours.score_NC.argmax(dim=1).numpy() == reference.predict(test.x_ND.numpy())).mean()
    assert agree > 0.99  # equal but for ties at the 20th neighbour


def test_softmax_knn_equals_sklearn_weights(digits):
    train, _, test = digits
    reference = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(train.x_ND.numpy(), train.y_N.numpy())  # fmt: skip
    ours = knn_probe(train=train, test=test)
    assert ours.metrics["accuracy"] == pytest.approx(reference.score(test.x_ND.numpy(), test.y_N.numpy()), abs=0.005)
    assert ours.metrics["accuracy"] > 0.9


def test_knn_falls_back_to_the_whole_training_set():
    split = Split(torch.eye(3), torch.arange(3))
    result = knn_probe(train=split, test=split, k=20)
    assert result.chosen == {"k": 3.0}
    assert result.metrics == {"accuracy": 1.0}


@pytest.mark.parametrize("c", [1e-3, 0.1])
def test_linear_probe_equals_sklearn_at_equal_c(digits, c):
    train, validation, test = digits
    scaler = StandardScaler().fit(train.x_ND.numpy().astype(np.float64))
    reference = LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(
        scaler.transform(train.x_ND.double().numpy()), train.y_N.numpy()
    )
    scores = reference.decision_function(scaler.transform(test.x_ND.double().numpy()))
    ours = linear_probe(train=train, validation=validation, test=test, c_grid=(c,))
    centred = ours.score_NC - ours.score_NC.mean(dim=1, keepdim=True)
    expected = scores - scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_linear_probe_chooses_on_validation_and_never_on_test(digits):
    train, validation, test = digits
    chosen = linear_probe(train=train, validation=validation, test=test)
    lie = linear_probe(train=train, validation=validation, test=Split(test.x_ND, (test.y_N + 1) % 10))
    assert lie.chosen == chosen.chosen
    assert lie.validation == chosen.validation
    assert torch.equal(lie.score_NC, chosen.score_NC)
    assert chosen.metrics["accuracy"] > 0.9


def test_linear_probe_splits_the_training_set_by_seed_when_no_validation_is_given(digits):
    train, _, test = digits
    a, b = (linear_probe(train=train, test=test, seed=3, c_grid=(1e-3, 1.0)) for _ in range(2))
    assert torch.equal(a.score_NC, b.score_NC)
    # The refit uses all of train: the same as being told C.
    told = linear_probe(train=train, validation=test, test=test, c_grid=(a.chosen["C"],))
    assert torch.allclose(a.score_NC, told.score_NC, atol=1e-4)


def test_standardisation_ignores_the_scale_and_constant_features(digits):
    train, validation, test = digits

    def move(split: Split) -> Split:
        return Split(torch.cat([1e3 * split.x_ND + 7, torch.full((len(split.x_ND), 1), 5.0)], dim=1), split.y_N)

    plain = linear_probe(train=train, validation=validation, test=test, c_grid=(0.1,))
    moved = linear_probe(train=move(train), validation=move(validation), test=move(test), c_grid=(0.1,))
    assert torch.allclose(plain.score_NC, moved.score_NC, atol=1e-2)


def tags(seed: int, n: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, generator=generator)
    y = (x[:, :4] + 0.3 * torch.randn(n, 4, generator=generator) > 0).float()
    y[torch.rand(n, 4, generator=generator) < 0.3] = float("nan")
    return Split(x, y)


def test_linear_probe_on_partly_labelled_tags():
    result = linear_probe(train=tags(0, 300), validation=tags(1, 100), test=tags(2, 200))
    assert result.metrics["auroc"] > 0.95
    assert set(result.metrics) == {"auroc", "mAP", "mAR"}


def test_unknown_tags_carry_no_loss():
    full = tags(0, 100)
    hidden = Split(full.x_ND, full.y_N.clone())
    keep = ~torch.isnan(full.y_N[:, 0])
    reference = LogisticRegression(C=1.0, max_iter=5000, tol=1e-9)
    x = full.x_ND.double()
    scaled = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    # Ours divides the loss by all items, also those whose label is unknown, so C is the same number here.
    reference.fit(scaled[keep], full.y_N[keep, 0].numpy())
    ours = linear_probe(train=hidden, validation=tags(1, 50), test=full, c_grid=(1.0,))
    np.testing.assert_allclose(ours.score_NC[:, 0].numpy(), reference.decision_function(scaled), atol=2e-3)


def test_mlp_probe_solves_what_a_linear_one_cannot_and_is_seeded():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(900, 2, generator=generator)
    y = ((x[:, 0] * x[:, 1]) > 0).long()
    train, validation, test = (Split(x[i : i + 300], y[i : i + 300]) for i in (0, 300, 600))
    options = {"train": train, "validation": validation, "test": test}
    state = torch.random.get_rng_state()
    first = mlp_probe(**options, lr=3e-3, max_epochs=30, seeds=(0, 1))
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is left alone
    again = mlp_probe(**options, lr=3e-3, max_epochs=30, seeds=(0,))
    assert torch.equal(first[0].score_NC, again[0].score_NC)
    assert not torch.equal(first[0].score_NC, first[1].score_NC)
    assert min(result.metrics["accuracy"] for result in first) > 0.9
    assert linear_probe(**options).metrics["accuracy"] < 0.65


def test_mlp_probe_stops_early_and_keeps_the_best_epoch():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 20, generator=generator), torch.randint(0, 2, (60,), generator=generator)
    noise = Split(x[:30], y[:30]), Split(x[30:], y[30:])
    result = mlp_probe(
        train=noise[0], validation=noise[1], test=noise[1], lr=1e-2, max_epochs=200, patience=5, seeds=(0,)
    )  # fmt: skip
    assert result[0].chosen["epochs"] < 20


def test_summary_over_seeds():
    results = [ProbeResult({"accuracy": value}, value, {}, torch.zeros(1, 1)) for value in (0.4, 0.6)]
    summary = probe_summary(results, prefix="probe/mlp")
    assert summary["probe/mlp_accuracy"] == pytest.approx(0.5)
    assert summary["probe/mlp_accuracy_sd"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    with pytest.raises(ValueError, match="no probe results"):
        probe_summary([], prefix="x")


def test_bad_inputs():
    good = Split(torch.randn(10, 3), torch.arange(10) % 2)
    with pytest.raises(ValueError, match="one target an item"):
        Split(torch.randn(3, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="NaN"):
        Split(torch.full((3, 2), float("nan")), torch.zeros(3))
    with pytest.raises(ValueError, match="splits differ"):
        linear_probe(train=good, validation=good, test=Split(torch.randn(4, 5), torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(ValueError, match="integers"):
        linear_probe(train=Split(torch.randn(10, 3), torch.rand(10)), test=good, validation=good)
    with pytest.raises(ValueError, match="c_grid"):
        linear_probe(train=good, test=good, c_grid=())
    with pytest.raises(ValueError, match="one side empty"):
        linear_probe(train=Split(torch.randn(2, 3), torch.tensor([0, 1])), test=good)
    with pytest.raises(ValueError, match="class numbers"):
        knn_probe(train=Split(torch.randn(4, 2), torch.zeros(4, 2)), test=good)
    with pytest.raises(ValueError, match="k = 0"):
        knn_probe(train=good, test=good, k=0)
