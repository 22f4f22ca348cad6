"""Cost of inference: E-steps against the same written by hand, whole steps, growth, and the first fit of a process.

Prints four tables:

1. the E-step with its workload projection, for given outputs of the networks, against by_hand.py and against the update
   that paper A released; z alone, and with t kept. Both are checked to give the same posterior before they are timed;
2. a whole step of SVI against plain cross-entropy of the same networks, in time and FLOPs;
3. growth of a step with the number of experts;
4. the first fit of a fresh process: seconds, calls of the model, and compilations, then of fits that follow it.

Times are medians over interleaved calls, so that ratios hold on a busy machine.

    python benchmarks/step_cost.py [--quick]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import SVI

from pl2d_ppl import EnumELBO, fit, workload
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.mean_field import mean_field
from pl2d_ppl.models.prob_l2d import prob_l2d
from pl2d_ppl.networks import MLP, ConvNet, Ensemble

BATCH = 128
SETTLED = 400  # sweeps until mean field no longer moves
ALIKE = 1e-4  # largest difference of a probability between ours and the same by hand
GUIDES = {"exact": lambda model: exact(model, ["z"]), "mean field": mean_field, "exact with t": exact}


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


def linear(num_experts: int, num_categories: int) -> dict[str, Callable]:
    """A linear map for everybody, so that the time is that of inference, not of networks."""
    return {
        "gating": partial(MLP, 128, (), num_experts + 1),
        "experts": partial(MLP, 128, (), (num_experts, num_categories)),
        "classifier": partial(MLP, 128, (), num_categories),
    }


def bounds(num_experts: int) -> tuple[jax.Array, jax.Array]:
    """Everybody free, the AI at 40 %."""
    return jnp.append(jnp.zeros(num_experts), 0.4), jnp.append(jnp.ones(num_experts), 0.4)


class EStep:
    """The E-step of one size, by the library and by hand, at the same outputs of networks."""

    def __init__(self, num_experts: int, num_categories: int):
        self.batch = problem((128,), num_experts, num_categories)
        self.bounds = bounds(num_experts)
        model = partial(prob_l2d, **linear(num_experts, num_categories))
        sites = trace(seed(model, 0)).get_trace(**self.batch)
        params = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
        self.outputs = {n: 3 * sites[n]["value"] for n in ("gate_logits", "ai_logits", "belief_logits")}
        self.model = lambda outputs: substitute(model, data={**params, **outputs})
        self.drawn = jnp.asarray(np.random.default_rng(1).integers(0, num_experts + 1, (BATCH, 1)))
        self.sweeps = by_hand.num_sweeps(self.outputs, self.batch)

    def ours(self, build: Callable, *names: str) -> Callable:
        """The guide's log-probabilities at these sites; those of t, where it depends on z, for a z that was drawn."""

        def run(outputs, batch):
            guide = workload(build(self.model(outputs)), "z", *self.bounds)
            sites = trace(seed(substitute(guide, data={"z": self.drawn}), 0)).get_trace(**batch)
            return [sites[name]["fn"].logits for name in names]

        return partial(jax.jit(run), self.outputs, self.batch)

    def by_hand(self, function: Callable, index: int | slice = slice(None)) -> Callable:
        return partial(
            jax.jit(lambda outputs, batch: function(outputs, batch, self.bounds)[index]), self.outputs, self.batch
        )

    def calls(self) -> dict[str, Callable]:
        ascent = partial(by_hand.mean_field, sweeps=self.sweeps)
        return {
            "exact": self.ours(GUIDES["exact"], "z"),
            "exact by hand": self.by_hand(by_hand.exact),
            "mean field": self.ours(mean_field, "z"),
            "mean field by hand": self.by_hand(ascent, 0),
            "released": self.by_hand(by_hand.released, 0),
            "exact with t": self.ours(exact, "z", "t"),
            "exact with t by hand": self.by_hand(by_hand.exact_with_t),
            "mean field with t": self.ours(mean_field, "z", "t"),
            "mean field with t by hand": self.by_hand(ascent),
            "released with t": self.by_hand(by_hand.released),
        }

    def check(self, calls: dict[str, Callable]) -> None:
        """Stop unless ours and by hand are the same posterior."""
        shape = BATCH, self.outputs["gate_logits"].shape[1]
        log_z, if_own, if_not = calls["exact with t by hand"]()
        chosen = (self.drawn == jnp.arange(shape[1]))[..., None]
        # Those of mean field are compared at the fixed point: the two paths there stop at different distances.
        ascent = self.ours(partial(mean_field, tolerance=1e-6, max_sweeps=SETTLED), "z", "t")
        pairs = [
            (calls["exact"]()[0], calls["exact by hand"]()),
            (calls["exact with t"]()[0], log_z),
            (calls["exact with t"]()[1], jnp.where(chosen, if_own, if_not)),
            *zip(ascent(), self.by_hand(partial(by_hand.mean_field, sweeps=SETTLED))(), strict=True),
        ]
        for ours, hand in pairs:
            difference = float(jnp.max(jnp.abs(jnp.exp(ours.reshape(hand.shape)) - jnp.exp(hand))))
            assert difference < ALIKE, f"Ours and by hand differ by {difference:.2e}."


def e_steps(sizes: list[tuple[int, int]], repeats: int) -> None:
    print("\n1. E-step and projection, ms; released: ten sweeps of paper A's printed update, with the same projection")
    print("   M    C  family      kept  sweeps    ours by hand released  ours/hand  released/ours")
    for num_experts, num_categories in sizes:
        step = EStep(num_experts, num_categories)
        calls = step.calls()
        step.check(calls)
        ms = timed(calls, repeats)
        for name in ("exact", "mean field", "exact with t", "mean field with t"):
            family, _, _ = name.partition(" with t")
            kept = "z" if name == family else "z, t"
            released = ms[name.replace(family, "released")]
            print(
                f"{num_experts:>4}{num_categories:>5}  {family:<12}{kept:<6}"
                f"{step.sweeps if family == 'mean field' else '-':>6}"
                f"{ms[name]:>8.2f}{ms[name + ' by hand']:>8.2f}{released:>9.2f}"
                f"{ms[name] / ms[name + ' by hand']:>11.2f}{released / ms[name]:>15.2f}",
                flush=True,
            )


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

    def step(self, params, rest, state, batch):
        (_, rest), gradient = jax.value_and_grad(self.loss, has_aux=True)(params, rest, batch)
        updates, state = self.optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), rest, state


def compiled_step(model: Callable, build: Callable, optimizer: optax.GradientTransformation, batch: dict):
    """One step of SVI with a workload, compiled, and its state."""
    guide = workload(build(model), "z", *bounds(batch["annotations"].shape[1]))
    svi = SVI(model, guide, optimizer, EnumELBO())
    state = svi.init(jax.random.key(0), **batch)
    return jax.jit(lambda state, batch: svi.update(state, **batch)).lower(state, batch).compile(), state


def whole_steps(kinds: list[tuple[str, int, int]], repeats: int) -> None:
    print("\n2. A whole step over cross-entropy of the same networks")
    print("net      M    C  guide         CE, ms step, ms   ratio   FLOPs")
    for kind, num_experts, num_categories in kinds:
        members, shape = networks(kind, num_experts, num_categories)
        batch = problem(shape, num_experts, num_categories)
        model, optimizer = partial(prob_l2d, **members), optax.sgd(0.01, momentum=0.9)
        plain = CrossEntropy(members, optimizer)
        step = jax.jit(plain.step).lower(plain.params, plain.rest, plain.state, batch).compile()
        calls = {"cross-entropy": partial(step, plain.params, plain.rest, plain.state, batch)}
        flops = {}
        for name, build in GUIDES.items():
            ours, state = compiled_step(model, build, optimizer, batch)
            flops[name] = ours.cost_analysis()["flops"] / step.cost_analysis()["flops"]
            calls[name] = partial(ours, state, batch)
        ms = timed(calls, repeats)
        for name in GUIDES:
            print(
                f"{kind:<6}{num_experts:>4}{num_categories:>5}  {name:<12}{ms['cross-entropy']:>8.2f}{ms[name]:>9.2f}"
                f"{ms[name] / ms['cross-entropy']:>8.2f}{flops[name]:>8.3f}",
                flush=True,
            )


def growth(experts: list[int], num_categories: int, repeats: int) -> None:
    print("\n3. Growth of a whole step with the experts; networks are linear")
    print("   M    C   exact: ms       MiB  mean field: ms  MiB")
    for num_experts in experts:
        batch = problem((128,), num_experts, num_categories)
        model = partial(prob_l2d, **linear(num_experts, num_categories))
        row = f"{num_experts:>4}{num_categories:>5}"
        for name in ("exact", "mean field"):
            step, state = compiled_step(model, GUIDES[name], optax.sgd(0.01), batch)
            ms = timed({"step": partial(step, state, batch)}, repeats)["step"]
            row += f"{ms:>12.2f}{step.memory_analysis().temp_size_in_bytes / 2**20:>10.1f}"
        print(row, flush=True)


class Counts:
    """Calls of the model and compilations of this process."""

    model_calls = 0
    compilations = 0

    @classmethod
    def listen(cls) -> None:
        """Count what XLA compiles; what JAX reads from its persistent cache does not count."""

        def on_compile(event: str, duration: float, **_) -> None:
            cls.compilations += event == "/jax/core/compile/backend_compile_duration"

        def on_hit(event: str, **_) -> None:
            cls.compilations -= event == "/jax/compilation_cache/cache_hits"

        jax.monitoring.register_event_duration_secs_listener(on_compile)
        jax.monitoring.register_event_listener(on_hit)

    @classmethod
    def of(cls, call: Callable) -> dict[str, float]:
        """Seconds, calls of the model and compilations of one call."""
        before, start = (cls.model_calls, cls.compilations), time.perf_counter()
        call()
        return {
            "seconds": time.perf_counter() - start,
            "calls": cls.model_calls - before[0],
            "compilations": cls.compilations - before[1],
        }


def counted(x, annotations=None, y=None, **networks) -> None:
    """``prob_l2d``, which counts its calls."""
    Counts.model_calls += 1
    prob_l2d(x, annotations, y, **networks)


def small_fit(name: str) -> Callable:
    """A fit of a small MLP, everything built anew."""
    members, shape = networks("mlp", 2, 10)
    model = partial(counted, **members)
    guide = workload(GUIDES[name](model), "z", *bounds(2))
    data, optimizer = problem(shape, 2, 10), optax.sgd(0.01, momentum=0.9)
    return lambda: fit(jax.random.key(0), model, guide, data, optimizer, epochs=2, batch_size=32, progress=False)


def one_process(name: str) -> None:
    """What a fresh process prints: its first fit, the same again, and an equal one built anew."""
    Counts.listen()
    first = small_fit(name)
    rows = [Counts.of(first)]
    if not jax.config.jax_compilation_cache_dir:
        rows += [Counts.of(first), Counts.of(small_fit(name))]
    print(json.dumps(rows))


def first_fits(names: list[str]) -> None:
    print("\n4. A fit of a small MLP, 2 experts, 10 categories, 2 epochs: seconds / calls of the model / compilations")
    print("guide         fresh process     same objects      built anew        fresh process, warm cache of JAX")
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            fresh(name, cache)  # fills the cache
            rows = fresh(name, None) + fresh(name, cache)
        cells = [f"{row['seconds']:.2f} / {row['calls']} / {row['compilations']}" for row in rows]
        print(f"{name:<14}" + "".join(f"{cell:<18}" for cell in cells), flush=True)


def fresh(name: str, cache: str | None) -> list[dict[str, float]]:
    """Fit in a fresh process, with JAX's persistent cache of compilations in a folder."""
    options = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, __file__, "--first-fit", name]
    run = subprocess.run(
        command, env={**os.environ, **(options if cache else {})}, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--first-fit", choices=GUIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_fit:
        return one_process(options.first_fit)
    quick = options.quick
    repeats = 10 if quick else 40
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, batch {BATCH}; medians of {repeats}")
    sizes = [(2, 100), (8, 3), (8, 100), (32, 10)]
    e_steps(sizes[:1] if quick else sizes, repeats)
    kinds = [("mlp", 2, 100), ("mlp", 8, 3), ("conv", 2, 100), ("conv", 8, 3)]
    whole_steps(kinds[:1] if quick else kinds, repeats)
    growth([2, 8] if quick else [2, 8, 32, 100], 100, repeats)
    first_fits(["exact"] if quick else list(GUIDES))


if __name__ == "__main__":
    main()
