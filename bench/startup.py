"""From command to answer and from command to first step. `python bench/startup.py`; medians of several starts."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(words: list[str], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tasvir", *words], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def to_first_step(name: str, rounds: int) -> float:
    """Until the log has the line of step 1; the set is packed already."""
    times = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", name, "--data", "cartoons", "--out", f"{folder}/run", "--train.steps", "100000"]
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "tasvir", *words, "--train.log-every", "1", "--train.no-tensorboard"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            log = Path(folder) / "run" / "log.jsonl"
            try:
                while '"step": 1,' not in (log.read_text() if log.exists() else ""):
                    assert process.poll() is None
                    time.sleep(0.01)
                times.append(time.perf_counter() - began)
            finally:
                process.kill()
                process.wait()
    return statistics.median(times[1:])  # the first one packs


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores")
    print(f"tasvir --help                  {seconds(['--help'], 9):.2f} s")
    for name in ("vae", "dcgan"):
        print(f"tasvir train {name:<6} first step  {to_first_step(name, 5):.2f} s")
