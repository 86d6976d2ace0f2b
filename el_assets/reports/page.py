"""A report as one HTML file, put together from style sheet, scripts, data and pictures.

Guarantees:
- The page loads nothing. Its Content-Security-Policy allows only its own style and the scripts whose hashes it lists,
  so a script in a document would not run even if it became markup.
- Text from tables does not become markup. It is stored in one JSON block, in which `<`, `>` and `&` are escaped, and
  the scripts put it into the page as text only.
- Equal tables give equal bytes.
"""

import base64
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from importlib import resources
from typing import Any

from upath import UPath

from el_resources.store.whole_files import put_whole

# The characters that HTML reads as markup, and two line ends of JavaScript that JSON does not escape.
ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
PLACE = re.compile(r"\{\{([\w-]+)\}\}")


def render(title: str, body: str, script: str, data: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """Return the whole page.

    Args:
        body: file of the report's markup; `{{name}}` in it is replaced by the figure with that name.
        script: file of the report's script.
        figures: SVG elements, which hold no text from tables.
    """
    scripts = [_file("report.js"), _file(script)]
    hashes = " ".join(f"'sha256-{base64.b64encode(sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
    return _filled(
        _file("page.html"),
        {
            "policy": policy,
            "title": title,
            "style": _file("report.css"),
            "body": _filled(_file(body), figures),
            "data": as_script_data(data),
            "scripts": "\n".join(f"<script>{s}</script>" for s in scripts),
        },
    )


def as_script_data(data: Mapping[str, Any]) -> str:
    """Return JSON that is safe in a `<script>` element, whatever its texts hold."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPED)


def write_page(path: UPath, html: str) -> bool:
    """Write a page (atomically on a local disk). Return False if the file already has this content.

    Raises:
        ValueError: the file cannot be written.
    """
    content = html.encode("utf-8")
    if path.exists() and path.read_bytes() == content:
        return False
    try:
        put_whole(path, content)
    except OSError as error:
        raise ValueError(
            f"the report {str(path)!r} cannot be written ({error}); set EL_STORE to a folder that you may write to"
        ) from error
    return True


def _file(name: str) -> str:
    return resources.files("el_assets.reports").joinpath(name).read_text("utf-8")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """Return the template with its places filled, in one pass, since inserted text may itself look like a place."""
    return PLACE.sub(lambda place: parts[place[1]], template)
