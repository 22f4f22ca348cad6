"""Shared parts of handlers of one sample site."""

from collections.abc import Callable

from numpyro.primitives import Messenger

__all__ = ["SiteHandler"]


class SiteHandler(Messenger):
    """A handler of one sample site, which raises an error if the program lacks the site."""

    def __init__(self, fn: Callable | None, site: str):
        self.site = site
        self._names: list[str] = []
        self._found = False
        super().__init__(fn)

    def __enter__(self):
        self._names, self._found = [], False
        return super().__enter__()

    def __exit__(self, exc_type, exc_value, traceback):
        super().__exit__(exc_type, exc_value, traceback)
        if exc_type is None and not self._found:
            raise ValueError(
                f"Expected a discrete latent site {self.site!r}, found none of that name; the program samples "
                f"{self._names or 'nothing'}. Mind the spelling, and that the site is not observed. "
                "Sites inside a scan are not reached."
            )

    def is_site(self, msg: dict) -> bool:
        """Whether a message belongs to the site."""
        if msg["type"] != "sample" or msg["is_observed"]:
            return False
        self._names.append(msg["name"])
        if msg["name"] != self.site:
            return False
        if not msg["fn"].has_enumerate_support:
            raise ValueError(
                f"Expected a discrete distribution with finite support at site {self.site!r}, "
                f"found {type(msg['fn']).__name__}."
            )
        self._found = True
        return True
