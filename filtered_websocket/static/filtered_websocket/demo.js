/*
 * A chat over the WebSocket at the page's own path, in plain text: "name: text".
 * Messages are only ever shown through textContent. reconnect.js, which is loaded before, says
 * when to reconnect after a close.
 */
(() => {
  "use strict";

  const [MAX_ITEMS, HUES] = [500, 8];
  // After so many attempts that never opened, ask whether the server itself is there.
  const REFUSED_AFTER = 3;
  const STORED_NAME = "filtered_websocket.name";

  /** Author and text of a frame; command-line clients send bare text. */
  function parse(data) {
    if (typeof data !== "string") return ["guest", `(${data.byteLength} bytes)`];
    const match = /^([^:\n]{1,32}): ([\s\S]*)$/.exec(data);
    return match ? [match[1], match[2]] : ["guest", data];
  }

  // Some servers, daphne among them, send a close code but lose its reason.
  const REASONS = {
    1000: "the server ended it",
    4401: "not allowed",
    4403: "not allowed",
    4413: "too large a message",
  };

  const { body } = document;
  const byId = (id) => document.getElementById(id);
  const [status, log, nameInput, textInput] = ["status", "log", "name", "text"].map(byId);
  const url = location.origin.replace("http", "ws") + body.dataset.websocketPath;
  // Whether the pipeline sends a message back to its sender, too.
  const toSelf = "toSelf" in body.dataset;

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

  function showMessage(author, text, own = false) {
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
  }

  /** Own text, which the server sends to everybody else. */
  function showTyped(author, text) {
    showMessage(author, text, true);
    // For the eye and for screen readers: no filter has seen this.
    log.lastElementChild.append(" ", element("span", "typed", "as you typed it"));
    if (log.querySelector(".explains")) return;
    append(element("li", "notice explains",
      "Your own messages are shown as you typed them. Others get what the filters make of them:"
      + " open this page in a second window to see that."));
  }

  function showNotice(text) {
    const last = log.lastElementChild;
    if (last && !last.classList.contains("notice")) append(element("li", "notice", text));
  }

  let socket, retry, countdown;
  let wasOpen = false;
  let failures = 0;
  const reconnect = new Reconnect();

  function show(state, text, aside = "") {
    // Screen readers need to hear that it reconnects, not every second of it.
    const quiet = element("span", "", aside);
    quiet.setAttribute("aria-hidden", "true");
    status.replaceChildren(text, quiet);
    body.dataset.state = state;
    byId("send").disabled = state !== "open";
  }

  function wait(delay) {
    const due = performance.now() + delay;
    const left = () => ` in ${Math.max(1, Math.ceil((due - performance.now()) / 1000))} s`;
    const refused = !byId("refused").hidden;
    show(refused ? "refused" : "waiting", refused ? "refused, trying again" : "reconnecting", left());
    countdown = setInterval(() => { status.lastChild.textContent = left(); }, 250);
    retry = setTimeout(connect, delay);
  }

  /** A browser does not tell a refused WebSocket from a server that is away: HTTP does. */
  async function isRefused() {
    if (failures < REFUSED_AFTER) return false;
    try {
      const answer = await fetch(location.href, { method: "HEAD", cache: "no-store" });
      // 502 and the like: a proxy answers, the server does not.
      return answer.status < 500;
    } catch {
      return false;
    }
  }

  function connect() {
    clearTimeout(retry);
    clearInterval(countdown);
    if (byId("refused").hidden) show("connecting", "connecting");
    // One attempt at a time: "online" may come while another one is on its way.
    socket?.close();
    const mine = socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      failures = 0;
      byId("refused").hidden = true;
      reconnect.opened();
      show("open", "connected");
      if (wasOpen) showNotice("Connected again. You missed what was said meanwhile.");
      wasOpen = true;
    };
    socket.onmessage = ({ data }) => {
      const [author, text] = parse(data);
      const own = toSelf && author.toLowerCase() === ownName().toLowerCase();
      showMessage(author, text, own);
    };
    socket.onclose = async ({ code, reason }) => {
      if (mine !== socket) return;
      failures += 1;
      const delay = reconnect.closed(code);
      if (delay !== null) {
        const refused = await isRefused();
        if (mine !== socket) return;
        byId("refused").hidden = !refused;
        return wait(delay);
      }
      const why = reason || REASONS[code] || "refused";
      show("closed", `closed: ${why} (${code}). Reload the page to try again.`);
    };
  }

  window.addEventListener("online", () => {
    if (["waiting", "refused"].includes(body.dataset.state)) connect();
  });

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

  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = textInput.value;
    if (socket.readyState !== WebSocket.OPEN || !text.trim()) return;
    const author = ownName() || "guest";
    socket.send(`${author}: ${text}`);
    if (!toSelf) showTyped(author, text);
    textInput.value = "";
    textInput.focus();
  });

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
  byId("aside").hidden = false;
  byId("command").textContent =
    `s = new WebSocket("${url}"); s.onopen = () => s.send("hello")`;

  connect();
})();
