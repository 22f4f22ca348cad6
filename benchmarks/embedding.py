"""Features of EfficientNet-Lite0: images per second, and quality compared with the published features.

Uses CIFAR-100 from the folder PL2D_DATA (default ../shared/data), whose features were computed elsewhere at 128 pixels:
128 principal components, whitened. Prints the rates of `pl2d_ppl.data.images.embedding`; the accuracy of a logistic
regression on its features and on the published features of the same images; and how well our features predict the
published ones linearly.

    python benchmarks/embedding.py [--quick]
"""

import argparse
import os
import time
from pathlib import Path

import jax
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pl2d_ppl.data import EncodedImages, Part, embed, read_images

FOLDER = Path(os.environ.get("PL2D_DATA", "../shared/data"))
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


def accuracy(x: np.ndarray, y: np.ndarray, train: int, components: int | None) -> float:
    """Test accuracy of a logistic regression, with its penalty chosen on a fifth of the training part."""
    steps = [StandardScaler()] if components is None else [PCA(components, whiten=True, random_state=0)]
    inner = train * 4 // 5

    def score(strength: float, fitted: slice, tested: slice) -> float:
        model = make_pipeline(*steps, LogisticRegression(C=strength, max_iter=1000))
        return model.fit(x[fitted], y[fitted]).score(x[tested], y[tested])

    chosen = max(STRENGTHS, key=lambda strength: score(strength, slice(inner), slice(inner, train)))
    return score(chosen, slice(train), slice(train, None))


def explained(x: np.ndarray, target: np.ndarray, train: int) -> tuple[float, float]:
    """Test R^2 of the target regressed on features, and the least canonical correlation with as many PCs."""
    model = Ridge(alpha=1e-2).fit(x[:train], target[:train])
    left = target[train:] - model.predict(x[train:])
    share = 1 - (left**2).sum() / ((target[train:] - target[train:].mean(0)) ** 2).sum()
    ours, theirs = (np.linalg.qr(a - a.mean(0))[0] for a in (PCA(target.shape[1]).fit_transform(x), target))
    return share, np.median(np.linalg.svd(ours.T @ theirs, compute_uv=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    train, test, timed = (1400, 300, 100) if quick else (4000, 1000, 1000)
    source = EncodedImages.read_npz(*(FOLDER / f"cifar100_images_{i}.npz" for i in (0, 1)))
    with np.load(FOLDER / "cifar100_features.npz") as file:
        published = np.concatenate([file["x_train"], file["x_test"]]).astype(np.float64)
        labels = np.concatenate([file["y_train"], file["y_test"]])
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(50_000)[:train], 50_000 + rng.permutation(10_000)[:test]])
    images, y, published = read_images(Part(source, items), progress=False), labels[items], published[items]
    print(f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}; {train:,} + {test:,} images of CIFAR-100")
    print(f"\n{'features':<22}{'images/s':>10}{'accuracy':>10}{'of 128 PCs':>12}{'R^2':>9}{'can. corr.':>12}")
    for size in (128, 224):
        embed(images[:64], size=size, progress=False)  # compiles
        start = time.perf_counter()
        embed(images[:timed], size=size, progress=False)
        rate = timed / (time.perf_counter() - start)
        x = embed(images, size=size, progress=False)
        scores = accuracy(x, y, train, None), accuracy(x, y, train, 128), *explained(x, published, train)
        print(
            f"{f'embed, {size} pixels':<22}{rate:>10.1f}" + "{:>10.3f}{:>12.3f}{:>9.4f}{:>12.4f}".format(*scores),
            flush=True,
        )
    print(f"{'published':<22}{'':>10}{'':>10}{accuracy(published, y, train, 128):>12.3f}")


if __name__ == "__main__":
    main()
