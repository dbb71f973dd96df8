"use strict";
// The comparison page without this script is a plain table; everything that the script adds is made here, as text and never as HTML.
const $ = (id) => document.getElementById(id);
const {runs, pairs} = JSON.parse($("runs-data").textContent);
const NONE = "\u2013";

function tag(name, content = "", attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...[content].flat());
  return made;
}

// ---- the table: sorting and the filter

const table = $("runs");
const rows = () => [...table.tBodies[0].rows];

function order(a, b, numbers) {
  if (!a || !b) return {last: Number(!a) - Number(!b)}; // what was not measured stays below, whichever way the rest is sorted
  return {by: numbers ? Number(a) - Number(b) : a.localeCompare(b, "en", {numeric: true})};
}

function sortBy(head, name) {
  const numbers = head.classList.contains("num"), before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numbers;
  const value = (row) => row.cells[head.cellIndex].dataset.value;
  const sorted = rows().sort((a, b) => {
    const {last, by} = order(value(a), value(b), numbers);
    return last ?? (descending ? -by : by);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.tBodies[0].append(...sorted);
  const first = numbers ? (descending ? "highest" : "lowest") : (descending ? "last" : "first");
  $("said").textContent = `Sorted by ${name.toLowerCase()}, ${first} first.`;
}

function filter() {
  const wanted = $("dataset").value;
  for (const row of rows()) row.hidden = wanted !== "" && row.dataset.dataset !== wanted;
  const shown = rows().filter((row) => !row.hidden).length;
  $("said").textContent = `${shown} of ${rows().length} rows.`;
}

// ---- what changed between two runs

const percent = (share) => (100 * share).toFixed(1);
const signed = (share) => {
  const number = percent(share);
  return Number(number) === 0 ? "0.0" : number.replace("-", "\u2212").replace(/^(?=\d)/, "+");
};
const interval = ([, low, high, n]) => {
  const range = low === null || high === null ? [] : [" ", tag("small", `${percent(low)} to ${percent(high)}\u00a0%`)];
  return n === null ? range : [...range, " ", tag("small", `n = ${n.toLocaleString("en")}`)];
};
const cell = (metric) => tag("td", [tag("strong", `${percent(metric[0])}\u00a0%`), ...interval(metric)], {class: "num"});

function scrolling(name, heads, lines) {
  const head = tag("tr", heads.map(([text, kind]) => tag("th", text, {scope: "col", class: kind})));
  const made = tag("table", [tag("thead", head), tag("tbody", lines)]);
  return tag("div", made, {class: "scroll", tabindex: "0", role: "region", "aria-label": name});
}

const label = (run) => `${run.dataset}, ${run.id}`;

const own = (facts, key) => (Object.hasOwn(facts, key) ? facts[key] : undefined);

function factLines(one, two) {
  const lines = [];
  for (const group of new Set([...Object.keys(one.facts), ...Object.keys(two.facts)])) {
    const a = one.facts[group] || {}, b = two.facts[group] || {};
    for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
      const values = [own(a, key), own(b, key)];
      if (values[0] === values[1]) continue;
      lines.push(tag("tr", [tag("th", [key, " ", tag("small", group)], {scope: "row"}), ...values.map((value) => tag("td", value === undefined ? NONE : value || "none", {class: "value"}))]));
    }
  }
  return lines;
}

function facts(one, two) {
  const lines = factLines(one, two);
  if (!lines.length) return tag("p", "Settings, models, versions, code, data and counts are the same.");
  return scrolling("What differs", [["What differs"], ["From: " + label(one)], ["To: " + label(two)]], lines);
}

function metrics(name, a, b) {
  const shared = Object.keys(a).filter((key) => Object.hasOwn(b, key));
  if (!shared.length) return [];
  const lines = shared.map((key) => tag("tr", [
    tag("th", key, {scope: "row"}), tag("td", signed(b[key][0] - a[key][0]), {class: "num"}), cell(a[key]), cell(b[key]),
  ]));
  const heads = [["Metric"], ["Difference, points", "num"], ["From", "num"], ["To", "num"]];
  const first = shared[0], change = signed(b[first][0] - a[first][0]);
  const summary = `${name}: ${first} ${percent(a[first][0])} to ${percent(b[first][0])}\u00a0% (${change} points)`;
  return [tag("details", [tag("summary", summary), scrolling(`Metrics of ${name}`, heads, lines)])];
}

function paired(from, to) {
  const lines = pairs.filter((pair) => (pair.from === from && pair.to === to) || (pair.from === to && pair.to === from)).map((pair) => {
    const sign = pair.from === from ? 1 : -1, ends = [sign * pair.low, sign * pair.high].sort((a, b) => a - b);
    const range = tag("small", `${signed(ends[0])} to ${signed(ends[1])}`);
    const difference = tag("td", [tag("strong", signed(sign * pair.value)), " ", range], {class: "num"});
    const p = tag("td", pair.p < 0.001 ? "< 0.001" : pair.p.toFixed(3), {class: "num"});
    return tag("tr", [tag("th", pair.condition, {scope: "row"}), difference, tag("td", pair.n.toLocaleString("en"), {class: "num"}), p]);
  });
  if (!lines.length) return [tag("p", "The two runs were not paired face by face, so there is no test of their differences: hold the intervals against each other.")];
  const heads = [["Condition"], ["Difference, points", "num"], ["Faces", "num"], ["p", "num"]];
  return [
    tag("p", "Both runs predicted the same test faces, so the differences of accuracy can be tested face by face (permutation test, p adjusted by Holm over this page)."),
    scrolling("Paired comparison", heads, lines),
  ];
}

function dataNote(one, two) {
  if (one.data && one.data === two.data) return [];
  return [tag("p", "The two runs do not rest on the same data, so a difference is not one of methods alone.", {class: "warn"})];
}

function change() {
  const from = Number($("from").value), to = Number($("to").value), one = runs[from], two = runs[to];
  if (from === to) return $("change").replaceChildren(tag("p", "Choose two different runs."));
  const names = [one, two].map((run) => Object.keys(run.conditions));
  const shared = names[0].filter((name) => names[1].includes(name));
  const only = [names[0], names[1]].map((list) => list.filter((name) => !shared.includes(name)));
  const alone = ["From", "To"].flatMap((side, i) => (only[i].length ? [tag("p", `${side} alone has the conditions ${only[i].join(", ")}.`)] : []));
  const tables = shared.flatMap((name) => metrics(name, one.conditions[name], two.conditions[name]));
  const none = tables.length ? [] : [tag("p", "The two runs share no metric.")];
  $("change").replaceChildren(
    ...dataNote(one, two), tag("h3", "Settings, models, versions, code and counts"), facts(one, two),
    tag("h3", "Paired test"), ...paired(from, to), tag("h3", "Metrics of both runs"), ...tables, ...none, ...alone,
  );
  const open = $("change").querySelector("details");
  if (open) open.open = true;
}

// ---- start

for (const head of table ? table.tHead.rows[0].cells : []) {
  const name = head.textContent.trim(), button = tag("button", name, {type: "button"});
  head.replaceChildren(button);
  button.addEventListener("click", () => sortBy(head, name));
}
if (table) {
  $("dataset").addEventListener("change", filter);
  $("filter").hidden = false;
}
if (runs.length > 1) {
  for (const id of ["from", "to"]) {
    $(id).append(...runs.map((run, index) => new Option(`${label(run)} (${run.created || "no date"})`, index)));
    $(id).addEventListener("change", change);
  }
  const before = (run, place) => runs.findIndex((other, index) => index > place && other.dataset === run.dataset);
  const to = Math.max(0, runs.findIndex((run, place) => before(run, place) > 0)); // the newest run that has one before it
  $("to").value = to;
  $("from").value = Math.max(1, before(runs[to], to));
  $("changed").hidden = false;
  change();
}
document.body.dataset.ready = "yes";
