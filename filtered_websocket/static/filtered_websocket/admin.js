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
    const byId = (id) => document.getElementById(id);
    // The page has the key once; these lines get it here.
    for (const line of document.querySelectorAll(".fws-line")) {
      line.textContent = line.textContent.replace("KEY", byId("fws-key").textContent);
    }
    for (const button of document.querySelectorAll(".fws-copy")) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        const copied = await copy(byId(button.dataset.copies));
        const { done, failed } = byId("fws-copy").dataset;
        byId("fws-copied").textContent = copied ? done : failed;
      });
    }
    // Servers log addresses, and an address has what is searched for: no whole key may be in it.
    const search = document.getElementById("changelist-search");
    search?.addEventListener("submit", () => {
      const bar = search.elements.q;
      bar.value = bar.value.replace(/(fws_[\w-]{8})[\w-]{20,}/g, "$1");
    });
  });
})();
