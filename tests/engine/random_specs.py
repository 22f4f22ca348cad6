"""Descriptions of random programs: what is printed when a program fails, and what Hypothesis makes smaller."""

from dataclasses import MISSING, dataclass, fields

VALUES = {
    "categorical": 3,
    "categorical_logits": 2,
    "bernoulli": 2,
    "bernoulli_logits": 2,
    "binomial": 3,
    "beta_binomial": 3,
    "discrete_uniform": 2,
    "ordered_logistic": 3,
    "geometric": 3,
}
OBSERVED_ONLY = ("normal", "normal_vector", "poisson", "factor")
FACTORS = ("factor",)
SIMPLEX = {"dirichlet": 2, "dirichlet_of_three": 3}
VECTORS = ("categorical", "categorical_logits")  # whose parameter is a vector


class Short:
    """Shows only the fields that are not as by default."""

    def __repr__(self):
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                shown.append(repr(value) if field.default is MISSING else f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Plate(Short):
    """A plate, in `outer` if there is one; its items are a subsample of `full` where that is given."""

    name: str
    size: int
    outer: str | None = None
    full: int | None = None


@dataclass(frozen=True, repr=False)
class Site(Short):
    """A sample site in its innermost plate, and how its parents' values enter.

    `use` is "table" (`table[z]`), "vindex" (`Vindex(table)[..., z, :]` with a table an element), "arithmetic"
    (`z * a + b`) or "simplex" (the parent is a Dirichlet). `plate` is "A*B" for a site in two plates of which neither
    lies in the other. `zeros`: some of its probabilities are zero. `mask` is "true", "false", "array", "false array" or
    the name of a parent: only the elements whose number in the innermost plate is the parent's value count. `scale` is
    "float", "array" (an element) or "traced". `param` is the `numpyro.param` that enters.
    """

    name: str
    kind: str
    plate: str | None = None
    parents: tuple[str, ...] = ()
    use: str = "table"
    observed: bool = False
    obs_mask: bool = False
    mask: str | None = None
    mask_in: str = "handler"
    scale: str | None = None
    param: str | None = None
    low: int = 0
    deterministic: bool = False
    zeros: bool = False


@dataclass(frozen=True, repr=False)
class Program(Short):
    """A program: plates, sites in program order, and a handler around it.

    `dims` is "auto", "left" (explicit, outer plates to the left), "gap" (the same, with a dimension unused), "mixed"
    (explicit for the outermost) or "apart" (each plate has a dimension of its own). `weights` names a plate whose items
    are weighted: every site in it is scaled.
    `handler` is the name of a handler and of the site it is about.
    """

    plates: tuple[Plate, ...] = ()
    sites: tuple[Site, ...] = ()
    dims: str = "auto"
    weights: str | None = None
    handler: tuple[str, str] | None = None
    shared_infer: bool = False
    same_plates: bool = False
    seed: int = 0

    def plate(self, name):
        """Plate of this name."""
        return next(plate for plate in self.plates if plate.name == name)

    def site(self, name):
        """Site of this name."""
        return next(site for site in self.sites if site.name == name)

    def path(self, name):
        """Plates from the outermost to this one, or to these two."""
        path = []
        for part in name.split("*") if name else ():
            chain = [self.plate(part)]
            while chain[0].outer is not None:
                chain.insert(0, self.plate(chain[0].outer))
            path += [plate for plate in chain if plate not in path]
        return path

    def dim(self, name):
        """Dimension of a plate."""
        if self.dims == "apart":
            return -1 - [plate.name for plate in self.plates].index(name)
        depth = len(self.path(name)) - 1
        most = max(len(self.path(plate.name)) for plate in self.plates)
        match self.dims:
            case "auto":
                return -1 - depth
            case "mixed":
                return {0: -2, 1: -1}.get(depth, -1 - depth)
            case "left":
                return depth - most
            case "gap":
                return depth - most - 1

    def explicit(self, name):
        """The plate's `dim=`, None if it is left to NumPyro."""
        outermost = len(self.path(name)) == 1
        return None if self.dims == "auto" or (self.dims == "mixed" and not outermost) else self.dim(name)

    def batch(self, name):
        """Batch shape of a site in this innermost plate."""
        dims = {self.dim(plate.name): plate.size for plate in self.path(name)}
        return tuple(dims.get(dim, 1) for dim in range(min(dims, default=0), 0))

    def elements(self, name):
        """Number of elements of a site in this innermost plate."""
        count = 1
        for plate in self.path(name):
            count *= plate.size
        return count


def values(site):
    """Number of values of a discrete site."""
    return VALUES[site.kind]


def first(site):
    """Smallest value of a discrete site."""
    return {"geometric": 1, "discrete_uniform": site.low}.get(site.kind, 0)


def features(program):
    """Kinds of things in a program, to count by."""
    found = {f"dims={program.dims}"} if program.plates else {"no plate"}
    for plate in program.plates:
        found |= {"size-one plate"} if plate.size == 1 else set()
        found |= {"subsampled plate"} if plate.full else set()
        found |= {"nested plate"} if plate.outer else set()
    if sum(plate.outer is None for plate in program.plates) > 1:
        found.add("sibling plates")
    for site in program.sites:
        found.add(f"{'observed' if site.observed else 'latent'} {site.kind}")
        if site.parents:
            found.add(f"parents by {site.use}")
        if site.mask:
            found.add("mask by a latent" if site.mask not in PLAIN_MASKS else f"mask {site.mask}")
        found |= {f"scale {site.scale}"} if site.scale else set()
        found |= {"obs_mask"} if site.obs_mask else set()
        found |= {"zeros"} if site.zeros else set()
        found |= {"crossed plates"} if "*" in (site.plate or "") else set()
        found |= {"param"} if site.param else set()
    found |= {"weights"} if program.weights else set()
    found |= {program.handler[0]} if program.handler else set()
    found |= {"shared infer"} if program.shared_infer else set()
    return found


PLAIN_MASKS = ("true", "false", "array", "false array")
