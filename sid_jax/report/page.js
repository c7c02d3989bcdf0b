"use strict";
// The SID tree, unfolded as it is asked for. All text goes in as text, never as markup.
(() => {
  const store = document.getElementById("tree-data");
  if (!store) return;
  const { levels, texts, colours, nodes } = JSON.parse(store.textContent);
  const AT_ONCE = 24;
  const SHOWN = 40;
  const root = document.getElementById("sid-tree");
  const parts = new WeakMap(); // details -> {path, node, list}
  const number = (value) => value.toLocaleString("en-US");

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // A node is [code, count, text, percent, children]; a leaf's children are products
  // [title, text, how many]. `above` holds the codes on the way.
  function branch(node, above) {
    const [code, count, text, percent, children] = node;
    const codes = [...above, code];
    const item = make("li");
    const details = make("details");
    const summary = make("summary");
    const what = make("span", "what");
    what.append(make("span", `dot c${colours[text]}`));
    what.append(make("bdi", "", texts[text] || "no category"), ` ${percent}%`);
    const sid = make("code", "sid");
    sid.append(make("span", "above", above.map((each) => `${each}_`).join("")), code);
    const size = make("span", "count", number(count));
    size.append(make("span", "unit", count === 1 ? " item" : " items"));
    summary.append(sid, what, size);
    const list = make("ul");
    details.append(summary, list);
    details.addEventListener("toggle", () => details.open && fill(details));
    parts.set(details, { codes, count, children, list });
    item.append(details);
    return item;
  }

  function product([title, text, times]) {
    const item = make("li", "product");
    item.tabIndex = -1;
    item.append(make("bdi", "", title || "(no title)"));
    if (times > 1) item.append(make("span", "count", ` × ${number(times)}`));
    if (texts[text]) item.append(make("span", "small", texts[text]));
    return item;
  }

  function fill(details) {
    const part = parts.get(details);
    if (part.filled) return;
    part.filled = true;
    const { codes, count, children, list } = part;
    const leaf = codes.length === levels;
    const build = leaf ? product : (node) => branch(node, codes);
    grow(list, children, build, () => {
      const shown = children.reduce((sum, child) => sum + child[leaf ? 2 : 1], 0);
      if (shown < count) {
        list.append(make("li", "rest", `and ${number(count - shown)} more that this page leaves out`));
      }
    });
  }

  // The first children at once, the others behind a button (or when one is asked for).
  function grow(list, children, build, end) {
    list.append(...children.slice(0, AT_ONCE).map(build));
    const rest = () => {
      list.append(...children.slice(AT_ONCE).map(build));
      end();
    };
    if (children.length <= AT_ONCE) return end();
    const holder = make("li");
    const button = make("button", "more", `Show ${number(children.length - AT_ONCE)} more`);
    button.type = "button";
    list.all = () => {
      holder.remove();
      list.all = null;
      rest();
    };
    button.addEventListener("click", () => {
      list.all();
      list.children[AT_ONCE].querySelector("summary")?.focus();
    });
    holder.append(button);
    list.append(holder);
  }

  // Unfolds along places in `children`; the last may be a product.
  function unfold(places) {
    let list = root;
    let target = root;
    places.forEach((place, depth) => {
      if (place >= AT_ONCE && list.all) list.all();
      target = list.children[place];
      if (depth < levels) {
        const details = target.firstElementChild;
        fill(details);
        details.open = true;
        list = parts.get(details).list;
        target = details.firstElementChild;
      }
    });
    for (const old of root.querySelectorAll(".here")) old.classList.remove("here");
    target.classList.add("here");
    target.scrollIntoView({ block: "center" });
    target.focus({ preventScroll: true });
  }

  function unfoldSid(sid) {
    const places = [];
    let among = nodes;
    for (const code of sid.split("_")) {
      const place = among.findIndex((node) => node[0] === Number(code));
      if (place < 0) break;
      places.push(place);
      among = among[place][4];
      if (places.length === levels) break;
    }
    unfold(places);
  }

  let index = null; // [title in small letters, places, title, codes]
  function products() {
    if (index) return index;
    index = [];
    const walk = (node, places, codes) => {
      node[4].forEach((child, place) => {
        if (codes.length === levels) index.push([child[0].toLowerCase(), [...places, place], child[0], codes]);
        else walk(child, [...places, place], [...codes, child[0]]);
      });
    };
    nodes.forEach((node, place) => walk(node, [place], [node[0]]));
    return index;
  }

  const input = document.getElementById("find");
  const count = document.getElementById("found-count");
  const found = document.getElementById("found-list");
  function search() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    found.replaceChildren();
    count.textContent = "";
    if (!words.length) return;
    const hits = products().filter(([title]) => words.every((word) => title.includes(word)));
    count.textContent = hits.length
      ? `${number(hits.length)} found${hits.length > SHOWN ? `, the first ${SHOWN} shown` : ""}`
      : "No product on this page has such a title.";
    for (const [, places, title, codes] of hits.slice(0, SHOWN)) {
      const item = make("li");
      const button = make("button");
      button.type = "button";
      button.append(make("bdi", "", title), " ", make("code", "sid", codes.join("_")));
      button.addEventListener("click", () => unfold(places));
      item.append(button);
      found.append(item);
    }
  }
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 120);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    clearTimeout(waiting);
    search();
    found.querySelector("button")?.click();
  });

  for (const link of document.querySelectorAll("a.sid[data-sid]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      unfoldSid(link.dataset.sid);
    });
  }
  grow(root, nodes, (node) => branch(node, []), () => {});
  document.getElementById("tree-tools").hidden = false;
})();
