"""The command `kvcache`."""

__all__ = ["main"]


def main() -> None:
    """Runs the command line and exits with its status."""
    import sys

    from kvcache.cli.app import run

    sys.exit(run(sys.argv[1:]))
