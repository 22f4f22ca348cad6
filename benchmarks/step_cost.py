"""Cost of a training step: the E-step, the projection, and the whole step, compared with the networks alone.

Prints three tables: E-step plus projection as a multiple of one forward-backward of the networks; a whole step as a
multiple of the same networks' plain cross-entropy step, in time and FLOPs; growth with experts M and categories C.
Times are medians over interleaved calls, so that ratios hold on a busy machine.

    python benchmarks/step_cost.py [--quick]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpyro.handlers import seed, substitute, trace

from pl2d_ppl.engine.workload import workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.inference.compiled import compile_programs
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import MLP, ConvNet, Ensemble

BATCH = 128
GUIDES = {"exact": lambda model: exact(model, ["z"]), "mean field": mean_field}


def timed(calls: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median milliseconds of several calls, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(t) for name, t in times.items()}


def problem(shape: tuple[int, ...], num_experts: int, num_categories: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        "x": jnp.asarray(rng.normal(size=(BATCH, *shape)), jnp.float32),
        "annotations": jnp.asarray(rng.integers(-1, num_categories, (BATCH, num_experts)), jnp.int32),
        "y": jnp.asarray(rng.integers(0, num_categories, BATCH), jnp.int32),
    }


def networks(kind: str, num_experts: int, num_categories: int) -> tuple[dict[str, Callable], tuple[int, ...]]:
    """Network factories, and the shape of an item."""
    if kind == "conv":
        make, shape = partial(ConvNet, 3, (16, 32)), (16, 16, 3)
    else:
        make, shape = partial(MLP, 128, (128, 128)), (128,)
    members = {
        "gating": partial(make, num_experts + 1),
        "experts": partial(Ensemble, partial(make, num_categories), num_experts),
        "classifier": partial(make, num_categories),
    }
    return members, shape


class CrossEntropy:
    """The same networks under plain cross-entropy, without this library."""

    def __init__(self, members: dict[str, Callable], optimizer: optax.GradientTransformation):
        built = {name: make(rngs=nnx.Rngs(0)) for name, make in members.items()}
        self.graph, self.params, self.rest = nnx.split(built, nnx.Param, ...)
        self.optimizer, self.state = optimizer, optimizer.init(self.params)

    def loss(self, params, rest, batch):
        nets = nnx.merge(self.graph, params, rest, copy=True)
        gate, experts, ai = (nets[name](batch["x"]) for name in ("gating", "experts", "classifier"))
        entropy = optax.softmax_cross_entropy_with_integer_labels
        total = entropy(gate, batch["y"] % gate.shape[-1]).mean() + entropy(ai, batch["y"]).mean()
        total += entropy(experts, jnp.maximum(batch["annotations"], 0)).mean()
        return total, nnx.split(nets, nnx.Param, ...)[2]

    def gradient(self, params, rest, batch):
        return jax.value_and_grad(self.loss, has_aux=True)(params, rest, batch)

    def step(self, params, rest, state, batch):
        (_, rest), gradient = self.gradient(params, rest, batch)
        updates, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), rest, state


def compiled_step(model: Callable, guide: Callable, optimizer: optax.GradientTransformation, batch: dict):
    """One step of `fit`, compiled, and the state to call it with."""
    programs, leaves = compile_programs(model, guide, optimizer, False, 2)
    programs.probe(leaves, jax.random.key(0), batch)
    state = programs.init(leaves, jax.random.key(0), batch)
    step = jax.jit(lambda state, batch: programs._update(leaves, state, batch)[0]).lower(state, batch).compile()
    return step, state, programs.params(state)


def bounds(num_experts: int) -> tuple[np.ndarray, np.ndarray]:
    return np.append(np.zeros(num_experts), 0.4), np.append(np.ones(num_experts), 0.4)


def e_step(model: Callable, build: Callable, params: dict, batch: dict) -> Callable:
    """The guide with given network outputs: only the E-step and the projection."""
    sites = trace(seed(substitute(model, data=params), 0)).get_trace(**batch)
    outputs = {name: sites[name]["value"] for name in ("gate_logits", "ai_logits", "belief_logits")}
    num_experts = batch["annotations"].shape[1]

    def run(outputs, batch):
        guide = workload(build(substitute(model, data={**params, **outputs})), "z", *bounds(num_experts))
        tr = trace(seed(guide, 0)).get_trace(**batch)
        return [s["fn"].logits for s in tr.values() if s["type"] == "sample"]

    return partial(jax.jit(run), outputs, batch)


def costs(kind: str, num_experts: int, num_categories: int, repeats: int) -> None:
    members, shape = networks(kind, num_experts, num_categories)
    batch = problem(shape, num_experts, num_categories)
    model = partial(prob_l2d, **members)
    optimizer = optax.sgd(0.01, momentum=0.9)
    plain = CrossEntropy(members, optimizer)
    gradient = jax.jit(plain.gradient)
    step = jax.jit(plain.step).lower(plain.params, plain.rest, plain.state, batch).compile()
    calls = {
        "networks": lambda: gradient(plain.params, plain.rest, batch),
        "cross-entropy": lambda: step(plain.params, plain.rest, plain.state, batch),
    }
    flops = {}
    for name, build in GUIDES.items():
        ours, state, params = compiled_step(model, workload(build(model), "z", *bounds(num_experts)), optimizer, batch)
        flops[name] = ours.cost_analysis()["flops"] / step.cost_analysis()["flops"]
        calls[f"{name} step"] = partial(ours, state, batch)
        calls[f"{name} e-step"] = e_step(model, build, params, batch)
    ms = timed(calls, repeats)
    for name in GUIDES:
        print(
            f"{kind:<6}{num_experts:>4}{num_categories:>5}  {name:<11}"
            f"{ms['networks']:>9.2f}{ms[name + ' e-step']:>9.2f}{ms[name + ' e-step'] / ms['networks']:>8.2f}"
            f"{ms['cross-entropy']:>9.2f}{ms[name + ' step']:>9.2f}{ms[name + ' step'] / ms['cross-entropy']:>8.2f}"
            f"{flops[name]:>8.3f}",
            flush=True,
        )


def growth(pairs: list[tuple[int, int]], repeats: int) -> None:
    for num_experts, num_categories in pairs:
        batch = problem((128,), num_experts, num_categories)
        # A linear map for everybody, so that the time is that of inference, not of networks.
        model = partial(
            prob_l2d,
            gating=partial(MLP, 128, (), num_experts + 1),
            experts=partial(MLP, 128, (), (num_experts, num_categories)),
            classifier=partial(MLP, 128, (), num_categories),
        )
        row = f"{num_experts:>4}{num_categories:>5}"
        for build in GUIDES.values():
            guide = workload(build(model), "z", *bounds(num_experts))
            step, state, _ = compiled_step(model, guide, optax.sgd(0.01), batch)
            ms = timed({"step": partial(step, state, batch)}, repeats)["step"]
            row += f"{ms:>12.2f}{step.memory_analysis().temp_size_in_bytes / 2**20:>10.1f}"
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    repeats = 5 if quick else 40
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, batch {BATCH}; times in ms, medians of {repeats}")
    print("\nnet      M    C  guide        fwd-bwd   E+proj   ratio  CE step     step   ratio   FLOPs")
    for kind, num_experts, num_categories in [("conv", 2, 100), ("conv", 8, 3), ("mlp", 2, 100), ("mlp", 8, 3)]:
        if not (quick and kind == "conv"):
            costs(kind, num_experts, num_categories, repeats)
    print("\n   M    C  exact: ms       MiB  mean field: ms  MiB")
    pairs = [(2, 10), (8, 10), (32, 10), (100, 10), (2, 2), (2, 100), (32, 100), (100, 100)]
    growth(pairs[:3] if quick else pairs, repeats)


if __name__ == "__main__":
    main()
