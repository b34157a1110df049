"""The trained models of the text diffusion recipe behind one face, :class:`recipes.cdcd_generate.TextModel`.

Legend: ``B`` sequences, ``L`` positions, ``V`` vocabulary, ``d`` embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from byol_ext.diffusion import autoregressive, mdlm
from byol_ext.diffusion.guidance import Estimate, Guidance, sharpened
from byol_ext.diffusion.likelihood import likelihood_bound
from byol_ext.diffusion.objective import CDCD
from byol_ext.diffusion.samplers import Halting, VESampler
from byol_ext.diffusion.score_interpolation import ScoreInterpolator, SelfConditionedPosterior
from byol_ext.diffusion.simplex_likelihood import simplex_bound
from byol_ext.diffusion.simplex_objective import SimplexModel
from byol_ext.diffusion.simplex_samplers import Step, bridge_step, generate, ode_step, sde_step
from byol_ext.diffusion.warp import UniformWarp
from recipes.cdcd_config import SampleConfig
from recipes.cdcd_film import Frame, evenly, frame

_NEUTRAL = frozenset({"count", "batch", "prompt", "steps", "sampler", "simplex_sampler"})
"""Knobs that no model refuses: how much to draw, and those that presets set for all methods."""
_SHARPNESS = frozenset({"softmax_temperature", "top_p"})
_KNOBS = {
    "cdcd": frozenset(item.name for item in fields(SampleConfig)),
    "simplex": _SHARPNESS | {"rho", "unwarped"},
    "mdlm": _SHARPNESS,
    "ar": _SHARPNESS,
}
_SIMPLEX_STEPS: dict[str, Step] = {"ode": ode_step, "sde": sde_step, "bridge": bridge_step}


class Generated(NamedTuple):
    """What :meth:`TextModel.sample` made.

    Attributes:
        tokens_BL: Tokens, the given ones included.
        evaluations: Network evaluations of the sequence that needed most.
        film: The first sequence's making; None where none was wanted, or the model has no steps to show (ar).
    """

    tokens_BL: Tensor
    evaluations: int
    film: list[Frame] | None


def check_knobs(how: SampleConfig, name: str) -> None:
    """Refuse a knob that is turned and would do nothing.

    Args:
        how: How to sample.
        name: Of the model: cdcd, simplex, mdlm or ar.

    Raises:
        ValueError: If a knob that the model does not have is not at its default.
    """
    at_rest = SampleConfig()
    turned = [
        f"{item.name}={getattr(how, item.name)!r}"
        for item in fields(how)
        if item.name not in _KNOBS[name] | _NEUTRAL and getattr(how, item.name) != getattr(at_rest, item.name)
    ]
    if turned:
        knobs = ", ".join(sorted(_KNOBS[name]))
        raise ValueError(f"sampling from a {name} model does not know {', '.join(turned)}; its knobs are {knobs}")


@dataclass(frozen=True)
class GaussianText:
    """CDCD.

    Args:
        model: The trained model.
    """

    model: CDCD
    name = "cdcd"
    exact = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.average.output.weight.device

    def sampler(self, how: SampleConfig) -> VESampler:
        """The sampler that a configuration describes."""
        warp = self.model.warp
        return VESampler(
            UniformWarp(warp.t_min, warp.t_max) if how.unwarped else warp,
            steps=how.steps,
            method=how.sampler,
            guidance=Guidance(
                how.guidance,
                memory=how.guidance_memory,
                softmax_temperature=how.softmax_temperature,
                top_p=how.top_p,
            ),
            score_temperature=how.score_temperature,
            sigma_init=how.sigma_init,
            rho=how.rho,
            final=how.final,
            halting=Halting(how.halt_patience, how.halt_entropy),
        )

    @torch.no_grad()
    def sample(
        self, tokens_BL: Tensor, noised_BL: Tensor, *, how: SampleConfig, generator: torch.Generator, film: int = 0
    ) -> Generated:
        """See :class:`TextModel`."""
        frames: list[Frame] = []

        def observe(step: int, t: float, estimate: Estimate) -> None:
            frames.append(frame(step, t, estimate.p_BLV[0], tokens_L=tokens_BL[0], open_L=noised_BL[0]))

        made = self.sampler(how).sample(
            self._posterior(tokens_BL, noised_BL),
            interpolator=self._interpolator,
            noised_BL=noised_BL,
            generator=generator,
            tokens_BL=tokens_BL,
            unconditional=self._posterior(tokens_BL, noised_BL, dropped=True),
            observe=observe if film else None,
        )
        return Generated(made.tokens_BL, int(made.evaluations_B.max()), evenly(frames, film))

    @torch.no_grad()
    def nats(
        self,
        tokens_BL: Tensor,
        *,
        noised_BL: Tensor | None = None,
        draws: int,
        passes: int,
        generator: torch.Generator,
    ) -> Tensor:
        """See :class:`TextModel`."""
        noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if noised_BL is None else noised_BL
        return likelihood_bound(
            self._posterior(tokens_BL, noised_BL),
            tokens_BL=tokens_BL,
            interpolator=self._interpolator,
            warp=self.model.warp,
            generator=generator,
            noised_BL=noised_BL,
            draws=draws,
            passes=passes if self.model.config.self_conditioning else 0,
        ).nats_B

    @torch.no_grad()
    def marginals(self, tokens_BL: Tensor, noised_BL: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :class:`TextModel`."""
        shape = *tokens_BL.shape, self.model.average.config.embedding_width
        t_max = self.model.warp.t_max
        x_BLd = torch.randn(shape, device=self.device, generator=generator) * t_max
        t_B = x_BLd.new_full((len(x_BLd),), t_max)
        return self._posterior(tokens_BL, noised_BL)(x_BLd, t_B, torch.zeros_like(x_BLd)).log()

    @property
    def _interpolator(self) -> ScoreInterpolator:
        return ScoreInterpolator(self.model.average.embedding.table(), self.model.config.post)

    def _posterior(self, tokens_BL: Tensor, noised_BL: Tensor, *, dropped: bool = False) -> SelfConditionedPosterior:
        posterior = self.model.average.posterior(noised_BL=noised_BL, tokens_BL=tokens_BL, dropped=dropped)
        if self.model.config.self_conditioning:
            return posterior
        # A network that never saw a previous prediction in training must not see one now.
        return lambda x_BLd, t_B, previous_BLd: posterior(x_BLd, t_B, torch.zeros_like(previous_BLd))


@dataclass(frozen=True)
class SimplexText:
    """Simplex diffusion.

    Args:
        model: The trained model.
    """

    model: SimplexModel
    name = "simplex"
    exact = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.average.output.weight.device

    @torch.no_grad()
    def sample(
        self, tokens_BL: Tensor, noised_BL: Tensor, *, how: SampleConfig, generator: torch.Generator, film: int = 0
    ) -> Generated:
        """See :class:`TextModel`."""
        check_knobs(how, self.name)
        posterior = self.model.posterior(noised_BL=noised_BL, tokens_BL=tokens_BL)
        frames: list[Frame] = []

        def probabilities(y_BLV: Tensor, t_B: Tensor, previous_BLV: Tensor) -> Tensor:
            p_BLV = posterior(y_BLV, t_B, previous_BLV)
            p_BLV = sharpened(p_BLV, temperature=how.softmax_temperature, top_p=how.top_p)
            if film:
                shown = frame(len(frames), float(t_B[0]), p_BLV[0], tokens_L=tokens_BL[0], open_L=noised_BL[0])
                frames.append(shown)
            return p_BLV

        made = generate(
            self.model.simplex,
            probabilities,
            self._times(how),
            like_BLV=torch.zeros(*tokens_BL.shape, self.model.simplex.vocab, device=self.device),
            step=_SIMPLEX_STEPS[how.simplex_sampler],
            generator=generator,
        )
        made_BL = torch.where(noised_BL, made.tokens_BL, tokens_BL)
        return Generated(made_BL, how.steps + 1, evenly(frames, film))

    @torch.no_grad()
    def nats(
        self,
        tokens_BL: Tensor,
        *,
        noised_BL: Tensor | None = None,
        draws: int,
        passes: int,
        generator: torch.Generator,
    ) -> Tensor:
        """See :class:`TextModel`."""
        noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if noised_BL is None else noised_BL
        return simplex_bound(
            self.model.posterior(noised_BL=noised_BL, tokens_BL=tokens_BL),
            tokens_BL=tokens_BL,
            simplex=self.model.simplex,
            warp=self.model.warp,
            generator=generator,
            noised_BL=noised_BL,
            draws=draws,
            passes=passes if self.model.config.self_conditioning else 0,
        ).nats_B

    @torch.no_grad()
    def marginals(self, tokens_BL: Tensor, noised_BL: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :class:`TextModel`."""
        simplex = self.model.simplex
        like_BLV = torch.zeros(*tokens_BL.shape, simplex.vocab, device=self.device)
        y_BLV = simplex.prior(like_BLV, generator=generator)
        t_B = y_BLV.new_full((len(y_BLV),), simplex.t_max)
        return self.model.posterior(noised_BL=noised_BL, tokens_BL=tokens_BL)(y_BLV, t_B, like_BLV).log()

    def _times(self, how: SampleConfig) -> Tensor:
        warp = self.model.warp
        quantiles_N = torch.linspace(1.0, 0.0, how.steps + 1, dtype=torch.float64, device=self.device) ** how.rho
        return (UniformWarp(warp.t_min, warp.t_max) if how.unwarped else warp).times(quantiles_N)


@dataclass(frozen=True)
class AutoregressiveText:
    """The autoregressive baseline, with a cache of keys and values.

    Args:
        model: The network with averaged weights.
    """

    model: autoregressive.Autoregressive
    name = "ar"
    exact = True

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.output.weight.device

    def sample(
        self, tokens_BL: Tensor, noised_BL: Tensor, *, how: SampleConfig, generator: torch.Generator, film: int = 0
    ) -> Generated:
        """See :class:`TextModel`; there is no film, and steps and samplers are not read."""
        check_knobs(how, self.name)
        made_BL = autoregressive.sample(
            self.model,
            tokens_BL,
            noised_BL,
            generator=generator,
            temperature=how.softmax_temperature,
            top_p=how.top_p,
        )
        return Generated(made_BL, int(noised_BL.any(0).sum()), None)

    @torch.no_grad()
    def nats(
        self,
        tokens_BL: Tensor,
        *,
        noised_BL: Tensor | None = None,
        draws: int,
        passes: int,
        generator: torch.Generator,
    ) -> Tensor:
        """See :class:`TextModel`."""
        nll_BL = autoregressive.token_nll(self.model, tokens_BL).double()
        return (nll_BL if noised_BL is None else nll_BL.masked_fill(~noised_BL, 0.0)).sum(1)

    @torch.no_grad()
    def marginals(self, tokens_BL: Tensor, noised_BL: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :class:`TextModel`."""
        return self.model(tokens_BL).float().log_softmax(-1)


@dataclass(frozen=True)
class MaskedText:
    """The masked-diffusion baseline.

    Args:
        model: The network with averaged weights.
    """

    model: mdlm.MDLM
    name = "mdlm"
    exact = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.output.weight.device

    def sample(
        self, tokens_BL: Tensor, noised_BL: Tensor, *, how: SampleConfig, generator: torch.Generator, film: int = 0
    ) -> Generated:
        """See :class:`TextModel`; samplers are not read."""
        check_knobs(how, self.name)
        frames: list[Frame] = []
        wanted = int(noised_BL[0].sum())
        evaluations_B = torch.zeros(len(tokens_BL), dtype=torch.int64, device=tokens_BL.device)
        # The network runs on some of the sequences at a time and reads no hidden token: these say which they are.
        rows_BL = torch.arange(len(tokens_BL), device=tokens_BL.device)[:, None].expand_as(tokens_BL)

        def predict(canvas_BL: Tensor, hidden_BL: Tensor) -> Tensor:
            logits_BLV = self.model(canvas_BL, hidden_BL)
            rows_B = torch.where(hidden_BL, canvas_BL, 0).amax(1)
            evaluations_B[rows_B] += 1
            if film and int(rows_B[0]) == 0:
                share, p_LV = int(hidden_BL[0].sum()) / wanted, logits_BLV[0].float().softmax(-1)
                frames.append(frame(len(frames), share, p_LV, tokens_L=canvas_BL[0], open_L=hidden_BL[0]))
            return logits_BLV

        made_BL = mdlm.sample(
            predict,
            torch.where(noised_BL, rows_BL, tokens_BL),
            noised_BL,
            steps=how.steps,
            generator=generator,
            temperature=how.softmax_temperature,
            top_p=how.top_p,
        )
        if film:
            revealed_L = made_BL[0].cpu()
            sure_L = torch.ones(len(revealed_L))
            frames.append(Frame(len(frames), 0.0, revealed_L, sure_L, torch.zeros_like(sure_L)))
        return Generated(made_BL, int(evaluations_B.max()), evenly(frames, film))

    @torch.no_grad()
    def nats(
        self,
        tokens_BL: Tensor,
        *,
        noised_BL: Tensor | None = None,
        draws: int,
        passes: int,
        generator: torch.Generator,
    ) -> Tensor:
        """See :class:`TextModel`."""
        noised_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if noised_BL is None else noised_BL
        bound_B = mdlm.bound(self.model, tokens_BL, draws=draws, generator=generator, noised_BL=noised_BL)
        return bound_B * noised_BL.sum(1)

    @torch.no_grad()
    def marginals(self, tokens_BL: Tensor, noised_BL: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :class:`TextModel`."""
        return self.model(tokens_BL, noised_BL).float().log_softmax(-1)
