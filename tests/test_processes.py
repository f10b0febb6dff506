"""Three processes: what all have alike stays so to the bit, on disk too, and they share work."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir.config import Pictures
from tasvir.models import recipe
from tasvir.runs import Run
from tasvir.training import foundation, processes
from tasvir.training.loop import train
from tasvir.training.state import State

THREE = 3


def settled() -> dict[str, torch.Tensor]:
    """Numbers that are alike in all processes, and some of each process's own."""
    alike = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    mixed = torch.tensor([0.1, float(processes.rank()), -0.7, torch.inf])
    found, plain = [alike.clone(), mixed], [alike.clone()]
    processes.settle(found)
    processes.average(plain)
    return {"alike": found[0], "expected": alike, "mixed": found[1], "averaged": plain[0]}


def stepped(folder: Path) -> dict[str, torch.Tensor]:
    """Buffers after two steps of models that keep some, each process with pictures of its own; and a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for name, settings in (("discrete-vae", {"estimator": "previous-baseline"}), ("vq-vae", {})):
        run = Run.open(folder / name)
        torch.manual_seed(0)
        model = recipe(name).model(replace(recipe(name).tiny, **settings), Pictures(1, 8))
        state = State(model, run, torch.device("cpu"))
        batch = tiny_batch(8, 24)
        batch.image = batch.image.chunk(THREE)[processes.rank()]
        for _ in range(2):
            state.advance(batch)
        state.save()
        found |= {f"{name} {key}": value.clone() for key, value in model.named_buffers() if value.is_floating_point()}
    return found


def encode(folder: Path) -> list[int]:
    """Prepare the pictures of a run; how many pictures this process encoded."""
    from conftest import tiny_data

    run, counts = Run.open(folder / "staged"), []
    model = tiny_model("vq-vae-pixelcnn")
    foundation.settle(model, run)
    prepare = model.prepare
    model.prepare = lambda image: counts.append(len(image)) or prepare(image)  # type: ignore[method-assign, func-returns-value]
    found = foundation.prepared(model, run, tiny_data(8), torch.device("cpu"), lambda sentence: None)
    assert found is not None and not list((run.folder / "prepared").glob("*.partial"))
    return counts


def test_three_processes(tmp_path: Path, cache: Path) -> None:
    for name in ("discrete-vae", "vq-vae"):
        tiny_run(name, tmp_path / name)
    run, data = tiny_run("vq-vae-pixelcnn", tmp_path / "staged", steps=1)
    train(run, data)
    (file,) = (run.folder / "prepared").glob("*.npy")
    alone = np.load(file)
    file.unlink()
    words = [sys.executable, __file__, str(tmp_path)]
    started = [subprocess.Popen([*words, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(THREE)]
    for process in started:
        _, said = process.communicate(timeout=180)
        assert process.returncode == 0, said
    each = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(THREE)]

    for found in each:
        assert torch.equal(found["settled"]["alike"], found["settled"]["expected"])
        assert found["settled"]["mixed"].tolist() == torch.tensor([0.1, 1.0, -0.7, torch.inf]).tolist()
    assert not torch.equal(each[0]["settled"]["averaged"], each[0]["settled"]["expected"]), (
        "a third of three is not one"
    )

    for name in ("discrete-vae", "vq-vae"):
        saved = Run.open(tmp_path / name).latest().tensors("model.safetensors")
        kept = {
            key.removeprefix(f"{name} "): value for key, value in each[0]["stepped"].items() if key.startswith(name)
        }
        assert kept and any(value.abs().sum() > 0 for value in kept.values())
        for key, value in kept.items():
            for other in each[1:]:
                assert torch.equal(other["stepped"][f"{name} {key}"], value), (name, key)
            assert torch.equal(saved[f"model.{key}"], value), (name, key)

    (file,) = (run.folder / "prepared").glob("*.npy")
    assert np.array_equal(np.load(file), alone)
    number = len(data.train)
    assert sum(sum(found["encoded"]) for found in each) == number + 1, "one picture tells the shape first"
    assert all(found["encoded"] for found in each) and number > 2 * foundation.BATCH


if __name__ == "__main__":
    import torch.distributed as distributed

    torch.set_num_threads(1)
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=THREE)
    torch.save({"settled": settled(), "stepped": stepped(folder), "encoded": encode(folder)}, folder / f"{number}.pt")
    distributed.destroy_process_group()
