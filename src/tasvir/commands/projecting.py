"""Given pictures, found again in a run's latent space."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasvir.commands.walking import FILM, RATE
from tasvir.commands.words import Folder, Label, Number, Source, Step
from tasvir.config import Count, Refused, Seed

if TYPE_CHECKING:
    import numpy as np

    from tasvir.projection import Projected


@dataclass(frozen=True)
class Project:
    """Find pictures (the run's held-out ones if none are named) again in the latent space, by descending their distance
    to what the model makes of a latent. It shows what a model can draw and what it cannot.
    """

    run: Folder
    pictures: Source = None
    out: Path = Path("projection.png")
    """x.png each picture with where the descent began and what was found; x.gif, x.webp or x.mp4 a film of the descent;
    x.npz images and latents, which `tasvir decode` reads; a folder of both."""
    number: Number = 8
    """Pictures."""
    space: Literal["z", "w"] | None = None
    """Where to look: w is what style-based generators make of z, and the usual one where there is one."""
    distance: Literal["pixels", "lpips"] | None = None
    """Squared differences of pixels, or LPIPS; left out, LPIPS from 32 px if its weights are at hand, else pixels."""
    steps: Count = 300
    """Of each descent; 1000 in Karras et al. 2020."""
    starts: Count = 2
    """Descents for each picture, of which the best is kept; in z of models that do not encode."""
    label: Label = None
    """Class of the pictures, for recipes that know classes; left out, that of the held-out pictures, and for others
    every class is tried."""
    seed: Seed = 0
    """Of the samples to start from, and of the noise."""
    json: bool = False
    """For programs."""
    step: Step = None

    def __call__(self) -> None:
        from tasvir import drawing, pictures, projection

        pictures.check_out(self.out)
        opened = drawing.Opened(self.run, "decode", self.step)
        real = opened.real(self.pictures, self.number)
        if not len(real):
            raise Refused(f"{opened.run.data_words} has no held-out pictures: name some to project.")
        search = projection.Search(self.space, self.distance, self.steps, self.starts, seed=self.seed)
        labels = opened.labels_beside(self.pictures, len(real), self.label)
        film = self.out.suffix.lower() in FILM
        found = projection.project(opened, real, search, labels, film)
        said = self._write(real, found)
        if self.json:
            print(
                json.dumps({"run": str(self.run), "step": opened.step, "steps": self.steps, **_told(found)}, indent=1)
            )
        else:
            print(f"{said}\n{_sentence(found)}")

    def _write(self, real: "np.ndarray", found: "Projected") -> str:
        import numpy as np

        from tasvir import pictures

        kind = self.out.suffix.lower()
        labels = None if found.labels is None else found.labels.tolist()
        if kind in FILM:
            assert found.frames is not None
            pairs = np.stack([pictures.interleave(real, frame) for frame in found.frames])
            return pictures.write(pictures.sheets(pairs, 2 * min(4, len(real))), self.out, rate=RATE)
        if kind == ".png":
            shown = pictures.interleave(real, found.starts, found.images)
            return pictures.write(
                shown, self.out, columns=3, row_names=_rows(found), column_names=["given", "start", "found"]
            )
        arrays = {
            "images": found.images,
            "latents" if found.space == "z" else "w": found.latents,
            "distances": found.distances,
            "psnr": found.psnr,
            **({} if found.labels is None else {"labels": found.labels.astype(np.int64)}),
        }
        if kind == ".npz":
            pictures.write_arrays(self.out, arrays)
            return f"{len(real)} latents and pictures in {self.out}"
        said = pictures.write(found.images, self.out, labels=labels)
        pictures.write_arrays(self.out / "projection.npz", arrays)
        return f"{said}, with latents in projection.npz"


def _rows(found: "Projected") -> list[str]:
    """What stands before each row: how near it came."""
    if found.distance == "pixels":
        return [f"{value:.1f} dB" for value in found.psnr]
    return [f"LPIPS {value:.3f}, {psnr:.1f} dB" for value, psnr in zip(found.distances, found.psnr, strict=True)]


def _told(found: "Projected") -> dict[str, Any]:
    each = zip(found.distances, found.start_distances, found.psnr, strict=True)
    labels = found.labels
    return {
        "space": found.space,
        "distance": found.distance,
        "began": found.began,
        "pictures": len(found.images),
        "mean_distance": float(found.distances.mean()),
        "mean_start_distance": float(found.start_distances.mean()),
        "mean_psnr": float(found.psnr.mean()),
        "each": [
            {"distance": float(end), "start_distance": float(start), "psnr": float(psnr)}
            | ({} if labels is None else {"label": int(labels[place])})
            for place, (end, start, psnr) in enumerate(each)
        ],
    }


def _sentence(found: "Projected") -> str:
    unit = {"pixels": "squared difference of pixels", "lpips": "LPIPS"}[found.distance]
    return (
        f"Mean {unit} {found.distances.mean():.3g}, from {found.start_distances.mean():.3g} at {found.began}; "
        f"PSNR {found.psnr.mean():.1f} dB, in {found.space}"
    )
