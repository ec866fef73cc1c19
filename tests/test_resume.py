"""The command ended by signals and started again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from commandline import FAST

SERVER = pathlib.Path(__file__).parent / "command_server.py"
KILLS = 20


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


@pytest.fixture
def command(tmp_path):
    command = Command(tmp_path / "log.txt")
    yield command
    command.close()


@pytest.fixture
def job(pictures, tmp_path):
    """`job(name, *flags)`: arguments of a job of its own folders."""
    content, *styles = pictures

    def arguments(name, *flags):
        return [
            f"--content={content}",
            f"--styles={','.join(map(str, styles))}",
            f"--output_dir={tmp_path / name}",
            f"--checkpoint_dir={tmp_path / name}-checkpoints",
            *FAST,
            *flags,
        ]

    return arguments


def files(folder):
    """Pictures byte by byte, and the losses on record."""
    found = {path.name: path.read_bytes() for path in folder.glob("*__*.png")}
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found["metrics"] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return found


def test_killed_twenty_times_it_ends_with_the_same_files(command, job, tmp_path):
    flags = ("--steps=400", "--checkpoint_every=3", "--log_every=100")
    command.start(*job("undisturbed", *flags))
    assert command.wait() == 0, command.log.read_text()
    rng = np.random.default_rng(0)
    start, kills, longest = time.monotonic(), 0, 2.0
    while True:
        command.start(*job("killed", *flags))
        killer = threading.Timer(rng.uniform(0, longest), command.send, [signal.SIGKILL])
        if kills < KILLS:
            killer.start()
        code = command.wait()
        killer.cancel()
        if code == 0:
            break
        assert code == -signal.SIGKILL, command.log.read_text()
        kills += 1
        steps = [
            int(p.name) for p in (tmp_path / "killed-checkpoints").glob("**/[0-9]*") if p.is_dir()
        ]
        print(kills, round(time.monotonic() - start, 1), steps)
    assert kills >= KILLS
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")
