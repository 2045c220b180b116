// Node `ws`, as its README broadcasts.
"use strict";
const { WebSocket, WebSocketServer } = require("ws");

const groups = new Map();
let connected = 0;
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.env.PORT),
  backlog: 1024,
  perMessageDeflate: false,
});

server.on("connection", (socket, request) => {
  const [, kind, group] = request.url.split("/");
  if (!groups.has(group)) groups.set(group, new Set());
  const members = groups.get(group);
  members.add(socket);
  const name = String(connected++).padStart(8, "0");
  socket.encode = (data) => JSON.stringify({ body: data.toString("utf8", 0, 101), to: name });
  socket.on("error", () => {});
  socket.on("close", () => members.delete(socket));
  socket.on("message", (data, isBinary) => {
    if (kind === "echo") {
      socket.send(data, { binary: isBinary });
      return;
    }
    if (kind === "each") {
      for (const client of members) {
        if (client.readyState === WebSocket.OPEN) client.send(client.encode(data));
      }
      return;
    }
    for (const client of members) {
      if ((client !== socket || kind === "self") && client.readyState === WebSocket.OPEN) {
        client.send(data, { binary: isBinary });
      }
    }
  });
});
