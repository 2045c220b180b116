/** Clients of the package `pusher-js`, played with from Python: in Node, and in a page. */

export class Remote {
  #clients = [];
  #Pusher;

  constructor(Pusher) {
    this.#Pusher = Pusher;
  }

  /**
   * Connect to a site as who has these cookies. In Node these are sent by hand; a page has its
   * own, and asks the endpoints itself. `signed` is what it shows as its user's signature.
   */
  connect(key, { cookie, auth, signed, ...options } = {}) {
    const noted = { events: [], wake: () => {}, channels: {} };
    const post = (name, fields, done) => {
      const body = new URLSearchParams(fields);
      fetch(`${auth}/${name}`, { method: "POST", body, headers: { cookie, ...options.headers } })
        .then(async (answer) => {
          if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
          done(null, await answer.json());
        })
        .catch((error) => done(error, null));
    };
    if (auth) {
      options.channelAuthorization = {
        customHandler: ({ socketId, channelName }, done) =>
          post("auth", { socket_id: socketId, channel_name: channelName }, done),
      };
      options.userAuthentication = {
        customHandler: ({ socketId }, done) => post("user-auth", { socket_id: socketId }, done),
      };
    }
    if (signed) options.userAuthentication = { customHandler: (_, done) => done(null, signed) };
    const client = new this.#Pusher(key, {
      cluster: "", enabledTransports: ["ws"], disableStats: true, ...options,
    });
    noted.client = client;
    client.connection.bind("state_change", ({ current }) => this.#note(noted, { event: current }));
    client.connection.bind("error", (error) =>
      this.#note(noted, { event: "error", code: error.data?.code ?? error.error?.data?.code ?? null }));
    // A frame that came, and its close code.
    client.connection.bind("message", (message) =>
      this.#note(noted, { event: "frame", of: message.event, channel: message.channel ?? null }));
    client.bind_global((event, data) => {
      if (event.startsWith("pusher:")) this.#note(noted, { event, data: data ?? null });
    });
    return this.#clients.push(noted) - 1;
  }

  #note(noted, event) {
    noted.events.push(event);
    noted.wake();
  }

  /** Subscribe, and note what comes: of these events also who has sent it. */
  subscribe(number, channel, names = []) {
    const noted = this.#clients[number];
    const made = noted.client.subscribe(channel);
    noted.channels[channel] = made;
    made.bind_global((event, data) => {
      if (names.includes(event)) return;
      if (event === "pusher:subscription_succeeded" && data?.members) {
        data = { count: data.count, members: data.members, me: data.me };
      }
      if (event === "pusher:subscription_error") {
        data = { type: data.type, error: data.error, status: data.status ?? null };
      }
      this.#note(noted, { event, channel, data: data ?? null });
    });
    for (const event of names) {
      made.bind(event, (data, about) =>
        this.#note(noted, { event, channel, data: data ?? null, user: about?.user_id ?? null }));
    }
  }

  unsubscribe(number, channel) {
    this.#clients[number].client.unsubscribe(channel);
  }

  trigger(number, channel, event, data) {
    return this.#clients[number].channels[channel].trigger(event, data);
  }

  /** An event of the client that is none of a channel's. */
  say(number, event, data) {
    return this.#clients[number].client.send_event(event, data);
  }

  members(number, channel) {
    const { members } = this.#clients[number].channels[channel];
    return { count: members.count, members: members.members, me: members.me };
  }

  sign_in(number) {
    const noted = this.#clients[number];
    const { user } = noted.client;
    user.bind_global?.((event, data) => this.#note(noted, { event, of: "user", data: data ?? null }));
    noted.client.signin();
    return user.signinDonePromise?.then(() => user.user_data ?? null) ?? null;
  }

  /** The same, without waiting for an answer. */
  ask_to_sign_in(number) {
    this.#clients[number].client.signin();
  }

  /** What comes for the user who has signed in. */
  hear_user(number, event) {
    const noted = this.#clients[number];
    noted.client.user.bind(event, (data) => this.#note(noted, { event, of: "user", data }));
  }

  socket_id(number) {
    return this.#clients[number].client.connection.socket_id;
  }

  uses_tls(number) {
    return this.#clients[number].client.connection.usingTLS;
  }

  /** For how long it has waited before it tried again, at the least, in milliseconds. */
  pause(number) {
    const { events } = this.#clients[number].client.timeline;
    return Math.min(...events.filter(({ action }) => action === "retry").map(({ delay }) => delay));
  }

  state(number) {
    return this.#clients[number].client.connection.state;
  }

  /** The events from this one on, once there are any. */
  async events(number, since) {
    const noted = this.#clients[number];
    while (noted.events.length <= since) await new Promise((wake) => { noted.wake = wake; });
    return noted.events.slice(since);
  }

  disconnect(number) {
    this.#clients[number].client.disconnect();
  }

  /** Disconnect all. */
  end() {
    for (const { client } of this.#clients) client.disconnect();
  }
}

/** Carry out `[name, ...values]`; errors are answers, too. */
export async function carryOut(remote, [name, ...values]) {
  try {
    return { value: (await remote[name](...values)) ?? null };
  } catch (error) {
    return { error: { code: 0, message: error.message ?? String(error) } };
  }
}
