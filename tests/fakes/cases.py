"""The stand-ins of EDM and GeoLDM as cases of the contract."""

from fakes.edm_like import make_edm, make_geoldm
from gaga_adapter import testing

CASES = {
    "edm": testing.Case("the fake EDM", make_edm),
    "geoldm": testing.Case(
        "the fake GeoLDM",
        make_geoldm,
        options=frozenset({"schedule", "loss", "charges", "context", "trainable"}),
    ),
}
