// socket.io with its Redis adapter.
"use strict";
const { createServer } = require("node:http");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");
const { Server } = require("socket.io");

async function main() {
  const publisher = createClient({ url: process.env.REDIS_URL });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  const http = createServer();
  const io = new Server(http, {
    adapter: createAdapter(publisher, subscriber),
    transports: ["websocket"],
    serveClient: false,
    // Longer than any run, for both servers of this protocol: no heart beats in between.
    pingInterval: 3600 * 1000,
  });
  io.on("connection", (socket) => {
    const { kind, group } = socket.handshake.query;
    socket.join(group);
    socket.on("m", (message) => {
      if (kind === "echo") socket.emit("m", message);
      else if (kind === "self") io.to(group).emit("m", message);
      else socket.to(group).emit("m", message);
    });
  });
  http.listen({ host: "127.0.0.1", port: Number(process.env.PORT), backlog: 1024 });
}

main();
