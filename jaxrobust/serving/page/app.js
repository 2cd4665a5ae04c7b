"use strict";
// The page of the recognition service: it asks the addresses of /openapi.json and shows their answers.

const MOST_BARS = 12;
const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const pause = (seconds) => new Promise((go) => { setTimeout(go, 1000 * seconds); });

const state = {
  key: "",
  model: null,
  original: null, // the file that was chosen
  prepared: null, // the same as a PNG of the model's size: small, and equal pixel by pixel
  rest: null, // the class of the image as it was chosen
  asking: false,
  again: false,
  number: 0,
  chosen: 0,
};

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// A server that is busy says when to come again.
async function ask(path, options = {}, tries = 3) {
  const headers = { ...options.headers };
  if (state.key) headers.Authorization = `Bearer ${state.key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused(0, "The server does not answer. Is it running?");
  }
  const later = Number(response.headers.get("Retry-After"));
  if (later && tries && (response.status === 429 || response.status === 503)) {
    await pause(Math.min(later, 5));
    return ask(path, options, tries - 1);
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body.detail || `The server answered ${response.status}.`);
  return body;
}

function post(path, file) {
  return ask(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
}

function say(error) {
  at("error").hidden = !error;
  at("error").textContent = error ? error.message : "";
  if (error && error.status === 401) {
    at("key-form").hidden = false;
    at("key").focus();
  }
}

// The model

async function meet() {
  try {
    state.model = await ask("v1/model");
  } catch (error) {
    say(error);
    return;
  }
  const { model, class_names: names, image, stability, tasks, enrolled } = state.model;
  at("key-form").hidden = true;
  at("model").textContent = `${model}: ${names.length} classes`;
  at("size").textContent = `${image.width} × ${image.height} pixels, ${image.channels === 1 ? "grey" : "colour"}`;
  for (const [id, side] of [["right", image.width], ["down", image.height]]) {
    const most = Math.max(1, Math.round(side / 4));
    Object.assign(at(id), { min: -most, max: most, step: most > 20 ? 1 : 0.25 });
  }
  at("heat-class").replaceChildren(
    new Option("the class named", ""),
    ...names.map((name, index) => new Option(name, String(index))),
  );
  at("stability").hidden = !stability;
  if (stability) at("stability").textContent = `Try ${stability.samples} random neighbours`;
  at("faces").hidden = !tasks.includes("verify");
  at("identify").hidden = !enrolled.length;
}

// An image

async function choose(file) {
  if (!file) return;
  const chosen = ++state.chosen;
  if (!state.model) await meet();
  if (!state.model || chosen !== state.chosen) return; // a later one was chosen meanwhile
  Object.assign(state, { original: file, prepared: null, rest: null });
  rest();
  at("status").textContent = "Looking at the image.";
  await look();
}

function rest() {
  for (const id of ["angle", "right", "down"]) at(id).value = 0;
  showMoves();
}

function showMoves() {
  at("angle-value").textContent = `${at("angle").value}°`;
  for (const id of ["right", "down"]) at(`${id}-value`).textContent = `${at(id).value} px`;
}

function query(more = {}) {
  const moves = Object.fromEntries(["angle", "right", "down"].map((id) => [id, at(id).value]));
  return new URLSearchParams({ ...moves, ...(state.prepared ? { prepared: 1 } : {}), ...more });
}

// One question at a time; what was moved meanwhile is asked after it.
async function look() {
  if (!state.original) return;
  if (state.asking) {
    state.again = true;
    return;
  }
  state.asking = true;
  try {
    do {
      state.again = false;
      await lookOnce();
    } while (state.again && state.original);
  } finally {
    state.asking = false;
  }
}

async function lookOnce() {
  const number = ++state.number;
  const original = state.original;
  const prepared = state.prepared;
  const heat = at("heat-on").checked;
  const explained = heat && at("heat-class").value !== "" ? { class: at("heat-class").value } : {};
  const path = `v1/${heat ? "explain" : "recognise"}?${query({ view: 1, ...explained })}`;
  try {
    const answer = await post(path, prepared || original);
    if (original !== state.original) return; // another image was chosen meanwhile
    if (answer.model !== state.model.model) {
      await meet(); // another model was loaded
      if (original !== state.original) return;
    }
    say(null);
    if (!state.prepared) {
      state.prepared = blob(answer.view);
      state.rest = answer.name;
    }
    show(answer, number);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (original !== state.original) return;
    say(error);
    at("status").textContent = "";
    if (!state.prepared) forget();
  }
}

function forget() {
  state.original = null;
  for (const id of ["seen", "answer"]) at(id).hidden = true;
  for (const id of ["moves", "explain"]) at(id).disabled = true;
  at("nothing").hidden = false;
}

function blob(address) {
  const bytes = atob(address.slice(address.indexOf(",") + 1));
  return new Blob([Uint8Array.from(bytes, (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

// An answer

let quietly;

function show(answer, number) {
  for (const id of ["seen", "answer"]) at(id).hidden = false;
  for (const id of ["moves", "explain"]) at(id).disabled = false;
  at("nothing").hidden = true;
  at("view").src = answer.view;
  at("best").textContent = answer.name;
  at("share").textContent = percent(answer.probability);
  at("brief").textContent = `${answer.name}, ${percent(answer.probability)}`;
  at("time").textContent = `${answer.milliseconds.toFixed(1)} ms on the server, ${answer.model}`;
  at("changed").hidden = answer.name === state.rest;
  at("changed").textContent = `Unmoved it was ${state.rest}.`;
  at("stable").textContent = "";
  bars(answer);
  heat(answer.explained);
  document.body.dataset.answer = number;
  // Readers of the screen hear of the answer when the slider rests.
  clearTimeout(quietly);
  quietly = setTimeout(() => {
    at("status").textContent = `${answer.name}, ${percent(answer.probability)}.`;
  }, 400);
}

function bars(answer) {
  const names = state.model.class_names;
  let shown = answer.distribution.map((share, index) => ({ name: names[index], share, index }));
  // All in their own places where they are few: bars that jump cannot be followed.
  if (shown.length > MOST_BARS) shown = shown.sort((a, b) => b.share - a.share).slice(0, MOST_BARS);
  at("more").textContent =
    shown.length < names.length ? `The likeliest ${shown.length} of ${names.length} classes.` : "";
  const list = at("bars");
  while (list.children.length > shown.length) list.lastChild.remove();
  while (list.children.length < shown.length) list.append(bar());
  shown.forEach(({ name, share, index }, row) => {
    const [label, track, value] = list.children[row].children;
    list.children[row].className = index === answer.class ? "first" : "";
    label.textContent = label.title = name;
    track.firstChild.style.width = percent(share);
    value.textContent = percent(share);
  });
}

function bar() {
  const row = document.createElement("li");
  for (const kind of ["name", "track", "value"]) {
    const part = document.createElement("span");
    part.className = kind;
    row.append(part);
  }
  const fill = document.createElement("span");
  fill.className = "fill";
  fill.style.display = row.children[1].style.display = "block";
  row.children[1].setAttribute("aria-hidden", "true");
  row.children[1].append(fill);
  return row;
}

function heat(explained) {
  at("heat").hidden = at("heat-words").hidden = !explained;
  if (!explained) return;
  const map = explained.map;
  const canvas = at("heat");
  canvas.width = map[0].length;
  canvas.height = map.length;
  const picture = new ImageData(canvas.width, canvas.height);
  map.flat().forEach((value, index) => {
    const colour = value > 0 ? [230, 85, 13] : [49, 130, 189];
    picture.data.set([...colour, Math.round(200 * Math.abs(value))], 4 * index);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  canvas.setAttribute("aria-label", `Heat map: most for ${explained.name} ${most(map, 1)}, most against it ${most(map, -1)}.`);
}

// Where a map is largest, in words.
function most(map, sign) {
  let [best, row, column] = [0, -1, -1];
  map.forEach((line, y) => line.forEach((value, x) => {
    if (sign * value > best) [best, row, column] = [sign * value, y, x];
  }));
  if (row < 0) return "nowhere";
  const third = (place, size) => Math.floor((3 * (place + 0.5)) / size);
  const [down, right] = [third(row, map.length), third(column, map[0].length)];
  if (down === 1 && right === 1) return "in the middle";
  const words = [["at the top", "", "at the bottom"][down], ["left", "", "right"][right]].filter(Boolean);
  return down === 1 ? `at the ${words[0]}` : words.join(" ");
}

async function lookAround() {
  if (!state.prepared) return;
  at("stability").disabled = true;
  at("stable").textContent = "Trying …";
  const [original, pose] = [state.original, String(query())];
  const stale = () => original !== state.original || pose !== String(query());
  try {
    const { stability, name } = await post(`v1/recognise?${query({ stability: 1 })}`, state.prepared);
    if (stale()) return; // it is of what is not shown any more
    const others = stability.classes.filter((one) => one.name !== name);
    const became = others.map((one) => `${one.name} (${one.count})`).join(", ");
    at("stable").textContent =
      `The class changes in ${stability.changed} of ${stability.samples} random neighbours` +
      `${became ? `, to ${became}` : ""}. Neighbours: ${stability.neighbourhood}.`;
    say(null);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    at("stable").textContent = "";
    if (!stale()) say(error);
  } finally {
    if (stale()) at("stable").textContent = "";
    at("stability").disabled = false;
  }
}

// Faces

async function compare() {
  const files = [at("first").files[0], at("second").files[0]];
  if (!files[0] || !files[1]) {
    at("same").textContent = "Choose two images first.";
    return;
  }
  const form = new FormData();
  form.append("first", files[0]);
  form.append("second", files[1]);
  await tell(async () => {
    const answer = await ask("v1/verify", { method: "POST", body: form });
    const verdict = answer.same_person ? "One person" : "Two people";
    return `${verdict}: similarity ${answer.similarity.toFixed(3)}, threshold ${answer.threshold.toFixed(3)}.`;
  });
}

async function identify() {
  const file = at("first").files[0];
  if (!file) {
    at("same").textContent = "Choose the first image.";
    return;
  }
  await tell(async () => {
    const answer = await post("v1/identify", file);
    const who = answer.name === null ? "Nobody who is enrolled" : answer.name;
    return `${who}: nearest ${answer.nearest[0].name}, similarity ${answer.similarity.toFixed(3)}, threshold ${answer.threshold.toFixed(3)}.`;
  });
}

async function tell(work) {
  at("same").textContent = "Comparing …";
  try {
    at("same").textContent = await work();
    say(null);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    at("same").textContent = "";
    say(error);
  }
}

// What a person does

at("file").addEventListener("change", (event) => {
  choose(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  choose(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
for (const id of ["angle", "right", "down"]) {
  at(id).addEventListener("input", () => {
    showMoves();
    look();
  });
}
at("reset").addEventListener("click", () => {
  rest();
  look();
});
for (const id of ["heat-on", "heat-class"]) at(id).addEventListener("change", look);
at("stability").addEventListener("click", lookAround);
at("compare").addEventListener("click", compare);
at("identify").addEventListener("click", identify);
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = at("key").value.trim();
  say(null);
  meet();
});
meet();
