"""Meshes of devices: outputs are divided along `style`, pictures by their height along `space`.

Only placement is decided here, never what is computed: XLA partitions the very step that one
device would take, and puts exchanges of border rows around its convolutions and sums over devices
into its statistics. A height or a number of outputs that the mesh doesn't divide is padded by XLA
inside the program, which changes no result; between steps such an axis is kept whole.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nst_jax.terms import Field, is_field

AXES = ("style", "space")


def parse_mesh(text: str) -> dict[str, int]:
    """Sizes of the axes of "style:4,space:2"; an axis left out is 1.

    Raises:
      ValueError: anything else.
    """
    sizes = dict.fromkeys(AXES, 1)
    seen = set()
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        if name not in AXES or name in seen or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"mesh must be like 'style:4,space:2', got {text!r}")
        seen.add(name)
        sizes[name] = int(number)
    return sizes


def make_mesh(
    outputs: int,
    *,
    sizes: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh | None:
    """A mesh for so many outputs.

    Args:
      outputs: how many pictures are made at once.
      sizes: of the axes, as from `parse_mesh`; None divides the outputs among all devices, or
        where there are fewer of them, as far as they go evenly, and each picture among the devices
        then left over.
      devices: those to use; None is all, of all processes.

    Returns:
      The mesh, or None where it would be of one device.

    Raises:
      ValueError: more devices wanted than there are, or fewer than all of several processes.
    """
    devices = jax.devices() if devices is None else list(devices)
    if sizes is None:
        style = len(devices) if outputs >= len(devices) else math.gcd(outputs, len(devices))
        sizes = {"style": style, "space": len(devices) // style}
    shape = tuple(sizes[axis] for axis in AXES)
    wanted = math.prod(shape)
    if wanted > len(devices) or (wanted < len(devices) and jax.process_count() > 1):
        described = ",".join(f"{axis}:{size}" for axis, size in zip(AXES, shape, strict=True))
        raise ValueError(f"mesh {described} is of {wanted} devices, but there are {len(devices)}")
    if wanted == 1:
        return None
    # In Auto mode XLA finds the shardings inside; Explicit axes refuse a sum over a sharded side.
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices[:wanted])


def check_mesh(mesh: object) -> None:
    """Refuses a mesh that the functions of this module cannot use. None passes: it is one device.

    Raises:
      TypeError: `mesh` is neither a `jax.sharding.Mesh` nor None.
      ValueError: its axes are not "style" and "space", or XLA may not choose shardings on them.
    """
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, as nst_jax.sharding.make_mesh makes, or None, "
            f"got {mesh!r}"
        )
    if set(mesh.axis_names) != set(AXES):
        raise ValueError(f"mesh must have the axes {AXES}, got {mesh.axis_names}")
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        kinds = ", ".join(kind.name for kind in mesh.axis_types)
        raise ValueError(f"mesh must have axes of type Auto, as jax.sharding.Mesh has, got {kinds}")


def place(mesh: Mesh | None, tree: Any, *, picture: Sequence[int] = (), whole: bool = False) -> Any:
    """Puts arrays, the same in every process, onto the mesh: their first axis, of outputs, along
    `style`; and what ends in the shape `picture` `(H, W, 3)`, and every `Field`, by its height
    along `space`. With `whole`, onto every device. A `jax.ShapeDtypeStruct` comes out as one of an
    array there."""
    if mesh is None:
        return tree

    def put(leaf):
        if isinstance(leaf, Field):
            spec = PartitionSpec() if whole else _spec(mesh, leaf.values, (), even=True, field=True)
            return dataclasses.replace(leaf, values=put_array(leaf.values, spec))
        return put_array(leaf, PartitionSpec() if whole else _spec(mesh, leaf, picture, even=True))

    def put_array(leaf, spec):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put_array(jax.random.key_data(leaf), PartitionSpec()))
        if jax.process_count() > 1:
            leaf = np.asarray(leaf)  # of this process alone, where JAX wants one of all or of none
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree, is_leaf=is_field)


def constrain(mesh: Mesh | None, tree: Any, *, picture: Sequence[int]) -> Any:
    """Inside a program: as `place`, evenly or not."""
    return _constrain(mesh, tree, picture, even=False)


def constrain_evenly(mesh: Mesh | None, tree: Any, *, picture: Sequence[int]) -> Any:
    """At the end of a program: as `place`, so that the next call finds what the last one did."""
    return _constrain(mesh, tree, picture, even=True)


def gather(mesh: Mesh | None, tree: Any) -> Any:
    """The arrays whole, in the memory of every process. All processes have to call it."""
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(np.asarray, jax.jit(_same, out_shardings=everywhere)(tree))


def _same(tree):  # one function, so that JAX compiles it once for arrays of one shape
    return tree


def to_host(array: jax.Array) -> np.ndarray:
    """An array in this process' memory. If it is divided among processes, all have to call it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return gather(array.sharding.mesh, array)
    return np.asarray(array)


def _constrain(mesh, tree, picture, *, even):
    if mesh is None:
        return tree
    return jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(
            leaf, NamedSharding(mesh, _spec(mesh, leaf, picture, even=even))
        ),
        tree,
    )


def _spec(
    mesh: Mesh, leaf: jax.Array, picture: Sequence[int], *, even: bool, field: bool = False
) -> PartitionSpec:
    """Which axis of `[outputs, ...]` goes along which of the mesh; with `even`, only where it
    divides. Single numbers are everywhere, so that every process can read them."""
    axes = [None] * leaf.ndim
    if leaf.ndim > 1:
        axes[0] = "style"
    if picture and leaf.ndim > len(picture) and leaf.shape[-len(picture) :] == tuple(picture):
        axes[-len(picture)] = "space"
    if field:
        axes[1] = "space"
    for index, axis in enumerate(axes):
        if axis is not None and even and leaf.shape[index] % mesh.shape[axis]:
            axes[index] = None
    return PartitionSpec(*axes)


def share_of_process(
    count: int, *, process: int | None = None, processes: int | None = None
) -> range:
    """Those of so many things that are this process's; its number and that of all of them are
    JAX's unless given."""
    process = jax.process_index() if process is None else process
    processes = jax.process_count() if processes is None else processes
    return range(process * count // processes, (process + 1) * count // processes)


def smallest_of_processes(number: int | None) -> int | None:
    """The least that any process has, to seven digits; None where none has one. All processes
    have to call it."""
    if jax.process_count() == 1:
        return number
    own = np.float32(math.inf if number is None else number)
    found = float(multihost_utils.process_allgather(own).min())
    return None if found == math.inf else int(found)


def connect(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    apart: bool = False,
) -> None:
    """Joins the processes of a run into one, through `jax.distributed.initialize`; to be called
    before anything else of JAX. Without numbers the cluster's own environment tells them (TPU
    pods, Slurm, Open MPI).

    A signal ends each process as it would end one alone.

    Args:
      coordinator_address, num_processes, process_id: as of `jax.distributed.initialize`.
      apart: they don't take their steps together, so that one may be done long before another.

    Raises:
      ValueError: some of the numbers without the others, or no cluster to tell them.
      ConnectionError: JAX is in use already, or the others are not to be reached.
    """
    given = [coordinator_address, num_processes, process_id]
    if any(value is not None for value in given):
        if None in given:
            raise ValueError("coordinator_address, num_processes and process_id go together")
        check_process_id(process_id, num_processes)
        if not coordinator_address.rpartition(":")[2].isdecimal():
            raise ValueError(
                f"coordinator_address must be like '10.0.0.1:8476', got {coordinator_address!r}"
            )
    # It would take SIGTERM for itself, and only tell of it whoever asks.
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*given, shutdown_timeout_seconds=7 * 24 * 3600 if apart else 300)
    except ValueError as error:
        if None not in given:
            raise
        raise ValueError(
            "no cluster's environment says which processes there are (TPU pods, Slurm, Open MPI): "
            "give coordinator_address, num_processes and process_id"
        ) from error
    except RuntimeError as error:
        raise ConnectionError(f"the processes could not be joined: {error}") from error


def check_process_id(process_id: int, num_processes: int) -> None:
    """Refuses a number that none of so many processes has.

    Raises:
      ValueError: it is not one of theirs, or there is no process at all.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must be from 0 to {num_processes - 1}, got {process_id}")
