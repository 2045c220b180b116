// socket.io that recovers connections: with its adapter that keeps messages in Redis.
"use strict";
const { createServer } = require("node:http");
const { createAdapter } = require("@socket.io/redis-streams-adapter");
const { createClient } = require("redis");
const { Server } = require("socket.io");

async function main() {
  const client = createClient({ url: process.env.REDIS_URL });
  await client.connect();
  const http = createServer();
  const io = new Server(http, {
    adapter: createAdapter(client),
    connectionStateRecovery: {},
    transports: ["websocket"],
    serveClient: false,
    // Longer than any run: no heart beats in between.
    pingInterval: 3600 * 1000,
  });
  io.on("connection", (socket) => {
    const { group } = socket.handshake.query;
    if (!socket.recovered) socket.join(group);
    socket.on("m", (message) => io.to(group).emit("m", message));
  });
  http.listen({ host: "127.0.0.1", port: Number(process.env.PORT), backlog: 1024 });
}

main();
