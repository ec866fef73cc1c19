"""Fetching from a loopback server: always the right file or one line, never half a file."""

import io
import os
import resource
import runpy
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from fetching import CONTENT, NAME, OTHER, failure_from, fetch_from, md5, size
from http_server import Answer, serving

from nst_jax.weights import fetch

STORAGE = "https://storage.googleapis.com"
KERAS = f"{STORAGE}/tensorflow/keras-applications"
VGG16 = f"{KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels"
VGG19 = f"{KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels"
CLASSES = f"{STORAGE}/download.tensorflow.org/data/imagenet_class_index.json"


# keras.applications, 3.15.1
@pytest.mark.parametrize(
    "key, url, md5sum",
    [
        ("vgg16", f"{VGG16}.h5", "64373286793e3c8b2b4e3219cbf3544b"),
        ("vgg16_notop", f"{VGG16}_notop.h5", "6d6bbae143d832006294945121d1f1fc"),
        ("vgg19", f"{VGG19}.h5", "cbe5617147190e668d6c5d5026f83318"),
        ("vgg19_notop", f"{VGG19}_notop.h5", "253f8cb515780f3b799900260a226db6"),
        ("imagenet_classes", CLASSES, "c2c37ea517e94d9795004a39431a14cb"),
    ],
)
def test_files_are_those_that_keras_publishes(key, url, md5sum):
    assert fetch.FILES[key] == (url, md5sum)
    assert fetch.FILES[key].name == url.split("/")[-1]


@pytest.mark.parametrize(
    "variables, folder",
    [
        ({"NST_JAX_CACHE": "/data/nets", "XDG_CACHE_HOME": "/xdg"}, "/data/nets"),
        ({"NST_JAX_CACHE": "~/nets"}, "/home/someone/nets"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/nst_jax"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/someone/.cache/nst_jax"),
        ({"NST_JAX_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/someone/.cache/nst_jax"),
        ({}, "/home/someone/.cache/nst_jax"),
    ],
)
def test_cache_dir_follows_the_environment(monkeypatch, variables, folder):
    for name in ("NST_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert fetch.cache_dir() == Path(folder)


def test_downloads_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "made" / "here"))
    with serving(CONTENT) as server:
        path = fetch_from(server, None)
        assert path == tmp_path / "made" / "here" / NAME
        assert path.read_bytes() == CONTENT
        assert server.log == [(f"/{NAME}", None, len(CONTENT))]
        assert sorted(os.listdir(path.parent)) == [NAME, f"{NAME}.lock"]
        assert fetch_from(server, None) == path
        assert len(server.log) == 1


def test_a_right_file_is_left_alone_and_nothing_written(tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    with serving(OTHER) as server:
        assert fetch_from(server, tmp_path) == tmp_path / NAME
        assert server.log == []
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], OTHER], ids=["empty", "short", "other"])
def test_a_damaged_file_is_replaced(tmp_path, damaged, capsys):
    (tmp_path / NAME).write_bytes(damaged)
    with serving(CONTENT) as server:
        assert fetch_from(server, tmp_path, progress=True).read_bytes() == CONTENT
    assert f"wanted MD5 {md5(CONTENT)}, got {md5(damaged)}" in capsys.readouterr().err


def test_a_damaged_file_stays_until_its_replacement_is_complete(tmp_path):
    (tmp_path / NAME).write_bytes(OTHER)
    with serving(CONTENT, Answer(cut=1000)) as server:
        with pytest.raises(fetch.FetchError):
            fetch_from(server, tmp_path, retries=0)
        assert (tmp_path / NAME).read_bytes() == OTHER
        assert fetch_from(server, tmp_path).read_bytes() == CONTENT


def test_key_mirror_and_names(tmp_path, monkeypatch):
    monkeypatch.setitem(
        fetch.FILES, "tiny", fetch.RemoteFile(f"https://nowhere.invalid/a/b/{NAME}", md5(CONTENT))
    )
    for slash in ("", "/"):
        with serving(CONTENT) as server:
            path = fetch.fetch(
                "tiny",
                directory=tmp_path / f"folder{slash}",
                mirror=f"{server.address}/some/where{slash}",
                progress=False,
            )
            assert path.read_bytes() == CONTENT
            assert server.log[0].path == f"/some/where/{NAME}"
            path.unlink()


# Each case: the part that lies there, the answers in turn, and then the ranges asked for.
RECOVERIES = {
    "cut": (None, [Answer(cut=1000)], [None, 1000]),
    "cut twice": (None, [Answer(cut=1000), Answer(cut=7)], [None, 1000, 1007]),
    "cut before the first byte": (None, [Answer(cut=0)], [None, None]),
    "part of an earlier call": (CONTENT[:5000], [], [5000]),
    "empty part": (b"", [], [None]),
    "complete part": (CONTENT, [], [len(CONTENT)]),
    "part of other content": (OTHER[:5000], [], [5000, None]),
    "complete part of other content": (OTHER, [], [len(CONTENT), None]),
    "part longer than the file": (CONTENT + b"more", [], [len(CONTENT) + 4, None]),
    "ranges ignored": (None, [Answer(cut=1000), Answer(ranges=False)], [None, 1000]),
    "range starts earlier": (CONTENT[:5000], [Answer(shift=-904)], [5000]),
    "range starts later": (CONTENT[:5000], [Answer(shift=1)], [5000, None]),
    "range without total": (
        CONTENT[:5000],
        [Answer(content_range="bytes {start}-{last}/*", cut=10)],
        [5000, 5010],
    ),
    "range that says nothing": (CONTENT[:5000], [Answer(content_range="lines")], [5000, None]),
    "no length": (None, [Answer(length=False)], [None]),
    "no length, cut": (None, [Answer(length=False, cut=1000)], [None, None]),
    "corrupted": (None, [Answer(content=OTHER)], [None, None]),
    "changes in the middle": (
        None,
        [Answer(content=OTHER, cut=1000), Answer()],
        [None, 1000, None],
    ),
    "redirected": (CONTENT[:5000], [Answer(location="/elsewhere")], [5000, 5000]),
    **{
        f"status {status}": (None, [Answer(status=status)], [None, None])
        for status in (408, 429, 500, 502, 503, 504)
    },
    "500, then 503": (None, [Answer(status=500), Answer(status=503)], [None, None, None]),
}


@pytest.mark.parametrize("part, answers, ranges", RECOVERIES.values(), ids=RECOVERIES.keys())
def test_ends_with_the_right_file(tmp_path, part, answers, ranges):
    if part is not None:
        (tmp_path / f"{NAME}.part").write_bytes(part)
    with serving(CONTENT, *answers) as server:
        assert fetch_from(server, tmp_path).read_bytes() == CONTENT
        asked = [None if start is None else f"bytes={start}-" for start in ranges]
        assert [request.range for request in server.log] == asked
    assert sorted(os.listdir(tmp_path)) == [NAME, f"{NAME}.lock"]


def test_a_resumed_download_moves_every_byte_once(tmp_path):
    with serving(CONTENT, Answer(cut=123_456), Answer(cut=654)) as server:
        fetch_from(server, tmp_path)
        assert [request.sent for request in server.log] == [123_456, 654, 175_890]


@pytest.mark.parametrize("cut", [0, 200_000])
def test_a_reset_connection_is_tried_again(tmp_path, cut):
    with serving(CONTENT, Answer(cut=cut, reset=True)) as server:
        assert fetch_from(server, tmp_path).read_bytes() == CONTENT
        assert len(server.log) == 2


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_stalled_connection_times_out_and_goes_on(tmp_path, cut, capsys):
    with serving(CONTENT, Answer(cut=cut, stall=True)) as server:
        path = fetch_from(server, tmp_path, timeout=0.2, progress=True)
        assert path.read_bytes() == CONTENT
        assert server.log[1].sent == len(CONTENT) - cut
    assert "no answer for 0.2 s; retry 1 of 2" in capsys.readouterr().err


def test_a_server_that_accepts_and_says_nothing_times_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        file = fetch.RemoteFile(f"{address}/{NAME}", md5(CONTENT))
        with pytest.raises(fetch.FetchError, match=r"no answer for 0\.1 s, tries: 2$"):
            fetch.fetch(file, directory=tmp_path, retries=1, timeout=0.1, backoff=0, progress=False)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_fails_at_once(tmp_path, status):
    with serving(CONTENT, Answer(status=status)) as server:
        line = failure_from(server, tmp_path)
        assert line.startswith(f"{server.address}/{NAME}: HTTP status {status} ")
        assert len(server.log) == 1


def test_a_refusal_leaves_the_part(tmp_path):
    part = tmp_path / f"{NAME}.part"
    part.write_bytes(CONTENT[:5000])
    with serving(CONTENT, Answer(status=404)) as server:
        failure_from(server, tmp_path)
        assert part.read_bytes() == CONTENT[:5000]


@pytest.mark.parametrize("retries", [0, 3])
def test_a_lasting_server_error_fails_after_the_retries(tmp_path, retries):
    with serving(CONTENT, *[Answer(status=500)] * 10) as server:
        line = failure_from(server, tmp_path, retries=retries)
        assert "HTTP status 500" in line and line.endswith(f"tries: {retries + 1}")
        assert len(server.log) == retries + 1


def test_a_lasting_break_keeps_what_came(tmp_path):
    with serving(CONTENT, *[Answer(cut=1000)] * 3) as server:
        line = failure_from(server, tmp_path)
        part = tmp_path / f"{NAME}.part"
        assert "closed at byte 3000 of 300000" in line and str(part) in line
        assert part.read_bytes() == CONTENT[:3000]
        assert fetch_from(server, tmp_path).read_bytes() == CONTENT


def test_content_that_stays_wrong_fails_with_both_sums(tmp_path):
    with serving(OTHER) as server:
        line = failure_from(server, tmp_path)
        assert line.endswith(f"{NAME}: wanted MD5 {md5(CONTENT)}, got {md5(OTHER)}")
        assert [request.range for request in server.log] == [None, None]
    assert os.listdir(tmp_path) == [f"{NAME}.lock"]


def test_nobody_at_the_address(tmp_path):
    with serving(CONTENT) as server:
        pass
    assert "refused, tries: 3" in failure_from(server, tmp_path)


def test_a_refused_certificate_fails_at_once(tmp_path, monkeypatch):
    refusal = ssl.SSLCertVerificationError(1, "verify failed")
    refusal.verify_message = "self-signed certificate"
    calls = []

    def refuse(request, timeout):
        calls.append(request.full_url)
        raise urllib.error.URLError(refusal)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    file = fetch.RemoteFile(f"https://127.0.0.1/{NAME}", md5(CONTENT))
    with pytest.raises(fetch.FetchError, match="certificate refused: self-signed certificate$"):
        fetch.fetch(file, directory=tmp_path, progress=False)
    assert calls == [f"https://127.0.0.1/{NAME}"]


def test_the_wait_doubles_up_to_a_minute(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with serving(CONTENT, *[Answer(status=503)] * 9) as server:
        fetch_from(server, tmp_path, retries=9, backoff=0.5)
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    "file, options, message",
    [
        ("vgg11", {}, "file: wanted one of vgg16, .*, imagenet_classes, got 'vgg11'"),
        ("vgg16", {"mirror": "/data"}, "mirror: wanted an http:// or https:// .*'/data'"),
        ("vgg16", {"mirror": "file:///data"}, "mirror: wanted .*'file:///data'"),
        ("vgg16", {"retries": -1}, "retries: wanted 0 or more, got -1"),
        ("vgg16", {"timeout": 0.0}, "timeout: wanted .*, got 0"),
        ("vgg16", {"timeout": float("nan")}, "timeout: wanted .*, got nan"),
        ("vgg16", {"timeout": float("inf")}, "timeout: wanted .*, got inf"),
        ("vgg16", {"backoff": -1.0}, "backoff: wanted 0 .*, got -1"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, file, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        fetch.fetch(file, directory=tmp_path, **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("host", ["127.0.0.1:port", "127.0.0.1:80/with space", "[::1"])
def test_a_malformed_address_fails_at_once(tmp_path, host):
    with pytest.raises(fetch.FetchError, match="not an address"):
        fetch.fetch("vgg16", directory=tmp_path, mirror=f"http://{host}", progress=False)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with serving(CONTENT) as server:
        with pytest.raises(fetch.FetchError) as caught:
            fetch_from(server, tmp_path / "file" / "folder")
        assert server.log == []
    assert str(caught.value).startswith(f"{tmp_path / 'file'}")
    assert str(caught.value).endswith(": Not a directory")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def deny(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    # Simulated: permissions do not bind the superuser, who may be running this.
    monkeypatch.setattr(fetch, "open", deny, raising=False)
    with serving(CONTENT) as server:
        assert failure_from(server, tmp_path) == f"{tmp_path / NAME}: Permission denied"
        assert server.log == []


def test_a_full_disk_ends_in_one_line_and_the_download_goes_on_later(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(CONTENT) as server:
        try:
            # A limit on the size of files stops a write just like a full disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
            line = failure_from(server, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert line == f"{tmp_path / NAME}.part: File too large"
        assert len(server.log) == 1
        kept = size(tmp_path / f"{NAME}.part")
        assert fetch_from(server, tmp_path).read_bytes() == CONTENT
        assert kept and server.log[1].range == f"bytes={kept}-"


def test_reports_lines_where_stderr_is_no_terminal(tmp_path, capsys):
    with serving(CONTENT, Answer(cut=100_000)) as server:
        path = fetch_from(server, tmp_path, progress=True)
        url = f"{server.address}/{NAME}"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"downloading {url}",
        f"{url}: the connection closed at byte 100000 of 300000; retry 1 of 2 in 0.001 s",
        f"{NAME}: continuing from 0.1 MB",
        f"downloaded {path}, 0.3 MB",
    ]


def test_shows_a_bar_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with serving(CONTENT) as server:
        fetch_from(server, tmp_path, progress=True)
    assert f"{NAME}: 100%" in terminal.getvalue() and "300k/300k" in terminal.getvalue()


def test_says_nothing_without_progress(tmp_path, capfd):
    with serving(CONTENT, Answer(cut=1000), Answer(content=OTHER)) as server:
        fetch_from(server, tmp_path, progress=False)
    assert capfd.readouterr() == ("", "")


def test_works_where_files_cannot_be_locked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows: importing it fails
    module = runpy.run_path(fetch.__file__)
    with serving(CONTENT) as server:
        file = module["RemoteFile"](f"{server.address}/{NAME}", md5(CONTENT))
        path = module["fetch"](file, directory=tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
