// For whom: a user of the data, or a history of one's own.
import { html, useEffect, useRef, useState } from "./vendor/preact-htm.module.js";
import { ask, capital, hue, known, several, useAnswer, wide } from "./service.js";
import { typed } from "./address.js";
import { Search, Select, Switch, Values } from "./widgets.js";

const SHOWN = 8;  // interactions of a history at first

const judged = () => known.interaction_columns.find(({ values }) => values);

// The value of an item of a history, which is told by its title.
function valueOf(one) {
  const column = judged(), title = one.values[column?.name];
  return column?.values.find(([, text]) => String(text) === String(title))?.[0];
}

// Who is asked for, as /recommend wants it; nothing if that is nobody yet.
export function personOf(state) {
  const own = state.kind === "own";
  if (!own && state.user === "") return undefined;
  if (own && !state.own.length && !known.serves_empty_histories) return undefined;
  const person = own ? { history: state.own.map(({ id }) => id) }
    : { user_id: state.user, until: state.until };
  if (own && judged() && state.own.some(({ value }) => value !== undefined))
    person.history_columns = { [judged().name]: state.own.map(({ value }) => value ?? null) };
  const facts = Object.entries(own ? state.ownFacts : state.facts)
    .filter(([, value]) => value !== "");
  if (facts.length) person.columns = Object.fromEntries(facts);
  if (state.at) person.at = Math.floor(Date.parse(`${state.at}Z`) / 1000);
  return person;
}

// One column of the user.
function Fact({ column, value, unsaid, onChange }) {
  const id = `user-${column.name}`, label = capital(column.label);
  if (column.kind === "category")
    return html`<${Select} id=${id} label=${label} value=${value} onChange=${onChange}
      options=${[["", unsaid], ...column.values]} />`;
  if (column.kind === "tags")
    return html`<${Values} id=${id} label=${label} options=${column.values} chosen=${value || []}
      onChange=${(values) => onChange(values.length ? values : "")} />`;
  if (column.kind !== "number") return null;
  const change = ({ target }) => onChange(target.value === "" ? "" : Number(target.value));
  return html`<div class="field"><label for=${id}>${label}</label>
    <input id=${id} type="number" placeholder=${unsaid} step="any" value=${value}
      onChange=${change} /></div>`;
}

function Facts({ state, set }) {
  const own = state.kind === "own", facts = own ? state.ownFacts : state.facts;
  const shown = known.user_columns.filter(({ kind }) => kind !== "text" && kind !== "vector");
  if (!shown.length) return null;
  const change = (name) => (value) =>
    set({ [own ? "ownFacts" : "facts"]: { ...facts, [name]: value } });
  return html`<details class="facts" open=${Object.keys(facts).length > 0}>
    <summary>${own ? "About you" : "Were the user somebody else"}</summary>
    ${shown.map((column) => html`<${Fact} key=${`${state.kind}-${state.user}-${column.name}`}
      column=${column} unsaid=${own ? "not said" : "as in the data"}
      value=${facts[column.name] ?? ""} onChange=${change(column.name)} />`)}</details>`;
}

// What is known of a user, in words.
function Summary({ profile }) {
  const facts = known.user_columns.filter(({ kind }) => kind !== "vector")
    .flatMap(({ name, kind, label }) => [profile.columns[name] ?? []].flat()
      .map((value) => (kind === "number" ? `${label} ${value}` : value)));
  const means = Object.entries(profile.means).map(([name, value]) => `mean ${name} ${value}`);
  const line = [...facts, several(profile.interactions), ...means].join(", ");
  const likes = Object.entries(profile.likes ?? {}).filter(([, values]) => values.length);
  return html`<p data-testid="profile">${line}</p>
    ${likes.map(([name, values]) => html`<div class="chips" key=${name}>
      <span class="label" title="chosen more often than by others, or rated higher">likes</span>
      ${values.map((value) => html`<span class="chip" style=${hue(value)}>${value}</span>`)}</div>`)}`;
}

function Past({ one }) {
  const values = Object.entries(one.values).map(([name, value]) =>
    html`<span class="value" title=${name}>${value}<span class="unseen"> ${name}</span></span>`);
  return html`<li><span class="dot" style=${hue(firstTag(one))}></span>
    <span class="name">${one.name}</span>${values}
    ${one.time && html`<time>${one.time.slice(0, 10)}</time>`}</li>`;
}

// What gives an item its colour.
export function firstTag(item) {
  const column = known.item_columns.find(({ kind, name }) =>
    ["tags", "category"].includes(kind) && item.columns[name]?.length);
  return column ? [item.columns[column.name]].flat()[0] : item.name;
}

function OfTheData({ state, set, profile }) {
  const [all, setAll] = useState(false);
  const another = () => {  // anybody but who is shown
    const others = known.some_users.filter((user) => user !== state.user);
    const user = others[Math.floor(Math.random() * others.length)] ?? state.user;
    set({ user, facts: {} });
  };
  const newest = profile.content?.newest ?? [];
  const take = () => set({ kind: "own", own: [...newest].reverse().map((one) =>
    ({ id: one.id, name: one.name, value: valueOf(one) })) });
  const whole = newest.length === profile.content?.interactions;
  return html`<div class="field"><label for="user">User, one of ${known.users.toLocaleString("en")}</label>
      <div class="joined"><input id="user" value=${state.user} autocomplete="off"
        onChange=${({ target }) => set({ user: typed(target.value.trim()), facts: {} })} />
      <button type="button" class="button" onClick=${another}>Somebody else</button></div></div>
    ${known.until.includes("test") && html`<${Switch} id="until" checked=${state.until === "test"}
      label=${`Hide the last ${known.noun}, to see whether the list has it`}
      onChange=${(hidden) => set({ until: hidden ? "test" : "end" })} />`}
    ${profile.error ? html`<p class="note">${profile.error}</p>`
      : profile.content && html`<${Summary} profile=${profile.content} />
      ${newest.length > 0 && html`<details open=${wide}><summary>Newest ${known.nouns}</summary>
        <ol class="history">${newest.slice(0, all ? newest.length : SHOWN).map((one, place) =>
          html`<${Past} one=${one} key=${place} />`)}</ol>
        <p class="joined">${newest.length > SHOWN && html`<button type="button" class="button"
            onClick=${() => setAll(!all)}>${all ? "Show fewer" : "Show more"}</button>`}
          <button type="button" class="button" onClick=${take}>
            ${whole ? "Change this history" : `Change the newest ${newest.length}`}</button></p></details>`}`}`;
}

// A list of one's own, oldest first, that can be put in order.
function Own({ state, set }) {
  const dragged = useRef(null), rated = judged();
  const own = state.own, put = (items) => set({ own: items });
  const change = (place, value) => put(own.map((one, other) => (other === place ? { ...one, value } : one)));
  const move = (from, to) => {
    if (to < 0 || to >= own.length) return;
    const items = [...own];
    items.splice(to, 0, ...items.splice(from, 1));
    put(items);
  };
  const find = (text) => ask(`/items?query=${encodeURIComponent(text)}`).then(({ items }) => items
    .filter(({ id }) => known.repeats || !own.some((one) => one.id === id))
    .map((item) => ({ value: item.id, text: item.name })));
  const add = ({ value, text }) => put([...own, { id: value, name: text }]);
  const examples = known.some_items.filter(({ id }) => !own.some((one) => one.id === id)).slice(0, 6);
  return html`<${Search} id="history" label=${`${capital(known.nouns)} that you ${known.verb}, oldest first`}
      placeholder="type a name" find=${find} onChoose=${add} />
    <ol class="own">${own.map((one, place) => html`<li key=${`${one.id}-${place}`} draggable
        onDragStart=${(event) => {
          dragged.current = place;
          event.dataTransfer.setData("text/plain", one.name ?? "");  // Firefox drags nothing else
        }}
        onDragOver=${(event) => event.preventDefault()}
        onDrop=${() => move(dragged.current, place)}>
      <span class="name">${one.name ?? one.id}</span>
      ${rated && html`<select aria-label=${`${rated.label} of ${one.name}`} value=${one.value ?? ""}
        onChange=${({ target }) => change(place, target.value || undefined)}>
        ${[["", rated.label], ...rated.values].map(([value, text]) => html`
          <option value=${value} selected=${value === (one.value ?? "")}>${text}</option>`)}</select>`}
      <button type="button" class="icon" aria-label=${`Earlier: ${one.name}`}
        onClick=${() => move(place, place - 1)}>↑</button>
      <button type="button" class="icon" aria-label=${`Later: ${one.name}`}
        onClick=${() => move(place, place + 1)}>↓</button>
      <button type="button" class="icon" aria-label=${`Remove ${one.name}`}
        onClick=${() => put(own.filter((_, other) => other !== place))}>×</button></li>`)}</ol>
    ${examples.length > 0 && html`<div class="chips"><span class="label">Add</span>${examples.map((item) => html`
      <button type="button" class="chip" style=${hue(item.name)} key=${item.id}
        onClick=${() => add({ value: item.id, text: item.name })}>${item.name}</button>`)}</div>`}
    ${own.length > 0 && html`<p><button type="button" class="button" onClick=${() => put([])}>
      Begin again</button></p>`}`;
}

export function Person({ state, set, name }) {
  const profile = useAnswer("/profile", personOf(state));
  const newest = profile.content?.newest, user = state.kind === "user";
  useEffect(() => {  // names of items that came with the address
    if (user || !newest || !state.own.some((one) => one.name === undefined)) return;
    const names = new Map(newest.map((one) => [one.id, one.name]));
    name(state.own.map((one) => ({ ...one, name: one.name ?? names.get(one.id) ?? String(one.id) })));
  }, [newest]);
  const kinds = [...(known.users ? [["user", "A user"]] : []), ["own", `My ${known.nouns}`]];
  return html`<section class="panel" aria-label="For whom">
    <div class="tabs">${kinds.map(([kind, text]) => html`<button type="button" key=${kind}
      aria-pressed=${state.kind === kind} onClick=${() => set({ kind })}>${text}</button>`)}</div>
    ${user ? html`<${OfTheData} state=${state} set=${set} profile=${profile} />`
      : html`<${Own} state=${state} set=${set} />
        ${state.own.length > 2 && profile.content && html`<${Summary} profile=${profile.content} />`}`}
    <${Facts} state=${state} set=${set} /></section>`;
}
