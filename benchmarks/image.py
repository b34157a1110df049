"""The image recipe's training step and augmentation against lightly and torchvision.

1. step: BYOL, SimCLR and VICReg with ResNet-18 for 32 x 32 pictures, batch 128, ours as ``image_methods.build_method``
   makes them against lightly's modules put together as its documentation does: same encoder weights, heads, batch and
   optimiser (fused AdamW), views apart, interleaved. ``--compile`` compiles both sides' encoders. Claim: at most .9x.
2. augment: BYOL's two views of a batch, our batched tensors against torchvision v2 picture by picture, in the same
   process. Claim: at least 5x on the CPU.
3. throughput: pictures a second of BYOL with ResNet-50 at 224 in bfloat16, and the share of the device's ceiling for
   its multiplications, measured on a large matrix product; on a GPU only.

What closed-form predictors add to a step (claim: less than 5 %) is in ``closed_form.py``.

    python benchmarks/image.py [--parts step augment throughput] [--full] [--compile]

On the CPU all figures are CPU-seconds of one thread, so that other load shows little. Small sizes by default (about
two minutes there); --full takes the spec's batch. On a GPU sizes are always full.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from byol_ext.images.augment import IMAGENET_MEAN, IMAGENET_STD
from byol_ext.images.encoders import ImageEncoder, torchvision_resnet
from byol_ext.images.views import byol_views, make_views
from byol_ext.rng import sample_keys
from recipes.image_config import AugmentConfig, DataConfig, ImageConfig, MethodConfig
from recipes.image_method_config import ContrastConfig, TargetConfig
from recipes.image_methods import build_method

METHODS = {
    "BYOL": MethodConfig(name="byol", projector=(4096, 256), target=TargetConfig(tau=0.99)),
    "SimCLR": MethodConfig(name="simclr", projector=(2048, 128), contrast=ContrastConfig(temperature=0.1)),
    "VICReg": MethodConfig(name="vicreg", projector=(2048, 2048, 2048)),
}
"""Widths of lightly's examples for small pictures; VICReg's at a quarter of the paper's."""


@dataclass(frozen=True)
class Scale:
    """Sizes of a run."""

    batch: int
    rounds: int
    pictures: int


def scale_of(device: str, *, full: bool) -> Scale:
    """Sizes for a device."""
    if device == "cuda":
        return Scale(batch=128, rounds=40, pictures=128)
    return Scale(batch=128, rounds=5, pictures=64) if full else Scale(batch=16, rounds=5, pictures=32)


class Ours:
    """A method as the recipe builds it."""

    def __init__(self, name: str, encoder: ImageEncoder, device: str) -> None:
        config = ImageConfig(data=DataConfig("cifar", size=32), augment=AugmentConfig("byol"), method=METHODS[name])
        self.model = build_method(config, encoder, steps=1000).to(device)
        self.optimiser = optimiser(self.model)
        self.step = 0

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """The method's loss."""
        return self.model({"a": first, "b": second}, step=self.step).loss

    def after_step(self) -> None:
        """Move the target."""
        self.model.after_step(self.step)
        self.step += 1


class Lightly:
    """A method from lightly's parts, as its documentation puts them together."""

    def __init__(self, name: str, encoder: ImageEncoder, device: str) -> None:
        from lightly.loss import NegativeCosineSimilarity, NTXentLoss, VICRegLoss
        from lightly.models.modules.heads import (
            BYOLPredictionHead,
            BYOLProjectionHead,
            SimCLRProjectionHead,
            VICRegProjectionHead,
        )
        from lightly.models.utils import deactivate_requires_grad

        heads = {
            "BYOL": lambda: BYOLProjectionHead(512, 4096, 256),
            "SimCLR": lambda: SimCLRProjectionHead(512, 2048, 128),
            "VICReg": lambda: VICRegProjectionHead(512, 2048, 2048),
        }
        losses = {"BYOL": NegativeCosineSimilarity, "SimCLR": lambda: NTXentLoss(temperature=0.1), "VICReg": VICRegLoss}
        self.online = nn.Sequential(encoder, heads[name]()).to(device)
        self.criterion = losses[name]().to(device)
        self.predictor = self.target = None
        if name == "BYOL":
            self.predictor = BYOLPredictionHead(256, 4096, 256).to(device)
            self.target = copy.deepcopy(self.online)
            deactivate_requires_grad(self.target)
        self.optimiser = optimiser(nn.ModuleList([m for m in (self.online, self.predictor) if m is not None]))

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """The method's loss."""
        if self.predictor is None or self.target is None:
            return self.criterion(self.online(first), self.online(second))
        q_first, q_second = (self.predictor(self.online(x)) for x in (first, second))
        with torch.no_grad():
            z_first, z_second = self.target(first), self.target(second)
        return 2 * (self.criterion(q_first, z_second) + self.criterion(q_second, z_first))

    def after_step(self) -> None:
        """Move the target."""
        from lightly.models.utils import update_momentum

        if self.target is not None:
            update_momentum(self.online, self.target, m=0.99)


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """The same for both sides."""
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), 1e-3, fused=True)


def clock(device: str) -> float:
    """Seconds: of wall time after all work on a GPU, of CPU time otherwise."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def train_step(system: Ours | Lightly, first: Tensor, second: Tensor, device: str) -> float:
    """Seconds of one optimiser step."""
    began = clock(device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
        loss = system.loss(first, second)
    system.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    system.optimiser.step()
    system.after_step()
    return clock(device) - began


def step(scale: Scale, device: str, place: str, *, compiled: bool) -> None:
    """Part 1."""
    print(f"\nstep: ResNet-18, batch {scale.batch}, 32 x 32, {place}{', compiled' if compiled else ''}")
    print(f"{'':10}{'byol_ext ms':>13}{'lightly ms':>13}{'median of ratios':>18}{'from':>8}{'to':>8}")
    first, second = (torch.randn(scale.batch, 3, 32, 32, device=device) for _ in range(2))
    for name in METHODS:
        torch.manual_seed(0)
        encoder = torchvision_resnet("resnet18", stem="cifar")
        systems = [kind(name, copy.deepcopy(encoder), device) for kind in (Ours, Lightly)]
        if compiled:
            for part in [m for s in systems for m in encoders(s)]:
                part.compile()
        rounds = [[train_step(system, first, second, device) for system in systems] for _ in range(scale.rounds + 2)]
        times = rounds[2:]
        ours, theirs = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        ratios = [a / b for a, b in times]
        print(
            f"{name:10}{ours:13.1f}{theirs:13.1f}{statistics.median(ratios):18.2f}{min(ratios):8.2f}{max(ratios):8.2f}",
            flush=True,
        )


def encoders(system: Ours | Lightly) -> list[nn.Module]:
    """Online and target encoder."""
    roots = [system.model] if isinstance(system, Ours) else [m for m in (system.online, system.target) if m is not None]
    return [module for root in roots for module in root.modules() if isinstance(module, ImageEncoder)]


def torchvision_views(size: int) -> list[Callable[[Tensor], Tensor]]:
    """BYOL's two views of one picture in torchvision v2; its brightness is multiplicative."""
    from torchvision.transforms import v2

    def view(p_blur: float, p_solarise: float) -> Callable[[Tensor], Tensor]:
        taps = max(3, size // 10 | 1)
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, (0.08, 1.0), antialias=True),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(taps, (0.1, 2.0))], p_blur),
                v2.RandomSolarize(128, p_solarise),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
            ]
        )

    return [view(1.0, 0.0), view(0.1, 0.2)]


def augment(scale: Scale, device: str, place: str) -> None:
    """Part 2."""
    print(f"\naugment: two views of BYOL, {scale.pictures} pictures a batch, ms a picture, {place}")
    print(f"{'source':>10}{'view':>6}{'byol_ext':>12}{'torchvision v2':>16}{'times as fast':>15}")
    for source, size in ((32, 32), (96, 64), (256, 224)):
        images = torch.randint(0, 256, (scale.pictures, source, source, 3), dtype=torch.uint8, device=device)
        sizes = torch.full((scale.pictures, 2), source)
        chw = images.permute(0, 3, 1, 2).contiguous()
        ours_views, their_views = byol_views(size), torchvision_views(size)
        times: list[tuple[float, float]] = []
        for round_ in range(scale.rounds + 1):
            began = clock(device)
            make_views(ours_views, images, sizes, sample_keys(0, round_, torch.arange(scale.pictures)))
            done = clock(device)
            for transform in their_views:
                torch.stack([transform(picture) for picture in chw])
            times.append((done - began, clock(device) - done))
        ours, theirs = (1e3 * statistics.median(c) / scale.pictures for c in zip(*times[1:], strict=True))
        ratio = statistics.median(b / a for a, b in times[1:])
        print(f"{source:10}{size:6}{ours:12.3f}{theirs:16.3f}{ratio:15.1f}", flush=True)


def throughput(place: str, *, compiled: bool) -> None:
    """Part 3."""
    batch, rounds = 256, 20
    encoder = torchvision_resnet("resnet50").to(memory_format=torch.channels_last)
    system = Ours("BYOL", encoder, "cuda")
    if compiled:
        for part in encoders(system):
            part.compile()
    first, second = (
        torch.randn(batch, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last) for _ in range(2)
    )
    seconds = statistics.median([train_step(system, first, second, "cuda") for _ in range(rounds + 5)][5:])
    # 4.09 GMAC a forward pass; two views, forward and backward online (3x) and forward in the target.
    flop = 2 * 4.09e9 * 2 * (3 + 1) * batch
    ceiling = matmul_rate()
    print(f"\nthroughput: BYOL, ResNet-50, 224, bfloat16, batch {batch}, {place}{', compiled' if compiled else ''}")
    print(f"{batch / seconds:.0f} pictures/s, {flop / seconds / 1e12:.0f} TFLOP/s, ", end="")
    print(f"{100 * flop / seconds / ceiling:.0f} % of the {ceiling / 1e12:.0f} that a matrix product reaches")


def matmul_rate() -> float:
    """FLOP a second of a large bfloat16 matrix product."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        began = clock("cuda")
        a @ b
        times.append(clock("cuda") - began)
    return 2 * n**3 / statistics.median(times[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("step", "augment", "throughput")
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names))
    parser.add_argument("--full", action="store_true", help="the spec's batch")
    parser.add_argument("--compile", action="store_true", help="compile the encoders of both sides")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"
    torch.set_num_threads(1)
    scale = scale_of(device, full=args.full)
    print(f"device: {place}, torch {torch.__version__}")
    if "step" in args.parts:
        step(scale, device, place, compiled=args.compile)
    if "augment" in args.parts:
        augment(scale, device, place)
    if "throughput" in args.parts and device == "cuda":
        throughput(place, compiled=args.compile)


if __name__ == "__main__":
    main()
