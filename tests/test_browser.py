"""The UI and the reports in a real browser, used as people use them."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import polars as pl
import pytest

from el_resources.store.shard_tables import ShardTables
from tests.conftest import chat, library_documents, library_samples, write_json_lines
from tests.support.dagster_server import Server

pytestmark = pytest.mark.services
playwright = pytest.importorskip("playwright.sync_api", reason="`make services` installs it")

SHARDS = ["a.jsonl", "b.jsonl"]
HOSTILE = "</script><script>document.title = 'taken over'</script><img src=x onerror=\"document.title = 'taken over'\">"
# Small enough for a minute: few roots, anchors and candidates, short sequences.
SMALL = {
    "EL_ROOTS_PER_SHARD": "6",
    "EL_ROOT_TOKENS_MIN": "64",
    "EL_ROOT_TOKENS_MAX": "400",
    "EL_CHUNK_TOKENS": "96",
    "EL_ALPHA": "0.5",
    "EL_MAX_ANCHORS": "3",
    "EL_CANDIDATES_PER_ANCHOR": "2",
    "EL_CONTROLS_PER_ROOT": "2",
    "EL_SEQUENCE_TOKENS": "1000",
    "EL_EPSILON": "-0.5",
    "EL_BEATS_CONTROLS": "false",
    "EL_SHORT_WINDOW": "128",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Both halves and their reports finished over two shards; one document and one sample are hostile."""
    home = tmp_path_factory.mktemp("home")
    server = Server(home, {**SMALL, "EL_WATCH_EVERY_SECONDS": "5", "EL_INSTRUCTIONS": f"jsonl:{home / 'instructions'}"})
    documents = library_documents(10)
    documents[0]["text"] = f"{HOSTILE}\n\n{documents[0]['text']}"
    samples = [chat("hostile", f"{HOSTILE}\n\n{documents[1]['text']}", HOSTILE, HOSTILE), *library_samples(11)]
    for number, name in enumerate(SHARDS):
        write_json_lines(home / "corpus" / name, documents[5 * number : 5 * number + 5])
        write_json_lines(home / "instructions" / name, samples[6 * number : 6 * number + 6])
    server.command("run")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "no Chromium is installed; `make services` installs it"
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=[*quiet, "--disable-sync"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "playwright.Browser") -> Iterator["playwright.Page"]:
    """A page of laptop size; what it complains of fails the test."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    page.close()


# --- the Dagster UI


def test_the_lineage_shows_every_asset(server: Server, page: "playwright.Page") -> None:
    page.set_viewport_size({"width": 3400, "height": 3400})  # what is outside is not drawn
    page.goto(f"{server.url}/asset-groups", wait_until="networkidle")
    playwright.expect(page.get_by_text("entropylong", exact=True).first).to_be_visible()
    page.keyboard.press("Alt+e")  # expands the groups
    nodes = server.ask("{ assetNodes { assetKey { path } } }")["assetNodes"]
    names = [node["assetKey"]["path"][-1] for node in nodes]
    assert len(names) > 15
    # Long names are shortened in the middle.
    shown = [page.get_by_text(re.compile(f"^{name[:9]}")).first for name in names]
    playwright.expect(page.get_by_text("packed_sequences", exact=True).first).to_be_visible()
    assert [name for name, text in zip(names, shown, strict=True) if not text.count()] == []


def test_an_asset_is_materialized_by_clicking(server: Server, page: "playwright.Page") -> None:
    before = len(server.finished_runs())
    page.goto(f"{server.url}/assets/influence_scores", wait_until="networkidle")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    server.wait_for("the run", lambda: len(server.finished_runs()) > before, seconds=180)
    assert server.finished_runs()[0]["status"] == "SUCCESS"


def test_the_launchpad_says_what_is_wrong_with_a_value_and_launches_nothing(
    server: Server, page: "playwright.Page"
) -> None:
    query = "{ runsOrError { ... on Runs { count } } }"
    before = server.ask(query)["runsOrError"]["count"]
    config = quote("resources: {settings: {config: {epsilon: 2.0}}}")
    address = f"{server.url}/locations/entropylong/jobs/observe_models/playground/setup?config={config}"
    page.goto(address, wait_until="networkidle")
    page.get_by_role("button", name="Launch Run").click()
    words = page.get_by_text(re.compile(r"epsilon \(EL_EPSILON\) = 2.0: Input should be less than 1"))
    playwright.expect(words).to_be_visible()
    assert server.ask(query)["runsOrError"]["count"] == before


def test_a_backfill_over_two_shards_is_launched_from_the_dialog(server: Server, page: "playwright.Page") -> None:
    before = len(server.finished_runs())
    page.goto(f"{server.url}/assets/verified_pairs", wait_until="networkidle")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    page.get_by_text("All", exact=True).click()
    page.get_by_role("button", name=re.compile("Launch")).last.click()
    server.wait_for("the backfill's run", lambda: len(server.finished_runs()) > before, seconds=240)
    run = server.finished_runs()[0]
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert run["status"] == "SUCCESS"
    assert (tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]) == tuple(SHARDS)


def test_a_materialization_shows_its_picture(server: Server, page: "playwright.Page") -> None:
    page.goto(f"{server.url}/assets/entropy_maps?view=partitions&partition={SHARDS[0]}", wait_until="networkidle")
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/png']").first
    playwright.expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 300


def test_a_checks_result_is_shown(server: Server, page: "playwright.Page") -> None:
    page.goto(f"{server.url}/assets/packed_sequences?view=checks", wait_until="networkidle")
    playwright.expect(page.get_by_text("sequences_are_full").first).to_be_visible()
    playwright.expect(page.get_by_text("Passed").first).to_be_visible()


def test_runs_from_the_shell_are_on_the_timeline_and_in_the_jobs_history(
    server: Server, page: "playwright.Page"
) -> None:
    page.goto(f"{server.url}/overview/activity/timeline", wait_until="networkidle")
    for job in ("build_index", "build_sequences", "score_samples", "select_samples", "build_reports"):
        playwright.expect(page.get_by_text(job, exact=True).first).to_be_visible()
    page.goto(f"{server.url}/locations/entropylong/jobs/build_sequences/runs", wait_until="networkidle")
    playwright.expect(page.get_by_text("Success").first).to_be_visible()
    assert page.get_by_text("dagster-ray").count() == 0


def shows(server: Server, page: "playwright.Page", address: str, words: str) -> None:
    """Open a page again until it shows the words: it loads events once, and the sensor may record them later."""

    def shown() -> bool:
        page.goto(f"{server.url}/{address}", wait_until="networkidle")
        return page.get_by_text(words).count() > 0

    server.wait_for(f"{words!r} on {address}", shown, seconds=120)


def test_what_is_stale_shows_by_itself(server: Server, page: "playwright.Page") -> None:
    """A file changes; nobody runs a check."""
    query = """{ sensorOrError(sensorSelector: {repositoryName: "__repository__",
        repositoryLocationName: "entropylong", sensorName: "tell_what_changed"}) {
        ... on Sensor { sensorState { typeSpecificData { ... on SensorData { lastCursor } } } } } }"""

    def remembered() -> bool:
        state = server.ask(query)["sensorOrError"]["sensorState"]["typeSpecificData"]
        return bool(json.loads((state or {}).get("lastCursor") or "{}").get("corpus", {}).get("shards"))

    server.wait_for("the sensor's first look at the corpus", remembered, seconds=120)
    file = server.home / "corpus" / SHARDS[1]
    before = file.read_bytes()
    write_json_lines(file, library_documents(4, offset=20))
    try:
        check = "assets/packed_sequences?view=checks&checkDetail=every_shard_is_current"
        shows(server, page, check, f"documents: stale: source changed: {SHARDS[1]}")
        shows(server, page, "assets/source_corpus?view=events", f"1 changed: {SHARDS[1]}")
    finally:
        file.write_bytes(before)


def test_a_shard_whose_check_failed_is_red(server: Server, page: "playwright.Page") -> None:
    tables = ShardTables(str(server.home / "store"))
    stamp, chunks = tables.require_stamp("context_chunks", SHARDS[1]), tables.read("context_chunks", SHARDS[1])
    tables.write(chunks.with_columns(text=pl.lit("rubbish")), stamp)
    server.command("run", "--select", "index", code=1)
    tables.write(chunks, stamp)
    page.goto(f"{server.url}/assets/context_chunks?view=partitions", wait_until="networkidle")
    playwright.expect(page.get_by_text("Failed (1)")).to_be_visible()
    page.goto(f"{server.url}/assets/context_chunks?view=checks", wait_until="networkidle")
    playwright.expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    assert page.get_by_text("Skipped").count() == 0
    page.get_by_role("button", name="Execute all").click()  # all is well again
    page.get_by_text("Execution history", exact=True).click()
    passed = page.get_by_role("row").filter(has_text=SHARDS[1]).filter(has_text="Passed")

    def shown() -> bool:
        page.reload(wait_until="networkidle")
        page.get_by_text("Execution history", exact=True).click()
        return passed.count() > 1

    server.wait_for("the check's result", shown, seconds=120)


HOSTILE_PAGE = """<title>evil</title><iframe src="SERVER/graphql?query=MUTATION"></iframe>
<form method="post" action="SERVER/graphql?query=MUTATION" target="frame"></form><iframe name="frame"></iframe>
<form method="post" enctype="text/plain" action="SERVER/graphql" target="other">
<input name='{"query": "MUTATION", "x": "' value='"}'></form><iframe name="other"></iframe>
<script type="module">
const mutation = decodeURIComponent('MUTATION'), body = JSON.stringify({query: mutation}), url = 'SERVER/graphql';
for (const form of document.forms) form.submit();
const kinds = ['text/plain', 'text/plain; x=application/json', 'application/json'];
const asked = kinds.flatMap(kind => ['cors', 'no-cors'].map(
  mode => fetch(url, {method: 'POST', mode, body, credentials: 'include', headers: {'Content-Type': kind}})));
asked.push(fetch(url + '?query=MUTATION', {mode: 'no-cors'}), fetch(url + '?query=MUTATION'));
asked.push(new Promise((opened, refused) => {
  const socket = new WebSocket('SERVER/graphql'.replace('http', 'ws'), 'graphql-ws');
  socket.onopen = opened; socket.onerror = refused;
}));
const outcomes = await Promise.allSettled(asked);
window.outcomes = outcomes.map(one => one.status == 'fulfilled' ? one.value.type : 'refused');
</script>"""
MUTATION = """mutation { launchPipelineExecution(executionParams: {mode: "default", runConfigData: {}, selector:
{repositoryLocationName: "entropylong", repositoryName: "__repository__", pipelineName: "observe_models"}})
{ __typename } }"""


@contextmanager
def site(content: bytes) -> Iterator[str]:
    """The address of a page; its port makes it another site than the UI's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_page_of_another_site_starts_nothing(server: Server, page: "playwright.Page") -> None:
    runs = "{ runsOrError { ... on Runs { count } } }"
    before = server.ask(runs)
    content = HOSTILE_PAGE.replace("SERVER", server.url).replace("MUTATION", quote(MUTATION))
    with site(content.encode()) as address:
        page.goto(address)
        outcomes = page.wait_for_function("window.outcomes").json_value()
        page.wait_for_load_state("networkidle")
    # An answer that a page may not read is opaque; the server's refusal is in it.
    assert [outcome for outcome in outcomes if outcome not in ("refused", "opaque")] == []
    assert outcomes[-1] == "refused", "the WebSocket is not opened"
    assert server.ask(runs) == before


# --- the reports


@pytest.fixture(params=["entropylong_report", "gateau_report"])
def report(request: pytest.FixtureRequest, server: Server, page: "playwright.Page") -> Iterator["playwright.Page"]:
    """A report opened from its file; nothing it does reaches the network, and nothing complains."""
    path = Path(server.home) / "store" / "reports" / f"{request.param}.html"
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda one: requests.append(one.url))
    page.goto(path.as_uri())
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("width", [1440, 390])
def test_a_report_opens_and_hostile_text_is_text(report: "playwright.Page", width: int) -> None:
    report.set_viewport_size({"width": width, "height": 900})
    assert report.title() != "taken over"
    assert report.evaluate("document.documentElement.scrollWidth") <= width, "nothing to scroll sideways"
    settings = report.locator("#settings-table .scroll")
    assert settings.evaluate("table => table.scrollWidth - table.clientWidth") == 0, "what settings mean is in sight"
    assert report.locator("img[src='x']").count() == 0
    assert report.locator("h1").count() == 1


def test_documents_are_read_by_key_and_by_click(server: Server, page: "playwright.Page") -> None:
    page.goto((server.home / "store" / "reports" / "entropylong_report.html").as_uri())
    title, documents = page.locator("#document h3"), page.locator("#document-list [role=option]")
    documents.first.click()
    first = title.inner_text()
    page.locator("#document-list [role=listbox]").focus()
    page.keyboard.press("ArrowDown")
    playwright.expect(title).not_to_have_text(first)
    page.keyboard.press("Home")
    playwright.expect(title).to_have_text(first)
    anchors, heading = page.locator("#document button.anchor"), page.locator("#document h4")
    anchors.first.click()
    before = heading.inner_text()
    assert page.locator("#document .card").count() > 0, "retrieved contexts and controls of the anchor"
    page.keyboard.press("ArrowRight")
    playwright.expect(heading).not_to_have_text(before)
