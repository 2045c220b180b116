/*
 * A room: who is here, who types, the last messages, and after a reconnect what was missed, by
 * client.js. page.js, which is loaded before, shows it all.
 */
const { byId, element, append, showMessage, showNotice, showState, ownName, log } = Page;
const { client: module, group, websocketPath } = document.body.dataset;
const { connect, LOST } = await import(module);

const LAST = 50;
// Milliseconds: how often others are told that one types, and how long they show it.
const [TELL, SHOW] = [2_000, 4_000];
const MANY = 12;

const [text, people, typing] = ["text", "people", "typing"].map(byId);
// Connection id -> name.
const here = new Map();
const writers = new Map();
// The ids that this page has had.
const own = new Set();

let failures = 0;
const client = connect(websocketPath, {
  onopen() {
    failures = 0;
    own.add(client.id);
    byId("refused").hidden = true;
    showState("open", "connected");
  },
  async onclose({ code, reason, delay }) {
    failures += 1;
    here.clear();
    showPeople();
    if (delay === null) {
      showState("closed", `closed: ${reason || "refused"} (${code}). Reload the page to try again.`);
      return;
    }
    const due = performance.now() + delay;
    const isWaiting = () => client.state === "waiting";
    await Page.askWhy(failures, isWaiting);
    if (isWaiting()) Page.showWait(Math.max(0, due - performance.now()));
  },
});

// Who is here

const nameOf = (info) => info?.chan_info?.name ?? "guest";

function showPeople() {
  const names = [...here].map(([id, name]) => element("li", id === client.id ? "you" : "", name));
  const more = names.splice(MANY).length;
  people.replaceChildren(...names);
  if (more) people.append(element("li", "more", `and ${more} more`));
  for (const item of people.children) item.dir = "auto";
}

async function askWho() {
  const found = await client.presence(group);
  for (const info of found) here.set(info.client, nameOf(info));
  showPeople();
}

// What is said

// Messages that wait for those before them; null: they are shown at once.
let waiting = null;
let catchingUp = false;
// The offset of the last one that is shown.
let shown = 0;

function show(data, { offset, info }) {
  if (offset !== undefined && offset <= shown) return;
  shown = offset ?? shown;
  const isOwn = own.has(info?.client);
  writers.delete(info?.client);
  showTyping();
  const sent = { data, sender: info?.client ?? null };
  if (typeof data === "string") showMessage("guest", data, false, sent);
  else showMessage(String(data?.name ?? "guest"), String(data?.text ?? ""), isOwn, sent);
}

/** The last ones, instead of what is there. */
async function showLast(isAgain) {
  const later = (waiting = []);
  try {
    const { publications } = await client.history(group, { limit: LAST, reverse: true });
    if (later !== waiting) return;
    log.replaceChildren();
    shown = 0;
    for (const publication of publications.reverse()) show(publication.data, publication);
    if (isAgain) showNotice("Connected again. What is above is all that is left of what was said.");
  } catch (error) {
    // After a reconnect this is called again.
    if (error.code !== LOST) showNotice(`The last messages are not to be had: ${error.message}.`);
  }
  if (later !== waiting) return;
  waiting = null;
  for (const one of later) show(...one);
}

function enter(recover) {
  return client.subscribe(group, {
    recover,
    data: { name: ownName() || "guest" },
    onmessage(data, about) {
      if (waiting) waiting.push([data, about]);
      else {
        if (catchingUp) showNotice("While you were away:");
        catchingUp = false;
        show(data, about);
      }
    },
    onjoin(info) {
      here.set(info.client, nameOf(info));
      showPeople();
    },
    onleave(info) {
      here.delete(info.client);
      writers.delete(info.client);
      showPeople();
      showTyping();
    },
    onsubscribe({ recovered }) {
      here.clear();
      askWho().catch(() => {});
      if (!recovered) return showLast(recovered === false);
      // What was missed comes before anything else can happen.
      catchingUp = true;
      queueMicrotask(() => {
        catchingUp = false;
        showNotice("Connected again.");
      });
    },
    onend(error) {
      showNotice(`You are not in this room any more: ${error.message} (${error.code}).`);
    },
  });
}

let room = enter(true);

// A new name is that of another visitor.
byId("name").addEventListener("change", () => {
  const { position } = room;
  room.unsubscribe();
  room = enter(position ?? true);
});

// Who types

const typingGroup = group.replace(/^room:/, "typing:");
let told = -Infinity;

function showTyping() {
  const names = [...writers.values()].map(({ name }) => name);
  typing.textContent = names.length === 0 ? "" : names.length > 3 ? "Several people are typing"
    : `${names.join(", ")} ${names.length === 1 ? "is" : "are"} typing`;
}

client.subscribe(typingGroup, {
  onmessage({ name }, { info }) {
    if (!info || own.has(info.client)) return;
    clearTimeout(writers.get(info.client)?.timer);
    const timer = setTimeout(() => { writers.delete(info.client); showTyping(); }, SHOW);
    writers.set(info.client, { name: String(name), timer });
    showTyping();
  },
});

text.addEventListener("input", () => {
  if (client.state !== "open" || performance.now() - told < TELL || !text.value.trim()) return;
  told = performance.now();
  client.publish(typingGroup, { name: ownName() || "guest" }).catch(() => {});
});

byId("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = text.value;
  if (client.state !== "open" || !said.trim()) return;
  text.value = "";
  text.focus();
  told = -Infinity;
  try {
    await client.publish(group, { name: ownName() || "guest", text: said });
  } catch (error) {
    append(element("li", "notice", `Not sent (${error.message}): ${said}`));
  }
});

byId("aside").hidden = false;
byId("command").textContent =
  `c = (await import("${module}")).connect("${websocketPath}"); `
  + `await c.publish("${group}", { text: "hello" })`;
