// Another process that publishes to the rooms of socket.io, as publisher.py does.
"use strict";
const { createInterface } = require("node:readline");
const { Emitter } = require("@socket.io/redis-emitter");
const { createClient } = require("redis");

const PAYLOAD = "x".repeat(Number(process.env.BENCH_PAYLOAD));

async function main() {
  const client = createClient({ url: process.env.REDIS_URL });
  await client.connect();
  const emitter = new Emitter(client);
  const count = Number(process.argv[2]);
  console.log("ready");
  for await (const _ of createInterface({ input: process.stdin })) {
    for (let number = 0; number < count; number++) emitter.to(`g${number}`).emit("m", PAYLOAD);
    // The answer to what was asked last comes last.
    await client.ping();
    console.log("sent");
  }
  await client.close();
}

main();
