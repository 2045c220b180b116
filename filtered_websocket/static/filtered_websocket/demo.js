/*
 * A chat over the WebSocket at the page's own path, in plain text: "name: text".
 * reconnect.js, which is loaded before, says when to reconnect after a close; page.js shows it.
 */
(() => {
  "use strict";

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
  const { byId, element, append, showMessage, showNotice, showState, ownName, log } = Page;
  const textInput = byId("text");
  const url = location.origin.replace("http", "ws") + body.dataset.websocketPath;
  // Whether the pipeline sends a message back to its sender, too.
  const toSelf = "toSelf" in body.dataset;

  /** Own text, which the server sends to everybody else. */
  function showTyped(author, text) {
    showMessage(author, text, true, { typed: `${author}: ${text}` });
    // For the eye and for screen readers: no filter has seen this.
    log.lastElementChild.append(" ", element("span", "typed", "as you typed it"));
    if (log.querySelector(".explains")) return;
    append(element("li", "notice explains",
      "Your own messages are shown as you typed them. Others get what the filters make of them:"
      + " open this page in a second window to see that."));
  }

  let socket, retry;
  let wasOpen = false;
  let failures = 0;
  const reconnect = new Reconnect();

  function connect() {
    clearTimeout(retry);
    if (byId("refused").hidden) showState("connecting", "connecting");
    // One attempt at a time: "online" may come while another one is on its way.
    socket?.close();
    const mine = socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      failures = 0;
      byId("refused").hidden = true;
      reconnect.opened();
      showState("open", "connected");
      if (wasOpen) showNotice("Connected again. You missed what was said meanwhile.");
      wasOpen = true;
    };
    socket.onmessage = ({ data }) => {
      const [author, text] = parse(data);
      const own = toSelf && author.toLowerCase() === ownName().toLowerCase();
      showMessage(author, text, own, { frame: data });
    };
    socket.onclose = async ({ code, reason }) => {
      if (mine !== socket) return;
      failures += 1;
      const delay = reconnect.closed(code);
      if (delay !== null) {
        const isWaiting = () => mine === socket;
        await Page.askWhy(failures, isWaiting);
        if (!isWaiting()) return;
        Page.showWait(delay);
        retry = setTimeout(connect, delay);
        return;
      }
      const why = reason || REASONS[code] || "refused";
      showState("closed", `closed: ${why} (${code}). Reload the page to try again.`);
    };
  }

  window.addEventListener("online", () => {
    if (["waiting", "refused"].includes(body.dataset.state)) connect();
  });

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

  byId("aside").hidden = false;
  byId("command").textContent =
    `s = new WebSocket("${url}"); s.onopen = () => s.send("hello")`;

  connect();
})();
