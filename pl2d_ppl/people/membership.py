"""Memberships of identified people in clusters: estimates, draws and diagnostics."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpyro
from numpy.typing import NDArray

from pl2d_ppl.checks.names import names_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Membership"]

Method = Literal["nuts", "em", "average-dirichlet"]


@dataclasses.dataclass(frozen=True, eq=False)
class Membership:
    """Memberships of M people in K clusters, and the evidence behind them.

    Attributes
    ----------
    probs : array of float, shape (K, M)
        Soft memberships Omega: columns sum to one. With draws, the posterior mean.
    num_annotations : array of int, shape (M,)
        Number of annotations behind each membership; with 0, the membership is that of the prior.
    people, clusters : tuple of str
        Names.
    method : {"nuts", "em", "average-dirichlet"}
        Posterior, maximum likelihood, or the mean of Dirichlet posteriors of items.
    draws : array of float, shape (M, chains, S, K), optional
        Draws from the posterior; only for "nuts".
    num_divergences : array of int, shape (M,), optional
        Number of divergent transitions among the draws; only for "nuts". Do not trust draws of a person with many.
    gap : array of float, shape (M,), optional
        Upper bound on how much the log-likelihood per annotation may still rise; only for "em".
    """

    probs: NDArray[np.floating]
    num_annotations: NDArray[np.integer]
    people: tuple[str, ...]
    clusters: tuple[str, ...]
    method: Method
    draws: NDArray[np.floating] | None = None
    num_divergences: NDArray[np.integer] | None = None
    gap: NDArray[np.floating] | None = None

    @property
    def soft(self) -> NDArray[np.floating]:
        """Soft memberships, shape (K, M): the same as ``probs``."""
        return self.probs

    @property
    def hard(self) -> NDArray[np.floating]:
        """Memberships rounded to the largest, the first of tied ones: one-hot columns, shape (K, M)."""
        return np.eye(len(self.clusters), dtype=self.probs.dtype)[self.assignment].T

    @property
    def assignment(self) -> NDArray[np.integer]:
        """Cluster of each person's largest membership, the first of tied ones, shape (M,)."""
        return self.probs.argmax(0)

    @property
    def r_hat(self) -> NDArray[np.floating]:
        """Rank-normalised split R-hat of each membership, shape (K, M); NaN for fewer than four draws per chain."""
        return self._diagnostic("rhat")

    @property
    def ess_bulk(self) -> NDArray[np.floating]:
        """Bulk effective sample size of each membership, shape (K, M), in draws."""
        return self._diagnostic("ess")

    def interval(self, probability: float = 0.9) -> NDArray[np.floating]:
        """Compute equal-tailed posterior intervals.

        Parameters
        ----------
        probability : float
            Probability that a membership lies in its interval.

        Returns
        -------
        array of float, shape (K, M, 2)
            Lower and upper ends.

        Raises
        ------
        ValueError
            If there are no draws, or the probability is not between 0 and 1.
        """
        draws = self._require_draws()
        if not 0 < probability < 1:
            raise ValueError(f"Expected a probability between 0 and 1, found {probability}.")
        tail = (1 - probability) / 2
        return np.moveaxis(np.quantile(draws, [tail, 1 - tail], axis=(1, 2)), 0, -1).swapaxes(0, 1)

    def join(self, other: "Membership") -> "Membership":
        """Return the memberships of the people of both, such as after a new person joins.

        Parameters
        ----------
        other : Membership
            Memberships of other people in the same clusters, by the same method.

        Returns
        -------
        Membership
            Memberships of these people, then of the others.

        Raises
        ------
        ValueError
            If the clusters, the method or the number of draws differ, or if a person is in both.
        """
        for what in ("clusters", "method"):
            if getattr(self, what) != getattr(other, what):
                raise ValueError(
                    f"Expected memberships of the same {what}, found {getattr(self, what)!r} and "
                    f"{getattr(other, what)!r}. Place both groups of people alike."
                )
        shapes = [m.draws.shape[1:3] for m in (self, other) if m.draws is not None]
        if len(set(shapes)) > 1:
            raise ValueError(f"Expected as many chains and draws, found {shapes[0]} and {shapes[1]}. Sample as many.")
        people = (*self.people, *other.people)
        joined = {
            field: _append(getattr(self, field), getattr(other, field), axis)
            for field, axis in {"probs": 1, "num_annotations": 0, "draws": 0, "num_divergences": 0, "gap": 0}.items()
        }
        return dataclasses.replace(self, people=names_of(people, len(people), "person"), **joined)

    def to_datatree(self) -> "xr.DataTree":
        """Return memberships as a tree of labelled arrays, for ArviZ.

        Returns
        -------
        xarray.DataTree
            Groups:

            - ``posterior``, only with draws: ``membership`` (chain, draw, cluster, person).
            - ``point``: ``soft`` and ``hard`` (cluster, person), ``num_annotations`` (person), and
              ``num_divergences`` or ``gap`` (person).

            The attribute ``method`` names the method. Write the tree by ``tree.to_netcdf(path, engine="h5netcdf")`` and
            read it by ``xarray.open_datatree``.
        """
        import xarray as xr
        from arviz_base import dict_to_dataset

        coords: dict[Any, Any] = {"cluster": list(self.clusters), "person": list(self.people)}
        point: dict[Any, Any] = {"soft": self.soft, "hard": self.hard, "num_annotations": self.num_annotations}
        optional = {"num_divergences": self.num_divergences, "gap": self.gap}
        point |= {name: array for name, array in optional.items() if array is not None}
        dims: dict[Any, Any] = {name: ["cluster", "person"][-array.ndim :] for name, array in point.items()}
        groups = {"point": dict_to_dataset(point, coords=coords, dims=dims, sample_dims=[])}
        if self.draws is not None:
            draws: dict[Any, Any] = {"membership": self.draws.transpose(1, 2, 3, 0)}
            dims = {"membership": ["cluster", "person"]}
            groups["posterior"] = dict_to_dataset(draws, inference_library=numpyro, coords=coords, dims=dims)
        for group in groups.values():
            group.attrs.pop("sample_dims", None)  # some plots of arviz-plots mistake it for an argument of their own
            group.attrs["method"] = self.method
        tree = xr.DataTree.from_dict(groups)
        tree.attrs["method"] = self.method
        return tree

    def _require_draws(self) -> NDArray[np.floating]:
        if self.draws is None:
            raise ValueError(
                f"Expected draws, found none: memberships were estimated by {self.method}. Use sample_membership."
            )
        return self.draws

    def _diagnostic(self, name: str) -> NDArray[np.floating]:
        draws = self._require_draws()
        from arviz_stats.base import array_stats  # here, since it imports slowly

        return getattr(array_stats, name)(draws, chain_axis=1, draw_axis=2).T


def _append(first: Any, second: Any, axis: int) -> Any:
    return None if first is None or second is None else np.concatenate([first, second], axis)
