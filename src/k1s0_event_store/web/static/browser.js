// What HTML cannot say: whether the connection is alive, the number beside a slider, how long a tail may grow.
"use strict";

(() => {
  const MOST_ROWS = 60;
  const LOST_AFTER = 3000;
  const status = document.getElementById("connection");
  const sources = new Map();
  let timer = null;

  function say(kind) {
    clearTimeout(timer);
    timer = null;
    status.className = `is-${kind}`;
    if (status.textContent !== status.dataset[kind]) status.textContent = status.dataset[kind];
  }

  // A server that restarts, or a laptop that wakes up, is back in a moment: that is no news.
  function lost() {
    if (timer === null) timer = setTimeout(() => say("lost"), LOST_AFTER);
  }

  document.addEventListener("htmx:sseOpen", (event) => {
    const source = event.detail.source;
    sources.set(event.target, source);
    say("live");
    source.addEventListener("away", () => say("away"));
    for (const kind of ["newest", "arrived", "sampled", "grown"]) source.addEventListener(kind, () => say("live"));
    source.addEventListener("arrived", (message) => grow(event.target, message.data));
  });
  document.addEventListener("htmx:sseError", (event) => {
    if (!document.hidden) lost();
  });

  // New rows on top, the oldest ones out: whoever stands on a link in between stays there.
  function grow(page, rows) {
    for (const tail of page.querySelectorAll("[data-tail]")) {
      htmx.swap(tail, rows, { swapStyle: "afterbegin", settleDelay: 0, swapDelay: 0 });
      while (tail.rows.length > MOST_ROWS) tail.deleteRow(-1);
    }
  }

  // A browser keeps six connections to a server: pages that nobody sees let theirs go.
  document.addEventListener("visibilitychange", () => {
    for (const source of sources.values()) {
      if (document.hidden) source.close();
      else if (source.readyState === EventSource.CLOSED) source.onerror(new Event("error"));
    }
  });

  document.addEventListener("input", (event) => {
    const shown = event.target.dataset.shown;
    if (shown) document.getElementById(shown).textContent = event.target.value;
  });
})();
