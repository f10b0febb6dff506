"""Neural style transfer: one picture in the style of others."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tasvir.config import Count, Positive, Range, Refused, StyleConfig

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from tasvir.styling import Styled

USUAL = 512
"""Pixels of the longer side, where the content is not smaller."""
KINDS = (".png", ".jpg", ".jpeg", ".webp")
LINES = 20
"""Lines of progress where there is no terminal."""
INSTEAD = "Or give the file with --weights FILE, or take --weights random, which needs none and sees less."


@dataclass(frozen=True, kw_only=True)
class Style(StyleConfig):
    """One picture in the style of others, by optimizing it (Gatys et al. 2016): the layers of VGG-19 see the content of
    the first and the textures of the others. Ctrl-C writes what there is by then.
    """

    content: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONTENT", help="The picture to draw.")]
    styles: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="STYLE [STYLE …]", help="Pictures of the style; several are blended."),
    ]
    out: Path
    """The picture: .png, .jpg or .webp; transparency stays in all but .jpg."""
    size: Annotated[int, Range(low=4, high=4096)] | None = None
    """Its longer side in px; left out, 512, or the content's own if that is smaller."""
    style_scale: Positive = 1.0
    """Size of the style's textures; at 1 the style is seen with as many pixels as the content."""
    weights: str = "published"
    """Of VGG-19: `published` are torchvision's, fetched once; a FILE like them; or `random`, with which colours and
    simple textures are transferred, and no more."""
    progress: Path | None = None
    """Pictures on the way: a film (.gif, .webp, .mp4) or a folder."""
    every: Count = 10
    """Steps from one of those to the next."""
    device: str = "auto"
    json: bool = False
    """For programs."""

    def __call__(self) -> int:
        import numpy as np
        import torch

        from tasvir import pictures
        from tasvir.data.batches import to_float, to_uint8
        from tasvir.losses.perceptual import Features
        from tasvir.styling import chosen, stylize
        from tasvir.training.precision import choose_device

        if not self.styles:
            raise Refused("Name a picture of the style after the content: `tasvir style CONTENT STYLE --out FILE`.")
        if self.out.suffix.lower() not in KINDS or self.out.is_dir():
            raise Refused(f"--out {self.out} is no file that a picture is written to: end it in {', '.join(KINDS)}.")
        if self.progress is not None:
            pictures.check_out(self.progress)
        device = choose_device(self.device)
        content, alpha = _read(self.content)
        longer = self.size or min(USUAL, max(content.size))
        content = _scaled(content, longer / max(content.size))
        pixels = content.width * content.height
        styles = [_read(path)[0] for path in self.styles]
        styles = [_scaled(one, self.style_scale * math.sqrt(pixels / (one.width * one.height))) for one in styles]
        content_layers, style_layers = chosen(self, self.weights == "random")
        features = Features((*content_layers, *style_layers), self.weights, "average", "Style transfer", INSTEAD).to(
            device
        )
        if features.note:
            print(features.note, file=sys.stderr)
        frames: list[np.ndarray] = []
        line = _Line(self.steps)

        def watch(step: int, share: float, losses: Mapping[str, float], picture: Callable[[], "Tensor"]) -> None:
            line.update(step, share, losses)
            if self.progress is not None and (step == 1 or step % self.every == 0):
                frames.append(to_uint8(picture()))

        seen, *shown = (to_float(torch.from_numpy(np.array(one)[None]).to(device)) for one in (content, *styles))
        found = stylize(seen, shown, self, features, watch)
        line.close()
        made = to_uint8(found.image)
        self._write(made[0], alpha)
        said = f"{made.shape[2]}×{made.shape[1]} px in {self.out} after {found.steps} steps: {_told(found)}"
        if self.progress is not None:
            said += f"\n{pictures.write(np.concatenate([*frames, made]), self.progress)}"
        if self.json:
            fields = {"out": str(self.out), "width": made.shape[2], "height": made.shape[1], "steps": found.steps}
            told = {"losses": found.losses, "before": found.before, "weights": self.weights}
            print(json.dumps(fields | told | {"interrupted": found.interrupted}, indent=1))
        else:
            print(said)
        return 130 if found.interrupted else 0

    def _write(self, made: "np.ndarray", alpha: "Image.Image | None") -> None:
        from PIL import Image

        image = Image.fromarray(made)
        if alpha is not None and self.out.suffix.lower() not in (".jpg", ".jpeg"):
            image.putalpha(alpha.resize(image.size, Image.Resampling.LANCZOS))
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            image.save(self.out, quality=95)
        except OSError as error:
            raise Refused(f"--out {self.out} cannot be written: {error.strerror or error}.") from None


def _read(path: Path) -> "tuple[Image.Image, Image.Image | None]":
    """A picture, upright, sRGB, without transparency, which comes beside it if there is any. Raises `Refused`."""
    from tasvir.data import decoding

    try:
        image = decoding.upright(decoding.opened(path.read_bytes()))
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        return decoding.flat(image).convert("RGB"), alpha
    except decoding.Unreadable as error:
        raise Refused(f"{path} cannot be read: {error}.") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror or error}.") from None


def _scaled(image: "Image.Image", factor: float) -> "Image.Image":
    from PIL.Image import Resampling

    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Resampling.LANCZOS)


def _told(found: "Styled") -> str:
    return ", ".join(f"{name} {found.before[name]:.4g} → {value:.4g}" for name, value in found.losses.items())


class _Line:
    """Steps, time left and losses on stderr: one line again and again in a terminal, a few elsewhere."""

    def __init__(self, steps: int):
        self.steps, self.begun, self.live = steps, time.monotonic(), sys.stderr.isatty()
        self.width = 0

    def update(self, step: int, share: float, losses: Mapping[str, float]) -> None:
        if not self.live and step != self.steps and step % max(1, self.steps // LINES):
            return
        left = (time.monotonic() - self.begun) * (1 / share - 1)
        told = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        line = f"step {step}/{self.steps}  {int(left) // 60}:{int(left) % 60:02} left  {told}"
        print(
            f"\r{line:<{self.width}}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True
        )
        self.width = len(line)

    def close(self) -> None:
        if self.live:
            print(file=sys.stderr)
