"""Make the README's pictures from the store and reports that `make demo` left in this folder.

After `make demo` and `make services`: PYTHONPATH=. .venv/bin/python docs/make_pictures.py
"""

import argparse
import shutil
from pathlib import Path

try:
    from playwright.sync_api import Page, sync_playwright
except ImportError as error:
    raise SystemExit("playwright is not installed: pip install 'entropylong[services]', or `make services`") from error

from tests.support.dagster_server import ROOT, Server

PICTURES = Path(__file__).parent / "pictures"
WIDE = {"width": 1440, "height": 900}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    server = Server(ROOT, {"EL_CORPUS": "python-docs:", "EL_STORE": "data"})
    path = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        server.start()
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport=WIDE)
            lineage(page, server)
            materialization(page, server)
            reports(page)
            browser.close()
    finally:
        server.stop()
        (ROOT / "server.log").unlink(missing_ok=True)


def lineage(page: Page, server: Server) -> None:
    page.set_viewport_size({"width": 1800, "height": 1700})
    page.goto(f"{server.url}/asset-groups", wait_until="networkidle")
    page.get_by_text("entropylong", exact=True).first.wait_for()
    page.keyboard.press("Alt+e")  # expands the groups
    page.get_by_text("packed_sequences").first.wait_for(state="attached")
    page.wait_for_timeout(5000)  # the layout moves for a while
    page.screenshot(path=PICTURES / "lineage.png")
    page.set_viewport_size(WIDE)


def materialization(page: Page, server: Server) -> None:
    address = f"{server.url}/assets/context_scores?view=partitions&partition=python-docs-0"
    page.goto(address, wait_until="networkidle")
    page.get_by_text("[Show Markdown]").first.click()
    page.locator("img[src^='data:image/png']").first.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=PICTURES / "materialization.png")


def reports(page: Page) -> None:
    for name in ("entropylong_report", "gateau_report"):
        page.goto((ROOT / "data" / "reports" / f"{name}.html").as_uri())
        page.wait_for_timeout(500)
        page.screenshot(
            path=PICTURES / f"{name}.png", clip={"x": 0, "y": 0, "width": 1440, "height": 1500}, full_page=True
        )


if __name__ == "__main__":
    main()
