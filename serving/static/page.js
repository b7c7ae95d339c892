// The page: whom to recommend for on the left, ten items on the right, a click says why. Words, columns and
// widgets follow from the schema that /health tells.
import { html, render, useEffect, useMemo, useRef, useState } from "/static/vendor/preact-htm.module.js";

const MODELS = { main: "Enhanced BERT4Rec", vanilla: "Vanilla BERT4Rec", popularity: "Most popular" };
const SHOWN = 15;   // items of the history in the full explanation
const wide = matchMedia("(min-width: 992px)").matches;  // else what may be changed stands folded
let known;          // what /health says

async function ask(path, body, signal) {
  const answer = await fetch(path, body === undefined ? { signal } : {
    method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? `the service answers ${answer.status}`);
  return content;
}

// The newest answer to a question that changes; an older one that comes late is dropped.
function useAnswer(path, body) {
  const [state, setState] = useState({ waiting: false });
  const key = body && JSON.stringify(body);
  useEffect(() => {
    if (!key) return setState({ waiting: false });
    const stop = new AbortController();
    setState((old) => ({ ...old, waiting: true, error: undefined }));
    const timer = setTimeout(() => ask(path, JSON.parse(key), stop.signal)
      .then((content) => setState({ content, of: key, waiting: false }))
      .catch((error) => error.name === "AbortError" || setState({ error: error.message, waiting: false })), 150);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [path, key]);
  return state;
}

// A kept widget (Tom Select) around a <select multiple>.
function Choice({ id, label, options, search, onChange, placeholder }) {
  const element = useRef();
  useEffect(() => {
    let listed = new Map();  // what the newest search found: value -> place
    const widget = new TomSelect(element.current, {
      plugins: ["remove_button"], valueField: "value", labelField: "text", searchField: "text", options, placeholder,
      maxOptions: 50, hidePlaceholder: true, closeAfterSelect: !search,
      refreshThrottle: 0,  // Enter takes what has been typed by then
      ...(search && {
        duplicates: known.repeats, hideSelected: !known.repeats,
        shouldLoad: (query) => query.length > 0,
        onType() { listed = new Map(); this.clearOptions(); },  // nor what an older search found
        load(query, give) {
          search(query).then((found) => {
            if (query !== this.lastValue) return give([]);
            this.clearOptions();  // what is chosen stays
            listed = new Map(found.map(({ value }, place) => [value, place]));
            give(found);
          }, () => give());
        },
        // The service has searched: what it lists is shown, in its order.
        score: () => ({ value }) => listed.has(value) ? 1 / (1 + listed.get(value)) : 0,
        onItemAdd() { this.setTextboxValue(""); this.refreshOptions(false); } }),
      onChange: (values) => onChange(values) });
    return () => widget.destroy();
  }, []);
  return html`<div class="mb-3"><label class="form-label" for=${`${id}-ts-control`}>${label}</label>
    <select id=${id} ref=${element} multiple autocomplete="off"></select></div>`;
}

function Select({ id, label, value, options, onChange }) {
  return html`<div class="mb-2"><label class="form-label mb-1" for=${id}>${label}</label>
    <select id=${id} class="form-select form-select-sm" value=${value}
      onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
    </select></div>`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const options = (column) => column.values.map(([value, text]) => ({ value, text }));

// A filter of the items by one of their columns, as a condition of /recommend.
function Filter({ column, value, onChange }) {
  const id = `where-${column.name}`, label = capital(column.label);
  if (column.values) return html`<${Choice} id=${id} label=${`${label}: any of`} placeholder="any"
    options=${options(column)} onChange=${(values) =>
      onChange(values.length ? `${column.name}=${values.join(",")}` : "")} />`;
  if (column.kind === "number" && column.range) {
    const [low, high] = column.range, at = value ? Number(value.split(">=")[1]) : low;
    return html`<label class="form-label" for=${id}>${label} from ${value ? Number(at.toPrecision(4)) : "(any)"}</label>
      <input id=${id} type="range" class="form-range" min=${low} max=${high} value=${at}
        step=${Number.isInteger(low) && Number.isInteger(high) ? 1 : "any"} onChange=${({ target }) =>
          onChange(Number(target.value) <= low ? "" : `${column.name}>=${target.value}`)} />`;
  }
  if (column.kind !== "text") return null;
  return html`<label class="form-label" for=${id}>${label} holds</label>
    <input id=${id} type="search" class="form-control form-control-sm mb-2"
      onChange=${({ target }) => onChange(target.value ? `${column.name}=${target.value}` : "")} />`;
}

// One column of the user.
function Fact({ column, value, unsaid, onChange }) {
  const id = `user-${column.name}`, label = capital(column.label);
  if (column.kind === "category") return html`<${Select} id=${id} label=${label} value=${value}
    options=${[["", unsaid], ...column.values]} onChange=${onChange} />`;
  if (column.kind === "tags") return html`<${Choice} id=${id} label=${label} placeholder=${unsaid}
    options=${options(column)} onChange=${(values) => onChange(values.length ? values : "")} />`;
  if (column.kind !== "number") return null;
  return html`<div class="mb-2"><label class="form-label mb-1" for=${id}>${label}</label>
    <input id=${id} type="number" class="form-control form-control-sm" placeholder=${unsaid} step="any"
      value=${value} onChange=${({ target }) => onChange(target.value === "" ? "" : Number(target.value))} /></div>`;
}

// scale: the value of a full bar.
function Bars({ rows, scale }) {
  return html`<div class="because small">${rows.map(([name, value]) => html`
    <div class="name" title=${name}>${name}</div>
    <div class="track" aria-hidden="true"><div class=${value < 0 ? "against" : ""}
      style=${{ width: `${100 * Math.abs(value) / scale}%` }}></div></div>
    <div class="value">${signed(value)}</div>`)}</div>`;
}

function signed(value) {
  const text = Math.abs(value).toFixed(2);
  return (text === "0.00" ? "" : value > 0 ? "+" : "\u2212") + text;
}

const largest = (entries) => Math.max(...entries.map(({ effect }) => Math.abs(effect)), 0.01);

function withRanks(name, places) {
  return places ? `${name} (${places > 0 ? "+" : "\u2212"}${Math.abs(places)})` : name;
}

// Columns of an item as badges: tags and categories, then numbers.
function Badges({ item }) {
  const of = (kinds) => known.item_columns.filter(({ kind }) => kinds.includes(kind));
  const tags = of(["tags", "category"]).flatMap(({ name }) => item.columns[name] ?? []);
  const numbers = of(["number"]).filter(({ name }) => typeof item.columns[name] === "number");
  return html`${tags.map((tag) => html`<span class="badge text-bg-secondary fw-normal">${tag}</span>`)}
    ${numbers.map(({ name, label }) => html`<span class="small" title=${label}>${item.columns[name]}</span>`)}`;
}

// What the model expects of an interaction: a scale as stars, anything else as text.
function Expected({ values }) {
  return html`${known.interaction_columns.filter(({ name }) => values[name] !== undefined).map(
    ({ name, label, ordered }) => html`<span class="small text-nowrap" title=${`the ${label} that the model expects`}>
      <span aria-hidden="true">${ordered ? "★" : label}</span> ${typeof values[name] === "number"
        ? values[name].toFixed(1) : values[name]}<span class="visually-hidden"> ${label} expected</span></span>`)}`;
}

function Card({ item, why, scale, waiting, onOpen }) {
  return html`<article class="card item"><div class="card-body p-2">
    <div class="d-flex gap-2">
      <div class="rank text-body-secondary">${item.rank}</div>
      <div class="flex-grow-1 min-w-0">
        <h3 class="h6 mb-1">${onOpen ? html`<button type="button"
          class="btn btn-link p-0 text-start fw-semibold stretched-link text-body text-decoration-none"
          onClick=${onOpen} aria-label=${`Why ${item.name}?`}>${item.name}</button>` : item.name}</h3>
        <div class="d-flex flex-wrap gap-1 align-items-center">
          <${Badges} item=${item} /><${Expected} values=${item.values} />
          ${item.note && html`<span class="small fst-italic">${item.note}</span>`}
        </div>
        ${why ? html`<div class="mt-2"><${Bars} scale=${scale}
            rows=${why.reasons.map(({ name, effect }) => [name, effect])} />
            ${!why.reasons.length && html`<span class="small">${why.sentence}</span>`}</div>`
          : waiting && html`<div class="waiting mt-2 placeholder-glow" aria-hidden="true">
              <span class="placeholder col-7"></span><span class="placeholder col-5"></span></div>`}
      </div>
    </div></div></article>`;
}

function Column({ name, wish, among, onOpen, titled }) {
  // How to choose a list is asked of the served model alone.
  const own = name === "main" ? {} : { rank_by: "next", diversity: 0 };
  const { content, waiting, error } = useAnswer("/recommend", wish && { ...wish, ...own, model: name });
  const items = error ? [] : content?.recommendations ?? [];
  const explained = useAnswer("/explain", name === "main" && items.length && !waiting
    ? { ...among, item_ids: items.map((item) => item.id) } : undefined);
  const explanations = explained.content?.explanations ?? [];
  const reasons = Object.fromEntries(explanations.map((why) => [why.id, why]));
  const scale = largest(explanations.flatMap((why) => why.reasons));
  return html`<section class="col" aria-label=${MODELS[name]} aria-busy=${waiting}>
    ${titled && html`<h2 class="h5">${MODELS[name]}</h2>`}
    ${error && html`<div class="alert alert-warning" role="alert">${error}</div>`}
    <p class="text-body-secondary mb-0" role="status">${waiting && !items.length && "asking …"}</p>
    ${content && items.length < 10 && html`<p class="text-body-secondary">${items.length
      ? `Fewer than ten such ${known.nouns} are left.` : `No such ${known.noun} is left.`}</p>`}
    ${content?.note && html`<p class="small text-body-secondary">${content.note}</p>`}
    <div class=${`items ${titled ? "" : "alone"}`} data-testid=${`items-${name}`}>${items.map((item) => html`
      <${Card} key=${item.id} item=${item} why=${explained.waiting ? undefined : reasons[item.id]} scale=${scale}
        waiting=${name === "main" && explained.waiting}
        onOpen=${name === "main" && (() => onOpen(item))} />`)}</div></section>`;
}

// All that speaks for and against one item, in a drawer.
function Why({ item, among, onClose }) {
  const element = useRef();
  const { content, error } = useAnswer("/explain", { ...among, item_ids: [item.id], k: 10 });
  useEffect(() => {
    const drawer = bootstrap.Offcanvas.getOrCreateInstance(element.current), opener = document.activeElement;
    element.current.addEventListener("hidden.bs.offcanvas", onClose);
    element.current.addEventListener("shown.bs.offcanvas", () => element.current?.lastElementChild.focus());
    drawer.show();
    return () => { drawer.dispose(); opener.focus(); };
  }, []);
  const why = content?.explanations[0];
  const strongest = why && [...why.history].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, SHOWN);
  const scale = why && largest([...why.history, ...why.features]);
  const others = why?.what_if.as_another ?? [];
  const labels = Object.fromEntries(known.user_columns.map(({ name, label }) => [name, capital(label)]));
  return html`<div class="offcanvas offcanvas-end why" tabindex="-1" ref=${element} aria-labelledby="why-title">
    <div class="offcanvas-header"><h2 class="offcanvas-title h5" id="why-title">Why ${item.name}?</h2>
      <button type="button" class="btn-close" data-bs-dismiss="offcanvas" aria-label="Close"></button></div>
    <div class="offcanvas-body" tabindex="0" aria-busy=${!why && !error}>
      ${error && html`<div class="alert alert-warning" role="alert">${error}</div>`}
      <p class="mb-0" role="status">${!why && !error && "looking for reasons …"}</p>
      ${why && html`<p>${why.sentence}</p>
        <p class="small text-body-secondary">Rank ${why.rank}, log-probability ${signed(why.log_probability)}. Bars:
          the part of it that is due to each ${known.noun} of the history; of the rest, what is lost without it. In
          parentheses: by how many ranks it falls without this alone.</p>
        ${strongest.length > 0 && html`<h3 class="h6">${capital(known.nouns)} of the history
          ${why.history.length > SHOWN && ` (the ${SHOWN} strongest of ${why.history.length})`}</h3>
          <${Bars} scale=${scale} rows=${strongest.map((entry) => [withRanks(entry.name, entry.places), entry.effect])} />`}
        ${why.features.length > 0 && html`<h3 class="h6 mt-3">What else is known</h3>
          <${Bars} scale=${scale} rows=${why.features.map((entry) => [withRanks(entry.label, entry.places), entry.effect])} />`}
        <h3 class="h6 mt-3">What would take it off the list</h3>
        ${!why.what_if.without ? html`<p>It stays even without any ${known.noun} of the history.</p>`
          : why.what_if.without.length === 0 ? html`<p>It is not among the first ten anyway.</p>`
          : html`<p>A history without:</p><ul>${why.what_if.without.slice(0, SHOWN).map((other) =>
              html`<li>${other.name}</li>`)}
              ${why.what_if.without.length > SHOWN && html`<li>${why.what_if.without.length - SHOWN} more</li>`}</ul>`}
        ${others.length > 0 && html`<h3 class="h6">Its rank for somebody else with this history</h3>
          <table class="table table-sm w-auto"><tbody>${others.map((other) => html`<tr>
            <td>${labels[other.column]}</td><td>${other.title}</td>
            <td class="text-end">${other.rank}.</td></tr>`)}</tbody></table>`}`}
    </div></div>`;
}

// What is known of a user, in a line.
function profileText(profile) {
  const facts = known.user_columns.filter(({ kind }) => kind !== "vector").flatMap(({ name, kind, label }) =>
    [profile.columns[name] ?? []].flat().map((value) => kind === "number" ? `${label} ${value}` : value));
  const means = Object.entries(profile.means).map(([name, value]) => `mean ${name} ${value}`);
  const best = Object.values(profile.affinities).map((values) =>
    `mostly ${Object.entries(values).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([value]) => value).join(", ")}`);
  return [facts.join(", "), [`${profile.interactions} ${known.nouns}`, ...means, ...best].join(", ")]
    .filter(Boolean).join("; ");
}

function Person({ state, set }) {
  const profile = useAnswer("/profile", state.kind === "user" && state.user !== "" ? { user_id: state.user } : undefined);
  const random = () => {  // anybody but who is shown
    const others = known.some_users.filter((user) => user !== state.user);
    set({ user: others[Math.floor(Math.random() * others.length)] ?? state.user, facts: {} });
  };
  const unsaid = state.kind === "user" ? "as in the data" : "not said";
  const search = (query) => ask(`/items?query=${encodeURIComponent(query)}`).then(({ items }) =>
    items.map((item) => ({ value: JSON.stringify(item.id), text: item.name })));
  const typed = (text) => known.numeric_ids && /^-?\d{1,15}$/.test(text) ? Number(text) : text;
  const facts = known.user_columns.filter(({ kind }) => kind !== "text" && kind !== "vector");
  return html`
    <ul class="nav nav-pills nav-fill mb-3">
      ${[["user", "A user", known.users], ["own", `My ${known.nouns}`, true]].map(([kind, text, there]) => html`
        <li class="nav-item"><button type="button" disabled=${!there} aria-pressed=${state.kind === kind}
          class=${`nav-link ${state.kind === kind ? "active" : ""}`}
          onClick=${() => kind !== state.kind && set({ kind, history: [], facts: {} })}>${text}</button></li>`)}</ul>
    ${state.kind === "user" ? html`
      <label class="form-label" for="user">User, one of ${known.users}</label>
      <div class="input-group mb-2"><input id="user" class="form-control" value=${state.user}
          onChange=${(event) => set({ user: typed(event.target.value.trim()), facts: {} })} />
        <button type="button" class="btn btn-secondary" onClick=${random}>somebody else</button></div>
      <p class="small" data-testid="profile">${profile.error ?? (profile.content && profileText(profile.content))}</p>`
      : html`<${Choice} id="history" label=${`What you ${known.verb}, oldest first`} search=${search} options=${[]}
          placeholder="type a name" onChange=${(values) => set({ history: values.map(JSON.parse) })} />`}
    ${facts.length > 0 && html`<details class="mb-3" open=${wide}><summary>The user</summary>
      ${facts.map((column) => html`<${Fact} key=${`${state.kind}-${state.user}-${column.name}`} column=${column} unsaid=${unsaid}
        value=${state.facts[column.name] ?? ""}
        onChange=${(value) => set({ facts: { ...state.facts, [column.name]: value } })} />`)}</details>`}`;
}

function Page() {
  const [state, setState] = useState({ kind: known.users ? "user" : "own", user: known.some_users[0] ?? "",
    history: [], facts: {}, where: {}, at: "", unseen: !known.repeats, compare: false,
    liked: false, diversity: 0 });
  const [open, setOpen] = useState(null);
  const set = (changes) => setState((old) => ({ ...old, ...changes }));
  const person = useMemo(() => {
    const some = state.kind === "user" ? { user_id: state.user } : { history: state.history };
    const facts = Object.entries(state.facts).filter(([, value]) => value !== "");
    if (facts.length) some.columns = Object.fromEntries(facts);
    if (state.at) some.at = Math.floor(Date.parse(`${state.at}Z`) / 1000);
    return some;
  }, [state]);
  const asked = state.kind === "user" ? state.user !== "" : state.history.length > 0 || known.serves_empty_histories;
  const among = { ...person, where: Object.values(state.where).filter(Boolean), filter_seen: state.unseen };
  const wish = asked && { ...among, k: 10, rank_by: state.liked ? "liked" : "next", diversity: state.diversity };
  const columns = ["main", ...(state.compare ? known.models.filter((name) => name !== "main").sort().reverse() : [])];
  return html`
    <nav class="navbar bg-body-tertiary mb-3"><div class="container-fluid">
      <h1 class="navbar-brand h5 mb-0">Enhanced BERT4Rec</h1>
      <button type="button" class="btn btn-sm btn-secondary" onClick=${turnLights}>light / dark</button>
    </div></nav>
    <main class="container-fluid"><div class="row">
      <form class="col-12 col-lg-3 mb-3" onSubmit=${(event) => event.preventDefault()}>
        <${Person} state=${state} set=${set} />
        <details class="mb-3" open=${wide}><summary>The ${known.nouns}</summary>
          ${known.item_columns.map((column) => html`<${Filter} key=${column.name} column=${column}
            value=${state.where[column.name] ?? ""}
            onChange=${(condition) => set({ where: { ...state.where, [column.name]: condition } })} />`)}
          ${known.repeats && html`<div class="form-check mb-2"><input id="unseen" class="form-check-input"
              type="checkbox" checked=${state.unseen} onChange=${({ target }) => set({ unseen: target.checked })} />
            <label class="form-check-label" for="unseen">New ${known.nouns} only</label></div>`}
          ${known.liked_by && html`<div class="form-check mb-2"><input id="liked" class="form-check-input"
              type="checkbox" checked=${state.liked} onChange=${({ target }) => set({ liked: target.checked })} />
            <label class="form-check-label" for="liked">Prefer a high expected ${known.liked_by}</label></div>`}
          <label class="form-label" for="diversity">Variety: ${state.diversity || "none"}</label>
          <input id="diversity" type="range" class="form-range" min="0" max="1" step="0.1" value=${state.diversity}
            onChange=${({ target }) => set({ diversity: Number(target.value) })} />
          ${known.knows_request_time && html`<label class="form-label" for="at">Asked at (UTC)</label>
            <input id="at" type="datetime-local" class="form-control form-control-sm" value=${state.at}
              onChange=${(event) => set({ at: event.target.value })} />`}</details>
        ${known.models.length > 1 && html`<div class="form-check form-switch">
          <input id="compare" class="form-check-input" type="checkbox" role="switch" checked=${state.compare}
            onChange=${(event) => set({ compare: event.target.checked })} />
          <label class="form-check-label" for="compare">Side by side with ${known.models.filter((name) =>
            name !== "main").map((name) => MODELS[name]).join(" and ")}</label></div>`}
      </form>
      <div class="col-12 col-lg-9">
        ${asked ? html`<div class=${`row row-cols-1 ${columns.length > 1 ? `row-cols-xl-${columns.length} beside` : ""} g-3`}>
            ${columns.map((name) => html`<${Column} key=${name} name=${name} wish=${wish} among=${among}
              titled=${columns.length > 1} onOpen=${setOpen} />`)}</div>`
          : html`<p class="lead">${state.kind === "user" ? "Give a user." : `Name ${known.nouns} that you ${known.verb}.`}</p>`}
      </div></div>
      <footer class="small text-body-secondary my-3">${`${known.dataset}, ${known.items.toLocaleString("en")} ${
        known.nouns}. ${known.data_note}`}</footer></main>
    ${open && html`<${Why} key=${open.id} item=${open} among=${among} onClose=${() => setOpen(null)} />`}`;
}

function turnLights() {
  const root = document.documentElement;
  root.dataset.bsTheme = root.dataset.bsTheme === "dark" ? "light" : "dark";
}

if (matchMedia("(prefers-color-scheme: dark)").matches) turnLights();
ask("/health").then((content) => { known = content; render(html`<${Page} />`, document.getElementById("page")); },
  (error) => { document.getElementById("page").textContent = `The service does not answer: ${error.message}`; });
