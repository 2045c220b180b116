/** client.js, with the server's part played by each test. */

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import {
  accepted, begin, client as module, dialled, introduced, noting, pass, requests, settled, sockets,
  sources,
} from "./page.mjs";

const { connect, Client, RequestError, isFinal, TIMEOUT, LOST, CLOSED } = module;
const KEPT = { recoverable: true, positioned: true, epoch: "e", offset: 5 };
const DAY = 24 * 3600;

beforeEach(() => begin());

/** A client that is open, subscribed to "room", and what its handlers were called with. */
async function subscribed(result = {}, options = {}) {
  const calls = [];
  const names = ["onmessage", "onjoin", "onleave", "onsubscribe", "onend"];
  const client = connect("/ws", noting(calls, "onclose"));
  const room = client.subscribe("room", { ...noting(calls, ...names), ...options });
  const socket = await accepted();
  socket.answer("subscribe", result);
  calls.length = 0;
  return { client, room, socket, calls };
}

function fails(promise, code) {
  return assert.rejects(promise, (error) => error instanceof RequestError && error.code === code);
}

// The address

test("a page of https: connects by wss:, one of http: by ws:", async () => {
  connect();
  assert.equal((await dialled()).url, "wss://example.com/connection/websocket");
  globalThis.location = { href: "http://localhost:8000/a/b" };
  connect("c#here");
  assert.equal((await dialled()).url, "ws://localhost:8000/a/c");
  connect("https://other.example/ws");
  assert.equal((await dialled()).url, "wss://other.example/ws");
  connect(new URL("ws://third.example/ws"));
  assert.equal((await dialled()).url, "ws://third.example/ws");
});

test("what is no URL is said at once", () => {
  assert.throws(() => connect("http://[/"), TypeError);
});

test("a function gives the address of each attempt", async () => {
  let ticket = 0;
  connect(async () => `/ws?ticket=${(ticket += 1)}`);
  assert.equal((await dialled()).url, "wss://example.com/ws?ticket=1");
  sockets[0].end(1006);
  await pass(500);
  assert.equal((await dialled()).url, "wss://example.com/ws?ticket=2");
});

test("where that function fails, it is asked again later", async () => {
  const calls = [];
  let fault = new Error("no ticket");
  const client = connect(() => { if (fault) throw fault; return "/ws"; }, noting(calls, "onclose"));
  await settled();
  assert.deepEqual(calls, [["onclose", { code: 1006, reason: "Error: no ticket", delay: 500 }]]);
  assert.equal(client.state, "waiting");
  fault = null;
  await pass(500);
  assert.equal(sockets.length, 1);
});

test("a WebSocket that cannot be made is tried again later", async () => {
  const calls = [];
  const WebSocket = class { constructor() { throw new SyntaxError("scheme"); } };
  connect("ftp://example.com", { WebSocket, ...noting(calls, "onclose") });
  await settled();
  assert.deepEqual(calls, [["onclose", { code: 1006, reason: "SyntaxError: scheme", delay: 500 }]]);
});

// Connecting

test("it is open once the server has answered to who it is", async () => {
  const calls = [];
  const client = connect("/ws", { data: { a: 1 }, token: "jwt", ...noting(calls, "onopen") });
  assert.equal(client.state, "connecting");
  assert.equal(client.open(), client);
  const socket = await introduced();
  const who = { token: "jwt", data: { a: 1 }, name: "client.js", subs: {} };
  assert.deepEqual(socket.sent, [{ id: 1, connect: who }]);
  assert.deepEqual([client.state, client.id, calls], ["connecting", "", []]);
  socket.answer("connect", { client: "me", data: { b: 2 } });
  assert.deepEqual([client.state, client.id], ["open", "me"]);
  assert.deepEqual(calls, [["onopen", { data: { b: 2 } }]]);
  assert.equal(sockets.length, 1);
});

test("a server that does not answer is tried again", async () => {
  const calls = [];
  const client = connect("/ws", noting(calls, "onclose"));
  const silent = await introduced();
  await pass(9_999);
  assert.deepEqual(calls, []);
  await pass(1);
  assert.deepEqual(calls, [["onclose", { code: 1006, reason: "no answer", delay: 500 }]]);
  assert.equal(silent.isClosed, true);
  await pass(500);
  silent.end(1006);
  const socket = await accepted();
  assert.equal(sockets.length, 2);
  assert.equal(client.state, "open");
  assert.equal(socket.isClosed, false);
});

test("an error in answer to connect is the end, unless it is temporary", async () => {
  const calls = [];
  const client = connect("/ws", noting(calls, "onclose"));
  (await introduced()).refuse("connect", 100, "internal", true);
  assert.equal(client.state, "waiting");
  await pass(500);
  (await introduced()).refuse("connect", 103, "permission denied");
  assert.equal(client.state, "closed");
  assert.deepEqual(calls.at(-1), ["onclose", { code: 103, reason: "permission denied", delay: null }]);
  await pass(DAY * 1000);
  assert.equal(sockets.length, 2);
});

test("a server that does not speak the protocol is left", async () => {
  const calls = [];
  const client = connect("/ws", noting(calls, "onclose"));
  const socket = await introduced();
  socket.onmessage({ data: "ann: hello" });
  assert.equal(client.state, "closed");
  const reason = "the server does not speak the Centrifuge protocol";
  assert.deepEqual(calls, [["onclose", { code: 1002, reason, delay: null }]]);
  assert.equal(socket.isClosed, true);
});

// Tokens

test("a token that expires is renewed in time", async () => {
  let number = 0;
  connect("/ws", { token: async () => `token ${(number += 1)}` });
  const socket = await introduced();
  assert.equal(socket.last("connect").token, "token 1");
  socket.answer("connect", { client: "me", expires: true, ttl: 60 });
  await pass(59_999);
  assert.deepEqual(socket.all("refresh"), []);
  await pass(1);
  assert.deepEqual(socket.all("refresh"), [{ token: "token 2" }]);
  socket.answer("refresh", { client: "me", expires: true, ttl: 60 });
  await pass(60_000);
  assert.deepEqual(socket.last("refresh"), { token: "token 3" });
  socket.answer("refresh", { client: "me" });
  await pass(DAY * 1000);
  assert.equal(socket.all("refresh").length, 2);
});

test("a token that cannot be renewed is fetched with the next connection", async () => {
  let fault = null;
  const client = connect("/ws", { token: async () => { if (fault) throw fault; return "token"; } });
  const socket = await accepted({ expires: true, ttl: 60, ping: 0 });
  fault = new Error("offline");
  await pass(60_000);
  assert.deepEqual(socket.all("refresh"), []);
  socket.end(3005, "expired");
  await pass(500);
  assert.equal(client.state, "waiting");
  fault = null;
  await pass(500);
  assert.equal((await introduced()).last("connect").token, "token");
});

test("an expired token is asked for anew; one that is always the same is the end", async () => {
  const renewing = connect("/ws", { token: () => "" });
  const first = await introduced();
  assert.equal("token" in first.last("connect"), false);
  first.refuse("connect", 109, "token expired");
  assert.equal(renewing.state, "waiting");
  renewing.close();
  const fixed = connect("/ws", { token: "token" });
  (await introduced()).refuse("connect", 109, "token expired");
  assert.equal(fixed.state, "closed");
});

test("a token of 100 days is not renewed at once", async () => {
  const delays = [];
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (run, delay) => { delays.push(delay); return setTimeout(run, delay); };
  connect("/ws", { token: async () => "token" });
  await accepted({ expires: true, ttl: 100 * DAY });
  globalThis.setTimeout = setTimeout;
  assert.equal(Math.max(...delays), 2 ** 31 - 1);
});

// Pings

test("pings are answered where the server wants that", async () => {
  connect();
  const socket = await accepted();
  socket.say({});
  socket.say({}, {});
  assert.deepEqual(socket.sent.slice(1), [{}, {}, {}]);
  connect();
  const other = await accepted({ pong: false });
  other.say({});
  assert.deepEqual(other.sent.length, 1);
});

test("a server whose pings do not come is left, and connected to again", async () => {
  const calls = [];
  const client = connect("/ws", noting(calls, "onclose"));
  const socket = await accepted({ ping: 25 });
  await pass(34_999);
  socket.say({});
  await pass(34_999);
  assert.equal(client.state, "open");
  await pass(1);
  assert.deepEqual(calls, [["onclose", { code: 1006, reason: "no ping", delay: 500 }]]);
  assert.equal(socket.isClosed, true);
});

// Coming back

test("it comes back after delays of chance that grow to the cap", async () => {
  for (const [chance, expected] of [
    [1, [500, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]],
    [0.5, [250, 375, 468.75, 820.3125]],
    [0, [0, 0, 0]],
  ]) {
    begin();
    mock.method(Math, "random", () => chance);
    const delays = [];
    const client = connect("/ws", { onclose: ({ delay }) => delays.push(delay) });
    for (const delay of expected) {
      (await dialled()).end(1006);
      await pass(Math.ceil(delay));
    }
    assert.deepEqual(delays, expected);
    assert.equal(sockets.length, expected.length + 1);
    client.close();
  }
});

test("a connection that was stable begins anew", async () => {
  const delays = [];
  connect("/ws", { onclose: ({ delay }) => delays.push(delay) });
  for (const lasted of [0, 59_999, 60_000]) {
    const socket = await accepted({ ping: 0 });
    await pass(lasted);
    socket.end(1006);
    await pass(delays.at(-1));
  }
  assert.deepEqual(delays, [500, 500, 500]);
  (await dialled()).end(1006);
  assert.deepEqual(delays.at(-1), 500);
  await pass(500);
  (await dialled()).end(1006);
  assert.deepEqual(delays.at(-1), 1000);
});

test("codes that are final keep it away, others do not", async () => {
  for (const [code, isLast] of [
    [1000, false], [1006, false], [1009, true], [1012, false], [3000, false], [3001, false],
    [3499, false], [3500, true], [3999, true], [4000, false], [4100, false], [4499, false],
    [4500, true], [4999, true],
  ]) {
    assert.equal(isFinal(code), isLast, code);
    const calls = [];
    const client = connect("/ws", noting(calls, "onclose"));
    (await accepted()).end(code, "why");
    const delay = isLast ? null : 500;
    assert.deepEqual(calls, [["onclose", { code, reason: "why", delay }]]);
    assert.equal(client.state, isLast ? "closed" : "waiting");
    client.close();
  }
});

test("it connects at once when the network is back", async () => {
  const calls = [];
  const client = connect("/ws", noting(calls, "onclose"));
  const socket = await accepted();
  globalThis.dispatchEvent(new Event("offline"));
  assert.deepEqual(calls, [["onclose", { code: 1006, reason: "offline", delay: 500 }]]);
  assert.deepEqual([client.state, socket.isClosed], ["waiting", true]);
  globalThis.dispatchEvent(new Event("offline"));
  assert.equal(calls.length, 1);
  globalThis.dispatchEvent(new Event("online"));
  assert.equal(client.state, "connecting");
  globalThis.dispatchEvent(new Event("online"));
  await accepted();
  assert.equal(sockets.length, 2);
  await pass(500);
  assert.equal(client.state, "open");
});

test("one that was closed stays so, until it is opened again", async () => {
  const { client, room, socket, calls } = await subscribed();
  client.close();
  assert.deepEqual(calls, [["onclose", { code: 1000, reason: "", delay: null }]]);
  assert.deepEqual([client.state, client.id, socket.isClosed], ["closed", "", true]);
  client.close();
  globalThis.dispatchEvent(new Event("online"));
  globalThis.dispatchEvent(new Event("offline"));
  await pass(DAY * 1000);
  assert.deepEqual([sockets.length, calls.length], [1, 1]);
  client.open();
  (await accepted()).answer("subscribe", {});
  assert.equal(room.state, "subscribed");
});

test("a client may be closed by its own handlers", async () => {
  const calls = [];
  const client = connect("/ws", { onopen: () => client.close(), ...noting(calls, "onclose") });
  client.subscribe("room", { onmessage: (data) => { calls.push(data); client.close(); } });
  const first = await accepted();
  assert.equal(client.state, "closed");
  assert.equal(calls.length, 1);
  assert.equal(first.all("subscribe").length, 1);
  const { client: second, socket, room } = await subscribed({}, { onmessage: () => second.close() });
  socket.say({ push: { channel: "room", pub: { data: 1 } } }, { push: { channel: "room", pub: {} } }, {});
  assert.equal(second.state, "closed");
  assert.equal(room.state, "subscribing");
});

// Requests

test("requests have answers", async () => {
  const { client, socket } = await subscribed();
  const published = client.publish("room", { text: "hello" });
  assert.deepEqual(socket.last("publish"), { channel: "room", data: { text: "hello" } });
  socket.answer("publish", {});
  assert.equal(await published, undefined);

  const ann = { client: "1", user: "ann" };
  let here = client.presence("room");
  assert.deepEqual(socket.last("presence"), { channel: "room" });
  socket.answer("presence", { presence: { 1: ann } });
  assert.deepEqual(await here, [ann]);
  here = client.presence("room");
  socket.answer("presence", {});
  assert.deepEqual(await here, []);

  let history = client.history("room");
  assert.deepEqual(socket.last("history"), { channel: "room", limit: -1 });
  socket.answer("history", { publications: [{ data: 1, offset: 1 }], epoch: "e", offset: 1 });
  const page = { publications: [{ data: 1, offset: 1 }], position: { epoch: "e", offset: 1 } };
  assert.deepEqual(await history, page);
  const since = { epoch: "e", offset: 5 };
  history = client.history("room", { limit: 0, since, reverse: true });
  assert.deepEqual(socket.last("history"), { channel: "room", limit: 0, since, reverse: true });
  socket.answer("history", {});
  assert.deepEqual(await history, { publications: [], position: { epoch: "", offset: 0 } });

  const called = client.call("add", [1, 2]);
  assert.deepEqual(socket.last("rpc"), { method: "add", data: [1, 2] });
  socket.answer("rpc", { data: 3 });
  assert.equal(await called, 3);
});

test("a request that the server refuses fails with its code", async () => {
  const { client, socket } = await subscribed();
  const published = client.publish("room", 1);
  socket.refuse("publish", 103, "permission denied");
  await assert.rejects(published, {
    name: "RequestError", code: 103, message: "permission denied", temporary: false,
  });
  const called = client.call("add");
  socket.refuse("rpc", 100, "internal server error", true);
  await assert.rejects(called, { code: 100, temporary: true });
});

test("requests wait until it is open", async () => {
  const client = connect();
  client.subscribe("room");
  const published = client.publish("room", 1);
  (await introduced()).end(1006);
  await pass(500);
  const socket = await accepted();
  assert.deepEqual(socket.sent.map((one) => Object.keys(one)[1]), ["connect", "subscribe", "publish"]);
  socket.answer("publish", {});
  await published;
  assert.equal(sockets[0].all("publish").length, 0);
});

test("a request without an answer fails with a code that says why", async () => {
  const { client, socket } = await subscribed();
  const late = fails(client.publish("room", 1), TIMEOUT);
  await pass(10_000);
  await late;
  socket.answer("publish", {});
  const lost = client.publish("room", 2);
  socket.end(1006);
  await fails(lost, LOST);
  const waiting = client.publish("room", 3);
  client.close();
  await fails(waiting, CLOSED);
  await fails(client.call("add"), CLOSED);
});

test("what JSON cannot say fails, and nothing else does", async () => {
  const { client, socket } = await subscribed();
  await assert.rejects(client.publish("room", 1n), TypeError);
  const published = client.publish("room", 1);
  socket.answer("publish", {});
  await published;
});

// Subscriptions

test("it subscribes when it is open, and asks for joins only where they are wanted", async () => {
  const client = connect();
  client.subscribe("plain", { data: { a: 1 } });
  client.subscribe("joins", { onjoin() {} });
  const socket = await accepted();
  client.subscribe("leaves", { onleave() {} });
  assert.deepEqual(socket.all("subscribe"), [
    { channel: "plain", data: { a: 1 }, join_leave: false },
    { channel: "joins", join_leave: true },
    { channel: "leaves", join_leave: true },
  ]);
  assert.throws(() => client.subscribe("joins"), /already subscribed to "joins"/);
});

test("a group may have the name of anything", async () => {
  const client = connect("/ws");
  client.subscribe("constructor");
  assert.equal((await accepted()).last("subscribe").channel, "constructor");
});

test("one that subscribes as soon as it is open asks once", async () => {
  const client = connect("/ws", { onopen: () => client.subscribe("room") });
  assert.equal((await accepted()).all("subscribe").length, 1);
});

test("handlers are told of messages, joins and leaves", async () => {
  const { room, socket, calls } = await subscribed();
  const ann = { client: "1", user: "ann" };
  socket.push("room", { join: { info: ann } });
  socket.push("room", { pub: { data: { text: "hello" }, info: ann } });
  socket.push("room", { leave: { info: ann } });
  socket.push("elsewhere", { pub: { data: 1 } });
  assert.deepEqual(calls, [
    ["onjoin", ann, "room"],
    ["onmessage", { text: "hello" }, { data: { text: "hello" }, info: ann, group: "room" }],
    ["onleave", ann, "room"],
  ]);
  assert.equal(room.position, null);
});

test("what the server replies to a join is told before its first message", async () => {
  const calls = [];
  const client = connect();
  client.subscribe("room", noting(calls, "onsubscribe", "onmessage"));
  const socket = await accepted();
  const { id } = socket.last("subscribe", true);
  socket.say({ id, subscribe: { data: "hi" } }, { push: { channel: "room", pub: { data: 1 } } });
  assert.deepEqual(calls, [
    ["onsubscribe", { data: "hi", recovered: null, position: null }, "room"],
    ["onmessage", 1, { data: 1, group: "room" }],
  ]);
});

test("a handler that fails stops nothing, and its error is shown", async () => {
  const shown = [];
  globalThis.reportError = (error) => shown.push(error.message);
  const { socket, calls } = await subscribed({}, { onjoin: () => { throw new Error("mine"); } });
  socket.say({ push: { channel: "room", join: { info: {} } } }, { push: { channel: "room", pub: { data: 1 } } });
  delete globalThis.reportError;
  assert.deepEqual([shown, calls.length], [["mine"], 1]);
  mock.method(console, "error", (error) => shown.push(error.message));
  socket.push("room", { join: { info: {} } });
  assert.deepEqual(shown, ["mine", "mine"]);
});

test("one that is refused has ended, unless the error is temporary", async () => {
  const calls = [];
  const client = connect();
  const room = client.subscribe("room", noting(calls, "onend"));
  const socket = await accepted();
  socket.refuse("subscribe", 100, "internal", true);
  assert.deepEqual([room.state, calls], ["subscribing", []]);
  await pass(499);
  assert.equal(socket.all("subscribe").length, 1);
  await pass(1);
  assert.equal(socket.all("subscribe").length, 2);
  socket.refuse("subscribe", 103, "permission denied");
  assert.equal(room.state, "ended");
  assert.deepEqual([calls[0][1].code, calls[0][1].message, calls[0][2]], [103, "permission denied", "room"]);
  assert.notEqual(client.subscribe("room"), room);
});

test("one that is not answered is a reason to connect again", async () => {
  const client = connect();
  client.subscribe("room");
  const socket = await accepted();
  await pass(10_000);
  assert.deepEqual([client.state, socket.isClosed], ["waiting", true]);
});

test("one that the page ends hears nothing more", async () => {
  const { room, socket, calls } = await subscribed();
  room.unsubscribe();
  assert.deepEqual(socket.last("unsubscribe"), { channel: "room" });
  socket.push("room", { pub: { data: 1 } });
  room.unsubscribe();
  assert.equal(socket.all("unsubscribe").length, 1);
  socket.end(1006);
  await pass(500);
  assert.equal((await accepted()).all("subscribe").length, 0);
  assert.deepEqual([room.state, calls.map(([name]) => name)], ["ended", ["onclose"]]);
});

test("one that is ended before its answer does not begin", async () => {
  const calls = [];
  const client = connect();
  const never = client.subscribe("never", noting(calls, "onsubscribe"));
  never.unsubscribe();
  const socket = await accepted();
  const room = client.subscribe("room", noting(calls, "onsubscribe"));
  room.unsubscribe();
  socket.answer("subscribe", {});
  assert.deepEqual([socket.all("subscribe").length, calls, room.state], [1, [], "ended"]);
});

test("one that the server ends for good has ended; others begin again by themselves", async () => {
  const { room, socket, calls } = await subscribed(KEPT, { recover: true });
  socket.push("room", { unsubscribe: { code: 2500, reason: "insufficient state" } });
  assert.deepEqual([room.state, calls], ["subscribing", []]);
  socket.push("room", { pub: { data: "late", offset: 6 } });
  await pass(500);
  const again = { channel: "room", join_leave: true, recover: true, epoch: "e", offset: 5 };
  assert.deepEqual(socket.last("subscribe"), again);
  socket.answer("subscribe", { ...KEPT, was_recovering: true, recovered: true });
  socket.push("room", { unsubscribe: { code: 2000, reason: "server unsubscribe" } });
  assert.deepEqual([room.state, calls.length], ["ended", 2]);
  assert.deepEqual([calls[1][0], calls[1][1].code], ["onend", 2000]);
});

// Recovery

test("after a reconnect it recovers from the last message it has given", async () => {
  const { client, room, socket, calls } = await subscribed(KEPT, { recover: true });
  assert.deepEqual(room.position, { epoch: "e", offset: 5 });
  socket.push("room", { pub: { data: "six", offset: 6 } });
  assert.deepEqual(room.position, { epoch: "e", offset: 6 });
  socket.end(1006);
  assert.deepEqual([client.state, room.state], ["waiting", "subscribing"]);
  await pass(500);
  const again = await accepted();
  const { recover, epoch, offset } = again.last("subscribe");
  assert.deepEqual({ recover, epoch, offset }, { recover: true, epoch: "e", offset: 6 });
  calls.length = 0;
  const publications = [{ data: "seven", offset: 7 }, { data: "eight", offset: 8 }];
  again.answer("subscribe", { ...KEPT, offset: 6, publications, was_recovering: true, recovered: true });
  assert.deepEqual(calls, [
    ["onsubscribe", { data: undefined, recovered: true, position: { epoch: "e", offset: 6 } }, "room"],
    ["onmessage", "seven", { data: "seven", offset: 7, group: "room" }],
    ["onmessage", "eight", { data: "eight", offset: 8, group: "room" }],
  ]);
  assert.deepEqual(room.position, { epoch: "e", offset: 8 });
});

test("where what was missed is lost, the page is told, and goes on from there", async () => {
  const { room, socket, calls } = await subscribed(KEPT, { recover: true });
  socket.end(1006);
  await pass(500);
  calls.length = 0;
  const again = await accepted();
  again.answer("subscribe", { recoverable: true, epoch: "new", was_recovering: true });
  const position = { epoch: "new", offset: 0 };
  assert.deepEqual(calls, [["onsubscribe", { data: undefined, recovered: false, position }, "room"]]);
  again.push("room", { pub: { data: 1, offset: 1 } });
  assert.deepEqual(room.position, { epoch: "new", offset: 1 });
});

test("it recovers nothing where that is not asked for, or not kept", async () => {
  for (const [result, options] of [[KEPT, {}], [{}, { recover: true }]]) {
    const { client, room, socket } = await subscribed(result, options);
    socket.end(1006);
    await pass(500);
    assert.equal("recover" in (await accepted()).last("subscribe"), false);
    assert.equal(room.position, null);
    client.close();
  }
});

test("it begins after the position that the page was rendered with", async () => {
  const since = { epoch: "e", offset: 3 };
  const client = connect();
  const room = client.subscribe("room", { recover: since });
  const socket = await accepted();
  assert.equal(socket.last("subscribe").offset, 3);
  socket.answer("subscribe", { ...KEPT, offset: 3, was_recovering: true, recovered: true });
  socket.push("room", { pub: { data: 4, offset: 4 } });
  assert.equal(room.position.offset, 4);
  assert.equal(since.offset, 3);
});

// By the server

test("what the server subscribes it to is told by the client's own handlers", async () => {
  const calls = [];
  const names = ["onopen", "onmessage", "onjoin", "onleave", "onsubscribe", "onend"];
  connect("/ws", noting(calls, ...names));
  const publications = [{ data: "missed", offset: 5 }];
  const socket = await accepted({ subs: { "#7": { ...KEPT, publications } } });
  socket.push("#7", { pub: { data: 6, offset: 6 } });
  socket.push("news", { subscribe: {} });
  socket.push("news", { join: { info: { client: "me" } } });
  socket.push("news", { unsubscribe: { code: 2500, reason: "insufficient state" } });
  socket.say({ push: { message: { data: "for you" } } });
  assert.deepEqual(calls.map(([name, about, last]) => [name, last?.group ?? last ?? null]), [
    ["onsubscribe", "#7"], ["onmessage", "#7"], ["onopen", null], ["onmessage", "#7"],
    ["onsubscribe", "news"], ["onjoin", "news"], ["onend", "news"], ["onmessage", {}],
  ]);
  assert.deepEqual(calls.at(-1), ["onmessage", "for you", {}]);
});

test("it recovers those, too, and is told of those that are no more", async () => {
  const calls = [];
  connect("/ws", noting(calls, "onsubscribe", "onend"));
  const socket = await accepted({ subs: { "#7": KEPT, news: {} } });
  socket.push("#7", { pub: { data: 6, offset: 6 } });
  socket.end(3001);
  await pass(500);
  const again = await introduced();
  assert.deepEqual(again.last("connect").subs, { "#7": { recover: true, epoch: "e", offset: 6 } });
  calls.length = 0;
  again.answer("connect", { client: "you", subs: { "#7": { ...KEPT, was_recovering: true } } });
  assert.deepEqual(again.all("subscribe"), []);
  assert.deepEqual(calls.map(([name, about, group]) => [name, group]), [["onend", "news"], ["onsubscribe", "#7"]]);
  assert.deepEqual([calls[0][1].code, calls[1][1].recovered], [2000, false]);
});

test("a page that subscribes to what the server has joined it to, hears it", async () => {
  const calls = [];
  const client = connect();
  client.subscribe("#7", noting(calls, "onmessage", "onend"));
  const socket = await accepted({ subs: { "#7": {} } });
  assert.deepEqual(socket.all("subscribe"), []);
  socket.push("#7", { pub: { data: 1 } });
  assert.deepEqual(calls, [["onmessage", 1, { data: 1, group: "#7" }]]);
});

// The types

test("its types name what it exports", async () => {
  const { readFile } = await import("node:fs/promises");
  const types = await readFile(process.env.CLIENT_TYPES, "utf8");
  const named = [...types.matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(named.sort(), Object.keys(module).sort());
  assert.equal(new Client("/ws").state, "closed");
});

// Where no WebSocket gets through

// Loaded before the first test, which cannot tell how many turns that takes.
await import(new URL("./streams.js", process.env.CLIENT_JS));

const SERVED = { client: "me", ping: 25, pong: true, session: "s", node: "n" };
let sites = 0;

/** A client whose WebSocket has never opened, of an address that no other test has. */
async function blocked(...handlers) {
  const site = `https://${(sites += 1)}.example`;
  const calls = [];
  const client = connect(`${site}/app/connection/websocket?ticket=t`, noting(calls, ...handlers));
  (await dialled()).end(1006);
  await arrived(requests, 1);
  return { client, site, calls };
}

/** Wait until it is so: what reads a stream takes some turns. */
async function until(isSo) {
  for (let turn = 0; !isSo(); turn += 1) {
    if (turn > 1000) throw new Error(`never: ${isSo}`);
    await pass(0);
  }
}

/** Wait for so many, and return the last one. */
async function arrived(made, count) {
  await until(() => made.length >= count);
  return made[count - 1];
}

test("where a WebSocket never opens, it goes on by an HTTP stream", async () => {
  const { client, site, calls } = await blocked("onclose", "onopen");
  const [begun] = requests;
  assert.equal(begun.url, `${site}/app/connection/http_stream?ticket=t`);
  assert.deepEqual([begun.method, begun.credentials], ["POST", "include"]);
  const { id, connect: who } = JSON.parse(begun.body);
  assert.equal(who.name, "client.js");
  assert.equal(client.state, "connecting");
  begun.stream().say({ id, connect: SERVED });
  await until(() => client.state === "open");
  assert.deepEqual(calls.map(([name, { delay }]) => [name, delay]), [["onclose", 0], ["onopen", undefined]]);
  // Commands are requests, one at a time; those that wait go together.
  const heard = [];
  client.subscribe("room", { onmessage: (data) => heard.push(data) });
  const sent = [1, "x".repeat(40_000), 2, 3].map((data) => fails(client.publish("room", data), CLOSED));
  await arrived(requests, 2);
  assert.equal(requests[1].url, `${site}/app/emulation`);
  const said = () => requests.slice(1).map(({ body }) => JSON.parse(body));
  for (const count of [3, 4, 5]) {
    requests[count - 2].done();
    await arrived(requests, count);
  }
  assert.deepEqual(said().map(({ session, node }) => session + node), ["sn", "sn", "sn", "sn"]);
  assert.deepEqual(said().map(({ data }) => data.split("\n").length), [1, 1, 1, 2]);
  // Messages come in any pieces.
  begun.say({ id: 2, subscribe: {} });
  const bytes = Buffer.from(`${JSON.stringify({ push: { channel: "room", pub: { data: "grüße" } } })}\n`);
  begun.bytes(...[...bytes].map((byte) => [byte]));
  await until(() => heard.length > 0);
  assert.deepEqual(heard, ["grüße"]);
  // A ping is answered.
  requests[4].done();
  begun.say({});
  await arrived(requests, 6);
  assert.equal(said().at(-1).data, "{}");
  requests[5].done();
  // The last message tells the code.
  begun.say({ push: { disconnect: { code: 3500, reason: "revoked" } } });
  await until(() => client.state === "closed");
  assert.deepEqual(calls.at(-1), ["onclose", { code: 3500, reason: "revoked", delay: null }]);
  assert.equal(begun.signal.aborted, true);
  await Promise.all(sent);
});

test("the way that was found is used until the page ends", async () => {
  const { client, site, calls } = await blocked("onclose");
  requests[0].stream().say({ id: JSON.parse(requests[0].body).id, connect: SERVED });
  await until(() => client.state === "open");
  requests[0].response.close();
  await until(() => client.state === "waiting");
  assert.equal(calls.at(-1)[1].code, 1006);
  assert.equal(calls.at(-1)[1].delay, 500);
  await pass(500);
  await arrived(requests, 2);
  assert.equal(sockets.length, 1);
  client.close();
  assert.equal(requests[1].signal.aborted, true);
  connect(`${site}/app/connection/websocket?ticket=t`);
  await arrived(requests, 3);
  assert.equal(sockets.length, 1);
});

test("where no HTTP stream gets through either, it goes on by server-sent events", async () => {
  const { client, site, calls } = await blocked("onclose");
  requests[0].done(403);
  const source = await arrived(sources, 1);
  const { href, searchParams } = source.url;
  assert.ok(href.startsWith(`${site}/app/connection/sse?ticket=t&cf_connect=`));
  assert.equal(source.withCredentials, true);
  source.say({ id: JSON.parse(searchParams.get("cf_connect")).id, connect: SERVED });
  assert.equal(client.state, "open");
  const lost = fails(client.publish("room", 1), LOST);
  await arrived(requests, 2);
  assert.equal(requests[1].url, `${site}/app/emulation`);
  // A stream that the server does not know any more has ended.
  requests[1].done(404);
  await lost;
  assert.deepEqual(calls.at(-1)[1], { code: 1006, reason: "Error: emulation: HTTP 404", delay: 500 });
  assert.equal(source.isClosed, true);
});

test("where nothing gets through, it begins again with a WebSocket, later", async () => {
  const { client, calls } = await blocked("onclose");
  await pass(10_000);  // an HTTP stream that says nothing
  (await arrived(sources, 1)).onerror();
  assert.deepEqual(calls.map(([, { delay }]) => delay), [0, 0, 500]);
  assert.equal(client.state, "waiting");
  assert.equal(requests[0].signal.aborted, true);
  await pass(500);
  assert.equal(sockets.length, 2);
  await accepted();
  sockets[1].end(1006);
  assert.equal(calls.at(-1)[1].delay, 500);
  await pass(500);
  assert.deepEqual([sockets.length, requests.length], [3, 1]);
});

test("a server that has said why, or has no streams, is not asked for one", async () => {
  const calls = [];
  connect("https://said.example/connection/websocket", noting(calls, "onclose"));
  (await introduced()).end(4100, "full");
  connect("https://other.example/ws", noting(calls, "onclose"));
  (await dialled()).end(1006);
  assert.deepEqual(calls.map(([, { delay }]) => delay), [500, 500]);
  assert.equal(requests.length, 0);
});

test("where streams.js cannot be used, the next attempt is by a WebSocket", async () => {
  const calls = [];
  connect("https://no.example/connection/websocket", noting(calls, "onclose"));
  globalThis.fetch = undefined;
  globalThis.EventSource = undefined;
  (await dialled()).end(1006);
  await arrived(calls, 3);
  assert.equal(calls[2][1].delay, 500);
  await pass(500);
  assert.equal(sockets.length, 2);
});
