/** Clients of the package `centrifuge`, played with from Python: in Node, and in a page. */

const OF_CLIENT = [
  "connecting", "connected", "disconnected", "error", "message",
  "subscribing", "subscribed", "unsubscribed", "publication", "join", "leave",
];
const OF_SUBSCRIPTION = ["subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error"];
// Milliseconds: a test need not wait for long.
const SOON = { minReconnectDelay: 50, maxReconnectDelay: 500, timeout: 60_000 };
const SOON_AGAIN = { minResubscribeDelay: 50, maxResubscribeDelay: 500 };

export class Remote {
  #clients = [];
  #make;
  #isProtobuf;

  /** `make(url, options)` makes a client. */
  constructor(make, isProtobuf) {
    this.#make = make;
    this.#isProtobuf = isProtobuf;
  }

  /** In Protobuf data is bytes. */
  #pack(value) {
    return this.#isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
  }

  /** What JSON can say of a value of the client's. */
  #plain(value) {
    // No data is no bytes.
    if (value instanceof Uint8Array) return JSON.parse(new TextDecoder().decode(value) || "null");
    if (typeof value?.toNumber === "function") return value.toNumber();
    if (value instanceof Map) return this.#plain(Object.fromEntries(value));
    if (Array.isArray(value)) return value.map((one) => this.#plain(one));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, this.#plain(one)]));
  }

  /** Connect; `tokens` are given one after the other, the last one again and again. */
  connect(url, { tokens, ...options } = {}) {
    const noted = { events: [], wake: () => {}, frames: 0, subscriptions: {} };
    if (tokens) options.getToken = this.#fetch(tokens, noted);
    const client = this.#make(url, { ...SOON, ...options }, () => { noted.frames += 1; });
    this.#listen(client, OF_CLIENT, noted, "client");
    noted.client = client;
    client.connect();
    return this.#clients.push(noted) - 1;
  }

  subscribe(number, channel, { tokens, ...options } = {}) {
    const noted = this.#clients[number];
    if (tokens) options.getToken = this.#fetch(tokens, noted);
    if (options.data) options.data = this.#pack(options.data);
    const made = noted.client.newSubscription(channel, { ...SOON_AGAIN, ...options });
    this.#listen(made, OF_SUBSCRIPTION, noted, "subscription");
    noted.subscriptions[channel] = made;
    made.subscribe();
  }

  unsubscribe(number, channel) {
    this.#clients[number].subscriptions[channel].unsubscribe();
  }

  #fetch(tokens, noted) {
    return async () => {
      this.#note(noted, { of: "test", event: "token" });
      return tokens.length > 1 ? tokens.shift() : tokens[0];
    };
  }

  #listen(emitter, names, noted, of) {
    for (const event of names) {
      emitter.on(event, (about) => this.#note(noted, { of, event, ...this.#plain(about) }));
    }
  }

  #note(noted, event) {
    noted.events.push(event);
    noted.wake();
  }

  /** The events from this one on, once there are any. */
  async events(number, since) {
    const noted = this.#clients[number];
    while (noted.events.length <= since) await new Promise((wake) => { noted.wake = wake; });
    return noted.events.slice(since);
  }

  /** How many frames it has sent. */
  frames(number) {
    return this.#clients[number].frames;
  }

  async publish(number, channel, data) {
    await this.#clients[number].client.publish(channel, this.#pack(data));
  }

  async rpc(number, method, data) {
    return this.#plain((await this.#clients[number].client.rpc(method, this.#pack(data))).data);
  }

  async send(number, data) {
    await this.#clients[number].client.send(this.#pack(data));
  }

  /** Any other method of the client. */
  async ask(number, method, ...values) {
    return this.#plain(await this.#clients[number].client[method](...values)) ?? null;
  }

  /** Publish all in one batch. */
  async batch(number, channel, values) {
    const { client } = this.#clients[number];
    client.startBatching();
    const published = values.map((value) => this.publish(number, channel, value));
    client.stopBatching();
    await Promise.all(published);
  }

  /** Disconnect all. */
  end() {
    for (const { client } of this.#clients) client.disconnect();
  }
}

/** A WebSocket that calls `sent` for each frame. */
export function counting(WebSocket, sent) {
  return class extends WebSocket {
    send(frame) {
      sent();
      super.send(frame);
    }
  };
}

/** Carry out `[name, ...values]`; errors are answers, too. */
export async function carryOut(remote, [name, ...values]) {
  try {
    return { value: (await remote[name](...values)) ?? null };
  } catch (error) {
    return { error: { code: error.code ?? 0, message: error.message ?? String(error) } };
  }
}
