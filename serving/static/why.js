// All that speaks for and against one item, in a dialog.
import { html, useEffect, useRef } from "./vendor/preact-htm.module.js";
import { Fault, capital, known, signed, useAnswer } from "./service.js";
import { Bars } from "./list.js";

const SHOWN = 15;  // items of the history

function withRanks(name, places) {
  return places ? `${name} (${places > 0 ? "+" : "\u2212"}${Math.abs(places)})` : name;
}

const rowsOf = (entries, name) =>
  entries.map((entry) => [withRanks(entry[name], entry.places), entry.effect]);

function Without({ without }) {
  if (!without) return html`<p>It stays even without any ${known.noun} of the history.</p>`;
  if (!without.length) return html`<p>By what comes next it is not among the first ten.</p>`;
  return html`<p>A history without:</p><ul>${without.slice(0, SHOWN).map((item) =>
      html`<li key=${item.id}>${item.name}</li>`)}
    ${without.length > SHOWN && html`<li>${without.length - SHOWN} more</li>`}</ul>`;
}

function Details({ why }) {
  const strongest = [...why.history].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
  const shown = strongest.slice(0, SHOWN);
  const others = why.what_if.as_another ?? [];
  const labels = Object.fromEntries(known.user_columns.map(({ name, label }) => [name, capital(label)]));
  return html`<p>${why.sentence}</p>
    <p class="note">Rank ${why.rank} by what comes next, log-probability ${signed(why.log_probability)}.
      In parentheses: by how many ranks it falls without this alone.</p>
    ${shown.length > 0 && html`<h3>${capital(known.nouns)} of the history
        ${strongest.length > SHOWN && ` (the ${SHOWN} strongest of ${strongest.length})`}</h3>
      <${Bars} rows=${rowsOf(shown, "name")} />`}
    ${why.features.length > 0 && html`<h3>What else is known</h3>
      <${Bars} rows=${rowsOf(why.features, "label")} />`}
    <h3>What would take it off the list</h3><${Without} without=${why.what_if.without} />
    ${others.length > 0 && html`<h3>Its rank for somebody else with this history</h3>
      <table><tbody>${others.map((other) => html`<tr key=${other.column + other.value}>
        <th scope="row">${labels[other.column]}: ${other.title}</th><td>${other.rank}</td></tr>`)}
      </tbody></table>`}`;
}

export function Why({ item, among, onClose }) {
  const dialog = useRef();
  const answer = useAnswer("/explain", { ...among, item_ids: [item.id], k: 10 });
  useEffect(() => {
    dialog.current.showModal();
    dialog.current.querySelector(".body").focus();
  }, []);
  const why = answer.content?.explanations[0];
  const outside = (event) => event.target === dialog.current && dialog.current.close();
  return html`<dialog ref=${dialog} class="why" aria-labelledby="why-title" onClose=${onClose} onClick=${outside}>
    <div class="title"><h2 id="why-title">Why ${item.name}?</h2>
      <button type="button" class="icon" aria-label="Close" onClick=${() => dialog.current.close()}>×</button></div>
    <div class="body" tabindex="0" aria-busy=${!why && !answer.error}>
      ${answer.error && html`<${Fault} answer=${answer} />`}
      <p class="note" role="status">${!why && !answer.error && "looking for reasons …"}</p>
      ${why && html`<${Details} why=${why} />`}</div></dialog>`;
}
