"""Which picture is for training, which for testing, and which are used at all: decided by what is in the files."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasvir.data.decoding import Unreadable
from tasvir.data.items import Items
from tasvir.data.workers import Workers, chunked

TEST_FRACTION = 0.1
SPLITS = ("train", "test")


@dataclass
class Plan:
    """Numbers of the pictures of each split, in the order in which they are wanted."""

    numbers: dict[str, list[int]]
    digests: dict[int, bytes] = field(default_factory=dict)
    """Hash of each picture's content, where it was needed."""
    bad: dict[int, str] = field(default_factory=dict)
    """Number to reason, of pictures whose content cannot be had."""
    copies: int = 0
    leaked: int = 0
    """Training pictures left out because they are copies of test pictures."""
    settled: bool = True
    """Whether the source says itself what is for training and testing."""

    def lend(self) -> bool:
        """Make the first training picture, with its copies, the test pictures; False when there is none to lend."""
        train = self.numbers["train"]
        if not train or self.settled:
            return False
        first = self.digests[train[0]]
        self.numbers["test"] = [number for number in train if self.digests[number] == first]
        self.numbers["train"] = [number for number in train if self.digests[number] != first]
        return True


def digest_of(contents: tuple[bytes, ...]) -> bytes:
    """16 bytes that stand for a picture's content; for a pair the same, whichever of the two is learned."""
    digest = hashlib.blake2b(digest_size=16)
    for content in sorted(contents):
        digest.update(content)
    return digest.digest()


def test_border() -> bytes:
    """Pictures with a digest below it are for testing: the lowest tenth of all possible ones, whatever the set."""
    return int(TEST_FRACTION * 2**64).to_bytes(8, "big")


def places(given: Sequence[str], digests: Mapping[int, bytes]) -> dict[int, str]:
    """The split of each picture that has a digest: the given one, or that of its content."""
    border = test_border()
    return {number: given[number] or ("test" if d < border else "train") for number, d in digests.items()}


def is_chosen(digest: bytes, fraction: float, seed: int) -> bool:
    """Whether a picture is in the part of the set that is used: the same pictures whatever else is in the set."""
    drawn = hashlib.blake2b(digest + seed.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(drawn, "big") < fraction * 2**64


def plan(
    items: Items,
    limit: int | None,
    fraction: float,
    choice_seed: int,
    workers: Workers,
    known: Callable[[int], bytes | None],
) -> Plan:
    """The source's own split, or one by content; by order of content hash where not all is wanted in order.

    `known` gives the digest of a picture where it need not be computed again.
    """
    everything = range(len(items))
    given = items.splits if items.splits is not None else [""] * len(items)
    settled = all(given)
    if settled and limit is None and fraction == 1 and not items.sorted:
        return Plan({split: [number for number in everything if given[number] == split] for split in SPLITS})
    digests, bad = _digests(items, workers, known)
    shuffled = sorted(digests, key=lambda number: (digests[number], number))
    split_of = places(given, digests)
    first = range(len(items)) if items.files is None else np.unique(items.files, return_index=True)[1].tolist()
    copies = sum(number in digests for number in first) - len(set(digests.values()))
    if items.files is not None:
        shuffled = _spread(shuffled, digests, items.files)
    if fraction < 1:
        shuffled = [number for number in shuffled if is_chosen(digests[number], fraction, choice_seed)]
    numbers = {split: [number for number in shuffled if split_of[number] == split] for split in SPLITS}
    held_out = {digests[number] for number in numbers["test"]}
    train = [number for number in numbers["train"] if digests[number] not in held_out]
    leaked = len(numbers["train"]) - len(train)
    return Plan({"train": train, "test": numbers["test"]}, digests, bad, copies, leaked, settled)


def _digests(
    items: Items, workers: Workers, known: Callable[[int], bytes | None]
) -> tuple[dict[int, bytes], dict[int, str]]:
    """Digest of every picture whose content can be had (of a tile, its file's), and the reason for the others."""
    if items.files is not None:
        return _file_digests(items, items.files, workers, known)
    return _digests_at(items, range(len(items)), workers, known)


def _file_digests(
    items: Items, files: np.ndarray, workers: Workers, known: Callable[[int], bytes | None]
) -> tuple[dict[int, bytes], dict[int, str]]:
    _, firsts, place = np.unique(files, return_index=True, return_inverse=True)
    of_first, bad_first = _digests_at(items, firsts.tolist(), workers, known)
    first = firsts[place].tolist()
    digests = {number: of_first[one] for number, one in enumerate(first) if one in of_first}
    return digests, {number: bad_first[one] for number, one in enumerate(first) if one in bad_first}


def _spread(numbers: Sequence[int], digests: Mapping[int, bytes], files: np.ndarray) -> list[int]:
    """Tiles in an order in which those of a file lie far apart; the same whatever other files there are."""
    firsts = np.searchsorted(files, files)

    def drawn(number: int) -> tuple[bytes, int]:
        place = number - int(firsts[number])
        return hashlib.blake2b(digests[number] + place.to_bytes(8, "big"), digest_size=8).digest(), number

    return sorted(numbers, key=drawn)


def _digests_at(
    items: Items, numbers: Sequence[int], workers: Workers, known: Callable[[int], bytes | None]
) -> tuple[dict[int, bytes], dict[int, str]]:
    digests: dict[int, bytes] = {}
    unknown: list[int] = []
    bad: dict[int, str] = {}
    for number in numbers:
        digest = known(number)
        if digest is None:
            unknown.append(number)
        else:
            digests[number] = digest
    for done in workers.map(_hash_chunk, chunked(unknown, 256), len(unknown), "reading"):
        for number, digest, reason in done:
            if reason:
                bad[number] = reason
            else:
                digests[number] = digest
    return digests, bad


def _hash_chunk(items: Items, numbers: list[int]) -> list[tuple[int, bytes, str]]:
    found = []
    for number in numbers:
        try:
            found.append((number, digest_of(items.contents(number)), ""))
        except Unreadable as error:
            found.append((number, b"", str(error)))
    return found
