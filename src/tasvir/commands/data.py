"""Looking at pictures before training, and at what is kept of them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from tasvir.cli import parse
from tasvir.config import DataConfig, Refused, nearest

Pictures = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH|NAME")]


class Data:
    """`tasvir data` is two commands: check and cache."""

    @staticmethod
    def from_words(words: list[str]) -> "Check | Cache":
        """The second word is the command."""
        kinds = {"check": Check, "cache": Cache}
        if not words or words[0] in ("-h", "--help"):
            print("usage: tasvir data check PATH|NAME [--data.* …] [--out FILE] [--json]")
            print("       tasvir data cache [--clear NAME|all] [--json]")
            print("\ncheck  what is in there, what is wrong with it, which recipes suit it; a contact sheet")
            print("cache  what tasvir keeps to be fast, and clearing it")
            raise SystemExit(0)
        if words[0] not in kinds:
            raise Refused(
                f"There is no command 'data {words[0]}'.{nearest(words[0], kinds)}\n`tasvir data --help` lists all."
            )
        return parse(kinds[words[0]], words[1:], f"tasvir data {words[0]}")


@dataclass(frozen=True)
class Check:
    """Look at all pictures: what is in there, what is wrong with it, and which recipes suit it."""

    pictures: Pictures
    data: DataConfig = DataConfig(source=())
    out: Path | None = None
    """The contact sheet, .png or .jpg; left out, NAME-check.png."""
    json: bool = False
    """Tell it to programs."""

    def __call__(self) -> int:
        from tasvir.data import check, contact, suits
        from tasvir.data.shards import is_address
        from tasvir.data.sources import find

        if self.pictures and self.data.source:
            raise Refused(
                f"The pictures are named twice, {' '.join(self.pictures)} and --data {' '.join(self.data.source)}.\n"
                "Name them once, without --data; several stand one after the other."
            )
        config = replace(self.data, source=self.pictures or self.data.source)
        if not config.source:
            raise Refused("`tasvir data check` wants pictures: the path of a folder or archive, or a set by name.")
        streamed = [name for name in config.source if is_address(name)] or ["--data.stream"] * config.stream
        if streamed:
            raise Refused(
                f"{streamed[0]}: what is streamed is never there as a whole, so it cannot be checked.\n"
                "Fetch a shard to disk and check that: tasvir data check SHARD.tar"
            )
        source = find(config)
        out = self.out or Path(contact.sheet_name(source.name))
        if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise Refused(f"--out {out} must end in .png or .jpg.")
        found = check.check(source, config)
        suited = suits.suiting(found)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            contact.contact_sheet(found).save(out)
        except OSError as error:
            raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None
        if self.json:
            plain = {**contact.plain(found, suited), "contact_sheet": contact.encodable(str(out))}
            print(json.dumps(plain, indent=1, ensure_ascii=False))
        else:
            print(contact.told(found, suited))
            print(f"\nContact sheet: {contact.legible(str(out))}")
        return 0


@dataclass(frozen=True)
class Cache:
    """What is kept in the cache folder (TASVIR_CACHE), largest first; all of it can be made again."""

    clear: tuple[str, ...] = ()
    """Remove what is called so, or begins so; `all` removes everything."""
    json: bool = False
    """Tell it to programs."""

    def __call__(self) -> None:
        from tasvir.data import cache
        from tasvir.data.items import cache_folder

        if self.clear:
            wanted = cache.chosen(self.clear)
            gone = cache.clear(wanted)
            kept = len(wanted) - len(gone)
            busy = f" {kept} stay: they are being made by another process." if kept else ""
            print(f"Removed {len(gone)}, {sum(entry.bytes for entry in gone) / 1e6:,.0f} MB.{busy}")
            return
        found = cache.entries()
        if self.json:
            plain = [
                {
                    "name": e.name,
                    "kind": e.kind,
                    "bytes": e.bytes,
                    "changed": e.changed.isoformat(timespec="seconds"),
                    "about": e.about,
                    "path": str(e.path),
                }
                for e in found
            ]
            print(json.dumps(plain, indent=1, ensure_ascii=False))
            return
        for entry in found:
            told = (
                f"{entry.bytes / 1e6:>9,.1f} MB  {entry.changed:%Y-%m-%d}  {entry.kind:<16} {entry.name}  {entry.about}"
            )
            print(told.rstrip())
        total = f"{sum(entry.bytes for entry in found) / 1e6:>9,.1f} MB in {cache_folder()}"
        print(f"{total}; `tasvir data cache --clear NAME` or `--clear all` removes it.")
