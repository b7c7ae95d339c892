// A list of recommendations, each with its reasons.
import { html, useRef } from "./vendor/preact-htm.module.js";
import { Fault, hue, known, several, signed, useAnswer } from "./service.js";
import { firstTag } from "./person.js";

export const MODELS = {
  main: "Enhanced BERT4Rec", vanilla: "Vanilla BERT4Rec", popularity: "Most popular",
};
const FULL = 2;  // an effect that fills a bar; the same on the whole page

const LEGEND = () => `Bars: the part of a ${known.noun}'s log-probability that is due to one ${known.noun} `
  + `of the history; for anything else, what is lost without it. A full bar is ${FULL} or more. `
  + `Effects below 0.1 are not shown here. Click a ${known.noun} for all its reasons.`;

export function likeness({ like = [], more = 0 }) {
  if (!like.length) return "";
  const others = more ? ` and ${several(more).replace(" ", " more ")}` : "";
  return `like ${like.join(", ")}${others} that you ${known.verb}`;
}

// rows: [name, effect, what the name stands for].
export function Bars({ rows }) {
  return html`<ul class="bars">${rows.map(([name, effect, more], place) => html`<li key=${place}>
    <span class="name">${name}${more && html` <span class="more">${more}</span>`}</span>
    <span class="track" aria-hidden="true"><span class=${effect < 0 ? "against" : "for"}
      style=${{ width: `${Math.min(100, 100 * Math.abs(effect) / FULL)}%` }}></span></span>
    <span class="value">${signed(effect)}</span></li>`)}</ul>`;
}

function Tile({ item }) {
  const words = item.name.replace(/\(.*?\)/g, "").replace(/^(the|an?) /i, "").trim().split(/\s+/);
  const letters = words.slice(0, 2).map((word) => word.charAt(0).toUpperCase()).join("");
  return html`<span class="tile" style=${hue(firstTag(item))} aria-hidden="true">${letters}</span>`;
}

// Columns of an item: tags and categories in colour, then numbers.
function Columns({ item }) {
  const of = (kinds) => known.item_columns.filter(({ kind }) => kinds.includes(kind));
  const tags = of(["tags", "category"]).flatMap(({ name }) => item.columns[name] ?? []);
  const numbers = of(["number"]).filter(({ name }) => typeof item.columns[name] === "number");
  return html`${tags.map((tag) => html`<span class="chip" style=${hue(tag)}>${tag}</span>`)}
    ${numbers.map(({ name, label }) => html`<span title=${label}>${item.columns[name]}</span>`)}`;
}

function Expected({ values }) {
  return known.interaction_columns.filter(({ name }) => values?.[name] !== undefined)
    .map(({ name, label }) => {
      const value = values[name], text = typeof value === "number" ? value.toFixed(1) : value;
      return html`<span class="expected">expected ${label} <b>${text}</b></span>`;
    });
}

// How far an item has moved since the list before.
function Moved({ moved }) {
  if (moved === undefined || moved === 0) return null;
  if (moved === "new") return html`<span class="moved up">new</span>`;
  const words = moved > 0 ? `${moved} up` : `${-moved} down`;
  return html`<span class=${`moved ${moved > 0 ? "up" : "down"}`} title=${`${words} since the list before`}>
    ${moved > 0 ? "↑" : "↓"}${Math.abs(moved)}</span>`;
}

function Reasons({ why, waiting }) {
  if (!why) return waiting && html`<div class="bars blank" aria-hidden="true"></div>`;
  if (!why.reasons.length) return html`<p class="note">${why.sentence}</p>`;
  return html`<${Bars} rows=${why.reasons.map((one) => [one.name, one.effect, likeness(one)])} />`;
}

function Card({ item, why, waiting, moved, shared, chosen, onOpen }) {
  return html`<article class=${`card item ${shared > 0 ? "shared" : ""}`}>
    <div class="head"><span class="rank">${item.rank}</span><${Tile} item=${item} />
      <div class="what"><h3>${onOpen
          ? html`<button type="button" onClick=${onOpen} aria-label=${`Why ${item.name}?`}>${item.name}</button>`
          : item.name}</h3>
        <div class="chips"><${Columns} item=${item} /><${Expected} values=${item.values} />
          <${Moved} moved=${moved} />
          ${chosen && html`<span class="mark">chosen next</span>`}
          ${shared > 0 && html`<span class="mark">on ${shared} lists</span>`}</div></div></div>
    ${item.note && html`<p class="note">${item.note}</p>`}
    <${Reasons} why=${why} waiting=${waiting} /></article>`;
}

// What a user of the data chose next.
function Chosen({ chosen }) {
  const { place, place_by_next: next } = chosen;
  const number = (value) => value.toLocaleString("en");
  let words = place ? `place ${number(place)} of the list` : "the filters leave it out";
  if (next && next !== place) words += `; place ${number(next)} by what comes next`;
  return html`<p class="chosen" data-testid="chosen">${"Chosen next: "}<b>${chosen.name}</b>${`, ${words}.`}</p>`;
}

// The moves of items between two lists for the same user.
function useMoves(items, who) {
  const lists = useRef({});
  const ids = items.map(({ id }) => id), now = JSON.stringify(ids);
  if (items.length && lists.current.now !== now) {
    const old = lists.current.who === who ? JSON.parse(lists.current.now) : null;
    lists.current = { who, now, old };
  }
  const old = lists.current.old;
  return Object.fromEntries(ids.map((id, place) => [id,
    !old ? undefined : old.includes(id) ? old.indexOf(id) - place : "new"]));
}

export function List({ name, wish, among, state, titled, onOpen, onList, shared }) {
  const main = name === "main";
  // How to choose a list is asked of the served model alone.
  const own = main ? {} : { rank_by: "next", diversity: 0, prefer_expected: null };
  const answer = useAnswer("/recommend", wish && { ...wish, ...own, model: name });
  const { content, waiting } = answer;
  const items = answer.error ? [] : content?.recommendations ?? [];
  const explained = useAnswer("/explain", main && items.length && !waiting
    ? { ...among, item_ids: items.map(({ id }) => id) } : undefined);
  const reasons = Object.fromEntries((explained.content?.explanations ?? []).map((why) => [why.id, why]));
  const moves = useMoves(items, `${state.kind}-${state.kind === "user" ? state.user : ""}`);
  onList(name, items.map(({ id }) => id));
  const few = content && items.length < wish.k && !answer.error;
  return html`<section aria-label=${MODELS[name]} aria-busy=${waiting}>
    ${titled && html`<h2>${MODELS[name]}</h2>`}
    ${answer.error && html`<${Fault} answer=${answer} />`}
    <p class="unseen" role="status">${waiting ? "looking for recommendations"
      : items.length > 0 && `${several(items.length)} recommended, first ${items[0].name}`}</p>
    ${content?.chosen && !answer.error && html`<${Chosen} chosen=${content.chosen} />`}
    ${few && html`<p class="note">${items.length
      ? `Fewer than ${wish.k} such ${known.nouns} are left.` : `No such ${known.noun} is left.`}</p>`}
    ${content?.note && html`<p class="note">${content.note}</p>`}
    ${explained.error && html`<${Fault} answer=${explained} />`}
    <div class=${`cards ${waiting ? "old" : ""}`} data-testid=${`items-${name}`}>
      ${waiting && !items.length && [1, 2, 3, 4].map((place) => html`<div key=${place} class="card blank"></div>`)}
      ${items.map((item) => html`<${Card} key=${item.id} item=${item} moved=${moves[item.id]}
        why=${explained.waiting ? undefined : reasons[item.id]} waiting=${main && explained.waiting}
        shared=${titled ? shared(item.id) : 0} chosen=${content.chosen?.id === item.id}
        onOpen=${main && (() => onOpen(item))} />`)}</div>
    ${main && items.length > 0 && html`<p class="note">${LEGEND()}</p>`}</section>`;
}
