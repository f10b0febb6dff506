"""Quantizers, as a table: what turns maps of latents into discrete codes, and lets gradients through.

`vq` and `vq-ema` (van den Oord et al. 2017, arXiv 1711.00937), `fsq` (Mentzer et al. 2024, arXiv 2309.15505) and
`lookup-free` (Yu et al. 2024, arXiv 2310.05737). All compute in float32, also under autocast; what they keep changes in
training mode only, and is the same in all processes.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding, mse_loss

from tasvir.config import Refused
from tasvir.nn.clusters import k_means, nearest, sums_by_code
from tasvir.nn.everywhere import averaged, gathered, processes, summed

QuantizerName = Literal["vq", "vq-ema", "fsq", "lookup-free"]

DEAD = 0.1
"""A code is dead when its moving count is below this part of the mean count."""
AGAIN = 0.2
"""The part of the mean count that a revived code begins with."""
SMOOTHING = 1e-5
"""Added to every moving count (Laplace), so that none is zero."""


class Quantized(NamedTuple):
    """What a quantizer makes of a map of latents."""

    values: Tensor
    """[B,D,H,W] float32: the codes' vectors, through which gradients reach the latents."""
    codes: Tensor
    """[B,H,W] int64."""
    terms: dict[str, Tensor]
    """Scalar losses."""
    watch: dict[str, Tensor]
    """`perplexity`: the exponential of the entropy of the codes in the batch, of all processes while training.
    `usage`: the share of all codes that came up in about the last 1/(1-decay) training steps."""


class Quantizer(nn.Module):
    """What all rows of `QUANTIZERS` have: layout, precision, and the moving count of what is used."""

    recent: Tensor

    def __init__(self, codes: int, size: int, commitment: float = 0.25, decay: float = 0.99):
        super().__init__()
        self.codes, self.size = codes, size
        """How many codes there are, and the channels D of the latents it takes."""
        self.commitment, self.decay = commitment, decay
        self.register_buffer("recent", torch.zeros(codes))

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Vectors [N,D] float32 to values [N,D] with gradients to the vectors, codes [N] and losses."""
        raise NotImplementedError

    def find(self, vectors: Tensor) -> Tensor:
        """The codes [N] of vectors [N,D] float32."""
        raise NotImplementedError

    def vectors_of(self, codes: Tensor) -> Tensor:
        """The vectors [...,D] of codes [...]."""
        raise NotImplementedError

    def learn(self, vectors: Tensor, codes: Tensor, uses: Tensor) -> None:
        """Change what is kept, in training: vectors [N,D], their codes [N], the count of each code in all processes."""

    def forward(self, latent: Tensor) -> Quantized:
        """Latents [B,D,H,W] to `Quantized`."""
        with torch.autocast(latent.device.type, enabled=False):
            vectors = _rows(latent)
            values, codes, terms = self.quantize(vectors)
            uses = self._observe(vectors.detach(), codes)
            share = uses / uses.sum()
            perplexity = torch.special.entr(share).sum().exp()
            # a code that came up in one step, 1/(1-decay) steps ago, has this moving share of steps
            used = (self.recent > (1 - self.decay) / torch.e).float().mean()
        shape = (latent.shape[0], *latent.shape[2:])
        values = values.unflatten(0, shape).movedim(3, 1)
        return Quantized(values, codes.view(shape), terms, {"perplexity": perplexity, "usage": used})

    @torch.no_grad()
    def tokenize(self, latent: Tensor) -> Tensor:
        """Latents [B,D,H,W] to codes [B,H,W] int64; changes nothing, also in training mode."""
        with torch.autocast(latent.device.type, enabled=False):
            return self.find(_rows(latent)).view(latent.shape[0], *latent.shape[2:])

    def look_up(self, codes: Tensor) -> Tensor:
        """Codes [B,H,W] int64 to their vectors [B,D,H,W] float32."""
        return self.vectors_of(codes).movedim(3, 1)

    @torch.compiler.disable
    @torch.no_grad()
    def _observe(self, vectors: Tensor, codes: Tensor) -> Tensor:
        """How often each code came up, [K]; in training in all processes, and then what is kept follows."""
        ones = torch.ones_like(codes, dtype=torch.float32)
        uses = torch.zeros(self.codes, device=codes.device).scatter_add_(0, codes, ones)
        if self.training:
            uses = summed(uses)
            self.recent.lerp_((uses > 0).float(), 1 - self.decay)
            self.learn(vectors, codes, uses)
        return uses


class Codebook(Quantizer):
    """A code is a vector that is kept; a latent takes the nearest one.

    In training the first batch starts the codes, by k-means. After 1 / (1 - decay) steps, when the counts have seen
    enough, a code whose moving count is under a tenth of the mean is moved to a latent of the batch, chosen at random
    (Dhariwal et al. 2020, arXiv 2005.00341, section 3.1). The decay at step t is min(decay, (1 + t) / (10 + t)), since
    latents move fast while the encoder is young.
    """

    follows = True
    """Whether codes keep up with a young encoder by themselves; those that do not are revived from the start."""
    counts: Tensor
    steps: Tensor

    def __init__(self, codes: int, size: int, commitment: float = 0.25, decay: float = 0.99):
        super().__init__(codes, size, commitment, decay)
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("steps", torch.zeros(()))  # float, so that an update that is skipped takes it back too
        self._surely_started = False

    @property
    def codebook(self) -> Tensor:
        """[K,D] float32."""
        raise NotImplementedError

    def forget(self) -> Tensor:
        """How far moving averages go towards their new values in this step; counts the step."""
        self.steps += 1
        return 1 - (self.steps / (9 + self.steps)).clamp(max=self.decay)

    def place(self, chosen: Tensor, vectors: Tensor, count: float) -> None:
        """Put the codes where `chosen`, [K], is true at vectors [K,D], as if used `count` times in every batch."""
        raise NotImplementedError

    def find(self, vectors: Tensor) -> Tensor:
        return nearest(vectors, self.codebook)

    def vectors_of(self, codes: Tensor) -> Tensor:
        return embedding(codes, self.codebook)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if self.training:
            self._tend(vectors.detach())
        codebook = self.codebook
        codes = nearest(vectors.detach(), codebook.detach())
        chosen = embedding(codes, codebook)
        terms = {"commitment": self.commitment * mse_loss(vectors, chosen.detach())}  # third term of equation 3
        if chosen.requires_grad:
            terms["codebook"] = mse_loss(chosen, vectors.detach())  # second term
        return straight_through(vectors, chosen), codes, terms

    @torch.compiler.disable
    @torch.no_grad()
    def _tend(self, vectors: Tensor) -> None:
        """Start the codes, or revive those that are dead; vectors are [N,D]."""
        vectors = vectors.nan_to_num(0.0, 0.0, 0.0)
        share = len(vectors) * processes() / self.codes
        if not self._surely_started:
            if self.steps == 0:
                everywhere = torch.ones_like(self.counts, dtype=torch.bool)
                self.place(everywhere, self._start(gathered(vectors)), share)
                return
            self._surely_started = True  # asked once only: a GPU waits for the answer
        dead = self.counts < DEAD * share
        if self.follows:
            dead &= self.steps >= 1 / (1 - self.decay)
        self.place(dead, _drawn(vectors, self.codes), AGAIN * share)

    def _start(self, vectors: Tensor) -> Tensor:
        """Where k-means of all processes' vectors puts the codes, [K,D]; computed by the first process."""
        if len(vectors) < self.codes:
            raise Refused(
                f"{self.codes} codes are started from the vectors of the first batch, and it has only {len(vectors)}: "
                "set --model.codes lower or --train.batch-size higher."
            )
        means = k_means(vectors, self.codes)
        if processes() > 1:
            distributed.broadcast(means, 0)
        return means

    def _load_from_state_dict(self, *arguments: Any, **settings: Any) -> None:
        super()._load_from_state_dict(*arguments, **settings)
        self._surely_started = False


class Learned(Codebook):
    """A codebook that descends the squared distance to the latents that chose it (equation 3).

    Two things lag where a code is revived: the averaged weights move to its new place only as fast as they move to any
    other, being averages of places; and the optimizer keeps the moments it had, by which the next steps move it a
    little. `MovingAverage` has neither.
    """

    follows = False

    def __init__(self, codes: int, size: int, commitment: float = 0.25, decay: float = 0.99):
        super().__init__(codes, size, commitment, decay)
        self.weight = nn.Parameter(torch.randn(codes, size) / size**0.5)

    @property
    def codebook(self) -> Tensor:
        return self.weight.float()

    def place(self, chosen: Tensor, vectors: Tensor, count: float) -> None:
        self.weight.copy_(torch.where(chosen[:, None], vectors, self.weight))
        self.counts.masked_fill_(chosen, count)

    def learn(self, vectors: Tensor, codes: Tensor, uses: Tensor) -> None:
        self.counts.lerp_(uses, self.forget())


class MovingAverage(Codebook):
    """A codebook of moving averages of the latents that chose it (appendix A.1): each a sum divided by a count.

    Only sum and count are kept. An average of weights over time therefore weighs a code's places by how much it was
    used there, so that a place where it was dead counts for little.
    """

    sums: Tensor

    def __init__(self, codes: int, size: int, commitment: float = 0.25, decay: float = 0.99):
        super().__init__(codes, size, commitment, decay)
        self.register_buffer("sums", torch.randn(codes, size) / size**0.5)

    @property
    def codebook(self) -> Tensor:
        total = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (total + self.codes * SMOOTHING) * total
        return self.sums / smoothed[:, None]

    def place(self, chosen: Tensor, vectors: Tensor, count: float) -> None:
        self.sums.copy_(torch.where(chosen[:, None], vectors * count, self.sums))
        self.counts.masked_fill_(chosen, count)

    def learn(self, vectors: Tensor, codes: Tensor, uses: Tensor) -> None:
        weight = self.forget()
        self.counts.lerp_(uses, weight)
        self.sums.lerp_(summed(sums_by_code(vectors, codes, self.codes)), weight)


class FiniteScalar(Quantizer):
    """Each of a few channels is bounded and rounded to one of its levels; a code is a combination of levels.

    `levels` is the number of each channel; their product is the number of codes. Mentzer et al. 2024, section 3 and
    appendix A; zero stays zero where a channel has an even number of levels too.
    """

    levels: Tensor
    places: Tensor

    def __init__(self, codes: int, size: int, commitment: float = 0.25, decay: float = 0.99):
        levels = levels_for(codes)
        super().__init__(codes, len(levels), commitment, decay)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("places", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        bounded = self._bounded(vectors)
        codes = self._codes(bounded)
        return straight_through(bounded / (self.levels // 2), self.vectors_of(codes)), codes, {}

    def find(self, vectors: Tensor) -> Tensor:
        return self._codes(self._bounded(vectors))

    def vectors_of(self, codes: Tensor) -> Tensor:
        digits = codes[..., None] // self.places % self.levels
        half = self.levels // 2
        return (digits - half) / half

    def _bounded(self, vectors: Tensor) -> Tensor:
        """Into ±(L-1)/2 about a middle of 0 (odd L) or -1/2 (even L), a little less so that rounding stays inside."""
        half = (self.levels - 1) / 2 * (1 - 1e-3)
        middle = 0.5 * (self.levels % 2 == 0)
        return (vectors + (middle / half).atanh().nan_to_num(0.0, 0.0, 0.0)).tanh() * half - middle

    def _codes(self, bounded: Tensor) -> Tensor:
        return ((bounded.nan_to_num(0.0).round().long() + self.levels // 2) * self.places).sum(-1)


class LookupFree(Quantizer):
    """Each channel's sign is one bit of the code; its value is -1 or 1.

    The entropy penalty (Yu et al. 2024, equation 5) makes every latent sure of its code and all codes equally frequent.
    The probability of a code falls with its squared distance; bits are then independent, so that the entropy of one
    latent's codes is a sum over bits, and the mean probability of all codes is one product of two matrices.
    """

    ENTROPY = 0.1
    """The penalty's weight."""
    places: Tensor

    def __init__(self, codes: int, size: int, commitment: float = 0.25, decay: float = 0.99):
        bits = codes.bit_length() - 1
        if codes != 2**bits:
            raise Refused(
                f"--model.codes is {codes}; lookup-free needs a power of 2, such as {2**bits} or {2 ** (bits + 1)}."
            )
        super().__init__(codes, bits, commitment, decay)
        self.register_buffer("places", 2 ** torch.arange(bits), persistent=False)

    def quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        codes = self.find(vectors)
        chosen = self.vectors_of(codes)
        logits = 4 * vectors  # (z+1)² - (z-1)²
        sure = binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none").sum(1).mean()
        mean = self.mean_probabilities(logits)
        if self.training:  # of all processes, where the gradients of each add up to that of the whole
            mean = mean + (averaged(mean) - mean).detach()
        mean = mean.clamp(min=torch.finfo(mean.dtype).tiny)  # at zero the slope of an entropy is infinite
        entropy = self.ENTROPY * (sure - torch.special.entr(mean).sum())
        terms = {"commitment": self.commitment * mse_loss(vectors, chosen), "entropy": entropy}
        return straight_through(vectors, chosen), codes, terms

    def mean_probabilities(self, logits: Tensor) -> Tensor:
        """The mean over vectors of the probability of each code, [K], from the log-odds of each bit, [N,D]."""
        low, high = (_joint(part) for part in logits.tensor_split([self.size // 2], dim=1))
        return (high.T @ low).flatten() / len(logits)

    def find(self, vectors: Tensor) -> Tensor:
        return ((vectors > 0) * self.places).sum(-1)

    def vectors_of(self, codes: Tensor) -> Tensor:
        return (codes[..., None] // self.places % 2 * 2 - 1).float()


QUANTIZERS: dict[str, type[Quantizer]] = {
    "vq": Learned,
    "vq-ema": MovingAverage,
    "fsq": FiniteScalar,
    "lookup-free": LookupFree,
}


def quantizer(config: Any) -> Quantizer:
    """The quantizer of a config with `quantizer`, `codes`, `code_size`, `commitment` and `decay`.

    Raises `Refused` for a number of codes that it cannot have.
    """
    return QUANTIZERS[config.quantizer](config.codes, config.code_size, config.commitment, config.decay)


def straight_through(vectors: Tensor, values: Tensor) -> Tensor:
    """Exactly `values`; its gradient goes to `vectors` unchanged."""
    return values.detach() + (vectors - vectors.detach())


def levels_for(codes: int) -> list[int]:
    """Levels, each from 2 to 8, whose product is that number of codes: the fewest, then the most alike, largest first.

    Raises `Refused`, naming the nearest number that has some, if there are none.
    """
    found = _factors(codes, 8)
    if found is None:
        near = next(n for step in range(1, codes) for n in (codes + step, codes - step) if n > 1 and _factors(n, 8))
        raise Refused(f"--model.codes is {codes}; fsq needs a product of numbers from 2 to 8, such as {near}.")
    return list(found)


def _factors(product: int, most: int) -> tuple[int, ...] | None:
    """The best way to write a number as a product of factors from 2 to `most`, largest first; None if there is none."""
    if product == 1:
        return ()
    ways = [
        (factor, *rest)
        for factor in range(2, most + 1)
        if product % factor == 0 and (rest := _factors(product // factor, factor)) is not None
    ]
    return min(ways, key=lambda way: (len(way), sum(way)), default=None)


def _rows(latent: Tensor) -> Tensor:
    """Latents [B,D,H,W] as vectors [B·H·W,D] float32."""
    return latent.float().movedim(1, 3).flatten(0, 2)


def _joint(logits: Tensor) -> Tensor:
    """Probabilities [N,2^D] of all combinations of independent bits from their log-odds [N,D], the first bit lowest."""
    joint = torch.ones(len(logits), 1, device=logits.device)
    for bit in logits.unbind(1):
        joint = torch.cat([joint * (-bit).sigmoid()[:, None], joint * bit.sigmoid()[:, None]], 1)
    return joint


def _drawn(vectors: Tensor, number: int) -> Tensor:
    """That many of all processes' vectors [N,D], chosen at random by the first process; the same in all."""
    everyone = processes()
    if everyone == 1:
        return vectors[torch.randint(len(vectors), (number,), device=vectors.device)]
    places = torch.randint(len(vectors) * everyone, (number,), device=vectors.device)
    distributed.broadcast(places, 0)
    mine = places // len(vectors) == distributed.get_rank()
    return summed(vectors[places % len(vectors)] * mine[:, None])
