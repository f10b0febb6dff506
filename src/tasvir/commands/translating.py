"""What a trained translator makes of pictures of any size: translated, or enlarged."""

import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tasvir.commands.words import Folder, Step
from tasvir.config import Count, CountOrZero, Refused, Seed

if TYPE_CHECKING:
    import numpy as np

    from tasvir.translating import Album, Given

Given_ = Annotated[
    tyro.conf.Positional[str | None],
    tyro.conf.arg(metavar="[PICTURES]", help="A picture, a folder or a zip of them; left out, the held-out sources."),
]
PATIENCE, WORTH_SAYING = 2.0, 10.0
"""Seconds after which it is known how long work will take, and from which on that is said."""


@dataclass(frozen=True)
class Translate:
    """Pictures of any size and shape through a trained translator; alpha and EXIF orientation are kept."""

    run: Folder
    out: Path
    """A folder, one file for each picture; or x.png, .jpg, .webp for one picture, at its own size. For held-out ones,
    x.png shows sources, answers and targets side by side. x.npz, .gif, .mp4 where all are of one size."""
    pictures: Given_ = None
    answers: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 1
    """Several for each picture, where the model has noise, with a picture of how far they are spread."""
    seed: Seed | None = None
    """Seed of the first answer, the next have the next seeds; left out, one answer is the model's best guess."""
    back: bool = False
    """Translate in the other direction, for models that learned both."""
    derive: bool = False
    """Make the sources of the given pictures as it was done in training (--data.derive of the run)."""
    number: Count = 8
    """Held-out pictures, where no others are named."""
    tile: CountOrZero | None = None
    """Height and width of the source's tiles in px, 0 for the whole picture at once; left out, what suits the model."""
    compare: bool = False
    """Also write each picture beside its answer, as NAME-compared.png."""
    step: Step = None

    def __call__(self) -> None:
        _Work(self, "translate_back" if self.back else "translate", self.answers, self.seed).done()


@dataclass(frozen=True)
class Upscale:
    """Pictures of any size enlarged by a trained network; alpha and EXIF orientation are kept."""

    run: Folder
    out: Path
    """A folder, one file for each picture; or x.png, .jpg, .webp for one picture. For held-out ones, x.png shows
    sources, answers and targets side by side. x.npz, .gif, .mp4 where all are of one size."""
    pictures: Given_ = None
    scale: Count | None = None
    """How many times larger; it must be what the run was trained for."""
    derive: bool = False
    """Reduce the given pictures first, as it was done in training, to compare with them."""
    number: Count = 8
    """Held-out pictures, where no others are named."""
    tile: CountOrZero | None = None
    """Height and width of the source's tiles in px, 0 for the whole picture at once; left out, what suits the model."""
    compare: bool = False
    """Also write each picture, enlarged pixel by pixel, beside its answer, as NAME-compared.png."""
    step: Step = None

    def __call__(self) -> None:
        _Work(self, "upscale", scale=self.scale).done()


@dataclass
class _Work:
    """One command's work: checked before anything heavy is loaded, then done."""

    asked: Any
    """Translate or Upscale."""
    ability: str
    answers: int = 1
    seed: int | None = None
    scale: int | None = None
    stacked: list["np.ndarray"] = field(default_factory=list)
    rows: list[list[object]] = field(default_factory=list)
    seeds: Sequence[int | None] = (None,)

    def done(self) -> None:
        from tasvir import drawing, translating

        out, asked = self.asked.out, self.asked
        translating.check_place(out)
        album = None if asked.pictures is None else translating.album(asked.pictures)
        if album is not None:
            self._check(album)
        opened = drawing.Opened(asked.run, self.ability, asked.step)
        self.translator = translating.Translator(opened, self.ability, asked.tile)
        if self.scale not in (None, self.translator.way.scale):
            trained = self.translator.way.scale
            raise Refused(f"{opened.run.name} was trained for ×{trained}, not ×{self.scale}: leave --scale out.")
        if asked.derive:
            self.translator.check_derived()
        translating.make_place(out)
        first, drawn = self.seed or 0, self.seed is not None or self.answers > 1
        self.seeds = list(range(first, first + self.answers)) if drawn else [None]
        if album is None:
            self._held_out()
        else:
            self._album(album)

    def _check(self, album: "Album") -> None:
        """Raise `Refused` for places where the answers would be lost or would take the place of a picture."""
        from tasvir.translating import STILLS

        out = self.asked.out
        if album.holds(out):
            raise Refused(f"--out {out} is what is to be translated; name another place.")
        kind = out.suffix.lower()
        if kind in STILLS and kind != ".webp" and len(album.names) > 1:
            raise Refused(f"{self.asked.pictures} has {len(album.names)} pictures: name a folder with --out.")
        if kind in STILLS and kind != ".png" and self.answers > 1:
            raise Refused(f"--out {out}: several answers are written as .png, side by side, or into a folder.")

    def _album(self, album: "Album") -> None:
        from tasvir.translating import AS_GIVEN, Names

        translator, out = self.translator, self.asked.out
        for sentence in album.said:
            _say(sentence)
        if not self.asked.derive and self.ability == "translate":
            _say(AS_GIVEN.get(translator.settings.derive, ""))
        background = translator.settings.background
        given = album.pictures(background, lambda pixels: translator.source(pixels, self.asked.derive), _say)
        taken = [album.root.name] if album.alone and album.root.parent == out.resolve() else []
        self._each(given, len(album.names), Names(taken))

    def _held_out(self) -> None:
        """The run's own pictures: a grid in a .png, else as any others."""
        from tasvir import pictures
        from tasvir.data.batches import to_uint8
        from tasvir.training.loop import save_compared
        from tasvir.translating import STILLS, Given, Names, shown, spread

        translator, out = self.translator, self.asked.out
        batch = translator.held_out(self.asked.number)
        assert batch.source is not None
        sources, targets = to_uint8(batch.source), to_uint8(batch.image)
        if self.ability == "translate_back":
            sources, targets = targets, sources
        if out.suffix.lower() not in STILLS:
            self._each((Given(f"{n:06d}", one) for n, one in enumerate(sources)), len(sources), Names())
            return
        if out.suffix.lower() != ".png":
            raise Refused(f"--out {out}: held-out pictures are written side by side as .png, or into a folder.")
        if list(self.seeds) == [None] and self.ability != "translate_back":
            save_compared(translator.compared(batch), out)
            print(f"{len(sources)} held-out pictures in {out}")
            return
        import numpy as np

        made = [[translator.answer(one, seed) for seed in self.seeds] for one in sources]
        columns = {"source": sources}
        for position in range(len(self.seeds)):
            name = f"answer {position + 1}" if len(self.seeds) > 1 else "translated"
            columns[name] = np.stack([answers[position] for answers in made])
        if len(self.seeds) > 1:
            deviations = [spread(answers) for answers in made]
            columns["spread"] = np.stack([shown(one) for one in deviations])
            self._tell_spread([float(one.mean()) for one in deviations])
        if translator.opened.run.pictures.matched:
            columns["target"] = targets
        sets = pictures.alike(*columns.values())
        names = list(columns) * len(sources)
        pictures.save_captioned(pictures.interleave(*sets), names, len(columns), out, group=len(columns))
        print(f"{len(sources)} held-out pictures in {out}")

    def _each(self, given: "Iterator[Given]", count: int, name_for: Callable[[str], str]) -> None:
        """All answers to all pictures, written as they are made."""
        import numpy as np

        from tasvir.translating import shown, spread

        spreads, sizes, written, start = [], "", 0, time.monotonic()
        told = not self.translator.alone
        for one, clock in _timed(given, count, self._tiles):
            if not told and self.translator.tiles(one.source) > 1:
                told = True
                print(ALONE, file=sys.stderr)
            answers = []
            for seed in self.seeds:
                answers.append(self.translator.answer(one.source, seed, clock))
                if len(answers) == 2 and np.array_equal(answers[0], answers[1]):
                    print(NO_NOISE, file=sys.stderr)
                    self.seeds, answers = self.seeds[:1], answers[:1]
                    break
            deviation = spread(answers) if len(answers) > 1 else None
            if deviation is not None:
                spreads.append(float(deviation.mean()))
            self._keep(one, answers, None if deviation is None else shown(deviation), name_for)
            old, new = one.source.shape, answers[0].shape
            sizes, written = f", {old[1]}×{old[0]} px to {new[1]}×{new[0]} px", written + 1
        self._finish()
        if spreads:
            self._tell_spread(spreads)
        many = f"{written} pictures" if written > 1 else f"1 picture{sizes}"
        print(f"{many} in {time.monotonic() - start:.1f} s: {self.asked.out}")

    def _tiles(self, one: "Given") -> int:
        return self.translator.tiles(one.source) * len(self.seeds)

    def _tell_spread(self, spreads: Sequence[float]) -> None:
        mean = sum(spreads) / len(spreads)
        print(f"The {len(self.seeds)} answers differ by {mean:.2f} levels of 255 (mean standard deviation).")

    def _keep(
        self, one: "Given", answers: "list[np.ndarray]", spread: "np.ndarray | None", name_for: Callable[[str], str]
    ) -> None:
        """Write the answers to one picture, or keep them where all go into one file."""
        from tasvir import pictures
        from tasvir.translating import STILLS, save

        out, background = self.asked.out, self.translator.settings.background
        single = out.suffix.lower() in STILLS
        if out.suffix and not single:
            if self.stacked and self.stacked[0].shape != answers[0].shape:
                raise Refused(f"{one.name} has another size than those before it: name a folder with --out.")
            self.stacked += answers
            return
        folder, stem = (out.parent, out.stem) if single else (out, name_for(one.name))
        if single and spread is not None:
            sets = pictures.alike(*(image[None] for image in (one.source, *answers, spread)))
            captions = ["source", *(f"answer {number + 1}" for number in range(len(answers))), "spread"]
            pictures.save_captioned(pictures.interleave(*sets), captions, len(sets), out, group=len(sets))
        else:
            for number, answer in enumerate(answers, start=1):
                file = f"{stem}-{number}.png" if spread is not None else f"{stem}.png"
                save(answer, out if single else folder / file, one.opacity, background)
                seed = self.seeds[number - 1]
                self.rows.append([file, one.name, "" if seed is None else seed, *answer.shape[1::-1]])
            if spread is not None:
                save(spread, folder / f"{stem}-spread.png")
        if self.asked.compare:
            sets = pictures.alike(one.source[None], answers[0][None])
            save_as = folder / f"{stem}-compared.png"
            pictures.grid(pictures.interleave(*sets), 2).save(save_as)

    def _finish(self) -> None:
        """What can only be written when all answers are there."""
        import numpy as np

        from tasvir import pictures

        if self.stacked:
            pictures.write(np.stack(self.stacked), self.asked.out)
        elif not self.asked.out.suffix:
            with (self.asked.out / "index.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["file", "picture", "seed", "width", "height"])
                table.writerows(self.rows)


NO_NOISE = "All answers are the same, so one is written: this model has no noise at its disposal."
ALONE = (
    "Large pictures go in tiles, and this model sees each by itself: where neighbours are very unlike, their answers "
    "fade into one another, and a pattern may repeat. --tile 0 takes each picture as a whole, with more memory."
)


def _say(sentence: str) -> None:
    if sentence:
        print(sentence, file=sys.stderr)


def _timed(
    given: "Iterator[Given]", count: int, tiles: "Callable[[Given], int]"
) -> "Iterator[tuple[Given, Callable[[int], None]]]":
    """Each picture with a function that is told of its finished tiles; shows a bar, and says once how long it takes."""
    from tasvir.data.workers import progress

    start, told = time.monotonic(), False

    def after(part: float) -> None:
        """Say how long it still takes when this part of all is done."""
        nonlocal told
        passed = time.monotonic() - start
        left = passed * (1 - part) / part
        if not told and passed > PATIENCE and left > WORTH_SAYING:
            told = True
            _say(f"This will take about {_duration(left)} more.")

    def clock(one: "Given", place: int, advance: Callable[[int], None]) -> Callable[[int], None]:
        total, finished = tiles(one), 0

        def done(more: int) -> None:
            nonlocal finished
            finished += more
            advance(more if count == 1 else 0)
            after((place + finished / total) / count)

        return done

    if count == 1:
        for one in given:
            with progress(tiles(one), "tiles") as advance:
                yield one, clock(one, 0, advance)
        return
    with progress(count, "pictures") as advance:
        for place, one in enumerate(given):
            yield one, clock(one, place, advance)
            advance(1)


def _duration(seconds: float) -> str:
    return f"{round(seconds / 60)} minutes" if seconds > 90 else f"{round(seconds)} seconds"
