"""Lets `python -m kvcache.cli` run the command."""

from kvcache.cli import main

if __name__ == "__main__":
    main()
