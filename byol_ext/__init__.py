"""byol_ext: one bootstrapped-latent core, and recipes for audio-text, exploration, video, text and images."""

from byol_ext.bootstrap import EMA, Bootstrap, Branch, Ctx, Edge, Latent, Out, Prediction, SetTerm, Target

__version__ = "0.1.0"

__all__ = [
    "EMA",
    "Bootstrap",
    "Branch",
    "Ctx",
    "Edge",
    "Latent",
    "Out",
    "Prediction",
    "SetTerm",
    "Target",
    "__version__",
]
