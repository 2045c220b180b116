/** A place in a group's history. */
export interface Position {
  epoch: string;
  offset: number;
}

/** A connection, as others see it. */
export interface Info {
  client: string;
  user?: string;
  /** What its token says of it. */
  conn_info?: unknown;
  /** What the server's join filters say of it in this group. */
  chan_info?: unknown;
}

/** A message of a group. */
export interface Publication<T = unknown> {
  data: T;
  /** Missing in a group without history. */
  offset?: number;
  /** Who published it; missing for what the server published. */
  info?: Info;
  tags?: Record<string, string>;
}

export interface Subscribed {
  /** What the server's join filters reply. */
  data?: unknown;
  /**
   * Whether everything missed was or will be given to `onmessage`. False: something is lost, so
   * fetch anew what the page shows. Null: nothing was asked for, as at the first time.
   */
  recovered: boolean | null;
  position: Position | null;
}

export interface Handlers<T = unknown> {
  /**
   * A message. `about.group` is missing where the server has sent it to this client, not to a
   * group.
   */
  onmessage?(data: T, about: Partial<Publication<T>> & { group?: string }): void;
  onjoin?(info: Info, group: string): void;
  onleave?(info: Info, group: string): void;
  /** It is subscribed: the first time, and after every time that it was not. */
  onsubscribe?(result: Subscribed, group: string): void;
  /** The server has refused or ended the subscription, for good. */
  onend?(error: RequestError, group: string): void;
}

export interface SubscriptionOptions<T = unknown> extends Handlers<T> {
  /** Get what was missed while it was not subscribed; or begin after this position. */
  recover?: boolean | Position;
  /** For the server's join filters: any JSON value. */
  data?: unknown;
}

export interface Subscription {
  readonly group: string;
  readonly state: "subscribing" | "subscribed" | "ended";
  readonly position: Position | null;
  unsubscribe(): void;
}

/** The handlers are for groups that the server subscribes this client to. */
export interface ClientOptions extends Handlers {
  /** A JSON Web Token, or a function that fetches one: again each time that it is needed. */
  token?: string | (() => string | Promise<string>);
  /** For the server: any JSON value. */
  data?: unknown;
  onopen?(result: { data?: unknown }): void;
  /** `delay` is how many milliseconds it waits until it connects again; null: it does not. */
  onclose?(end: { code: number; reason: string; delay: number | null }): void;
  /** By default the global one. */
  WebSocket?: unknown;
}

export interface HistoryOptions {
  /** At most so many; by default as many as the server gives. 0: only the position. */
  limit?: number;
  /** Those after it, or before it if `reverse`. */
  since?: Position;
  /** From the newest to the oldest. */
  reverse?: boolean;
}

export interface History<T = unknown> {
  publications: Publication<T>[];
  /** The newest place of the history. */
  position: Position;
}

/** Requests wait while it is not open. They fail with a {@link RequestError}. */
export class Client {
  /** `url`: by default /connection/websocket of this page's server. */
  constructor(url?: Address, options?: ClientOptions);
  readonly state: "connecting" | "open" | "waiting" | "closed";
  /** The server's id of this connection; empty while there is none. */
  readonly id: string;
  /** Connect; where it waits to, at once; where it was closed, again. */
  open(): this;
  close(): void;
  /** Raises an Error where it is subscribed already. */
  subscribe<T = unknown>(group: string, options?: SubscriptionOptions<T>): Subscription;
  publish(group: string, data: unknown): Promise<void>;
  /** Who is subscribed to the group now. */
  presence(group: string): Promise<Info[]>;
  history<T = unknown>(group: string, options?: HistoryOptions): Promise<History<T>>;
  /** Ask the server's call filters. */
  call<T = unknown>(method: string, data?: unknown): Promise<T>;
}

/** A path, a URL of ws, wss, http or https, or a function that returns one for each attempt. */
export type Address = string | URL | (() => string | URL | Promise<string | URL>);

export function connect(url?: Address, options?: ClientOptions): Client;

/** Whether a client that was closed with this code does not connect again. */
export function isFinal(code: number): boolean;

/** No answer came in 10 s. */
export const TIMEOUT: 1;
/** The connection was lost before the answer came: the request may have been carried out. */
export const LOST: 2;
/** The client is closed. */
export const CLOSED: 3;

export class RequestError extends Error {
  /** The server's, from 100 on, or one of the three above. */
  readonly code: number;
  /** Whether the same request may succeed later. */
  readonly temporary: boolean;
}
