"""The command line: a table of commands, and what every command has in common. Imports nothing heavy."""

import io
import os
import re
import sys
from contextlib import redirect_stderr
from importlib import import_module
from typing import Any, NoReturn

from tasvir import __version__
from tasvir.config import Refused, nearest, validate

COMMANDS: dict[str, tuple[str, str]] = {
    "recipes": ("measuring.Recipes", "what there is, what each can do, and what it was measured to reach"),
    "data": ("data.Data", "check PICTURES before training; cache lists and clears what was packed"),
    "train": ("training.Train", "train a recipe on a folder, zip or named set of pictures"),
    "resume": ("training.Resume", "go on with a run, exactly; --train.steps extends it"),
    "sample": ("drawing.Sample", "draw new pictures"),
    "reconstruct": ("drawing.Reconstruct", "pictures beside what the model makes of them"),
    "translate": ("translating.Translate", "pictures of any size through a trained translator"),
    "upscale": ("translating.Upscale", "pictures of any size enlarged by a trained network"),
    "style": ("styling.Style", "a picture in the style of others (neural style transfer)"),
    "denoise": ("editing.Denoise", "noisy pictures to the expected clean ones, by a diffusion run"),
    "edit": ("editing.Edit", "pictures with noise added and drawn anew from there: --strength"),
    "inpaint": ("editing.Inpaint", "holes in pictures filled by a diffusion run: --mask"),
    "interpolate": ("walking.Interpolate", "walk through the latent space from one picture to the next"),
    "noising": ("unfolding.Noising", "pictures at growing levels of noise, and what a diffusion model makes of them"),
    "unfold": ("unfolding.Unfold", "how a diffusion model's pictures come out of noise: a film strip or a film"),
    "project": ("projecting.Project", "given pictures found again in the latent space, by descent"),
    "neighbours": ("neighbours.Neighbours", "samples beside the training pictures nearest to them"),
    "manifold": ("latents.Manifold", "all of a two-dimensional latent space in one picture"),
    "traverse": ("latents.Traverse", "one latent dimension after another, those that tell most first"),
    "mix": ("mixing.Mix", "pictures with the coarse styles of one and the fine styles of another, in StyleGANs"),
    "arithmetic": ("latents.Arithmetic", "pictures moved from one class towards another: --minus A --plus B"),
    "scatter": ("latents.Scatter", "where the test pictures lie in the latent space, coloured by class"),
    "aggregate": ("latents.Aggregate", "the prior against the aggregate posterior"),
    "encode": ("latents.Encode", "pictures to latents or codes (.npz)"),
    "decode": ("latents.Decode", "latents or codes (.npz) to pictures"),
    "samplers": ("samplers.Samplers", "quality against steps and seconds, of a run that draws in steps"),
    "evaluate": ("measuring.Evaluate", "measure a run, or pictures by any software; every number with its passport"),
    "compare": ("measuring.Compare", "one table for several runs, as page, CSV or LaTeX"),
    "report": ("measuring.Report", "one self-contained HTML page"),
    "estimators": ("estimators.Estimators", "gradient estimators, measured against exact gradients"),
}
"""Command → (its class in the package commands, what it does)."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 asked for wrongly, 1 anything else, 130 interrupted with all saved."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        sys.exit(_run(words))
    except Refused as error:
        print(f"tasvir: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ntasvir: interrupted.", file=sys.stderr)
        sys.exit(130)
    except MemoryError:
        print("tasvir: there is not enough memory for this.", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        print(f"tasvir: {error.strerror or error}{f': {error.filename}' if error.filename else ''}.", file=sys.stderr)
        sys.exit(1)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"tasvir {__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise Refused(f"There is no command {words[0]!r}.{nearest(words[0], COMMANDS)}\n`tasvir --help` lists all.")
    module, _, name = COMMANDS[words[0]][0].partition(".")
    command = getattr(import_module(f"tasvir.commands.{module}"), name)
    if hasattr(command, "from_words"):
        return command.from_words(words[1:])() or 0
    return parse(command, words[1:], f"tasvir {words[0]}")() or 0


def overview() -> str:
    """What `tasvir --help` says."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{does}" for name, (_, does) in COMMANDS.items()]
    return "\n".join(
        [
            f"tasvir {__version__}: generative models of images, on any folder of pictures",
            "",
            "usage: tasvir COMMAND [--help] …",
            "",
            *lines,
            "",
            "First:  tasvir train vae --data cartoons      then:  tasvir report runs/vae-cartoons",
        ]
    )


def parse(kind: Any, words: list[str], program: str, **options: Any) -> Any:
    """Words of the command line as a dataclass, ranges checked. Raises `Refused` in one or two plain lines."""
    import tyro

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parsed = tyro.cli(kind, args=words, prog=program, **options)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise Refused(_plain(said.getvalue(), program)) from None
    validate(parsed)
    return parsed


def _plain(boxed: str, program: str) -> str:
    """tyro's boxed error as one sentence, the settings that were perhaps meant, and where to read on."""
    bare = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│|╭╮╰╯+ ") for line in boxed.splitlines()]
    lines = ["" if set(line) <= set("─━- ") else line.strip("─ ") for line in bare]  # without frame and rulers
    inside = lines[next((position for position, line in enumerate(lines) if line), 0) + 1 :]
    inside = inside[next((position for position, line in enumerate(inside) if line), 0) :]
    rule = next((position for position, line in enumerate(inside) if not line), len(inside))
    sentence = " ".join(inside[:rule]).rstrip(".")
    if chosen := re.match(r"invalid choice '(.*)' for argument '(--\S+)'\. Expected one of \((.*)\)$", sentence):
        given, setting, options = chosen.groups()
        known = [word.strip("' ") for word in options.split(",")]
        known = [word for word in known if word != "None"]
        sentence = f"{setting} is {given!r}; it must be one of {', '.join(known)}.{nearest(given, known)}"
    meant = [line.split()[0].rstrip(",") for line in inside[rule:] if line.startswith("--")]
    hint = f" Perhaps you meant {' or '.join(dict.fromkeys(meant[:3]))}." if "Perhaps" in boxed and meant else ""
    return f"{sentence.rstrip('.')}.{hint}\n`{program} --help` lists all settings."
