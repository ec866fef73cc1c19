"""Starts the command again and again without importing everything anew: a process that has
imported it forks one for each line of arguments.

    python command_server.py LOG  <  lines of JSON, each a list of arguments

On stdout it answers every line with the new process' id and, once that has ended, with its exit
code, negative for a signal.
"""

import json
import os
import signal
import sys

from nst_jax.cli import main as command


def main():
    # A shell's background jobs ignore it, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = ["nst-jax", *json.loads(line)]
            command.main()
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
