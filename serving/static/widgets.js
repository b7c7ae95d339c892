// Controls that HTML lacks: a search with suggestions, and values to choose from.
import { html, useRef, useState } from "./vendor/preact-htm.module.js";
import { hue } from "./service.js";

// find: text -> promise of [{value, text}]. Enter takes the first match of what is typed by then, also
// if its answer is still on the way.
export function Search({ id, label, placeholder, find, onChoose }) {
  const [open, setOpen] = useState(false), [found, setFound] = useState([]);
  const [active, setActive] = useState(0), [note, setNote] = useState("");
  const box = useRef(), text = useRef(""), wanted = useRef(null);

  function choose(option) {
    text.current = box.current.value = "";
    wanted.current = null;
    setOpen(false);
    setFound([]);
    onChoose(option);
    box.current.focus();
  }

  async function onInput() {
    const now = text.current = box.current.value;
    wanted.current = null;
    setNote("");
    if (!now.trim()) { setOpen(false); return setFound([]); }
    const options = await find(now).catch((error) => { setNote(error.message); return []; });
    if (now !== text.current) return;
    found.of = undefined;
    setFound(Object.assign(options, { of: now }));
    setActive(0);
    setOpen(options.length > 0);
    if (!options.length) setNote((old) => old || "nothing is called that");
    if (wanted.current === now && options.length) choose(options[0]);
  }

  function onKeyDown(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps && found.length) {
      event.preventDefault();
      setOpen(true);
      setActive((active + steps[event.key] + found.length) % found.length);
    } else if (event.key === "Escape") {
      setOpen(false);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (found.of === text.current && found[active]) choose(found[active]);
      else wanted.current = text.current;
    }
  }

  const list = `${id}-list`;
  return html`<div class="search">
    <label for=${id}>${label}</label>
    <input id=${id} ref=${box} type="text" role="combobox" autocomplete="off" spellcheck="false"
      placeholder=${placeholder} aria-expanded=${open} aria-controls=${list} aria-autocomplete="list"
      aria-activedescendant=${open ? `${list}-${active}` : undefined}
      onInput=${onInput} onKeyDown=${onKeyDown} onBlur=${() => setTimeout(() => setOpen(false), 150)} />
    <ul id=${list} role="listbox" aria-label=${label} hidden=${!open}>${found.map((option, place) => html`
      <li id=${`${list}-${place}`} role="option" aria-selected=${place === active} key=${option.text}
        onMouseDown=${(event) => { event.preventDefault(); choose(option); }}>${option.text}</li>`)}</ul>
    <p class="note" role="status">${note}</p></div>`;
}

const MOST_CHIPS = 24;

// Values of a column, any of which may be chosen.
export function Values({ id, label, options, chosen, onChange }) {
  const toggle = (value) => onChange(chosen.includes(value)
    ? chosen.filter((other) => other !== value) : [...chosen, value]);
  const few = options.length <= MOST_CHIPS;
  const titles = Object.fromEntries(options);
  const find = async (text) => options
    .filter(([value, title]) => !chosen.includes(value)
      && title.toLowerCase().includes(text.trim().toLowerCase()))
    .slice(0, 20).map(([value, title]) => ({ value, text: title }));
  const shown = few ? options : chosen.map((value) => [value, titles[value] ?? value]);
  return html`<div class="values" role="group" aria-label=${label}>
    ${few ? html`<span class="label">${label}</span>`
      : html`<${Search} id=${id} label=${label} placeholder="any" find=${find}
          onChoose=${({ value }) => toggle(value)} />`}
    <div class="chips">${shown.map(([value, title]) => html`
      <button type="button" class="chip" style=${hue(title)} aria-pressed=${chosen.includes(value)}
        onClick=${() => toggle(value)} key=${value}>${title}</button>`)}</div></div>`;
}

export function Select({ id, label, value, options, onChange }) {
  return html`<div class="field"><label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([key, text]) =>
        html`<option value=${key} selected=${key === value}>${text}</option>`)}</select></div>`;
}

export function Switch({ id, label, checked, onChange }) {
  return html`<label class="switch" for=${id}><input id=${id} type="checkbox" role="switch"
    checked=${checked} onChange=${({ target }) => onChange(target.checked)} />
    <span>${label}</span></label>`;
}
