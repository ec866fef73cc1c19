"""What the scripts share: they end in one line on stderr where the input is bad."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

FAILED, INTERRUPTED = 1, 130


def start(run: Callable[[], None], *, arguments: str, again: str = "") -> None:
    """Parses the flags, does what the script is for, and ends the process.

    The exit code is 0, after bad input 1 and after Ctrl-C 130, each of these with a line on stderr
    that starts with the script's name.

    Args:
      run: what the script is for.
      arguments: where that goes which is given without a flag, for the line that refuses it.
      again: what Ctrl-C has left to do, for its line.

    Errors that are bad input:
      ImportError, OSError, ValueError.
    """
    name = Path(sys.argv[0]).stem

    def main(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            # JAX tells at INFO which backends it could not find.
            logging.set_verbosity(logging.WARNING)
        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected argument {argv[1]!r}: {arguments}")
            run()
        except (ImportError, OSError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(f"{name}: interrupted{again}", file=sys.stderr)
            return INTERRUPTED
        return 0

    app.run(main)
