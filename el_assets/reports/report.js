"use strict";
// What both reports need: elements from text, tables, and a list to choose from.
// Everything from the data reaches the page as text; nothing here parses markup.

const data = JSON.parse(document.getElementById("data").textContent);
const place = (id) => document.getElementById(id);

/** An element. Attributes by name, handlers by `onclick`; children are elements, or become text. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) made.style.setProperty(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

const count = (value) => (value == null ? "–" : value.toLocaleString("en"));
const fixed = (value, digits = 2) => (value == null ? "–" : value.toFixed(digits));
const percent = (value, digits = 1) => (value == null ? "–" : `${(100 * value).toFixed(digits)} %`);

/** A table. Columns of numbers are right-aligned; a row may be {cells, marked}. */
function table(caption, headings, rows) {
  const isNumber = headings.map((_, column) => rows.every((row) => /^(null|undefined|[-–\d.]+( %)?)$/.test(String((row.cells ?? row)[column]))));
  const cell = (name, value, column) =>
    element(name, { class: isNumber[column] ? "number" : String(value).length > 60 ? "long" : null, scope: name === "th" ? "col" : null },
      typeof value === "number" || value == null ? count(value) : value);
  return element("div", { class: "scroll", tabindex: 0 }, element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...headings.map((heading, column) => cell("th", heading, column)))),
    element("tbody", {}, ...rows.map((row) =>
      element("tr", { class: row.marked ? "marked" : null }, ...(row.cells ?? row).map((value, column) => cell("td", value, column)))))));
}

/** Names and values, side by side where there is room. */
function facts(pairs) {
  const known = Object.entries(pairs).filter(([, value]) => value != null && value !== "");
  return element("dl", { class: "facts" }, ...known.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

/** Counts from first to last, each with a bar on a logarithmic scale. */
function funnel(rows) {
  const highest = Math.log1p(Math.max(...rows.map(([, n]) => n)));
  return element("div", { class: "funnel", title: "bars on a logarithmic scale" }, ...rows.flatMap(([name, n, remark]) => [
    element("span", {}, name), element("b", {}, count(n)),
    element("span", { class: "bar", "--share": highest ? Math.log1p(n) / highest : 0, "--colour": "var(--blue)" }), element("span", { class: "faint remark" }, remark),
  ]));
}

/** A bar with its number. */
const bar = (share, label, colour) =>
  element("span", { class: "bar", "--share": Math.max(0, Math.min(1, share)), "--colour": colour }, element("span", {}, label));

/** A filtered list box; `show(entry)` when one is chosen, by click or arrow keys. The first choice is entry `first`. */
function chooser(target, what, entries, label, show, first = 0) {
  if (!entries.length) return target.append(`There is no ${what}.`);
  const options = entries.map((entry, index) => element("li",
    { role: "option", id: `${target.id}-${index}`, "aria-selected": "false", onclick: () => choose(index) },
    ...label(entry).map((text) => element("span", {}, text))));
  const list = element("ul", { role: "listbox", tabindex: 0, "aria-label": `Choose a ${what}`, onkeydown: onKey }, ...options);
  const filter = element("input", { type: "search", placeholder: "filter by name", "aria-label": `Filter by name of ${what}`, oninput: onFilter });
  let chosen = -1;

  function choose(index) {
    options[chosen]?.setAttribute("aria-selected", "false");
    chosen = index;
    options[index].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", options[index].id);
    const top = options[index].offsetTop - list.offsetTop;
    if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 30) list.scrollTop = top - list.clientHeight / 2;
    show(entries[index]);
  }
  /** The next one that the filter leaves, in either direction. */
  function move(step) {
    let index = chosen + step;
    while (options[index]?.hidden) index += step;
    if (options[index]) choose(index);
  }
  function onKey(event) {
    const left = options.filter((option) => !option.hidden);
    const moves = {
      ArrowDown: () => move(1),
      ArrowUp: () => move(-1),
      Home: () => left.length && choose(options.indexOf(left[0])),
      End: () => left.length && choose(options.indexOf(left.at(-1))),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }
  function onFilter() {
    const wanted = filter.value.toLowerCase();
    options.forEach((option) => { option.hidden = !option.textContent.toLowerCase().includes(wanted); });
  }
  target.append(filter, element("div", { class: "steps" },
    element("button", { type: "button", onclick: () => move(-1) }, "← previous"),
    element("button", { type: "button", onclick: () => move(1) }, "next →")), list);
  choose(first);
}

/** Left and right arrow keys move the focus among buttons. */
function arrows(buttons) {
  buttons.forEach((button, index) => button.addEventListener("keydown", (event) => {
    const next = buttons[index + ({ ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0)];
    if (!next || next === button) return;
    event.preventDefault();
    next.focus();
    next.click();
  }));
}

/** Presses one of some buttons. */
function press(buttons, pressed) {
  buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === pressed)));
}

const shownOf = (n, of, what) => (n === of ? `All ${count(of)} ${what} are shown.` : `${count(n)} of ${count(of)} ${what} are shown, a fixed random sample.`);

/** Settings and costs, which both reports end with. */
function settingsAndCosts() {
  const costs = data.costs.map(([asset, shards, rows, seconds, forwards, tokens]) =>
    [asset, shards, rows, fixed(seconds, 1), forwards, tokens, forwards && seconds ? Math.round(tokens / seconds) : null]);
  place("costs").append(table("Costs of making the tables", ["table", "partitions", "rows", "seconds", "forwards", "tokens", "tokens per second"], costs));
  place("settings-table").append(table("Settings of the tables", ["setting", "value", "meaning"], data.settings));
}
