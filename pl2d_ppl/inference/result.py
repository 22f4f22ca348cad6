"""Results of a fit: parameters, history and predictions."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer.svi import SVIState

from pl2d_ppl.checks.keys import check_key
from pl2d_ppl.inference.checkpoint import write_checkpoint
from pl2d_ppl.inference.compiled import CompiledFit

__all__ = ["FitResult", "Prediction"]

LOSSES = ("loss", "validation_loss")
DRAWS = 100  # of continuous latent sites, for predictions

Status = Literal["started", "completed", "stopped_early", "interrupted"]


class Prediction(NamedTuple):
    """Predictions; for a batch of runs, every array has a leading axis of runs.

    ``Deferral.of(*prediction)`` finds who decides on a day, among the people present and within bounds.

    Attributes
    ----------
    gate : array, shape (N, M+1)
        Probability that each expert, or the AI (last), should decide.
    ai : array, shape (N, C)
        The AI's probabilities of the categories.
    """

    gate: np.ndarray
    ai: np.ndarray

    @property
    def decision(self) -> np.ndarray:
        """Decision-makers without bounds: the argmax of the gate, M for the AI, shape (N,)."""
        return self.gate.argmax(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """A fit of a model and a guide; for a batch of runs, every array has a leading axis of runs.

    Attributes
    ----------
    compiled : CompiledFit
        The compiled programs.
    leaves : tuple of Array
        Traced leaves of the guide, such as bounds.
    state : SVIState
        State of NumPyro's SVI after the last epoch, from which a fit continues.
    best_state : SVIState
        State at the lowest validation loss, or the last state without validation; ``params`` and predictions use it.
    best_loss : array, shape ()
        The lowest validation loss.
    stale : array of int, shape ()
        Number of epochs since the lowest validation loss.
    epoch : int
        Number of epochs completed.
    history : dict of str to array, shape (epochs, ...)
        ``loss``, the negative ELBO per item; ``validation_loss``; and values that the guide records, such as
        ``z_multipliers``, ``z_mean`` and ``z_violation`` of a workload. All are means over the steps of an epoch.
    status : {"started", "completed", "stopped_early", "interrupted"}
        How the fit ended.
    example : dict of str to jax.ShapeDtypeStruct
        Shapes of a mini-batch.
    """

    compiled: CompiledFit
    leaves: tuple[Array, ...]
    state: SVIState
    best_state: SVIState
    best_loss: np.ndarray
    stale: np.ndarray
    epoch: int
    history: dict[str, np.ndarray]
    status: Status
    example: dict[str, jax.ShapeDtypeStruct]

    @classmethod
    def start(
        cls, compiled: CompiledFit, leaves: tuple[Array, ...], state: SVIState, batch: Mapping[str, Array]
    ) -> "FitResult":
        """Return a fit before its first epoch."""
        shape = state.rng_key.shape
        example = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in batch.items()}
        return cls(
            compiled,
            leaves,
            state,
            state,
            np.full(shape, np.inf),
            np.zeros(shape, int),
            0,
            {},
            "started",
            example,
        )

    def __repr__(self) -> str:
        """Tell how the fit went; its parameters would be pages of numbers."""
        runs = f", runs={np.shape(self.best_loss)}" if np.ndim(self.best_loss) else ""
        losses = {
            name: np.asarray(self.history[name][-1], float).round(4)
            for name in LOSSES
            if len(self.history.get(name, ()))
        }
        told = "".join(f", {name}={value}" for name, value in losses.items())
        return f"FitResult(status={self.status!r}, epoch={self.epoch}{runs}{told})"

    def replace(self, **changes: Any) -> "FitResult":
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def after_epoch(self, state: SVIState, record: Mapping[str, np.ndarray]) -> "FitResult":
        """Return the fit after one more epoch: keep the best state by validation loss, separately for each run."""
        history = {n: np.concatenate([self.history.get(n, v[None][:0]), v[None]]) for n, v in record.items()}
        best_state, best_loss, stale = state, self.best_loss, self.stale
        if "validation_loss" in record:
            loss = record["validation_loss"]
            better = loss < self.best_loss
            best_state = jax.tree.map(lambda new, old: _select(better, new, old), state, self.best_state)
            best_loss, stale = np.where(better, loss, self.best_loss), np.where(better, 0, self.stale + 1)
        return self.replace(
            state=state,
            best_state=best_state,
            best_loss=best_loss,
            stale=stale,
            epoch=self.epoch + 1,
            history=history,
        )

    @property
    def params(self) -> dict[str, Any]:
        """Parameters and mutable state by site name, for ``Predictive(..., params=result.params)``."""
        return self.compiled.params(self.best_state)

    @property
    def model(self) -> Callable:
        """The model."""
        return self.compiled.model

    @property
    def guide(self) -> Callable:
        """The guide; for a batch of runs, one guide for all, with bounds that are PerRun where runs differ."""
        return self.compiled.programs(self.leaves)[0]

    def run(self, index: int) -> "FitResult":
        """Return one run of a batch."""
        if not self.compiled.batched:
            raise ValueError("Expected a batch of runs to choose from, found a single run.")
        compiled, leaves = self.compiled.single(self.leaves, index)
        take = lambda tree: jax.tree.map(lambda a: a[index], tree)  # noqa: E731
        return self.replace(
            compiled=compiled,
            leaves=leaves,
            state=take(self.state),
            best_state=take(self.best_state),
            best_loss=self.best_loss[index],
            stale=self.stale[index],
            history={n: v[:, index] for n, v in self.history.items()},
        )

    def outputs(
        self, x: Any, *, batch_size: int = 4096, rng_key: Array | None = None, num_samples: int | None = None
    ) -> dict[str, np.ndarray]:
        """Return outputs of the trained networks: the deterministic sites, with networks in evaluation mode.

        Parameters
        ----------
        x : array, shape (N, ...)
            Inputs.
        batch_size : int
            Items at a time.
        rng_key : Array, optional
            Needed where outputs depend on continuous latent sites, such as network weights that have a posterior. The
            outputs of every draw are kept.
        num_samples : int, optional
            Number of draws: by default 100 where outputs depend on draws, else 1. Where they do not, all are equal.

        Returns
        -------
        dict of str to array, shape (draws, N, ...) or (R, draws, N, ...)
            Outputs such as ``gate_logits``, ``ai_logits``, ``belief_logits``.

        Raises
        ------
        ValueError
            If x is not of the form that the networks were trained on, or outputs depend on draws and there is no key.
        """
        draws = list(self._draws(x, None, rng_key, num_samples, batch_size))
        repeated = draws * (num_samples or 1) if len(draws) == 1 else draws
        axis = 1 if self.compiled.batched else 0
        return {name: np.stack([d[name] for d in repeated], axis) for name in draws[0]}

    def _draws(
        self, x: Any, names: Sequence[str] | None, rng_key: Array | None, num_samples: int | None, batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Evaluate the networks once for each draw, or once if the outputs of these names depend on no draws."""
        x = self._check_inputs(x)
        for name, number in {"num_samples": num_samples, "batch_size": batch_size}.items():
            if number is not None and number < 1:
                raise ValueError(f"Expected at least one as {name}, found {number}.")
        drawn = self.compiled.drawn_outputs(self.leaves, self.best_state, x)
        drawn = drawn if names is None else drawn & set(names)
        if not drawn:
            yield self._draw(x, jax.random.key(0), batch_size)
            return
        if rng_key is None:
            raise ValueError(
                f"Expected an rng_key, since {', '.join(sorted(drawn))} depend on latent sites that are drawn, such as "
                f"network weights with a prior, found none. Pass rng_key=jax.random.key(0), and num_samples for other "
                f"than {DRAWS} draws."
            )
        check_key(rng_key)
        for key in jax.random.split(rng_key, num_samples or DRAWS):
            yield self._draw(x, key, batch_size)

    def _draw(self, x: Array, key: Array, batch_size: int) -> dict[str, np.ndarray]:
        axis = 1 if self.compiled.batched else 0
        chunks = [
            self.compiled.outputs(self.leaves, self.best_state, key, {"x": x[i : i + batch_size]})
            for i in range(0, len(x), batch_size)
        ]
        per_item = {n for n, a in chunks[0].items() if a.ndim > axis and a.shape[axis] == len(x[:batch_size])}
        return {n: np.concatenate([np.asarray(c[n]) for c in chunks], axis) for n in per_item}

    def predict(
        self, x: Any, *, rng_key: Array | None = None, num_samples: int | None = None, batch_size: int = 4096
    ) -> Prediction:
        """Predict who should decide, and the AI's probabilities.

        For decisions within bounds on people's shares, make a :class:`~pl2d_ppl.deferral.deferral.Deferral` from the
        prediction::

            day = Deferral.of(*result.predict(x), people=names)
            day.bounded(lower, upper).decision

        Parameters
        ----------
        x : array, shape (N, ...)
            Inputs.
        rng_key : Array, optional
            Needed where gate or AI depend on continuous latent sites, such as network weights that have a posterior:
            probabilities are then means over draws.
        num_samples : int, optional
            Number of these draws; by default 100.
        batch_size : int
            Items at a time.

        Returns
        -------
        Prediction
            Gate and AI probabilities.

        Raises
        ------
        ValueError
            If x does not have the form that the networks were trained on, the program has no deterministic sites
            ``gate_logits`` and ``ai_logits``, or they depend on draws and there is no key.
        """
        names = ("gate_logits", "ai_logits")
        sums: dict[str, Any] = dict.fromkeys(names, 0.0)
        number = 0
        for draw in self._draws(x, names, rng_key, num_samples, batch_size):
            missing = [n for n in names if n not in draw]
            if missing:
                raise ValueError(
                    f"Expected deterministic sites gate_logits and ai_logits, found no {missing}. Add them."
                )
            sums = {n: sums[n] + np.asarray(jax.nn.softmax(draw[n], -1)) for n in names}
            number += 1
        return Prediction(*(sums[n] / number for n in names))

    def __setstate__(self, fields: dict[str, Any]) -> None:
        """Read a pickled fit: its programs are traced again."""
        self.__dict__.update(fields)
        self.compiled.start_on(self.leaves, self.example, self.state.rng_key.shape)

    def save(self, path: str | os.PathLike) -> None:
        """Write the fit to a folder, from which :func:`~pl2d_ppl.inference.load.load` reads it.

        Parameters
        ----------
        path : path-like
            Folder; an older one is replaced once the new one is complete.

        Raises
        ------
        ValueError
            If the folder cannot be written to, or holds something else.
        """
        notes = {
            "epoch": self.epoch,
            "status": self.status,
            "batched": self.compiled.batched,
            "example": {n: [list(s.shape), str(s.dtype)] for n, s in self.example.items()},
            "runs": list(np.shape(self.best_loss)),
            "num_rows": self.compiled.num_rows,
            "item_plate": self.compiled.item_plate,
        }
        arrays = {**self.history, "best_loss": self.best_loss, "stale": self.stale}
        write_checkpoint(path, notes, arrays, (self.state, self.best_state))

    def _check_inputs(self, x: Any) -> Array:
        x = jnp.asarray(x)
        trained = self.example["x"].shape[1:]
        if x.shape[1:] != trained or len(x) == 0:
            raise ValueError(f"Expected x of shape (N, {', '.join(map(str, trained))}), found {x.shape}.")
        if not np.isfinite(np.asarray(x)).all():
            raise ValueError("Expected finite values in x, found NaN or infinity. Impute or leave those rows out.")
        return x.astype(self.example["x"].dtype)


def _select(better: np.ndarray, new: Array, old: Array) -> Array:
    return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)
