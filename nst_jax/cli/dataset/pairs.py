"""Which pictures a data-set job makes: files, pairs of a content and a style, and batches of pairs.

The pairs, their order and their outputs follow from the files' names and the settings alone, so
that processes that never meet, each with a share of the pairs, make each once. The batches follow
from a process's share, its devices and its readable files, not from what is finished, so that a job
that was interrupted ends with the very files of one that was not.
"""

import glob
import hashlib
import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from nst_jax.files import images
from nst_jax.files.atomic import short, unique

PAIRINGS = ("all", "zip", "random")


class Source(NamedTuple):
    """A picture file.

    Attributes:
      path: where it is.
      name: what its outputs are called by: the path below the folder or the fixed part of the
        pattern that it was found by, with "/" between folders and without its suffix.
    """

    path: str
    name: str


class Pair(NamedTuple):
    """One picture to be made: the paths of its content and style, and of its file in the folder."""

    content: str
    style: str
    output: str


class Batch(NamedTuple):
    """Pairs that are painted at once.

    Attributes:
      pairs: at most `size`.
      size: how many outputs the program has; the places left over are filled with repetitions.
      shape: `(H, W)` that the contents are brought to.
    """

    pairs: tuple[Pair, ...]
    size: int
    shape: tuple[int, int]


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def names_several(items: Sequence[str]) -> bool:
    """Whether one of `items` is a folder or a glob pattern."""
    return any(
        os.path.isdir(item) or (_is_pattern(item) and not os.path.exists(item)) for item in items
    )


def expand(items: Sequence[str], *, flag: str, output_dir: str | os.PathLike[str]) -> list[Source]:
    """The picture files that `items` name, each once.

    A file stands for itself. A folder stands for the pictures in it and in its subfolders, a glob
    pattern (`**` for any folders) for those that match: what has a picture's suffix, does not
    begin with a dot and is not in `output_dir`, sorted. Links are followed, but to no folder twice;
    one that leads nowhere is taken for a picture, for whoever reads it to say.

    Raises:
      ValueError: an item that names nothing; the message starts with `flag`.
    """
    outputs = os.path.realpath(output_dir) + os.sep
    suffixes = images.suffixes()
    found: dict[str, Source] = {}
    for item in items:
        path = pathlib.Path(item)
        if path.is_dir():
            root, pattern = path, os.path.join(glob.escape(item), "**", "*")
        elif _is_pattern(item) and not path.exists():
            fixed = itertools.takewhile(lambda part: not _is_pattern(part), path.parts)
            root, pattern = pathlib.Path(*fixed), item
        else:
            found.setdefault(str(path), Source(str(path), path.stem))
            continue
        matches = sorted(
            match
            for match in map(pathlib.Path, _matching(pattern))
            if match.suffix.lower() in suffixes
            and (match.is_file() or not match.exists())
            and not os.path.realpath(match).startswith(outputs)
        )
        if not matches:
            where = "in the folder" if path.is_dir() else "like"
            raise ValueError(f"{flag}: there are no pictures {where} {item!r}")
        for match in matches:
            parts = match.relative_to(root).with_suffix("").parts
            name = "/".join(part for part in parts if part != "..")  # outputs stay in their folder
            found.setdefault(str(match), Source(str(match), name))
    return list(found.values())


def _matching(pattern: str) -> Iterator[str]:
    """What matches a glob pattern. As `glob`, which follows a link to a folder around it for as
    long as the disk lets it."""
    parts = pathlib.PurePath(pattern).parts
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    place = parts.index("**")
    for top in glob.iglob(os.path.join(*parts[:place], "")) if place else ["."]:
        for folder in _folders(top):
            yield from _matching(os.path.join(glob.escape(folder), *parts[place + 1 :] or "*"))


def _folders(top: str) -> Iterator[str]:
    """`top` and the folders below it, without hidden ones, each once."""
    seen = set()
    for folder, below, _ in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield folder


def pair(
    contents: Sequence[Source], styles: Sequence[Source], *, pairing: str, seed: int = 0
) -> list[Pair]:
    """The pictures to be made, each with an output of its own.

    "all" paints every content in every style, "zip" the first in the first and so on, "random"
    each content in one style, drawn by the seed.

    Outputs lie in the subfolders that their contents were found in. The draw of a random style
    depends on nothing but the seed, the content's name and the number of styles.

    Raises:
      ValueError: contents and styles that cannot be zipped.
    """
    if pairing == "zip":
        if len(contents) != len(styles):
            raise ValueError(
                "--pairing=zip needs as many contents as styles, "
                f"got {len(contents)} and {len(styles)}"
            )
        found = list(zip(contents, styles, strict=True))
    elif pairing == "random":
        found = [(content, styles[_draw(seed, content.name, len(styles))]) for content in contents]
    else:
        found = list(itertools.product(contents, styles))
    stems = []
    for content, style in found:
        folder, _, name = content.name.rpartition("/")
        stem = short(f"{name}__{style.name.rpartition('/')[2]}")
        stems.append(f"{folder}/{stem}" if folder else stem)
    return [
        Pair(content.path, style.path, f"{stem}.png")
        for (content, style), stem in zip(found, unique(stems), strict=True)
    ]


def _draw(seed: int, name: str, count: int) -> int:
    """A number below `count`, as good as random."""
    digest = hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest) % count


def plan(
    pairs: Sequence[Pair],
    shapes: Mapping[str, tuple[int, int]],
    *,
    batch_size: int,
    devices: int = 1,
) -> list[Batch]:
    """Divides pairs into batches, filled across contents and styles.

    Contents of one shape share batches, which are all of one size, so that each shape compiles
    once. The size is the smallest that does with the
    fewest batches: fewer places are left over than there are batches of the shape, where batches
    of `batch_size` throughout would paint a shape of one picture so many times.

    Args:
      pairs: those of one process.
      shapes: of each content's path the `(H, W)` that it is brought to.
      batch_size: the most pictures at once.
      devices: batches larger than this are a multiple of it where `batch_size` allows one.
    """
    if batch_size > devices:
        batch_size -= batch_size % devices
    groups: dict[tuple[int, int], list[Pair]] = {}
    for one in pairs:
        groups.setdefault(shapes[one.content], []).append(one)
    batches = []
    for shape, group in groups.items():
        size = math.ceil(len(group) / math.ceil(len(group) / batch_size))
        if size > devices:
            size = math.ceil(size / devices) * devices
        for first in range(0, len(group), size):
            batches.append(Batch(tuple(group[first : first + size]), size, shape))
    return batches
