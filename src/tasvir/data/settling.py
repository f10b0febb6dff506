"""Where the settings that a recipe comes with meet a set they do not fit: those that were not asked for give way."""

from collections.abc import Collection
from dataclasses import replace

from tasvir.config import DataConfig, Refused
from tasvir.data.items import Source


def settle(
    config: DataConfig, usual: DataConfig, asked: Collection[str], source: Source
) -> tuple[DataConfig, list[str]]:
    """The settings that suit the set, and a sentence for each that gave way.

    `usual` are those of the recipe, `asked` names the ones that a person gave. Raises `Refused` where the recipe makes
    small pictures of large ones and the set has both: those of a pair are brought to one size.
    """
    notes: list[str] = []
    paired = source.paired or source.beside is not None
    if paired and config.derive == usual.derive != "none" and "derive" not in asked:
        if config.derive == "low-resolution":
            raise Refused(
                f"{source.name} has pairs, and both pictures of a pair are brought to one size: none is smaller."
                "\nGive only the large pictures: the small ones are made of them (--data.derive low-resolution)."
            )
        notes.append(f"{source.name} has pairs, and these are learned from: --data.derive {config.derive} is left out.")
        config = replace(config, derive="none")
    if not source.files and config.fit == usual.fit == "tiles" and "fit" not in asked:
        notes.append(f"{source.name} has no picture files to cut into tiles: each picture is used as a whole.")
        config = replace(config, fit="crop")
    return config, notes


def settled(config: DataConfig, usual: DataConfig, asked: Collection[str]) -> tuple[DataConfig, list[str]]:
    """The same for the set that `config` names, which is looked at only where the recipe's settings could give way."""
    from tasvir.data.shards import is_address
    from tasvir.data.sources import find

    if usual.derive == "none" and usual.fit != "tiles":
        return config, []
    if config.stream or any(is_address(name) for name in config.source):
        streamed = Source("The stream", None, None, None, read=lambda: None)  # type: ignore[arg-type,return-value]
        return settle(config, usual, asked, streamed)
    return settle(config, usual, asked, find(config))
