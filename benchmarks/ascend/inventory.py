"""The primitives that the Ascend lowerings and tiny models become, found on any machine.

    python -m benchmarks.ascend.inventory [--kernels ascend] [--out FILE.json]

MindSpore's front end compiles each for export (MINDIR), which infers shapes and dtypes of
primitives that only an Ascend can run. It needs a process of its own, as it sets how MindSpore
parses functions and how protocol buffers are read: other programs call `show`.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    os.environ["MS_DEV_JIT_SYNTAX_LEVEL"] = "2"  # export is strict otherwise
    os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"  # the wheel's reader is older
    os.environ.setdefault("GLOG_v", "4")

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402

from diffedit_core import clip, kernels as K, params as P, unet, vae  # noqa: E402
from diffedit_core.config import TextConfig, UNetConfig, VAEConfig  # noqa: E402
from diffedit_core.graphs import Graph  # noqa: E402

from . import registry  # noqa: E402

ROOT = Path(__file__).parents[2]
PICTURE, TOKENS, CHANNELS = (2, 64, 8, 8), (2, 9, 80), (64,)
CASES = (  # operation, shapes of the tensors, then the other arguments
    ("conv2d", (PICTURE, (64, 64, 3, 3), CHANNELS), (1, (1, 1, 1, 1))),
    ("conv2d", (PICTURE, (64, 64, 3, 3), CHANNELS), (2, (0, 1, 0, 1))),
    ("linear", (TOKENS, (64, 80), CHANNELS), ()),
    ("linear_from_picture", (PICTURE, (64, 64, 1, 1), CHANNELS), ()),
    ("linear_to_picture", ((2, 64, 64), (64, 64), CHANNELS), (8, 8)),
    ("geglu", (TOKENS, (640, 80), (640,), (80, 320), (80,)), ()),
    ("attention", (TOKENS, TOKENS, TOKENS), (5, False)),
    ("attention", (TOKENS, TOKENS, TOKENS), (2, False)),  # heads of 40 channels
    ("attention", (TOKENS, TOKENS, TOKENS), (5, True)),
    ("attention", ((1, 9, 512),) * 3, (1, False)),
    ("group_norm", (PICTURE, CHANNELS, CHANNELS), (32, 1e-5)),
    ("layer_norm", (TOKENS, (80,), (80,)), (1e-5,)),
    ("gelu", (TOKENS,), ()),
    ("quick_gelu", (TOKENS,), ()),
    ("silu", (PICTURE,), ()),
    ("upsample", (PICTURE,), ()),
    ("embedding", ((2, 9), (7, 64)), ()),
)

# Every kind of block once; heads of 40 and 80 channels, as SD 1.x has them.
UNET = UNetConfig(
    block_out_channels=(80, 160),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    attention_head_dim=2,
    cross_attention_dim=64,
    norm_num_groups=16,
)
AUTOENCODER = VAEConfig(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=16)
TEXT = TextConfig(
    vocab_size=99, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2
)


def zeros(shape, dtype):
    """A tensor of zeros; "int32" or a name of `params.DTYPES`."""
    kind = ms.int32 if dtype == "int32" else P.DTYPES[dtype]
    return ms.Tensor(np.zeros(shape, np.int32 if dtype == "int32" else np.float32)).astype(kind)


def leaves(dtype):
    """The tensors of `CASES` as a tree of parameters."""
    tree = {}
    for i, (name, shapes, _) in enumerate(CASES):
        kinds = ["int32" if name == "embedding" and j == 0 else dtype for j in range(len(shapes))]
        tree[f"case{i}"] = {
            f"a{j}": ms.Parameter(zeros(shape, kind), name=f"case{i}.a{j}")
            for j, (shape, kind) in enumerate(zip(shapes, kinds))
        }
    return tree


def every_lowering(params, names, counts, settings, kernels):
    """All cases in one graph."""
    results = ()
    for i in range(len(names)):
        arrays = ()
        for j in range(counts[i]):
            arrays = arrays + (params["case" + str(i)]["a" + str(j)],)
        results = results + (K.call(kernels, names[i], *arrays, *settings[i]),)
    return results


def of_lowerings(dtype, kernels):
    """Counter of the primitives of all cases."""
    names, shapes, settings = zip(*CASES)
    counts = tuple(map(len, shapes))
    return primitives(Graph(every_lowering, leaves(dtype), names, counts, settings, kernels))


def of_models(dtype, kernels):
    """{graph: Counter} of the four graphs of a tiny model."""
    rng = np.random.default_rng(0)
    latents, picture = zeros((2, 4, 8, 8), dtype), zeros((1, 3, 16, 16), dtype)
    states = zeros((2, 77, UNET.cross_attention_dim), dtype)
    runs = {
        "text encoder": (clip.apply, clip.specs, TEXT, (zeros((1, 77), "int32"),)),
        "UNet": (unet.apply, unet.specs, UNET, (latents, ms.Tensor([481]), states)),
        "VAE's encoder": (vae.encode, vae.specs, AUTOENCODER, (picture,)),
        "VAE's decoder": (vae.decode, vae.specs, AUTOENCODER, (latents[:1],)),
    }
    return {
        name: primitives(
            Graph(function, P.to_parameters(P.init(specs(config), rng), dtype), config, kernels),
            *inputs,
        )
        for name, (function, specs, config, inputs) in runs.items()
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
    """{place: {primitive: how often}} of every lowering in each dtype, and of whole tiny models."""
    found = {f"lowerings, {dtype}": of_lowerings(dtype, kernels) for dtype in dtypes}
    for dtype in models:
        found |= {f"{name}, {dtype}": c for name, c in of_models(dtype, kernels).items()}
    return found


def lines(found):
    """The inventory as text: each primitive, what computes it, how often it is where."""
    names = registry.registered() or registry.snapshot()
    for name in sorted({name for counts in found.values() for name in counts}):
        kernel = "aclnn" if name in names else registry.EXCUSED.get(name, "NOTHING KNOWN")
        places = "; ".join(f"{place} {c[name]}" for place, c in found.items() if name in c)
        yield f"{name:<20} {kernel}\n{'':<20} {places}"


def run(*arguments):
    """This file in a process of its own: a `CompletedProcess` with text."""
    command = [sys.executable, "-m", "benchmarks.ascend.inventory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def show(kernels="ascend"):
    """Print the inventory of a table of kernels; returns the exit code."""
    done = run("--kernels", kernels)
    print(done.stdout if done.returncode == 0 else done.stderr, end="")
    return done.returncode


def main():
    """Print the inventory, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", default="ascend", choices=tuple(K.LOWERINGS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = inventory(arguments.kernels)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
