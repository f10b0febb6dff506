"""A training of a tiny run in a process of its own, to be killed: python child.py RECIPE FOLDER STEPS [CACHE]."""

import sys
from pathlib import Path

if __name__ == "__main__":
    from conftest import tiny_run
    from tasvir.training.loop import train

    run, data = tiny_run(sys.argv[1], Path(sys.argv[2]), steps=int(sys.argv[3]), log_every=1)
    train(run, data)
