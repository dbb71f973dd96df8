"use strict";
// What a model says of pictures: the server answers, this page shows it. Words of a picture or a model are only ever set as text.
const $ = (id) => document.getElementById(id);
const token = location.hash.slice(1);

function make(tag, words, name) {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (name) made.className = name;
  return made;
}

function say(words, wrong = false) {
  $("said").textContent = words;
  $("said").classList.toggle("wrong", wrong);
}

async function ask(path, body) {
  const how = { headers: { Authorization: `Bearer ${token}` } };
  if (body) Object.assign(how, { method: "POST", body });
  const answer = await fetch(path, how);
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof told.detail === "string" ? told.detail : `the server said ${answer.status}`);
  return told;
}

const percent = (share) => `${Math.round(100 * share)} %`;
const WARNINGS = {
  turned: "turned further than the faces it was tested on", small: "smaller than the faces it was tested on",
  dark: "darker than the faces it was tested on", bright: "brighter than the faces it was tested on",
  blurred: "more blurred than the faces it was tested on", "pose unsure": "its pose is unsure, so it was not frontalized",
  "cut by the border": "cut by the border of the picture", "transparent surround": "its transparent parts were taken as white",
};
const SEEN = {
  raw: "seen as it is", frontalized: "seen from the front as well", reverted: "seen as it is: the gate rejected the frontal view",
  failed: "seen as it is: there was no frontal view to be had",
};

function picture(url, words) {
  const image = new Image();
  image.src = url;
  image.alt = words;
  return image;
}

function figure(shown, words) {
  const made = make("figure");
  made.append(shown, make("figcaption", words));
  return made;
}

function bars(face) {
  const made = make("div", undefined, "bars");
  for (const [name, share] of Object.entries(face.probabilities).sort((one, other) => other[1] - one[1])) {
    const meter = make("meter");
    meter.value = share;
    meter.setAttribute("aria-label", `${name} ${percent(share)}`);
    const best = name === face.label ? "best" : "";
    made.append(make("span", name, best), meter, make("span", percent(share), best));
  }
  return made;
}

function boxes(told) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", `0 0 ${told.width} ${told.height}`);
  drawing.setAttribute("aria-hidden", "true");
  for (const face of told.faces)
    for (const name of ["under", "over"]) {
      const box = document.createElementNS(space, "rect");
      const sizes = { x: face.left, y: face.top, width: face.right - face.left, height: face.bottom - face.top };
      for (const [key, value] of Object.entries(sizes)) box.setAttribute(key, value);
      box.setAttribute("class", name);
      drawing.append(box);
    }
  const size = Math.max(told.width, told.height) / 45;
  for (const face of told.faces) {
    const words = document.createElementNS(space, "text");
    words.textContent = `${told.faces.length > 1 ? `${face.face + 1} ` : ""}${face.label}`;
    words.setAttribute("x", face.left);
    words.setAttribute("y", Math.max(face.top - size / 3, size));
    words.setAttribute("font-size", size);
    drawing.append(words);
  }
  return drawing;
}

async function overlay(url, rows) {
  const image = picture(url, "");
  await image.decode();
  const canvas = make("canvas");
  canvas.width = canvas.height = 224;
  const pen = canvas.getContext("2d");
  pen.filter = "grayscale(1)";
  pen.drawImage(image, 0, 0, 224, 224);
  pen.filter = "none";
  const top = Math.max(...rows.flat(), 1e-6), side = 224 / rows.length;
  rows.forEach((row, down) => row.forEach((cost, across) => {
    pen.fillStyle = `rgba(214, 39, 40, ${0.65 * Math.max(cost, 0) / top})`;
    pen.fillRect(across * side, down * side, side + 0.5, side + 0.5);
  }));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "red where hiding a part costs the answer most");
  return canvas;
}

function card(face, count, file, aligned) {
  const made = make("section", undefined, "face");
  const title = `${count > 1 ? `Face ${face.face + 1}: ` : ""}${face.label}, ${percent(face.probabilities[face.label])}`;
  made.setAttribute("aria-label", title);
  made.append(make("h3", title));
  const pair = make("div", undefined, "pair");
  pair.append(figure(picture(face.crop, "the face"), "as it is"));
  if (face.frontal) pair.append(figure(picture(face.frontal, "the frontal view"), face.seen === "reverted" ? "frontal, not used" : "frontal"));
  made.append(pair, bars(face));
  const yaw = face.yaw === null ? "pose unknown" : `yaw ${face.yaw.toFixed(0)}°, pitch ${face.pitch.toFixed(0)}°, roll ${face.roll.toFixed(0)}°`;
  made.append(make("p", `${yaw}; ${SEEN[face.seen]}${face.why ? ` (${face.why})` : ""}.`, "facts"));
  if (face.warnings.length) {
    const list = make("ul", undefined, "warnings");
    list.append(...face.warnings.map((word) => make("li", WARNINGS[word] || word)));
    made.append(list);
  }
  const button = make("button", "What does it rest on?");
  button.type = "button";
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const told = await ask(`explain?face=${face.face}&aligned=${aligned}`, file);
      const pair = make("div", undefined, "pair");
      for (const [name, rows] of Object.entries(told.maps)) pair.append(figure(await overlay(told.pictures[name], rows), name === "raw" ? "as it is" : "frontal"));
      button.replaceWith(pair);
    } catch (error) {
      say(error.message, true);
      button.disabled = false;
    }
  });
  made.append(button);
  return made;
}

async function show(file, name, place) {
  const aligned = $("aligned").checked;
  const told = await ask(`predict?views=true&aligned=${aligned}`, file);
  const made = make("article");
  const found = `${told.faces.length || "no"} face${told.faces.length === 1 ? "" : "s"}`;
  made.append(make("h2", `${name}: ${found}`));
  const frame = make("div", undefined, "picture");
  const url = URL.createObjectURL(file);
  frame.append(picture(url, `${name}, ${found}`), boxes(told));
  const faces = make("div", undefined, "faces");
  faces.append(...told.faces.map((face) => card(face, told.faces.length, file, aligned)));
  made.append(frame, faces);
  if (place) place.replaceChildren(made);
  else $("results").prepend(made);
  return told;
}

async function take(files) {
  for (const file of files) {
    say(`Looking at ${file.name || "the picture"} …`);
    try {
      const told = await show(file, file.name || "picture");
      say(told.faces.length ? `${file.name}: ${told.faces.map((face) => face.label).join(", ")}` : `${file.name}: no face found`);
    } catch (error) {
      say(`${file.name}: ${error.message}`, true);
    }
  }
}

let stream = null;
async function look() {
  const video = $("live"), canvas = make("canvas"), place = make("div");
  $("results").prepend(place);
  while (stream) {
    if (video.videoWidth) {
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      const frame = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
      try {
        if (stream) await show(frame, "camera", place);
        say("Looking through the camera.");
      } catch (error) {
        say(error.message, true);
      }
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

$("camera").addEventListener("click", async () => {
  const video = $("live");
  if (stream) {
    stream.getTracks().forEach((track) => track.stop());
    stream = null;
  } else {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: true });
    } catch (error) {
      return say(`The camera cannot be used: ${error.message}`, true);
    }
    video.srcObject = stream;
    await video.play();
    look();
  }
  video.hidden = !stream;
  $("camera").setAttribute("aria-pressed", String(Boolean(stream)));
  $("camera").textContent = stream ? "Stop the camera" : "Use the camera";
});

$("files").addEventListener("change", (event) => take([...event.target.files]));
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });

ask("model").then((card) => {
  const rendered = card.provenance.dataset.startsWith("posebench");
  const accuracy = card.metrics.test.accuracy;
  $("model").textContent = `${card.name}: ${percent(accuracy.value)} of ${accuracy.n.toLocaleString()} test faces recognised.` +
    (rendered ? " It knows only rendered people; on photographs nobody has tested it." : "");
  if (!card.framing) {
    $("aligned").checked = $("aligned").disabled = true;
  }
}).catch((error) => say(token ? error.message : "Open the whole address that qcfer serve printed: the part after # is the key.", true));
