"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const list = byId("list");
  const talks = list ? [...list.children] : [];
  const plain = (text) => text.normalize("NFC").toLowerCase();

  // What a link points at is opened.
  const reveal = () => {
    const target = location.hash.length > 1 && byId(decodeURIComponent(location.hash.slice(1)));
    for (let box = target; box; box = box.parentElement) {
      if (box.tagName === "DETAILS") box.open = true;
    }
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);

  // A table is a stop for the keyboard only where it can be scrolled.
  const stops = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      const wide = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
      if (wide || box.closest("details:not([open])")) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", stops);
  stops();

  // On paper everything is open, and afterwards as it was.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const box of folded) box.open = true;
  });
  addEventListener("afterprint", () => {
    for (const box of folded) box.open = false;
  });

  if (list) {
    const fields = ["search", "kind", "outcome", "failed", "order"].map(byId);
    const [search, kind, outcome, failed, order] = fields;
    const texts = new Map();
    const textOf = (talk) => {
      if (!texts.has(talk)) {
        const said = [...talk.querySelectorAll("[data-text]")];
        texts.set(talk, plain(said.map((one) => one.textContent).join("\n")));
      }
      return texts.get(talk);
    };
    const has = (value, wanted) => !wanted || value.split(" ").includes(wanted);
    const fits = (talk, asked) =>
      has(talk.dataset.kind, kind.value) &&
      has(talk.dataset.outcome, outcome.value) &&
      has(talk.dataset.failed, failed.value) &&
      asked.every((word) => textOf(talk).includes(word));

    // Words that were looked for, marked where they stand in an open conversation.
    const mark = () => {
      if (!globalThis.Highlight) return;
      const asked = plain(search.value).split(/\s+/).filter(Boolean);
      const ranges = [];
      const boxes = asked.length ? list.querySelectorAll(".talk[open]:not([hidden]) [data-text]") : [];
      for (const box of boxes) {
        const node = box.firstChild;
        const text = node ? node.data.toLowerCase() : "";
        for (const word of asked) {
          for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
            if (at + word.length > node.length) break;
            const range = new Range();
            range.setStart(node, at);
            range.setEnd(node, at + word.length);
            ranges.push(range);
          }
        }
      }
      CSS.highlights.set("looked-for", new Highlight(...ranges));
    };

    let ordered = "";
    const sort = () => {
      if (order.value === ordered) return;
      ordered = order.value;
      const sign = ordered === "worst" ? 1 : -1;
      const gain = (talk) => ("gain" in talk.dataset ? sign * Number(talk.dataset.gain) : Infinity);
      const place = (talk) => Number(talk.dataset.place);
      const key = ordered ? gain : place;
      list.append(...[...talks].sort((a, b) => key(a) - key(b) || place(a) - place(b)));
    };

    const filter = () => {
      const asked = plain(search.value).split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const talk of talks) {
        talk.hidden = !fits(talk, asked);
        if (!talk.hidden) shown += 1;
      }
      byId("count").textContent = `${shown} of ${talks.length} conversations`;
      byId("nothing").hidden = shown > 0;
      sort();
      mark();
    };
    let waiting = 0;
    const soon = () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 60);
    };
    for (const field of fields) field.addEventListener("input", soon);
    list.addEventListener("toggle", mark, true);
    byId("clear").addEventListener("click", () => {
      for (const field of fields) field.value = "";
      filter();
      search.focus();
    });
    document.querySelector(".filters").hidden = false;
    filter();
  }
  reveal();
})();
