"""People whose posterior is partially pooled, and newcomers among them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import ArrayLike, NDArray
from numpyro.handlers import block, condition, seed, substitute, trace
from numpyro.primitives import Messenger

from pl2d_ppl.checks.declared import declared_checks, declares, needs_truth
from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.checks.membership import check_membership
from pl2d_ppl.checks.names import names_of
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.guides.normal import normal
from pl2d_ppl.inference.fit import fit
from pl2d_ppl.inference.posterior import draw_continuous
from pl2d_ppl.inference.result import FitResult
from pl2d_ppl.networks import evaluation

__all__ = ["PooledPeople"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PooledPeople:
    """Posterior draws of a fit of ``pooled_l2d`` or ``crowd_l2d``, and the names of its people.

    Attributes
    ----------
    model : callable
        The program, :func:`~pl2d_ppl.models.pooled_l2d.pooled_l2d`, :func:`~pl2d_ppl.models.crowd_l2d.crowd_l2d` or an
        edit of one.
    params : mapping of str to pytree
        Parameters of its networks.
    arguments : mapping of str to pytree
        Its arguments other than items, which include ``membership`` (K, M).
    draws : mapping of str to array, shape (S, ...)
        Draws of its continuous sites.
    people : tuple of str, length M
        Names.
    site : str
        The site that has a row for every person: draws of it are (S, M, ...). People share all other sites.
    """

    model: Callable
    params: Mapping[str, Any]
    arguments: Mapping[str, Any]
    draws: Mapping[str, Array]
    people: tuple[str, ...]
    site: str = "person_decentered"

    def __repr__(self) -> str:
        return f"PooledPeople(people={len(self.people)}, draws={len(self.draws[self.site])})"

    @classmethod
    def of(
        cls,
        rng_key: Array,
        result: FitResult,
        *,
        num_samples: int = 32,
        people: Sequence[str] | None = None,
        site: str = "person_decentered",
    ) -> "PooledPeople":
        """Draw from a fit.

        Parameters
        ----------
        rng_key : Array
            A typed key.
        result : FitResult
            A fit of one run, with ``membership`` among its ``arguments``.
        num_samples : int
            Number of draws, S.
        people : sequence of str, optional
            Names; by default numbers.
        site : str
            The site that has a row for every person.

        Returns
        -------
        PooledPeople
            The people of the fit.

        Raises
        ------
        ValueError
            If the fit is a batch of runs, has no such site, or no membership among its arguments.
        """
        check_key(rng_key)
        if result.compiled.batched:
            raise ValueError("Expected a single run, found a batch of runs. Choose one by result.run(i).")
        if num_samples < 1:
            raise ValueError(f"Expected at least one draw, found num_samples={num_samples}.")
        arguments = result.compiled.call(result.leaves, {})
        _check_found("membership", arguments)
        draws = _draw_continuous(rng_key, result, num_samples)
        number = jnp.shape(arguments["membership"])[1]
        _check_site(site, draws, number)
        names = names_of(people, number, "person")
        return cls(result.model, result.params, arguments, draws, names, site)

    def values(self, name: str, x: ArrayLike) -> NDArray:
        """Return draws of a deterministic site of the program, such as ``person`` (M, 1+D), the vectors of people.

        Parameters
        ----------
        name : str
            The site.
        x : array, shape (N, ...)
            Inputs; one is enough if the site does not depend on them.

        Returns
        -------
        array, shape (S, ...)
            The draws.

        Raises
        ------
        ValueError
            If there is no such site.
        """
        try:
            return np.asarray(_evaluate(self.model, (name,), *self._given(), jnp.asarray(x))[name])
        except KeyError as error:
            raise ValueError(f"Expected a site of the program, found no {name!r} in it.") from error

    def defer(self, x: ArrayLike, *, batch_size: int = 4096) -> Deferral:
        """Find who should decide items, by the gate whose logits are means over the draws.

        Parameters
        ----------
        x : array, shape (N, ...)
            Inputs.
        batch_size : int
            Items at a time.

        Returns
        -------
        Deferral
            Deferral to these people.

        Raises
        ------
        ValueError
            If there are no items.
        """
        x = jnp.asarray(x)
        if x.ndim < 2 or not len(x):
            raise ValueError(f"Expected x of shape (N, ...) with at least one item, found {x.shape}.")
        parts = [
            _probabilities(self.model, *self._given(), x[i : i + batch_size]) for i in range(0, len(x), batch_size)
        ]
        gate, ai = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in range(2))
        return Deferral.of(gate, ai, people=self.people)

    def join(
        self,
        rng_key: Array,
        data: Mapping[str, ArrayLike],
        membership: ArrayLike,
        *,
        people: Sequence[str] | None = None,
        steps: int = 500,
        learning_rate: float = 0.1,
    ) -> "PooledPeople":
        """Add newcomers: each starts at the mean of their cluster, and moves as their annotations say.

        Sites that people share stay at their posterior mean. SVI in the program itself finds the posterior of the
        newcomers' rows, so that an edited prior of people also applies to newcomers.

        Parameters
        ----------
        rng_key : Array
            A typed key.
        data : mapping of str to array, shape (N, ...)
            ``x``, ``annotations`` (N, M') of the newcomers, -1 where missing, and ``y``, -1 where unknown, which may be
            left out for a program that infers the truth. In one that does not, newcomers who annotated nothing of
            known truth stay at the mean of their cluster.
        membership : array, shape (K, M')
            Memberships of the newcomers.
        people : sequence of str, optional
            Names; by default the next numbers.
        steps : int
            Steps of Adam on all items at once.
        learning_rate : float
            Initial learning rate, which falls along a cosine.

        Returns
        -------
        PooledPeople
            These people, then the newcomers.

        Raises
        ------
        ValueError
            If the clusters differ, names repeat, or data do not fit.
        """
        known = jnp.shape(self.arguments["membership"])
        if np.ndim(membership) != 2 or np.shape(membership)[0] != known[0]:
            raise ValueError(
                f"Expected memberships of shape ({known[0]}, M'), in the same clusters, found {np.shape(membership)}."
            )
        check_membership(membership, known[0], people=people)
        learns_from = ("x", "annotations", "y") if needs_truth(self.model) else ("x", "annotations")
        if missing := [name for name in learns_from if name not in data]:
            raise ValueError(f"Expected {', '.join(learns_from)} of newcomers, found no {', '.join(missing)}.")
        if steps < 1:
            raise ValueError(f"Expected at least one step, found steps={steps}.")
        number = np.shape(membership)[1]
        data = _with_truth(data, number) if needs_truth(self.model) else {n: np.asarray(a) for n, a in data.items()}
        names = [f"person_{i}" for i in range(known[1], known[1] + number)] if people is None else people
        everybody = (*self.people, *names_of(names, number, "person"))
        everybody = names_of(everybody, len(everybody), "person")
        # If the same key is used again, draws of newcomers must differ from those of the people before them.
        fit_key, draw_key = jax.random.split(jax.random.fold_in(rng_key, known[1]))
        shared = {name: a.mean(0) for name, a in self.draws.items() if name != self.site}
        model, guide, optimizer = _newcomers(self.model, steps, learning_rate)
        own: dict[str, Any] = {"shared": {**shared, **self.params}, "of_newcomers": jnp.asarray(membership)}
        result = fit(
            fit_key,
            model,
            guide,
            data,
            optimizer,
            epochs=steps,
            batch_size=np.shape(data["x"])[0],
            arguments={name: a for name, a in self.arguments.items() if name != "membership"} | own,
            progress=False,
        )
        num_samples = len(self.draws[self.site])
        rows = _draw_continuous(draw_key, result, num_samples)[self.site]
        memberships = jnp.concatenate([jnp.asarray(self.arguments["membership"]), own["of_newcomers"]], axis=1)
        return dataclasses.replace(
            self,
            arguments={**self.arguments, "membership": memberships},
            draws={**self.draws, self.site: jnp.concatenate([self.draws[self.site], rows], axis=1)},
            people=everybody,
        )

    def _given(self) -> tuple:
        return self.params, dict(self.draws), self.arguments


def _check_found(name: str, found: Mapping[str, Any]) -> None:
    if name not in found:
        raise ValueError(
            f"Expected a fit of pooled_l2d, with arguments={{'membership': ...}}, found no {name} in it, but "
            f"{sorted(found)}."
        )


def _check_site(name: str, draws: Mapping[str, Array], number: int) -> None:
    rows = sorted(n for n, a in draws.items() if a.ndim > 1 and a.shape[1] == number)
    if name not in rows:
        raise ValueError(
            f"Expected a site with a row for each of the {number} people, found {name!r} not to be one. Pass site=, "
            f"one of {rows or 'none'}."
        )


def _with_truth(data: Mapping[str, ArrayLike], number: int) -> dict[str, NDArray]:
    """Return the items of known truth; if there are none, one item without annotations, which has no effect."""
    arrays = {name: np.asarray(a) for name, a in data.items()}
    if (arrays["y"] >= 0).any() or arrays["annotations"].shape != (len(arrays["x"]), number):
        return arrays
    blank = {"x": np.zeros((1, *arrays["x"].shape[1:]), arrays["x"].dtype), "y": np.zeros(1, np.int32)}
    return blank | {"annotations": np.full((1, number), -1, np.int32)}


def _draw_continuous(rng_key: Array, result: FitResult, num_samples: int) -> dict[str, Array]:
    """Draw from the continuous part of a guide."""
    guide = result.guide
    while isinstance(guide, Messenger) and guide.fn is not None:
        guide = guide.fn
    continuous = getattr(guide, "continuous", None)
    if continuous is None:
        raise ValueError(
            "Expected a guide exact(model, ['z'], continuous=normal(model)), found no guide of the continuous sites to "
            "draw from."
        )
    return draw_continuous(rng_key, result, num_samples)


@lru_cache(maxsize=32)
def _newcomers(model: Callable, steps: int, learning_rate: float) -> tuple:
    """Return the program of newcomers, its guide and optimizer; the same objects for the same program."""

    @declares(*declared_checks(model))
    def newcomers(*args, shared: Mapping[str, Array], of_newcomers: Array, **kwargs) -> None:
        own = {**kwargs, "membership": of_newcomers, "num_items": None}  # a cluster may have no newcomers
        with block(hide_fn=lambda site: site["type"] in ("param", "mutable")):  # given, and not trained further
            condition(substitute(model, data=shared), data=shared)(*args, **own)

    guide = exact(newcomers, ["z"], continuous=normal(newcomers))
    return newcomers, guide, optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(
    model: Callable, names: tuple[str, ...], params: dict, draws: dict, arguments: dict, x: Array
) -> dict[str, Array]:
    """Evaluate deterministic sites under every draw; those that do not depend on draws are evaluated once."""

    def sites(draw: dict) -> dict[str, Array]:
        seeded = seed(substitute(model, data={**params, **draw}), jax.random.key(0))
        with evaluation(), block():
            tr = trace(seeded).get_trace(x=x, **arguments)
        return {name: tr[name]["value"] for name in names}

    return jax.vmap(sites)(draws)


@partial(jax.jit, static_argnums=0)
def _probabilities(model: Callable, params: dict, draws: dict, arguments: dict, x: Array) -> tuple[Array, Array]:
    # The mean of the gate's logits, which are probabilities of being right, decides. The mean of the gates would favour
    # people about whom little is known, since they are more likely to be the best in some draw.
    logits = _evaluate(model, ("gate_logits", "ai_logits"), params, draws, arguments, x)
    return jax.nn.softmax(logits["gate_logits"].mean(0), -1), jax.nn.softmax(logits["ai_logits"][0], -1)
