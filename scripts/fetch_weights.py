"""Downloads the full-precision VGG files published with Keras.

    python scripts/fetch_weights.py                             # both networks without head
    python scripts/fetch_weights.py --files=vgg19,imagenet_classes
    python scripts/fetch_weights.py --mirror=https://example.org/weights

Prints the path of each file to stdout, and everything else to stderr. If a download breaks off, run
the same command again: it continues where it stopped. Exits 0 when all files are there, 1 on
failure, 130 on Ctrl-C.
"""

import program
from absl import flags

from nst_jax.cli.flag_types import define_list, define_path
from nst_jax.weights import fetch


def define_flags() -> None:
    define_list(
        "files",
        ["vgg16_notop", "vgg19_notop"],
        f"Files to download: {', '.join(fetch.FILES)}.",
    )
    define_path(
        "cache_dir",
        None,
        "Folder for the files. By default $NST_JAX_CACHE, or nst_jax in "
        "$XDG_CACHE_HOME or ~/.cache.",
    )
    flags.DEFINE_string(
        "mirror", None, "Address of a folder with the same files, used as the source."
    )
    flags.DEFINE_integer("retries", 4, "How often to try again after a temporary failure.")
    flags.DEFINE_float("timeout", 30.0, "Longest silence of the server, in seconds.")


def run() -> None:
    """Downloads the files that the flags name, and prints each path."""
    values = flags.FLAGS
    unknown = [file for file in values.files if file not in fetch.FILES]
    if unknown or not values.files:
        raise ValueError(
            f"--files: wanted some of {', '.join(fetch.FILES)}, got {', '.join(unknown)!r}"
        )
    for file in values.files:
        path = fetch.fetch(
            file,
            directory=values.cache_dir,
            mirror=values.mirror,
            retries=values.retries,
            timeout=values.timeout,
        )
        print(path, flush=True)


if __name__ == "__main__":
    define_flags()
    program.start(run, arguments="give files by --files", again="; run it again to continue")
