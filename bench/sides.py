"""Two sides of a comparison, each in a process of its own, taking turns: what the benches have in common.

Memory settings belong to a process, and the machine's mood to a moment: hence the processes, and the turns.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

STEPS, WARMUP = 6, 3


def serve(step: Callable[[int], None], steps: int = STEPS, warmup: int = WARMUP) -> None:
    """Run a few steps whenever the other process asks for them, and answer with their seconds."""
    number = 0
    for _ in range(warmup):
        step(number)
        number += 1
    print("ready", flush=True)
    for _ in sys.stdin:
        times = []
        for _ in range(steps):
            began = time.perf_counter()
            step(number)
            times.append(time.perf_counter() - began)
            number += 1
        print(json.dumps(times), flush=True)


def medians(script: str, name: str, rounds: int) -> tuple[float, float]:
    """Median seconds of a step of the peer and of tasvir; `script --serve NAME theirs|ours` is either of them."""
    servers = []
    for side in ("theirs", "ours"):
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
        process = subprocess.Popen(
            [sys.executable, script, "--serve", name, side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout
        while (line := process.stdout.readline()) != "ready\n":
            if not line:
                sys.exit(f"{name}, {side}: ended before it was ready")
        servers.append(process)
    times: list[list[float]] = [[], []]
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            process = servers[side]
            assert process.stdin and process.stdout
            process.stdin.write("go\n")
            process.stdin.flush()
            times[side] += json.loads(process.stdout.readline())
    for process in servers:
        process.kill()
    theirs, ours = (statistics.median(side) for side in times)
    return theirs, ours


def heading() -> None:
    import torch

    print(f"torch {torch.__version__}, {os.cpu_count()} cores, medians of both sides in turns", flush=True)


def row(words: str, peer: str, theirs: float, ours: float) -> None:
    print(f"{words:<62} {peer} {theirs:.4g} s   tasvir {ours:.4g} s   {theirs / ours:.3g}×", flush=True)
