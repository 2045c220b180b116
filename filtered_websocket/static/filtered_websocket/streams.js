/*
 * How client.js connects where no WebSocket gets through; loaded only then. The response to one
 * request does not end and brings what the server says; each command is a request.
 *
 * They are used as a WebSocket is. What is sent first begins them.
 */

// Commands that have to wait for others go together, in so many characters.
const MOST = 32_768;
const BYE = '{"push":{"disconnect":';

class Stream {
  onopen = null;
  onmessage = null;
  onclose = null;
  #url;
  // What names this stream in requests.
  #session = null;
  #lines = [];
  #isBusy = false;

  constructor(url) {
    this.#url = new URL(url.replace(/^ws/, "http"));
    queueMicrotask(() => this.onopen?.());
  }

  /** Where the server has this, beside its WebSockets; with the query where that says who it is. */
  at(name, query = this.#url.search) {
    const found = new URL(this.#url);
    found.pathname = found.pathname.replace(/connection\/websocket$/, name);
    found.search = query;
    return found;
  }

  send(line) {
    this.#send(line).catch((error) => this.end(1006, String(error)));
  }

  async #send(line) {
    if (!this.#session) return this.begin(line);
    this.#lines.push(line);
    return this.#isBusy ? undefined : this.#flush();
  }

  /** One request at a time: others might overtake it. */
  async #flush() {
    this.#isBusy = true;
    while (this.#lines.length > 0) {
      let data = this.#lines.shift();
      while (this.#lines.length > 0 && data.length + this.#lines[0].length < MOST) {
        data += `\n${this.#lines.shift()}`;
      }
      await this.ask("emulation", "", JSON.stringify({ ...this.#session, data }));
    }
    this.#isBusy = false;
  }

  /** The answer to a request. */
  async ask(name, query, body) {
    const options = { method: "POST", body, credentials: "include", signal: this.signal };
    const answer = await fetch(this.at(name, query), options);
    if (!answer.ok) throw new Error(`${name}: HTTP ${answer.status}`);
    return answer;
  }

  /** The server has sent messages, each in a line. */
  hear(text) {
    if (!this.#session) {
      const { session, node } = JSON.parse(text.split("\n")[0]).connect ?? {};
      this.#session = session ? { session, node } : null;
    }
    const lines = text.split("\n");
    const last = lines.at(-1).startsWith(BYE) ? JSON.parse(lines.pop()).push.disconnect : null;
    if (lines.length > 0) this.onmessage?.({ data: lines.join("\n") });
    if (last) this.end(last.code, last.reason);
  }

  end(code, reason) {
    this.#lines = [];
    this.onclose?.({ code, reason });
    this.close();
  }
}

/** An HTTP stream. */
class HttpStream extends Stream {
  #abort = new AbortController();

  get signal() { return this.#abort.signal; }

  async begin(line) {
    const { body } = await this.ask("connection/http_stream", undefined, line);
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream has ended");
      rest += value;
      const end = rest.lastIndexOf("\n");
      if (end > 0) this.hear(rest.slice(0, end));
      rest = rest.slice(end + 1);
    }
  }

  close() { this.#abort.abort(); }
}

/** Server-sent events, where no HTTP stream gets through either. */
class EventStream extends Stream {
  #source = null;

  async begin(line) {
    const url = this.at("connection/sse");
    url.searchParams.set("cf_connect", line);
    this.#source = new EventSource(url, { withCredentials: true });
    this.#source.onmessage = ({ data }) => this.hear(data);
    this.#source.onerror = () => this.end(1006, "the stream has ended");
  }

  close() { this.#source?.close(); }
}

export const ways = [HttpStream, EventStream];
