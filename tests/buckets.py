"""Buckets on this machine: servers on the loopback device in place of S3 and Google's storage.

The clients are the real ones, s3fs and gcsfs, and speak HTTP. moto and gcp-storage-emulator stand
in for the services. So the tests show nothing of the services' own limits, speeds and rights.

As a program, this module is the servers.
"""

import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys

import fsspec

_numbers = itertools.count()

# Nothing of the user's, and no question to a cloud's own address.
_AWS = {
    "AWS_ACCESS_KEY_ID": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
_NOBODY = "127.0.0.1:9"
_GOOGLE = {
    "GCE_METADATA_HOST": _NOBODY,
    "GCE_METADATA_IP": _NOBODY,
    "GOOGLE_APPLICATION_CREDENTIALS": "",
    "NO_GCE_CHECK": "true",
    # The emulator knows one kind of bucket, and gcsfs would ask Google for the kind.
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
}


@contextlib.contextmanager
def servers():
    """Gives the environment in which the clients find the servers."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        yield _AWS | _GOOGLE | json.loads(process.stdout.readline())
        process.stdin.close()  # which ends it


def serve():
    """Starts the servers, tells their addresses, and serves until stdin ends."""
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    logging.disable(logging.CRITICAL)
    aws = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    aws.start()
    google = create_server("127.0.0.1", 0, in_memory=True)
    google.start()
    addresses = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*aws.get_host_and_port()),
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{google._api._httpd.server_port}",
    }
    print(json.dumps(addresses), flush=True)
    sys.stdin.read()
    os._exit(0)


class Bucket:
    """A new bucket: `bucket / "name"` is the address of an object."""

    def __init__(self, scheme):
        self.fs = fsspec.filesystem(scheme, use_listings_cache=False)
        self.name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self.fs.mkdir(self.name)
        self.address = f"{scheme}://{self.name}"

    def __truediv__(self, name):
        return f"{self.address}/{name}"

    def put(self, name, data):
        self.fs.pipe_file(self / name, data)

    def files(self, folder=""):
        """{name: bytes} of the objects below a folder."""
        start = "/".join([self.name, folder]).rstrip("/") + "/"
        return {name.removeprefix(start): self.fs.cat_file(name) for name in self.fs.find(start)}


def forget_clients():
    """The next client looks at the environment anew."""
    for scheme in ("gs", "s3"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


if __name__ == "__main__":
    serve()
