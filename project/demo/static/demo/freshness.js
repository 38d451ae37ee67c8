"use strict";

// Looks at the board again and again, and puts in what has changed. Without it, "Look again" does so.
(() => {
  const PAUSE_MS = 1500;
  const button = document.getElementById("watch");
  const trouble = document.getElementById("trouble");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  // Counts beginnings and ends of watching: what an earlier one has under way is not shown any more.
  let round = 0;
  let watching = false;

  // Part by part, so that nobody loses the focus on a button beside it.
  function put(page) {
    for (const now of page.querySelectorAll("[data-live]")) {
      const shown = document.getElementById(now.id);
      if (!shown) continue;
      const turned = shown.className !== now.className;
      shown.className = now.className;
      if (shown.innerHTML !== now.innerHTML) shown.innerHTML = now.innerHTML;
      if (turned && !still.matches) shown.animate([{ opacity: 0.2 }, { opacity: 1 }], 700);
    }
  }

  function say(text) {
    if (trouble.textContent !== text) trouble.textContent = text;
  }

  async function look(mine) {
    try {
      const response = await fetch(button.dataset.address, { cache: "no-store" });
      if (!response.ok) throw new Error(String(response.status));
      const text = await response.text();
      if (mine !== round) return;
      put(new DOMParser().parseFromString(text, "text/html"));
      say("");
    } catch {
      if (mine === round) say("The server does not answer. Trying again.");
    }
  }

  // The page that has just come needs no other look.
  async function watch(mine) {
    await new Promise((go) => window.setTimeout(go, PAUSE_MS));
    if (mine !== round) return;
    // Nobody watches a tab that is not shown.
    if (!document.hidden) await look(mine);
    watch(mine);
  }

  function turn(on) {
    round += 1;
    watching = on;
    button.textContent = on ? "Stop watching" : "Watch";
    if (on) watch(round);
  }

  button.hidden = false;
  button.addEventListener("click", () => turn(!watching));
  // Who goes elsewhere is told of no trouble.
  window.addEventListener("pagehide", () => turn(false));
  window.addEventListener("pageshow", (event) => event.persisted && turn(true));
  turn(true);
})();
