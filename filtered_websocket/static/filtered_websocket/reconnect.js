/*
 * When a client comes back whose WebSocket was closed, and whether it does:
 *
 *   const reconnect = new Reconnect();
 *   function connect() {
 *     const socket = new WebSocket(url);
 *     socket.onopen = () => reconnect.opened();
 *     socket.onclose = ({ code }) => {
 *       const delay = reconnect.closed(code);
 *       if (delay !== null) setTimeout(connect, delay);
 *     };
 *   }
 *
 * Load it before your own script, or copy it: it needs nothing else.
 */
class Reconnect {
  // Milliseconds.
  static BASE = 500;
  static CAP = 30_000;
  static SOON = 1_000;
  static STABLE = 60_000;

  // How long it has waited since its last stable connection.
  #waited = 0;
  #openedAt = Infinity;

  opened(now = performance.now()) {
    this.#openedAt = now;
  }

  /** Milliseconds to wait, also after an attempt that never opened; null: do not come back. */
  closed(code, now = performance.now(), random = Math.random) {
    // A server that accepts and then fails must not be asked again and again at once.
    if (now - this.#openedAt >= Reconnect.STABLE) this.#waited = 0;
    this.#openedAt = Infinity;
    const delay = Reconnect.delayAfter(code, this.#waited, random);
    this.#waited += delay;
    return delay;
  }

  /**
   * The rule itself. Clients that were closed together must not come back together, so the
   * first delay is all chance. Each later one is half chance, and at most as long as the
   * client has waited before. So where a server is away for T, all clients are back after
   * 2 T, or T + BASE. (If delays doubled and were all chance, some clients would draw a few
   * short ones first, and then wait for many times T.) close_codes.py has the ranges.
   */
  static delayAfter(code, waited, random = Math.random) {
    // It said goodbye, or would say the same again.
    if (code === 1000 || (code >= 4400 && code <= 4499)) return null;
    // 42xx: another server is ready; but once only, in case it is not.
    const first = code >= 4200 && code <= 4299 ? Reconnect.SOON : Reconnect.BASE;
    if (waited === 0) return random() * first;
    const longest = Math.min(Reconnect.CAP, Math.max(Reconnect.BASE, waited));
    return ((1 + random()) * longest) / 2;
  }
}
