"""Gradient estimators, measured against exact gradients, and what their variance was in training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tasvir.config import Count, Positive, Range, Refused, Seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Estimators:
    """Estimators of d/dθ E[f(z)] held against the exact gradient: bias, variance, time. With runs of discrete-vae, the
    variance of the encoder's gradient against training step instead.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[RUN …]")] = ()
    """Runs of discrete-vae, to draw into one figure (--out)."""
    distribution: Literal["gaussian", "bernoulli", "categorical"] = "gaussian"
    """Of z."""
    function: str = "square"
    """f: linear is mz, square is (mz)², or an expression such as 'sin(3*z)'."""
    m: float = 1.0
    """The number m in f."""
    parameters: tuple[float, ...] = ()
    """Mean and log scale of the Gaussian, logit of the Bernoulli, logits of the categorical variable; left out, 1 and
    0; 0.5; 0.5, 0 and -0.5."""
    samples: tuple[Count, ...] = (1, 4, 16, 64, 256)
    """Samples in an estimate."""
    repetitions: Annotated[int, Range(low=2, high=10_000_000)] = 10_000
    """Estimates that bias and variance are computed from."""
    temperature: Positive = 0.5
    """Of relaxed samples."""
    seed: Seed = 0
    """Everything random follows from it."""
    out: Path | None = None
    """A folder for estimators.png, .csv and .json, or one figure (.png, .pdf, .svg)."""
    json: bool = False
    """For programs."""

    def __call__(self) -> None:
        if self.runs:
            return self._of_runs()
        from tasvir.estimators import telling
        from tasvir.estimators.measuring import Problem, measure

        if not abs(self.m) <= 1e6:
            raise Refused(f"--m is {self.m}; it must be a number from -1000000 to 1000000.")
        problem = Problem(self.distribution, self.function, self.m, self.parameters)
        samples = tuple(sorted(set(self.samples)))
        if samples[-1] > 1_000_000:
            raise Refused(f"--samples {samples[-1]} is too many: a million is the most.")
        if self.out is not None and self.out.suffix and self.out.suffix not in PICTURES:
            raise Refused(f"--out {self.out} must be a folder or end in {', '.join(PICTURES)}.")
        rows = measure(problem, samples, self.repetitions, self.seed, self.temperature)
        found = [row for group in rows for row in group]
        print(telling.as_json(problem, found) if self.json else telling.told(problem, found, samples[-1]))
        if self.out is None:
            return None
        from tasvir.report.estimators import estimators

        picture = self.out if self.out.suffix else self.out / "estimators.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        written = [] if self.out.suffix else telling.write(found, problem, self.out)
        return self._save(estimators(problem, found), picture, written)

    def _of_runs(self) -> None:
        if self.out is None or self.out.suffix not in PICTURES:
            raise Refused(f"`tasvir estimators RUN` wants --out FIGURE, ending in {', '.join(PICTURES)}.")
        from tasvir.report.estimators import variance_while_training

        figure = variance_while_training(self.runs)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._save(figure, self.out, [])

    def _save(self, figure: "Figure", picture: Path, written: list[Path]) -> None:
        figure.savefig(picture, dpi=130)
        if not self.json:
            print(f"\nWritten: {', '.join(map(str, [picture, *written]))}")
