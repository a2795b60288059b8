// The page of an index: a search is a state, which the address has, and whose hits are shown.

import { addressOf, fetchHits, fetchJson, readAddress } from "/requests.js";
import { hitElement, moveByKeys, pictureOf, visible } from "/results.js";
import { closeSample, openSample } from "/sample.js";

const COUNT = 40; // hits that are fetched at a time
const byId = (id) => document.getElementById(id);
const [form, text, modification, where, file, hits, dialog] =
  ["form", "text", "modification", "where", "file", "hits", "sample"].map(byId);
const uploads = []; // files of this visit, by the number that the history keeps
let info, state = readAddress(), shown = 0, more = false, running = null, preview = null;

// What a search is of, without what is open beside it.
const keyOf = ({ sample, upload, ...search }) => JSON.stringify([search, upload ? uploads.indexOf(upload) : -1]);
const mainBox = () => (info?.modifications ? modification : text);

function complain(error) {
  byId("error").hidden = !error;
  byId("error").textContent = error ? error.message : "";
}

// Go to another search or sample. An entry of the history that opened a sample is spare once that is
// closed: the one before shows the same, so the next takes its place.
function go(changes) {
  const old = state, before = keyOf(old), spare = history.state?.spare ?? false;
  state = { ...state, ...changes };
  if (state.upload && !uploads.includes(state.upload)) uploads.push(state.upload);
  const same = before === keyOf(state), opening = Boolean(state.sample && !old.sample);
  const entry = { upload: uploads.indexOf(state.upload), spare: same && (spare || opening) };
  const replaces = same ? spare || !opening : spare && !old.sample;
  history[replaces ? "replaceState" : "pushState"](entry, "", addressOf(state));
  show(!same);
}

function show(changed) {
  fillForm();
  if (changed) search();
  if (state.sample) openSample(state.sample, info.version, openRow).catch(complain);
  else closeSample();
}

function fillForm() {
  for (const [input, value] of [[text, state.text], [modification, state.modification], [where, state.where]]) input.value = value;
  for (const input of form.elements.side) input.checked = input.value === state.side;
  if (preview) URL.revokeObjectURL(preview);
  preview = state.upload ? URL.createObjectURL(state.upload) : null;
  byId("chosen-image").hidden = false;
  byId("chosen").hidden = !state.upload && !state.like;
  if (byId("chosen").hidden) byId("chosen-image").removeAttribute("src");
  else byId("chosen-image").src = preview ?? pictureOf(state.like, info.version);
  byId("chosen-name").textContent = state.upload ? visible(state.upload.name) : `image ${state.like}`;
  modification.placeholder = byId("chosen").hidden ? "Choose an image, then say what to change" : "What to change: in blue";
}

// Show the first hits of the present search.
async function search() {
  running?.abort();
  const own = (running = new AbortController());
  more = false;
  complain(null);
  document.body.classList.add("busy");
  byId("status").textContent = "Searching…";
  try {
    const found = await fetchHits(state, 0, COUNT, own.signal);
    hits.replaceChildren();
    hits.className = state.side;
    shown = 0;
    append(found);
    describe();
    scrollTo(0, 0);
  } catch (error) {
    if (error.name === "AbortError") return;
    hits.replaceChildren();
    byId("status").textContent = "";
    complain(error);
  } finally {
    if (running === own) finish();
  }
}

// Show the next hits, if there are any and none are on their way.
async function showMore() {
  if (!more || running) return;
  const own = (running = new AbortController());
  try {
    append(await fetchHits(state, shown, COUNT, own.signal));
    describe();
  } catch (error) {
    more = false;
    if (error.name !== "AbortError") complain(error);
  } finally {
    if (running === own) finish();
  }
}

function finish() {
  running = null;
  document.body.classList.remove("busy");
  // Observed anew, the end of the page reports whether it is still in sight.
  atEnd.unobserve(byId("end"));
  atEnd.observe(byId("end"));
}

function append(found) {
  hits.append(...found.hits.map((hit) => hitElement(hit, info.version, searchLike, openRow)));
  shown += found.hits.length;
  more = found.more;
}

const isQuery = () => Boolean(state.text.trim() || state.like || state.upload);
const searchLike = (row) => {
  go({ text: "", modification: "", upload: null, like: String(row), sample: "" });
  if (info.modifications) modification.focus();
};
const openRow = (row) => go({ sample: String(row) });

function describe() {
  const total = `${info.sides[state.side].toLocaleString("en")} ${state.side}`;
  const set = state.where ? `Those of ${total} that meet the filter` : total;
  const what = state.text.trim() ? `“${state.text.trim()}”` : "an image";
  const query = state.modification.trim() ? `${what}, ${state.modification.trim()}` : what;
  document.title = isQuery() ? `${query} – search` : "Search";
  let line = `${set}${state.where ? "" : " in the index"}. Search by ${info.texts ? "a text or an image" : "an image"}, or click one.`;
  if (isQuery()) line = `${set}, by their similarity to ${query}`;
  if (!shown) line = state.where ? "Nothing meets the filter." : `The index has no other ${state.side}.`;
  const isLost = history.state?.upload >= 0 && !state.upload; // the page was loaded anew
  byId("status").textContent = isLost ? `The uploaded image was not kept: choose it again. ${line}` : line;
}

function useFile(chosen) {
  if (!chosen) return;
  if (chosen.size > info.max_upload_bytes) {
    complain(new Error(`${chosen.name} is too large: an image has at most ${info.max_upload_bytes / 2 ** 20} MiB.`));
    return;
  }
  go({ upload: chosen, like: "", text: "", modification: "", sample: "" });
  if (info.modifications) modification.focus();
}

function listenToForm() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const words = text.value.trim() ? { text: text.value, like: "", upload: null } : { text: "" };
    const before = keyOf(state);
    go({ ...words, modification: modification.value, where: where.value.trim(), side: form.elements.side.value });
    if (before === keyOf(state)) search(); // again, as after a failure
  });
  byId("sides").addEventListener("change", () => form.requestSubmit());
  byId("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    useFile(file.files[0]);
    file.value = ""; // so that the same file can be chosen again
  });
  byId("chosen-image").addEventListener("error", (event) => (event.target.hidden = true)); // no image
  byId("remove").addEventListener("click", () => {
    go({ upload: null, like: "", modification: "" });
    mainBox().focus();
  });
}

function listenToFiles() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const showDrop = (visible) => (byId("drop").hidden = !visible);
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    showDrop(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget ?? showDrop(false));
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    showDrop(false);
    useFile(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => useFile([...event.clipboardData.files].find((one) => one.type.startsWith("image/"))));
}

function listenToKeys() {
  const focusFirst = moveByKeys(hits, mainBox);
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("input[type=search], input[type=text]");
    if (event.key === "/" && !typing && !dialog.open) {
      event.preventDefault();
      mainBox().focus();
      mainBox().select();
    } else if (event.key === "ArrowDown" && typing) {
      event.preventDefault();
      focusFirst();
    }
  });
  const leave = () => go({ sample: "" });
  byId("close").addEventListener("click", leave);
  dialog.addEventListener("click", (event) => event.target === dialog && leave());
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault(); // Escape: closed here and now, rather than when the browser gets to it
    leave();
  });
  byId("sample-like").addEventListener("click", () => searchLike(state.sample));
}

addEventListener("popstate", (event) => {
  const before = keyOf(state);
  state = { ...readAddress(), upload: uploads[event.state?.upload] ?? null };
  show(before !== keyOf(state));
});

const atEnd = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && showMore(), { rootMargin: "600px" });

async function begin() {
  info = await fetchJson("/api/info");
  byId("text-box").hidden = !info.texts;
  byId("modification-box").hidden = !info.modifications;
  byId("sides").hidden = Object.keys(info.sides).length < 2;
  byId("columns").textContent = `Columns: ${info.columns.images.join(", ")}`;
  listenToForm();
  listenToFiles();
  listenToKeys();
  show(true);
}

begin().catch((error) => {
  byId("status").textContent = "";
  complain(error);
});
