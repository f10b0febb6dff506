"""What `--data` names, recognized by looking: sets by name, folders, archives, arrays, tables; one or several."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from tasvir.config import DataConfig, Refused, nearest
from tasvir.data import arrays, files, shards, tables
from tasvir.data.decoding import (
    Decoded,
    Frame,
    Met,
    Unreadable,
    check_shapes,
    decode,
    decode_halves,
    fit,
    opened,
    parse_color,
    upright_size,
)
from tasvir.data.files import ENDINGS, Files
from tasvir.data.items import Items, Source, absolute, cache_folder, changed, first_names, subset
from tasvir.data.layouts import Arrangement, arrange, dataset_json
from tasvir.data.named import DATASETS

__all__ = ["DATASETS", "ENDINGS", "Items", "Source", "absolute", "cache_folder", "find"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PARTS = "set in numbered archives"
OF_VIDEOS = "`ffmpeg -i VIDEO FOLDER/%05d.png` takes the pictures out of one."
SEAM_LOOKS = 12
"""Pictures that are looked at to tell whether each is a pair side by side."""
SEAM = 3.0
"""How many times larger the step at the middle column must be than between its neighbours."""


def find(config: DataConfig) -> Source:
    """The pictures that `config.source` names, as all the settings ask for them. Raises `Refused` if there are none."""
    if not config.source:
        raise Refused("--data is empty: give the path of a folder or zip of pictures, or a set by name.")
    if len(config.source) == 1:
        source = _one(config.source[0], config)
    elif config.layout in ("matched", "unmatched"):
        source = _two_domains(config)
    else:
        source = _several(config)
    if config.folders is not None:
        source = changed(
            source, lambda items: _chosen_folders(items, config), ["folders", config.folders, config.choice_seed]
        )
    return _labelled(source, config)


def _labelled(source: Source, config: DataConfig) -> Source:
    """The source with the classes that `--data.labels` asks for. Raises `Refused` if it has no such attribute."""
    if config.labels == "none":
        return changed(source, lambda items: replace(items, labels=None, classes=()), "no labels")
    if config.labels is None or config.labels in source.attributes:
        return source
    if source.attributes:
        raise Refused(
            f"{source.name} has no attribute '{config.labels}'.{nearest(config.labels, source.attributes)}\n"
            f"It has {', '.join(source.attributes)}; or say none."
        )
    raise Refused(
        f"--data.labels is '{config.labels}', but {source.name} has no attributes to choose from.\n"
        "Leave it out for the set's own classes, or say none for no classes."
    )


def _one(name: str, config: DataConfig) -> Source:
    """A single source."""
    path = absolute(name)
    if name in DATASETS:
        source = DATASETS[name](config)
        if config.layout not in ("auto", "flat"):
            raise Refused(f"--data.layout is {config.layout}, but {name} is a set by name, with a layout of its own.")
        if path.exists():
            note = f"The set called {name} is used, not what lies at that path: write ./{name} for that."
            source = replace(source, notes=(*source.notes, note))
        return source
    if "{" in name and not path.exists():
        paths = [absolute(part) for part in shards.expand(name)]
        return _of_files(_all_of(paths, path.parent), config)
    if path.is_dir() or path.is_file():
        if tables.recognized(path):
            return _table(path, config)
        listing = _listed(path)
        return _array(path, config) if listing is None else _of_files(listing, config)
    raise Refused(
        f"There is no data set or path '{name}'.{nearest(name, DATASETS)}\n"
        f"Give the path of a folder or zip of pictures, or one of {', '.join(DATASETS)}."
    )


def _listed(path: Path) -> Files | None:
    """The picture files in a folder or archive; None for an array file. Raises `Refused` for what is neither."""
    if path.is_dir():
        found = files.folder(path)
        return found if found.names else _archives(found) or found
    if arrays.recognized(path):
        return None
    archive = files.archive(path)
    if archive is None:
        what = (
            "is one picture"
            if path.suffix.lower().lstrip(".") in ENDINGS
            else f"is a video. {OF_VIDEOS}"
            if files.is_video(path.name)
            else "is neither a folder, an archive nor an array file"
        )
        raise Refused(f"{path} {what}.\nGive a folder, a zip or tar of pictures, an .npy, .npz, IDX or parquet file.")
    return archive


def _archives(listing: Files) -> Files | None:
    """What is in the archives of a folder, if it holds such and no pictures."""
    packed = [name for name in listing.others if name.lower().endswith(ARCHIVES)]
    if not packed:
        return None
    found = _all_of([listing.root / name for name in packed], listing.root)
    return replace(found, skipped=[*listing.skipped, *found.skipped])


def _all_of(paths: Sequence[Path], root: Path) -> Files:
    """Several archives as one set: numbered parts of it, or a folder each. Raises `Refused` if none can be read."""
    parts: dict[Path, Files] = {}
    skipped: list[tuple[str, str]] = []
    for path in paths:
        try:
            found = files.archive(path)
        except Refused as error:
            skipped.append((path.name, str(error).splitlines()[0]))
            continue
        if found is None:
            skipped.append((path.name, "it is no archive"))
        else:
            parts[path] = found
    if not parts:
        raise Refused(f"None of the archives in {root} can be read: {skipped[0][0]} ({skipped[0][1]}).")
    stems = [path.name.split(".")[0] for path in parts]
    numbered = len({re.sub(r"\d+", "", stem) for stem in stems}) == 1 and len(stems) > 1
    names = (
        stems
        if len(set(stems)) == len(stems)
        else [path.relative_to(root).as_posix().replace("/", "_") for path in parts]
    )
    together = files.joined(list(parts.values()), names)
    kind = PARTS if numbered else "folder of archives"
    if numbered:  # named after what the parts have in common
        root = root / (re.sub(r"[-_]?\d+.*", "", stems[0]) or root.name)
    return replace(together, root=root, kind=kind, skipped=[*skipped, *together.skipped])


# Picture files


def _of_files(listing: Files, config: DataConfig) -> Source:
    names = listing.names
    if not names:
        _refuse_without_pictures(listing)
    inside = [name.split("/", 1)[1] for name in names] if listing.kind == PARTS else names
    found = _labels_in_files(listing, config) or arrange(
        inside, config.layout, config.direction, lambda positions: _seam(listing, positions)
    )
    notes = [*listing.notes, *found.notes]
    if listing.videos:
        are = "1 video is" if len(listing.videos) == 1 else f"{len(listing.videos)} videos are"
        notes.append(f"{are} left out ({first_names(listing.videos)}): only pictures are read. {OF_VIDEOS}")
    others = listing.left_aside(frozenset(found.used).union(listing.videos))
    if others:
        notes.append(f"Other files were left aside: {others}.")
    skipped = [*listing.skipped, *((names[position], why) for position, why in found.left_out)]
    beside = None if found.beside is None else _arranged(listing, found.beside, config, (), ())
    first = f"{listing.name}: a {listing.kind} with {len(names)} picture files."
    return replace(_arranged(listing, found, config, (first, *notes), tuple(skipped)), beside=beside)


def _refuse_without_pictures(listing: Files) -> NoReturn:
    held = (
        [name for name in listing.others if arrays.recognized(listing.root / name)] if listing.kind == "folder" else []
    )
    if held:
        some = ", ".join(held[:4]) + (" …" if len(held) > 4 else "")
        raise Refused(f"{listing.root} holds array files and no pictures.\nName the one that is meant: {some}.")
    others = listing.left_aside()
    what = f"only other files, {others}," if others else "nothing"
    how = f"Videos are not read. {OF_VIDEOS}" if listing.videos else f"Pictures end in {', '.join(sorted(ENDINGS))}."
    raise Refused(f"There are no pictures in {listing.root}: {what} was found.\n{how}")


def _arranged(
    listing: Files, found: Arrangement, config: DataConfig, notes: tuple[str, ...], skipped: tuple[tuple[str, str], ...]
) -> Source:
    """The source made of files that have been arranged."""
    swapped = config.direction == "b-to-a"
    halves = found.layout == "side-by-side"
    alike = halves and config.layout == "auto"
    names = [listing.names[position] for position in found.pictures]
    partners = None if found.sources is None else [listing.names[position] for position in found.sources]
    stamps = listing.stamps[found.pictures]
    if found.sources is not None:
        stamps = stamps * np.uint64(0x9E3779B97F4A7C15) + listing.stamps[found.sources]  # odd factor: nothing is lost

    def contents(number: int) -> tuple[bytes, ...]:
        first = listing.content(names[number])
        return (first,) if partners is None else (first, listing.content(partners[number]))

    def picture(number: int, frame: Frame) -> Decoded:
        if halves:
            made = decode_halves(listing.content(names[number]), frame, alike)
            return replace(made, image=made.source, source=made.image) if swapped and made.source is not None else made
        made = decode(listing.content(names[number]), frame)
        if partners is None:
            return made
        try:
            other = decode(listing.content(partners[number]), frame)
        except Unreadable as error:
            raise Unreadable(f"its partner {partners[number]}: {error}") from None
        check_shapes(made.shape, other.shape)
        met = made.met | other.met | Met.OTHER_SIZE * (made.shape != other.shape)
        return replace(made, source=other.image, met=Met(met))

    def shape(number: int) -> tuple[int, int]:
        width, height = upright_size(opened(listing.content(names[number])))
        if partners is not None:
            check_shapes((width, height), upright_size(opened(listing.content(partners[number]))), tiles=True)
        return (width // 2 if halves else width), height

    def read() -> Items:
        return Items(
            names=names,
            picture=picture,
            contents=contents,
            shape=shape,
            labels=found.labels,
            classes=found.classes,
            splits=found.splits,
            sorted=True,
            stamps=stamps,
        )

    arranged = (found.labels, found.classes, found.splits)
    digest = hashlib.sha256(stamps.tobytes() + repr(arranged).encode(errors="surrogatepass")).hexdigest()
    return Source(
        name=listing.name,
        address=[listing.kind, str(listing.root), found.layout, swapped, alike],
        fingerprint=digest,
        size=None,
        read=read,
        notes=notes,
        skipped=skipped,
        layout=found.layout,
        paired=halves or partners is not None,
        files=True,
    )


def _labels_in_files(listing: Files, config: DataConfig) -> Arrangement | None:
    """Labels by a StyleGAN dataset.json, or by the .cls and .json files of WebDataset shards; None without either."""
    labels: Sequence[int | None] | None
    count, note = len(listing.names), None
    if config.layout in ("auto", "dataset-json"):
        place = next((name for name in listing.others if name.split("/")[-1] == "dataset.json"), None)
        if place is not None:
            inside = len(place) - len("dataset.json")
            try:
                labels, classes, said = dataset_json(listing.content(place), [name[inside:] for name in listing.names])
                return _with_labels(
                    "dataset-json", count, labels, classes, said, "dataset.json does not name it", {place}
                )
            except (ValueError, Unreadable) as error:
                note = f"{error}, so it was left aside."
                listing.notes.append(note)
        if config.layout == "dataset-json":
            why = note or f"there is no dataset.json in {listing.root}."
            raise Refused(f"--data.layout is dataset-json, but {why}")
    if config.layout == "shards" or (config.layout == "auto" and listing.kind in ("tar", PARTS)):
        found = shards.labels(listing.names, listing.others, listing.content)
        if found is not None:
            labels, classes, said = found
            used = {name for name in listing.others if name.endswith((".cls", ".json", ".txt"))}
            return _with_labels("shards", count, labels, classes, said, "no class stands beside it", used)
        if config.layout == "shards":
            raise Refused(f"--data.layout is shards, but no picture in {listing.root} has a .cls or .json beside it.")
    return None


def _with_labels(
    layout: str,
    count: int,
    labels: Sequence[int | None] | None,
    classes: tuple[str, ...],
    note: str,
    missing: str,
    used: set[str],
) -> Arrangement:
    """All `count` files with their labels; those without one are left out because of what is `missing`."""
    if labels is None:
        return Arrangement(layout, list(range(count)), notes=[note], used=used)
    kept = [position for position, label in enumerate(labels) if label is not None]
    lost = [(position, missing) for position, label in enumerate(labels) if label is None]
    known = [label for label in labels if label is not None]
    return Arrangement(layout, kept, labels=known, classes=classes, notes=[note], left_out=lost, used=used)


def _seam(listing: Files, positions: list[int]) -> str | None:
    """A sentence if pictures are twice as wide as high with a visible seam in the middle, else None."""
    step = max(1, len(positions) // SEAM_LOOKS)
    looked = seen = 0
    size = (0, 0)
    for position in positions[::step][:SEAM_LOOKS]:
        try:
            image = opened(listing.content(listing.names[position]))
            if abs(image.width - 2 * image.height) > 1 or image.width < 16:
                return None
            size = image.size
            pixels = np.asarray(image.convert("RGB"), np.float32)
            if image.width % 2:  # the middle column belongs to neither
                pixels = np.delete(pixels, image.width // 2, axis=1)
        except Unreadable:
            continue
        except Exception:  # damaged pixels: packing will name it
            continue
        middle = pixels.shape[1] // 2
        steps = np.diff(pixels[:, middle - 3 : middle + 3], axis=1)  # 5 of them, the third at the seam
        near = np.abs(steps).mean(axis=(0, 2))
        looked += 1
        seen += near[2] > SEAM * max(float(np.delete(near, 2).mean()), 1.0)
    if not looked or seen < 0.75 * looked:
        return None
    return f"The pictures are twice as wide as high ({size[0]}x{size[1]}), with a seam in the middle."


# Arrays and tables


def _array(path: Path, config: DataConfig) -> Source:
    if config.layout not in ("auto", "flat"):
        raise Refused(f"--data.layout is {config.layout}, but {path} holds an array, with a layout of its own.")
    found = arrays.read(path, background=parse_color(config.background))
    height, width, channels = found.shape

    def read() -> Items:
        whole = found.load()

        def picture(number: int, frame: Frame) -> Decoded:
            row = whole.row(number)
            fits = row.shape[:2] == (frame.size, frame.size)
            return Decoded(row if fits else fit(row, frame), min(height, width))

        labels = whole.labels if config.layout != "flat" else None
        return Items(
            names=[f"picture {number}" for number in range(found.count)],
            picture=picture,
            contents=lambda number: (whole.content(number),),
            encoded=False,
            labels=None if labels is None else labels.tolist(),
            classes=() if labels is None else whole.classes,
            splits=found.splits,
            channels=channels,
            slow=found.count * height * width > 1 << 26,
            sorted=True,
            notes=whole.notes,
        )

    return Source(
        name=path.stem.split(".")[0],
        address=["array", str(path), config.background, config.layout],
        fingerprint=found.fingerprint,
        size=height if height == width else None,
        read=read,
        notes=found.notes,
        layout="array",
    )


def _table(path: Path, config: DataConfig) -> Source:
    if config.layout not in ("auto", "flat"):
        raise Refused(f"--data.layout is {config.layout}, but {path} is a table, with a layout of its own.")
    found = tables.read(path, "none" if config.layout == "flat" else config.labels)

    def read() -> Items:
        return Items(
            names=found.names,
            picture=lambda number, frame: decode(found.content(number), frame),
            contents=lambda number: (found.content(number),),
            labels=found.labels,
            classes=found.classes,
            splits=found.splits,
            sorted=True,
            stamps=found.stamps,
        )

    return Source(
        name=found.name,
        address=["table", str(path), config.labels, config.layout],
        fingerprint=found.fingerprint,
        size=None,
        read=read,
        notes=found.notes,
        attributes=found.attributes,
        layout="table",
    )


# Several sources


def _short_names(sources: Sequence[str]) -> list[str]:
    """The last parts of each path, as few as tell them apart, with hyphens between."""
    paths = [(name,) if name in DATASETS else absolute(name).parts[1:] for name in sources]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["-".join((*path[-length:-1], path[-1].split(".")[0])) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _several(config: DataConfig) -> Source:
    """Sources together, each a class of its own."""
    each = replace(config, labels="none", folders=None)
    sources = [_one(name, replace(each, source=(name,))) for name in config.source]
    if any(source.beside is not None for source in sources):
        raise Refused("Unmatched sets for translation cannot be put together with others: give two folders only.")
    if len({source.paired for source in sources}) > 1:
        raise Refused(
            "Pairs and single pictures cannot be put together.\n"
            "--data.layout flat takes every file as one picture; or give the pairs alone."
        )
    names = tuple(_short_names(config.source))
    if len(set(names)) < len(names):
        raise Refused(f"--data names the same source twice: {' '.join(config.source)}.")

    def read() -> Items:
        return _together([source.read() for source in sources], names)

    sizes = {source.size for source in sources} - {None}
    notes = [note for source in sources for note in source.notes]
    return Source(
        name="-and-".join(names) if len(names) < 4 else f"{len(names)}-sources",
        address=[source.address for source in sources],
        fingerprint=[source.fingerprint for source in sources],
        size=max(sizes) if sizes else None,  # type: ignore[type-var]
        read=read,
        notes=(*notes, f"Each of the {len(names)} sources is a class: {', '.join(names)}."),
        skipped=tuple(
            (f"{name}/{file}", why) for name, s in zip(names, sources, strict=True) for file, why in s.skipped
        ),
        layout="several",
        paired=sources[0].paired,
        files=all(source.files for source in sources),
    )


def _together(parts: list[Items], names: tuple[str, ...]) -> Items:
    starts = np.cumsum([0, *(len(part) for part in parts)])

    def at(number: int) -> tuple[Items, int]:
        place = int(np.searchsorted(starts, number, side="right")) - 1
        return parts[place], number - int(starts[place])

    def picture(number: int, frame: Frame) -> Decoded:
        part, inside = at(number)
        return part.picture(inside, frame)

    def contents(number: int) -> tuple[bytes, ...]:
        part, inside = at(number)
        return part.contents(inside)

    def shape(number: int) -> tuple[int, int]:
        part, inside = at(number)
        assert part.shape is not None
        return part.shape(inside)

    stamps = [part.stamps for part in parts if part.stamps is not None]
    return Items(
        shape=shape if all(part.shape is not None for part in parts) else None,
        names=[f"{name}/{file}" for name, part in zip(names, parts, strict=True) for file in part.names],
        picture=picture,
        contents=contents,
        encoded=all(part.encoded for part in parts),
        labels=[place for place, part in enumerate(parts) for _ in range(len(part))],
        classes=names,
        splits=[split for part in parts for split in (part.splits or [""] * len(part))],
        channels=1 if all(part.channels == 1 for part in parts) else None,
        slow=any(part.slow for part in parts),
        sorted=True,
        stamps=np.concatenate(stamps) if len(stamps) == len(parts) else None,
    )


def _two_domains(config: DataConfig) -> Source:
    """Two folders or archives for translation: the first is A, the second B."""
    if len(config.source) != 2:
        raise Refused(f"--data.layout {config.layout} wants two sources, not {len(config.source)}: A and B.")
    parts = []
    for name in config.source:
        path = absolute(name)
        listing = _listed(path) if path.exists() else None
        if listing is None:
            raise Refused(f"--data.layout {config.layout} wants folders or archives of pictures; {name} is none.")
        parts.append(listing)
    source = _of_files(files.joined(parts, ["A", "B"]), config)
    names = _short_names(config.source)
    told = [f"A is {names[0]}, B is {names[1]}.", *source.notes[1:]]
    return replace(
        source,
        name="-to-".join(names),
        address=[*map(str, map(absolute, config.source)), source.address],
        notes=tuple(told),
    )


# Choices


def _chosen_folders(items: Items, config: DataConfig) -> Items:
    """Only the pictures of some classes: those whose names come first when hashed with the choice's seed."""
    wanted = config.folders or 0
    if items.labels is None:
        raise Refused(f"--data.folders is {wanted}, but the pictures have no classes to choose from.")
    if wanted > len(items.classes):
        raise Refused(f"--data.folders is {wanted}, but there are only {len(items.classes)} classes.")
    ranked = sorted(items.classes, key=lambda name: hashlib.sha256(f"{config.choice_seed}/{name}".encode()).digest())
    chosen = sorted(items.classes.index(name) for name in ranked[:wanted])
    places = {old: new for new, old in enumerate(chosen)}
    kept = [number for number, label in enumerate(items.labels) if label in places]
    less = subset(items, kept)
    labels = [places[items.labels[number]] for number in kept]
    classes = tuple(items.classes[old] for old in chosen)
    some = ", ".join(classes[:12]) + (" …" if wanted > 12 else "")
    note = f"{wanted} of the {len(items.classes)} classes were chosen: {some}."
    return replace(less, labels=labels, classes=classes, notes=(*items.notes, note))
