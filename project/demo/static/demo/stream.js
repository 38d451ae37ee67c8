"use strict";

// Shows the values of a stream as they come: the last one of a value that grows, all of them where they are items.
(() => {
  const place = document.getElementById("stream");
  const told = document.getElementById("told");
  const value = document.getElementById("value");
  let events = null;

  function ms(since) {
    return `${Math.max(1, Math.round(performance.now() - since)).toLocaleString("en")} ms`;
  }

  function show(query) {
    if (events) events.close();
    const began = performance.now();
    const items = [];
    let count = 0;
    let first = "";
    let failed = false;
    value.textContent = "";
    value.classList.add("under-way");
    told.textContent = "Asked.";
    const mine = new EventSource(`${place.dataset.address}?${query}`);
    events = mine;

    function end(text) {
      mine.close();
      value.classList.remove("under-way");
      told.textContent = text;
    }

    mine.addEventListener("value", (event) => {
      if (mine !== events) return;
      first = first || ms(began);
      count += 1;
      const came = JSON.parse(event.data);
      items.push(came);
      value.textContent = JSON.stringify(query === "items" ? items : came, null, 2);
      // What has just been written is at the end.
      value.scrollTop = value.scrollHeight;
    });
    mine.addEventListener("error", (event) => {
      if (mine !== events) return;
      failed = true;
      const why = event.data ? JSON.parse(event.data).message : "The connection was lost.";
      end(count ? `After ${count} values: ${why}` : why);
    });
    mine.addEventListener("end", () => {
      if (mine !== events) return;
      mine.close();
      if (!failed) end(`${count} values: the first after ${first}, the last after ${ms(began)}.`);
    });
  }

  for (const button of place.querySelectorAll("button")) {
    button.addEventListener("click", () => show(button.dataset.query));
  }
  place.querySelector(".buttons").hidden = false;
  window.addEventListener("pagehide", () => events && events.close());
})();
