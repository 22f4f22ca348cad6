"""EnumELBO against NumPyro's TraceEnum_ELBO, the evidence, and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import nnx_module, random_nnx_module
from numpyro.handlers import block, mask, seed, trace
from numpyro.infer import SVI, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from oracles.prob_l2d import prob_l2d_closed_form
from programs import ENUMERATE, given_params, mlp_model, random_batch, random_l2d, table_model, tree_allclose

from pl2d_ppl.distributions.answers import label_channel
from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.engine.marginals import log_evidence
from pl2d_ppl.engine.tilt import tilt
from pl2d_ppl.engine.workload import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import MLP

KEY = jax.random.key(3)
LOWER, UPPER = np.array([0.1, 0.0, 0.45]), np.array([0.3, 1.0, 0.5])
FAMILIES = {
    "mean_field": partial(mean_field, tolerance=0.0, max_sweeps=300),
    "exact": exact,
    "exact z": partial(exact, sites=["z"]),
}


def bounded(family):
    return lambda model: workload(family(model), "z", LOWER, UPPER, tolerance=1e-10)


def nothing(*args, **kwargs):
    """A guide that leaves all to enumeration."""


@partial(jax.jit, static_argnames=("elbo", "family", "options"))
def loss_and_gradient(params, data, elbo, family, options=()):
    """Loss of a table model and its gradient in all logits."""
    model = table_model(jnp.zeros_like(params["gating$params"]["logits"]), zero_beliefs(params), **dict(options))
    return jax.value_and_grad(lambda p: elbo.loss(KEY, p, model, family(model), *data))(params)


def zero_beliefs(params):
    ai = params["classifier$params"]["logits"]
    return jnp.zeros((ai.shape[0], params["experts$params"]["logits"].shape[1] + 1, ai.shape[1]), ai.dtype)


OURS, NUMPYRO = EnumELBO(), TraceEnum_ELBO(max_plate_nesting=2)


def case(seed=0):
    gate, beliefs, *data = random_l2d(seed, 8).arrays()
    return given_params(gate, beliefs), tuple(data)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "with_bounds"),
    [
        ("mean_field", False),
        ("exact z", True),
        pytest.param("mean_field", True, marks=SLOW),
        pytest.param("exact", True, marks=SLOW),
    ],
)
def test_loss_and_gradient_equal_those_of_numpyro(float64, family, with_bounds):
    equal_those_of_numpyro(float64, family, with_bounds)


@SLOW
def test_loss_and_gradient_in_float32(precision):
    equal_those_of_numpyro(precision, "exact", True)


def equal_those_of_numpyro(precision, family, with_bounds):
    params, data = case()
    guide = bounded(FAMILIES[family]) if with_bounds else FAMILIES[family]
    ours = loss_and_gradient(params, data, OURS, guide)
    numpyros = loss_and_gradient(params, data, NUMPYRO, guide)
    tree_allclose(ours, numpyros, rtol=precision.rtol, atol=1e-2 * precision.rtol)


@pytest.mark.parametrize("family", [pytest.param("exact", marks=SLOW), "exact z"])
def test_the_bound_of_the_exact_guide_is_the_evidence(precision, family):
    problem = random_l2d(0, 8)
    expected = sum(
        prob_l2d_closed_form(gate, beliefs, said, y, 1e-3, beliefs[-1])["log_evidence"]
        for gate, beliefs, said, y in zip(
            problem.gate_probs, problem.belief_probs, problem.said, problem.y, strict=True
        )
    )
    loss, _ = loss_and_gradient(*case(), OURS, FAMILIES[family])
    np.testing.assert_allclose(-loss, expected, rtol=precision.rtol)


@pytest.mark.parametrize(
    "family", ["mean_field", pytest.param("exact", marks=SLOW), pytest.param("exact z", marks=SLOW)]
)
@pytest.mark.parametrize("through_gate", [pytest.param(False, marks=SLOW), True])
def test_gradient_equals_finite_differences(float64, family, through_gate):
    """At the optimal q the gradient at fixed q is that of the loss."""
    params, data = case(1)
    options = (("gate_trains_classifier", through_gate),)
    run = partial(loss_and_gradient, data=data, elbo=OURS, family=FAMILIES[family], options=options)
    rng = np.random.default_rng(0)
    step = jax.tree.map(lambda a: rng.standard_normal(a.shape), params)
    if not through_gate:
        step["classifier$params"]["logits"] *= 0.0  # a stopped gradient is not that of the loss
    ahead, behind = (jax.tree.map(lambda a, s, h=h: a + h * s, params, step) for h in (1e-5, -1e-5))
    slope = (run(ahead)[0] - run(behind)[0]) / 2e-5
    gradient = run(params)[1]
    inner = sum(jnp.vdot(g, s) for g, s in zip(jax.tree.leaves(gradient), jax.tree.leaves(step), strict=True))
    np.testing.assert_allclose(inner, slope, rtol=1e-6)


@SLOW
def test_fishers_identity_under_a_workload(float64):
    """The gradient at fixed q~ is that of -ln sum_z p exp(-nu_z) at fixed nu."""
    params, data = case(2)
    _, gradient = loss_and_gradient(params, data, OURS, bounded(FAMILIES["exact z"]))
    model = table_model(params["gating$params"]["logits"], jnp.zeros((8, 3, 3)))
    guide = bounded(FAMILIES["exact z"])(model)

    @jax.jit
    def multipliers(params):
        with trace() as tr:
            numpyro.handlers.substitute(seed(guide, KEY), data=params)(*data)
        return tr["z_multipliers"]["value"]

    nu = multipliers(params)
    assert np.abs(nu).max() > 0.1
    tilted = tilt(model, "z", -nu)
    loss, expected = jax.jit(jax.value_and_grad(lambda p: OURS.loss(KEY, p, tilted, nothing, *data)))(params)
    tree_allclose(gradient, expected, rtol=1e-7, atol=1e-9)
    evidence = jax.jit(lambda p: log_evidence(tilted, params=p)(*data))(params)
    np.testing.assert_allclose(-loss, evidence, rtol=1e-9)


def test_gate_does_not_train_the_classifier_unless_asked(float64):
    params, data = case(3)
    y = data[-1]
    stopped = loss_and_gradient(params, data, OURS, FAMILIES["exact z"])[1]["classifier$params"]["logits"]
    y_one_hot = (y[:, None] == jnp.arange(3)) * 1.0
    probs = jax.nn.softmax(params["classifier$params"]["logits"])
    np.testing.assert_allclose(stopped, jnp.where(y[:, None] >= 0, probs - y_one_hot, 0.0), rtol=1e-9, atol=1e-12)


def test_a_masked_latent_site_gives_numpyros_bound(float64):
    def program(valid):
        with numpyro.plate("vote", 3), mask(mask=valid):
            z = numpyro.sample("z", dist.Categorical(logits=jnp.arange(2.0)), infer=dict(ENUMERATE))
            numpyro.sample("y", dist.Bernoulli(logits=jnp.array([-1.0, 2.0])[z]), obs=jnp.ones(3))

    valid = jnp.array([True, False, True])
    expected = TraceEnum_ELBO(max_plate_nesting=1).loss(KEY, {}, program, nothing, valid)
    # One latent site a vote: any of the families holds the posterior, so that the bound is the evidence.
    guides = (nothing, mean_field(program), exact(program))
    losses = jax.jit(lambda valid: [EnumELBO().loss(KEY, {}, program, guide, valid) for guide in guides])(valid)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)


@pytest.mark.parametrize("guide", [mean_field, exact])
def test_a_parent_of_a_kept_site_may_be_summed_out(float64, guide):
    prior, given_d = np.array([0.3, 0.7]), np.array([[0.2, 0.8], [0.6, 0.4]])

    def program(y):
        d = numpyro.sample("d", dist.Categorical(jnp.array(prior)), infer=dict(ENUMERATE))
        z = numpyro.sample("z", dist.Categorical(jnp.array(given_d)[d]), infer=dict(ENUMERATE))
        numpyro.sample("y", dist.Bernoulli(jnp.array([0.1, 0.7])[z]), obs=y)

    loss = jax.jit(lambda y: OURS.loss(KEY, {}, program, guide(program, ["z"]), y))(jnp.ones(()))
    np.testing.assert_allclose(-loss, np.log(prior @ given_d @ [0.1, 0.7]), rtol=1e-9)


def test_the_exact_guide_of_a_program_with_an_inner_site_first(float64):
    """Program order is not always outermost plates first: the guide's is."""

    def program(y):
        with numpyro.plate("item", 3, dim=-2):
            with numpyro.plate("expert", 2, dim=-1):
                d = numpyro.sample("d", dist.Categorical(jnp.array([0.3, 0.7])), infer=dict(ENUMERATE))
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.6])), infer=dict(ENUMERATE))
            with numpyro.plate("expert", 2, dim=-1):
                numpyro.sample("y", dist.Bernoulli(jnp.array([[0.1, 0.7], [0.8, 0.2]])[d, z]), obs=y)

    y = jnp.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    likelihood = np.array([0.3, 0.7]) @ np.array([[0.1, 0.7], [0.8, 0.2]])  # p(y = 1 | z)
    given_z = np.where(y[..., None] == 1, likelihood, 1 - likelihood).prod(1)
    loss = jax.jit(lambda y: OURS.loss(KEY, {}, program, exact(program), y))(y)
    np.testing.assert_allclose(-loss, np.log(given_z @ np.array([0.4, 0.6])).sum(), rtol=1e-9)


# --- Networks -------------------------------------------------------------------------------------


class Stateful(nnx.Module):
    """A network with BatchNorm and Dropout."""

    def __init__(self, outputs, *, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.readout = MLP(3, (4,), outputs, dropout=0.5, rngs=rngs)

    def __call__(self, x):
        return self.readout(self.norm(x))


def late_network(x, annotations, y, *, gating, experts):
    """A network that is declared behind a latent site."""
    gate_logits = numpyro.deterministic("gate_logits", nnx_module("gating", gating)(x))
    with numpyro.plate("item", len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        beliefs = numpyro.deterministic("belief_logits", nnx_module("experts", experts)(x))
        with numpyro.plate("expert", 2, dim=-1), mask(mask=z == jnp.arange(2)):
            numpyro.sample("y", dist.Categorical(logits=beliefs), obs=jnp.maximum(y, 0)[:, None])


def stateful_programs():
    nets = {
        "gating": Stateful(3, rngs=nnx.Rngs(0)),
        "experts": Stateful((2, 3), rngs=nnx.Rngs(1)),
        "classifier": Stateful(3, rngs=nnx.Rngs(2)),
    }
    model = partial(prob_l2d, **nets)

    def constant(x, annotations, y):
        with numpyro.plate("item", len(x), dim=-2):
            numpyro.sample("z", dist.Categorical(logits=jnp.zeros(3)), infer=dict(ENUMERATE))

    late_nets = {"gating": Stateful(2, rngs=nnx.Rngs(0)), "experts": nets["experts"]}
    late = partial(late_network, **late_nets)
    return {
        "mean_field": (model, mean_field(model), nets),
        "exact with workload": (model, workload(exact(model, ["z"]), "z", LOWER, UPPER), nets),
        "guide without networks": (model, constant, nets),
        "network behind a latent site": (late, mean_field(late), late_nets),
    }


@pytest.mark.parametrize(
    "name",
    [
        "mean_field",
        pytest.param("network behind a latent site", marks=SLOW),
        pytest.param("exact with workload", marks=SLOW),
        pytest.param("guide without networks", marks=SLOW),
    ],
)
def test_state_of_networks_advances_by_one_evaluation(name):
    model, guide, nets = stateful_programs()[name]
    data = random_batch(0)
    params, state, expected = {}, {}, {}
    for net_name, net in nets.items():
        graph, weights, other = nnx.split(net, nnx.Param, ...)
        params[f"{net_name}$params"] = nnx.to_pure_dict(weights)
        state[f"{net_name}$state"] = {"state": nnx.to_pure_dict(other)}
        copy = nnx.merge(graph, weights, other, copy=True)
        copy(data["x"])
        expected[f"{net_name}$state"] = {"state": nnx.to_pure_dict(nnx.split(copy, nnx.Param, ...)[2])}
    result = jax.jit(lambda p: EnumELBO().loss_with_mutable_state(KEY, p, model, guide, **data))({**params, **state})
    assert np.isfinite(result["loss"])
    assert result["mutable_state"].keys() == expected.keys()

    def raw(tree):
        is_key = lambda a: jnp.issubdtype(a.dtype, jax.dtypes.prng_key)  # noqa: E731
        return jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, tree)

    tree_allclose(raw(result["mutable_state"]), raw(expected), rtol=1e-6)


@SLOW
@pytest.mark.parametrize("family", ["mean_field", "exact z with bounds"])
def test_each_network_is_evaluated_once(family):
    hidden, num_experts, num_categories = (256, 256), 2, 3
    data = random_batch(0, 64, 128)
    model = mlp_model(128, num_experts, num_categories, hidden)
    guide = mean_field(model) if family == "mean_field" else bounded(FAMILIES["exact z"])(model)
    outputs = {"gating": 3, "experts": (2, 3), "classifier": 3}
    nets = {n: MLP(128, hidden, o, rngs=nnx.Rngs(0)) for n, o in outputs.items()}
    params = {f"{n}$params": nnx.to_pure_dict(nnx.state(net, nnx.Param)) for n, net in nets.items()}

    def cross_entropy(params):
        total = 0.0
        for n, net in nets.items():
            graph, weights = nnx.split(net)
            nnx.replace_by_pure_dict(weights, params[f"{n}$params"])
            logits = nnx.merge(graph, weights, copy=True)(data["x"])
            labels = jnp.zeros(logits.shape[:-1], int)
            total += optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
        return total

    def flops(loss):
        return jax.jit(jax.value_and_grad(loss)).lower(params).compile().cost_analysis()["flops"]

    assert flops(lambda p: EnumELBO().loss(KEY, p, model, guide, **data)) <= 1.05 * flops(cross_entropy)


# --- Rule zero, priors on weights, mini-batches ----------------------------------------------------


def bayesian_l2d(x, annotations, y, *, gating, experts, classifier, num_items=None):
    """`prob_l2d` with priors on the weights."""

    def network(name, module):
        return random_nnx_module(name, module, prior=dist.Normal(0.0, 1.0), scope_divider=".")

    gate_logits = numpyro.deterministic("gate_logits", network("gating", gating)(x))
    ai_logits = network("classifier", classifier)(x)
    expert_logits = network("experts", experts)(x)
    beliefs = numpyro.deterministic("belief_logits", jnp.concatenate([expert_logits, ai_logits[:, None]], 1))
    said = jnp.pad(annotations, ((0, 0), (0, 1)), constant_values=-1)
    with numpyro.plate("item", num_items or len(x), subsample_size=len(x), dim=-2):
        z = numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        with numpyro.plate("expert", 3, dim=-1):
            t = numpyro.sample("t", dist.Categorical(logits=beliefs), infer=dict(ENUMERATE))
            with mask(mask=said >= 0):
                recorded = dist.Categorical(logits=label_channel(3, 1e-30)[t])
                numpyro.sample("annotation", recorded, obs=jnp.maximum(said, 0))
            with mask(mask=(y >= 0)[:, None] & (z == jnp.arange(3))):
                decided = dist.Categorical(logits=label_channel(3, 1e-3)[t])
                numpyro.sample("y", decided, obs=jnp.maximum(y, 0)[:, None])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("auto", "guide"),
    [(AutoNormal, mean_field), (AutoDelta, exact)],
)
def test_priors_on_weights_with_a_guide_of_their_own(auto, guide):
    model = partial(
        bayesian_l2d,
        gating=MLP(3, (), 3, rngs=nnx.Rngs(0)),
        experts=MLP(3, (), (2, 3), rngs=nnx.Rngs(1)),
        classifier=MLP(3, (), 3, rngs=nnx.Rngs(2)),
        num_items=120,
    )
    data = random_batch(0)
    family = guide(model, continuous=auto(block(model, hide=["z", "t"])))
    svi = SVI(model, family, optax.adam(0.05), EnumELBO())
    state = svi.init(jax.random.key(0), **data)
    params = svi.get_params(state)
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda p, e=e: e.loss(KEY, p, model, family, **data)))(params)
        for e in (OURS, NUMPYRO)
    )
    if auto is AutoDelta:  # nothing is drawn: the two agree
        tree_allclose(ours, theirs, rtol=2e-4, atol=1e-3)
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in jax.tree.leaves(ours[1]))
    state, loss = jax.jit(svi.update)(state, **data)
    assert np.isfinite(loss)


@SLOW
@pytest.mark.parametrize("family", ["mean_field", "exact"])
def test_a_subsampled_plate_gives_the_same_q_and_a_scaled_bound(family):
    params, data = case(4)
    whole, _ = loss_and_gradient(params, data, OURS, FAMILIES[family])
    scaled, _ = loss_and_gradient(params, data, OURS, FAMILIES[family], options=(("num_items", 80),))
    np.testing.assert_allclose(scaled, 10 * whole, rtol=1e-5)

    @partial(jax.jit, static_argnums=0)
    def q(num_items):
        model = table_model(
            params["gating$params"]["logits"],
            jnp.concatenate([params["experts$params"]["logits"], params["classifier$params"]["logits"][:, None]], 1),
            num_items=num_items,
        )
        with trace() as tr:
            seed(FAMILIES[family](model, sites=["z"]), KEY)(*data)
        return jax.nn.softmax(tr["z"]["fn"].logits)

    np.testing.assert_allclose(q(None), q(80), rtol=1e-5, atol=1e-7)


# --- Messages -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program():
    params, data = case(5)
    beliefs = jnp.concatenate(
        [params["experts$params"]["logits"], params["classifier$params"]["logits"][:, None]], axis=1
    )
    return table_model(params["gating$params"]["logits"], beliefs), data


def test_a_continuous_site_needs_a_guide(program):
    model, data = program

    def with_weight(*args):
        numpyro.sample("w", dist.Normal())
        model(*args)

    with pytest.raises(ValueError, match=r"found 'w' ~ Normal without a value.*continuous=normal"):
        OURS.loss(KEY, {}, with_weight, mean_field(with_weight), *data)
    with pytest.raises(ValueError, match=r"continuous latent sites \['w'\].*continuous=normal"):
        OURS.loss(KEY, {}, with_weight, nothing, *data)


@pytest.mark.parametrize("guide", [mean_field, exact])
def test_a_name_that_the_program_does_not_have(program, guide):
    model, data = program
    with pytest.raises(ValueError, match=r"latent sites of the program, \['t', 'z'\], found \['zz'\]"):
        OURS.loss(KEY, {}, model, guide(model, ["zz"]), *data)


def test_a_site_of_the_guide_that_the_model_does_not_have(program):
    model, data = program

    def guide(*args):
        numpyro.sample("who", dist.Categorical(jnp.ones(2) / 2), infer=dict(ENUMERATE))

    with pytest.raises(ValueError, match=r"latent site of the model, \['t', 'z'\], found \['who'\]"):
        OURS.loss(KEY, {}, model, guide, *data)


def test_a_site_of_the_guide_that_is_drawn(program):
    model, data = program

    def guide(*args):
        with numpyro.plate("item", 8, dim=-2):
            numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))

    with pytest.raises(ValueError, match="'z' to be enumerated or reparametrised"):
        OURS.loss(KEY, {}, model, guide, *data)


@SLOW
def test_a_deep_plate(program):
    model, data = program

    def deep(*args):
        with numpyro.plate("deep", 2, dim=-9):
            numpyro.sample("o", dist.Normal(), obs=jnp.zeros((2, *[1] * 8)))
        model(*args)

    shallow, alone = log_evidence(model)(*data), dist.Normal().log_prob(0.0)
    np.testing.assert_allclose(log_evidence(deep)(*data), shallow + 2 * alone, rtol=1e-6)
    for guide in (exact(deep), nothing):
        np.testing.assert_allclose(-OURS.loss(KEY, {}, deep, guide, *data), shallow + 2 * alone, rtol=1e-6)


def test_a_scan_is_refused(program):
    model, data = program

    def scanned(*args):
        model(*args)
        scan(lambda c, _: (c, numpyro.sample("s", dist.Bernoulli(0.5), infer=dict(ENUMERATE))), 0, None, length=3)

    for guide in (mean_field(scanned), mean_field(model), nothing):
        with pytest.raises(ValueError, match="without control flow, found a scan"):
            OURS.loss(KEY, {}, scanned, guide, *data)
    with pytest.raises(ValueError, match="without control flow, found a scan"):
        log_evidence(scanned)(*data)
