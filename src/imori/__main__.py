"""The console's `imori`, and `python -m imori` where none is on the path."""

import gc
import sys


def run() -> int:
    """Runs the command line and returns the exit code, with which the process is to end.

    A Ctrl-C that comes while the command line is being imported is no traceback either. What the frameworks left behind
    is kept from the garbage collector: at the end Python looks through all of it several times, for seconds.
    """
    try:
        from imori.cli import main

        return main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(run())
