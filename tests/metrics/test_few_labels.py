import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from byol_ext.metrics.few_labels import few_label_probe, label_subset
from byol_ext.metrics.probes import Split


@pytest.fixture(scope="module")
def digits() -> tuple[Split, Split]:
    x, y = (torch.from_numpy(v) for v in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float(), y[order]
    return Split(x[:1200], y[:1200]), Split(x[1200:1500], y[1200:1500])


def test_subsets_are_balanced_nested_and_seeded():
    label = torch.arange(10).repeat_interleave(100)
    one, ten = (label_subset(label, share=s, seed=3) for s in (0.01, 0.1))
    assert label[one].bincount().tolist() == [1] * 10
    assert label[ten].bincount().tolist() == [10] * 10
    assert set(one.tolist()) < set(ten.tolist())
    assert torch.equal(one, label_subset(label, share=0.01, seed=3))
    assert not torch.equal(one, label_subset(label, share=0.01, seed=4))
    assert torch.equal(label_subset(label, share=1.0, seed=0), torch.arange(1000))


def test_rare_classes_keep_one_item():
    label = torch.tensor([0] * 99 + [7])
    assert 99 in label_subset(label, share=0.01, seed=0)


def test_more_labels_are_better_and_no_label_outside_the_subset_counts(digits):
    train, test = digits
    few = few_label_probe(train=train, test=test, share=0.01, seeds=(0, 1))
    more = few_label_probe(train=train, test=test, share=0.1, seeds=(0, 1), c_grid=(0.01, 0.1))
    assert few["few_labels/1%/items"] == 10.0
    assert few["few_labels/1%/seeds"] == 2.0
    assert 0.4 < few["few_labels/1%/accuracy"] < more["few_labels/10%/accuracy"] - 0.05
    assert more["few_labels/10%/accuracy"] > 0.85
    kept = label_subset(train.y_N, share=0.1, seed=0)
    spoiled = torch.zeros_like(train.y_N)
    spoiled[kept] = train.y_N[kept]
    hidden = Split(train.x_ND[kept], spoiled[kept])
    alone = few_label_probe(train=hidden, test=test, share=1.0, seeds=(0,), c_grid=(0.01,))
    same = few_label_probe(train=train, test=test, share=0.1, seeds=(0,), c_grid=(0.01,))
    assert alone["few_labels/100%/accuracy"] == same["few_labels/10%/accuracy"]


def test_equals_sklearn_on_the_subset(digits):
    train, test = digits
    kept = label_subset(train.y_N, share=0.1, seed=5)
    scaler = StandardScaler().fit(train.x_ND[kept].double().numpy())
    reference = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(
        scaler.transform(train.x_ND[kept].double().numpy()), train.y_N[kept].numpy()
    )
    expected = reference.score(scaler.transform(test.x_ND.double().numpy()), test.y_N.numpy())
    found = few_label_probe(train=train, test=test, share=0.1, seeds=(5,), c_grid=(0.1,))
    assert found["few_labels/10%/accuracy"] == pytest.approx(expected, abs=0.004)


def test_strength_is_chosen_inside_the_subset():
    # One informative feature with wrong labels sprinkled in, and many that are noise: a weak penalty overfits.
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(800) % 2
    x = torch.randn(800, 60, generator=generator)
    x[:, 0] += 3.0 * (2 * y - 1)
    wrong = torch.where(torch.rand(800, generator=generator) < 0.2, 1 - y, y)
    train, test = Split(x[:120], wrong[:120]), Split(x[120:], y[120:])
    chosen, strong, weak = (
        few_label_probe(train=train, test=test, share=0.5, seeds=(0,), c_grid=grid)["few_labels/50%/accuracy"]
        for grid in ((0.03, 1e4), (0.03,), (1e4,))
    )
    assert chosen == strong > weak + 0.05


def test_bad_input_is_refused(digits):
    with pytest.raises(ValueError, match="share"):
        label_subset(torch.tensor([0, 1]), share=0.0, seed=0)
    with pytest.raises(ValueError, match="class numbers"):
        label_subset(torch.tensor([0.0, 1.0]), share=0.5, seed=0)
    with pytest.raises(ValueError, match="c_grid"):
        few_label_probe(train=digits[0], test=digits[1], share=0.1, c_grid=())
