"use strict";
// The GATEAU report: samples with their segments.

/** A sample: its scores, its place, its texts and its segments. */
function showSample(entry) {
  const [short, long] = entry.perplexities;
  const marker = element("i");
  marker.style.left = `${(100 * (entry.rank + 0.5)) / data.n_samples}%`;
  place("sample").replaceChildren(
    element("h3", {}, entry.id),
    facts({ shard: entry.shard, source: entry.source, "needed passage": entry.evidence }),
    element("h4", {}, `Rank ${count(entry.rank + 1)} of ${count(data.n_samples)}`),
    bandedPlace(entry.rank, marker),
    element("p", { class: "faint keys" }, `best first; coloured: ${data.subsets.map((one) => one.name).join(", ")}`),
    facts({ score: fixed(entry.score, 3), ...Object.fromEntries(data.terms.map(([column, called]) => [called, fixed(entry[column], 3)])), "perplexity, short window": fixed(short), "perplexity, long window": fixed(long),
      "context tokens": count(entry.n_context_tokens), "not in the short window": count(entry.n_dropped_short), "cut from the long window": count(entry.n_dropped_context_tokens),
      "response tokens": count(entry.n_response_tokens), "attention outside the context": percent(entry.rest_attention) }),
    element("h4", {}, "Instruction"), element("div", { class: "text tokens", tabindex: 0 }, entry.instruction),
    element("h4", {}, "Response"), element("div", { class: "text tokens", tabindex: 0 }, entry.response),
    element("h4", {}, `Context, ${count(entry.lengths.length)} segments`),
    ...(entry.lengths.length ? segments(entry) : [element("p", {}, "This sample has no context.")]));
}

/** A sample's place in the pool, with a band for each subset. */
function bandedPlace(rank, marker) {
  const colours = ["var(--red)", "var(--orange)", "var(--blue)"];
  const ends = data.subsets.map((one) => 100 * one.share);
  const bands = ends.map((end, i) => `${colours[i]} ${ends[i - 1] ?? 0}% ${end}%`);
  const bar = element("div", { class: "place", role: "img", "aria-label": `rank ${rank + 1} of ${data.n_samples}` }, marker);
  bar.style.background = `linear-gradient(to right, ${bands.join(", ")}, var(--rule) ${ends.at(-1)}%)`;
  return bar;
}

/** The segments in their order: attention a token and importance, text on demand. */
function segments(entry) {
  const perToken = entry.attention.map((mass, i) => mass / entry.lengths[i]);
  const highest = Math.max(...perToken);
  // Importance on the scale of the sample, as its normalisation sees it.
  const low = Math.min(...entry.importance), span = Math.max(...entry.importance) - low;
  const rows = entry.lengths.map((length, i) => element("li", {}, element("details", { class: i === entry.evidence_segment ? "needed" : null },
    element("summary", {}, element("span", {}, i + 1),
      bar(highest ? perToken[i] / highest : 0, percent(entry.attention[i], 2), "var(--blue)"),
      bar(span ? (entry.importance[i] - low) / span : 0, `${fixed(entry.importance[i], 1)} (NLL ${fixed(entry.nll_alone[i])})`, "var(--green)"),
      i === entry.evidence_segment ? element("span", { class: "remark" }, "the needed passage ends here") : null),
    facts({ tokens: length, "attention per 1,000 tokens": percent(1000 * perToken[i], 2) }),
    element("div", { class: "text" }, entry.segments[i]))));
  return [element("p", { class: "faint keys" }, "Bars are on the scale of this sample: attention a token, and importance from its lowest to its highest. A low perplexity says that the segment alone predicts the response well."),
    element("div", { class: "head" }, element("span", {}, "no."), element("span", {}, "attention"), element("span", {}, "importance: perplexity alone")),
    element("ol", { class: "segments" }, ...rows)];
}

place("subject").textContent = `${count(data.n_samples)} ranked samples of ${count(data.shards.length)} shards in ${data.store}`;
place("funnel").append(funnel(data.funnel));
place("correlations").textContent = data.with_cam
  ? `Rank correlation of the final score ${data.terms.map(([, called], i) => `with ${called} ${fixed(data.correlations[i])}`).join(", ")}: how much each term decides the order.`
  : "CAM is off (EL_CAM=false): no awareness was measured, and samples are ranked by HMP alone.";
if (data.evidence.length) place("evidence").append(table("Ranks of samples by the place of the needed passage", ["passage", "samples", "median rank", ...data.subsets.map((one) => `in ${one.name}`)], data.evidence));
place("samples-shown").textContent = shownOf(data.samples.length, data.n_samples, "samples");
const best = data.samples.reduce((found, entry, index) => (entry.rank < data.samples[found].rank ? index : found), 0);
chooser(place("sample-list"), "sample", data.samples, (entry) => [entry.id, `#${entry.rank + 1}`], showSample, best);
settingsAndCosts();
