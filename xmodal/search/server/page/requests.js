// Requests to the JSON API, and the state of a search in the page's address.

const FIELDS = ["text", "modification", "where", "side", "like", "sample"];

// Read a search from the page's address.
export function readAddress() {
  const given = new URLSearchParams(location.search);
  const state = { text: "", modification: "", where: "", side: "images", like: "", sample: "", upload: null };
  for (const name of FIELDS) if (given.get(name)) state[name] = given.get(name);
  return state;
}

// Return the address of a search, without what is as it is by default.
export function addressOf(state) {
  const given = new URLSearchParams();
  for (const name of FIELDS) if (state[name] && !(name === "side" && state.side === "images")) given.set(name, state[name]);
  const query = given.toString();
  return query ? `/?${query}` : "/";
}

// Fetch JSON; throw an Error with one line for whatever is wrong.
export async function fetchJson(address, options = {}) {
  let answer, value;
  try {
    answer = await fetch(address, options);
    value = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is it still running?");
  }
  if (!answer.ok) throw new Error(value.error);
  return value;
}

// Fetch hits number `start` and following of a search.
export function fetchHits(state, start, count, signal) {
  const given = new URLSearchParams({ side: state.side, start, k: count });
  for (const name of ["text", "like", "modification", "where"]) if (state[name]) given.set(name, state[name]);
  const upload = state.upload && { method: "POST", body: state.upload, headers: { "Content-Type": "application/octet-stream" } };
  return fetchJson(`/api/search?${given}`, { signal, ...upload });
}
