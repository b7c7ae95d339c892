// The page: whom to recommend for on the left, ten films on the right, a click says why.
import { html, render, useEffect, useMemo, useRef, useState } from "/static/vendor/preact-htm.module.js";

const FAMILIES = {
  ratings: "ratings given", times: "when you watch", demographics: "age, gender, occupation",
  user_id: "learned of you beside the history", genres: "its genres", year: "its year", title: "its title",
  graph: "films that go with it",
};
const MODELS = { main: "Enhanced BERT4Rec", vanilla: "Vanilla BERT4Rec", popularity: "Most popular" };
const SHOWN = 15;   // films of the history in the full explanation
const wide = matchMedia("(min-width: 992px)").matches;  // else what may be changed stands folded above the films

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
    const widget = new TomSelect(element.current, {
      plugins: ["remove_button"], valueField: "value", labelField: "text", searchField: "text", options, placeholder,
      maxOptions: 50, hidePlaceholder: true, closeAfterSelect: !search,
      ...(search && {
        shouldLoad: (query) => query.length > 1,
        load(query, give) {
          search(query).then((found) => {
            if (query === this.lastValue) this.clearOptions();  // what is chosen stays
            give(query === this.lastValue ? found : []);
          }, () => give());
        },
        score: () => () => 1,  // the service has searched; all it lists is shown
        onItemAdd() { this.setTextboxValue(""); this.refreshOptions(false); } }),
      onChange: (values) => onChange(values) });
    return () => widget.destroy();
  }, []);
  return html`<div class="mb-3"><label class="form-label" for=${`${id}-ts-control`}>${label}</label>
    <select id=${id} ref=${element} multiple autocomplete="off"></select></div>`;
}

function Select({ id, label, value, options, onChange, disabled }) {
  return html`<div class="mb-2"><label class="form-label mb-1" for=${id}>${label}</label>
    <select id=${id} class="form-select form-select-sm" value=${value} disabled=${disabled}
      onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
    </select></div>`;
}

function Bars({ rows }) {
  const most = Math.max(...rows.map(([, value]) => Math.abs(value)), 0.01);
  return html`<div class="because small">${rows.map(([name, value]) => html`
    <div class="name" title=${name}>${name}</div>
    <div class="track" aria-hidden="true"><div class=${value < 0 ? "against" : ""}
      style=${{ width: `${100 * Math.abs(value) / most}%` }}></div></div>
    <div class="value">${value > 0 ? "+" : value < 0 ? "\u2212" : ""}${Math.abs(value).toFixed(2)}</div>`)}</div>`;
}

// What the sentence names, and no other reason.
function reasonsOf(why) {
  return why.reasons.map(({ of, name, effect }) => [of === "features" ? FAMILIES[name] ?? name : name, effect]);
}

function withRanks(name, places) {
  return places ? `${name} (${places > 0 ? "+" : "\u2212"}${Math.abs(places)})` : name;
}

function Card({ film, why, waiting, onOpen }) {
  return html`<article class="card film"><div class="card-body p-2">
    <div class="d-flex gap-2">
      <div class="rank text-body-secondary">${film.rank}</div>
      <div class="flex-grow-1 min-w-0">
        <h3 class="h6 mb-1">${onOpen ? html`<button type="button"
          class="btn btn-link p-0 text-start fw-semibold stretched-link text-body text-decoration-none"
          onClick=${onOpen} aria-label=${`Why ${film.title}?`}>${film.title}</button>` : film.title}</h3>
        <div class="d-flex flex-wrap gap-1 align-items-center">
          ${film.genres.map((genre) => html`<span class="badge text-bg-secondary fw-normal">${genre}</span>`)}
          ${film.predicted_rating && html`<span class="small text-nowrap" title="the rating that the model expects">
            <span aria-hidden="true">★</span> ${film.predicted_rating.toFixed(1)}
            <span class="visually-hidden"> stars expected</span></span>`}
          ${film.note && html`<span class="small fst-italic">${film.note}</span>`}
        </div>
        ${why ? html`<div class="mt-2"><${Bars} rows=${reasonsOf(why)} />
            ${!why.reasons.length && html`<span class="small">${why.sentence}</span>`}</div>`
          : waiting && html`<div class="waiting mt-2 placeholder-glow" aria-hidden="true">
              <span class="placeholder col-7"></span><span class="placeholder col-5"></span></div>`}
      </div>
    </div></div></article>`;
}

function Column({ name, wish, among, onOpen, titled }) {
  const { content, waiting, error } = useAnswer("/recommend", wish && { ...wish, model: name });
  const films = error ? [] : content?.recommendations ?? [];
  const explained = useAnswer("/explain", name === "main" && films.length && !waiting
    ? { ...among, movie_ids: films.map((film) => film.movie_id) } : undefined);
  const reasons = Object.fromEntries((explained.content?.explanations ?? []).map((why) => [why.movie_id, why]));
  return html`<section class="col" aria-label=${MODELS[name]} aria-busy=${waiting}>
    ${titled && html`<h2 class="h5">${MODELS[name]}</h2>`}
    ${error && html`<div class="alert alert-warning" role="alert">${error}</div>`}
    <p class="text-body-secondary mb-0" role="status">${waiting && !films.length && "asking …"}</p>
    ${content && films.length < 10 && html`<p class="text-body-secondary">${films.length
      ? `Only ${films.length} such films are left.` : "No such film is left."}</p>`}
    ${content?.note && html`<p class="small text-body-secondary">${content.note}</p>`}
    <div class=${`films ${titled ? "" : "alone"}`} data-testid=${`films-${name}`}>${films.map((film) => html`<${Card} key=${film.movie_id} film=${film}
      why=${explained.waiting ? undefined : reasons[film.movie_id]} waiting=${name === "main" && explained.waiting}
      onOpen=${name === "main" && (() => onOpen(film))} />`)}</div></section>`;
}

// All that speaks for and against one film, in a drawer.
function Why({ film, among, onClose }) {
  const element = useRef();
  const { content, error } = useAnswer("/explain", { ...among, movie_ids: [film.movie_id], k: 10 });
  useEffect(() => {
    const drawer = bootstrap.Offcanvas.getOrCreateInstance(element.current), opener = document.activeElement;
    element.current.addEventListener("hidden.bs.offcanvas", onClose);
    drawer.show();
    return () => { drawer.dispose(); opener.focus(); };
  }, []);
  const why = content?.explanations[0];
  const strongest = why && [...why.history].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, SHOWN);
  const others = why?.what_if.as_another ?? [];
  return html`<div class="offcanvas offcanvas-end why" tabindex="-1" ref=${element} aria-labelledby="why-title">
    <div class="offcanvas-header"><h2 class="offcanvas-title h5" id="why-title">Why ${film.title}?</h2>
      <button type="button" class="btn-close" data-bs-dismiss="offcanvas" aria-label="Close"></button></div>
    <div class="offcanvas-body" aria-busy=${!why && !error}>
      ${error && html`<div class="alert alert-warning" role="alert">${error}</div>`}
      <p class="mb-0" role="status">${!why && !error && "looking for reasons …"}</p>
      ${why && html`<p>${why.sentence}</p>
        <p class="small text-body-secondary">Rank ${why.rank}, log-probability ${why.log_probability.toFixed(2)}. Bars:
          the part of it that is due to each film watched; of the rest, what is lost without it. In parentheses: by
          how many ranks it falls without this alone.</p>
        ${strongest.length > 0 && html`<h3 class="h6">Films watched
          ${why.history.length > SHOWN && ` (the ${SHOWN} strongest of ${why.history.length})`}</h3>
          <${Bars} rows=${strongest.map((entry) =>
            [withRanks(entry.title, entry.places), entry.effect])} />`}
        ${Object.keys(why.features).length > 0 && html`<h3 class="h6 mt-3">What else is known</h3>
          <${Bars} rows=${Object.entries(why.features).map(([name, value]) =>
            [withRanks(FAMILIES[name] ?? name, why.feature_places[name]), value])} />`}
        <h3 class="h6 mt-3">What would take it off the list</h3>
        ${why.what_if.without === null ? html`<p>It stays even without any film of the history.</p>`
          : why.what_if.without.length === 0 ? html`<p>It is not among the first ten anyway.</p>`
          : html`<p>Not to have watched:</p><ul>${why.what_if.without.slice(0, SHOWN).map((other) =>
              html`<li>${other.title}</li>`)}
              ${why.what_if.without.length > SHOWN && html`<li>${why.what_if.without.length - SHOWN} more</li>`}</ul>`}
        ${others.length > 0 && html`<h3 class="h6">Its rank for somebody else with this history</h3>
          <table class="table table-sm w-auto"><tbody>${others.map((other) => html`<tr><td>${
            other.value === "F" ? "a woman" : other.value === "M" ? "a man" : other.value}</td>
            <td class="text-end">${other.rank}.</td></tr>`)}</tbody></table>`}`}
    </div></div>`;
}

function Person({ known, state, set }) {
  const profile = useAnswer("/profile", state.kind === "user" && state.user ? { user_id: state.user } : undefined);
  const told = profile.content;
  const random = () => {  // anybody but who is shown
    const others = known.some_users.filter((user) => user !== state.user);
    set({ user: others[Math.floor(Math.random() * others.length)] ?? state.user });
  };
  const unsaid = state.kind === "user" ? "as in the data" : "not said";
  const search = (query) => ask(`/items?query=${encodeURIComponent(query)}`).then(({ films }) =>
    films.map((film) => ({ value: String(film.movie_id), text: film.title })));
  return html`
    <ul class="nav nav-pills nav-fill mb-3">
      ${[["user", "A user", known.users], ["own", "My films", true]].map(([kind, text, there]) => html`
        <li class="nav-item"><button type="button" disabled=${!there} aria-pressed=${state.kind === kind}
          class=${`nav-link ${state.kind === kind ? "active" : ""}`}
          onClick=${() => kind !== state.kind && set({ kind, history: [] })}>${text}</button></li>`)}</ul>
    ${state.kind === "user" ? html`
      <label class="form-label" for="user">User, ${known.users[0]} to ${known.users[1]}</label>
      <div class="input-group mb-2"><input id="user" type="number" class="form-control" min=${known.users[0]}
          max=${known.users[1]} value=${state.user}
          onChange=${(event) => set({ user: Math.trunc(Number(event.target.value)) || null })} />
        <button type="button" class="btn btn-secondary" onClick=${random}>somebody else</button></div>
      <p class="small" data-testid="profile">${profile.error ?? (told && html`${[told.gender, told.age_group,
        told.occupation].filter(Boolean).join(", ")}; ${told.interactions} films, mean rating ${told.mean_rating},
        mostly ${told.favourite_genres.join(", ")}`)}</p>`
      : html`<${Choice} id="history" label="Films watched, oldest first" search=${search} options=${[]}
          placeholder="type a title" onChange=${(values) => set({ history: values.map(Number) })} />`}
    <details class="mb-3" open=${wide}><summary>The person</summary>
      <${Select} id="gender" label="Gender" value=${state.gender} onChange=${(gender) => set({ gender })}
        options=${[["", unsaid], ["F", "woman"], ["M", "man"]]} />
      <${Select} id="age" label="Age" value=${state.age} onChange=${(age) => set({ age })}
        options=${[["", unsaid], ...Object.entries(known.ages)]} />
      <${Select} id="occupation" label="Occupation" value=${state.occupation}
        onChange=${(occupation) => set({ occupation })} options=${[["", unsaid], ...Object.entries(known.occupations)]} />
    </details>`;
}

function Page({ known }) {
  const [state, setState] = useState({ kind: known.users ? "user" : "own", user: known.some_users[0],
    history: [], gender: "", age: "", occupation: "", genres: [], year: "", at: "", compare: false });
  const [open, setOpen] = useState(null);
  const set = (changes) => setState((old) => ({ ...old, ...changes }));
  const person = useMemo(() => {
    const some = state.kind === "user" ? { user_id: state.user } : { history: state.history };
    if (state.gender) some.gender = state.gender;
    if (state.age) some.age = Number(state.age);
    if (state.occupation) some.occupation = Number(state.occupation);
    if (state.at) some.at = Math.floor(Date.parse(`${state.at}Z`) / 1000);
    return some;
  }, [state]);
  const asked = state.kind === "user" ? state.user !== null : state.history.length > 0 || known.serves_empty_histories;
  const among = { ...person, genres: state.genres, ...(state.year && { year_from: Number(state.year) }) };
  const wish = asked && { ...among, k: 10 };
  const columns = ["main", ...(state.compare ? known.models.filter((name) => name !== "main").sort().reverse() : [])];
  return html`
    <nav class="navbar bg-body-tertiary mb-3"><div class="container-fluid">
      <h1 class="navbar-brand h5 mb-0">Enhanced BERT4Rec</h1>
      <button type="button" class="btn btn-sm btn-secondary" onClick=${turnLights}>light / dark</button>
    </div></nav>
    <main class="container-fluid"><div class="row">
      <form class="col-12 col-lg-3 mb-3" onSubmit=${(event) => event.preventDefault()}>
        <${Person} known=${known} state=${state} set=${set} />
        <details class="mb-3" open=${wide}><summary>The films</summary>
          <${Choice} id="genres" label="With any of these genres" placeholder="any genre"
            options=${known.genres.map((genre) => ({ value: genre, text: genre }))}
            onChange=${(genres) => set({ genres })} />
          <label class="form-label" for="year">From the year ${state.year || "(any)"}</label>
          <input id="year" type="range" class="form-range" min="1919" max="2000" value=${state.year || 1919}
            onChange=${({ target }) => set({ year: target.value === "1919" ? "" : target.value })} />
          <label class="form-label" for="at">Asked at (UTC)</label>
          <input id="at" type="datetime-local" class="form-control form-control-sm" value=${state.at}
            disabled=${!known.knows_request_time} onChange=${(event) => set({ at: event.target.value })} />
          ${!known.knows_request_time && html`<div class="form-text">The served model never sees the time of a
            request.</div>`}</details>
        ${known.models.length > 1 && html`<div class="form-check form-switch">
          <input id="compare" class="form-check-input" type="checkbox" role="switch" checked=${state.compare}
            onChange=${(event) => set({ compare: event.target.checked })} />
          <label class="form-check-label" for="compare">Side by side with vanilla BERT4Rec and popularity</label></div>`}
      </form>
      <div class="col-12 col-lg-9">
        ${asked ? html`<div class=${`row row-cols-1 ${columns.length > 1 ? "row-cols-xl-3 beside" : ""} g-3`}>
            ${columns.map((name) => html`<${Column} key=${name} name=${name} wish=${wish} among=${among}
              titled=${columns.length > 1} onOpen=${setOpen} />`)}</div>`
          : html`<p class="lead">${state.kind === "user" ? "Give a user." : "Name films that you have watched."}</p>`}
      </div></div>
      <footer class="small text-body-secondary my-3">${known.dataset}, ${known.films} films.
        ${known.dataset === "synthetic" ? " These films do not exist." : ""} ${known.data_note}</footer></main>
    ${open && html`<${Why} key=${open.movie_id} film=${open} among=${among} onClose=${() => setOpen(null)} />`}`;
}

function turnLights() {
  const root = document.documentElement;
  root.dataset.bsTheme = root.dataset.bsTheme === "dark" ? "light" : "dark";
}

if (matchMedia("(prefers-color-scheme: dark)").matches) turnLights();
ask("/health").then((known) => render(html`<${Page} known=${known} />`, document.getElementById("page")),
  (error) => { document.getElementById("page").textContent = `The service does not answer: ${error.message}`; });
