/*
 * Groups over one WebSocket, for pages without a build step:
 *
 *   import { connect } from "/static/filtered_websocket/client.js";
 *
 *   const client = connect();
 *   client.subscribe("room:1", { onmessage: show, recover: true });
 *   await client.publish("room:1", { text: "hello" });
 *
 * It speaks the JSON format of the Centrifuge protocol. client.d.ts has all that is for pages.
 * Where no WebSocket gets through, streams.js beside it is loaded, and connects by HTTP.
 */

// Milliseconds. reconnect.js, which has the same rule, says why delays grow like this.
const [BASE, CAP, STABLE] = [500, 30_000, 60_000];
// Milliseconds that an answer may take, and a ping after it is due.
const [ANSWER, SLACK] = [10_000, 10_000];
// The longest delay that setTimeout takes.
const LONGEST = 2 ** 31 - 1;
// Codes of the server: an error, and two ends of a subscription.
const [TOKEN_EXPIRED, UNSUBSCRIBED, COMES_BACK] = [109, 2000, 2500];

// Where the server has streams, too; and how many ways there are: a WebSocket first.
const [HAS_STREAMS, WAYS] = [/\/connection\/websocket$/, 3];
// Address -> the way by which a server has answered, for as long as the page is there.
const known = new Map();

/** Codes of a RequestError that did not come from the server. */
export const [TIMEOUT, LOST, CLOSED] = [1, 2, 3];

/** A request that failed: the server's code, from 100 on, or one of those above. */
export class RequestError extends Error {
  constructor(code, message, temporary = false) {
    super(message);
    Object.assign(this, { name: "RequestError", code, temporary });
  }
}

/** Whether a client that was closed with this code stays away: it would hear the same again. */
export function isFinal(code) {
  return code === 1009 || (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);
}

/** A client that connects to `url`: a path of this page's server, any URL, or what returns one. */
export function connect(url, options) {
  return new Client(url, options).open();
}

function address(url) {
  const found = new URL(url, globalThis.location?.href);
  found.protocol = found.protocol.replace("http", "ws");
  found.hash = "";
  return found.href;
}

/** An option, or what the function returns that it is. */
const valueOf = async (option) => (typeof option === "function" ? option() : option);

/** Call a handler of the page. What it throws is the page's, and stops nothing here. */
function tell(handler, ...about) {
  try {
    handler?.(...about);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

/** Timers and delays of what is tried again until it succeeds. */
class Attempts {
  #current = null;
  #timers = new Map();
  // Milliseconds waited since the last success.
  #waited = 0;

  begin() { this.#current = {}; }

  end() {
    this.#current = null;
    for (const timer of this.#timers.values()) clearTimeout(timer);
  }

  /** `run`, which does nothing any more once this attempt has ended. */
  only(run) {
    const mine = this.#current;
    return (...values) => { if (mine !== null && mine === this.#current) run(...values); };
  }

  after(name, delay, run) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(run, Math.min(delay, LONGEST)));
  }

  succeeded() { this.#waited = 0; }

  /** The delay until the next one: all chance at first, then half to all of those before. */
  delay() {
    const chance = Math.random();
    const longest = Math.min(CAP, Math.max(BASE, this.#waited));
    const delay = this.#waited === 0 ? chance * BASE : ((1 + chance) * longest) / 2;
    this.#waited += delay;
    return delay;
  }
}

/** One group. */
class Subscription {
  /** "subscribing", "subscribed", or "ended" for good. */
  state = "subscribing";
  /** The place in the group's history that `onmessage` has seen; null: there is none. */
  position = null;

  #client;
  #options;
  #attempts = new Attempts();

  /** `own`: by the page, not by the server. */
  constructor(client, group, options, own) {
    Object.assign(this, { group, own });
    this.#client = client;
    this.#options = options;
    if (options.recover?.epoch !== undefined) this.position = { ...options.recover };
  }

  unsubscribe() {
    if (this.state !== "ended" && this.#client.state === "open") {
      this.#client.ask("unsubscribe", { channel: this.group }, () => {});
    }
    this.#end();
  }

  /** Ask the server for it; while it is not connected, that waits for it to be. */
  start() {
    if (this.#client.state !== "open") return;
    const { data, onjoin, onleave, recover } = this.#options;
    const since = recover && this.position ? { recover: true, ...this.position } : {};
    const request = { channel: this.group, data, join_leave: Boolean(onjoin || onleave), ...since };
    this.#attempts.begin();
    this.#client.ask("subscribe", request, this.#attempts.only((error, result) => {
      if (!error) this.stands(result);
      else if (error.code === TIMEOUT) this.#client.closed(1006, "no answer to subscribe");
      else if (error.temporary) this.#retry();
      else this.#end(error);
    }));
  }

  #retry() { this.#attempts.after("retry", this.#attempts.delay(), () => this.start()); }

  /** The server has said that it is one. */
  stands(result) {
    const { onsubscribe, recover } = this.#options;
    this.state = "subscribed";
    this.#attempts.succeeded();
    if (result.recoverable && recover) {
      this.position = { epoch: result.epoch ?? "", offset: result.offset ?? 0 };
    }
    const recovered = result.was_recovering ? Boolean(result.recovered) : null;
    tell(onsubscribe, { data: result.data, recovered, position: this.position }, this.group);
    for (const pub of result.publications ?? []) this.hear({ pub });
  }

  /** A push of the server. */
  hear({ pub, join, leave, unsubscribe }) {
    const { onmessage, onjoin, onleave } = this.#options;
    if (this.state !== "subscribed") return;
    if (join) tell(onjoin, join.info, this.group);
    if (leave) tell(onleave, leave.info, this.group);
    if (unsubscribe) this.ended(unsubscribe);
    if (!pub) return;
    tell(onmessage, pub.data, { ...pub, group: this.group });
    if (this.position && pub.offset) this.position = { ...this.position, offset: pub.offset };
  }

  /** The server has ended it: for good, or until it is asked again. */
  ended({ code, reason }) {
    this.stop("subscribing");
    if (this.own && code >= COMES_BACK) this.#retry();
    else this.#end(new RequestError(code, reason));
  }

  /** Do nothing more, for now or for good. */
  stop(state) {
    this.state = state;
    this.#attempts.end();
  }

  #end(error) {
    if (this.state === "ended") return;
    this.stop("ended");
    this.#client.subscriptions.delete(this.group);
    if (error) tell(this.#options.onend, error, this.group);
  }
}

export class Client {
  /** "connecting", "open", "waiting" to try again, or "closed" for good. */
  state = "closed";
  /** The server's id of this connection; empty while there is none. */
  id = "";
  subscriptions = new Map();

  #url;
  #options;
  #socket = null;
  #attempts = new Attempts();
  // The number of the way that is tried, and whether another may get through if this one fails.
  #way = 0;
  #hasOthers = false;
  // The answer to connect.
  #greeting = {};
  // Of the last command; and { name, line, done, timer, waits } of each without an answer.
  #number = 0;
  #unanswered = new Map();

  constructor(url = "/connection/websocket", options = {}) {
    // What is no URL is said at once.
    this.#url = typeof url === "function" ? url : address(url);
    this.#options = options;
  }

  /** Connect; where it waits to, at once. */
  open() {
    if (this.state === "connecting" || this.state === "open") return this;
    this.state = "connecting";
    for (const type of ["online", "offline"]) globalThis.addEventListener?.(type, this);
    this.#attempts.begin();
    const failed = this.#attempts.only((error) => this.closed(1006, String(error)));
    const dial = this.#attempts.only(([url, token, Socket]) => this.#dial(url, token, Socket));
    this.#attempts.after("next", ANSWER, () => failed("no answer"));
    this.#hasOthers = false;
    const needed = [this.#url, this.#options.token, () => this.#socketClass()];
    Promise.all(needed.map(valueOf)).then(dial).catch(failed);
    return this;
  }

  async #socketClass() {
    this.#way = known.get(this.#url) ?? this.#way;
    if (this.#way > 0) return (await import("./streams.js")).ways[this.#way - 1];
    return this.#options.WebSocket ?? WebSocket;
  }

  close() { if (this.state !== "closed") this.closed(1000, "", true); }

  /** The network of this machine has come back, or has gone. */
  handleEvent({ type }) {
    if (type === "online" && this.state === "waiting") this.open();
    if (type === "offline" && this.state !== "waiting") this.closed(1006, "offline");
  }

  subscribe(group, options = {}) {
    if (this.subscriptions.has(group)) throw new Error(`already subscribed to "${group}"`);
    const made = new Subscription(this, group, options, true);
    this.subscriptions.set(group, made);
    made.start();
    return made;
  }

  async publish(group, data) { await this.#request("publish", { channel: group, data }); }

  async presence(group) {
    return Object.values((await this.#request("presence", { channel: group })).presence ?? {});
  }

  async history(group, { limit = -1, since, reverse } = {}) {
    const asked = { channel: group, limit, since, reverse };
    const { publications = [], epoch = "", offset = 0 } = await this.#request("history", asked);
    return { publications, position: { epoch, offset } };
  }

  async call(method, data) { return (await this.#request("rpc", { method, data })).data; }

  /** A command of the page, which waits until it can be sent. */
  #request(name, fields) {
    return new Promise((done, failed) => {
      const answered = (error, result) => (error ? failed(error) : done(result));
      this.ask(name, fields, answered, this.state !== "open");
    });
  }

  /** `done(error, result)` is called once. */
  ask(name, fields, done, waits = false) {
    const id = (this.#number += 1);
    const line = JSON.stringify({ id, [name]: fields });
    const timer = setTimeout(() => this.#fail(id, TIMEOUT, "no answer"), ANSWER);
    this.#unanswered.set(id, { name, line, done, timer, waits });
    if (this.state === "closed") this.#fail(id, CLOSED, "the client is closed");
    else if (!waits) this.#socket.send(line);
  }

  #answered({ id, error, ...result }) {
    const { done, timer } = this.#unanswered.get(id) ?? {};
    clearTimeout(timer);
    this.#unanswered.delete(id);
    if (error) done?.(new RequestError(error.code, error.message, error.temporary));
    else done?.(null, Object.values(result)[0] ?? {});
  }

  #fail(id, code, why) {
    const { name } = this.#unanswered.get(id);
    this.#answered({ id, error: { code, message: `${name}: ${why}` } });
  }

  #dial(url, token, Socket) {
    const found = address(url);
    this.#hasOthers = HAS_STREAMS.test(new URL(found).pathname) && !known.has(this.#url);
    const socket = new Socket(found);
    this.#socket = socket;
    socket.onopen = () => this.#introduce(token);
    socket.onmessage = ({ data }) => this.#read(data);
    socket.onclose = ({ code, reason }) => this.closed(code, reason);
  }

  #introduce(token) {
    const subs = {};
    for (const { own, group, position } of this.subscriptions.values()) {
      if (!own && position) subs[group] = { recover: true, ...position };
    }
    const { data, token: source } = this.#options;
    const request = { token: token || undefined, data, name: "client.js", subs };
    this.ask("connect", request, this.#attempts.only((error, result) => {
      if (!error) return this.#opened(result);
      const isRenewable = error.code === TOKEN_EXPIRED && typeof source === "function";
      return this.closed(error.code, error.message, !error.temporary && !isRenewable);
    }));
  }

  #opened(result) {
    this.state = "open";
    this.id = result.client;
    this.#greeting = result;
    known.set(this.#url, this.#way);
    this.#hasOthers = false;
    this.#attempts.after("next", STABLE, () => this.#attempts.succeeded());
    this.#expectPing();
    this.#renew(result);
    const goOn = this.#attempts.only(() => tell(this.#options.onopen, { data: result.data }));
    this.#subscribe(result.subs ?? {});
    goOn();
  }

  /** Send a new token in time. If there is none the server closes, and it connects again. */
  #renew({ expires, ttl }) {
    const { token } = this.#options;
    if (!expires || typeof token !== "function") return;
    const done = this.#attempts.only((error, result) => error || this.#renew(result));
    const send = this.#attempts.only((renewed) => this.ask("refresh", { token: renewed }, done));
    this.#attempts.after("renew", ttl * 1000, () => valueOf(token).then(send, () => {}));
  }

  #expectPing() {
    const { ping } = this.#greeting;
    const late = () => this.closed(1006, "no ping");
    if (ping) this.#attempts.after("ping", ping * 1000 + SLACK, late);
  }

  /** What the server has subscribed it to, what the page wants, and what has waited for that. */
  #subscribe(served) {
    const others = [...this.subscriptions.values()].filter(({ group }) => !Object.hasOwn(served, group));
    for (const subscription of others) {
      if (subscription.own) subscription.start();
      else subscription.ended({ code: UNSUBSCRIBED, reason: "the server has not joined it" });
    }
    for (const request of this.#unanswered.values()) {
      if (request.waits) this.#socket?.send(request.line);
      request.waits &&= this.state !== "open";
    }
    for (const [group, result] of Object.entries(served)) this.#serve(group, result);
  }

  #serve(group, result) {
    const options = { ...this.#options, recover: true };
    const subscription = this.subscriptions.get(group) ?? new Subscription(this, group, options);
    this.subscriptions.set(group, subscription);
    subscription.own = false;
    subscription.stands(result);
  }

  #read(frame) {
    const socket = this.#socket;
    let messages;
    try {
      messages = frame.trim().split("\n").map((line) => JSON.parse(line));
    } catch {
      this.closed(1002, "the server does not speak the Centrifuge protocol", true);
      return;
    }
    for (const message of messages) {
      // A handler may have closed it.
      if (socket !== this.#socket) return;
      if (message.push) this.#push(message.push);
      else if (message.id) this.#answered(message);
      else {
        if (this.#greeting.pong) socket.send("{}");
        this.#expectPing();
      }
    }
  }

  #push({ channel, message, subscribe, ...push }) {
    if (message) tell(this.#options.onmessage, message.data, {});
    else if (subscribe) this.#serve(channel, subscribe);
    else this.subscriptions.get(channel)?.hear(push);
  }

  closed(code, reason, isLast = isFinal(code)) {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) Object.assign(socket, { onopen: null, onmessage: null, onclose: null }).close();
    this.#attempts.end();
    this.state = isLast ? "closed" : "waiting";
    this.id = "";
    for (const subscription of this.subscriptions.values()) subscription.stop("subscribing");
    for (const [id, { waits }] of this.#unanswered) {
      if (isLast) this.#fail(id, CLOSED, "the client is closed");
      else if (!waits) this.#fail(id, LOST, "the connection was lost: it may have arrived");
    }
    // Where nothing was heard, another way may get through: at once, up to the last one.
    this.#way = this.#hasOthers && code === 1006 ? (this.#way + 1) % WAYS : 0;
    const delay = isLast ? null : this.#way > 0 ? 0 : this.#attempts.delay();
    if (!isLast) this.#attempts.after("next", delay, () => this.open());
    else for (const type of ["online", "offline"]) globalThis.removeEventListener?.(type, this);
    tell(this.#options.onclose, { code, reason, delay });
  }
}
