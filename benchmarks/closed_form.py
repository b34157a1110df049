"""What a closed-form predictor costs beside a BYOL step: ResNet-18 for 32 x 32 images, batch 128, width 256.

A predictor's time is everything it does in a step with two symmetric edges: moments, formula, two predictions with
their backward, commit. The step is forward, backward, AdamW and target update of BYOL with a trained linear predictor.
Claim: each adds less than 5 % to a step.

    python benchmarks/closed_form.py [--rounds 20] [--steps 3] [--batch 128] [--width 256] [--double]
"""

import argparse
import statistics
import time

import torch
import torchvision
from torch import nn

from byol_ext import Bootstrap, Branch, Ctx, Edge, Target
from byol_ext.closed_form import ClosedForm, direct_copy, direct_pred
from byol_ext.heads import mlp_head
from byol_ext.losses.pair import normalized_mse
from byol_ext.predictors import Fitted, Predictor, linear_predictor
from byol_ext.spectral_filters import LeastSquares, Neumann, NewtonSchulz, Stiefel, Visser

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def seconds(call) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def median(call, rounds: int, warm_up: int) -> float:
    times = [seconds(call) for _ in range(rounds + warm_up)][warm_up:]
    return statistics.median(times)


def byol_step(batch: int, width: int):
    """One training step of BYOL with a trained linear predictor."""
    net = torchvision.models.resnet18(weights=None)
    net.conv1, net.maxpool, net.fc = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity(), nn.Identity()
    online = {"net": Branch(net, mlp_head([512, 4096, width], out_bias=False))}
    model = Bootstrap(
        online,
        {"a": "net", "b": "net"},
        target=Target(online, tau=0.99),
        predictors={"p": linear_predictor(width)},
        plan=[Edge("a", "b", "p"), Edge("b", "a", "p")],
        pair=normalized_mse,
    ).to(DEVICE)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3, fused=True)
    views = {name: torch.randn(batch, 3, 32, 32, device=DEVICE) for name in "ab"}

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=DEVICE == "cuda"):
            loss = model(views).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        model.after_step(0)

    return step


def predictor_step(predictor: Predictor, batch: int, width: int):
    """Everything that a predictor does in such a step."""
    predictor.to(DEVICE)
    z = [torch.randn(batch, width, device=DEVICE, requires_grad=True) for _ in range(2)]
    target = [torch.randn(batch, width, device=DEVICE) for _ in range(2)]
    ones = torch.ones(batch, width, device=DEVICE)

    def step() -> None:
        if isinstance(predictor, Fitted):
            predictor.observe(list(zip(z, target, strict=True)))
        for latents in z:
            latents.grad = None
            predictor(latents, Ctx()).q.backward(ones)
        predictor.commit()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3, help="training steps timed")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--double", action="store_true", help="float64 instead of float32")
    args = parser.parse_args()
    torch.manual_seed(0)
    width, dtype = args.width, torch.float64 if args.double else torch.float32
    kinds = {
        "LRP": LeastSquares(),
        "LRP, damped": LeastSquares(damping=1e-4),
        "NE": Neumann(),
        "Visser, 40": Visser(),
        "NS, 9": NewtonSchulz(),
        "NS^2, 7": NewtonSchulz(steps=7, times=2),
        "Stiefel, 9": Stiefel(),
    }
    predictors: dict[str, Predictor] = {"trained linear": linear_predictor(width)}
    predictors |= {name: ClosedForm(width, kind, ridge=0.3, dtype=dtype) for name, kind in kinds.items()}
    predictors |= {"DirectPred": direct_pred(width, dtype=dtype), "DirectCopy": direct_copy(width, dtype=dtype)}
    step = median(byol_step(args.batch, width), args.steps, 1)
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"batch {args.batch}, width {width}, {str(dtype)[6:]}, {where}, torch {torch.__version__}")
    print(f"{'BYOL step':16}{1e3 * step:10.2f} ms")
    print(f"{'predictor':16}{'ms':>10}{'% of step':>12}")
    for name, predictor in predictors.items():
        own = median(predictor_step(predictor, args.batch, width), args.rounds, 3)
        print(f"{name:16}{1e3 * own:10.2f}{100 * own / step:12.2f}", flush=True)


if __name__ == "__main__":
    main()
