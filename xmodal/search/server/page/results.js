// The results: their elements, and moving among them by keys. Text of others is only ever textContent.

export const pictureOf = (row, version) => `/picture/${row}?v=${version}`;

// Return a text whose characters that are unseen or turn others around are escaped, as the terminal shows them.
export const visible = (text) =>
  text.replace(/(?![\n\r\t\u200c\u200d])[\p{Cc}\p{Cf}]/gu, (one) => `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`);

// Return an element with its properties and children.
export function element(name, properties = {}, ...children) {
  const shown = Object.entries(properties).map(([key, value]) => [key, typeof value === "string" ? visible(value) : value]);
  const made = Object.assign(document.createElement(name), Object.fromEntries(shown));
  made.append(...children);
  return made;
}

// Return an image of a row, with a caption as its alternative text.
export function image(row, version, caption) {
  const made = element("img", { alt: caption, loading: "lazy", decoding: "async", src: pictureOf(row, version) });
  made.addEventListener("error", () => made.classList.add("missing"));
  return made;
}

// Return the element of a hit; `onImage` and `onOpen` are called with its image's row.
export function hitElement(hit, version, onImage, onOpen) {
  const caption = hit.caption ?? hit.key;
  const picture = element("button", { type: "button", className: "picture", title: "Search by this image", tabIndex: -1 }, image(hit.image, version, caption));
  picture.setAttribute("aria-label", `Search by this image: ${visible(caption)}`);
  picture.addEventListener("click", () => onImage(hit.image));
  const open = element("button", { type: "button", className: "open" }, element("span", { className: "caption", dir: "auto", textContent: caption }));
  if (hit.score !== null) open.append(element("span", { className: "score", title: "score", textContent: hit.score.toFixed(3) }));
  open.addEventListener("click", () => onOpen(hit.image));
  return element("li", { className: "hit" }, picture, open);
}

// Move the focus among the results by arrow keys, Home and End.
export function moveByKeys(list, above) {
  const columns = () => getComputedStyle(list).gridTemplateColumns.split(" ").length;
  const steps = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns() };
  const items = () => [...list.querySelectorAll(".open")];
  list.addEventListener("keydown", (event) => {
    const all = items(), at = all.indexOf(document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    let next;
    if (event.key in steps) next = at + steps[event.key]();
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = all.length - 1;
    else return;
    event.preventDefault();
    if (next < 0 && event.key === "ArrowUp") above().focus();
    else all[Math.max(0, Math.min(next, all.length - 1))].focus();
  });
  return () => items()[0]?.focus();
}
