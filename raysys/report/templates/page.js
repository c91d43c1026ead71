"use strict";
// Sorting and enlarging only: without this script the page shows everything, worst match first.
// The worst matches are open, the rest folded; sorting deals the entries out to both lists anew.
const lists = [...document.querySelectorAll(".gallery")];
const order = document.getElementById("order");
const value = (entry, name) => Number(entry.dataset[name] ?? -1);
const compare = {
  name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true }),
  fall: (a, b) => value(b, "m0") - value(b, "m1") - value(a, "m0") + value(a, "m1"),
};
if (lists.length && order) {
  order.closest(".sorting").hidden = false;
  const nOpen = lists[0].children.length;
  order.addEventListener("change", () => {
    const entries = lists.flatMap((list) => [...list.children]);
    entries.sort(compare[order.value] ?? ((a, b) => value(b, order.value) - value(a, order.value)));
    lists[0].append(...entries.slice(0, nOpen));
    lists[1]?.append(...entries.slice(nOpen));
  });
}
const dialog = document.getElementById("enlarged");
const body = document.getElementById("enlarged-body");
function enlarge(half) {
  body.replaceChildren(half.cloneNode(true));
  const pair = body.querySelector(".pair");
  pair.removeAttribute("tabindex");
  pair.removeAttribute("role");
  pair.removeAttribute("aria-label");
  dialog.showModal();
}
for (const pair of document.querySelectorAll(".half .pair")) {
  pair.tabIndex = 0;
  pair.setAttribute("role", "button");
  pair.setAttribute("aria-label", "Enlarge: " + [...pair.querySelectorAll("img")].map((i) => i.alt).join("; "));
  pair.addEventListener("click", () => enlarge(pair.closest(".half")));
  pair.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      enlarge(pair.closest(".half"));
    }
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
