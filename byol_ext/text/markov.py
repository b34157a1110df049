"""An order-2 Markov source: text whose entropy is known exactly, so that no reference model is needed.

Source: spec cdcd section 13, "Corpus S". The source is stationary: each stretch of it has the same law. Everything is
float64 nats.

Legend: ``N`` sequences, ``L`` positions, ``V`` symbols; ``p_VVV[a, b, c]`` is the probability of ``c`` after ``a b``.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from byol_ext.text.language_data import LanguageData, StreamFacts, TokenStream
from byol_ext.text.language_tokenizers import CharTokenizer

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


class MarkovSource:
    """Symbols that depend on the two before them, with exact entropy, likelihood and posterior.

    Args:
        symbols: Size of the vocabulary, ``V`` (27, as letters and space).
        concentration: Of the symmetric Dirichlet that each context's distribution is drawn from: small values give
            few likely successors and a low entropy rate.
        seed: Of the source.

    Attributes:
        p_VVV: Transitions.
        pair_VV: Stationary law of two consecutive symbols.

    Raises:
        ValueError: For fewer than 2 symbols or a concentration that is not positive.

    Example:
        >>> source = MarkovSource(4, seed=1)
        >>> round(source.entropy(10) - source.entropy(9) - source.entropy_rate, 9)
        0.0
    """

    def __init__(self, symbols: int = 27, *, concentration: float = 0.1, seed: int = 0) -> None:
        if symbols < 2 or concentration <= 0:
            raise ValueError(f"symbols={symbols}, concentration={concentration}: expected at least 2, and more than 0")
        drawn = np.random.default_rng(seed).dirichlet(np.full(symbols, concentration), size=(symbols, symbols))
        # Underflow may make a draw 0; a floor keeps every state reachable, so that the stationary law is unique.
        self.p_VVV: Array = (drawn + 1e-6) / (1 + symbols * 1e-6)
        self.symbols = symbols
        self.pair_VV = _stationary(self.p_VVV)
        self._name = f"markov-V{symbols}-c{concentration:g}-s{seed}"

    @property
    def entropy_rate(self) -> float:
        """Nats a symbol, given all before it: the least cross-entropy that a model can reach."""
        return float(-(self.pair_VV[:, :, None] * self.p_VVV * np.log(self.p_VVV)).sum())

    @property
    def unigram(self) -> Array:
        """Stationary law of one symbol, ``[V]``."""
        return self.pair_VV.sum(axis=0)

    def entropy(self, length: int) -> float:
        """Nats of a whole stretch of ``length`` symbols; a symbol's share falls to the entropy rate.

        Raises:
            ValueError: For a length below 1.
        """
        if length < 1:
            raise ValueError(f"length={length}: expected at least 1")
        if length == 1:
            return _entropy(self.unigram)
        return _entropy(self.pair_VV) + (length - 2) * self.entropy_rate

    def sample(self, count: int, length: int, *, seed: int) -> Ids:
        """Stretches of the source, ``[count, length]``."""
        uniform = np.random.default_rng(seed).random((length, count))
        after = self.p_VVV.cumsum(axis=-1)
        ids = np.empty((count, length), dtype=np.int64)
        if length:
            ids[:, 0] = _draw(self.unigram.cumsum()[None], uniform[0])
        if length > 1:
            second = self.pair_VV / self.pair_VV.sum(axis=1, keepdims=True)
            ids[:, 1] = _draw(second.cumsum(axis=-1)[ids[:, 0]], uniform[1])
        for t in range(2, length):
            ids[:, t] = _draw(after[ids[:, t - 2], ids[:, t - 1]], uniform[t])
        return ids

    def log_prob(self, ids_NL: Ids) -> Array:
        """Log-probability of each symbol given those before it, ``[N, L]``; a row's sum is exact."""
        ids = np.asarray(ids_NL)
        out = np.empty(ids.shape)
        out[:, 0] = np.log(self.unigram)[ids[:, 0]]
        out[:, 1:2] = np.log(self.pair_VV[ids[:, :1], ids[:, 1:2]]) - out[:, :1]
        out[:, 2:] = np.log(self.p_VVV[ids[:, :-2], ids[:, 1:-1], ids[:, 2:]])
        return out

    def posterior(self, log_evidence_NLV: Array) -> Array:
        """Exact law of each symbol given evidence at all positions: the Bayes denoiser of this source.

        For a noisy embedding the evidence is ``-|x - e_i|^2 / (2 t^2)`` (or ``x . e_i / t^2``), for a given symbol 0 at
        it and ``-inf`` elsewhere, for a hidden one 0 everywhere: so it is also the best possible infilling.

        Args:
            log_evidence_NLV: Log-likelihood of what was seen at each position, for each symbol, up to a constant.

        Returns:
            ``[N, L, V]``.

        Raises:
            ValueError: For another number of symbols, fewer than two positions, or evidence that excludes everything.
        """
        evidence = np.asarray(log_evidence_NLV, dtype=np.float64)
        if evidence.ndim != 3 or evidence.shape[-1] != self.symbols or evidence.shape[1] < 2:
            raise ValueError(f"evidence {evidence.shape}: expected [N, L >= 2, {self.symbols}]")
        with np.errstate(invalid="ignore"):
            seen = np.exp(evidence - evidence.max(axis=-1, keepdims=True))
        # Forward and backward messages over pairs (symbol at l, symbol at l + 1), each scaled to sum to 1.
        forward = [_scaled(self.pair_VV * seen[:, 0, :, None] * seen[:, 1, None, :])]
        for t in range(2, evidence.shape[1]):
            forward.append(_scaled(np.einsum("nab,abc->nbc", forward[-1], self.p_VVV) * seen[:, t, None, :]))
        backward = np.ones_like(forward[-1])
        out = np.empty_like(evidence)
        for t in range(evidence.shape[1] - 1, 0, -1):
            pair = _scaled(forward[t - 1] * backward)
            out[:, t] = pair.sum(axis=1)
            if t == 1:
                out[:, 0] = pair.sum(axis=2)
            backward = _scaled(np.einsum("abc,nc,nbc->nab", self.p_VVV, seen[:, t], backward))
        return out

    def language_data(self, train_tokens: int, validation_tokens: int, *, seed: int = 0) -> LanguageData:
        """One long stretch for training and another for validation, written in letters.

        Args:
            train_tokens: Symbols for training.
            validation_tokens: Symbols for validation.
            seed: Of the draws; another one gives other stretches of the same source.

        Raises:
            ValueError: For more than 27 symbols, which the letters and the space do not write.
        """
        letters = "abcdefghijklmnopqrstuvwxyz "
        if self.symbols > len(letters):
            raise ValueError(f"{self.symbols} symbols: expected at most {len(letters)}, which letters can write")
        alphabet = letters[-self.symbols :]
        streams = []
        for part, tokens in enumerate((train_tokens, validation_tokens)):
            ids = self.sample(1, tokens, seed=2 * seed + part)[0].astype("<u2")
            digest = hashlib.sha256(self._name.encode() + ids.tobytes()).hexdigest()
            streams.append(TokenStream(ids, StreamFacts(1, tokens, tokens, digest, digest)))
        return LanguageData(streams[0], streams[1], CharTokenizer(alphabet))


def _stationary(p_VVV: Array) -> Array:
    """The law of pairs that a step leaves as it is."""
    pair = np.full(p_VVV.shape[:2], 1.0 / p_VVV.shape[0] ** 2)
    for _ in range(20_000):
        moved = np.einsum("ab,abc->bc", pair, p_VVV)
        # Averaging with the last law keeps a nearly periodic source from oscillating.
        moved = 0.5 * (moved + pair)
        if np.abs(moved - pair).max() < 1e-15:
            break
        pair = moved
    return np.asarray(pair / pair.sum())


def _draw(cumulative: Array, uniform_N: Array) -> Ids:
    """Categorical draws by inversion; the last symbol takes what rounding leaves."""
    below = (cumulative <= uniform_N[:, None]).sum(axis=-1)
    return np.minimum(below, cumulative.shape[-1] - 1)


def _entropy(p: Array) -> float:
    return float(-(p * np.log(p)).sum())


def _scaled(message_NVV: Array) -> Array:
    total = message_NVV.sum(axis=(1, 2), keepdims=True)
    if not (np.isfinite(total).all() and (total > 0).all()):
        raise ValueError("the evidence excludes every sequence, or holds NaN")
    return np.asarray(message_NVV / total)
