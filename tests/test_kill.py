"""Stopping from outside: SIGKILL and exact resume, Ctrl-C, SIGTERM, a full disk, torchrun."""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny_data, tiny_run
from tasvir.cli import main
from tasvir.runs import Run
from tasvir.training.loop import train

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent / "src")}


def started(*words: str) -> subprocess.Popen:
    environment = {**ENVIRONMENT, "TASVIR_CACHE": os.environ["TASVIR_CACHE"]}
    return subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log of a run has reached a step."""
    began = time.monotonic()
    while time.monotonic() < began + 200:
        log = folder / "log.jsonl"
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"{folder} never reached step {step}")


def assert_same(one: Run, other: Run) -> None:
    assert one.latest().step == other.latest().step
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, found = one.latest().tensors(file), other.latest().tensors(file)
        assert expected.keys() == found.keys() and expected
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), name


def with_steps(run: Run, steps: int) -> Run:
    return replace(run, config=replace(run.config, train=replace(run.config.train, steps=steps)))


REMEMBERING = ("vae", "vq-vae", "kl-autoencoder", "dcgan", "stylegan2", "r3gan", "cyclegan", "edm", "ldm")
"""Recipes that remember different things between steps; in one process all are resumed, in tests/test_recipes.py."""


@pytest.mark.parametrize("name", REMEMBERING)
def test_killed_and_resumed_is_never_stopped(name: str, tmp_path: Path) -> None:
    """A kill between two checkpoints, then a resume, gives the bits of an unbroken run: weights, averages, moments."""
    torch.set_num_threads(1)
    process = started(str(HERE / "child.py"), name, str(tmp_path / "killed"), "100000")
    wait_for_step(tmp_path / "killed", 4, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = Run.open(tmp_path / "killed")
    reached = killed.latest().step
    assert reached >= 3
    end = reached + 3
    with killed.locked():
        train(with_steps(killed, end), tiny_data(killed.pictures.size, name))
    whole, data = tiny_run(name, tmp_path / "whole", steps=end, log_every=1)
    train(whole, data)
    assert_same(whole, killed)


def command(*words: str) -> subprocess.Popen:
    return started("-m", "tasvir", *words)


def called(*words: str) -> tuple[int, str]:
    """The exit code of a command run here, and what it said."""
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0), said.getvalue()


DIGITS = ("--data", "digits", "--data.limit", "200", "--train.log-every", "1", "--train.checkpoint-every", "1000000")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_finishes_the_step_saves_and_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = command("train", "vae", *DIGITS, "--out", str(out), "--train.steps", "1000000")
    wait_for_step(out, 3, process)
    config = (out / "config.yaml").read_bytes()
    code, said = called("resume", str(out), "--train.steps", "2000000")
    assert code == 2 and "Another training is running" in said
    assert (out / "config.yaml").read_bytes() == config, "a refused training changes nothing"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    step = Run.open(out).latest().step
    assert step >= 3 and f"all is saved at step {step}" in said and f"`tasvir resume {out}`" in said
    assert "Traceback" not in said
    code, said = called("resume", str(out), "--train.steps", str(step + 2))
    assert code == 0, said
    assert Run.open(out).latest().step == step + 2


def test_a_file_system_that_is_full_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    """With the real system call failing: files may not grow beyond a limit set by the kernel, and then a smaller one,
    which is already too little for the log or a picture.
    """
    out = tmp_path / "run"
    words = ("train", "vae", *DIGITS, "--out", str(out), "--train.steps", "2", "--model.widths", "4", "8")
    code, said = called(*words)
    assert code == 0, said
    limited = (
        "import resource, sys\n"
        "from tasvir.cli import main\n"
        "for room in (20_000, 1_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))\n"
        "    try:\n"
        f"        main(['resume', {str(out)!r}, '--train.steps', '4'])\n"
        "    except SystemExit as ended:\n"
        "        print(f'room {room}: {ended.code}', file=sys.stderr)\n"
    )
    process = started("-c", limited)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in said, said
    more, less = said.split("room 20000: 1\n")
    assert less.endswith("room 1000: 1\n")
    for part in (more, less):
        assert "the disk is full" in part or "cannot be written" in part, said
        assert "Checkpoint 2 is whole" in part, said
    assert Run.open(out).latest().step == 2


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Gradients averaged, each process its own pictures, one writer. Without batch norm, whose statistics differ."""
    settings = (*DIGITS, "--train.steps", "6", "--train.precision", "float32", "--model.norm", "none")
    settings = (*settings, "--model.widths", "4", "8", "--train.average", "0.9")
    together = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tasvir")
    process = started(*together, "train", "ae", *settings, "--train.batch-size", "8", "--out", str(tmp_path / "two"))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    drawn = tmp_path / "two" / "samples" / "00000006.png"
    assert said.count(f"{drawn} are its latest pictures") == 1 and drawn.exists(), said
    assert all(said.count(once) == 1 for once in ("Training ae on", "step 6/6", "Done: 6 steps")), "one process speaks"
    code, alone = called("train", "ae", *settings, "--train.batch-size", "16", "--out", str(tmp_path / "one"))
    assert code == 0, alone
    two, one = (Run.open(tmp_path / name).latest().tensors("model.safetensors") for name in ("two", "one"))
    assert two.keys() == one.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-5), (name, (tensor - two[name]).abs().max())
    process = started(*together, "resume", str(tmp_path / "two"), "--train.steps", "8")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and Run.open(tmp_path / "two").latest().step == 8, said


def test_a_kill_while_checkpoints_are_written_leaves_a_whole_one(tmp_path: Path) -> None:
    """A checkpoint after every step, and kills at moments that nobody chose: what is left can always be resumed."""
    import random

    moments = random.Random(0)
    out = tmp_path / "run"
    words = ("--data", "digits", "--data.limit", "200", "--train.log-every", "1", "--train.sample-every", "0")
    process = command(
        "train", "dcgan", *words, "--train.checkpoint-every", "1", "--out", str(out), "--model.width", "64"
    )
    for kills in (1, 2):
        reached = (
            max((line["step"] for line in Run.open(out).lines()), default=0) if (out / "log.jsonl").exists() else 0
        )
        wait_for_step(out, reached + 3, process)
        time.sleep(moments.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        run = Run.open(out)
        assert run.latest().step >= reached
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert run.latest().tensors(file)
        if kills == 1:
            process = command("resume", str(out))
    code, said = called("resume", str(out), "--train.steps", str(run.latest().step + 1))
    assert code == 0, said
