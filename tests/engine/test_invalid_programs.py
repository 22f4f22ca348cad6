"""What inference makes no sense of is refused, and a site is named."""

import jax
import pytest
from engine.invalid_programs import INVALID

from pl2d_ppl import EnumELBO, log_evidence
from pl2d_ppl.guides.exact import exact


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("model", INVALID, ids=lambda model: model.__name__)
def test_the_evidence_of_an_invalid_program_is_refused(model, size):
    if model.__name__ in ("outside", "in_a_sibling") and size == 1:
        pytest.skip("a plate of one item broadcasts: nothing tells that it is used outside")
    with pytest.raises(ValueError, match=rf"\b[{INVALID[model]}]\b"):
        log_evidence(model)(size)


@pytest.mark.parametrize("model", INVALID, ids=lambda model: model.__name__)
def test_the_exact_guide_of_an_invalid_program_is_refused(model):
    with pytest.raises(ValueError, match=rf"\b[{INVALID[model]}]\b"):
        EnumELBO().loss(jax.random.key(0), {}, model, exact(model), 3)
