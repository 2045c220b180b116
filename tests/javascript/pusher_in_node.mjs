/** `node pusher_in_node.mjs`: reads `{id, command}` lines, writes `{id, value|error}`. */

import { createInterface } from "node:readline";

import Pusher from "pusher-js";

import { carryOut, Remote } from "./pusher_remote.mjs";

const remote = new Remote(Pusher.Pusher ?? Pusher);

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command } = JSON.parse(line);
  carryOut(remote, command).then((answer) => console.log(JSON.stringify({ id, ...answer })));
}
process.exit();
