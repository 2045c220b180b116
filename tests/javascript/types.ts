// Every use of client.d.ts that is right, and some that are wrong: for the compiler, never run.
import {
  CLOSED,
  Client,
  LOST,
  RequestError,
  TIMEOUT,
  connect,
  isFinal,
  type Address,
  type History,
  type Info,
  type Position,
  type Publication,
  type Subscribed,
  type Subscription,
} from "./client.js";

interface Chat {
  text: string;
}

const address: Address = async () => new URL("wss://example.com/connection/websocket");
const client: Client = connect(address, {
  token: async () => "a token",
  data: { page: 1 },
  onopen: (result) => console.log(result.data),
  onclose: ({ code, reason, delay }) => console.log(isFinal(code), reason.length, delay ?? 0),
  onmessage: (data: unknown, about) => console.log(data, about.group?.length),
  WebSocket: null,
});
connect();
connect("/elsewhere", { token: "a token" });
const other = new Client(new URL("https://example.com"), {}).open();
const state: "connecting" | "open" | "waiting" | "closed" = other.state;
const id: string = other.id;
other.close();

const place: Position = { epoch: "e", offset: 1 };
const subscription: Subscription = client.subscribe<Chat>("room:1", {
  recover: place,
  data: { hi: 1 },
  onmessage: (data, about) => console.log(data.text, about.offset, about.tags?.["kind"]),
  onjoin: (info: Info, group: string) => console.log(info.client, info.user, info.conn_info, group),
  onleave: (info) => console.log(info.chan_info),
  onsubscribe: (result: Subscribed) => console.log(result.recovered === null, result.position),
  onend: (error: RequestError, group) => console.log(error.code, error.temporary, group),
});
client.subscribe("news", { recover: true });
const how: "subscribing" | "subscribed" | "ended" = subscription.state;
console.log(state, id, how, subscription.group, subscription.position?.offset);
subscription.unsubscribe();

async function ask(): Promise<void> {
  const nothing: void = await client.publish("room:1", { text: "hello" });
  const here: Info[] = await client.presence("room:1");
  const kept: History<Chat> = await client.history<Chat>("room:1", {
    limit: 10,
    since: place,
    reverse: true,
  });
  const first: Publication<Chat> | undefined = kept.publications[0];
  const sum = await client.call<number>("add", [1, 2]);
  console.log(nothing, here.length, first?.data.text, first?.info?.user, kept.position, sum + 1);
}

ask().catch((error: unknown) => {
  if (error instanceof RequestError) {
    console.log([TIMEOUT, LOST, CLOSED].some((code) => code === error.code), error.message);
  }
});

// @ts-expect-error: a group is a text
client.subscribe(1);
// @ts-expect-error: no such handler
client.subscribe("room:1", { onmesage: () => {} });
// @ts-expect-error: the messages of this group have no such field
client.subscribe<Chat>("room:1", { onmessage: (data) => console.log(data.txt) });
// @ts-expect-error: unknown until the page says what it is
client.subscribe("room:1", { onmessage: (data) => console.log(data.text) });
// @ts-expect-error: a position is not an offset alone
client.subscribe("room:1", { recover: 5 });
// @ts-expect-error: it says nothing without a message
client.publish("room:1");
// @ts-expect-error: a limit is a number
client.history("room:1", { limit: "10" });
// @ts-expect-error: what is read only
client.id = "mine";
// @ts-expect-error: what is read only
subscription.state = "ended";
// @ts-expect-error: a token is a text
connect("/", { token: 5 });
// @ts-expect-error: there is no such function
client.reconnect();
