"""Nearest neighbours and k-means among vectors, in bounded memory."""

import torch
from torch import Tensor

ROUNDS = 8
"""Draws in which k-means finds where to start."""
ITERATIONS = 10
"""Of Lloyd's algorithm, after that."""
PER_CODE = 256
"""Vectors for each code that k-means looks at, at most."""
SCORES = {"cpu": 2**20, "cuda": 2**26}
"""Products of vectors with codes held at a time in a search: what fits a CPU's cache, or 256 MiB."""


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The index [N] of the row of the codebook [K,D] that is nearest to each vector [N,D], the first of equals.

    By |e|² - 2 z·e, which differs from the squared distance by what all codes share; a bounded part at a time.
    """
    with torch.no_grad():
        lengths = codebook.square().sum(1)
        rows = max(1, SCORES.get(vectors.device.type, 2**24) // len(codebook))
        parts = [torch.addmm(lengths, part, codebook.T, alpha=-2).argmin(1) for part in vectors.split(rows)]
        return torch.cat(parts)


def k_means(vectors: Tensor, number: int) -> Tensor:
    """Means [K,D] of clusters of vectors [N,D], N ≥ K; random numbers come from torch's generator.

    Starting places are drawn in a few rounds, each with probabilities in proportion to the squared distance from those
    drawn before (Bahmani et al. 2012, arXiv 1203.6402, with exactly K places), then improved by Lloyd's algorithm.
    """
    most = min(number * PER_CODE, 2**24)  # the most that torch.multinomial takes
    if len(vectors) > most:
        vectors = vectors[torch.randperm(len(vectors), device=vectors.device)[:most]]
    distances = torch.ones(len(vectors), device=vectors.device)
    means = vectors[:0]
    for part in torch.arange(number).chunk(ROUNDS):
        weights = distances + (1e-6 * distances.mean() + 1e-30)  # equal vectors can be drawn when nothing else is left
        found = vectors[torch.multinomial(weights, len(part))]
        apart = (vectors - found[nearest(vectors, found)]).square().sum(1)
        distances = torch.minimum(distances, apart) if len(means) else apart
        means = torch.cat([means, found])
    for _ in range(ITERATIONS):
        codes = nearest(vectors, means)
        counts = torch.bincount(codes, minlength=number)[:, None]
        means = torch.where(counts > 0, sums_by_code(vectors, codes, number) / counts.clamp(min=1), means)
    return means


def sums_by_code(vectors: Tensor, codes: Tensor, number: int) -> Tensor:
    """The sum of the vectors [N,D] of each code [N], as [K,D]."""
    sums = torch.zeros(number, vectors.shape[1], device=vectors.device)
    return sums.scatter_add_(0, codes[:, None].expand_as(vectors), vectors)
