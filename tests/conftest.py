"""What all tests share: a cache folder of their own, tiny data sets, tiny runs."""

import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tasvir.config import DataConfig, Pictures, RunConfig, TrainConfig
from tasvir.core import Batch, Model, abilities
from tasvir.data import Dataset, load
from tasvir.data.batches import pictures_of
from tasvir.data.derive import DERIVATIONS, source_shape
from tasvir.models import RECIPES, build, recipe, usual_foundation
from tasvir.runs import Run
from tasvir.training.foundation import described
from tasvir.training.loop import train
from tasvir.training.state import State

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Real pictures, where they are there; the tests that need them say so when they are not."""
SHARED_CACHE = pytest.StashKey[Path]()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Packs are made once for all tests, never in the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("TASVIR_CACHE")
    os.environ["TASVIR_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["TASVIR_CACHE"]
    else:
        os.environ["TASVIR_CACHE"] = before


def size_for(name: str) -> int:
    """The smallest usual picture size that a recipe takes."""
    return next(size for size in (8, 16, 32, 64) if recipe(name).model.accepts(size))


def tiny_config(size: int, name: str | None = None) -> DataConfig:
    """Digits, with sources made as the recipe of that name has them made, or masked, where it needs any."""
    config = DataConfig(source=("digits",), size=size, limit=200)
    if name is None or "source" not in recipe(name).model.needs:
        return config
    usual = recipe(name).data
    derive = "masked" if usual.derive == "none" else usual.derive
    return replace(config, derive=derive, scale=usual.scale, color="rgb" if DERIVATIONS[derive].color else "auto")


def tiny_data(size: int, name: str | None = None) -> Dataset:
    """A few real pictures: digits, scaled where the model wants more than 8 px."""
    return load(tiny_config(size, name))


def tiny_model(name: str, size: int | None = None, channels: int = 1) -> Model:
    torch.manual_seed(0)
    size = size or size_for(name)
    classes = tuple("0123456789") if "labels" in recipe(name).model.needs else ()
    derive, scale = tiny_config(size, name).derive, tiny_config(size, name).scale
    channels = 3 if derive != "none" and DERIVATIONS[derive].color else channels
    source = None if derive == "none" else Pictures(*source_shape(derive, channels, size, scale))
    pictures = Pictures(channels, size, classes, source)
    return build(name, recipe(name).tiny, pictures, usual_foundation(name, tiny=True))


def tiny_batch(size: int, number: int = 8, name: str | None = None) -> Batch:
    data = tiny_data(size, name)
    batch = pictures_of(data, data.train, range(number), "cpu")
    source = None if batch.source is None else batch.source.contiguous()
    return replace(batch, image=batch.image.contiguous(), source=source)


def tiny_run(name: str, folder: Path, size: int | None = None, **settings: object) -> tuple[Run, Dataset]:
    """A run folder of a recipe's tiny form, not trained yet; what it stands on has been."""
    data = tiny_data(size or size_for(name), name)
    usual = {
        "steps": 6,
        "batch_size": 8,
        "log_every": 2,
        "sample_every": 3,
        "checkpoint_every": 3,
        "tensorboard": False,
    }
    below = usual_foundation(name, tiny=True)
    if below is not None:
        first, _ = tiny_run(below.recipe, folder / below.run, size=data.pictures.size)
        train(first, data)
        below = described(first, below.run)
    config = RunConfig(
        recipe=name,
        seed=0,
        data=tiny_config(data.pictures.size, name),
        train=TrainConfig(**{**usual, "precision": "float32", **settings}),  # type: ignore[arg-type]
        model=recipe(name).tiny,
        foundation=below,
    )
    return Run(folder, config, data.pictures, data.description).create(), data


def tiny_state(name: str, folder: Path, **settings: object) -> State:
    run, _ = tiny_run(name, folder, **settings)
    torch.manual_seed(0)
    return State(tiny_model(name), run, torch.device("cpu"))


def can(name: str) -> tuple[object, ...]:
    """What decides which commands and metrics a recipe is for."""
    model = recipe(name).model
    return *abilities(model), model.needs, model.stepwise, model.stands_on


CAPABLE = list({can(name): name for name in reversed(RECIPES)}.values())
"""One recipe of each set of abilities, for what takes seconds; what is quick is tested with all of them."""


class Trained(dict[str, Path]):
    """Folders of tiny runs by recipe, each trained when it is first asked for."""

    def __init__(self, folder: Path, **settings: object):
        self.folder, self.settings = folder, settings

    def __missing__(self, name: str) -> Path:
        train(*tiny_run(name, self.folder / name, **self.settings))
        self[name] = self.folder / name
        return self[name]
