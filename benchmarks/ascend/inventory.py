"""The primitives that the Ascend lowerings and tiny models become, found on any machine.

    python -m benchmarks.ascend.inventory [--kernels ascend] [--out FILE.json]

MindSpore's front end compiles each for export (MINDIR), which infers shapes and dtypes of
primitives that only an Ascend can run. Run it in a process of its own: it sets how MindSpore parses
functions and how protocol buffers are read.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ["MS_DEV_JIT_SYNTAX_LEVEL"] = "2"  # export is strict otherwise
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"  # the wheel's reader is older
os.environ.setdefault("GLOG_v", "4")

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402

from diffedit_core import clip, folder, kernels as K, params as P, unet, vae  # noqa: E402
from diffedit_core.graphs import Graph  # noqa: E402

MICRO = Path(__file__).parents[2] / "tests" / "fixtures" / "pipeline" / "model"
X, W, B, T = (2, 64, 8, 8), (64, 64, 3, 3), (64,), (2, 9, 80)
CASES = {  # case -> (operation, shapes of the tensors, then the other arguments)
    "conv2d": ("conv2d", (X, W, B), (1, (1, 1, 1, 1))),
    "conv2d padded below": ("conv2d", (X, W, B), (2, (0, 1, 0, 1))),
    "linear": ("linear", (T, (64, 80), B), ()),
    "linear_from_picture": ("linear_from_picture", (X, (64, 64, 1, 1), B), ()),
    "linear_to_picture": ("linear_to_picture", ((2, 64, 64), (64, 64), B), (8, 8)),
    "geglu": ("geglu", (T, (640, 80), (640,), (80, 320), (80,)), ()),
    "attention": ("attention", (T, T, T), (5, False)),
    "attention of 40 channels": ("attention", (T, T, T), (2, False)),
    "attention, causal": ("attention", (T, T, T), (5, True)),
    "attention of 512 channels": ("attention", ((1, 9, 512),) * 3, (1, False)),
    "group_norm": ("group_norm", (X, B, B), (32, 1e-5)),
    "layer_norm": ("layer_norm", (T, (80,), (80,)), (1e-5,)),
    "gelu": ("gelu", (T,), ()),
    "quick_gelu": ("quick_gelu", (T,), ()),
    "silu": ("silu", (X,), ()),
    "upsample": ("upsample", (X,), ()),
    "embedding": ("embedding", ((2, 9), (7, 64)), ()),
}


def run_one(params, a, others, kernels, name):
    return K.call(kernels, name, a, *others)


def run_two(params, a, b, others, kernels, name):
    return K.call(kernels, name, a, b, *others)


def run_three(params, a, b, c, others, kernels, name):
    return K.call(kernels, name, a, b, c, *others)


def run_five(params, a, b, c, d, e, others, kernels, name):
    return K.call(kernels, name, a, b, c, d, e, *others)


RUN = {1: run_one, 2: run_two, 3: run_three, 5: run_five}  # graph mode knows the number of inputs


def zeros(shape, dtype):
    return ms.Tensor(np.zeros(shape, np.float32)).astype(P.DTYPES[dtype])


def of_operation(case, dtype, kernels="ascend"):
    """Counter of the primitives of one case."""
    name, shapes, others = CASES[case]
    tensors = [zeros(shape, dtype) for shape in shapes]
    if name == "embedding":
        tensors[0] = ms.Tensor(np.zeros(shapes[0], np.int32))
    return primitives(Graph(RUN[len(tensors)], {}, others, kernels, name), *tensors)


def of_models(dtype, kernels="ascend"):
    """{graph: Counter} of a tiny model's four graphs."""
    configs = folder.read_configs(MICRO)
    rng = np.random.default_rng(0)
    trees = {
        name: P.to_parameters(P.init(configs.specs(name), rng), dtype) for name in folder.COMPONENTS
    }
    latents = zeros((2, configs.unet.in_channels, 8, 8), dtype)
    states = zeros((2, 77, configs.unet.cross_attention_dim), dtype)
    picture = zeros((1, 3, 8 * configs.vae.factor, 8 * configs.vae.factor), dtype)
    runs = {
        "text_encoder": (clip.apply, "text_encoder", configs.text, ms.Tensor(np.zeros((1, 77), np.int32))),
        "unet": (unet.apply, "unet", configs.unet, latents, ms.Tensor(np.array([481], np.int32)), states),
        "vae_encoder": (vae.encode, "vae", configs.vae, picture),
        "vae_decoder": (vae.decode, "vae", configs.vae, latents[:1]),
    }  # fmt: skip
    return {
        name: primitives(Graph(function, trees[tree], config, kernels), *inputs)
        for name, (function, tree, config, *inputs) in runs.items()
    }


def primitives(graph, *inputs):
    """Counter of the primitives that a graph becomes in MindSpore's front end."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "graph.mindir"
        ms.export(graph, *inputs, file_name=str(file), file_format="MINDIR")
        model = reader().ModelProto()
        model.ParseFromString(file.read_bytes())
    names = {p.name: p.op_type for p in model.primitives}
    return Counter(
        names.get(node.op_type.split("::")[-1], node.op_type.split("::")[-1])
        for part in (model.graph, *model.functions)
        for node in part.node
    )


def reader():
    """The wheel's module that reads a MINDIR; importing it by its name would import all of
    `mindspore.train` first."""
    if "mind_ir_pb2" not in sys.modules:
        file = Path(ms.__file__).parent / "train" / "mind_ir_pb2.py"
        spec = importlib.util.spec_from_file_location("mind_ir_pb2", file)
        sys.modules["mind_ir_pb2"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["mind_ir_pb2"])
    return sys.modules["mind_ir_pb2"]


def inventory(kernels="ascend", dtypes=("fp32", "fp16", "bf16"), models=("bf16",)):
    """{"case, dtype": {primitive: how often}} of every lowering, and of whole tiny models."""
    found = {
        f"{case}, {dtype}": of_operation(case, dtype, kernels) for case in CASES for dtype in dtypes
    }
    for dtype in models:
        found |= {f"{name}, {dtype}": c for name, c in of_models(dtype, kernels).items()}
    return found


def lines(found, registered):
    """The inventory as text: each primitive, where it is, and whether it has an aclnn kernel."""
    places = {}
    for place, counts in found.items():
        for name in counts:
            places.setdefault(name, []).append(place)
    for name in sorted(places):
        kernel = "aclnn" if name in registered else "-"
        yield f"{name:<24} {kernel:<6} {places[name][0]} and {len(places[name]) - 1} more"


def main():
    """Print the inventory, or write it."""
    from . import registry

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", default="ascend", choices=tuple(K.LOWERINGS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = inventory(arguments.kernels)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(lines(found, registry.registered() or registry.snapshot())))


if __name__ == "__main__":
    main()
