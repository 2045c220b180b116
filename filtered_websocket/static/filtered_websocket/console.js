/*
 * The live console in Django's admin: asks by a WebSocket, every few seconds while somebody
 * looks, and draws what it is told. Names and messages come from clients: they are only ever
 * shown through textContent.
 */
const root = document.getElementById("fws-console");
const { websocketPath, key, permitted, client: module, tokenUrl } = root.dataset;
const { connect, RequestError } = await import(module);

// Milliseconds between two questions, and after typing.
const [EVERY, TYPED] = [2_000, 250];
// How many values a sparkline has, and for how many there is room at least.
const [VALUES, FEW] = [60, 15];
// Rows of a table at first, and at most: the server gives no more.
const [ROWS, MAX_ROWS] = [25, 100];
// After so many attempts that never opened, the page says what may be wrong.
const REFUSED_AFTER = 3;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(`fws-${id}`);
const may = (name) => permitted.split(" ").includes(name);

/** An element with properties, and children: nodes or texts. */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A name that a client or a site has chosen: its direction is its own, and nobody else's. */
const name = (text, properties = {}) => el("bdi", properties, String(text));
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

// Numbers

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en");

const number = (value) => (value < 10_000 ? whole.format(value) : compact.format(value));

function rate(value) {
  if (!value) return "0/s";
  return value < 0.095 ? "<0.1/s" : `${value < 10 ? value.toFixed(1) : number(Math.round(value))}/s`;
}

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return `${seconds.toFixed(1)} s`;
}

function age(seconds) {
  const units = [[86_400, "d"], [3_600, "h"], [60, "min"]];
  for (const [size, unit] of units) if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  return `${Math.max(0, Math.floor(seconds))} s`;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let step = 0;
  for (; value >= 1024 && step < units.length - 1; step += 1) value /= 1024;
  return `${step && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
const ago = (unix) => `${age(Date.now() / 1000 - unix)} ago`;

// What was counted before: a rate is the difference of two answers

class Series {
  #known = new Map();

  /** Note what a counter says now; its rates so far, the newest last. */
  note(id, count, at) {
    const known = this.#known.get(id) ?? { values: [] };
    this.#known.delete(id);
    this.#known.set(id, known);
    if (known.at === at) return known.values;
    // A process that has ended takes its counts along.
    if (known.at < at) known.values.push(Math.max(0, count - known.count) / (at - known.at));
    if (known.values.length > VALUES) known.values.shift();
    Object.assign(known, { at, count });
    // Those that are no longer told of are forgotten, the oldest first.
    if (this.#known.size > 2_000) this.#known.delete(this.#known.keys().next().value);
    return known.values;
  }

  of(id) { return this.#known.get(id)?.values ?? []; }
}

const series = new Series();
const lastOf = (values) => values.at(-1) ?? 0;

function sparkline(label) {
  const line = document.createElementNS(SVG, "path");
  const area = document.createElementNS(SVG, "path");
  area.classList.add("fws-area");
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  svg.classList.add("fws-spark");
  svg.append(area, line);
  return svg;
}

function drawSparkline(svg, values) {
  const most = Math.max(...values, 1e-9);
  const last = Math.max(FEW, values.length) - 1;
  const left = last - values.length + 1;
  const points = values.map((value, at) => `${left + at} ${(19 - (17 * value) / most).toFixed(1)}`);
  const line = points.length > 1 ? `M${points.join("L")}` : "";
  const [area, path] = svg.children;
  svg.setAttribute("viewBox", `0 0 ${last} 20`);
  path.setAttribute("d", line);
  area.setAttribute("d", line && `${line}L${last} 20L${left} 20Z`);
}

/** Children of `parent`, one for each item, made once and drawn again: focus and hover stay. */
function draw(parent, items, identify, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.id, child]));
  let next = parent.firstElementChild;
  for (const item of items) {
    const id = identify(item);
    let child = known.get(id);
    if (!child) {
      child = make(item);
      child.dataset.id = id;
    }
    known.delete(id);
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

const show = (panel, isEmpty) => { panel.querySelector(".fws-empty").hidden = !isEmpty; };
const setBadge = (tab, text) => setText(byId(`tab-${tab}`).querySelector(".fws-badge"), text);

// The connection

class ConsoleSocket extends WebSocket {
  constructor(url) { super(url, ["centrifuge-json", `fws-console.${key}`]); }
}

let failures = 0;
let countdown;

function showState(state, text) {
  clearInterval(countdown);
  root.dataset.state = state;
  setText(byId("status"), text);
}

const client = connect(websocketPath, {
  WebSocket: ConsoleSocket,
  onmessage: (told) => hear(told),
  onopen() {
    failures = 0;
    byId("help").hidden = true;
    showState("open", "live");
    look();
  },
  onclose({ code, reason, delay }) {
    failures += 1;
    endTee("the connection was lost");
    byId("help").hidden = failures < REFUSED_AFTER || delay === null;
    if (delay === null) showState("closed", `closed: ${reason || code}. Load the page again.`);
    else showState("waiting", "reconnecting");
  },
});

/** What a call answers, or null: an error is told, and the next question may have an answer. */
async function ask(method, about) {
  try {
    return await client.call(method, about);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (client.state === "open") showState("open", `live, but ${error.message}`);
    return null;
  }
}

// Looking: what is shown is asked for, and only while somebody looks

let tab = "pipelines";
let paused = false;
let isAsking = false;
let timer;

async function look() {
  clearTimeout(timer);
  if (isAsking || client.state !== "open" || document.hidden || paused) return;
  isAsking = true;
  root.dataset.asking = "";
  try {
    const answer = await ask("overview");
    if (answer) {
      showState("open", "live");
      drawOverview(answer);
    }
    await panels[tab]?.look?.();
    await detail.look?.();
  } finally {
    isAsking = false;
    delete root.dataset.asking;
    timer = setTimeout(look, EVERY);
  }
}

document.addEventListener("visibilitychange", look);
byId("pause").addEventListener("click", ({ currentTarget }) => {
  paused = !paused;
  currentTarget.setAttribute("aria-pressed", String(paused));
  root.dataset.paused = paused ? "yes" : "";
  look();
});

// Tabs

const tabs = [...byId("tabs").children];

function choose(chosen) {
  tab = chosen.id.replace("fws-tab-", "");
  for (const one of tabs) {
    const isChosen = one === chosen;
    one.setAttribute("aria-selected", String(isChosen));
    one.tabIndex = isChosen ? 0 : -1;
    document.getElementById(one.getAttribute("aria-controls")).hidden = !isChosen;
  }
  history.replaceState(null, "", `#${tab}`);
  look();
}

/** Which of `all` an arrow key leads to from the one at `index`; null for other keys. */
function step({ key: pressed }, index, all, [back, forth]) {
  const to = { [back]: index - 1, [forth]: index + 1, Home: 0, End: all.length - 1 }[pressed];
  return to === undefined ? null : all[(to + all.length) % all.length];
}

byId("tabs").addEventListener("click", ({ target }) => {
  const chosen = target.closest("[role=tab]");
  if (chosen) choose(chosen);
});
byId("tabs").addEventListener("keydown", (event) => {
  const next = step(event, tabs.indexOf(document.activeElement), tabs, ["ArrowLeft", "ArrowRight"]);
  if (!next) return;
  event.preventDefault();
  next.focus();
  choose(next);
});

// All processes

let bounds = [];

function drawOverview(answer) {
  const { at, processes, pipelines, num_processes: count } = answer;
  bounds = answer.bounds;
  setBadge("pipelines", String(answer.num_pipelines));
  setBadge("processes", String(count));
  drawTotals(processes, pipelines, at);
  drawPipelines(pipelines, at);
  drawProcesses(processes, at);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const insideOf = (processes) => processes.map(({ inside }) => inside).filter(Boolean);

function drawTotals(processes, pipelines, at) {
  const inside = insideOf(processes);
  const stages = pipelines.flatMap(({ chains }) => chains.flatMap((chain) => chain.stages));
  const errors = sum(inside.map((one) => one.errors));
  const failing = lastOf(series.note("errors", errors, at)) > 0;
  const lag = Math.max(0, ...inside.map((one) => one.lag));
  const isLost = inside.some((one) => one.layer === "lost");
  const isShared = inside.some((one) => one.layer !== "none");
  const connections = sum(processes.map((one) => one.num_clients));
  setBadge("connections", number(connections));
  setBadge("errors", errors ? number(errors) : "");
  byId("tab-errors").classList.toggle("fws-bad", failing);
  const runs = series.note("runs", sum(stages.map((one) => one.runs)), at);
  const totals = [
    ["connections", number(connections), ""],
    ["filters run", rate(lastOf(runs)), ""],
    ["errors", number(errors), failing ? "fws-bad" : ""],
    ["event loop lag", duration(lag), lag > 0.1 ? "fws-bad" : ""],
    ["queued", number(sum(inside.map((one) => one.queue.messages))), ""],
    ["channel layer", isLost ? "lost" : isShared ? "up" : "none", isLost ? "fws-bad" : ""],
  ];
  draw(byId("totals"), totals, ([label]) => label,
    ([label]) => el("div", {}, el("dt", {}, label), el("dd")),
    (made, [, text, state]) => {
      made.className = state;
      setText(made.lastChild, text);
    });
}

// Pipes

// What becomes of an event at the end of each chain.
const OUT = {
  connect: "accepted", join: "in the group", message: "done", call: "answer", group: "fan out",
  send: "sent", consumer: "done", leave: "gone", disconnect: "gone",
};

const nameOf = ({ paths, home }) => paths.join(", ") || home || "a path of the site's own";
const idOf = ({ paths, home, chains }) => JSON.stringify(
  [paths, home, chains.map(({ stages }) => stages.map(({ path }) => path))],
);

function drawPipelines(pipelines, at) {
  show(byId("pipelines"), pipelines.length === 0);
  draw(byId("pipelines").querySelector(".fws-pipelines"), pipelines, idOf, makePipeline,
    (made, pipeline) => updatePipeline(made, pipeline, at));
}

function makePipeline({ name: route, paths, home, protocol, codec, own }) {
  const about = [
    protocol === "plain" ? null : protocol, codec, home && `home group ${home}`, own && "this console",
  ];
  return el("article", { class: own ? "fws-pipeline fws-own" : "fws-pipeline" },
    el("header", {},
      el("h3", {}, name(nameOf({ paths, home }))),
      el("span", { class: "fws-about" }),
      name(about.filter(Boolean).join(" · "), { class: "fws-about" }),
      own ? null : watchButton(nameOf({ paths, home }), { route })),
    el("div", { class: "fws-chains" }));
}

function updatePipeline(made, pipeline, at) {
  const id = idOf(pipeline);
  setText(made.querySelector(".fws-about"), plural(pipeline.connections, "connection"));
  const chains = pipeline.chains.length ? pipeline.chains : [{ chain: "message", stages: [] }];
  draw(made.lastChild, chains, ({ chain }) => chain,
    (chain) => makePipe(chain, pipeline),
    (pipe, { chain, stages }) => {
      let most = 0;
      stages.forEach((stage, index) => {
        const place = `${id} ${chain} ${index}`;
        const values = series.note(place, stage.runs, at);
        most = Math.max(most, lastOf(values));
        updateStage(pipe.querySelectorAll(".fws-stage")[index], stage, values);
        if (detail.id === place) detail.draw(stage, values);
      });
      pipe.classList.toggle("fws-flows", most > 0);
      // Faster with more events, but never so fast that nobody sees it.
      pipe.style.setProperty("--pace", `${(2.4 / (1 + Math.log10(1 + most))).toFixed(2)}s`);
    });
}

const tube = () => el("span", { class: "fws-tube", "aria-hidden": "true" });

function makePipe({ chain, stages }, pipeline) {
  const end = chain === "data" ? pipeline.codec || "message" : OUT[chain] ?? "done";
  const id = idOf(pipeline);
  const fitted = stages.map((stage, index) => el("li", {}, tube(),
    makeStage(stage, `${id} ${chain} ${index}`, chain, pipeline)));
  const last = fitted.at(-1) ?? el("li", {}, tube());
  // In one item, so that it stays beside the last filter where a long pipe is broken.
  last.append(el("span", { class: "fws-sink" }, tube(), el("span", {}, stages.length ? end : "no filters")));
  return el("div", { class: "fws-pipe" },
    el("span", { class: "fws-source" }, el("code", {}, chain)),
    el("ol", { "aria-label": `${chain} chain` }, ...(fitted.length ? fitted : [last])));
}

function makeStage(stage, place, chain, pipeline) {
  return el("button", {
    type: "button", class: "fws-stage", title: stage.path,
    onclick: () => openStage(place, stage, chain, pipeline),
  },
    el("span", { class: "fws-name" }, name(stage.name)),
    el("span", { class: "fws-figures" },
      el("span", { class: "fws-runs" }), " ", el("span", { class: "fws-rate" }), " ", el("span", { class: "fws-mean" })),
    sparkline("rate of the last two minutes"),
    el("span", { class: "fws-errors" }),
    el("span", { class: "fws-drops" }));
}

const meanOf = ({ runs, seconds }) => (runs ? seconds / runs : NaN);

function updateStage(made, stage, values) {
  setText(made.querySelector(".fws-runs"), number(stage.runs));
  setText(made.querySelector(".fws-rate"), rate(lastOf(values)));
  setText(made.querySelector(".fws-mean"), duration(meanOf(stage)));
  drawSparkline(made.querySelector("svg"), values);
  const out = stage.drops + stage.closes;
  setText(made.querySelector(".fws-errors"), stage.errors ? plural(stage.errors, "error") : "");
  setText(made.querySelector(".fws-drops"), out ? `${number(out)} ${stage.closes ? "dropped or closed" : "dropped"}` : "");
  made.classList.toggle("fws-failing", stage.errors > 0);
}

// Processes

function drawProcesses(processes, at) {
  show(byId("processes"), processes.length === 0);
  draw(byId("processes").querySelector(".fws-processes"), processes, ({ uid }) => uid,
    makeProcess, (made, process) => updateProcess(made, process, at));
}

function makeProcess(process) {
  return el("article", { class: "fws-process" },
    el("header", {}, el("h3", {}, name(process.name)), el("span", { class: "fws-about" })),
    el("dl", { class: "fws-facts" }),
    el("div", { class: "fws-lag" }, el("span", { class: "fws-quiet" }, "lag"), sparkline("event loop lag of the last two minutes")));
}

function updateProcess(made, process, at) {
  const { inside, silent } = process;
  const state = silent > 3 ? `no answer for ${age(silent)}` : inside?.draining ? "draining" : "";
  setText(made.querySelector(".fws-about"),
    [`version ${process.version}`, `up ${age(process.uptime)}`, state].filter(Boolean).join(" · "));
  made.classList.toggle("fws-silent", state !== "");
  const facts = [
    ["connections", number(process.num_clients)],
    ["users", number(process.num_users)],
    ["groups", number(process.num_channels)],
    ["subscriptions", number(process.num_subs)],
  ];
  if (inside) {
    facts.push(
      ["queue", `${number(inside.queue.messages)} · ${bytes(inside.queue.bytes)}`],
      ["unsent", bytes(inside.unsent)],
      ["lag", duration(inside.lag), inside.lag > 0.1],
      ["worst lag", duration(inside.worst_lag), inside.worst_lag > 0.5],
      ["threads", `${inside.blocking.busy} of ${inside.blocking.of}`, inside.blocking.abandoned > 0],
      ["layer", inside.layer, inside.layer === "lost"],
      ["errors", number(inside.errors)],
    );
    // Lag is no counter: what a rate would be of its sum.
    const values = lags.note(process.uid, inside.lag, at);
    drawSparkline(made.querySelector("svg"), values);
  }
  draw(made.querySelector("dl"), facts, ([label]) => label,
    ([label]) => el("div", {}, el("dt", {}, label), el("dd")),
    (fact, [, text, isBad]) => {
      setText(fact.lastChild, text);
      fact.className = isBad ? "fws-bad" : "";
    });
}

/** The last values of what is no counter. */
class Values {
  #known = new Map();

  note(id, value, at) {
    const known = this.#known.get(id) ?? { values: [] };
    if (known.at !== at) known.values.push(value);
    if (known.values.length > VALUES) known.values.shift();
    known.at = at;
    this.#known.set(id, known);
    return known.values;
  }
}

const lags = new Values();

// Tables

/** A table of rows that are searched on the server. */
class Table {
  #panel;
  #method;
  #columns;
  #open;
  #limit = ROWS;
  #typing;
  #number = 0;

  /** `columns` are [label, draw(cell, row)]; `open(row)` shows one. */
  constructor(id, method, columns, open) {
    this.#panel = byId(id);
    this.#method = method;
    this.#columns = columns;
    this.#open = open;
    this.body = this.#panel.querySelector("tbody");
    this.form = this.#panel.querySelector("form");
    this.form?.addEventListener("submit", (event) => { event.preventDefault(); this.search(); });
    this.form?.addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.search(), TYPED);
    });
    this.#panel.querySelector(".fws-more")?.addEventListener("click", () => {
      this.#limit = Math.min(MAX_ROWS, 2 * this.#limit);
      this.look();
    });
    this.body.addEventListener("keydown", (event) => this.#move(event));
    this.body.addEventListener("click", ({ target }) => {
      const row = target.closest("tr");
      if (row && !target.closest("button")) row.querySelector("button").click();
    });
  }

  search() {
    this.#limit = ROWS;
    this.look(true);
  }

  get asked() {
    if (!this.form) return {};
    const { search, order } = Object.fromEntries(new FormData(this.form));
    const [, kind, text] = search.match(/^(group|user):(.+)$/) ?? [];
    return kind ? { [kind]: text.trim(), order } : { search: search.trim(), order };
  }

  /** Ask again and draw; `isSearch` where somebody waits for it. */
  async look(isSearch = false) {
    const mine = (this.#number += 1);
    const answer = await ask(this.#method, { ...this.asked, limit: this.#limit });
    if (!answer || mine !== this.#number) return;
    const { rows, matched = answer.total, total } = answer;
    // Nothing moves under a hand or a focus that is about to choose: rows are drawn anew there
    // once it has left.
    const isHeld = !isSearch && this.body.matches(":hover, :focus-within");
    if (isHeld) this.#redraw(rows);
    else this.#draw(rows);
    show(this.#panel, rows.length === 0);
    const more = this.#panel.querySelector(".fws-more");
    if (more) more.hidden = rows.length >= matched || this.#limit >= MAX_ROWS;
    const count = this.#panel.querySelector(".fws-count");
    if (count) setText(count, `${number(rows.length)} of ${number(matched)}${matched < total ? `, ${number(total)} in all` : ""}`);
  }

  #draw(rows) {
    draw(this.body, rows, this.idOf, (row) => this.#make(row), (made, row) => this.#update(made, row));
    const buttons = this.#buttons;
    if (!buttons.some((button) => button.tabIndex === 0) && buttons.length) buttons[0].tabIndex = 0;
  }

  #redraw(rows) {
    const now = new Map(rows.map((row) => [this.idOf(row), row]));
    for (const made of this.body.children) {
      const row = now.get(made.dataset.id);
      made.classList.toggle("fws-gone", !row);
      if (row) this.#update(made, row);
    }
  }

  idOf(row) { return row.id ?? row.key ?? row.name; }

  #make(row) {
    const made = el("tr");
    this.#columns.forEach(([label, , kind], index) => {
      const cell = el(index ? "td" : "th", { class: kind ?? "", data: { label } });
      if (!index) {
        cell.scope = "row";
        cell.append(el("button", {
          type: "button", class: "fws-link", tabIndex: -1, onclick: () => this.#open(made.row),
          onfocus: ({ currentTarget }) => this.#rove(currentTarget),
        }));
      }
      made.append(cell);
    });
    made.row = row;
    return made;
  }

  #update(made, row) {
    made.row = row;
    made.classList.remove("fws-gone");
    this.#columns.forEach(([, update], index) => {
      const cell = made.cells[index];
      update(index ? cell : cell.firstChild, row);
    });
  }

  get #buttons() { return [...this.body.querySelectorAll("th > button")]; }

  /** One row can be reached by Tab, the others from there by arrow keys. */
  #rove(chosen) {
    for (const button of this.#buttons) button.tabIndex = button === chosen ? 0 : -1;
  }

  #move(event) {
    const all = this.#buttons;
    const next = step(event, all.indexOf(document.activeElement), all, ["ArrowUp", "ArrowDown"]);
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}

/** Write a name into a cell, again only if it is another one. */
function writeName(cell, text, extra = "") {
  const shown = `${text}\0${extra}`;
  if (cell.shown === shown) return;
  cell.shown = shown;
  cell.replaceChildren(name(text), extra && el("span", { class: "fws-quiet" }, ` ${extra}`));
}

const writeGroups = (cell, { groups, num_groups: count }) => writeName(
  cell, groups.join(", "), count > groups.length ? `and ${number(count - groups.length)} more` : "",
);

const whoIs = ({ name: called, user }) => called || (user ? `user ${user}` : "anonymous");

const connections = new Table("connections", "connections", [
  ["User", (cell, row) => writeName(cell, whoIs(row), row.state === "open" ? "" : row.state)],
  ["Path", (cell, row) => writeName(cell, row.path)],
  ["Address", (cell, row) => writeName(cell, row.address || "–")],
  ["Age", (cell, row) => setText(cell, age(row.age)), "fws-number"],
  ["Groups", writeGroups],
  ["Unsent", (cell, row) => {
    setText(cell, bytes(row.unsent));
    cell.classList.toggle("fws-bad", row.unsent > 65_536);
  }, "fws-number"],
], (row) => openConnection(row));

const groups = new Table("groups", "groups", [
  ["Group", (cell, row) => writeName(cell, row.name)],
  ["Members", (cell, row) => setText(cell, number(row.members)), "fws-number"],
  ["Rate", (cell, row) => setText(cell, rate(lastOf(rateOf(row)))), "fws-number"],
  ["", (cell, row) => {
    if (!cell.firstChild) cell.append(sparkline("messages of the last two minutes"));
    drawSparkline(cell.firstChild, rateOf(row));
  }, "fws-graph"],
  ["Keeps", (cell, row) => setText(cell, keepsOf(row))],
], (row) => openGroup(row.name));

const keepsOf = ({ presence, history }) => [presence && "presence", history && "history"].filter(Boolean).join(", ") || "–";
const rateOf = (row) => series.note(`group ${row.name}`, row.messages, row.at ??= performance.now() / 1000);

const errors = new Table("errors", "errors", [
  ["What", (cell, row) => {
    writeName(cell, row.kind ? `${row.kind} in ${row.what}` : row.what);
    cell.classList.toggle("fws-bad", row.level === "error");
  }],
  ["Count", (cell, row) => setText(cell, number(row.count)), "fws-number"],
  ["Last", (cell, row) => setText(cell, ago(row.last))],
  ["Where", (cell, row) => writeName(cell, row.processes > 1 ? plural(row.processes, "process", "processes") : row.process)],
], (row) => openError(row));

const panels = { connections, groups, errors };

// Details

const dialog = byId("detail");
// What is shown of one thing: id, and how it is asked for and drawn again.
let detail = {};

function open(title, shown) {
  detail = shown;
  byId("detail-title").replaceChildren(name(title));
  byId("detail-body").replaceChildren(...shown.nodes);
  setText(byId("said"), "");
  if (!dialog.open) dialog.showModal();
  shown.look?.();
}

byId("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => { detail = {}; });
// Beside it: the backdrop belongs to the dialog.
dialog.addEventListener("click", ({ target }) => { if (target === dialog) dialog.close(); });

/** A list of what is known of one thing. */
function facts(entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "fws-facts" },
    ...shown.map(([label, value]) => el("div", {}, el("dt", {}, label), el("dd", {}, value instanceof Node ? value : name(value)))));
}

function openStage(place, stage, chain, pipeline) {
  const body = el("div");
  open(stage.name, {
    id: place,
    nodes: [body],
    draw(now, values) {
      const svg = sparkline("rate of the last two minutes");
      drawSparkline(svg, values);
      body.replaceChildren(
        facts([
          ["filter", now.path], ["chain", chain], ["route", nameOf(pipeline)],
          ["runs", whole.format(now.runs)], ["rate", rate(lastOf(values))], ["mean time", duration(meanOf(now))],
          ["errors", whole.format(now.errors)], ["dropped", whole.format(now.drops)], ["closed", whole.format(now.closes)],
        ]),
        svg,
        histogram(now.times ?? []),
      );
    },
  });
  byId("detail-body").append(el("div", { class: "fws-actions" },
    watchButton(`${pipeline.name} ${stage.name}`, { route: pipeline.name, part: stage.path })));
  detail.draw(stage, series.of(place));
}

/** How many runs took how long. */
function histogram(times) {
  const most = Math.max(...times, 1);
  const limits = [...bounds.map((bound) => `≤ ${duration(bound)}`), "longer"];
  const used = times.map((count) => count > 0);
  const [from, to] = [used.indexOf(true), used.lastIndexOf(true)];
  if (from < 0) return el("p", { class: "fws-quiet" }, "It has not run yet.");
  const rows = limits.map((label, index) => {
    const bar = el("span", { class: "fws-bar" });
    bar.style.inlineSize = `${Math.max(times[index] ? 1 : 0, (100 * times[index]) / most)}%`;
    return el("tr", {}, el("th", { scope: "row" }, label), el("td", {}, bar), el("td", { class: "fws-number" }, whole.format(times[index])));
  });
  return el("table", { class: "fws-histogram" }, el("caption", {}, "How long it took"),
    el("tbody", {}, ...rows.slice(Math.max(0, from - 1), to + 2)));
}

// Actions: a question first, and what came of it is told beside it

function action(label, permission, method, about, question) {
  if (!may(permission)) return null;
  const place = `${method} ${JSON.stringify(about)}`;
  const button = el("button", { type: "button", class: "button", data: { place } }, label);
  const box = el("div", { class: "fws-action" }, button);
  const yes = el("button", { type: "button", class: "button fws-danger" }, "Yes");
  const no = el("button", { type: "button", class: "button" }, "No");
  const sure = el("span", { class: "fws-sure", role: "group", "aria-label": question }, `${question} `, yes, " ", no);
  button.addEventListener("click", () => {
    box.replaceChildren(sure);
    no.focus();
  });
  const back = () => {
    box.replaceChildren(button);
    button.focus();
  };
  no.addEventListener("click", back);
  yes.addEventListener("click", () => {
    back();
    act(label, method, about);
  });
  return box;
}

/** Do it, and tell what came of it; whether it was done. */
async function act(label, method, about) {
  let said;
  try {
    said = (await client.call(method, about)).problem ?? "done";
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    said = error.message;
  }
  setText(byId("said"), `${label}: ${said}`);
  look();
  return said === "done";
}

/** Draw what has changed, unless a question waits for its answer; the focus stays where it is. */
function redraw(body, answer, make) {
  const text = JSON.stringify(answer, (field, value) => (field === "age" ? 0 : value));
  if (body.drawn === text || body.querySelector(".fws-sure")) return;
  body.drawn = text;
  body.isOver = false;
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.place ?? "" : null;
  body.replaceChildren(...make(answer).filter(Boolean));
  if (focused === null) return;
  const same = [...body.querySelectorAll("[data-place]")].find(({ dataset }) => dataset.place === focused);
  (same ?? byId("close")).focus();
}

function openConnection({ id, process }) {
  const body = el("div");
  open(`Connection ${id.slice(0, 8)}`, {
    id,
    nodes: [body],
    async look() {
      const { row, sure } = (await ask("connection", { id, process })) ?? {};
      if (detail.id !== id || row === undefined) return;
      // A process that is busy may not answer in time.
      process = row?.process ?? process;
      if (row) redraw(body, row, drawConnection);
      else if (sure) endOf(body);
    },
  });
}

/**
 * What there was to see of a connection stays, but nothing can be done with it: unless its process
 * was only too busy to answer.
 */
function endOf(body) {
  if (body.isOver) return;
  body.isOver = true;
  body.drawn = undefined;
  for (const button of body.querySelectorAll(".fws-action")) button.remove();
  body.prepend(el("p", { class: "fws-ended" }, "It has ended."));
  if (!body.contains(document.activeElement)) byId("close").focus();
}

function drawConnection(row) {
  const { token } = row;
  return [
    facts([
      ["id", row.id], ["user", whoIs(row)], ["primary key", row.user], ["path", row.path], ["route", row.route],
      ["address", row.address], ["agent", row.agent], ["connected for", age(row.age)], ["state", row.state],
      ["unsent", bytes(row.unsent)], ["sent by", row.lane], ["process", row.process],
      ["token", token && (tokenUrl ? el("a", { href: `${tokenUrl}${token.id}/change/` }, name(token.name)) : token.name)],
    ]),
    el("h3", {}, plural(row.num_groups, "group")),
    el("ul", { class: "fws-list" }, ...row.groups.map((group) => el("li", {},
      el("button", { type: "button", class: "fws-link", data: { place: group }, onclick: () => openGroup(group) }, name(group)),
      " ",
      action("Unsubscribe", "unsubscribe_console", "unsubscribe", { id: row.id, group }, "Take the group away?")))),
    el("div", { class: "fws-actions" }, ...[
      watchButton(`connection ${row.id.slice(0, 8)}`, { connection: row.id }),
      action("Close connection", "close_console", "close", { id: row.id }, "Close it?"),
      row.user && action("Close all of this user", "close_console", "close_user", { user: row.user }, "Close all connections of this user?"),
      token && action("Revoke token", "change_token", "revoke", { token: token.id }, "Revoke the token for ever?"),
    ].filter(Boolean)),
  ];
}

function openGroup(group) {
  const body = el("div");
  const known = el("div");
  body.append(known, el("div", { class: "fws-actions" }, watchButton(`group ${group}`, { group })), publishForm(group) ?? "");
  open(group, {
    id: `group ${group}`,
    nodes: [body],
    async look() {
      const answer = await ask("group", { name: group });
      if (answer && detail.id === `group ${group}`) redraw(known, answer, (now) => drawGroup(group, now));
    },
  });
}

function drawGroup(group, { row, presence, messages, problem }) {
  const members = presence?.members;
  return [
    row === null ? el("p", { class: "fws-quiet" }, "Nobody is in this group now.") : facts([
      ["members", number(row.members)], ["processes", row.processes], ["keeps", keepsOf(row)],
      ["present", presence && `${plural(presence.connections, "connection")}, ${plural(presence.users, "user")}`],
      ["problem", problem],
    ]),
    el("p", {}, el("button", {
      type: "button", class: "fws-link", data: { place: "connections" },
      onclick() {
        connections.form.elements.search.value = `group:${group}`;
        dialog.close();
        choose(byId("tab-connections"));
        connections.search();
      },
    }, "Show its connections")),
    ...(members ? [el("h3", {}, "Present"), el("ul", { class: "fws-list" }, ...members.map(({ id, user }) => el("li", {},
      el("button", { type: "button", class: "fws-link", data: { place: id }, onclick: () => openConnection({ id }) }, name(user || "anonymous")))))] : []),
    ...(messages ? [el("h3", {}, "Last messages"), el("ol", { class: "fws-messages" }, ...messages.map((one) => el("li", {},
      el("span", { class: "fws-quiet" }, `${one.offset} `), el("code", {}, name(one.text || `${bytes(one.size)} of binary data`)))))] : []),
  ];
}

function publishForm(group) {
  if (!may("publish_console")) return null;
  const text = el("textarea", { name: "data", rows: 2, required: true, "aria-label": "Message" });
  return el("form", {
    class: "fws-publish",
    async onsubmit(event) {
      event.preventDefault();
      if (await act("Publish", "publish", { group, data: messageOf(text.value) })) text.value = "";
    },
  }, el("label", {}, "Publish a text, or a JSON object", text), el("button", { class: "button" }, "Publish"));
}

/** JSON objects and lists as such, and anything else as the text that it is. */
function messageOf(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : text;
  } catch {
    return text;
  }
}

function openError({ key: id, what, kind }) {
  const body = el("div");
  open(kind || "Log", {
    id,
    nodes: [body],
    async look() {
      const { row } = (await ask("error", { key: id })) ?? {};
      if (detail.id !== id || row === undefined) return;
      body.replaceChildren(...(row === null ? [el("p", { class: "fws-quiet" }, "The processes have forgotten it.")] : [
        facts([
          ["what", what], ["count", whole.format(row.count)], ["first", ago(row.first)], ["last", ago(row.last)],
          ["where", row.where], ["process", row.process],
        ]),
        ...row.trace.map((one) => el("section", { class: "fws-trace" },
          el("h3", {}, name(one.message ? `${one.kind}: ${one.message}` : one.kind)),
          el("pre", { tabIndex: 0 }, one.frames.replace(/^ {2}/gm, "")))),
      ]));
      // It does not change any more: what is read stays where it is.
      if (detail.id === id) detail.look = undefined;
    },
  });
}

// A tee: what passes at one place, for a while

// The most records that are shown.
const RECORDS = 200;
const OF_CHAIN = { connect: "handshake", data: "frame", message: "message", call: "call", group: "group", send: "send" };

// What is watched now, or was; the server is told its number, and says it again.
let tee = { number: 0, ended: true };
// What has come while a hand or the focus is on the list, where nothing should move.
let held = [];

/** A button that watches a subject: { connection }, { group } or { route, part }. */
function watchButton(what, subject) {
  return el("button", {
    type: "button", class: "button", data: { place: "watch" },
    onclick() {
      dialog.close();
      choose(byId("tab-tee"));
      byId("tab-tee").focus();
      watch(what, subject);
    },
  }, "Watch");
}

async function watch(what, subject) {
  tee = { number: tee.number + 1, what, subject, seen: 0, found: 0, ended: false };
  const { number: mine } = tee;
  held = [];
  byId("records").replaceChildren();
  byId("tee").querySelector(".fws-empty").hidden = true;
  byId("tee").querySelector(".fws-tee-head").hidden = false;
  byId("tee-on").replaceChildren(name(what));
  setText(byId("tee-stop"), "Stop");
  drawTee("waiting");
  const answer = await ask("tee", { number: mine, ...subject });
  if (tee.number === mine && (!answer || answer.problem)) endTee(answer?.problem ?? "not allowed");
}

function drawTee(state) {
  setText(byId("tee-count"), tee.seen ? plural(tee.seen, "message") : "");
  setText(byId("tee-state"), state);
  setBadge("tee", tee.ended ? "" : "live");
}

function endTee(why) {
  if (tee.ended) return;
  tee.ended = true;
  setText(byId("tee-stop"), "Watch again");
  drawTee(`ended: ${why}`);
}

byId("tee-stop").addEventListener("click", () => {
  if (tee.ended) {
    watch(tee.what, tee.subject);
  } else {
    ask("untee");
    endTee("you have stopped it");
  }
});

/** What the server tells of a tee. */
function hear({ tee: number, record, ended, dropped, problem }) {
  if (number !== tee.number || tee.ended) return;
  if (ended) {
    const lost = dropped ? `; ${plural(dropped, "message was", "messages were")} not shown` : "";
    endTee(problem ?? `it has shown all that it may${lost}`);
  } else if (record.is === "begin") {
    tee.found += record.found;
    if (!tee.seen) drawTee(tee.found ? "waiting for the first message" : "waiting: nobody is there now");
  } else if (["chain", "publish", "frame"].includes(record.is)) {
    tee.seen += 1;
    held = [record, ...held.slice(0, RECORDS - 1)];
    showHeld();
  } else if (record.is === "lost") {
    drawTee("more pass than can be shown");
  }
}

function showHeld() {
  const list = byId("records");
  if (list.matches(":hover, :focus-within")) {
    drawTee("what is new is shown when you leave the list");
    return;
  }
  list.prepend(...held.splice(0).map(drawRecord));
  while (list.children.length > RECORDS) list.lastChild.remove();
  if (!tee.ended) drawTee("");
}

for (const type of ["pointerleave", "focusout"]) {
  // Once it has left.
  byId("records").addEventListener(type, () => setTimeout(showHeld));
}
byId("records").addEventListener("pointerover", ({ target }) => {
  const trail = target.closest("[data-trail]")?.dataset.trail;
  for (const record of byId("records").children) record.classList.toggle("fws-same", record.dataset.trail === trail);
});

const timeOf = (at) => new Date(at * 1000).toTimeString().slice(0, 8);

/** A payload, or its size for who may not see it. */
function payload(shown) {
  if (!shown || shown.kind === "none") return el("span", { class: "fws-quiet" }, "nothing");
  if (shown.text === undefined) return el("span", { class: "fws-quiet" }, `${shown.kind}, ${shown.size === null ? "size unknown" : bytes(shown.size)}`);
  return el("code", {}, name(shown.text), shown.cut ? el("span", { class: "fws-quiet" }, " …") : null);
}

/** How a filter or a chain has ended; null where it went through. */
const ending = (end) => end && el("span", { class: end.how === "drop" ? "fws-dropped" : "fws-bad" },
  name([end.class ?? end.how, end.why].filter(Boolean).join(": ")));

const whatOf = ({ is, chain, way }) => (is === "chain" ? OF_CHAIN[chain] ?? chain : is === "frame" ? `frame ${way}` : is);

function drawRecord(record) {
  const { stages = [], end } = record;
  const line = [
    el("time", {}, timeOf(record.at)), el("span", { class: "fws-what" }, whatOf(record)), payload(record.in),
    el("span", { class: "fws-took" }, ending(end) ?? (record.seconds === undefined ? "" : duration(record.seconds))),
  ];
  const state = end === null || end === undefined ? "" : end.how === "drop" ? " fws-left" : " fws-stopped";
  return el("li", { class: `fws-record${state}`, data: { trail: record.id } }, el("details", {},
    el("summary", {}, ...line),
    el("ol", { class: "fws-steps" }, ...stages.map((stage) => el("li", {},
      el("span", { class: "fws-step", title: stage.path }, name(stage.filter)),
      el("span", { class: "fws-quiet" }, duration(stage.seconds)),
      ending(stage.end) ?? payload(stage.out)))),
    facts([
      ["route", record.route], ["group", record.group], ["connection", record.connection && el("button", {
        type: "button", class: "fws-link", onclick: () => openConnection({ id: record.connection, process: record.process }),
      }, record.connection.slice(0, 8))],
      ["reached", record.members === undefined ? null : plural(record.members, "connection")], ["process", record.process],
    ])));
}

// Begin

root.hidden = false;
choose(tabs.find((one) => `#${one.id.replace("fws-tab-", "")}` === location.hash) ?? tabs[0]);
