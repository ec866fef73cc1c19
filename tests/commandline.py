"""What the tests of the command line share."""

import json
import os
import pathlib
import subprocess
import sys

# Flags of a run that takes a moment, without layers and with some.
SMALL = ("--model=vgg16", "--size=48", "--steps=2", "--nearest_weight=0")
FAST = (*SMALL, "--style_layers=block1_conv1,block2_conv1", "--content_layers=block2_conv2")

SERVER = pathlib.Path(__file__).parent / "command_server.py"


class Command:
    """The command in a process forked for it: `start`, then `kill` or `wait`."""

    def __init__(self, log):
        self.log = log
        self._server = subprocess.Popen(
            [sys.executable, SERVER, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *arguments):
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        self.process = int(self._server.stdout.readline())

    def send(self, number):
        os.kill(self.process, number)

    def wait(self):
        return int(self._server.stdout.readline())

    def close(self):
        self._server.stdin.close()
        self._server.wait()
