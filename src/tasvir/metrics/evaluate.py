"""Measuring: a table of metrics, and the passport that every number carries."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tasvir import __version__, pictures
from tasvir.config import DataConfig, Refused, nearest
from tasvir.core import Model
from tasvir.data import Dataset
from tasvir.drawing import Opened, PriorName
from tasvir.metrics import features, made, memorization
from tasvir.metrics.directions import plain
from tasvir.metrics.features import Extractor
from tasvir.metrics.subject import MadeSubject, PairsSubject, RunSubject, Subject, given_by, given_by_set
from tasvir.metrics.table import METRICS
from tasvir.metrics.translated import TranslatedSubject
from tasvir.metrics.values import Value
from tasvir.metrics.whole import WholeSubject
from tasvir.runs import append


@dataclass(frozen=True)
class Protocol:
    """How to measure; what the command line and training have in common."""

    metrics: tuple[str, ...] = ()
    """Rows of METRICS, or numbers that they give; none is all that fit."""
    features: str | None = None
    """Which features; None is what means most for the set."""
    weights: Path | None = None
    number: int = 10_000
    seed: int = 0
    split: str | None = None
    """Part of the reference that pictures are held against; None is `test`, but `all` for a folder or archive without
    a split of its own that other software's pictures are held against."""
    draws: int | None = None
    """Of the importance-weighted bound; None is 50, or 5 for pictures of more than 64 px."""
    border: int | None = None
    """Pixels cut from every side before super-resolution is judged; None is a run's scale if it enlarges, else 0."""
    prior: PriorName = "model"
    """Whence a run's latents are drawn for samples: its model's own prior, or a `mixture` fitted to its encodings."""
    asked: dict[str, Any] = field(default_factory=dict)
    """Of runs that draw in steps: what is asked for instead of their own settings (`Opened.sampling`)."""

    def extractor(self, dataset: Dataset) -> Extractor:
        """The features asked for. Unasked, where the usual ones cannot be had, others, and a sentence about it.

        Raises `Refused` where those asked for cannot be had, or none.
        """
        fid = next((word for word in self.metrics if word.removeprefix("reconstruction_").startswith("fid")), None)
        if fid and self.features not in (None, "inception"):
            raise Refused(f"{fid} is by the features inception, not {self.features}; by others it is called frechet.")
        if self.features or fid or self.weights:
            return features.build(self.features or "inception", dataset, self.weights)
        usual = features.default(dataset)
        try:
            return features.build(usual, dataset)
        except Refused as error:
            print(error, file=sys.stderr)
        others = ["classifier", "pixels"] if usual != "classifier" and dataset.pictures.classes else ["pixels"]
        for name in others:
            try:
                found = features.build(name, dataset)
                print(f"So distances are measured in the features {name}.", file=sys.stderr)
                return found
            except Refused as error:
                if name == others[-1]:
                    raise
                print(error, file=sys.stderr)
        raise AssertionError


def of_run(
    folder: Path,
    protocol: Protocol,
    step: int | str | None = None,
    opened: Opened | None = None,
    training: bool = False,
    reference: str | None = None,
) -> list[dict[str, Any]]:
    """Measure a run, append every number to its measurements.jsonl, and return them as they stand there.

    While `training`, they say so, are appended all at once or not at all, and no baselines stand beside them. With a
    `reference`, a translating run is held against whole pictures of that set. Raises `Refused` for a metric that does
    not exist or that the run cannot be measured by.
    """
    rows_named(protocol.metrics)  # what does not exist is said before anything is read
    opened = opened or Opened(folder, step=step)
    subject = subject_of(opened, protocol, reference)
    if protocol.prior == "mixture" and not {"encode", "decode"} <= subject.has():
        raise Refused(
            f"{opened.run.config.recipe} of {folder} has no latents to fit a mixture to: --prior mixture wants a model "
            "that encodes and decodes. Leave it out."
        )
    rows = rows_named(protocol.metrics, subject.has())
    passport = {**passport_of(opened), **(subject.facts if isinstance(subject, WholeSubject) else {})}
    figures = opened.run.folder / "figures"
    out = opened.run.folder / "measurements.jsonl"
    what = f"{opened.run.config.recipe} of {folder}"
    if not training:
        return measured(subject, rows, protocol, passport, what, out, figures)
    found = measured(subject, rows, protocol, passport, what, None, None, baselines=False)
    lines = [{**line, "during": "training"} for line in found]
    append(out, *lines)
    return lines


def passport_of(opened: Opened) -> dict[str, Any]:
    """What a run tells of itself."""
    config = opened.run.config
    return {"averaged": config.train.average > 0, "recipe": config.recipe, "step": opened.step}


def subject_of(opened: Opened, protocol: Protocol, reference: str | None) -> Subject:
    """What is measured of a run: held against the pictures it was trained to imitate, or against a `reference`."""
    if reference is not None:
        opened.require("translate")
        found: Subject = WholeSubject(opened, reference, protocol.number, protocol.seed)
    else:
        kind = TranslatedSubject if hasattr(opened.model, "translate") else RunSubject
        split = protocol.split or "test"
        found = kind(opened, split, protocol.number, protocol.seed, protocol.extractor, protocol.prior)
    found.how = opened.sampling(**protocol.asked)
    scale = getattr(opened.model, "scale", 1)
    leaves = reference is not None or 2 * scale < opened.run.pictures.size
    found.border = scale if scale > 1 and leaves else 0
    return found


def of_pictures(
    generated: str, reference: DataConfig, protocol: Protocol, out: Path | None, figures: Path | None, paired: bool
) -> list[dict[str, Any]]:
    """Measure pictures made by any software against a reference set, or with `paired` against the real pictures of the
    same names; append every number to the file `out`, and return them.

    Raises `Refused` for a metric that does not exist or that such pictures cannot be measured by.
    """
    rows = rows_named(protocol.metrics)
    if paired:
        both = made.pairs(generated, reference.source[0], protocol.number)
        digest, facts, notes = both.hash, both.facts, both.notes
        name = Path(reference.source[0]).name
        subject: Subject = PairsSubject(both.groups, name, both.real_hash, protocol.seed)
    else:
        found = made.against(generated, reference, protocol.number)
        digest, facts, notes = found.hash, found.facts, found.notes
        split = protocol.split or ("test" if found.settled else "all")
        subject = MadeSubject(
            found.images, found.labels, found.reference, split, protocol.number, protocol.seed, protocol.extractor
        )
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    passport = {"generated": Path(generated).name or generated, "generated_hash": digest, **facts}
    return measured(subject, rows, protocol, passport, generated, out, figures)


def check(model: Model | type[Model], dataset: Dataset, protocol: Protocol, ready: bool = True) -> None:
    """Raise `Refused` if runs of a model on a set cannot be measured so; makes `ready` what measuring needs."""
    given = given_by(model, dataset) | given_by_set(dataset)
    rows = rows_named(protocol.metrics, given)
    able_by(rows, given, (model if isinstance(model, type) else type(model)).__name__)
    for name in rows if ready else ():
        _make_ready(name)
    if ready and any(METRICS[name].features for name in rows):
        protocol.extractor(dataset)


def _make_ready(name: str) -> None:
    ready = METRICS[name].ready
    if ready is not None:
        ready()


def rows_named(words: Iterable[str], has: set[str] | None = None) -> list[str]:
    """Rows of METRICS by their names or by those of their numbers. Raises `Refused` for a word that is neither.

    Of rows that give the same number, the one that can be measured by what a subject `has`, else the first.
    """
    by_number: dict[str, str] = {}
    for key, row in METRICS.items():
        for number in row.gives:
            able = has is not None and set(row.needs) <= has
            if number not in METRICS and (number not in by_number or able):
                by_number[number] = key
    found = []
    for word in words:
        bare = plain(word)
        name = word if word in METRICS else by_number.get(word) or by_number.get(bare)
        if name is None and bare in METRICS:
            name = bare
        if name is None:
            hint = nearest(word, [*METRICS, *by_number])
            raise Refused(f"There is no metric {word!r}.{hint}\nThere are {', '.join(METRICS)}.")
        found.append(name)
    return list(dict.fromkeys(found))


def measured(
    subject: Subject,
    rows: list[str],
    protocol: Protocol,
    passport: dict[str, Any],
    what: str,
    out: Path | None,
    figures: Path | None,
    baselines: bool = True,
) -> list[dict[str, Any]]:
    able = able_by(rows, subject.has(), what)
    for name in rows:
        _make_ready(name)
    subject.draws = protocol.draws or (50 if subject.dataset.pictures.size <= 64 else 5)
    subject.border = subject.border if protocol.border is None else protocol.border
    has = subject.has()
    wanted = rows or [name for name in able if not METRICS[name].asked and set(METRICS[name].suits) <= has]
    if any(METRICS[name].features for name in wanted):
        _facts(subject)  # what is wrong with the features is said before anything is drawn
    common = _passport(subject, passport)
    lines = []
    for place, name in enumerate(wanted):
        _tell(f"measuring {name} ({place + 1} of {len(wanted)})")
        row = METRICS[name]
        try:
            values = row.measure(subject)
            if baselines and "pairs" in row.needs:
                values += [value for other in subject.baselines for value in row.measure(other)]
        except Refused as error:
            if rows:
                raise Refused(f"{name}: {error}") from None
            print(f"Not measured by {name}: {error}", file=sys.stderr)
            continue
        if rows and not values:
            raise Refused(
                f"{what} cannot be measured by {name}: there are too few pictures ({len(subject.side)} real ones), or "
                f"they are too large.\ndocs/metrics.md tells what each metric needs; kid is fair with few pictures."
            )
        for value in values:
            drawn = subject.drawn if "samples" in row.needs else {}
            facts = {**common, **drawn, **(_facts(subject) if row.features else {}), **value.passport}
            line = _line(value, {**facts, "pictures": value.number})
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                append(out, line)
            lines.append(line)
        if name == "memorization" and figures is not None:
            figures.mkdir(parents=True, exist_ok=True)
            columns = 5
            nearest_ones = memorization.nearest_pictures(subject, columns=columns)
            pictures.grid(nearest_ones, columns, least=28).save(figures / "nearest.png")
    _tell("")
    return lines


def able_by(rows: list[str], has: set[str], what: str) -> list[str]:
    """The rows of METRICS whose needs are met. Raises `Refused` if one of those asked for is not among them."""
    able = [name for name, row in METRICS.items() if set(row.needs) <= has]
    for name in rows:
        if name not in able:
            lacks = ", ".join(_LACKS.get(need, need) for need in METRICS[name].needs if need not in has)
            meant = (
                " Perhaps you meant test-accuracy." if name == "classification-accuracy" and "classify" in has else ""
            )
            raise Refused(
                f"{what} cannot be measured by {name}: it has no {lacks}.{meant}\nIt can by {', '.join(able)}."
            )
    return able


_LACKS = {
    "samples": "samples",
    "pairs": "reconstructions or pairs",
    "reconstruct": "reconstructions",
    "color": "colour",
    "translate": "sources to translate",
    "translate_back": "way back from pictures to sources",
    "labels": "classes in the reference",
    "reference": "reference set",
    "asked": "samples of a class that was asked for (the recipes that take --label draw such)",
    "factors": "known factors of variation (cartoons have them)",
    "train": "training pictures at hand",
    "test": "held-out pictures",
    "decode": "latent space to decode from",
    "encode": "encoder",
    "bound": "likelihood",
    "log_likelihood": "exact likelihood",
    "code_log_likelihood": "prior over codes",
    "denoise": "way to take noise out of pixels",
    "process": "process of noise in pixels",
    "steps": "fixed steps of noise in pixels, as ddpm has",
    "classify": "classes of its own",
    "categorize": "categories of its own",
}
"""What a subject may lack, in words."""


def _line(value: Value, passport: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {
        "metric": value.metric,
        "value": value.value,
        "interval": None if value.interval is None else list(value.interval),
        "n": value.number,
    }
    extra = {"real": value.real, "note": value.note, "curve": value.curve}
    return {**line, **{key: found for key, found in extra.items() if found is not None}, "passport": passport}


def _passport(subject: Subject, own: dict[str, Any]) -> dict[str, Any]:
    """What every number of a subject has in common."""
    data = subject.dataset
    return {
        "reference": data.name,
        "split": subject.split,
        "hash": subject.side.hash,
        "size": data.pictures.size,
        "channels": data.pictures.channels,
        "reference_pictures": min(len(subject.side), subject.number),
        "extractor": "none",
        "resize": data.description.get("resize", "none"),
        **own,
        "seed": subject.seed,
        "tasvir": __version__,
        "torch": torch.__version__,
    }


def _facts(subject: Subject) -> dict[str, Any]:
    """What the extractor adds to a passport."""
    extractor = subject.extractor
    return {
        "extractor": extractor.name,
        "weights": extractor.hash,
        "extractor_resize": extractor.resize,
        **extractor.facts,
    }


def _tell(words: str) -> None:
    """A passing line on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)


def told(lines: list[dict[str, Any]]) -> str:
    """Measurements for a person: the protocol, a table, and the notes."""
    if not lines:
        return "Nothing could be measured."
    passport = next((one["passport"] for one in lines if one["passport"]["extractor"] != "none"), lines[0]["passport"])
    what = f"step {passport['step']}" if "step" in passport else passport.get("generated", "")
    known = "" if passport["extractor"] == "none" else f", features: {passport['extractor']}"
    accuracy = passport.get("accuracy")
    known += f" (accuracy {accuracy:.4g})" if isinstance(accuracy, float) else ""
    head = f"{what}, against {passport['reference']} {passport['split']}{known}"
    table = [("", "value", "95 % interval", "real pictures", "pictures")]
    for line in lines:
        low_high = "" if line["interval"] is None else f"{line['interval'][0]:.4g} to {line['interval'][1]:.4g}"
        real = f"{line['real']:.4g}" if "real" in line else ""
        table.append((line["metric"], f"{line['value']:.5g}", low_high, real, f"{line['n']:,}"))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    rows = []
    for name, *cells in table:
        rows.append("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]))
    notes: dict[str, list[str]] = {}
    for line in lines:
        if "note" in line:
            notes.setdefault(line["note"], []).append(line["metric"])
    said = [f"{', '.join(metrics)}: {note}" for note, metrics in notes.items()]
    return "\n".join([head, *(row.rstrip() for row in rows), *said])
