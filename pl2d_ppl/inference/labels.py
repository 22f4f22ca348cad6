"""Names of dimensions and coordinates, by the plates of a program."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpyro

from pl2d_ppl.inference.posterior_programs import Dims, SiteShape

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Labels"]

EXPERT, CATEGORY, CLUSTER, VOTE, OPTION, ANSWER = "expert", "category", "cluster", "vote", "option", "answer"
AI = "AI"
ITEM = "item"
# Axes that are no plates, in the library's vocabulary: of networks' outputs, after the items; of data, and their sites;
# and of the values of a site, the first of these that has its size.
OUTPUT_DIMS = {
    "gate_probs": (EXPERT,),
    "ai_probs": (CATEGORY,),
    "belief_probs": (EXPERT, CATEGORY),
    "truth_probs": (CATEGORY,),
    "cluster_probs": (CLUSTER, CATEGORY),
    "right_probs": (EXPERT,),
}
SITE_DIMS = {"annotation": (EXPERT,), "votes": (VOTE,), "counts": (CATEGORY,)}
DATA_DIMS = {"annotations": (EXPERT,), "votes": (VOTE,), "counts": (CATEGORY,)}
VALUE_DIMS = {"z": (EXPERT, CLUSTER), "v": (OPTION,), "w": (EXPERT,), "u": (CLUSTER,)}


class Labels:
    """Names of dimensions and coordinates.

    Parameters
    ----------
    plates : mapping of str to int
        Lengths of the plates.
    plate : str or None
        The plate of the items.
    sites : mapping of str to SiteShape
        Sites of the items.
    outputs : mapping of str to array
        Deterministic sites.
    data : mapping of str to array, shape (N, ...)
        The data.
    coords, dims : mapping of str to sequence, optional
        Names that the user gave.
    """

    def __init__(
        self,
        plates: Mapping[str, int],
        plate: str | None,
        sites: Mapping[str, SiteShape],
        outputs: Mapping[str, Any],
        data: Mapping[str, Any],
        coords: Mapping[str, Sequence] | None,
        dims: Mapping[str, Sequence[str]] | None,
    ):
        coords = coords or {}
        self.item, self.dims = plate or ITEM, dims or {}
        self.sizes = {**plates, self.item: len(next(iter(data.values())))}
        self.has_ai = "ai_probs" in outputs
        for site, dim in (("v", OPTION), ("w", EXPERT), ("u", CLUSTER)):  # a gate over clusters, whose people are w
            if site in sites:
                self.sizes[dim] = sites[site].size
        for name, own in OUTPUT_DIMS.items():
            if own[-1] == CATEGORY and name in outputs:
                self.sizes.setdefault(CATEGORY, outputs[name].shape[-1])
        if "gate_probs" in outputs and OPTION not in self.sizes:
            self.sizes[EXPERT] = outputs["gate_probs"].shape[-1]  # a plate of people may be without the AI
        elif "annotations" in data:
            self.sizes.setdefault(EXPERT, data["annotations"].shape[1] + self.has_ai)
        self.coords = {**{name: list(values) for name, values in coords.items()}, **dict(self._names(coords))}

    def _names(self, coords: Mapping[str, Sequence]) -> Iterator[tuple[str, list]]:
        for name, size in self.sizes.items():
            given = list(coords.get(name, coords.get(CLUSTER, ()) if name == OPTION else ()))
            with_ai = self.has_ai and name in (EXPERT, OPTION)
            if not given and with_ai:
                given = [f"{'cluster' if name == OPTION else name}_{i}" for i in range(size - 1)]
            given = given or list(range(size))
            if with_ai and len(given) == size - 1:
                given = [*given, AI]
            if len(given) != size:
                raise ValueError(f"Expected {size} names in coords[{name!r}], found {len(given)}.")
            if len(set(given)) < size:
                raise ValueError(f"Expected distinct names in coords[{name!r}], found {given}. Rename some.")
            yield name, given

    def of_output(self, name: str, own: Dims) -> list[str | None]:
        """Name the axes of a deterministic or observed site: its plates, else those of the library's vocabulary."""
        known: tuple[str, ...] = (OUTPUT_DIMS | SITE_DIMS).get(name, ())
        if name == "gate_probs" and OPTION in self.sizes:
            known = (OPTION,)
        free = [i for i, dim in enumerate(own) if dim is None]
        found = list(own)
        for axis, dim in zip(free, known, strict=False):
            found[axis] = dim
        return found

    def of_values(self, name: str, site: SiteShape) -> str:
        """Name the dimension of the values of a site."""
        fitting = (dim for dim in VALUE_DIMS.get(name, (CATEGORY,)) if self.sizes.get(dim) == site.size)
        return next(fitting, f"{name}_value")

    def dataset(
        self, arrays: Mapping[str, Any], dims: Mapping[str, Sequence[str | None]], *, draws: bool = False
    ) -> "xr.Dataset":
        """Label arrays, whose first axis is by default that of the items; those in ``draws`` have one of length S."""
        from arviz_base import dict_to_dataset

        named: dict[Any, Any] = {}
        axes: dict[Any, Any] = {}
        proposed = {
            site: list(zip(dims.get(site, [self.item]), np.shape(array)[int(draws) :], strict=False))
            for site, array in arrays.items()
        }
        labels = self._of_people({size for pairs in proposed.values() for d, size in pairs if d == EXPERT})
        for site, array in arrays.items():
            name, array = site.replace("/", "."), np.asarray(array)
            named[name] = array[None] if draws else array
            fitting = [d if d is not None and labels.sizes.get(d, n) == n else None for d, n in proposed[site]]
            axes[name] = list(self.dims.get(name, fitting))
        coords: dict[Any, Any] = dict(labels.coords)
        sample_dims = ["chain", "draw"] if draws else []
        return dict_to_dataset(named, inference_library=numpyro, coords=coords, dims=axes, sample_dims=sample_dims)

    def _of_people(self, lengths: set[int]) -> "Labels":
        """Return labels without the AI where nothing has an axis of all deciders: it annotates nothing."""
        if not lengths or lengths != {self.sizes.get(EXPERT, 0) - 1}:
            return self
        people = copy.copy(self)
        people.sizes = {**self.sizes, EXPERT: self.sizes[EXPERT] - 1}
        people.coords = {**self.coords, EXPERT: self.coords[EXPERT][:-1]}
        return people

    def data(self, data: Mapping[str, Any]) -> "xr.Dataset":
        """Label data of the items."""
        listed = {"annotations": (ANSWER,), "people": (ANSWER,)} if "people" in data else {}
        return self.dataset(data, {n: (self.item, *(DATA_DIMS | listed).get(n, ())) for n in data})
