"""The README's pictures, from a run of the demo.

After `make services`: PYTHONPATH=. .venv/bin/python docs/make_pictures.py
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.dagster_server import Server

PICTURES = Path(__file__).parent / "pictures"
WIDE = {"width": 1440, "height": 900}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), {"EL_CORPUS": "python-docs:"})
        print(server.command("run"))
        server.start()
        try:
            with sync_playwright() as running:
                path = shutil.which("chromium") or shutil.which("google-chrome")
                browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_page(viewport=WIDE)
                lineage(page, server)
                materialization(page, server)
                reports(page, server)
                browser.close()
        finally:
            server.stop()


def lineage(page: Page, server: Server) -> None:
    page.set_viewport_size({"width": 1800, "height": 1700})
    page.goto(f"{server.url}/asset-groups", wait_until="networkidle")
    page.get_by_text("packed_sequences").first.wait_for(state="attached")
    page.keyboard.press("Alt+e")
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


def reports(page: Page, server: Server) -> None:
    for name in ("entropylong_report", "gateau_report"):
        page.goto((server.home / "store" / "reports" / f"{name}.html").as_uri())
        page.wait_for_timeout(500)
        page.screenshot(
            path=PICTURES / f"{name}.png", clip={"x": 0, "y": 0, "width": 1440, "height": 1500}, full_page=True
        )


if __name__ == "__main__":
    main()
