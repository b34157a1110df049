"""CDCD's training step and samplers against baselines of the same Transformer: autoregressive, masked diffusion (MDLM).

1. step: forward, backward, clipping, optimiser and ``after_step`` (the warp's fit, the averaged weights), methods
   interleaved. Claim: CDCD at most 1.15x the autoregressive step, 1.6x with self-conditioning.
2. sampling: seconds for 1000 tokens at batch 1 and 32; the autoregressive model samples with its cache.
3. precision: bfloat16 autocast against float32 on a briefly trained model: the loss, and tokens drawn from the same
   noise. Claim: fewer than 2 % of the tokens differ.
4. compile: the step without and with torch.compile, applied as ``fit`` applies it.

    python benchmarks/cdcd.py [--parts step sampling precision compile] [--sizes chars large] [--rounds 30]
    python benchmarks/cdcd.py --device cuda --sizes base [--batch 512]

chars: the preset (3 x 96, L=64, B=32, V=27). large: 6 x 256, L=128, B=16, V=4096. base: the preset, with V=32000. On
the CPU all figures are CPU-seconds of one thread, so that other load shows little; on a GPU wall time, under bfloat16
autocast.

GFLOP are those of a step's matrix products and attention as torch's FlopCounterMode sees them, two for each
multiply-add: forward, backward and the first pass of self-conditioning; look-ups and element-wise work count nothing.
"of ceiling", on a GPU the MFU, is their rate over that of a large square matrix product in the same precision, measured
beforehand.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from byol_ext.diffusion.simplex import VOCAB_LIMIT
from byol_ext.diffusion.times import TokenContext
from byol_ext.text.markov import MarkovSource
from byol_ext.training.accelerate_setup import compile_encoders
from recipes.cdcd_config import CdcdConfig, NetworkConfig, SampleConfig, base, chars
from recipes.cdcd_generate import TextModel, face
from recipes.cdcd_model import build, build_optimizer

WARMUP = 3
LIMITS = {"cdcd": 1.15, "cdcd, self-conditioning": 1.6}


@dataclass(frozen=True)
class Size:
    """What the methods share."""

    config: CdcdConfig
    vocab: int

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences and positions of a batch."""
        return self.config.data.batch, self.config.data.length

    def methods(self) -> dict[str, CdcdConfig]:
        """Configurations by name, the baseline first."""
        config, plain = self.config, replace(self.config.objective, self_conditioning=False)
        methods = {
            "ar": replace(config, method="ar"),
            "mdlm": replace(config, method="mdlm"),
            "cdcd": replace(config, objective=plain),
            "cdcd, self-conditioning": config,
        }
        if self.vocab <= VOCAB_LIMIT:
            methods["simplex"] = replace(config, process="simplex", objective=plain)
        return methods


def sizes(batch: int | None) -> dict[str, Size]:
    small, gpu = chars(), base()
    network = NetworkConfig(width=256, depth=6, heads=8, embedding_width=64, time_units=64)
    large = replace(small, network=network, data=replace(small.data, length=128, batch=16))
    named = {"chars": Size(small, 27), "large": Size(large, 4096), "base": Size(gpu, 32_000)}
    if batch is None:
        return named
    return {k: replace(s, config=replace(s.config, data=replace(s.config.data, batch=batch))) for k, s in named.items()}


def clock(device: str) -> float:
    """Seconds: of wall time after all work on a GPU, of CPU time otherwise."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Trainer:
    """A method's training step from the pieces that ``fit`` runs."""

    def __init__(self, config: CdcdConfig, vocab: int, device: str, *, bf16: bool) -> None:
        self.config, self.vocab, self.device, self.bf16 = config, vocab, device, bf16
        self.model = build(config, vocab).to(device)
        self.optimizer = build_optimizer(config, self.model)
        self.prepare, self.taken = TokenContext(config.seed), 0
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def step(self, tokens_BL: Tensor) -> None:
        """One optimiser step."""
        ids_B = torch.arange(len(tokens_BL), device=self.device)
        with torch.no_grad():
            views, ctx = self.prepare({"tokens": tokens_BL, "id": ids_B, "epoch": self.taken}, self.taken)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.model(views, ctx, self.taken).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.train.clip_norm)
        self.optimizer.step()
        self.model.after_step(self.taken)
        self.optimizer.zero_grad(set_to_none=True)
        self.taken += 1

    def random_step(self) -> float:
        """Seconds of a step on random tokens."""
        shape = self.config.data.batch, self.config.data.length
        draws = torch.Generator().manual_seed(self.taken)
        tokens_BL = torch.randint(self.vocab, shape, generator=draws).to(self.device)
        began = clock(self.device)
        self.step(tokens_BL)
        return clock(self.device) - began

    def flops(self) -> int:
        """Of one step's matrix products and attention."""
        # The counter knows not every fused kernel of attention, but the products that it consists of.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.random_step()
        return counter.get_total_flops()


def interleaved(trainers: dict[str, Trainer], rounds: int) -> dict[str, list[float]]:
    """Seconds of each method's steps."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for round_ in range(WARMUP + rounds):
        for name, trainer in trainers.items():
            elapsed = trainer.random_step()
            if round_ >= WARMUP:
                seconds[name].append(elapsed)
    return seconds


def ratio(seconds: list[float], baseline: list[float]) -> float:
    """Median over the rounds."""
    return statistics.median(a / b for a, b in zip(seconds, baseline, strict=True))


def matmul_rate(device: str, *, bf16: bool) -> float:
    """FLOP/s of a large square matrix product, the best of 10."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        began = clock(device)
        torch.mm(a, b)
        best = min(best, clock(device) - began)
    return 2 * n**3 / best


def step(name: str, size: Size, device: str, rounds: int) -> None:
    bf16 = device == "cuda"
    trainers = {method: Trainer(c, size.vocab, device, bf16=bf16) for method, c in size.methods().items()}
    ceiling = matmul_rate(device, bf16=bf16)
    seconds = interleaved(trainers, rounds)
    batch, length = size.shape
    print(f"\nstep: {name}, B={batch}, L={length}, V={size.vocab}, {rounds} rounds, matrix product ", end="")
    print(f"{ceiling / 1e9:.0f} GFLOP/s")
    print(f"{'':25}{'M param.':>9}{'median ms':>11}{'min ms':>9}{'tokens/s':>11}{'GFLOP':>9}{'of ceiling':>12}", end="")
    print(f"{'to ar':>8}{'limit':>7}")
    for method, values in seconds.items():
        trainer, median = trainers[method], statistics.median(values)
        flops, count = trainer.flops(), sum(p.numel() for p in trainer.parameters)
        limit = f"{LIMITS[method]:7.2f}" if method in LIMITS else ""
        print(f"{method:25}{count / 1e6:9.2f}{1e3 * median:11.2f}{1e3 * min(values):9.2f}", end="")
        print(f"{batch * length / median:11.0f}{flops / 1e9:9.2f}{flops / median / ceiling:12.1%}", end="")
        print(f"{ratio(values, seconds['ar']):8.3f}{limit}")


def compiled(name: str, size: Size, device: str, rounds: int) -> None:
    trainers: dict[str, Trainer] = {}
    for method, config in size.methods().items():
        trainers[method] = Trainer(config, size.vocab, device, bf16=device == "cuda")
        trainers[f"{method}, compiled"] = Trainer(config, size.vocab, device, bf16=device == "cuda")
        compile_encoders(trainers[f"{method}, compiled"].model)
    began = time.perf_counter()
    # Shapes that depend on the masks are compiled as dynamic ones when they are first seen to change.
    interleaved(trainers, 0)
    warmup = time.perf_counter() - began
    seconds = interleaved(trainers, rounds)
    print(f"\ncompile: {name}, {rounds} rounds; compilation took {warmup:.0f} s of wall time")
    print(f"{'':25}{'eager ms':>11}{'compiled ms':>13}{'ratio':>8}")
    for method in size.methods():
        eager, fast = seconds[method], seconds[f"{method}, compiled"]
        print(f"{method:25}{1e3 * statistics.median(eager):11.2f}{1e3 * statistics.median(fast):13.2f}", end="")
        print(f"{ratio(fast, eager):8.3f}")


def draw(model: TextModel, how: SampleConfig, batch: int, length: int, device: str, *, bf16: bool) -> Tensor:
    """Sequences ``[B, L]`` without a prompt, always from the same noise."""
    tokens_BL = torch.zeros(batch, length, dtype=torch.int64, device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        return model.sample(tokens_BL, tokens_BL == 0, how=how, generator=generator).tokens_BL


def sampling(name: str, size: Size, device: str) -> None:
    euler = {f"cdcd, euler {n}": ("cdcd, self-conditioning", n) for n in (50, 200)}
    rows = {"ar, cached": ("ar", 1), "mdlm, 64 steps": ("mdlm", 64), **euler, "simplex, bridge 50": ("simplex", 50)}
    batch, length = size.shape
    methods = size.methods()
    print(f"\nsampling: {name}, L={length}, seconds for 1000 tokens, medians of 3")
    print(f"{'':25}{'batch 1':>9}{'batch 32':>10}")
    for row, (method, steps) in rows.items():
        if method not in methods:
            continue
        model = face(build(methods[method], size.vocab).to(device).eval())
        costs = []
        for batch in (1, 32):
            seconds = []
            for count in (2, steps, steps, steps):
                began = clock(device)
                draw(model, SampleConfig(steps=count), batch, length, device, bf16=device == "cuda")
                seconds.append(clock(device) - began)
            costs.append(1000 * statistics.median(seconds[1:]) / (batch * length))
        print(f"{row:25}{costs[0]:9.3f}{costs[1]:10.3f}")


def precision(device: str, steps: int) -> None:
    """On the Markov source, since an untrained model's tokens are near ties everywhere."""
    size = sizes(None)["chars"]
    batch, length = size.shape
    text = torch.from_numpy(MarkovSource(size.vocab).sample(batch * steps, length, seed=0)).to(device)
    trainer = Trainer(size.config, size.vocab, device, bf16=False)
    for tokens_BL in text.split(batch):
        trainer.step(tokens_BL)
    model, losses = trainer.model, {}
    views, ctx = trainer.prepare({"tokens": text[:1024], "id": torch.arange(1024, device=device), "epoch": 0}, steps)
    for bf16 in (False, True):
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            losses[bf16] = model.eval()(views, ctx).loss.item()
    drawn = [draw(face(model), SampleConfig(steps=50), 64, length, device, bf16=bf16) for bf16 in (False, True)]
    differ = (drawn[0] != drawn[1]).double().mean().item()
    print(f"\nprecision: chars after {steps} steps on the Markov source, bfloat16 autocast against float32")
    print(f"loss {losses[True]:.4f} against {losses[False]:.4f} nats")
    print(f"of {drawn[0].numel()} tokens, 50 Euler steps from the same noise, {differ:.2%} differ (claim: < 2 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("step", "sampling", "precision", "compile")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts[:3]))
    parser.add_argument("--sizes", nargs="+", choices=tuple(sizes(None)), default=["chars"])
    parser.add_argument("--batch", type=int, help="sequences of a step; default: that of the size")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--train-steps", type=int, default=300, help="of the model whose precisions are compared")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place = torch.cuda.get_device_name() if args.device == "cuda" else "CPU, one thread, seconds of CPU time"
    print(f"{place}, torch {torch.__version__}")
    for name in args.sizes:
        size = sizes(args.batch)[name]
        if "step" in args.parts:
            step(name, size, args.device, args.rounds)
        if "sampling" in args.parts:
            sampling(name, size, args.device)
        if "compile" in args.parts:
            compiled(name, size, args.device, args.rounds)
    if "precision" in args.parts:
        precision(args.device, args.train_steps)


if __name__ == "__main__":
    main()
