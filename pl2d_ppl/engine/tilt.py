"""Effect handler that tilts a discrete site."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro
from numpyro.ops.indexing import Vindex

from pl2d_ppl.engine.enumeration import positions_of, support_of
from pl2d_ppl.engine.site_handler import SiteHandler

__all__ = ["tilt"]


class tilt(SiteHandler):
    """Add ``log_weight[value]`` to the log joint at a discrete latent site.

    The gradient of the log evidence with respect to ``log_weight``, at zero, is the posterior marginal of the
    site; the gradient at ``-nu`` is that of the posterior under the multipliers ``nu`` of a workload bound.

    Parameters
    ----------
    fn : callable
        A model. A tilt is a :func:`numpyro.factor`, which has no meaning in a guide: there, tilt the guide's logits, or
        use :class:`~pl2d_ppl.engine.workload.workload`. A tilt does not change the draws of ``Predictive``, which lists
        the factor as an empty array ``{site}_tilt``.
    site : str
        Name of a discrete latent site.
    log_weight : Array, shape (batch shape of the site, number of values)
        Weights to add, for every plate element and value; leading axes may be missing or of size one.

    Raises
    ------
    ValueError
        If the program has no such site, if the shape does not fit, or if the site is tilted twice.
    """

    def __init__(self, fn: Callable | None = None, site: str = "", log_weight: Any = 0.0):
        self.log_weight = log_weight
        super().__init__(fn, site)

    def postprocess_message(self, msg: dict) -> None:
        """Add the factor behind the site."""
        if not self.is_site(msg):
            return
        if msg.get("tilted"):
            raise ValueError(f"Expected one tilt of site {self.site!r}, found two. Add their weights up.")
        msg["tilted"] = True
        support = support_of(self.site, msg["fn"])
        size = len(support)
        shape = jnp.shape(self.log_weight)
        batch = tuple(msg["fn"].batch_shape)
        plain = batch[-(len(shape) - 1) :] if len(shape) > 1 else ()
        fits = shape and shape[-1] == size and len(shape) - 1 <= len(batch)
        if not fits or any(s not in (1, b) for s, b in zip(shape[:-1], plain, strict=True)):
            raise ValueError(
                f"Expected log_weight of a shape that broadcasts to {(*batch, size)} at site {self.site!r}, "
                f"found {shape}. Its last axis runs over the values of the site."
            )
        numpyro.factor(
            f"{self.site}_tilt", Vindex(jnp.asarray(self.log_weight))[..., positions_of(support, msg["value"])]
        )
