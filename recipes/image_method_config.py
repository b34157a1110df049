"""What a method of the image recipe can be told: each group of options says which methods read it.

Sources: P read in the paper, C read in public code, M recalled, J ours; sections are those of the core-ssl spec.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal, get_args

from byol_ext.heads import Norm

MethodName = Literal[
    "byol",
    "simsiam",
    "linear",
    "lrp",
    "neumann",
    "visser",
    "newton-schulz",
    "ns2",
    "stiefel",
    "directpred",
    "directcopy",
    "directset",
    "simclr",
    "simclr-sq",
    "simclr-abs",
    "dcl",
    "dclw",
    "dcl-sq",
    "dcl-abs",
    "vicreg",
    "vicreg-exp",
    "vicreg-ctr",
    "directclr",
    "shuffled-dbn",
    "tcr",
    "emp-ssl",
    "msb",
    "ascl",
    "ascl-moco",
    "semppl",
    "pal-spectral",
    "pal-vic2",
    "pal-infonce",
    "pal-barlow",
    "sie",
]
"""Objectives; variants such as byol-gn-ws and controls are configurations of them, see ``image_config.METHODS``."""
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
CLOSED_FORMS = (
    "lrp",
    "neumann",
    "visser",
    "newton-schulz",
    "ns2",
    "stiefel",
    "directpred",
    "directcopy",
    "directset",
)
EDGE_METHODS = ("byol", "simsiam", "linear", *CLOSED_FORMS)
"""Methods whose whole loss is on edges: predictions of target latents."""


@dataclass(frozen=True)
class TargetConfig:
    """The target network: byol, simsiam, linear, the closed forms, msb, ascl, semppl."""

    source: Literal["own", "ema", "self", "frozen"] = "own"
    """own: the method's, self for simsiam and ema for the others. self is the online network without gradient, frozen
    the network before training (BYOL's ablation tau=1)."""
    tau: float = 0.996
    """Decay at the start (C: .99 for 100 epochs, .996 for 1000)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """The decay rises to 1 along a cosine (C), or stays (DirectPred's code)."""
    stop_gradient: bool = True
    """False is SimSiam's control that collapses: both ends of an edge learn; only where the target is the network
    itself."""


@dataclass(frozen=True)
class ClosedFormConfig:
    """lrp, neumann, visser, newton-schulz, ns2, stiefel, directpred, directcopy, directset: closed-form predictors."""

    ridge: float | None = None
    """alpha of P + alpha I; none: neumann .15, stiefel, ns2 and directcopy .3 (P), directpred and directset .1, the
    others 0."""
    scale: Literal["own", "spectral", "paper"] = "own"
    """spectral divides P by its spectral norm before the ridge (J), paper leaves the formula; own: paper for the direct
    ones, spectral for the others."""
    average: Literal["own", "predictor", "moments"] = "own"
    """What is averaged over steps; own: moments for the direct ones (C), the predictor for the others (P)."""
    decay: float | None = None
    """Weight of the old value in that average; none: .3 for the direct ones (C), .9 for the others (J)."""
    acts: Literal["own", "now", "next"] = "own"
    """On the batch it is computed from, or from the next step on; own: next for the direct ones (C), now for others."""
    rows: Literal["online", "both"] = "online"
    """Rows of the moments: the online latents of all views, or target latents as well."""
    centre: bool = False
    """Subtract the mean of the rows (P: no)."""
    differentiable: bool = False
    """Let gradient through P; not for lrp's pseudo-inverse and the eigendecompositions."""
    precision: Literal["float32", "float64"] = "float32"
    """Of moments and formula."""
    steps: int | None = None
    """visser, newton-schulz, ns2, stiefel: iterations; none: 40, 9, 7, 9 (P; visser J)."""
    step_size: float = 0.5
    """visser: eta (J)."""
    damping: float = 0.0
    """lrp: share of the largest eigenvalue that is added before inverting; 0 takes the pseudo-inverse."""
    gain: float | None = None
    """neumann: factor of the moments (P: the batch size, which needs small latents); none: one over the largest
    eigenvalue (J)."""
    alpha: float = 0.5
    """directset: exponent; 1/2 is directpred, 1 directcopy."""
    floor: float = 1e-4
    """directpred, directset: least eigenvalue, ridge included (C)."""


@dataclass(frozen=True)
class ContrastConfig:
    """Softmax losses: simclr, dcl and their variants, directclr, ascl-moco, semppl, pal-infonce."""

    temperature: float = 0.1
    """Of the softmax (M: SimCLR .1; semppl has .2; ClutterDigits .2, section 15)."""
    standardise: bool = False
    """simclr, dcl and their variants: centre and scale each dimension over the batch first (2206.02574, eq. 14)."""
    weight_sigma: float = 0.5
    """dclw: temperature of the positive pairs' weights (C)."""
    weight_gradient: bool = False
    """dclw: let gradient through these weights (C: yes; J: no)."""
    coordinates: int | None = None
    """directclr: leading coordinates of the representation that the loss sees; none: 360 of 2048 (C)."""


@dataclass(frozen=True)
class VicregConfig:
    """vicreg, vicreg-exp, vicreg-ctr."""

    weights: tuple[float, float, float] = (25.0, 25.0, 1.0)
    """Invariance, variance, covariance (C)."""
    variance_reduction: Literal["half", "sum"] = "half"
    """vicreg: averaged over the views (C: official) or summed (C: solo-learn)."""
    invariance: Literal["mean", "sum"] = "mean"
    """vicreg: squared difference averaged over the width (C) or summed (M: the paper's formula)."""
    temperature: float = 0.1
    """vicreg-exp, vicreg-ctr: of the log-sum-exp (J)."""
    standardise: bool = True
    """vicreg-ctr: standardise the dimensions first; raw ones collapsed in a small run (J)."""


@dataclass(frozen=True)
class DecorrelationConfig:
    """shuffled-dbn: the whitening layer at the end of the projector."""

    group_size: int = 32
    """Features whitened together; divides the width, at most half of the batch."""
    shuffle: bool = True
    """New groups each step; false is DBN."""
    distance: Literal["cosine", "mse"] = "cosine"
    """Between the views."""
    steps: int = 12
    """Newton-Schulz iterations."""
    eps: float = 1e-5
    """Added to the diagonal of the covariance."""


@dataclass(frozen=True)
class RateConfig:
    """tcr, emp-ssl: coding rate and similarity."""

    eps: float = 0.2
    """Distortion, not squared (C)."""
    similarity_weight: float | None = None
    """none: 30 for tcr (C: NMCE's pretraining), 200 for emp-ssl (C)."""


@dataclass(frozen=True)
class MsbConfig:
    """msb: weights of the terms beside the centroid."""

    singular_weight: float = 1.0
    """Of the singular-value term, whose form is ours (J)."""
    brownian_weight: float = 0.1
    """Of the random kick (C: third party)."""


@dataclass(frozen=True)
class AsclConfig:
    """ascl (on BYOL), ascl-moco: soft targets."""

    kind: Literal["soft", "hard", "ahcl"] = "soft"
    """How neighbours are weighted (C)."""
    neighbours: int = 1
    """k, 1 to 5 (P); 0 is the base method."""
    temperature: float = 0.05
    """The teacher's (C)."""
    queue: int = 4096
    """ascl-moco: target latents kept (C)."""
    symmetric: bool = True
    """Both directions; false: the first view predicts the others only, as goes with a weak second view."""


@dataclass(frozen=True)
class SempplConfig:
    """semppl: pseudo-labels and semantic positives; set data.label_share."""

    weight: float = 0.2
    """Of the semantic term (M)."""
    neighbours: int = 1
    """Votes a view (M)."""
    queue: int = 2560
    """Labelled target latents kept (M: 20 batches)."""


@dataclass(frozen=True)
class PalConfig:
    """pal-spectral, pal-vic2, pal-infonce, pal-barlow: where the similarity graph comes from."""

    graph: Literal["views", "labels", "active"] = "views"
    """views: self-supervised. labels: those of data.label_share. active: an oracle, which knows the labels, answers
    questions about pairs of the batch."""
    budget: int = 1000
    """active: questions over the whole training."""
    questions: int = 20
    """active: questions a round."""
    every: int = 10
    """active: steps between rounds."""
    score: Literal["disagreement", "uncertainty", "random"] = "disagreement"
    """active: which pairs are asked about: near ones not known to be the same, doubtful ones, or any (the control)."""
    invariance_weight: float = 1.0
    """pal-vic2."""
    off_diagonal_weight: float = 1.0
    """pal-barlow (P: 1; Barlow Twins .005)."""
    reduction: Literal["mean", "sum"] = "mean"
    """pal-infonce: over the positives of a row."""


@dataclass(frozen=True)
class SieConfig:
    """sie: an invariant and an equivariant half; needs views with known rotations (augment.preset=rotate)."""

    invariant: float = 0.5
    """Share of representation and projection that is invariant (C)."""
    similarity_weight: float = 10.0
    """Of both squared errors (C)."""
    equivariant_factor: float = 0.45
    """Of the equivariant one (C: .45 in the documented command, 4.5 the default)."""
    variance_weight: float = 10.0
    """C."""
    covariance_weight: float = 1.0
    """C."""
    moved_variance: bool = True
    """A variance term of the predictions; false is the code's SIENoVar."""


@dataclass(frozen=True)
class MethodConfig:
    """The objective."""

    name: MethodName = "byol"
    """Which."""
    projector: tuple[int, ...] = (4096, 256)
    """Hidden and output widths; directclr has no projector (C: BYOL 4096-256, SimSiam 2048-2048-2048, VICReg
    8192-8192-8192, EMP-SSL 4096-1024 after a feature of 4096)."""
    norm: Norm = "batch"
    """Norms of projector and predictor; gn_ws and layer leave samples apart."""
    feature: int = 0
    """If set, a Linear-norm-ReLU layer of this width behind the encoder, which counts as part of it and is what is
    evaluated (EMP-SSL: 4096)."""
    predictor: bool = True
    """byol, simsiam: false is the control that collapses."""
    predictor_hidden: int = 4096
    """byol, simsiam, msb, ascl, semppl: hidden width of the MLP predictor (C: BYOL 4096, SimSiam 512)."""
    view_batching: Literal["separate", "concat"] = "separate"
    """BatchNorm statistics of each view by itself (C: BYOL's reference), or of all views together."""
    gather: bool = True
    """Whether losses that mix samples see those of all processes."""
    target: TargetConfig = field(default_factory=TargetConfig)
    closed: ClosedFormConfig = field(default_factory=ClosedFormConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    vicreg: VicregConfig = field(default_factory=VicregConfig)
    dbn: DecorrelationConfig = field(default_factory=DecorrelationConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    msb: MsbConfig = field(default_factory=MsbConfig)
    ascl: AsclConfig = field(default_factory=AsclConfig)
    semppl: SempplConfig = field(default_factory=SempplConfig)
    pal: PalConfig = field(default_factory=PalConfig)
    sie: SieConfig = field(default_factory=SieConfig)

    def __post_init__(self) -> None:
        if self.name not in METHOD_NAMES:
            raise ValueError(unknown_method(self.name, METHOD_NAMES))
        if not self.projector or min(self.projector) < 1:
            raise ValueError(f"method.projector={self.projector}: expected one width at least, all positive")
        if not self.predictor and self.name not in ("byol", "simsiam"):
            raise ValueError(f"method.predictor=false is a control of byol and simsiam, not of {self.name}")
        if not self.target.stop_gradient and (self.name not in EDGE_METHODS or self.target_source != "self"):
            raise ValueError(
                "method.target.stop_gradient=false needs a target that is the network itself: simsiam, or an edge "
                f"method with target.source='self'; got {self.name} with {self.target_source!r}"
            )
        if not self.target.stop_gradient and self.name in CLOSED_FORMS:
            raise ValueError(f"{self.name} is computed from targets without gradient; stop_gradient must be true")
        if not 0.0 < self.sie.invariant < 1.0:
            raise ValueError(f"method.sie.invariant={self.sie.invariant} must lie between 0 and 1")

    @property
    def target_source(self) -> Literal["ema", "self", "frozen"]:
        """Where target latents come from."""
        if self.target.source != "own":
            return self.target.source
        return "self" if self.name == "simsiam" else "ema"


def pal_graph(method: MethodConfig) -> Literal["views", "labels", "active"]:
    """Where the similarity graph of a method comes from; the views are that of all but PAL."""
    return method.pal.graph if method.name.startswith("pal-") else "views"


def unknown_method(name: str, known: tuple[str, ...]) -> str:
    """The answer to a method name that does not exist: the nearest ones, or all."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"no method {name!r}; {hint}"
