/** `node in_node.mjs json|protobuf`: reads `{id, command}` lines, writes `{id, value|error}`. */

import { createInterface } from "node:readline";

import { Centrifuge as OfJson } from "centrifuge";
import { Centrifuge as OfProtobuf } from "centrifuge/build/protobuf";
import { WebSocket } from "ws";

import { carryOut, counting, Remote } from "./remote.mjs";

const isProtobuf = process.argv[2] === "protobuf";
const Centrifuge = isProtobuf ? OfProtobuf : OfJson;

/** As browsers have it, for one connection: who reconnects makes another. */
class EventSource {
  #abort = new AbortController();

  constructor(url) {
    this.#read(url).catch((error) => this.#abort.signal.aborted || this.onerror(error));
  }

  async #read(url) {
    const answer = await fetch(url, { signal: this.#abort.signal });
    if (!answer.ok) throw new Error(answer.status);
    this.onopen();
    let rest = "";
    for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
      const events = (rest + part).split("\n\n");
      rest = events.pop();
      for (const event of events) if (event.startsWith("data: ")) this.onmessage({ data: event.slice(6) });
    }
    throw new Error("the end");
  }

  close() {
    this.#abort.abort();
  }
}

const make = (url, options, sent) =>
  new Centrifuge(url, { ...options, websocket: counting(WebSocket, sent), eventsource: EventSource });
const remote = new Remote(make, isProtobuf);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command } = JSON.parse(line);
  carryOut(remote, command).then((answer) => console.log(JSON.stringify({ id, ...answer })));
}
process.exit();
