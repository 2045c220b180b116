/** `node in_node.mjs json|protobuf`: reads `{id, command}` lines, writes `{id, value|error}`. */

import { createInterface } from "node:readline";

import { Centrifuge as OfJson } from "centrifuge";
import { Centrifuge as OfProtobuf } from "centrifuge/build/protobuf";
import { WebSocket } from "ws";

import { carryOut, counting, Remote } from "./remote.mjs";

const isProtobuf = process.argv[2] === "protobuf";
const Centrifuge = isProtobuf ? OfProtobuf : OfJson;
const make = (url, options, sent) =>
  new Centrifuge(url, { ...options, websocket: counting(WebSocket, sent) });
const remote = new Remote(make, isProtobuf);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command } = JSON.parse(line);
  carryOut(remote, command).then((answer) => console.log(JSON.stringify({ id, ...answer })));
}
process.exit();
