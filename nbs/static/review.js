"use strict";
const $ = (id) => document.getElementById(id);
const VERDICTS = {accept: "accepted", revert: "reverted", review: "to review"};
let faces = [], verdicts = new Map(), shown = [], at = 0, busy = false;

const final = (face) => verdicts.get(face.key) || face.gate;
const say = (text, wrong = false) => { $("said").textContent = text; $("said").className = wrong ? "wrong" : ""; };
const value = (face) => face.scores[$("score").value];

function fits(face) {
  const wanted = $("verdict").value, low = $("low").value, high = $("high").value, score = value(face);
  if (wanted === "undecided" ? verdicts.has(face.key) : wanted !== "all" && final(face) !== wanted) return false;
  if ($("class").value && face.class !== $("class").value) return false;
  if ((low !== "" || high !== "") && score == null) return false;
  return (low === "" || score >= Number(low)) && (high === "" || score <= Number(high));
}

function choose() {
  const before = shown[at], last = (face) => value(face) ?? Infinity;
  shown = faces.filter(fits).sort((a, b) => (last(a) === last(b) ? 0 : last(a) - last(b)));
  at = Math.max(0, shown.indexOf(before));
  show();
}

function badge(id, verdict, otherwise) {
  $(id).textContent = verdict ? VERDICTS[verdict] : otherwise;
  $(id).className = `badge ${verdict || ""}`;
}

function picture(kind, face) { return `picture/${kind}/${encodeURIComponent(face.key)}`; }

function show() {
  const face = shown[at], next = shown[at + 1];
  $("bar").max = faces.length || 1;
  $("bar").value = verdicts.size;
  $("count").textContent = `${verdicts.size} of ${faces.length} decided`;
  $("empty").hidden = Boolean(face);
  $("face").hidden = !face;
  for (const id of ["accept", "revert"]) $(id).disabled = !face;
  $("previous").disabled = at === 0;
  $("next").disabled = !next;
  if (!face) return;
  for (const kind of ["original", "frontalized"]) {
    $(kind).src = picture(kind, face);
    $(kind).alt = `${face.name}, ${kind}`;
    if (next) new Image().src = picture(kind, next);
  }
  $("name").textContent = face.name;
  const yaw = face.yaw == null ? "" : `, yaw ${face.yaw.toFixed(0)}\u00b0`;
  $("about").textContent = `${face.class || "no class"}${yaw} \u00b7 face ${at + 1} of ${shown.length}`;
  $("scores").replaceChildren(...Object.entries(face.scores).flatMap(([name, score]) => {
    const term = document.createElement("dt"), number = document.createElement("dd");
    term.textContent = name.replace("_", " ");
    number.textContent = score == null ? "not measured" : name === "residual_yaw" ? `${score.toFixed(1)}\u00b0` : score.toFixed(3);
    return [term, number];
  }));
  badge("gate", face.gate);
  $("reason").textContent = face.reason;
  $("reason").hidden = !face.reason;
  badge("yours", verdicts.get(face.key), "not yet decided");
}

function go(step) {
  at = Math.min(Math.max(at + step, 0), Math.max(shown.length - 1, 0));
  show();
}

async function send(path, body) {
  if (busy) return null;
  busy = true;
  try {
    const reply = await fetch(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
    if (reply.ok) return await reply.json();
    say(`Not saved: ${await reply.text()}`, true);
  } catch {
    say("Not saved: the review has ended. Start it again; what was saved before is still there.", true);
  } finally {
    busy = false;
  }
  return null;
}

async function decide(verdict) {
  const face = shown[at];
  if (!face || !(await send("decide", {key: face.key, verdict}))) return;
  verdicts.set(face.key, verdict);
  say(`${face.name}: ${VERDICTS[verdict]}.`);
  go(1);
}

async function undo() {
  const undone = await send("undo", {});
  if (!undone) return;
  if (undone.key === null) return say("Nothing to undo.");
  undone.verdict ? verdicts.set(undone.key, undone.verdict) : verdicts.delete(undone.key);
  const face = faces.find((one) => one.key === undone.key), place = shown.indexOf(face);
  if (place >= 0) at = place;
  say(`${face ? face.name : undone.key}: ${undone.verdict ? VERDICTS[undone.verdict] : "not decided"} again.`);
  show();
}

const KEYS = {a: () => decide("accept"), r: () => decide("revert"), u: undo, ArrowLeft: () => go(-1), ArrowRight: () => go(1)};

document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select, input")) return;
  event.preventDefault();
  act();
});

async function start() {
  const state = await (await fetch("state")).json();
  faces = state.faces;
  verdicts = new Map(Object.entries(state.verdicts).filter(([key]) => faces.some((face) => face.key === key)));
  const options = (words) => [...new Set(words)].map((word) => new Option(word.replace("_", " "), word));
  $("class").append(...options(faces.map((face) => face.class).filter(Boolean).sort()));
  $("score").append(...options(faces.flatMap((face) => Object.keys(face.scores))));
  for (const [id, act] of [["accept", KEYS.a], ["revert", KEYS.r], ["undo", undo], ["previous", KEYS.ArrowLeft], ["next", KEYS.ArrowRight]])
    $(id).addEventListener("click", act);
  $("filters").addEventListener("input", choose);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  choose();
  at = Math.max(0, shown.findIndex((face) => !verdicts.has(face.key)));
  show();
  document.body.dataset.ready = "yes";
}
start();
