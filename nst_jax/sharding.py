"""Meshes of devices: outputs are divided along `style`, pictures along `space` and `width`.

The height of a picture is divided along `space`. A mesh may also have the axis `width`, which
divides the width of a picture. Many devices can then share one picture without thin strips.

This module decides where arrays are placed, and never what is computed. XLA partitions the same
step that one device would run. It adds exchanges of border rows to the convolutions, and sums over
devices to the statistics.

The mesh may not divide a side or a number of outputs evenly. XLA then pads that axis inside the
program, which changes no result. Between steps that axis is not divided.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nst_jax.terms import Field, is_field

AXES = ("style", "space")
"""The axes of every mesh."""

WIDTH = "width"
"""The axis that a mesh may have beside them."""


@contextlib.contextmanager
def undisturbed(*, mesh: Mesh | None = None) -> Iterator[None]:
    """Inside, what the caller has set for programs of their own does not count.

    That is a guard of transfers, because a function of NumPy arrays transfers on purpose, and a
    mesh of `jax.set_mesh`, which may have other axes.

    Args:
      mesh: of the programs inside; None divides nothing.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.transfer_guard("allow"))
        if mesh is not None and not jax.sharding.get_abstract_mesh().empty:
            stack.enter_context(jax.set_mesh(mesh))
        yield


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of the axes from a text like "style:4,space:2" or "space:4,width:2".

    "style" and "space" have size 1 if the text leaves them out.

    Raises:
      ValueError: the text has another form.
    """
    sizes: dict[str, int] = {axis: 1 for axis in AXES}
    seen = set()
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        if name not in (*AXES, WIDTH) or name in seen or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"mesh must be like 'style:4,space:2', got {text!r}")
        seen.add(name)
        sizes[name] = int(number)
    return sizes


def make_mesh(
    outputs: int,
    *,
    sizes: Mapping[str, int] | None = None,
    # JAX exports the class of its devices as a variable.
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh | None:
    """Makes a mesh for a number of outputs.

    Args:
      outputs: the number of pictures that are made at once.
      sizes: the sizes of the axes, as from `parse_mesh`. None divides the outputs among all
        devices. With fewer outputs than devices, it divides the outputs as far as that is even,
        and each picture among the remaining devices.
      devices: the devices to use. None is all devices of all processes.

    Returns:
      The mesh, or None if it would have one device.

    Raises:
      ValueError: the mesh needs more devices than there are, or several processes have devices
        that it would not use.
    """
    devices = jax.devices() if devices is None else list(devices)
    if sizes is None:
        style = len(devices) if outputs >= len(devices) else math.gcd(outputs, len(devices))
        sizes = {"style": style, "space": len(devices) // style}
    wanted = math.prod(sizes.values())
    if wanted > len(devices) or (wanted < len(devices) and jax.process_count() > 1):
        described = ",".join(f"{axis}:{size}" for axis, size in sizes.items())
        raise ValueError(f"mesh {described} needs {wanted} devices, but there are {len(devices)}")
    return None if wanted == 1 else mesh_of(sizes, devices[:wanted])


def mesh_of(
    sizes: Mapping[str, int],
    devices: Sequence[jax.Device],  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """The mesh of exactly these devices, which may be descriptions, or a single one.

    Args:
      sizes: the sizes of the axes. Their product is the number of devices.
      devices: the devices.
    """
    # With Auto axes, XLA finds the shardings inside a program. Explicit axes refuse a sum over a
    # sharded side.
    names = AXES if sizes.get(WIDTH, 1) == 1 else (*AXES, WIDTH)
    kinds = (AxisType.Auto,) * len(names)
    shape = tuple(sizes[name] for name in names)
    return jax.make_mesh(shape, names, axis_types=kinds, devices=devices)


def platform_of(mesh: Mesh | None) -> str:
    """The platform of the mesh's devices, such as "cpu" or "tpu". None is the default one."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def check_mesh(mesh: object) -> None:
    """Refuses a mesh that the functions of this module cannot use. None passes: it is one device.

    Raises:
      TypeError: `mesh` is neither a `jax.sharding.Mesh` nor None.
      ValueError: its axes are not "style", "space" and perhaps "width", or XLA may not choose
        shardings on them.
    """
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, as nst_jax.sharding.make_mesh makes, or None, "
            f"got {mesh!r}"
        )
    if set(mesh.axis_names) - {WIDTH} != set(AXES):
        raise ValueError(
            f"mesh must have the axes {AXES} and may have {WIDTH!r}, got {mesh.axis_names}"
        )
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        kinds = ", ".join(kind.name for kind in mesh.axis_types)
        raise ValueError(f"mesh must have axes of type Auto, as jax.sharding.Mesh has, got {kinds}")


def place(mesh: Mesh | None, tree: Any, *, picture: Sequence[int] = (), whole: bool = False) -> Any:
    """Places the arrays of a tree on a mesh.

    Args:
      mesh: the mesh. None returns the tree unchanged.
      tree: arrays `[outputs, ...]` with the same values in every process. A `jax.ShapeDtypeStruct`
        comes back with the sharding of a placed array.
      picture: the shape `(H, W, 3)` of a picture. Arrays that end in it are divided by their
        height along `space`, and by their width along `width`. Every `Field` is divided so, too.
      whole: copy every array to every device. Otherwise the first axis, of outputs, is divided
        along `style`.

    Returns:
      The placed tree.
    """
    if mesh is None:
        return tree

    def put(leaf: Any) -> Any:
        if isinstance(leaf, Field):
            spec = PartitionSpec() if whole else _spec(mesh, leaf.values, (), even=True, field=True)
            return dataclasses.replace(leaf, values=put_array(leaf.values, spec))
        return put_array(leaf, PartitionSpec() if whole else _spec(mesh, leaf, picture, even=True))

    def put_array(leaf: Any, spec: PartitionSpec) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put_array(jax.random.key_data(leaf), PartitionSpec()))
        if jax.process_count() > 1:
            leaf = np.asarray(leaf)  # JAX refuses an array on devices of this process alone
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree, is_leaf=is_field)


def constrain(mesh: Mesh | None, tree: Any, *, picture: Sequence[int]) -> Any:
    """Does what `place` does, inside a program. Axes may be divided unevenly."""
    return _constrain(mesh, tree, picture, even=False)


def constrain_evenly(mesh: Mesh | None, tree: Any, *, picture: Sequence[int]) -> Any:
    """Does what `place` does, at the end of a program.

    The next call of the program then finds its arguments placed as in the last call.
    """
    return _constrain(mesh, tree, picture, even=True)


def constrain_whole(mesh: Mesh | None, tree: Any) -> Any:
    """Copies arrays to every device, inside a program. So every process can read them."""
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, everywhere), tree)


def over_outputs(
    mesh: Mesh | None, function: Callable[..., Any], *trees: Any, in_turn: bool = False
) -> Any:
    """Applies a function to each output, to all at once or to one after the other.

    Args:
      mesh: the mesh that divides the outputs among its devices. None is one device.
      function: gets the items of one output, one item from each tree.
      trees: trees of arrays `[outputs, ...]`.
      in_turn: False takes all outputs at once, by `jax.vmap`. True lets each device take its
        outputs one after the other, in a loop. If the mesh does not divide the number of outputs
        evenly, all are taken at once.

    Returns:
      The results of the function, with a leading axis of outputs.
    """
    outputs = len(jax.tree.leaves(trees)[0])
    parts = 1 if mesh is None else mesh.shape["style"]
    if not in_turn or outputs % parts:
        return jax.vmap(function)(*trees)

    def loop(*trees: Any) -> Any:
        if outputs == parts:  # a loop of one would only hide it from the compiler
            found = function(*jax.tree.map(lambda leaf: leaf[0], trees))
            return jax.tree.map(lambda leaf: leaf[None], found)
        return jax.lax.map(lambda items: function(*items), trees)

    if mesh is None or parts == 1:
        return loop(*trees)
    along = PartitionSpec("style")
    return jax.shard_map(
        loop, mesh=mesh, in_specs=along, out_specs=along, axis_names={"style"}, check_vma=False
    )(*trees)


def gather(mesh: Mesh | None, tree: Any) -> Any:
    """Returns the whole arrays, in the memory of every process. All processes must call it."""
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(np.asarray, jax.jit(_same, out_shardings=everywhere)(tree))


def _same(tree):  # a module's function, so that JAX compiles it once for each shape
    return tree


def to_host(array: jax.Array) -> np.ndarray:
    """Returns an array in the memory of this process.

    If the array is divided among processes, all processes must call it.
    """
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        assert isinstance(array.sharding, NamedSharding)  # as `place` makes
        mesh = array.sharding.mesh
        assert isinstance(mesh, Mesh)
        return gather(mesh, array)
    return np.asarray(array)


def _constrain(mesh: Mesh | None, tree: Any, picture: Sequence[int], *, even: bool) -> Any:
    if mesh is None:
        return tree
    return jax.tree.map(
        lambda leaf: jax.lax.with_sharding_constraint(
            leaf, NamedSharding(mesh, _spec(mesh, leaf, picture, even=even))
        ),
        tree,
    )


def _spec(
    mesh: Mesh,
    leaf: jax.Array | np.ndarray | jax.ShapeDtypeStruct,
    picture: Sequence[int],
    *,
    even: bool,
    field: bool = False,
) -> PartitionSpec:
    """Says which axes of an array `[outputs, ...]` are divided along which axes of the mesh.

    With `even`, an axis is divided only if the mesh divides it evenly. Arrays of one number for
    each output are copied to all devices, so that every process can read them.
    """
    axes: list[str | None] = [None] * leaf.ndim
    if leaf.ndim > 1:
        axes[0] = "style"
    if picture and leaf.ndim > len(picture) and leaf.shape[-len(picture) :] == tuple(picture):
        height = leaf.ndim - len(picture)
        axes[height : height + 2] = "space", WIDTH
    if field:
        axes[1:3] = "space", WIDTH
    for index, axis in enumerate(axes):
        absent = axis is not None and axis not in mesh.shape
        if absent or (axis is not None and even and leaf.shape[index] % mesh.shape[axis]):
            axes[index] = None
    return PartitionSpec(*axes)


def share_of_process(
    count: int, *, process: int | None = None, processes: int | None = None
) -> range:
    """Returns this process's share of `count` items, as a range of their indices.

    Args:
      count: the number of items.
      process: the index of this process. None takes JAX's.
      processes: the number of processes. None takes JAX's.
    """
    process = jax.process_index() if process is None else process
    processes = jax.process_count() if processes is None else processes
    return range(process * count // processes, (process + 1) * count // processes)


def smallest_of_processes(number: int | None) -> int | None:
    """Returns the smallest number of all processes, to seven digits.

    None stands for no number. The result is None if no process has a number. All processes must
    call it.
    """
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
    """Joins the processes of a run by `jax.distributed.initialize`.

    Call it before any other use of JAX. Without arguments, the environment of the cluster gives
    the addresses and numbers (TPU pods, Slurm, Open MPI). A signal ends each process as it would
    end a single process.

    Args:
      coordinator_address: the address "host:port" of the first process.
      num_processes: the number of processes.
      process_id: the index of this process.
      apart: whether the processes work independently. One process may then finish long before
        another.

    Raises:
      ValueError: only some of the three are given, or none is given and no cluster gives them.
      ConnectionError: JAX is in use already, or the other processes cannot be reached.
    """
    given = (coordinator_address, num_processes, process_id)
    if given != (None, None, None):
        if coordinator_address is None or num_processes is None or process_id is None:
            raise ValueError("coordinator_address, num_processes and process_id go together")
        check_process_id(process_id, num_processes)
        if not coordinator_address.rpartition(":")[2].isdecimal():
            raise ValueError(
                f"coordinator_address must be like '10.0.0.1:8476', got {coordinator_address!r}"
            )
    # This service would catch SIGTERM, and report it only to code that asks.
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*given, shutdown_timeout_seconds=7 * 24 * 3600 if apart else 300)
    except ValueError as error:
        if coordinator_address is not None:
            raise
        raise ValueError(
            "no cluster's environment says which processes there are (TPU pods, Slurm, Open MPI): "
            "give coordinator_address, num_processes and process_id"
        ) from error
    except RuntimeError as error:
        raise ConnectionError(f"the processes could not be joined: {error}") from error


def check_process_id(process_id: int, num_processes: int) -> None:
    """Refuses an index that no process has.

    Raises:
      ValueError: `process_id` is not from 0 to `num_processes - 1`, or `num_processes` is below 1.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must be from 0 to {num_processes - 1}, got {process_id}")
