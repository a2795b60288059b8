// The dialog of a sample: its picture, captions, metadata and neighbours.

import { element, image, pictureOf, visible } from "/results.js";
import { fetchHits, fetchJson } from "/requests.js";

const NEIGHBOURS = 12;
const byId = (id) => document.getElementById(id);
let wanted = null; // the row that is to be shown: answers about others come too late

// Fill the dialog with a sample and open it; `onOpen` is called with a neighbour's row.
export async function openSample(row, version, onOpen) {
  wanted = row;
  const sample = await fetchJson(`/api/sample/${encodeURIComponent(row)}`);
  if (wanted !== row) return;
  const [title, ...others] = (sample.captions.length ? sample.captions : [sample.key]).map(visible);
  byId("sample-title").textContent = title;
  byId("sample-captions").replaceChildren(...others.map((text) => element("li", { textContent: text, dir: "auto" })));
  Object.assign(byId("sample-image"), { src: pictureOf(sample.row, version), alt: title });
  byId("sample-fields").replaceChildren(...fieldsOf(sample));
  byId("neighbours").replaceChildren();
  if (!byId("sample").open) byId("sample").showModal();
  byId("sample").scrollTop = 0;
  const { hits } = await fetchHits({ like: sample.row, side: "images" }, 0, NEIGHBOURS);
  if (wanted !== row) return;
  byId("neighbours").replaceChildren(...hits.map((hit) => neighbourElement(hit, version, onOpen)));
}

// Close the dialog, also where its sample is still to come.
export function closeSample() {
  wanted = null;
  if (byId("sample").open) byId("sample").close();
}

function fieldsOf({ row, captions, caption, labels, width, height, size, ...rest }) {
  const pixels = width && height ? `${width} × ${height}` : null;
  const fields = { row, labels: (labels ?? []).join(", "), pixels, bytes: size, ...rest };
  const known = Object.entries(fields).filter(([, value]) => value !== null && value !== "");
  return known.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: String(value), dir: "auto" })]);
}

function neighbourElement(hit, version, onOpen) {
  const caption = hit.caption ?? hit.key;
  const made = element("button", { type: "button", className: "picture", title: caption }, image(hit.image, version, caption));
  made.setAttribute("aria-label", `Open: ${visible(caption)}`);
  made.addEventListener("click", () => onOpen(hit.image));
  return element("li", {}, made);
}
