import re
import xml.etree.ElementTree as ElementTree

import polars as pl

from el_assets.plots.drawing import shares, svg
from el_assets.plots.entropylong import contexts_per_root

PAIRS = pl.DataFrame({"doc_id": ["a", "a", "b"]})


def test_an_svg_is_one_element_in_the_pages_colours_and_names_no_other_place() -> None:
    drawn = svg(contexts_per_root(PAIRS), "Contexts per root")
    root = ElementTree.fromstring(drawn)
    assert (root.tag, root.attrib["aria-label"]) == ("svg", "Contexts per root")
    assert "http" not in drawn
    assert not re.search(r"<style|<script|@import|#[0-9a-f]{6};", drawn)
    assert "var(--blue)" in drawn
    assert all(href.startswith("#") for href in re.findall(r'href="([^"]*)"', drawn))


def test_two_pictures_on_one_page_share_no_id_and_equal_ones_are_equal() -> None:
    first, second = (svg(contexts_per_root(PAIRS), name) for name in ("First", "Second"))
    ids = [set(re.findall(r' id="([^"]*)"', drawn)) for drawn in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert svg(contexts_per_root(PAIRS), "First") == first


def test_shares_count_what_lies_beyond_the_edges_at_the_edge() -> None:
    edges = pl.Series([-1.0, 0.0, 1.0]).to_numpy()
    assert shares(pl.Series([-9.0, -0.5, 0.5, 7.0]).to_numpy(), edges).tolist() == [50.0, 50.0]
    assert shares(pl.Series([], dtype=pl.Float64).to_numpy(), edges).tolist() == [0.0, 0.0]
