"""Configuration and presets of the text diffusion recipe.

CDCD: "Continuous diffusion for categorical data" (Dieleman et al., arXiv 2211.15089). Defaults name their source: the
paper's section, or J, our judgement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from byol_ext.diffusion.objective import CDCDConfig
from byol_ext.training import TrainConfig

Method = Literal["diffusion", "ar", "mdlm"]
Process = Literal["gaussian", "simplex"]


@dataclass(frozen=True)
class DataConfig:
    """The text and its sequences."""

    text: str = "stdlib27"
    """stdlib27 (27 symbols), stdlib-bpe, markov (made by code), debian or debian:gcide,linux (installed packages),
    hf:NAME (a Hugging Face data set), a .jsonl file, a folder of .txt files, or a folder that was prepared; see
    docs/cdcd.md."""
    tokenizer: str = "bpe"
    """Of texts that bring none: bpe (byte-level, learned from the training documents), characters, or a path to a
    tokenizer.json or a folder that holds one."""
    vocab_size: int = 32_000
    """Ids of a tokenizer that is learned (CDCD 6.1: 32,000)."""
    field: str = "text"
    """Field or column of the text (JSONL, Hugging Face)."""
    subset: str = ""
    """Hugging Face: name of the configuration."""
    split: str = "train"
    """Hugging Face: the split that is read."""
    max_characters: int | None = None
    """Hugging Face: stop after so many characters; none reads all."""
    root: str = "/"
    """debian: folder in which the packages were unpacked."""
    cache: str = ""
    """Folder to keep the encoded text in, and to read it from when it is there; empty: memory."""
    validation_share: float = 0.0
    """Share of the documents held out; 0: .12 for the small corpora (spec 13), .02 for the others (J)."""
    markov_tokens: int = 1_600_000
    """markov: symbols for training (J: as stdlib27); a tenth as many for validation."""
    markov_seed: int = 0
    """markov: which source."""
    length: int = 64
    """Positions of a sequence (CDCD 6.1)."""
    batch: int = 32
    """Sequences of each process in a micro-batch."""
    workers: int = 0
    """Loader processes."""

    def __post_init__(self) -> None:
        if self.length < 2 or self.batch < 1:
            raise ValueError(f"data.length={self.length} must be at least 2 and data.batch={self.batch} positive")
        if not 0.0 <= self.validation_share < 1.0:
            raise ValueError(f"data.validation_share={self.validation_share} must lie in [0, 1)")


@dataclass(frozen=True)
class NetworkConfig:
    """The Transformer that every method shares, and what CDCD adds to it."""

    width: int = 96
    """Width of the residual stream (CDCD 6.1: 1024)."""
    depth: int = 3
    """Blocks (CDCD 6.1: 8)."""
    heads: int = 6
    """Attention heads (not stated; J)."""
    dropout: float = 0.0
    """Dropout of each attention and MLP (not stated; J)."""
    time_units: int = 32
    """Units of the time condition (CDCD 6.1: 128; at width 96 these would make FiLM a third of the network)."""
    embedding_width: int = 32
    """Width of the token embeddings (CDCD 6.1: 256; flat from 64 on at V = 32k)."""
    embedding_init_std: float = 0.02
    """Standard deviation of their free parameters at the start (CDCD 6.3: 1e-3 at a learning rate of 1e-4; a row turns
    by lr / std radians in an early step, so higher rates want more)."""
    embedding_lr_scale: float = 1.0
    """Factor on the embeddings' learning rate (CDCD: 1)."""
    output_prior: bool = False
    """Add the lone token's logits to the network's (Plaid 3.3)."""


@dataclass(frozen=True)
class WarpConfig:
    """The law of the noise levels."""

    kind: Literal["pwl", "gumbel", "logistic", "loguniform", "uniform"] = "pwl"
    """pwl: learned, piecewise linear (CDCD 3.3). gumbel, logistic: learned, two parameters. loguniform, uniform:
    fixed; uniform is the paper's run without warping."""
    t_min: float = 0.0
    """Smallest noise; 0: a tenth of sqrt(d / (2 ln V)), at which a lone token becomes ambiguous (spec 3)."""
    t_max: float = 0.0
    """Largest noise; 0: 20 times it (spec 3: 15 to 30)."""
    bins: int = 100
    """Bins (CDCD App. A)."""
    temperature: float = 1.0
    """Below 1 concentrates the levels, above 1 flattens them (CDCD eq. 14)."""
    uniform_mix: float = 0.0
    """Share of uniform levels (CDCD eq. 15)."""
    lr: float = 1e-2
    """Learning rate of the warp's own Adam (J)."""
    decay: float = 0.99
    """Decay of the average that levels are drawn from (J)."""
    shape: tuple[float, float] = (1.0, 1.0)
    """The cross-entropy's wanted shape over quantiles, the CDF of this Beta law; (1, 1) is a straight line (CDCD)."""


@dataclass(frozen=True)
class SimplexConfig:
    """``--process simplex``: the CIR process of each coordinate (arXiv 2210.14784)."""

    alpha: float = 1.0
    """Shape of the stationary Gamma law; a multiple of 1/2, at least 1 for positive paths."""
    kappa: float = 10.0
    """Start of the token's coordinate (J)."""
    t_min: float = 0.1
    """Smallest time (J)."""
    t_max: float = 8.0
    """Largest time (J)."""


@dataclass(frozen=True)
class SampleConfig:
    """How sequences are drawn."""

    count: int = 256
    """Sequences."""
    batch: int = 64
    """Sequences at once."""
    prompt: float = 0.0
    """Share of each sequence that is given, from held-out text (CDCD 6.2: half)."""
    steps: int = 200
    """Steps (CDCD 6.1: 200); not read by ar."""
    sampler: Literal["euler", "heun", "ancestral", "ancestral_token"] = "euler"
    """Of the Gaussian process (CDCD: euler)."""
    simplex_sampler: Literal["ode", "sde", "bridge"] = "bridge"
    """Of the simplex process (J)."""
    score_temperature: float = 1.0
    """Below 1 sharpens the score (CDCD 6.3; Gaussian process)."""
    softmax_temperature: float = 1.0
    """Below 1 sharpens the token probabilities."""
    top_p: float = 1.0
    """Nucleus of the token probabilities."""
    sigma_init: float = 1.0
    """Scale of the initial noise (CDCD 6.4; Gaussian process)."""
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 is off (CDCD 6.4; Gaussian process)."""
    guidance_memory: Literal["own", "zero", "shared"] = "own"
    """What the branch without condition sees of the step before (J)."""
    rho: float = 1.0
    """Power of the grid's quantiles (CDCD 6.3: 1)."""
    final: Literal["argmax", "nearest"] = "argmax"
    """Tokens at the end (CDCD 6.4: equally good)."""
    halt_patience: int | None = None
    """Stop a sequence after so many steps that changed no token."""
    halt_entropy: float | None = None
    """Stop a sequence at this mean entropy in nats."""
    unwarped: bool = False
    """Step evenly in noise although training was warped (the control of CDCD Table 1)."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1 or self.steps < 1:
            raise ValueError(f"count={self.count}, batch={self.batch} and steps={self.steps} must be positive")
        if not 0.0 <= self.prompt < 1.0:
            raise ValueError(f"prompt={self.prompt} must lie in [0, 1)")


@dataclass(frozen=True)
class EvalConfig:
    """What is measured of a trained model (spec 10)."""

    reference: str = ""
    """Run directory of an independently trained, larger ar model that scores samples; empty: the n-gram model alone."""
    ngram_order: int = 6
    """Order of the interpolated n-gram model, the second opinion (spec 13); lowered where V is large."""
    temperatures: tuple[float, ...] = (0.8, 0.9, 0.95, 1.0)
    """Score temperatures of the frontier (softmax temperatures of ar and mdlm)."""
    steps: tuple[int, ...] = (8, 16, 32, 64, 200)
    """Numbers of steps of the frontier (spec 13)."""
    temperature_steps: int = 32
    """Steps at which the temperatures are swept (J: at 200 the curve costs six times as much)."""
    guidances: tuple[float, ...] = ()
    """Guidance scales of the frontier, at as many steps (Gaussian process; they want ``sample.prompt``)."""
    frontier_count: int = 128
    """Sequences of each point of the frontier; 0 leaves it out. Entropies of few tokens are biased downwards by about
    V / (2 tokens): where V is large, let it be ``sample.count``, as of the other rows."""
    passes: tuple[int, ...] = (0, 1, 2)
    """Extra passes of self-conditioning inside the bound, each reported (spec 10.5)."""
    bound_count: int = 256
    """Held-out sequences of the bound."""
    bound_draws: int = 8
    """Noise levels of each."""
    given: tuple[float, ...] = (0.15, 0.5, 0.85)
    """Shares of tokens that are given when the others are infilled."""
    infill_count: int = 128
    """Held-out sequences that are infilled; 0 leaves it out."""
    health_count: int = 2000
    """Held-out sequences of the warp's health."""
    copy_length: int = 0
    """Tokens of a span that counts as copied; 0: 40 characters, or 20 tokens (spec 10.4)."""
    cost: bool = True
    """Whether to time sampling at batch 1 and 32."""
    film: int = 16
    """Frames of the denoising film; 0 for none."""
    seed: int = 0
    """Of held-out sequences, prompts, masks and sampling noise: the same for all models that are compared, whatever
    the seeds of their training."""


@dataclass(frozen=True)
class CdcdConfig:
    """All of a run."""

    name: str = "cdcd"
    """Name of the run's folder, ``root/cdcd/name``."""
    method: Method = "diffusion"
    """diffusion, or a baseline of the same size and data: ar (left to right), mdlm (masked diffusion)."""
    process: Process = "gaussian"
    """Of diffusion: gaussian (CDCD) or simplex (a CIR process a token; V up to 2048)."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)
    objective: CDCDConfig = field(default_factory=CDCDConfig)
    mask: Literal["mixed", "prefix", "random", "span", "none"] = "mixed"
    """Which tokens are given in training (CDCD 4.1: half prefixes, half random)."""
    simplex: SimplexConfig = field(default_factory=SimplexConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    curve_times: int = 8
    """Fixed noise levels at which the held-out cross-entropy is logged: the training loss shows no progress (spec 16);
    0 for none."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    root: str = "runs"
    """Where runs are."""
    seed: int = 0
    """Seed of weights, order and noise."""

    def __post_init__(self) -> None:
        if self.process == "simplex" and self.objective.loss != "ce":
            raise ValueError("objective.loss='likelihood' is the Gaussian process' bound; the simplex learns by 'ce'")
        if self.process == "simplex" and self.network.output_prior:
            raise ValueError("network.output_prior is the Gaussian process' term; switch it off for the simplex")
        if self.process == "simplex" and self.objective.post != "none":
            raise ValueError(f"objective.post={self.objective.post!r} acts on embeddings; the simplex has none")
        if self.curve_times < 0:
            raise ValueError(f"curve_times={self.curve_times} must not be negative")


def chars() -> CdcdConfig:
    """Two CPU cores, minutes: 27 symbols, 0.4 M parameters (spec 13)."""
    return CdcdConfig(
        name="chars",
        warp=WarpConfig(t_min=0.3, t_max=40.0, bins=50),
        objective=CDCDConfig(ema=0.999),
        train=TrainConfig(
            steps=2000,
            lr=2e-3,
            warmup=0.05,
            weight_decay=0.0,
            betas=(0.9, 0.99),
            clip_norm=1.0,
            precision="no",
            log_every=20,
            monitor_every=200,
            checkpoint_every=500,
            trackers=(),
        ),
    )


def tiny() -> CdcdConfig:
    """CPU seconds: few steps on 27 symbols."""
    config = chars()
    return replace(
        config,
        name="tiny",
        data=replace(config.data, length=48),
        network=replace(config.network, width=64, depth=2, heads=4),
        train=replace(config.train, steps=200, lr=3e-3, monitor_every=100, checkpoint_every=200),
        sample=SampleConfig(count=64, steps=32),
        eval=EvalConfig(
            temperatures=(0.8, 1.0),
            steps=(16, 32),
            frontier_count=64,
            passes=(0, 1),
            bound_count=64,
            bound_draws=4,
            given=(0.5,),
            infill_count=64,
            health_count=512,
        ),
    )


def words() -> CdcdConfig:
    """An hour of one CPU core: BPE of a 48 MB corpus of Debian's documentation and dictionaries."""
    config = chars()
    return replace(
        config,
        name="words",
        data=DataConfig(text="debian", vocab_size=4096, cache="data/debian-bpe4096", length=64, batch=32),
        network=NetworkConfig(width=160, depth=4, heads=5, time_units=64, embedding_width=64),
        warp=WarpConfig(bins=100),
        train=replace(config.train, steps=6500, lr=1e-3, checkpoint_every=500, monitor_every=500),
        sample=SampleConfig(steps=64),
        eval=EvalConfig(
            ngram_order=4,
            frontier_count=0,
            passes=(0, 1),
            bound_count=128,
            bound_draws=4,
            infill_count=64,
            health_count=1000,
        ),
    )


def base() -> CdcdConfig:
    """One GPU: a base-size model on BPE of any text; ``--data.text`` names it (spec 7)."""
    return CdcdConfig(
        name="base",
        data=DataConfig(text="debian", cache="data/debian-bpe32k", length=128, batch=512, workers=4),
        network=NetworkConfig(
            width=1024, depth=8, heads=16, time_units=128, embedding_width=256, embedding_init_std=1e-3
        ),
        warp=WarpConfig(t_min=1.0, t_max=300.0),
        train=TrainConfig(
            steps=100_000,
            lr=7e-5,
            warmup=0.025,
            schedule="cosine",
            weight_decay=0.01,
            betas=(0.9, 0.99),
            clip_norm=1.0,
            compile=True,
            log_every=50,
            monitor_every=1000,
            checkpoint_every=2000,
        ),
        sample=SampleConfig(count=1000, prompt=0.5),
    )


def paper() -> CdcdConfig:
    """CDCD 6.1 as far as it is stated: 64 x 1024, a million steps of Adam at 1e-4; its data is not public."""
    config = base()
    return replace(
        config,
        name="paper",
        data=replace(config.data, length=64, batch=1024),
        train=replace(config.train, steps=1_000_000, lr=1e-4, warmup=0.0025, schedule="const", weight_decay=0.0),
    )


PRESETS: dict[str, Callable[[], CdcdConfig]] = {
    "tiny": tiny,
    "chars": chars,
    "words": words,
    "base": base,
    "paper": paper,
}
