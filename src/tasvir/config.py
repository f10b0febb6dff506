"""Settings: frozen dataclasses with ranges, to and from plain values and the command line. Without torch."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

T = typing.TypeVar("T")


class Refused(Exception):
    """What was asked for cannot be done; the message is one or two plain lines for a person. Exit code 2."""


TINY = 1e-12
"""The least value of what must be above 0."""


@dataclass(frozen=True)
class Range:
    """The values a number may have, both ends included; put beside its type with `Annotated`."""

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: float) -> bool:
        inside = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        return inside and (isinstance(value, int) or math.isfinite(value))

    def __str__(self) -> str:
        if self.high is None and self.low == TINY:
            return "above 0"
        if self.high is None:
            return f"finite and at least {self.low}" if isinstance(self.low, float) else f"at least {self.low}"
        return f"at most {self.high}" if self.low is None else f"from {self.low} to {self.high}"


Count = Annotated[int, Range(low=1)]
Seed = Annotated[int, Range(low=0, high=2**62)]
CountOrZero = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(low=TINY)]
NonNegative = Annotated[float, Range(low=0.0)]
Fraction = Annotated[float, Range(low=0.0, high=1.0)]
PositiveFraction = Annotated[float, Range(low=1e-6, high=1.0)]
Decay = Annotated[float, Range(low=0.0, high=0.999999)]
Layout = Literal["auto", "flat", "classes", "splits", "dataset-json", "shards", "side-by-side", "matched", "unmatched"]


@dataclass(frozen=True)
class OptimizerConfig:
    """How one player descends its losses."""

    name: Literal["adam", "adamw", "rmsprop"] = "adam"
    """Adam (Kingma and Ba 2015), AdamW (decoupled weight decay), or RMSprop."""
    learning_rate: NonNegative = 1e-3
    """Its highest value, after the warmup."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the first and second moments; RMSprop uses the second as its smoothing constant."""
    weight_decay: NonNegative = 0.0
    warmup: CountOrZero = 0
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "linear", "late-linear", "late-tenth", "cosine"] = "constant"
    """What the learning rate does after the warmup: stays, or falls to zero at the last step; late-linear stays for the
    first half of the steps, and late-tenth is a tenth in the second half."""
    clip: NonNegative = 0.0
    """Largest norm of the player's gradient; 0 leaves it as it is."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop's settings, the same for every recipe."""

    steps: CountOrZero = 10_000
    """Training ends after this many steps."""
    batch_size: Count = 64
    """Pictures in one step, of each process."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the hardware is fast at it, float16 with loss scaling on older GPUs, else float32."""
    channels_last: bool = True
    """Keep channels innermost in memory: faster for most convolutional networks."""
    compile: bool = False
    """Compile the networks with torch.compile (the first step then takes a minute or so)."""
    average: Decay = 0.999
    """Decay of the exponential moving average of the weights, used for samples and measurements; 0 is off."""
    log_every: Count = 50
    """Steps between lines of the log."""
    sample_every: CountOrZero | Literal["epoch"] = 500
    """Draw the same pictures again every so many steps, or after each `epoch`, once all pictures were seen, which is
    at least 100 steps, and `checkpoint_every` where they are streamed; 0 draws none."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    keep: Count = 2
    """Newest checkpoints kept; the best one stays besides."""
    evaluate_every: CountOrZero = 0
    """Measure the averaged weights every so many steps, and keep the best checkpoint as `best`; 0 measures nothing."""
    evaluate_metrics: tuple[str, ...] = ()
    """What is measured then, as for `tasvir evaluate`; the first decides which is best. Left out, the recipe's."""
    evaluate_features: str | None = None
    """In which features; left out, those that mean most for the set."""
    evaluate_number: Count = 2000
    """Pictures to measure with, at most."""
    patience: Count = 20
    """Updates in a row that may be skipped because a loss or gradient is not finite, before going back."""
    device: str = "auto"
    """auto takes the GPU if there is one; or cpu, cuda, cuda:1, mps."""
    tensorboard: bool = True
    """Also write TensorBoard events."""


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and what becomes of them."""

    source: Annotated[tuple[str, ...], tyro.conf.arg(name="data", prefix_name=False)] = ("cartoons",)
    """A set by name, or the path of a folder, zip, tar or array file; several are one set, each its own class."""
    layout: Layout = "auto"
    """How the pictures lie in it; auto looks, and says what it recognized. README, "Your own pictures", lists them."""
    size: Annotated[int, Range(low=4, high=4096)] | None = None
    """Height and width in pixels; left out, the set's own size, or the nearest the model takes."""
    fit: Literal["crop", "pad", "squash", "tiles"] = "crop"
    """How a picture becomes square: its centre, the whole on a background, the whole out of proportion, or as many
    squares of `size` as cover it, at its own resolution."""
    overlap: Annotated[float, Range(low=0.0, high=0.95)] = 0.5
    """Of tiles: the part of its height and width that each shares with the next."""
    background: str = "white"
    """What lies under transparency and around padded pictures: white, black, grey or #rrggbb."""
    color: Literal["auto", "grey", "rgb"] = "auto"
    """auto: grey if all pictures are."""
    labels: str | None = None
    """Which attribute is the class, for sets that have several (cartoons); `none` leaves labels out; for streamed
    shards, how many classes there are, where the first shards do not show all."""
    limit: Count | None = None
    """Use only so many training pictures; of tiles, so many tiles."""
    fraction: PositiveFraction = 1.0
    """Use only this part of the pictures, chosen by their content: 0.5 is always the same half."""
    folders: Count | None = None
    """Use only so many of the class folders, chosen by `choice_seed`."""
    choice_seed: Seed = 0
    """Another number makes another choice of pictures and folders."""
    direction: Literal["a-to-b", "b-to-a"] = "a-to-b"
    """For pairs, which of the two is learned; A is the left half, the first folder, trainA."""
    labelled: Count | None = None
    """Only so many training pictures keep their class, as even over classes as can be, chosen by `choice_seed`; the
    others are shown without. Left out, all do."""
    derive: Literal["none", "low-resolution", "grey", "edges", "masked", "noisy"] = "none"
    """Make pairs of plain pictures: what is made of each is the source, and the picture is learned from it."""
    binarize: Literal["none", "static", "dynamic"] = "none"
    """Make grey pixels black or white, with their value as the chance of white: once, or anew whenever trained on."""
    scale: Literal[2, 3, 4] = 4
    """How many times smaller the low resolution is."""
    mask: PositiveFraction = 0.5
    """Side of the masked square, as a part of the picture's."""
    sigma: PositiveFraction = 0.1
    """Standard deviation of the Gaussian noise of `noisy`, where 1 is from black to white: 0.1 is 25 of 255 levels."""
    flip: bool = False
    """Show half of the pictures mirrored left to right while training."""
    translate: Fraction = 0.0
    """Move pictures by up to this part of their size while training."""
    jitter: Count | None = None
    """Enlarge pictures to this height and width and cut out a random square of `size` (pix2pix: 286 for 256)."""
    cutout: Fraction = 0.0
    """Side of a square painted grey at a random place while training, as a part of the picture's."""
    color_jitter: Fraction = 0.0
    """Strength of random changes of brightness, contrast and saturation while training."""
    stream: bool = False
    """Read WebDataset shards as training goes and pack nothing, for sets that fit on no disk."""
    root: Path | None = None
    """Where torchvision's sets lie or are fetched to; left out, TASVIR_DATA or a folder in the user's cache."""


@dataclass(frozen=True, kw_only=True)
class StyleConfig:
    """What a picture is optimized for in style transfer, and how."""

    content_layers: tuple[str, ...] | None = None
    """Layers of VGG-19 whose features are to be the content's; left out, relu4_2, or relu3_1 of random weights."""
    style_layers: tuple[str, ...] | None = None
    """Layers whose Gram matrices are to be the style's, all as important; left out, relu1_1, relu2_1, relu3_1, relu4_1
    and relu5_1, or the first three of random weights."""
    content_weight: NonNegative = 1.0
    style_weight: NonNegative = 10.0
    style_weights: tuple[NonNegative, ...] | None = None
    """Of several styles, one each; left out, all are as important."""
    total_variation: NonNegative = 5.0
    """Weight of differences between neighbouring pixels, which smooths; 0 is the paper's."""
    keep_colors: bool = False
    """Only lightness is transferred, and the content's colours stay (Gatys et al. 2016, arXiv 1606.05897)."""
    start: Literal["content", "noise", "style"] = "content"
    """Where the descent begins; noise is the paper's."""
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """L-BFGS as in the paper, or Adam, which needs less memory and more steps."""
    learning_rate: Positive = 0.02
    """Of Adam."""
    steps: Count = 200
    """Times that the picture is looked at."""
    sizes: Count = 3
    """How many sizes share the steps, each twice the last: at the first structure is found, and sooner; 1 is the
    paper's."""
    seed: Seed = 0
    """Of the noise."""


SamplerName = Literal["ancestral", "ddim", "dpm-solver++", "euler", "heun", "stochastic-heun", "rk4", "consistency"]


@dataclass(frozen=True)
class SamplingConfig:
    """How noise becomes a picture, step by step, where nothing else is asked for."""

    sampler: SamplerName = "dpm-solver++"
    """See diffusion/samplers.py."""
    steps: Count = 20
    """Levels of noise on the way."""
    guidance: NonNegative = 1.0
    """Of models that know classes: 1 is the class as it was learned, more exaggerates it, 0 leaves it out."""
    eta: Fraction = 0.0
    """Of ddim: how much of the noise is drawn anew at each step."""
    variance: Literal["small", "large"] = "small"
    """Of ancestral: of what is drawn at each step, as it is for a single clean picture, or for pictures of pure noise
    (Ho et al. 2020, section 3.2)."""
    churn: NonNegative = 40.0
    """Of stochastic-heun: how much noise is added, over all steps."""
    clip: bool = True
    """Keep every estimate of the clean picture within [-1,1]."""


@dataclass(frozen=True)
class Pictures:
    """What every picture of a set has in common: all that a model must know of its data."""

    channels: int
    size: int
    classes: tuple[str, ...] = ()
    source: "Pictures | None" = None
    """The pictures that these are made from, in sets of pairs."""
    matched: bool = True
    """Whether each source belongs to its picture (pairs), or the two sets only lie side by side (unmatched)."""
    levels: int = 256
    """How many different values a channel has: 2 in binarized sets."""


@dataclass(frozen=True)
class Foundation:
    """The trained model that a run stands on; its weights are in the run's own checkpoints."""

    recipe: str
    model: Any
    run: str
    """Folder of the run that trained it; one inside the run's own folder is named relative to that."""
    step: int = 0
    weights: str = ""
    """sha256 of its weights; empty until it is trained."""


@dataclass(frozen=True)
class RunConfig:
    """Everything needed to train a run again; `config.yaml` in the run folder."""

    recipe: str
    seed: int
    data: DataConfig
    train: TrainConfig
    model: Any
    foundation: Foundation | None = None


def flag(path: str) -> str:
    """The command line's spelling of a setting: `train.batch_size` is `--train.batch-size`."""
    return "--data" if path == "data.source" else "--" + path.replace("_", "-")


def leaves(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """(path, value, other value) of every setting of two nested dictionaries."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            yield from leaves(f"{path}.{key}", value, theirs[key])
    else:
        yield path, ours, theirs


def as_flag(path: str, value: Any) -> list[str]:
    """The words of the command line that give a setting this value."""
    name = flag(path)
    if isinstance(value, bool):
        head, _, last = name.rpartition(".")
        return [name if value else f"{head}.no-{last.removeprefix('--')}"]
    return [name, *(str(item) for item in (value if isinstance(value, list) else [value]))]


def validate(config: Any, path: str = "") -> None:
    """Raise `Refused` for the first number of a (nested) dataclass that is outside its `Range`."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        where = f"{path}.{field.name}" if path else field.name
        if dataclasses.is_dataclass(value):
            validate(value, where)
        else:
            _validate_value(value, hints[field.name], where)


def _validate_value(value: Any, hint: Any, where: str) -> None:
    if value is None:
        return
    if isinstance(value, tuple):
        plain = _plain_type(hint)
        if typing.get_origin(plain) is not tuple:  # a tuple or nothing
            plain = next(option for option in typing.get_args(plain) if typing.get_origin(option) is tuple)
        kinds = typing.get_args(plain)
        if not value and typing.get_origin(kinds[0]) is Annotated:
            raise Refused(f"{flag(where)} needs at least one value.")
        for position, item in enumerate(value):
            _validate_value(item, kinds[0] if kinds[-1] is Ellipsis else kinds[position], where)
        return
    if typing.get_origin(hint) is Annotated:
        for allowed in typing.get_args(hint)[1:]:
            if isinstance(allowed, Range) and value not in allowed:
                raise Refused(f"{flag(where)} is {value}; it must be {allowed}.")
    else:
        for option in typing.get_args(hint):
            if typing.get_origin(option) is Annotated and not isinstance(value, str):
                _validate_value(value, option, where)


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as dictionaries, lists, numbers and strings only."""
    return _converter().unstructure(config)


def from_plain(values: Any, kind: type[T], what: str) -> T:
    """A dataclass from plain values, checked. Raises `Refused`, naming `what`, for unknown or unfit settings."""
    from cattrs import transform_error

    try:
        config = _converter().structure(values, kind)
    except Exception as error:  # cattrs raises groups of many kinds
        raise Refused(f"{what} cannot be read: {'; '.join(transform_error(error))[:300]}.") from None
    validate(config)
    return config


def _converter() -> Any:
    import cattrs

    converter = cattrs.Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(
        lambda kind: _plain_type(kind) == tuple[str, ...], lambda value, kind: _words(value)
    )
    converter.register_structure_hook_func(_is_number_or_word, _number_or_word)
    return converter


def _words(value: Any) -> tuple[str, ...]:
    """One word or a list of them, as a tuple. Raises `ValueError` for anything else."""
    words = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(word, str) for word in words):
        raise ValueError("not a list of words")
    return words


def _is_number_or_word(kind: Any) -> bool:
    """Whether a type is a number, or one of some words, or perhaps None."""
    options = [_plain_type(option) for option in typing.get_args(kind)]
    return bool({int, float} & set(options)) and any(typing.get_origin(option) is Literal for option in options)


def _number_or_word(value: Any, kind: Any) -> float | str | None:
    """A value of such a type. Raises `ValueError` for anything else."""
    options = [_plain_type(option) for option in typing.get_args(kind)]
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    if value in words or (value is None and type(None) in options):
        return value
    fits = isinstance(value, int) or (float in options and isinstance(value, float))
    if isinstance(value, bool) or not fits:
        raise ValueError(f"neither a number nor one of {', '.join(words)}")
    return float(value) if float in options else value


def _plain_type(hint: Any) -> Any:
    """A type without what `Annotated` says of it."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """A sentence naming the known words that look most like `word`; empty if none does."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" Perhaps you meant {' or '.join(close)}." if close else ""
