// The console's page. State arrives ten times a second over one WebSocket, pictures as binary messages on the same one.
// While a hand is on a device, what it wants is repeated SAY_MS apart; the robot stops when that falls silent.
const SAY_MS = 40, GRAPH_S = 30, ARMED_MS = 3000, DEADZONE = 0.1;
const PALETTE = ["#3b8fd4", "#e08a2e", "#4caf72", "#c35fb0", "#d05a5a", "#7d78d8", "#9c8a5a", "#3aa9a9"];
const $ = (id) => document.getElementById(id);
const text = (id, value) => { const node = $(id); if (node.textContent !== String(value)) node.textContent = value; };
const fixed = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

let socket = null, facts = null, state = null, nextId = 1, listed = "";
const waiting = new Map(), cameras = [], graphs = new Map();

// --- connection -----------------------------------------------------------------------------------------------------
function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? receive(JSON.parse(data)) : picture(data));
  socket.onclose = () => {
    state = null; letGo(false); replaying = replayAsked = false;
    for (const settle of waiting.values()) settle({ ok: false, message: "the connection is lost" });
    waiting.clear(); pill("link", "disconnected", "bad"); setTimeout(connect, 1000);
  };
}
function send(message) { if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); }
function receive(message) {
  if (message.facts) setUp(message.facts);
  else if (message.state) { state = message.state; show(); }
  else if (message.error) toast(message.error, true);
  else if (waiting.has(message.id)) { waiting.get(message.id)(message); waiting.delete(message.id); }
}
function ask(action, more = {}) {
  return new Promise((settle) => {
    if (!socket || socket.readyState !== WebSocket.OPEN) return settle({ ok: false, message: "not connected" });
    const id = nextId++; waiting.set(id, settle); send({ id, do: action, ...more });
  }).then((answer) => { toast(answer.message, !answer.ok); return answer; });
}
let toasting = 0;
function toast(message, bad) {
  const node = $("toast"); node.textContent = message; node.className = bad ? "bad" : ""; node.hidden = false;
  clearTimeout(toasting); toasting = setTimeout(() => { node.hidden = true; }, bad ? 6000 : 2500);
}
function pill(id, value, kind = "") { text(id, value); $(id).className = `pill ${kind}`; }

// --- what does not change -------------------------------------------------------------------------------------------
function setUp(given) {
  facts = given; text("task", facts.task); document.title = `${facts.task} – dp_ros console`;
  pill("link", facts.you, "good");
  cameras.length = 0; $("cameras").replaceChildren();
  facts.cameras.forEach((name, index) => {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption"), label = document.createElement("span"), pace = document.createElement("span");
    label.textContent = name; caption.append(label, pace); figure.append(canvas, caption); $("cameras").append(figure);
    canvas.width = canvas.height = 480; canvas.setAttribute("aria-label", `camera ${name}`);
    const camera = { name, canvas, pace, bitmap: null, times: [] };
    if (facts.plane && index === facts.plane_camera) point(canvas);
    cameras.push(camera);
  });
  options($("main-camera"), ["all", ...facts.cameras]); $("choice").hidden = cameras.length < 2; mainCamera();
  if (!cameras.length) text("hint", "This task has no camera; state and commands are drawn below.");
  else if (facts.plane) text("hint", "Press on the picture and drag: the robot follows while you hold. Red: where you point, green: what is commanded, dots: what the policy plans next.");
  else text("hint", "");
  const keys = keyPairs();
  text("keys", `Keys while Space is held: ${facts.drives.slice(0, keys.length).map((name, i) => `${name} ${keys[i].map(keyName).join(" ")}`).join(", ")}.`);
  const byPad = facts.gamepad.filter(({ words }) => words !== "nothing"), idle = facts.gamepad.filter(({ words }) => words === "nothing");
  text("pad-keys", `Gamepad while a shoulder button is held: ${byPad.map(({ name, words }) => `${name} ${words}`).join(", ")}.${idle.length ? ` Nothing drives ${idle.map(({ name }) => name).join(", ")}.` : ""}`);
  toggled = facts.drives.map(() => 0); listed = ""; episodes();
  $("graphs").replaceChildren(); graphs.clear();
  for (const stream of facts.streams) graph(stream, "");
  graph("inference and latency", "ms"); graph(facts.jitter, "ms"); graph("queue", "s");
}
const ARROWS = [["ArrowLeft", "ArrowRight"], ["ArrowUp", "ArrowDown"]];
const LETTERS = [["KeyA", "KeyD"], ["KeyW", "KeyE"], ["KeyJ", "KeyL"], ["KeyK", "KeyI"], ["KeyF", "KeyG"], ["KeyV", "KeyB"]];
function options(select, names) { select.replaceChildren(...names.map((name) => Object.assign(document.createElement("option"), { value: name, textContent: name }))); }
function mainCamera() {
  const chosen = $("main-camera").value;
  $("cameras").classList.toggle("one", chosen !== "all");
  for (const camera of cameras) camera.canvas.parentNode.classList.toggle("main", camera.name === chosen);
}
$("main-camera").addEventListener("change", () => { mainCamera(); $("main-camera").blur(); });
// In a picture y goes down, in space up.
function keyPairs() { return [ARROWS[0], facts.plane ? ARROWS[1] : [...ARROWS[1]].reverse(), ...LETTERS].slice(0, facts.drives.length); }
function keyName(code) { return { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" }[code] || code.replace("Key", ""); }

// --- what does ------------------------------------------------------------------------------------------------------
function show() {
  const { control, recorder, policy, robot } = state;
  text("people", control.people > 1 ? `${control.people} people` : "");
  const mine = control.yours, button = $("control");
  button.setAttribute("aria-pressed", String(mine));
  text("control", mine ? "Release control" : control.holder ? `${control.holder} has control` : "Take control");
  button.disabled = !mine && control.holder !== null;
  for (const node of document.querySelectorAll("[data-do]")) node.disabled = !mine && !STOPS.includes(node.dataset.do);
  for (const node of document.querySelectorAll("[data-mark]")) {
    node.disabled = !mine || Boolean(recorder); node.title = recorder ? "the recorder writes to this recording; afterwards, or by dp-ros data mark" : "";
  }
  for (const id of ["deadman", "operator", "instruction", "replay", "confirm-yes"]) $(id).disabled = !mine;
  const stopped = state.stopped, alarm = $("alarm");
  alarm.hidden = !stopped; if (stopped) alarm.textContent = "Emergency stop is pressed. Nothing moves until somebody with control clears it.";

  if (recorder) {
    pill("recorder-phase", recorder.phase, recorder.phase === "recording" ? "bad" : "");
    text("steps", recorder.steps); text("episodes", recorder.episodes);
    const mark = !recorder.steps ? "" : { 1: " · marked as a success", 0: " · marked as a failure" }[recorder.success] || "";
    text("recorder-message", recorder.message + mark); text("path", recorder.path);
    list($("problems"), recorder.problems);
    const key = `${recorder.path} ${recorder.episodes}`;
    if (key !== listed) { listed = key; episodes(); }
  } else pill("recorder-phase", "no recorder");
  $("labels").hidden = !state.labels;
  if (state.labels) for (const [id, name] of Object.entries(LABELS)) if (document.activeElement !== $(id) && !labelling) $(id).value = state.labels[name];

  if (policy) {
    const calm = { idle: "", running: "good" };
    pill("policy-state", policy.state, policy.state in calm ? calm[policy.state] : "warn");
    text("gate", `gate ${policy.gate}${policy.dry_run ? ", dry run" : ""}`); text("policy-model", `${policy.mode}, ${policy.model_id}`);
    text("policy-message", [policy.reason, policy.message].filter(Boolean).join(": ") || (state.said && `ended: ${state.said}`) || "");
    $("policy-model").title = policy.model_id;
  } else { pill("policy-state", "no policy"); text("gate", "–"); }

  $("robot").hidden = $("reset").hidden = !robot;
  if (robot) {
    pill("robot-phase", robot.success ? "solved" : robot.phase, robot.success ? "good" : "");
    text("score", fixed(robot.score, 2)); text("coverage", fixed(robot.coverage, 2)); text("seed", robot.seed);
  }
  const { replay } = state, active = Boolean(replay && replay.active);
  if (!active && !replayAsked) replaying = false;
  $("replaying").hidden = !replay;
  if (replay) {
    const how = { approach: "goes to its first command", playing: `${replay.progress_s.toFixed(1)} of ${replay.seconds.toFixed(1)} s`, stopping: "comes to rest", done: "replayed", failed: `ended: ${replay.problem}` };
    text("replay-says", `Episode ${replay.episode} on the robot: ${how[replay.phase]}`);
  }
  document.querySelector('[data-do="robot.stop_replay"]').hidden = !active;
  const driven = active ? "replaying" : state.commanded ? "commanding" : "let go";
  pill("teleop-state", state.problem || (policy && policy.takeover && !active ? "taken over" : driven), state.problem ? "warn" : state.commanded ? "good" : "");

  const now = performance.now() / 1000;
  for (const stream of facts.streams) plot(stream, now, state.streams[stream]);
  plot("inference and latency", now, policy && policy.state !== "idle" ? [policy.inference_ms, policy.latency_ms] : null);
  plot(facts.jitter, now, policy && policy.jitter_ms !== null ? [policy.jitter_ms] : null);
  plot("queue", now, policy && policy.state !== "idle" ? [policy.queue_s] : null);
  for (const camera of cameras) draw(camera);
}
function list(node, items) {
  if (node.dataset.items === JSON.stringify(items)) return;
  node.dataset.items = JSON.stringify(items);
  node.replaceChildren(...items.map((item) => Object.assign(document.createElement("li"), { textContent: item })));
}

// --- cameras --------------------------------------------------------------------------------------------------------
async function picture(data) {
  const camera = cameras[new DataView(data).getUint8(0)];
  if (!camera) return;
  const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 9)], { type: "image/jpeg" }));
  if (camera.bitmap) camera.bitmap.close();
  camera.bitmap = bitmap;
  const now = performance.now(); camera.times = [...camera.times.filter((t) => now - t < 2000), now];
  camera.pace.textContent = `${bitmap.width}×${bitmap.height}, shown ${(camera.times.length / 2).toFixed(0)} Hz`;
  draw(camera);
}
function draw(camera) {
  const { canvas, bitmap } = camera, pen = canvas.getContext("2d");
  if (!bitmap) return;
  const height = Math.round((canvas.width * bitmap.height) / bitmap.width);
  if (canvas.height !== height) { canvas.height = height; canvas.style.setProperty("--ratio", bitmap.width / bitmap.height); }
  pen.imageSmoothingQuality = "high"; pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (!state) return;
  if (!state.live[camera.name]) {
    pen.fillStyle = "#000a"; pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = "#fff"; pen.font = "22px system-ui"; pen.fillText("no pictures are coming", 20, 40);
  }
  if (!facts.plane || camera !== cameras[facts.plane_camera]) return;
  if (state.chunk && state.policy && state.policy.state !== "idle") {
    const points = state.chunk.values.map((value) => onCanvas(canvas, value));
    pen.lineWidth = 2; pen.strokeStyle = "#ffffffb0"; pen.beginPath(); points.forEach(([x, y]) => pen.lineTo(x, y)); pen.stroke();
    points.forEach(([x, y], i) => { pen.fillStyle = `hsl(${205 + (120 * i) / points.length} 85% 55%)`; pen.beginPath(); pen.arc(x, y, 5, 0, 7); pen.fill(); });
  }
  if (state.commanded) ring(pen, onCanvas(canvas, state.commanded), "#2e9e57", 15);
  if (pointer) ring(pen, onCanvas(canvas, pointer), "#d6453d", 9);
}
function ring(pen, [x, y], colour, radius) { pen.lineWidth = 3; pen.strokeStyle = colour; pen.beginPath(); pen.arc(x, y, radius, 0, 7); pen.stroke(); }
function onCanvas(canvas, [x, y]) {
  const [left, top, right, bottom] = facts.plane;
  return [(canvas.width * (x - left)) / (right - left), (canvas.height * (y - top)) / (bottom - top)];
}

// --- hands on devices -----------------------------------------------------------------------------------------------
let pointer = null, spaceHeld = false, buttonHeld = false, padHeld = false, driving = false, wasHeld = false;
const pressed = new Set();
function point(canvas) {
  canvas.classList.add("point");
  const aim = (event) => {
    const box = canvas.getBoundingClientRect(), [left, top, right, bottom] = facts.plane;
    const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => Math.min(Math.max(v, 0), 1));
    pointer = [left + share[0] * (right - left), top + share[1] * (bottom - top)];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!state || !state.control.yours) { toast("take control first", true); return; }
    canvas.setPointerCapture(event.pointerId); aim(event); say(); event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => { if (pointer) aim(event); });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(end, () => { if (pointer) { pointer = null; say(); } });
}
const hold = $("deadman");
hold.addEventListener("pointerdown", (event) => { hold.setPointerCapture(event.pointerId); buttonHeld = true; say(); });
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) hold.addEventListener(end, () => { buttonHeld = false; say(); });
hold.addEventListener("contextmenu", (event) => event.preventDefault());
// What is wished of each command, and whether a hand has just moved something: a gripper keeps what it was told.
function rates() {
  const keys = keyPairs().map(([less, more]) => (pressed.has(more) ? 1 : 0) - (pressed.has(less) ? 1 : 0)), pad = gamepad();
  padHeld = Boolean(pad && [4, 5].some((i) => down(pad, i)));
  let moved = keys.some((value) => value !== 0);
  const wished = facts.gamepad.map((control, i) => {
    if (keys[i]) { if (control.toggle !== undefined) toggled[i] = keys[i]; return keys[i]; }
    if (control.toggle !== undefined) {
      const now = Boolean(pad && down(pad, control.toggle)), fresh = padHeld && now && !togglesDown.has(i);
      if (now) togglesDown.add(i); else togglesDown.delete(i);
      if (fresh) { toggled[i] = toggled[i] > 0 ? -1 : 1; moved = true; }
      return toggled[i];
    }
    const value = pad && padHeld ? tilt(pad, control) : 0;
    moved ||= value !== 0;
    return value;
  });
  return [wished, moved];
}
const togglesDown = new Set();
let toggled = [];
function down(pad, i) { return Boolean(pad.buttons[i] && pad.buttons[i].pressed); }
function tilt(pad, { axis, sign, less, more }) {
  const part = (i) => (pad.buttons[i] ? pad.buttons[i].value || Number(pad.buttons[i].pressed) : 0);
  const value = axis !== undefined ? sign * (pad.axes[axis] || 0) : less !== undefined ? part(more) - part(less) : 0;
  return Math.sign(value) * Math.max(Math.abs(value) - DEADZONE, 0) / (1 - DEADZONE);
}
function gamepad() { return [...(navigator.getGamepads ? navigator.getGamepads() : [])].find((pad) => pad && pad.connected) || null; }
function say() {
  if (!facts || !state) return;
  const [wished, moved] = rates(), held = spaceHeld || buttonHeld || padHeld;
  hold.classList.toggle("held", held || pointer !== null);
  const mine = state.control.yours;
  if (mine && pointer) { send({ place: pointer }); send({ deadman: true }); }
  else if (mine && held) {
    driving = driving || moved; // from the first movement on the hand drives until it lets go
    send({ deadman: true }); if (driving) send({ drive: wished });
  } else if (wasHeld) letGo(true);
  wasHeld = mine && (held || pointer !== null);
  if (replaying) send({ replay: true });
}
function letGo(tell) {
  driving = false; wasHeld = false;
  if (tell) { send({ let_go: true }); if (state && state.control.yours) send({ deadman: false }); }
}
setInterval(say, SAY_MS);
function drop() { if (replaying) { replaying = false; send({ let_go: true }); } spaceHeld = buttonHeld = false; pointer = null; pressed.clear(); say(); }
for (const event of ["blur", "pagehide"]) window.addEventListener(event, drop);
document.addEventListener("visibilitychange", () => { if (document.hidden) drop(); });
window.addEventListener("gamepadconnected", ({ gamepad: pad }) => text("gamepad", `${pad.id}: hold a shoulder button to drive.${pad.mapping === "standard" ? "" : " The browser does not know its layout; sticks and buttons may be others (parameter gamepad)."}`));
window.addEventListener("gamepaddisconnected", () => text("gamepad", "The gamepad is gone."));

const SHORTCUTS = { KeyC: "record.start", KeyS: "record.save", KeyX: "record.discard", Backspace: "record.delete_last", KeyP: "policy.run", KeyO: "policy.cancel", KeyR: "robot.reset" };
const MARKS = { KeyM: true, KeyN: false };
window.addEventListener("keydown", (event) => {
  if (event.code === "Escape") { event.preventDefault(); emergencyStop(); return; }
  if (event.target instanceof HTMLElement && event.target.matches("input:not([type=range]), select")) { if (event.code === "Enter") event.target.blur(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.code === "Space") { event.preventDefault(); if (!event.repeat) { spaceHeld = true; say(); } return; }
  if (facts && spaceHeld && keyPairs().flat().includes(event.code)) { event.preventDefault(); pressed.add(event.code); return; }
  if (event.repeat) return;
  if (event.code in MARKS) { event.preventDefault(); act("record.mark", { success: MARKS[event.code] }); }
  else if (event.code in SHORTCUTS && !spaceHeld) { event.preventDefault(); act(SHORTCUTS[event.code]); }
});
window.addEventListener("keyup", (event) => {
  pressed.delete(event.code);
  if (event.code === "Space") { event.preventDefault(); spaceHeld = false; pressed.clear(); say(); }
});

// --- things done once -----------------------------------------------------------------------------------------------
let armed = 0;
function act(action, more = {}) {
  if (action === "record.delete_last") {
    const button = document.querySelector('[data-do="record.delete_last"]');
    if (performance.now() - armed > ARMED_MS || armed === 0) {
      armed = performance.now(); button.classList.add("armed");
      setTimeout(() => button.classList.remove("armed"), ARMED_MS);
      toast("Press once more to delete the last saved episode; it is kept beside the recording."); return;
    }
    armed = 0; button.classList.remove("armed");
  }
  if (action === "policy.run") more = { time_limit_s: Math.max(Number($("limit").value) || 60, 1) };
  ask(action, more);
}
function emergencyStop() {
  letGo(!replaying); // the stop itself ends a replay, and says why
  replaying = false; $("confirm").hidden = true; ask("policy.emergency_stop");
}
$("stop").addEventListener("click", emergencyStop);
$("control").addEventListener("click", () => { $("control").blur(); ask(state && state.control.yours ? "control.release" : "control.take"); });
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => {
  const more = button.dataset.success === undefined ? {} : { success: button.dataset.success === "true" };
  act(button.dataset.do, more); button.blur();
});

const STOPS = ["policy.cancel", "robot.stop_replay"]; // everybody's
const LABELS = { operator: "operator_name", instruction: "instruction" };
let labelling = false;
for (const id of Object.keys(LABELS)) $(id).addEventListener("change", async () => {
  labelling = true; await ask("record.label", { [id]: $(id).value.trim() }); labelling = false;
});

// --- graphs ---------------------------------------------------------------------------------------------------------
function graph(name, unit) {
  const box = document.createElement("div"), head = document.createElement("h3"), now = document.createElement("span"), canvas = document.createElement("canvas");
  box.className = "graph"; head.append(name, now); box.append(head, canvas); $("graphs").append(box);
  graphs.set(name, { canvas, now, unit, rows: [] });
}
function plot(name, time, values) {
  const g = graphs.get(name);
  if (!g) return;
  g.rows.push([time, values]); while (g.rows.length && time - g.rows[0][0] > GRAPH_S) g.rows.shift();
  g.now.textContent = values ? `${values.slice(0, 4).map((v) => fixed(v, Math.abs(v) < 10 ? 2 : 0)).join("  ")}${values.length > 4 ? " …" : ""} ${g.unit}` : "–";
  curves(g.canvas, g.rows, time - GRAPH_S, time);
}
function curves(canvas, rows, first, last, cursor = null) {
  const ratio = window.devicePixelRatio || 1, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const pen = canvas.getContext("2d"); pen.clearRect(0, 0, width, height);
  const all = rows.flatMap(([, values]) => (values || []).filter((v) => v !== null));
  if (!all.length) return;
  let low = Math.min(...all), high = Math.max(...all); if (high - low < 1e-6) { low -= 0.5; high += 0.5; }
  const x = (t) => ((t - first) / (last - first || 1)) * width, y = (v) => height - 3 * ratio - ((v - low) / (high - low)) * (height - 6 * ratio);
  const dims = Math.max(...rows.map(([, values]) => (values ? values.length : 0)));
  pen.lineWidth = 1.5 * ratio;
  for (let d = 0; d < dims; d++) {
    pen.strokeStyle = PALETTE[d % PALETTE.length]; pen.beginPath(); let down = false;
    for (const [t, values] of rows) {
      if (!values || values[d] === null || values[d] === undefined) { down = false; continue; }
      if (down) pen.lineTo(x(t), y(values[d])); else pen.moveTo(x(t), y(values[d]));
      down = true;
    }
    pen.stroke();
  }
  if (cursor !== null) { pen.strokeStyle = "#8899a8"; pen.lineWidth = ratio; pen.beginPath(); pen.moveTo(x(cursor), 0); pen.lineTo(x(cursor), height); pen.stroke(); }
}

// --- episodes -------------------------------------------------------------------------------------------------------
let shownCamera = null, recorded = [], fetched = 0, replaying = false, replayAsked = false, playing = null, timer = 0;
async function episodes() {
  const mine = ++fetched, answer = await fetch("api/episodes"); if (!answer.ok || mine !== fetched) return;
  const { episodes: all, cameras: names } = await answer.json(); recorded = all.reverse();
  if (!names.includes(shownCamera)) shownCamera = names[0] || null;
  options($("shown-camera"), names); $("shown-choice").hidden = names.length < 2;
  if (shownCamera) $("shown-camera").value = shownCamera;
  thumbnails();
  if (playing && playing.episode.index >= recorded.length) close();
}
$("shown-camera").addEventListener("change", () => {
  shownCamera = $("shown-camera").value; $("shown-camera").blur(); thumbnails(); if (playing) seek(playing.row);
});
function thumbnails() {
  $("list").replaceChildren(...recorded.map((episode) => {
    const item = document.createElement("li"), button = document.createElement("button"), line = document.createElement("div"), small = document.createElement("small");
    button.dataset.episode = episode.index;
    if (shownCamera) button.append(Object.assign(document.createElement("img"), { loading: "lazy", alt: "", src: frameUrl(episode.index, Math.floor(episode.steps / 2), true) }));
    const mark = episode.success === null ? "" : episode.success ? " ✓" : " ✗";
    line.textContent = `Episode ${episode.index}${mark}`; line.className = episode.success === null ? "" : episode.success ? "good" : "bad";
    small.textContent = [`${episode.steps} steps`, episode.seconds !== null && `${episode.seconds} s`, episode.info.operator].filter(Boolean).join(", ");
    button.append(line, small); button.addEventListener("click", () => open(episode)); item.append(button); return item;
  }));
}
function frameUrl(index, row, small) { return `api/episodes/${index}/${encodeURIComponent(shownCamera)}/${row}.jpg?v=${encodeURIComponent(listed)}${small ? "&small" : ""}`; }
async function open(episode) {
  stopPlaying();
  const answer = await fetch(`api/episodes/${episode.index}/values`); if (!answer.ok) { toast(await answer.text(), true); return; }
  playing = { episode, values: await answer.json(), row: 0, loading: false };
  $("player").hidden = false; $("confirm").hidden = true; text("playing", `Episode ${episode.index}`);
  text("playing-info", [episode.info.instruction, episode.info.saved_at].filter(Boolean).join(", "));
  $("scrub").max = episode.steps - 1; seek(0); $("player").scrollIntoView({ block: "nearest" });
}
function close() { stopPlaying(); playing = null; $("confirm").hidden = true; $("player").hidden = true; }
function seek(row) {
  if (!playing) return;
  playing.row = Math.min(Math.max(row, 0), playing.episode.steps - 1); $("scrub").value = playing.row;
  const { time, streams } = playing.values, dt = 1 / facts.rate_hz;
  text("at", `${playing.row} (${(playing.row * dt).toFixed(1)} s)`);
  curves($("trace"), time.map((t, i) => [t, streams.action[i]]), 0, time[time.length - 1] || 1, playing.row * dt);
  if (!shownCamera || playing.loading) return;
  const shown = playing, at = shown.row, of = shownCamera, image = new Image(); shown.loading = true;
  image.onload = image.onerror = () => {
    shown.loading = false; if (playing !== shown) return;
    if (image.naturalWidth) { const pen = $("frame").getContext("2d"); pen.drawImage(image, 0, 0, $("frame").width, $("frame").height); $("frame").dataset.row = at; $("frame").dataset.camera = of; }
    if ((shown.row !== at && !timer) || shownCamera !== of) seek(shown.row);
  };
  image.src = frameUrl(shown.episode.index, at, false);
}
function stopPlaying() { clearInterval(timer); timer = 0; text("play", "Play"); }
$("play").addEventListener("click", () => {
  if (timer) { stopPlaying(); return; }
  if (playing.row >= playing.episode.steps - 1) seek(0);
  text("play", "Pause");
  timer = setInterval(() => { if (playing.row >= playing.episode.steps - 1) stopPlaying(); else seek(playing.row + 1); }, 1000 / facts.rate_hz);
});
$("scrub").addEventListener("input", () => { stopPlaying(); seek(Number($("scrub").value)); });
for (const button of document.querySelectorAll("[data-mark]")) button.addEventListener("click", async () => {
  button.blur();
  if ((await ask("episode.mark", { episode: playing.episode.index, success: button.dataset.mark === "true" })).ok) episodes();
});
$("close").addEventListener("click", close);
$("replay").addEventListener("click", () => {
  stopPlaying(); $("replay").blur();
  const { episode } = playing, first = playing.values.streams.action[0], seconds = (episode.steps / facts.rate_hz).toFixed(1);
  const start = first.length === facts.names.length ? first.map((value, i) => `${facts.names[i]} ${value.toPrecision(4)}`).join(", ") : "where it began";
  text("confirm-says", `The robot will go to ${start} slowly, then follow the ${episode.steps} commands of episode ${episode.index} for ${seconds} s. Clear its way. It goes on while this page is in front; Esc stops it.`);
  $("confirm").hidden = false; $("confirm").scrollIntoView({ block: "nearest" });
});
$("confirm-no").addEventListener("click", () => { $("confirm").hidden = true; });
$("confirm-yes").addEventListener("click", async () => {
  $("confirm").hidden = true; $("confirm-yes").blur();
  replaying = replayAsked = true; // from now on this page says that somebody is in front of it
  const answer = await ask("robot.replay", { episode: playing.episode.index, speed: Number($("replay-speed").value) });
  replayAsked = false; if (!answer.ok) replaying = false;
});
connect();
