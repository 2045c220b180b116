/*
 * What the pages of the demo share: the log, names, the form for another room, the pipeline.
 * Messages are only ever shown through textContent. Loaded before demo.js and room.js.
 */
const Page = (() => {
  "use strict";

  const [MAX_ITEMS, HUES] = [500, 8];
  const STORED_NAME = "filtered_websocket.name";
  // After so many attempts that never opened, ask whether the server itself is there.
  const REFUSED_AFTER = 3;

  const byId = (id) => document.getElementById(id);
  const [status, log, nameInput] = ["status", "log", "name"].map(byId);

  function element(tag, className, text) {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  }

  /** One author, one colour, also where a filter has shouted the name. */
  function hue(author) {
    let hash = 0;
    for (const char of author.toLowerCase()) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
    return `hue-${hash % HUES}`;
  }

  const atBottom = () => log.scrollHeight - log.scrollTop - log.clientHeight < 16;
  const toBottom = () => log.scrollTo(0, log.scrollHeight);
  let pinned = true;
  log.addEventListener("scroll", () => { pinned = atBottom(); });
  // A phone's keyboard takes its room from the log, and would hide the newest message.
  new ResizeObserver(() => { if (pinned) toBottom(); }).observe(log);

  function append(item) {
    const follow = atBottom();
    log.append(item);
    while (log.children.length > MAX_ITEMS) log.firstChild.remove();
    if (follow) toBottom();
  }

  /** `sent`: what is known of how it came, for whom Page.onmessage tells. */
  function showMessage(author, text, own = false, sent = null) {
    const item = element("li", own ? "message own" : "message", "");
    const by = element("span", `author ${hue(author)}`, author);
    const said = element("span", "text", text);
    by.dir = said.dir = "auto";
    const last = log.lastElementChild;
    const goesOn = last?.classList.contains("own") === own
      && last.querySelector(".author")?.textContent === author;
    item.classList.toggle("goes-on", goesOn);
    item.append(by, " ", said);
    append(item);
    if (sent) page.onmessage(item, sent);
  }

  function showNotice(text) {
    const last = log.lastElementChild;
    if (last && !last.classList.contains("notice")) append(element("li", "notice", text));
  }

  let countdown;

  /** The state for the eye and in words, and what of them changes all the time. */
  function showState(state, text, aside = "") {
    clearInterval(countdown);
    // Screen readers need to hear that it reconnects, not every second of it.
    const quiet = element("span", "", aside);
    quiet.setAttribute("aria-hidden", "true");
    status.replaceChildren(text, quiet);
    document.body.dataset.state = state;
    byId("send").disabled = state !== "open";
  }

  /** It tries again after so many milliseconds. */
  function showWait(delay) {
    const due = performance.now() + delay;
    const left = () => ` in ${Math.max(1, Math.ceil((due - performance.now()) / 1000))} s`;
    const refused = !byId("refused").hidden;
    showState(refused ? "refused" : "waiting", refused ? "refused, trying again" : "reconnecting", left());
    countdown = setInterval(() => { status.lastChild.textContent = left(); }, 250);
  }

  /**
   * A browser does not tell a refused WebSocket from a server that is away: HTTP does. By then the
   * page may be connected, or try again: isWaiting() tells.
   */
  async function askWhy(failures, isWaiting) {
    let refused = false;
    try {
      // 502 and the like: a proxy answers, the server does not.
      refused = failures >= REFUSED_AFTER
        && (await fetch(location.href, { method: "HEAD", cache: "no-store" })).status < 500;
    } catch { /* it is away */ }
    if (isWaiting()) byId("refused").hidden = !refused;
  }

  // Storage may be forbidden: the name then lasts as long as the page.
  const recall = (store) => {
    try { return window[store].getItem(STORED_NAME); } catch { return null; }
  };
  const keep = (store) => {
    try { window[store].setItem(STORED_NAME, ownName()); } catch { /* as above */ }
  };

  const pick = (words) => words.split(" ")[Math.floor(Math.random() * 8)];
  const randomName = () => [
    pick("quiet early brave amber plain swift mellow curious"),
    pick("otter heron maple comet badger fern wren lynx"),
  ].join("-");
  const ownName = () => nameInput.value.replace(/[:\n]/g, "").trim();

  // Each tab keeps its own name, so that two windows can talk; a new one gets the last chosen.
  nameInput.value = recall("sessionStorage") || recall("localStorage") || randomName();
  keep("sessionStorage");
  nameInput.addEventListener("input", () => ["sessionStorage", "localStorage"].forEach(keep));

  byId("rooms")?.addEventListener("submit", (event) => {
    event.preventDefault();
    // A slash would be another path, and so would "." and "..".
    const room = byId("room").value.trim().replaceAll("/", "-");
    const base = byId("rooms").dataset.url.slice(0, -"-/".length);
    if (!/^\.{0,2}$/.test(room)) location.assign(`${base}${encodeURIComponent(room)}/`);
  });

  // The strip: the server wrote it as text, colours are ours.
  for (const line of document.querySelectorAll("#pipes code")) {
    const [event, ...stages] = line.textContent.split(" | ");
    line.replaceChildren(element("span", "event", event));
    for (const stage of stages) {
      const pipe = element("span", "stage", "");
      pipe.append(element("span", "bar", "|"), ` ${stage}`);
      line.append(" ", pipe);
    }
  }
  const page = {
    byId, element, append, showMessage, showNotice, showState, showWait, askWhy, ownName, log,
    // Set by pipe.js, where that is loaded.
    onmessage() {},
  };
  return page;
})();
