"""Noisy handwritten digits and two simulated experts, without any file."""

import jax
import numpy as np

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.simulate.superclass import superclass_experts

__all__ = ["digits"]

NOISE = 1.0  # of the pixels, in units of their spread: the AI would defer no clean digits


def digits(rng_key: jax.Array) -> Annotated:
    """Load scikit-learn's digits with pixel noise and two experts: one is right on 0 to 4, the other on 5 to 9.

    Parameters
    ----------
    rng_key : Array
        Key for the noise and the experts.

    Returns
    -------
    Annotated
        1,797 images as vectors of 64 pixels.
    """
    from sklearn.datasets import load_digits

    noise_key, expert_key = jax.random.split(rng_key)
    loaded = load_digits()
    x = loaded.data / loaded.data.std()
    x = x + NOISE * np.asarray(jax.random.normal(noise_key, x.shape))
    y = loaded.target.astype(np.int32)
    said = superclass_experts(expert_key, y, y, 10, [range(5), range(5, 10)])
    classes = tuple(str(c) for c in range(10))
    return Annotated(x.astype(np.float32), y, said, classes=classes, annotators=("expert 0-4", "expert 5-9"))
