"""`python -m tasvir` is `tasvir`."""

from tasvir.cli import main

if __name__ == "__main__":
    main()
