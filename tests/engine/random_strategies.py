"""Hypothesis strategies for descriptions of random programs, valid by construction."""

import dataclasses

from engine.random_programs import REPARAMETRISED
from engine.random_specs import OBSERVED_ONLY, SIMPLEX, VALUES, VECTORS, Plate, Program, Site, values
from hypothesis import strategies as st

MOST_ASSIGNMENTS = 4096
KINDS = tuple(VALUES)


@st.composite
def plates(draw):
    """Up to three plates, nested or not, among them subsampled ones."""
    made, depth = [], {None: 0}
    for number in range(draw(st.integers(0, 3))):
        outer = draw(st.sampled_from([None, *(plate.name for plate in made if depth[plate.name] < 3)]))
        size = draw(st.integers(1, 3 if outer is None else 2))
        full = draw(st.sampled_from([None, None, None, size + 1, 3 * size]))
        plate = Plate(f"P{number}", size, outer, full)
        depth[plate.name] = depth[outer] + 1
        made.append(plate)
    return tuple(made)


@st.composite
def site(draw, program, number, left):
    """A site that is valid after those of the program; latent if its assignments are within what is left."""
    plate = draw(st.sampled_from([None, *(plate.name for plate in program.plates)] + [p.name for p in program.plates]))
    path = {other.name for other in program.path(plate)}
    eligible = [
        other
        for other in program.sites
        if other.kind not in OBSERVED_ONLY
        and (not other.observed or other.obs_mask)
        and {above.name for above in program.path(other.plate)} <= path
    ]
    parents = tuple(draw(st.lists(st.sampled_from(eligible), max_size=2, unique=True)) if eligible else ())
    kind = draw(st.sampled_from(KINDS + OBSERVED_ONLY if number else KINDS))
    made = Site(f"z{number}", kind, plate, tuple(parent.name for parent in parents))
    elements = program.elements(plate)
    fits = kind in VALUES and VALUES[kind] ** elements <= left
    observed = not fits or (number > 0 and draw(st.booleans()))
    inner = [other for other in eligible if other.plate != plate and values(other) <= 4]
    masks = [None] * 5 + ["true", "false", "array", "array", "false array"]
    masks += [other.name for other in inner if len(program.path(other.plate)) == len(path) - 1] * 3
    masks += [other.name for other in eligible if other.plate == plate]
    made = dataclasses.replace(
        made,
        observed=observed,
        name=f"{'x' if observed else 'z'}{number}",
        use="table" if kind == "discrete_uniform" else draw(st.sampled_from(["table", "vindex", "arithmetic"])),
        low=draw(st.sampled_from([1, -2, 5])) if kind == "discrete_uniform" else 0,
        obs_mask=observed and fits and draw(st.sampled_from([False, False, False, True])),
        mask=draw(st.sampled_from(masks)),
        mask_in=draw(st.sampled_from(["handler", "distribution"])),
        scale=draw(st.sampled_from([None] * 9 + ["float", "array", "traced"])),
        param=draw(st.sampled_from([None, None, "theta", "rate"])),
        deterministic=kind not in OBSERVED_ONLY and draw(st.sampled_from([False, False, False, True])),
    )
    if made.kind in VECTORS and made.use != "arithmetic":
        made = dataclasses.replace(made, zeros=draw(st.sampled_from([False, False, True])))
    return made, left // VALUES[kind] ** elements if not observed or made.obs_mask else left


@st.composite
def programs(draw):
    """Valid programs of discrete latent sites and observations."""
    dims = draw(st.sampled_from(["auto", "left", "gap", "mixed"]))
    program = Program(draw(plates()), dims=dims, seed=draw(st.integers(0, 10_000)))
    left = MOST_ASSIGNMENTS
    for number in range(draw(st.integers(1, 6))):
        made, left = draw(site(program, number, left))
        program = dataclasses.replace(program, sites=(*program.sites, made))
    return draw(surroundings(program))


@st.composite
def chains(draw):
    """Hidden Markov models: a chain of sites in a plate or in none, each with an observation."""
    plate = draw(st.sampled_from([None, Plate("P0", 1), Plate("P0", 2), Plate("P0", 2, full=6)]))
    program = Program(() if plate is None else (plate,), seed=draw(st.integers(0, 10_000)))
    where, kind = plate and plate.name, draw(st.sampled_from(["categorical", "geometric", "bernoulli"]))
    length = draw(st.integers(2, 5 if plate is None or plate.size == 1 else 3))
    use, sites = draw(st.sampled_from(["table", "vindex", "arithmetic"])), []
    for number in range(length):
        sites.append(Site(f"z{number}", kind, where, (f"z{number - 1}",) if number else (), use))
        sites.append(
            Site(
                f"x{number}",
                draw(st.sampled_from(["normal", "poisson", "categorical", "normal_vector"])),
                where,
                (f"z{number}",),
                draw(st.sampled_from(["table", "arithmetic"])),
                observed=True,
                mask=draw(st.sampled_from([None, None, "array"])),
                param=draw(st.sampled_from([None, "theta"])),
            )
        )
    return draw(surroundings(dataclasses.replace(program, sites=tuple(sites))))


@st.composite
def surroundings(draw, program):
    """The program in a handler, with weighted items or an infer dict that its sites share."""
    latent = [made for made in program.sites if not made.observed]
    hidden = [made.name for made in program.sites if made.observed and not made.obs_mask and made.kind != "factor"]
    hidden += [f"{made.name}_twice" for made in program.sites if made.deterministic]
    choices = [None] * 8
    if latent:
        choices += [(name, draw(st.sampled_from(latent)).name) for name in ("condition", "do", "substitute")]
    choices += [("block", draw(st.sampled_from(hidden)))] if hidden else []
    choices += [("scope", ""), ("infer_config", ""), ("reparam", "")]
    handler = draw(st.sampled_from(choices))
    if handler and handler[0] == "reparam":
        sites = [dataclasses.replace(made, param=REPARAMETRISED if made.param else None) for made in program.sites]
        program = dataclasses.replace(program, sites=tuple(sites))
        handler = handler if any(made.param for made in sites) else None
    named = {part for made in program.sites for part in (made.plate or "").split("*")} - {""}
    return dataclasses.replace(
        program,
        handler=handler,
        weights=draw(st.sampled_from([None] * 8 + sorted(named))),
        shared_infer=draw(st.sampled_from([False, False, True])),
        same_plates=program.dims in ("left", "gap") and draw(st.booleans()),
    )


@st.composite
def crossed(draw):
    """Programs of two plates that cross: sites in either, and sites in both that depend on them."""
    full = st.sampled_from([None, None, 5])
    made = [
        Plate("P0", draw(st.integers(1, 2)), full=draw(full)),
        Plate("P1", draw(st.integers(1, 3)), full=draw(full)),
    ]
    program = Program(tuple(made), dims="apart", seed=draw(st.integers(0, 10_000)))
    sites = []
    for number, plate in enumerate(draw(st.sampled_from([("P0",), ("P1",), ("P0", "P1"), ("P0", None)]))):
        use = draw(st.sampled_from(["table", "vindex", "arithmetic"]))
        kind = draw(st.sampled_from(["categorical", "bernoulli", "geometric"]))
        zeros = kind == "categorical" and use != "arithmetic" and draw(st.booleans())
        sites.append(
            Site(f"z{number}", kind, plate, use=use, zeros=zeros, param=draw(st.sampled_from([None, "theta"])))
        )
    parents = tuple(made.name for made in sites)
    if draw(st.sampled_from([False, False, True])):  # a latent in both: its table is small
        sites.append(Site("z2", "bernoulli", "P0*P1", parents, draw(st.sampled_from(["table", "arithmetic"]))))
        parents = draw(st.sampled_from([("z2",), ("z2", "z0")]))
    kind = draw(st.sampled_from(["normal", "poisson", "categorical"]))
    use, mask = draw(st.sampled_from(["table", "arithmetic"])), draw(st.sampled_from([None, None, "array"]))
    sites.append(Site("x3", kind, "P0*P1", parents, use, observed=True, mask=mask))
    return dataclasses.replace(program, sites=tuple(sites))


@st.composite
def dirichlets(draw):
    """Programs with a Dirichlet, shared, an item's own or chosen by another site, and what is drawn from it."""
    size = draw(st.integers(1, 2))
    plate = Plate("P0", size, full=draw(st.sampled_from([None, None, 3 * size])))
    program = Program((plate,), seed=draw(st.integers(0, 10_000)), dims=draw(st.sampled_from(["auto", "left", "gap"])))
    where, kind = draw(st.sampled_from([None, "P0"])), draw(st.sampled_from([*SIMPLEX]))
    few = kind == "dirichlet_of_three" and where == "P0" and size > 1  # so that there are not too many values
    sites = [Site("u", "dirichlet" if few else kind, where)]
    if draw(st.sampled_from([False] * 5 + [True])):
        sites.insert(0, Site("c", "bernoulli", where))
        sites[1] = dataclasses.replace(sites[1], parents=("c",))
    conjugate = {"dirichlet": "categorical_logits", "dirichlet_of_three": "categorical"}[sites[-1].kind]
    for number in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from([conjugate] * 6 + ["bernoulli", "normal"]))
        observed = kind == "normal" or draw(st.sampled_from([False, False, True]))
        mask = draw(st.sampled_from([None, None, None, "array"]))
        name = f"{'x' if observed else 'z'}{number}"
        sites.append(Site(name, kind, "P0", ("u",), "simplex", observed=observed, mask=mask))
        if not observed:
            kind = draw(st.sampled_from(["normal", "categorical", "poisson", "bernoulli"]))
            use = draw(st.sampled_from(["table", "vindex", "arithmetic"]))
            sites.append(Site(f"y{number}", kind, "P0", (name,), use, observed=True))
    return dataclasses.replace(program, sites=tuple(sites))


def conjugate(program):
    """Whether every site that is drawn from a Dirichlet is a Categorical with the Dirichlet as probabilities."""
    return all(made.kind in VECTORS for made in program.sites if made.use == "simplex")


def chosen(program):
    """Whether another site chooses the concentration of a Dirichlet."""
    return any(made.kind in SIMPLEX and made.parents for made in program.sites)
