"""ViDiDi's data path and training step against torchvision, kornia and lightly.

1. pipeline: from H.264 files to differenced float clips on the CPU. All decode through our reader; ours goes through
   `VideoClips` and `collate`, the peers through the bare reader. Clips are augmented alike: flip, random crop, blur,
   colour jitter, grey, normalise. Claim: augmentation at least 2x as fast as torchvision v2 frame by frame and as
   kornia's VideoSequential.
2. share: augmentation and derivatives as a share of a training step of R3D-18; meaningful on a GPU.
3. step: a BYOL step of R3D-18, ours against lightly's modules: same encoder, batch and optimiser, interleaved.

    python benchmarks/video.py [--parts pipeline share step] [--full]

On the CPU all figures are CPU-seconds of one thread, so that other load shows little. Small sizes by default (about a
minute there); --full takes 32 videos and the spec's 112 pixels. On a GPU sizes are always full, batch 64.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from byol_ext.bootstrap import Bootstrap, Branch, Target
from byol_ext.heads import mlp_head
from byol_ext.losses.pair import normalized_mse
from byol_ext.predictors import mlp_predictor
from byol_ext.rng import sample_keys
from byol_ext.video.data import VideoClips, collate
from byol_ext.video.decode import open_video
from byol_ext.video.derivatives import difference_pair
from byol_ext.video.encode import write_mp4
from byol_ext.video.encoders import r3d_18
from byol_ext.video.samples import VideoList, VideoSample
from byol_ext.video.sampling import ClipSampler
from byol_ext.video.schedule import DerivativeSchedule
from byol_ext.video.transforms import IMAGENET_MEAN, IMAGENET_STD, default

FRAMES, STRIDE, SHORT_SIDE = 8, 3, 128
Augment = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scale:
    """Sizes of a run."""

    videos: int
    rounds: int
    batch: int
    pixels: int


def small(device: str) -> Scale:
    return Scale(videos=6, rounds=5, batch=2, pixels=32) if device == "cpu" else full(device)


def full(device: str) -> Scale:
    on_cpu = device == "cpu"
    return Scale(videos=32, rounds=5 if on_cpu else 20, batch=4 if on_cpu else 64, pixels=112)


def make_videos(folder: Path, count: int) -> list[Path]:
    """H.264 files of 90 frames, 240 x 320, groups of 12 pictures: a sliding, noisy picture."""
    paths = [folder / f"{i}.mp4" for i in range(count)]
    for i, path in enumerate(paths):
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 256, (9, 14, 3)).astype(np.float32)
        picture = np.kron(coarse, np.ones((40, 40, 1), np.float32)) * 0.8
        frames = np.stack([np.roll(picture, (t, 2 * t), (0, 1))[:240, :320] for t in range(90)])
        frames += rng.normal(0, 6, frames.shape)
        write_mp4(path, [(frames.clip(0, 255).astype(np.uint8), np.arange(90) / 30)], gop=12)
    return paths


def torchvision_transform() -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomResizedCrop(112, (0.08, 1.0), antialias=True),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5),
            v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.05)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
        ]
    )


def torchvision_augment(transform: Callable[[Tensor], Tensor], clips_BVTHWC: Tensor, *, by_frame: bool) -> Tensor:
    """``[B, V, C, T, h, w]``; frame by frame, parameters change within a clip."""
    out = []
    for clip_TCHW in rearrange(clips_BVTHWC, "b v t h w c -> (b v) t c h w"):
        out.append(torch.stack([transform(frame) for frame in clip_TCHW]) if by_frame else transform(clip_TCHW))
    return rearrange(torch.stack(out), "(b v) t c h w -> b v c t h w", v=clips_BVTHWC.shape[1])


def kornia_transform() -> Callable[[Tensor], Tensor]:
    import kornia.augmentation as kornia

    return kornia.VideoSequential(
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.RandomResizedCrop((112, 112), (0.08, 1.0)),
        kornia.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
        kornia.ColorJitter(0.2, 0.2, 0.2, 0.05, p=0.8),
        kornia.RandomGrayscale(p=0.2),
        kornia.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
        data_format="BTCHW",
        same_on_frame=True,
    )


def kornia_augment(transform: Callable[[Tensor], Tensor], clips_BVTHWC: Tensor) -> Tensor:
    flat = rearrange(clips_BVTHWC, "b v t h w c -> (b v) t c h w").float() / 255
    return rearrange(transform(flat), "(b v) t c h w -> b v c t h w", v=clips_BVTHWC.shape[1])


def ours_augment(clips_BVTHWC: Tensor) -> Tensor:
    batch, _, _, height, width, _ = clips_BVTHWC.shape
    sizes = torch.tensor([[height, width]] * batch)
    return default()(clips_BVTHWC, sizes, sample_keys(0, 0, torch.arange(batch)))


def read_bare(paths: list[Path]) -> Tensor:
    """Both clips of each video with the bare reader, ``[B, 2, T, H, W, 3]``."""
    videos = []
    for path in paths:
        with open_video(path, backend="pyav") as reader:
            frames = reader.frames(range(10, 10 + 2 * FRAMES * STRIDE, STRIDE), short_side=SHORT_SIDE)
        videos.append(torch.from_numpy(frames).unflatten(0, (2, FRAMES)))
    return torch.stack(videos)


def read_ours(paths: list[Path]) -> Tensor:
    """Both clips of each video as a training run gets them."""
    samples = [VideoSample(path.name, open=partial(open_video, path, backend="pyav")) for path in paths]
    data = VideoClips(VideoList(samples), ClipSampler(frames=FRAMES, stride=STRIDE), short_side=SHORT_SIDE)
    return collate([data[i] for i in range(len(data))])["clips"]


def pipeline(scale: Scale) -> None:
    transform = torchvision_transform()
    systems: dict[str, tuple[Callable[[list[Path]], Tensor], Augment]] = {
        "byol_ext": (read_ours, ours_augment),
        "torchvision v2, frame by frame": (
            read_bare,
            partial(torchvision_augment, transform, by_frame=True),
        ),
        "torchvision v2, clip by clip": (read_bare, partial(torchvision_augment, transform, by_frame=False)),
        "kornia VideoSequential": (read_bare, partial(kornia_augment, kornia_transform())),
    }
    costs: dict[str, list[list[float]]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as folder:
        paths = make_videos(Path(folder), scale.videos)
        for round_ in range(scale.rounds + 1):
            for name, (read, augment) in systems.items():
                cost = [1e3 * seconds / len(paths) for seconds in run_pipeline(paths, read, augment)]
                if round_:
                    costs[name].append(cost)
    print(f"\npipeline: {scale.videos} videos, 2 clips of {FRAMES} frames at {STRIDE}, medians of ", end="")
    print(f"{scale.rounds} rounds, CPU, one thread, milliseconds a video")
    print(f"{'':32}{'decode':>9}{'augment':>9}{'differ':>9}{'videos/s/core':>15}{'augment vs ours':>17}")
    median = {name: [statistics.median(part) for part in zip(*rows, strict=True)] for name, rows in costs.items()}
    for name, (decode, augment_ms, differ) in median.items():
        rate = 1e3 / (decode + augment_ms + differ)
        ratio = augment_ms / median["byol_ext"][1]
        print(f"{name:32}{decode:9.2f}{augment_ms:9.2f}{differ:9.2f}{rate:15.1f}{ratio:17.2f}")


def run_pipeline(paths: list[Path], read: Callable[[list[Path]], Tensor], augment: Augment) -> Iterator[float]:
    """CPU-seconds of decoding, augmenting and differencing."""
    began = time.process_time()
    clips_BVTHWC = read(paths)
    decoded = time.process_time()
    x_BVCTHW = augment(clips_BVTHWC)
    augmented = time.process_time()
    first, second = difference_pair(x_BVCTHW[:, 0].contiguous(), x_BVCTHW[:, 1].contiguous(), (1, 1))
    assert first.shape == second.shape == (len(paths), 3, FRAMES - 1, 112, 112)
    yield from (decoded - began, augmented - decoded, time.process_time() - augmented)


class Ours:
    """BYOL as the recipe builds it."""

    def __init__(self, encoder: nn.Module, device: str) -> None:
        branches = {"video": Branch(encoder, mlp_head([512, 4096, 256]))}
        self.model = Bootstrap(
            branches,
            {"first": "video", "second": "video"},
            target=Target(branches, tau=0.99, buffers="own"),
            predictors={"q": mlp_predictor(256, 4096)},
            plan=DerivativeSchedule.base().plan("q"),
            pair=normalized_mse,
        ).to(device)
        self.optimiser = torch.optim.SGD((p for p in self.model.parameters() if p.requires_grad), 0.01, momentum=0.9)

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """BYOL's loss of both directions."""
        return self.model({"first": first, "second": second}).loss

    def after_step(self) -> None:
        """Move the target."""
        self.model.after_step(0)


class Lightly:
    """BYOL from lightly's parts, as its documentation puts them together."""

    def __init__(self, encoder: nn.Module, device: str) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.online = nn.Sequential(encoder, BYOLProjectionHead(512, 4096, 256)).to(device)
        self.predictor = BYOLPredictionHead(256, 4096, 256).to(device)
        self.target = copy.deepcopy(self.online)
        deactivate_requires_grad(self.target)
        self.criterion = NegativeCosineSimilarity()
        parameters = [*self.online.parameters(), *self.predictor.parameters()]
        self.optimiser = torch.optim.SGD(parameters, 0.01, momentum=0.9)

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """BYOL's loss of both directions."""
        q_first, q_second = (self.predictor(self.online(x)) for x in (first, second))
        with torch.no_grad():
            z_first, z_second = self.target(first), self.target(second)
        return 2 * (self.criterion(q_first, z_second) + self.criterion(q_second, z_first))

    def after_step(self) -> None:
        """Move the target."""
        from lightly.models.utils import update_momentum

        update_momentum(self.online, self.target, m=0.99)


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


def share(scale: Scale, device: str, place: str) -> None:
    clips = torch.randint(0, 256, (scale.batch, 2, FRAMES, SHORT_SIDE, 170, 3), dtype=torch.uint8, device=device)
    sizes = torch.tensor([[SHORT_SIDE, 170]] * scale.batch)
    augment = default(scale.pixels)
    system = Ours(r3d_18(), device)
    rows: list[tuple[float, float, float]] = []
    for round_ in range(scale.rounds + 1):
        began = clock(device)
        x_BVCTHW = augment(clips, sizes, sample_keys(0, round_, torch.arange(scale.batch)))
        augmented = clock(device)
        first, second = difference_pair(x_BVCTHW[:, 0], x_BVCTHW[:, 1], (1, 1))
        differenced = clock(device)
        step = train_step(system, first, second, device)
        if round_:
            rows.append((augmented - began, differenced - augmented, step))
    augment_s, differ_s, step_s = (statistics.median(part) for part in zip(*rows, strict=True))
    print(f"\nshare: R3D-18 BYOL, batch {scale.batch}, {FRAMES} x {scale.pixels} x {scale.pixels}, {place}")
    print(
        f"augment {1e3 * augment_s:.1f} ms, derivatives {1e3 * differ_s:.1f} ms, step {1e3 * step_s:.1f} ms: ", end=""
    )
    print(f"{100 * (augment_s + differ_s) / (augment_s + differ_s + step_s):.1f} % of the time on the device")


def step(scale: Scale, device: str, place: str) -> None:
    torch.manual_seed(0)
    encoder = r3d_18()
    systems: dict[str, Ours | Lightly] = {
        "byol_ext": Ours(copy.deepcopy(encoder), device),
        "lightly": Lightly(copy.deepcopy(encoder), device),
    }
    first, second = (torch.randn(scale.batch, 3, FRAMES, scale.pixels, scale.pixels, device=device) for _ in range(2))
    times: dict[str, list[float]] = {name: [] for name in systems}
    for round_ in range(scale.rounds + 1):
        for name, system in systems.items():
            elapsed = train_step(system, first, second, device)
            if round_:
                times[name].append(elapsed)
    print(f"\nstep: R3D-18 BYOL, batch {scale.batch}, {FRAMES} x {scale.pixels} x {scale.pixels}, {place}")
    print(f"{'':12}{'median ms':>11}{'min ms':>10}")
    for name, values in times.items():
        print(f"{name:12}{1e3 * statistics.median(values):11.1f}{1e3 * min(values):10.1f}")
    ratios = [ours / theirs for ours, theirs in zip(times["byol_ext"], times["lightly"], strict=True)]
    print(f"median of ratios, ours to lightly: {statistics.median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("pipeline", "share", "step")
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names))
    parser.add_argument("--full", action="store_true", help="the spec's sizes")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"
    torch.set_num_threads(1)
    scale = full(device) if args.full else small(device)
    print(f"device: {place}")
    if "pipeline" in args.parts:
        pipeline(scale)
    if "share" in args.parts:
        share(scale, device, place)
    if "step" in args.parts:
        step(scale, device, place)


if __name__ == "__main__":
    main()
