// The page: for whom on the left, the list on the right, a click says why. Words, columns and controls
// follow from the schema that /health tells; the state is in the address.
import { html, render, useEffect, useMemo, useRef, useState } from "./vendor/preact-htm.module.js";
import { ask, known } from "./service.js";
import { read, write } from "./address.js";
import { Choices } from "./choices.js";
import { Person, personOf } from "./person.js";
import { List } from "./list.js";
import { Why } from "./why.js";

const TOGETHER = 700;  // milliseconds in which changes are one step for Back

function usePlace() {
  const [state, setState] = useState(read), changed = useRef(0);
  useEffect(() => {
    const back = () => setState(read());
    addEventListener("popstate", back);
    return () => removeEventListener("popstate", back);
  }, []);
  const change = (changes, replace) => setState((old) => {
    const next = { ...old, ...changes }, address = write(next), now = Date.now();
    if (address !== location.pathname + location.search) {
      const same = replace || now - changed.current < TOGETHER;
      history[same ? "replaceState" : "pushState"](null, "", address);
      changed.current = now;
    }
    return next;
  });
  return [state, change];
}

function useTheme(theme) {
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  }, [theme]);
}

const isDark = (theme) => theme === "dark"
  || (!theme && matchMedia("(prefers-color-scheme: dark)").matches);

function Header({ state, set }) {
  const dark = isDark(state.theme);
  return html`<header class="top"><div class="wide">
    <h1>Enhanced BERT4Rec</h1>
    <p>recommends the next ${known.noun} from what somebody ${known.verb}, and says why</p>
    <button type="button" class="button" onClick=${() => set({ theme: dark ? "light" : "dark" })}>
      ${dark ? "Light" : "Dark"}</button></div></header>`;
}

// For how many of the lists an item is on, if on several.
function useShared() {
  const lists = useRef({}), [, again] = useState(0);
  const onList = (name, ids) => {
    if (JSON.stringify(lists.current[name]) === JSON.stringify(ids)) return;
    lists.current[name] = ids;
    setTimeout(() => again(Date.now()));
  };
  const shared = (names) => (id) => {
    const number = names.filter((name) => lists.current[name]?.includes(id)).length;
    return number > 1 ? number : 0;
  };
  return [onList, shared];
}

function Page() {
  const [state, set] = usePlace(), [open, setOpen] = useState(null);
  const [onList, shared] = useShared();
  useTheme(state.theme);
  const person = useMemo(() => personOf(state), [state]);
  const among = person && { ...person, where: Object.values(state.where).flat(), filter_seen: state.unseen };
  const liked = state.liked ? { rank_by: "liked", prefer_expected: "mean" } : {};
  const wish = among && { ...among, k: 10, diversity: state.variety, ...liked };
  const others = known.models.filter((name) => name !== "main").sort().reverse();
  const names = ["main", ...(state.compare ? others : [])];
  return html`<${Header} state=${state} set=${set} />
    <main class="wide layout">
      <form class="side" onSubmit=${(event) => event.preventDefault()}>
        <${Person} state=${state} set=${set} name=${(own) => set({ own }, true)} />
        <${Choices} state=${state} set=${set} /></form>
      ${wish ? html`<div class=${`lists ${names.length > 1 ? "beside" : ""}`}>
          ${names.map((name) => html`<${List} key=${name} name=${name} wish=${wish} among=${among}
            state=${state} titled=${names.length > 1} onOpen=${setOpen} onList=${onList}
            shared=${shared(names)} />`)}</div>`
        : html`<p class="invitation">${state.kind === "user" ? "Which user?"
          : `Which ${known.nouns} have you ${known.verb}? Search for some, or add one of those shown.`}</p>`}
    </main>
    <footer class="wide">${`${known.dataset}, ${known.items.toLocaleString("en")} ${known.nouns}. `
      + `${known.data_note}`}</footer>
    ${open && html`<${Why} key=${open.id} item=${open} among=${among} onClose=${() => setOpen(null)} />`}`;
}

function begin(content) {
  Object.assign(known, content);
  const place = document.getElementById("page");
  place.replaceChildren();
  render(html`<${Page} />`, place);
}

function fail(error) {
  const main = document.querySelector("main");
  main.textContent = `The service does not answer: ${error.message}. Load the page again in a moment.`;
}

ask("/health").then(begin).catch(fail);
