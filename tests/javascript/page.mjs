/** What a page has and Node has not: a WebSocket, here one that a test speaks for, and time. */

import { mock } from "node:test";

export const client = await import(process.env.CLIENT_JS);
export const sockets = [];

export class FakeWebSocket {
  sent = [];
  isClosed = false;

  constructor(url) {
    this.url = url;
    sockets.push(this);
  }

  send(frame) {
    if (this.isClosed) throw new Error("it is closed");
    for (const line of frame.split("\n")) this.sent.push(JSON.parse(line));
  }

  close() {
    this.isClosed = true;
  }

  // What the server does.

  /** Messages, in one frame. */
  say(...messages) {
    this.onmessage?.({ data: messages.map((one) => JSON.stringify(one)).join("\n") });
  }

  push(channel, push) {
    this.say({ push: { channel, ...push } });
  }

  /** Answer the last command of this name. */
  answer(name, result) {
    const { id } = this.last(name, true);
    this.say({ id, [name]: result });
  }

  refuse(name, code, message = "no", temporary = undefined) {
    const { id } = this.last(name, true);
    this.say({ id, error: { code, message, temporary } });
  }

  end(code, reason = "") {
    this.onclose?.({ code, reason });
  }

  // What a test asks.

  /** All requests of this name. */
  all(name) {
    return this.sent.filter((command) => name in command).map((command) => command[name]);
  }

  /** The last one, or the whole command. */
  last(name, isWhole = false) {
    const command = this.sent.findLast((one) => name in one);
    if (command === undefined) throw new Error(`no ${name} was sent: ${JSON.stringify(this.sent)}`);
    return isWhole ? command : command[name];
  }
}

export const requests = [];

/** A request of `fetch`, which a test answers. */
class FakeRequest {
  constructor(url, options) {
    Object.assign(this, { url: String(url), ...options });
    requests.push(this);
    this.answered = new Promise((answer, fail) => Object.assign(this, { answer, fail }));
    options.signal?.addEventListener("abort", () => this.fail(new Error("aborted")));
  }

  /** The answer to a command. */
  done(status = 204) { this.answer(new Response(null, { status })); }

  /** Begin a response that goes on. */
  stream() {
    this.answer(new Response(new ReadableStream({ start: (response) => { this.response = response; } })));
    return this;
  }

  /** Bytes as they come: not as messages begin and end. */
  bytes(...some) { for (const one of some) this.response.enqueue(new Uint8Array(one)); }

  say(...messages) {
    this.bytes(Buffer.from(messages.map((one) => `${JSON.stringify(one)}\n`).join("")));
  }
}

export const sources = [];

class FakeEventSource {
  isClosed = false;

  constructor(url, options) {
    Object.assign(this, { url: new URL(url), ...options });
    sources.push(this);
  }

  say(message) { this.onmessage({ data: JSON.stringify(message) }); }

  close() { this.isClosed = true; }
}

/** Until nothing is left to do at this moment. */
export function settled() {
  return new Promise(setImmediate);
}

/** The socket that was made last. */
export async function dialled() {
  await settled();
  return sockets.at(-1);
}

/** A socket that the server has accepted, and the client has said who it is. */
export async function introduced() {
  const socket = await dialled();
  socket.onopen();
  return socket;
}

/** A socket whose client is connected. */
export async function accepted(result = {}) {
  const socket = await introduced();
  socket.answer("connect", { client: "me", ping: 25, pong: true, ...result });
  return socket;
}

/** Milliseconds go by. */
export async function pass(milliseconds) {
  await settled();
  mock.timers.tick(milliseconds);
  await settled();
}

/** Begin a test with a page of this address, and chance that always gives the most. */
export function begin(href = "https://example.com/chat/") {
  for (const made of [sockets, requests, sources]) made.length = 0;
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.restoreAll();
  mock.method(Math, "random", () => 1);
  globalThis.location = { href };
  globalThis.WebSocket = FakeWebSocket;
  globalThis.EventSource = FakeEventSource;
  globalThis.fetch = (url, options) => new FakeRequest(url, options).answered;
  const heard = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener", "dispatchEvent"]) {
    globalThis[name] = heard[name].bind(heard);
  }
}

/** Handlers that note their calls in `calls`. */
export function noting(calls, ...names) {
  return Object.fromEntries(names.map((name) => [name, (...about) => calls.push([name, ...about])]));
}
