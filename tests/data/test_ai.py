"""The AI that somebody already has."""

import jax
import numpy as np
import pytest
from cases.annotated import random_data
from flax import nnx
from numpyro import handlers

from pl2d_ppl import MLP
from pl2d_ppl.data import read_data, write_data
from pl2d_ppl.data.ai import with_ai_features
from pl2d_ppl.models.prob_l2d import prob_l2d


def predicted(num_items=12):
    data = random_data(num_items)
    ai = np.random.default_rng(0).dirichlet(np.ones(3), num_items).astype(np.float32)
    ai[0] = 0
    return data.replace(ai=ai)


def test_the_classifier_says_what_the_ai_said():
    data = predicted()
    whole, classifier = with_ai_features(data)
    said = np.asarray(jax.nn.softmax(classifier(whole.x), -1))
    np.testing.assert_allclose(said[1:], data.ai[1:], atol=1e-5)
    np.testing.assert_allclose(said[0], 1 / 3, atol=1e-6)
    np.testing.assert_array_equal(whole.x[:, :2], data.x)


def test_a_program_defers_with_it():
    data = predicted()
    whole, classifier = with_ai_features(data)
    gate, experts = MLP(5, (4,), 3, rngs=nnx.Rngs(0)), MLP(5, (4,), (2, 3), rngs=nnx.Rngs(1))
    program = handlers.seed(prob_l2d, jax.random.key(0))
    found = handlers.trace(program).get_trace(**whole.batch(), gating=gate, experts=experts, classifier=classifier)
    logits = found["ai_logits"]["value"]
    np.testing.assert_allclose(jax.nn.softmax(logits, -1)[1:], data.ai[1:], atol=1e-5)


@pytest.mark.parametrize("ending", [".npz", ".nc"])
def test_predictions_are_kept(tmp_path, ending):
    data = predicted()
    write_data(tmp_path / f"d{ending}", data)
    np.testing.assert_array_equal(read_data(tmp_path / f"d{ending}")[0].ai, data.ai)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"the AI's predictions, data.ai, found none"):
        with_ai_features(random_data(4))
    with pytest.raises(ValueError, match=r"probabilities that add up to 1, or zeros, .* found .* in row 1"):
        random_data(2).replace(ai=np.array([[1.0, 0, 0], [0.5, 0.1, 0.1]]))
