"""What the tests of fetching share: a small file, its sums, and fetching it with short waits."""

import hashlib
import random
from pathlib import Path

import pytest

from nst_jax.weights import fetch

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
NAME = "weights.h5"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def fetch_from(server, directory, **options) -> Path:
    """Fetches the server's file with short waits."""
    file = fetch.RemoteFile(f"{server.address}/{NAME}", md5(CONTENT))
    options = {"retries": 2, "timeout": 10.0, "backoff": 0.001, "progress": False} | options
    return fetch.fetch(file, directory=directory, **options)


def failure_from(server, directory, **options) -> str:
    """The one line a failing fetch ends with; nothing then stands under the final name."""
    with pytest.raises(fetch.FetchError) as caught:
        fetch_from(server, directory, **options)
    assert not (directory / NAME).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
