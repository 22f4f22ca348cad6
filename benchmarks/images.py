"""Images per second: decoded and augmented on the host, augmented on the device, and used in training.

Uses CIFAR-100 as WebP, from the folder PL2D_DATA (default ../shared/data). The host's rates are those of
`pl2d_ppl.data.ImagePipeline` with threads, or with workers after their start; the device's rates are those of
`pl2d_ppl.data.images.augmentation` alone and inside `fit`. Training waits if the host is slower.

    python benchmarks/images.py [--quick]
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pl2d_ppl import Annotated, ConvNet, fit
from pl2d_ppl.data import (
    Cutout,
    EncodedImages,
    ImagePipeline,
    Normalise,
    RandAugment,
    RandomCrop,
    RandomFlip,
    augment,
    augmented,
    read_images,
)
from pl2d_ppl.engine.guide_tools import no_guide
from pl2d_ppl.inference.compiled import compile_programs
from pl2d_ppl.models.classification import classification

BATCH = 128
KEY = jax.random.key(0)
WEAK = (RandomCrop(pad=4), RandomFlip())
HOST = {
    "decode": (Normalise(),),
    "weak: crop, flip": (*WEAK, Normalise()),
    "strong: and RandAugment, Cutout": (*WEAK, RandAugment(), Cutout(16), Normalise()),
}


def images() -> Annotated:
    folder = Path(os.environ.get("PL2D_DATA", "../shared/data"))
    paths = [folder / f"cifar100_images_{i}.npz" for i in (0, 1)]
    labels = np.concatenate([np.load(path)["label"] for path in paths]).astype(int)
    none = np.empty((len(labels), 0), int)
    return Annotated(EncodedImages.read_npz(*paths), labels, none, classes=map(str, range(100)), annotators=())


def host_rate(data: Annotated, transforms: tuple, num_workers: int, steps: int) -> tuple[float, float]:
    """Images per second, and seconds until the first batch."""
    pipeline = ImagePipeline(data, transforms, batch_size=BATCH, epochs=100, seed=0, num_workers=num_workers)
    batches = iter(pipeline)
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter() - start
    for _ in range(8):  # skip batches that were prepared meanwhile
        next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    rate = steps * BATCH / (time.perf_counter() - start)
    batches.close()
    return rate, first


def best(call: Callable, repeats: int) -> float:
    """Seconds of the fastest of several calls, after a first one."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def training_rates(x: np.ndarray, y: np.ndarray, model: Callable, repeats: int) -> tuple[float, float]:
    """Images per second of a step alone, and of `fit`, whose steps are a compiled loop."""
    data, optimizer = {"x": x, "y": y}, optax.adam(1e-3)
    batch = {name: jnp.asarray(a[:BATCH]) for name, a in data.items()}
    programs, leaves = compile_programs(model, no_guide, optimizer, False, 2)
    programs.probe(leaves, KEY, batch)
    state = programs.init(leaves, KEY, batch)
    step = jax.jit(lambda state, batch: programs._update(leaves, state, batch)[0])
    alone = BATCH / best(lambda: step(state, batch), 5 * repeats)
    run = partial(fit, KEY, model, no_guide, data, optimizer, batch_size=BATCH, progress=False)
    result, times = run(epochs=1), []
    for epoch in range(repeats):
        start = time.perf_counter()
        result = run(epochs=epoch + 2, resume=result)
        times.append(time.perf_counter() - start)
    return alone, len(x) // BATCH * BATCH / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    steps, repeats, number = (10, 1, 640) if quick else (60, 3, 5120)
    data = images().take(np.random.default_rng(0).permutation(50_000)[:number])
    print(f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}; CIFAR-100, batches of {BATCH}")
    print(f"\n{'on the host':<34}{'workers':>8}{'images/s':>10}{'first batch, s':>16}")
    for name, transforms in HOST.items():
        for workers in (0, 1, 2):
            rate, first = host_rate(data, transforms, workers, steps)
            print(f"{name:<34}{workers:>8}{rate:>10,.0f}{first:>16.2f}", flush=True)
    x = read_images(data, progress=False)
    print(f"\n{'on the device':<34}{'images/s':>18}")
    for name, settings in {"crop, flip": {}, "crop, flip, cutout": {"cutout": 16}}.items():
        call = partial(jax.jit(partial(augment, **settings)), KEY, x[:BATCH])
        print(f"{name:<34}{BATCH / best(call, 20):>18,.0f}", flush=True)
    print(f"\n{'training':<34}{'a step':>18}{'augmented':>12}{'fit':>12}{'augmented':>12}")
    x, y = x[: 4 * BATCH], data.y[: 4 * BATCH]
    for hidden in ((16, 32), (32, 64, 128)):
        model = partial(classification, classifier=partial(ConvNet, 3, hidden, 100))
        plain = training_rates(x.astype(np.float32) / 127.5 - 1, y, model, repeats)
        ours = training_rates(x, y, augmented(model, pad=4, cutout=16), repeats)
        rates = [plain[0], ours[0], plain[1], ours[1]]
        print(f"{'ConvNet ' + str(hidden):<34}{'':>6}" + "".join(f"{rate:>12,.0f}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
