// Bun, with the topics of its own server.
"use strict";

// A client's messages reach its topic with `server.publish`, itself too, or with its own
// `publish`, which leaves it out.
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT),
  fetch(request, server) {
    const [, kind, group] = new URL(request.url).pathname.split("/");
    if (server.upgrade(request, { data: { kind, group } })) return undefined;
    return new Response("a WebSocket is expected", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    // Longer than any run: no heart beats in between.
    idleTimeout: 960,
    open(socket) {
      if (socket.data.group) socket.subscribe(socket.data.group);
    },
    message(socket, message) {
      const { kind, group } = socket.data;
      if (kind === "echo") socket.send(message);
      else if (kind === "self") server.publish(group, message);
      else socket.publish(group, message);
    },
  },
});
