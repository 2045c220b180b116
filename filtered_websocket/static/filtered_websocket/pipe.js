/*
 * With DEBUG: the way of a message through the pipe, from records of a tee, which come by a
 * WebSocket of their own while the switch is on. page.js, which is loaded before, tells of each
 * message that it shows; a message and its records are joined by what was said, and when.
 * Payloads are only ever shown through textContent.
 */
(() => {
  "use strict";

  const { byId, element, append } = Page;
  const [toggle, state, dialog, pipe] = ["tee", "tee-state", "way", "way-pipe"].map(byId);
  // So many ways are kept. A message and its records come within so many milliseconds.
  const [KEEP, NEAR] = [200, 10_000];
  // The most records of one way: a message to a thousand browsers has as many send chains.
  const [MAX_RECORDS, MAX_SENDS, MAX_SHOWN] = [300, 50, 24];
  // Records come in bursts, and are looked at so often, in milliseconds.
  const SOON = 50;
  // What the server shows in the place of a secret.
  const HIDDEN = "***";
  const FRONT = ["data", "message"];
  const HOW = { "drop": "dropped", "not allowed": "not allowed", "close": "closed" };

  let socket = null;
  let layer = "";
  let opened = null;
  let timer = null;
  // Id -> { records, at, item }: item is the message in the page, if there is one.
  const trails = new Map();
  // Messages that have no way yet: { item, sent, at }.
  let waiting = [];
  // Ways that have new records.
  const changed = new Set();

  // Joining messages and ways

  /** Whether `payload` shows `text`, maybe cut and without secrets. */
  function shows(payload, text) {
    if (!payload || typeof payload.text !== "string") return false;
    const { text: shown, cut } = payload;
    if (!shown.includes(HIDDEN)) return cut ? text.startsWith(shown) : text === shown;
    const parts = shown.split(HIDDEN);
    let at = 0;
    return parts.every((part, number) => {
      const found = text.indexOf(part, at);
      at = found + part.length;
      return number === 0 ? found === 0 : found >= 0;
    });
  }

  /** Whether `payload` shows the name and the text of a message in a room. */
  function showsData(payload, data) {
    const text = String(data?.text ?? data);
    try {
      const shown = JSON.parse(payload.text);
      return shows({ text: String(shown?.text ?? shown) }, text);
    } catch {
      return Boolean(payload.cut);
    }
  }

  const chains = (trail, ...names) => trail.records.filter(({ is, chain }) => is === "chain" && names.includes(chain));
  const front = (trail) => chains(trail, ...FRONT).sort((a, b) => FRONT.indexOf(a.chain) - FRONT.indexOf(b.chain));
  const after = (trail) => trail.records.filter(({ is, chain }) => is === "publish" || chain === "group");

  function isWayOf(trail, { sent, at }) {
    if (trail.item || Math.abs(trail.at - at) > NEAR) return false;
    if ("typed" in sent) return front(trail).slice(0, 1).some((record) => shows(record.in, sent.typed));
    if ("frame" in sent) {
      if (typeof sent.frame !== "string") return after(trail).some(({ in: { size } }) => size === sent.frame.byteLength);
      return after(trail).some((record) => shows(record.out ?? record.in, sent.frame));
    }
    return trail.records.some((record) => (record.sender ?? record.connection) === sent.sender
      && showsData(record.out ?? record.in, sent.data));
  }

  function joinSoon() {
    timer ??= setTimeout(join, SOON);
  }

  function join() {
    timer = null;
    const now = performance.now();
    waiting = waiting.filter((message) => {
      const found = [...trails.values()].find((trail) => isWayOf(trail, message));
      if (found) {
        found.item = message.item;
        changed.add(found);
      }
      return !found && now - message.at < NEAR;
    });
    for (const trail of changed) {
      // What was dropped is seen by nobody: here it is.
      if (!trail.item && front(trail).some(({ end }) => end)) trail.item = showEnded(trail);
      if (trail.item) mark(trail);
      if (trail === opened) draw(trail);
    }
    changed.clear();
  }

  const endOf = (trail) => front(trail).find(({ end }) => end)?.end;

  function showEnded(trail) {
    const item = element("li", "notice ended", "");
    const { text = "" } = front(trail)[0].in;
    const said = element("q", "", "");
    said.dir = "auto";
    said.append(...spaced(text.slice(0, 80)));
    const end = endOf(trail);
    const by = stagesOf(trail).find((stage) => stage.end)?.filter ?? "a filter";
    item.append(said, end.how === "error" ? ` ended in ${by}, which raised ${end.class}.` : ` was ${HOW[end.how]} by ${by}.`);
    append(item);
    return item;
  }

  /** The button that opens its way, with how long its filters took. */
  function mark(trail) {
    let button = trail.item.querySelector(".its-way");
    if (!button) {
      button = element("button", "its-way", "");
      button.type = "button";
      button.append(element("span", "", ""), element("span", "for-readers", " Its way through the pipe"));
      trail.item.append(" ", button);
      trail.item.classList.add("has-way");
      trail.item.addEventListener("click", () => { if (!String(getSelection())) open(trail); });
    }
    const text = `${plural(stagesOf(trail).length, "filter")} · ${time(spent(trail))}`;
    if (button.firstChild.textContent !== text) button.firstChild.textContent = text;
  }

  // The tee

  function take(record) {
    if (record.is === "layer") layer = record.name;
    if (record.is === "begin" && !("watches" in toggle.dataset)) {
      toggle.dataset.watches = "";
      say("Say something, then click your message.");
    }
    if (record.is === "end" && record.why === "too many") say("Too many pages look at once. Close one of them.");
    if (record.is === "outage") say(record.lost ? "Redis is away: nothing is seen." : "Messages are seen again.");
    if (record.is === "lost") say("Too many messages at once: some are not shown.");
    if (!["chain", "publish"].includes(record.is)) return;
    if (!trails.has(record.id)) trails.set(record.id, { records: [], at: performance.now(), item: null });
    const trail = trails.get(record.id);
    const isSend = record.chain === "send";
    if (isSend && chains(trail, "send").length >= MAX_SENDS) trail.more = true;
    else if (trail.records.length < MAX_RECORDS) trail.records.push(record);
    if (trails.size > KEEP) trails.delete(trails.keys().next().value);
    changed.add(trail);
    joinSoon();
  }

  const say = (text) => { state.textContent = text; };

  function turnOn() {
    const mine = socket = new WebSocket(location.origin.replace("http", "ws") + document.body.dataset.teePath);
    toggle.setAttribute("aria-pressed", "true");
    say("Connecting");
    socket.onmessage = ({ data }) => take(JSON.parse(data));
    socket.onclose = () => {
      if (mine !== socket) return;
      turnOff();
      say("This has ended, as it does after ten minutes. Press again to go on.");
    };
  }

  function turnOff() {
    const mine = socket;
    socket = null;
    mine.close();
    waiting = [];
    delete toggle.dataset.watches;
    toggle.setAttribute("aria-pressed", "false");
    say("Messages that have a time can still be clicked.");
  }

  toggle.addEventListener("click", () => (socket ? turnOff() : turnOn()));

  Page.onmessage = (item, sent) => {
    if (!socket) return;
    waiting.push({ item, sent, at: performance.now() });
    joinSoon();
  };

  // The picture

  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const stagesOf = (trail) => chains(trail, ...FRONT, "group").flatMap(({ stages }) => stages);
  const spent = (trail) => stagesOf(trail).reduce((sum, { seconds }) => sum + seconds, 0);
  const rounded = (number) => Number(number.toPrecision(number < 100 ? 2 : 3));

  function time(seconds) {
    if (seconds < 0.000_999_5) return `${rounded(seconds * 1e6)} µs`;
    return seconds < 0.9995 ? `${rounded(seconds * 1e3)} ms` : `${rounded(seconds)} s`;
  }

  const sizeOf = ({ kind, size }) => (size === null ? kind : kind === "none" ? "nothing" : `${plural(size, "byte")} of ${kind}`);
  const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\t", "⇥").replaceAll("\n", "↵");

  /** `text` with the white space around it made visible. */
  function spaced(text) {
    const [, before, middle, after] = /^(\s*)([^]*?)(\s*)$/.exec(text);
    return [element("span", "space", visible(before)), middle, element("span", "space", visible(after))];
  }

  function payload(shown) {
    const made = element("code", "payload", "");
    made.dir = "auto";
    if (shown.text === undefined) made.textContent = sizeOf(shown);
    else made.append(...spaced(shown.text), shown.cut ? "…" : "");
    return made;
  }

  // Longer texts are compared by where they begin and end to differ.
  const MAX_TOKENS = 300;

  /** Parts of two texts: [[text, whether it is in the other, too], ...] of each. */
  function compare(old, fresh) {
    const [a, b] = [old, fresh].map((text) => text.match(/[\p{L}\p{N}]+|[^]/gu) ?? []);
    let [head, tail] = [0, 0];
    const shortest = Math.min(a.length, b.length);
    while (head < shortest && a[head] === b[head]) head += 1;
    while (tail < shortest - head && a.at(-1 - tail) === b.at(-1 - tail)) tail += 1;
    const [x, y] = [a, b].map((all) => all.slice(head, all.length - tail));
    const common = [x, y].map((all) => all.map(() => false));
    if (Math.max(x.length, y.length) <= MAX_TOKENS) {
      // The longest common subsequence of x[i:] and y[j:].
      const longest = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
      for (let i = x.length - 1; i >= 0; i -= 1) {
        for (let j = y.length - 1; j >= 0; j -= 1) {
          longest[i][j] = x[i] === y[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
        }
      }
      for (let i = 0, j = 0; i < x.length && j < y.length;) {
        if (x[i] === y[j]) [common[0][i++], common[1][j++]] = [true, true];
        else if (longest[i + 1][j] >= longest[i][j + 1]) i += 1;
        else j += 1;
      }
    }
    return [[a, common[0]], [b, common[1]]].map(([all, marks]) => all.map((token, number) => [
      token, number < head || number >= all.length - tail || marks[number - head],
    ]));
  }

  /** Two payloads, one below the other, with what differs marked. */
  function change(before, now) {
    const made = element("div", "change", "");
    const [old, fresh] = compare(before.text ?? sizeOf(before), now.text ?? sizeOf(now));
    for (const [tag, kind, tokens, { cut }] of [["del", "before", old, before], ["ins", "now", fresh, now]]) {
      const line = element("code", `payload ${kind}`, "");
      line.dir = "auto";
      let marked = null;
      for (const [token, isCommon] of tokens) {
        if (isCommon) line.append(token);
        else if (marked && line.lastChild === marked) marked.textContent += visible(token);
        else line.append(marked = element(tag, "", visible(token)));
      }
      line.normalize();
      line.append(cut ? "…" : "");
      made.append(line);
    }
    if (before.kind !== now.kind) made.append(element("p", "same", `${before.kind} became ${now.kind}`));
    return made;
  }

  const isSame = (a, b) => a.text === b.text && a.kind === b.kind && a.size === b.size;

  function part(kind, title, aside, ...content) {
    const made = element("li", `part ${kind}`, "");
    const head = element("div", "head", "");
    head.append(element("strong", "", title), element("span", "aside", aside));
    made.append(head, ...content);
    return made;
  }

  function endWords({ how, why, code, class: error }) {
    const what = how === "error" ? `raised ${error}` : how === "close" ? `closed the connection (${code})` : HOW[how];
    return why ? `${what}: ${why}` : what;
  }

  function station(stage, slowest, whoMisses = "nobody gets this message") {
    const kind = stage.end ? "station stops" : isSame(stage.in, stage.out) ? "station" : "station changes";
    const made = part(kind, stage.filter, time(stage.seconds));
    const bar = element("span", "bar-of", "");
    bar.style.setProperty("--share", Math.max(0.02, stage.seconds / slowest).toFixed(3));
    made.firstChild.append(bar);
    made.title = stage.path;
    if (stage.end) made.append(element("p", "why", endWords(stage.end)), element("p", "same", `The pipe ends here: ${whoMisses}.`));
    else if (isSame(stage.in, stage.out)) made.append(element("p", "same", "passed on as it was"));
    else made.append(change(stage.in, stage.out));
    return made;
  }

  const label = (text) => element("li", "label", text);

  function chainParts(record, slowest, name = `${record.chain} chain`, whoMisses = undefined) {
    if (!record.stages.length) return [];
    return [label(name), ...record.stages.map((stage) => station(stage, slowest, whoMisses))];
  }

  /** The send chains of a delivery. */
  const sendsOf = (trail, { process, group }) => chains(trail, "send")
    .filter((record) => record.process === process && record.group === group);

  /** How many browsers a delivery has reached. */
  const reachedBy = (trail, record) => Math.max(0, (record.members ?? 0) - sendsOf(trail, record).filter(({ end }) => end).length);

  /** One process: its group chain, its send chains, and how many browsers it has. */
  function delivery(record, trail, slowest, isOne) {
    const made = element("section", "delivery", "");
    const list = element("ol", "way-pipe inner", "");
    const where = `process ${record.process.replace(/^.*_/, "")}`;
    list.append(label(isOne ? where : `${where}, group ${record.group}`), ...chainParts(record, slowest));
    if (record.end) {
      made.append(list);
      return made;
    }
    const sends = sendsOf(trail, record);
    const shown = sends.find(({ end }) => !end) ?? sends[0];
    const count = reachedBy(trail, record);
    const kept = record.members - count;
    if (shown) list.append(...chainParts(shown, slowest, "send chain, once for each browser", "this browser does not get it"));
    if (count || !shown) {
      const crowd = element("div", "crowd", "");
      crowd.setAttribute("aria-hidden", "true");
      for (let number = 0; number < Math.min(count, MAX_SHOWN); number += 1) crowd.append(element("i", "", ""));
      list.append(part(count ? "end" : "end nobody", count ? plural(count, "browser") : "Nobody else is here",
        count ? "delivered" : "", ...(count ? [payload(shown?.out ?? record.out), crowd] : [])));
    }
    if (kept) list.lastChild.append(element("p", "same", `Kept from ${plural(kept, "browser")} by the send chain.`));
    made.append(list);
    return made;
  }

  function hop(published, deliveries) {
    const first = Math.min(...deliveries.map(({ at }) => at));
    const took = published.length && deliveries.length ? first - published[0].at : -1;
    const name = layer === "InMemoryChannelLayer" ? "memory" : layer ? "Redis" : "the layer";
    const made = part("hop", `Through ${name}`, took >= 0 ? time(took) : "");
    made.append(element("p", "same", deliveries.length > 1 ? `to ${deliveries.length} processes` : layer));
    return made;
  }

  function parts(trail) {
    const ahead = front(trail);
    const published = trail.records.filter(({ is }) => is === "publish");
    const deliveries = chains(trail, "group");
    const slowest = Math.max(...stagesOf(trail).map(({ seconds }) => seconds), 1e-9);
    const begin = ahead[0] ?? published[0] ?? deliveries[0];
    const made = [part("begin", ahead.length ? "A frame comes in" : "Published", sizeOf(begin.in), payload(begin.in))];
    for (const record of ahead) made.push(...chainParts(record, slowest));
    if (endOf(trail)) return made;
    let before = ahead.at(-1)?.out;
    for (const one of published.slice(0, MAX_SHOWN)) {
      const body = before && isSame(before, one.in) ? [] : [payload(one.in)];
      made.push(part("publish", `To the group ${one.group}`, sizeOf(one.in), ...body));
      before = one.in;
    }
    if (published.length || deliveries.length) made.push(hop(published, deliveries));
    const forks = element("li", "part forks", "");
    const isOne = new Set(deliveries.map(({ group }) => group)).size === 1;
    forks.append(...deliveries.slice(0, MAX_SHOWN).map((record) => delivery(record, trail, slowest, isOne)));
    if (deliveries.length) made.push(forks);
    return made;
  }

  function sums(trail) {
    const stages = stagesOf(trail);
    const changes = stages.filter((stage) => stage.out && !isSame(stage.in, stage.out)).length;
    const reached = chains(trail, "group").reduce((sum, record) => sum + reachedBy(trail, record), 0);
    const last = chains(trail, "group").map(({ at, seconds }) => at + seconds);
    const whole = last.length && front(trail).length ? Math.max(...last) - front(trail)[0].at : null;
    return [
      ["in filters", time(spent(trail))],
      ["changed it", `${changes} of ${stages.length}`],
      ...(whole === null || whole < 0 ? [] : [["to delivery", time(whole)]]),
      [reached === 1 ? "browser" : "browsers", String(reached)],
    ];
  }

  function draw(trail) {
    byId("way-sums").replaceChildren(...sums(trail).map(([what, value]) => {
      const made = element("div", "", "");
      made.append(element("dt", "", what), element("dd", "", value));
      return made;
    }));
    const all = parts(trail);
    all.forEach((one, number) => one.style.setProperty("--number", number));
    pipe.replaceChildren(...all);
  }

  function open(trail) {
    const [author, text] = [".author", ".text"].map((name) => trail.item.querySelector(name)?.textContent);
    byId("way-said").replaceChildren(...text === undefined ? spaced(front(trail)[0].in.text ?? "") : [`${author}: ${text.trim()}`]);
    opened = trail;
    draw(trail);
    if (!dialog.open) dialog.showModal();
    byId("way-whole").scrollTop = 0;
  }

  byId("way-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    const item = opened?.item;
    opened = null;
    item?.querySelector(".its-way")?.focus();
  });
})();
