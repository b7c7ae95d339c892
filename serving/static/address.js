// The state of the page in its address, so that a link can be sent and Back works.
import { known } from "./service.js";

export function start() {
  return {
    kind: known.users ? "user" : "own",
    user: known.some_users[0] ?? "",
    until: known.until.includes("test") ? "test" : "end",
    own: [],         // {id, name, value}: items of one's own, oldest first
    facts: {},       // columns of the user, by name
    ownFacts: {},
    where: {},       // column -> conditions
    at: "",
    unseen: !known.repeats,
    liked: Boolean(known.liked_by),
    variety: 0,
    compare: false,
    theme: "",       // '' = as the system
  };
}

export const typed = (text) =>
  known.numeric_ids && /^-?\d{1,15}$/.test(text) ? Number(text) : text;

const id = (text) => (/^-?\d{1,15}$/.test(text) && known.numeric_items ? Number(text) : text);

// Text that is no address, such as '%', stays as it is.
function plain(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function itemOf(text) {
  const [name, value] = text.split("~").map(plain);
  return { id: id(name), value };
}

function textOf({ id: one, value }) {
  const parts = value === undefined ? [one] : [one, value];
  return parts.map((part) => encodeURIComponent(part).replaceAll("~", "%7E")).join("~");
}

function factsIn(query, begins) {
  const found = {};
  for (const { name, kind } of known.user_columns) {
    const values = query.getAll(begins + name);
    if (!values.length) continue;
    if (kind === "tags") found[name] = values;
    else found[name] = kind === "number" ? Number(values[0]) : values[0];
  }
  return found;
}

export function read() {
  const query = new URLSearchParams(location.search), state = start();
  const get = (name, otherwise) => query.get(name) ?? otherwise;
  state.kind = known.users && get("of", state.kind) === "user" ? "user" : "own";
  state.user = query.has("user") ? typed(query.get("user")) : state.user;
  if (known.until.includes(get("until"))) state.until = get("until");
  state.own = get("own", "").split(",").filter(Boolean).map(itemOf);
  state.facts = factsIn(query, "user.");
  state.ownFacts = factsIn(query, "own.");
  for (const { name } of known.item_columns) {
    const conditions = query.getAll(`where.${name}`);
    if (conditions.length) state.where[name] = conditions;
  }
  state.at = known.knows_request_time ? get("at", "") : "";
  state.unseen = get("unseen", String(state.unseen)) === "true";
  state.liked = Boolean(known.liked_by) && get("liked", String(state.liked)) === "true";
  state.variety = Math.min(1, Math.max(0, Number(get("variety", 0)) || 0));
  state.compare = get("compare") === "true";
  state.theme = ["light", "dark"].includes(get("theme")) ? get("theme") : "";
  return state;
}

export function write(state) {
  const query = new URLSearchParams(), plain = start();
  const put = (name, value, usual) => String(value) !== String(usual) && query.set(name, value);
  put("of", state.kind, plain.kind);
  put("user", state.user, plain.user);
  put("until", state.until, plain.until);
  put("own", state.own.map(textOf).join(","), "");
  for (const [begins, facts] of [["user.", state.facts], ["own.", state.ownFacts]])
    for (const [name, value] of Object.entries(facts))
      for (const one of [value].flat()) if (one !== "") query.append(begins + name, one);
  for (const [name, conditions] of Object.entries(state.where))
    for (const condition of conditions) query.append(`where.${name}`, condition);
  for (const name of ["at", "unseen", "liked", "variety", "compare", "theme"])
    put(name, state[name], plain[name]);
  const text = query.toString();
  return location.pathname + (text && `?${text}`);
}
