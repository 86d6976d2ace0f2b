import base64
import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from el_assets.reports.page import as_script_data, render, write_page
from tests.el_assets.reports.pages import Page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!-- & \u2028\u2029 {{title}} {{style}}"


def page(**data: object) -> Page:
    figures = dict.fromkeys(("plane", "readings", "awareness"), '<svg role="img"></svg>')
    return Page(render("A title", "gateau.html", "gateau.js", data, figures))


def test_hostile_text_stays_data() -> None:
    harmless, found = page(text="x"), page(text=HOSTILE)
    assert found.data == {"text": HOSTILE}
    assert found.elements == harmless.elements, "no element more"
    assert found.outside_the_data() == harmless.outside_the_data()
    assert found.unbalanced == []


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()) | st.floats(allow_nan=False, allow_infinity=False)))
def test_any_data_comes_back_and_holds_no_markup(data: dict[str, object]) -> None:
    written = as_script_data(data)
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_know_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_script_data({"x": value})


def test_the_policy_allows_the_pages_own_scripts_and_nothing_else() -> None:
    found = page(text="x")
    sources = dict(directive.split(" ", 1) for directive in found.policy.split("; "))
    assert sources["default-src"] == sources["base-uri"] == sources["form-action"] == "'none'"
    own = [text for kind, text in found.scripts if kind is None]
    hashes = [f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in own]
    assert len(own) == 2
    assert sources["script-src"].split(" ") == hashes


def test_the_page_names_no_other_place() -> None:
    found = page(text="x")
    assert "http://" not in found.html
    assert "https://" not in found.html
    links = [a[name] for _, a in found.elements for name in ("src", "href") if name in a]
    assert all((link or "").startswith("#") for link in links)
    assert not [tag for tag, _ in found.elements if tag in ("link", "iframe", "object", "img")]


def test_a_page_is_written_once(tmp_path: Path) -> None:
    path = UPath(tmp_path / "reports" / "r.html")
    assert [write_page(path, html) for html in ("a", "a", "ü")] == [True, False, True]
    assert path.read_text("utf-8") == "ü"
    assert [file.name for file in (tmp_path / "reports").iterdir()] == ["r.html"], "no temporary file is left"


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(ValueError, match=r"r\.html' cannot be written .*EL_STORE"):
        write_page(UPath(tmp_path / "reports" / "r.html"), "a")
