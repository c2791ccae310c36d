"""Research objects: terms have an address, and every entity that is named is described."""

from __future__ import annotations

import pytest

from terareg.exports.crate import FILE, Terms, crate


@pytest.mark.parametrize(
    ("given", "address"),
    [("CC-BY-4.0", "https://spdx.org/licenses/CC-BY-4.0"),
     ("https://example.org/terms", "https://example.org/terms")],
)  # fmt: skip
def test_terms_have_an_address(given, address):
    assert Terms("2026-11-30", given).license_url == address


def test_every_entity_that_is_named_is_described():
    terms = Terms("2026-11-30", "CC0-1.0", ("Ada L.",))
    given = ("brain", "one brain", terms, {"a.ome.zarr": "signal"}, {"a.json": "of a.ome.zarr"})
    made = crate(*given)
    assert made == crate(*given)
    entities = {entity["@id"]: entity for entity in made["@graph"]}
    assert {FILE, "./", "a.ome.zarr/", "a.json"} <= set(entities)
    assert entities["a.ome.zarr/"]["@type"] == "Dataset"
    assert entities["a.json"]["encodingFormat"] == "application/json"
    named = [value for entity in made["@graph"] for value in entity.values()]
    named += [one for value in named if isinstance(value, list) for one in value]
    told = {value["@id"] for value in named if isinstance(value, dict)}
    assert told - set(entities) == {"https://w3id.org/ro/crate/1.1"}
