"use strict";
// The EntropyLong report: documents with their anchors, sequences with their segments.

const VERDICTS = {
  kept: "kept",
  below: "not kept: its reduction is not above ε",
  beaten: "not kept: it does not beat every random control here",
  capped: "not kept: its chunk is already used as often as allowed",
  random: "random control",
};
const FULL_HEAT_NATS = 8;

/** A document: its facts, its tokens, and what was tried at the chosen anchor. */
function showDocument(entry) {
  const tried = element("div", { "aria-live": "polite" });
  const anchors = new Set(entry.anchors);
  const buttons = [];
  const tokens = entry.tokens.map((text, at) => {
    const heat = { "--share": (0.75 * Math.min(1, entry.entropy[at] / FULL_HEAT_NATS)).toFixed(2), title: `entropy ${fixed(entry.entropy[at])} nats, NLL ${fixed(entry.nll[at])} nats` };
    if (!anchors.has(at)) return element("span", heat, text);
    const keeps = entry.tried[at]?.kept;
    const button = element("button", { ...heat, type: "button", class: keeps ? "anchor keeps" : "anchor", "aria-pressed": "false",
      "aria-label": `anchor at token ${at}: ${text.trim() || "blank"}`, onclick: () => { press(buttons, button); tried.replaceChildren(...atAnchor(entry, at)); } },
      text.trim() ? text : `${text}◦`);
    buttons.push(button);
    return button;
  });
  arrows(buttons);
  const rest = entry.n_tokens - entry.tokens.length;
  place("document").replaceChildren(
    element("h3", {}, entry.id),
    facts({ shard: entry.shard, tokens: count(entry.n_tokens), "mean μ": `${fixed(entry.mean)} nats`, "threshold τ": `${fixed(entry.threshold)} nats`,
      "above τ": count(entry.n_above), anchors: entry.anchors.length, "contexts kept": entry.n_kept, source: entry.source, url: entry.url, license: entry.license }),
    element("div", { class: "legend" }, element("span", {}, "0 nats ", element("span", { class: "ramp" }), ` ${FULL_HEAT_NATS} nats`),
      element("span", {}, element("span", { class: "anchor" }, "anchor")), element("span", {}, element("span", { class: "anchor keeps" }, "anchor that keeps a context"))),
    element("div", { class: "text tokens" }, ...tokens, rest ? ` … ${count(rest)} more tokens` : null),
    tried);
  const first = buttons.find((button) => button.classList.contains("keeps")) ?? buttons[0];
  if (first) first.click();
  else tried.append(element("p", {}, "No token is above the threshold: this root has no anchor."));
}

/** Everything that was tried at an anchor. */
function atAnchor(entry, at) {
  const found = entry.tried[at];
  const title = element("h4", {}, `Anchor at token ${count(at)}: “${entry.tokens[at].trim() || "blank"}”`);
  const before = facts({ "entropy before": `${fixed(entry.entropy[at])} nats`, "NLL before": `${fixed(entry.nll[at])} nats`, kept: found?.kept, ε: data.rule.epsilon, criterion: data.rule.criterion });
  if (!found) return [title, before, element("p", {}, "This document has more anchors than the page shows in detail.")];
  const hidden = found.hidden ? element("p", { class: "faint" }, `${count(found.hidden)} weaker chunks are not shown.`) : null;
  return [title, before, element("div", { class: "cards" }, ...found.pairs.map((pair) => card(entry, at, pair))), ...(hidden ? [hidden] : [])];
}

/** A chunk that was put in front of the document, and what it did at the anchor. */
function card(entry, at, [chunk, rank, similarity, after, nllAfter, reduction, nllReduction, rival, verdict]) {
  const [chunkId, shard, text] = entry.chunks[chunk];
  return element("div", { class: `card ${verdict}` },
    element("div", { class: "verdict" }, VERDICTS[verdict]),
    facts({
      "reduction ΔI": fixed(reduction, 3), entropy: `${fixed(entry.entropy[at])} → ${fixed(after)} nats`, NLL: `${fixed(entry.nll[at])} → ${fixed(nllAfter)} nats`,
      "NLL reduction": fixed(nllReduction, 3), similarity: similarity == null ? null : fixed(similarity, 3), rank: rank == null ? null : rank + 1,
      "best control": rival == null ? null : fixed(rival, 3), chunk: chunkId, "in shard": shard,
    }),
    element("div", { class: "text", tabindex: 0 }, text));
}

/** A sequence: a map of its segments, and the text of the chosen one. */
function showSequence(entry) {
  const chosen = element("div", { "aria-live": "polite" });
  const buttons = entry.segments.map((segment, index) => {
    const length = segment.end - segment.start;
    const name = `${segment.kind.replaceAll("_", " ")}, ${count(length)} tokens`;
    const button = element("button", { type: "button", class: segment.kind, "aria-pressed": "false", title: name, "aria-label": `segment ${index + 1}: ${name}`,
      onclick: () => { press(buttons, button); chosen.replaceChildren(...segmentDetail(segment, index)); } }, length > 0.06 * entry.n_tokens ? segment.kind : "");
    button.style.flexGrow = length;
    button.style.flexBasis = 0;
    return button;
  });
  arrows(buttons);
  const kind = (name, text) => { const swatch = element("span", { class: "swatch" }); swatch.style.background = `var(${name})`; return element("span", {}, swatch, text); };
  place("sequence").replaceChildren(
    element("h3", {}, entry.id),
    facts({ shard: entry.shard, tokens: count(entry.n_tokens), contexts: entry.segments.filter((s) => s.kind === "context").length, roots: entry.segments.filter((s) => s.kind === "root").length }),
    element("div", { class: "map", role: "group", "aria-label": "Segments in proportion to their tokens" }, ...buttons),
    element("div", { class: "legend" }, kind("--blue", "verified context"), kind("--green", "root"), kind("--faint", "joint")),
    chosen);
  buttons[0].click();
}

function segmentDetail(segment, index) {
  const root = segment.kind === "context" ? "anchors in its root" : "anchors";
  return [
    element("h4", {}, `Segment ${index + 1}: ${segment.kind.replaceAll("_", " ")}`),
    facts({ tokens: `${count(segment.start)} to ${count(segment.end)}`, document: segment.doc_id, chunk: segment.chunk_id, "in shard": segment.chunk_shard,
      [root]: segment.anchors?.map((at, i) => `token ${at} (ΔI ${fixed(segment.reductions[i])})`).join(", "), "cut from its head": segment.cut ? `${count(segment.cut)} tokens` : null }),
    element("div", { class: "text tokens", tabindex: 0 }, segment.text),
  ];
}

place("subject").textContent = `${count(data.shards.length)} shards in ${data.store}, scored by ${data.model}`;
place("caveat").hidden = !data.embedded;
place("funnel").append(funnel(data.funnel));
if (data.nothing) place("nothing").textContent = `No sequence: ${data.nothing}`;
place("documents-shown").textContent = shownOf(data.documents.length, data.n_roots, "roots");
place("sequences-shown").textContent = shownOf(data.sequences.length, data.n_sequences, "sequences");
const mostKept = data.documents.reduce((best, entry, index) => (entry.n_kept > (data.documents[best]?.n_kept ?? -1) ? index : best), 0);
chooser(place("document-list"), "document", data.documents, (entry) => [entry.id, entry.n_kept ? `${entry.n_kept} kept` : ""], showDocument, mostKept);
chooser(place("sequence-list"), "sequence", data.sequences, (entry) => [entry.id, `${entry.segments.filter((s) => s.kind === "root").length} roots`], showSequence);
const interval = (ends) => (ends ? ` [${fixed(ends[0])}, ${fixed(ends[1])}]` : "");
place("grid-table").append(table(
  "The row with the ε of the tables is marked. Estimated FDR: pass rate of random chunks over that of retrieved ones, with its 95 % interval.",
  ["ε", "pairs that pass", "of retrieved", "of random", "estimated FDR", "contexts kept", "roots with any"],
  data.grid.map((row) => ({ marked: row.is_made, cells: [String(row.epsilon), row.passing, percent(row.retrieved), percent(row.random), row.fdr == null ? "–" : fixed(row.fdr) + interval(row.fdr_interval), row.contexts, row.roots] }))));
settingsAndCosts();
