"""Runs a script. On bad input, the script ends with one line on stderr."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from nst_jax.cli import console
from nst_jax.cli.devices import no_devices

FAILED, INTERRUPTED = 1, 130


def start(run: Callable[[], None], *, arguments: str, again: str = "") -> None:
    """Parses the flags, runs the script, and ends the process.

    The exit code is 0 on success, 1 after bad input, and 130 after Ctrl-C. In the last two cases a
    line on stderr starts with the script's name. Bad input is an ImportError, OSError or
    ValueError from `run`.

    Args:
      run: the work of the script.
      arguments: the flags to use, for the line that refuses an argument without a flag.
      again: the advice at the end of the line after Ctrl-C.
    """
    name = Path(sys.argv[0]).stem

    def main(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            # At INFO, JAX lists the backends that it cannot find.
            logging.set_verbosity(logging.WARNING)
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}: {arguments}")
            run()
        except (ImportError, OSError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return FAILED
        except (RuntimeError, AssertionError):  # either, if JAX starts no device
            if (told := no_devices()) is None:
                raise
            print(f"{name}: {told}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(f"{name}: interrupted{again}", file=sys.stderr)
            return INTERRUPTED
        return 0

    app.run(main, flags_parser=console.read_flags)
