/* The pages of tokens in Django's admin: copying a key, and searching for one. */
(() => {
  "use strict";

  /** Whether it worked. Pages without TLS have no navigator.clipboard. */
  async function copy(element) {
    getSelection().selectAllChildren(element);
    try {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    } catch {
      return document.execCommand("copy");
    }
  }

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("fws-copy");
    if (button) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        const copied = await copy(document.getElementById("fws-key"));
        const { done, failed } = button.dataset;
        document.getElementById("fws-copied").textContent = copied ? done : failed;
      });
    }
    // What is searched for stands in the address, which servers log: no whole key may.
    const search = document.getElementById("changelist-search");
    search?.addEventListener("submit", () => {
      const bar = search.elements.q;
      bar.value = bar.value.replace(/(fws_[\w-]{8})[\w-]{20,}/g, "$1");
    });
  });
})();
