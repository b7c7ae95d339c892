// What may be recommended and by what it is ranked.
import { html } from "./vendor/preact-htm.module.js";
import { capital, known, wide } from "./service.js";
import { Switch, Values } from "./widgets.js";

// The condition of /recommend for the values of a column.
const anyOf = (name, values) => (values.length ? [`${name}=${values.join(",")}`] : []);

function chosenIn(conditions, column) {
  const text = (conditions[0] ?? "").slice(column.name.length + 1);
  // A value may hold a comma itself: the longest that fits is taken, as the service does.
  const values = column.values.map(([value]) => value).sort((a, b) => b.length - a.length);
  let left = text;
  const found = [];
  while (left) {
    const value = values.find((one) => left === one || left.startsWith(`${one},`));
    if (value === undefined) break;
    found.push(value);
    left = left.slice(value.length + 1);
  }
  return found;
}

function NumberFilter({ column, conditions, onChange }) {
  const [low, high] = column.range;
  const limit = (sign) => {
    const found = conditions.find((one) => one.startsWith(column.name + sign));
    return found ? found.slice(column.name.length + 2) : "";
  };
  const change = (sign, value) => onChange([">=", "<="]
    .map((one) => [one, one === sign ? value : limit(one)])
    .filter(([, text]) => text !== "").map(([one, text]) => column.name + one + text));
  return html`<fieldset class="between"><legend>${capital(column.label)}</legend>
    ${[[">=", "from", low], ["<=", "to", high]].map(([sign, word, bound]) => html`
      <label for=${`where-${column.name}-${word}`}>${word}</label>
      <input id=${`where-${column.name}-${word}`} type="number" step="any" value=${limit(sign)}
        placeholder=${Number(bound.toPrecision(4))}
        onChange=${({ target }) => change(sign, target.value)} />`)}</fieldset>`;
}

// A filter of the items by one of their columns.
function Filter({ column, conditions, onChange }) {
  const id = `where-${column.name}`, label = capital(column.label);
  if (column.values)
    return html`<${Values} id=${id} label=${label} options=${column.values}
      chosen=${chosenIn(conditions, column)}
      onChange=${(values) => onChange(anyOf(column.name, values))} />`;
  if (column.kind === "number" && column.range)
    return html`<${NumberFilter} column=${column} conditions=${conditions} onChange=${onChange} />`;
  if (column.kind !== "text") return null;
  return html`<div class="field"><label for=${id}>${label} contains</label>
    <input id=${id} type="search" value=${(conditions[0] ?? "").slice(column.name.length + 1)}
      onChange=${({ target }) => onChange(anyOf(column.name, target.value ? [target.value] : []))} />
    </div>`;
}

export function Choices({ state, set }) {
  const where = (name) => (conditions) => set({ where: { ...state.where, [name]: conditions } });
  const number = Object.values(state.where).flat().length;
  const whose = state.kind === "own" ? "your" : "the user's";
  const others = known.models.filter((name) => name !== "main");
  return html`<details class="choices" open=${wide}><summary>Which list</summary>
    ${known.liked_by && html`<${Switch} id="liked" checked=${state.liked}
      label=${`Expected ${known.liked_by} of at least ${whose} mean on average`}
      onChange=${(liked) => set({ liked })} />`}
    ${known.repeats && html`<${Switch} id="unseen" checked=${state.unseen}
      label=${`Only ${known.nouns} not ${known.verb} before`}
      onChange=${(unseen) => set({ unseen })} />`}
    ${others.length > 0 && html`<${Switch} id="compare" checked=${state.compare}
      label=${`Beside ${others.includes("vanilla") ? "vanilla BERT4Rec and " : ""}the most popular`}
      onChange=${(compare) => set({ compare })} />`}
    <div class="slider"><label for="variety">Variety: ${state.variety || "none"}</label>
      <input id="variety" type="range" min="0" max="1" step="0.1" value=${state.variety}
        onChange=${({ target }) => set({ variety: Number(target.value) })} /></div>
    ${known.knows_request_time && html`<div class="field">
      <label for="at">Asked at (UTC)</label><input id="at" type="datetime-local" value=${state.at}
        onChange=${({ target }) => set({ at: target.value })} /></div>`}
    <details class="filters" open=${number > 0}>
      <summary>Filters${number > 0 && ` (${number})`}</summary>
      ${known.item_columns.map((column) => html`<${Filter} key=${column.name} column=${column}
        conditions=${state.where[column.name] ?? []} onChange=${where(column.name)} />`)}
      ${number > 0 && html`<button type="button" class="button" onClick=${() => set({ where: {} })}>
        Remove all filters</button>`}</details></details>`;
}
