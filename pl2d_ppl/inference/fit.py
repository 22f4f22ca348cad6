"""Training: SVI by epochs, each one compiled scan over shuffled mini-batches."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpyro.handlers import block, seed
from numpyro.infer.autoguide import AutoGuide
from numpyro.primitives import Messenger
from tqdm.auto import tqdm

from pl2d_ppl.checks.data import check_arguments, check_data
from pl2d_ppl.checks.declared import Given, check_declared
from pl2d_ppl.checks.keys import check_keys
from pl2d_ppl.inference.compiled import CompiledFit, compile_fit, one_run
from pl2d_ppl.inference.result import FitResult

__all__ = ["FitInterrupted", "NonFiniteLossError", "fit"]


class NonFiniteLossError(ArithmeticError):
    """The loss, or a parameter, became NaN or infinite.

    Attributes
    ----------
    epoch, step : int
        Where it happened, counted from 0.
    sites : list of str
        Sites whose contribution to the ELBO is not finite; empty if only the gradient is not finite. A site that is
        summed out stands for all that depends on it.
    items : list of int
        Rows of the data at which they are not finite, where that is known.
    result : FitResult
        The fit at the last good step.
    """

    def __init__(self, epoch: int, step: int, sites: list[str], items: list[int], result: FitResult):
        self.epoch, self.step, self.sites, self.items, self.result = epoch, step, sites, items, result
        where = f"at site {', '.join(sites)}" if sites else "in the gradient, the loss itself being finite"
        where += f", item {', '.join(map(str, items[:5]))}{' ...' if len(items) > 5 else ''}" if items else ""
        super().__init__(
            f"Expected a finite loss, found NaN or infinity in epoch {epoch}, step {step}, {where}. Lower the learning "
            "rate, clip gradients (optax.clip_by_global_norm), or look at the scale of x; if the loss is infinite at "
            "the first step, look for data of probability zero under the program. The fit at the last good step is "
            "the attribute .result of this error."
        )


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a fit.

    Attributes
    ----------
    result : FitResult
        The fit at the end of the last epoch, with status ``interrupted``: pass it as ``resume=`` to go on.
    """

    def __init__(self, result: FitResult):
        self.result = result
        super().__init__(
            f"Interrupted after {result.epoch} epochs. The fit so far is the attribute .result of this error; "
            "fit(..., resume=error.result) goes on from it."
        )


def fit(
    rng_key: Array,
    model: Callable,
    guide: Callable,
    data: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    epochs: int,
    batch_size: int,
    arguments: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    patience: int | None = None,
    resume: FitResult | None = None,
    item_plate: str | None = None,
    progress: bool = True,
) -> FitResult:
    """Fit a model and a guide by stochastic variational inference.

    Parameters
    ----------
    rng_key : Array
        A typed key; or an array of R keys, for R runs in one batch, which share the data and are compiled once. With a
        ``workload`` guide, each run may then have its own bounds: ``PerRun(lower)``, of shape (R, K).
    model, guide : callable
        Programs that take the entries of ``data`` by name.
    data : mapping of str to array, shape (N, ...)
        Data that the programs take, such as ``x``, ``annotations`` and ``y``.
    optimizer : optax.GradientTransformation
        Any chain of optax: schedules (in steps), clipping, weight decay. The loss is the negative ELBO per item.
    epochs : int
        Passes over the data. Every epoch shuffles anew, and leaves out the items that do not fill a batch.
    batch_size : int
        Number of items per step.
    arguments : mapping of str to pytree of array, optional
        Further arguments of both programs, the same for every item, such as ``alpha`` of ``annotator_lda``, or a
        network. They are traced: other values need no new compilation. Wrap one in
        :class:`~pl2d_ppl.engine.per_run.PerRun` to give each run of a batch its own value.
    validation : mapping, optional
        Held-out data of the same form. Its loss is recorded after every epoch, with networks in evaluation mode,
        and predictions come from the epoch at which it was lowest.
    patience : int, optional
        Stop when the validation loss has not fallen for this many epochs.
    resume : FitResult, optional
        Continue an earlier fit of the same programs, up to ``epochs`` in total, as if it had never stopped.
    item_plate : str, optional
        The plate of the items; by default ``item``, or the only plate whose size follows the number of rows. Its
        indices are the rows of ``data``, so that latent sites of single items keep their parameters under shuffling. A
        plate of the size of a mini-batch stands for a part of the data: what items share is weighed against all N.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    FitResult
        Parameters, history and predictions.

    Raises
    ------
    ValueError
        If data or arguments do not fit together; raised before anything is compiled.
    NonFiniteLossError
        If the loss is not finite.
    FitInterrupted
        At Ctrl-C, a ``KeyboardInterrupt``: its ``result`` is the fit at the end of the last epoch.
    """
    check_keys(rng_key)
    check_data(data, batch_size, "data")
    if validation is not None:
        check_data(validation, 1, "validation", like=data)
    elif patience is not None:
        raise ValueError("Expected validation data to stop early by, found patience without. Pass validation=...")
    if epochs < 1:
        raise ValueError(f"Expected at least one epoch, found epochs={epochs}.")
    arguments = arguments or {}
    check_arguments(arguments, data)
    _check_declared(model, data, validation, arguments)
    num_rows = len(next(iter(data.values())))
    compiled, leaves = compile_fit(model, guide, optimizer, rng_key.ndim == 1, num_rows, item_plate, arguments)
    arrays = {name: jnp.asarray(a) for name, a in data.items()}
    first = {name: a[:batch_size] for name, a in arrays.items()}
    of_first = {n: one_run(a) for n, a in arguments.items()}
    _set_up_autoguides(guide, rng_key if rng_key.ndim == 0 else rng_key[0], {**first, **of_first})
    sites = compiled.probe(leaves, rng_key, first)
    _check_declared(model, data, validation, arguments, sites)
    if resume is None:
        resume = FitResult.start(compiled, leaves, compiled.init(leaves, rng_key, first), first)
    else:
        _check_resume(resume, compiled, rng_key)
        resume = resume.replace(compiled=compiled, leaves=leaves)
    training = _Training(rng_key, arrays, validation, batch_size)
    return training.run(resume, epochs, patience, progress)


def _check_declared(
    model: Callable, data: Mapping, validation: Mapping | None, arguments: Mapping, sites: Mapping | None = None
) -> None:
    """Call the checks that the model declares of its data and arguments."""
    for name, part in (("data", data), ("validation", validation)):
        if part is not None:
            check_declared(model, Given(name, part, arguments, sites or {}))


def _set_up_autoguides(guide: Callable, rng_key: Array, batch: Mapping[str, Array]) -> None:
    """Call NumPyro's automatic guides once outside of compilation: they keep the values of their first call."""
    while isinstance(guide, Messenger) and guide.fn is not None:
        guide = guide.fn
    continuous = getattr(guide, "continuous", guide)
    if isinstance(continuous, AutoGuide):
        with block(), seed(rng_seed=rng_key):
            continuous(**batch)


def _check_resume(result: FitResult, compiled: CompiledFit, rng_key: Array) -> None:
    if result.compiled.signature != compiled.signature or result.state.rng_key.shape != rng_key.shape:
        raise ValueError(
            "Expected to resume a fit of the same model, guide, optimizer and number of runs, found another. Pass the "
            "objects that the fit, or load, was called with; bounds may differ."
        )


class _Training:
    """The loop over epochs."""

    def __init__(self, rng_key: Array, data: Mapping[str, Array], validation: Mapping | None, batch_size: int):
        self.rng_key, self.data, self.batch_size = rng_key, data, batch_size
        self.validation = validation and {name: jnp.asarray(a) for name, a in validation.items()}

    def run(self, result: FitResult, epochs: int, patience: int | None, progress: bool) -> FitResult:
        """Continue up to a total number of epochs."""
        result = result.replace(status="completed")
        bar = tqdm(
            range(result.epoch, epochs),
            initial=result.epoch,
            total=epochs,
            disable=not progress,
            unit="epoch",
        )
        try:
            for _ in bar:
                result = self.epoch(result)
                losses = {k: f"{np.mean(result.history[k][-1]):.4g}" for k in _LOSSES if k in result.history}
                bar.set_postfix(losses, refresh=False)  # fast epochs would otherwise print a line each
                if patience is not None and np.all(result.stale >= patience):
                    return result.replace(status="stopped_early")
        except KeyboardInterrupt:
            raise FitInterrupted(result.replace(status="interrupted")) from None
        finally:
            bar.close()
        return result

    def epoch(self, result: FitResult) -> FitResult:
        """Run one epoch, and its validation."""
        compiled, leaves, number = result.compiled, result.leaves, result.epoch
        fold = jax.vmap(jax.random.fold_in, (0, None)) if compiled.batched else jax.random.fold_in
        key = fold(self.rng_key, number)
        state, record, finite, rows = compiled.epoch(leaves, result.state, key, self.data, self.batch_size)
        if not np.all(finite):
            best_state = state if self.validation is None else result.best_state
            raise self._not_finite(result.replace(state=state, best_state=best_state), np.asarray(finite), rows)
        record = {name: np.asarray(value) for name, value in record.items()}
        if self.validation is not None:
            record["validation_loss"] = validation_loss(result.replace(state=state), self.validation, self.batch_size)
        return result.after_epoch(state, record)

    def _not_finite(self, result: FitResult, finite: np.ndarray, rows: Array) -> NonFiniteLossError:
        """Run the failing step once more, site by site."""
        run = int(np.argmin(finite.all(-1))) if finite.ndim > 1 else None
        step = int(np.argmin(finite if run is None else finite[run]))
        failed = rows[step] if run is None else rows[run, step]
        batch = {n: a[failed] for n, a in self.data.items()}
        terms = result.compiled.diagnose(result.leaves, result.state, batch, failed)
        values = {name: np.asarray(v) if run is None else np.asarray(v)[run] for name, v in terms.items()}
        sites = [name for name, value in values.items() if not np.isfinite(value).all()]
        bad = [~np.isfinite(values[name]) for name in sites if values[name].shape == failed.shape]
        items = np.asarray(failed)[np.any(bad, 0)] if bad else np.array([], int)
        return NonFiniteLossError(result.epoch, step, sites, [int(i) for i in np.sort(items)], result)


_LOSSES = ("loss", "validation_loss")


def validation_loss(result: FitResult, data: Mapping[str, Array], batch_size: int) -> np.ndarray:
    """Return the negative ELBO per item of held-out data, with networks in evaluation mode.

    Parameters
    ----------
    result : FitResult
        The fit, at its current state.
    data : mapping of str to array, shape (N, ...)
        Held-out data.
    batch_size : int
        Number of items evaluated at a time.

    Returns
    -------
    array, shape () or (R,)
        The loss.
    """
    num_items = len(next(iter(data.values())))
    return total_loss(result.compiled.evaluate, result.leaves, result.state, data, batch_size) / num_items


def total_loss(
    loss: Callable, leaves: tuple[Array, ...], state: Any, data: Mapping[str, Array], batch_size: int
) -> np.ndarray:
    """Sum a loss over items, a batch at a time.

    Parameters
    ----------
    loss : callable
        Mean loss of a batch: a method of :class:`~pl2d_ppl.inference.compiled.CompiledFit`, such as ``evaluate``.
    leaves, state : tuple of Array, SVIState
        Where the loss is evaluated.
    data : mapping of str to array, shape (N, ...)
        The items.
    batch_size : int
        Number of items evaluated at a time.

    Returns
    -------
    array, shape () or (R,)
        The sum.
    """
    num_items = len(next(iter(data.values())))
    total = np.zeros(())
    for start in range(0, num_items, batch_size):
        batch = {name: a[start : start + batch_size] for name, a in data.items()}
        mean = np.asarray(loss(leaves, state, jax.random.key(0), batch), float)
        total = total + mean * min(batch_size, num_items - start)
    return total
