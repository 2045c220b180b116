/**
 * `node pusher_server.mjs PORT`: the package `pusher` for servers. Reads `{id, command}` lines, where
 * a command is the name of a method and its arguments; writes `{id, value|error}`.
 */

import { createInterface } from "node:readline";

import Pusher from "pusher";

const server = new Pusher({
  appId: "1", key: "app-key", secret: "app-secret", host: "127.0.0.1", port: process.argv[2], useTLS: false,
});

/** Whether a webhook is genuine, and its events. */
function check(headers, rawBody) {
  const hook = server.webhook({ headers, rawBody });
  return [hook.isValid(), hook.getEvents()];
}

async function carryOut([name, ...values]) {
  try {
    if (name === "check") return { value: check(...values) };
    const answer = await server[name](...values);
    // What calls answer is a response.
    return { value: (typeof answer?.json === "function" ? await answer.json() : answer) ?? null };
  } catch (error) {
    return { error: { code: error.status ?? 0, message: error.body ?? error.message } };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command } = JSON.parse(line);
  carryOut(command).then((answer) => console.log(JSON.stringify({ id, ...answer })));
}
process.exit();
