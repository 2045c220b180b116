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

  #attempt = 0;
  #openedAt = Infinity;

  opened(now = performance.now()) {
    this.#openedAt = now;
  }

  /** Milliseconds to wait, also after an attempt that never opened; null: do not come back. */
  closed(code, now = performance.now(), random = Math.random) {
    // A server that accepts and then fails must not be asked again and again at once.
    if (now - this.#openedAt >= Reconnect.STABLE) this.#attempt = 0;
    this.#openedAt = Infinity;
    const delay = Reconnect.delayAfter(code, this.#attempt, random);
    this.#attempt += 1;
    return delay;
  }

  /**
   * The rule itself. The delay is all chance ("full jitter"): when a server comes back, its
   * clients must not come back as one. close_codes.py has the ranges.
   */
  static delayAfter(code, attempt, random = Math.random) {
    // It said goodbye, or would say the same again.
    if (code === 1000 || (code >= 4400 && code <= 4499)) return null;
    // Another server is ready; but once only, in case it is not.
    if (code >= 4200 && code <= 4299 && attempt === 0) return random() * Reconnect.SOON;
    return random() * Math.min(Reconnect.CAP, Reconnect.BASE * 2 ** attempt);
  }
}
