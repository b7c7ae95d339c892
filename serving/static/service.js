// Questions to the service, and what its answers have in common.
import { html, useEffect, useState } from "./vendor/preact-htm.module.js";

export const known = {};  // what /health says: words, columns and users of the data

const TYPING = 120;  // milliseconds in which changes are one question
export const wide = matchMedia("(min-width: 992px)").matches;  // else panels are closed at first

export async function ask(path, body, signal) {
  const sent = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(`.${path}`, { signal, ...sent });
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error ?? `the service answers ${answer.status}`);
  return content;
}

// The newest answer to a question that changes. An older answer that comes late is dropped.
export function useAnswer(path, body) {
  const [state, setState] = useState({ waiting: Boolean(body) });
  const [tries, setTries] = useState(0);
  const key = body && JSON.stringify(body);
  useEffect(() => {
    if (!key) return setState({ waiting: false });
    const stop = new AbortController();
    setState((old) => ({ ...old, waiting: true, error: undefined }));
    const timer = setTimeout(() => {
      ask(path, JSON.parse(key), stop.signal).then(
        (content) => setState({ content, waiting: false }),
        (error) => error.name !== "AbortError" && setState({ error: error.message, waiting: false }));
    }, state.content ? TYPING : 0);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [path, key, tries]);
  return { ...state, retry: () => setTries(tries + 1) };
}

export function Fault({ answer }) {
  return html`<div class="fault" role="alert"><p>${answer.error}</p>
    <button type="button" class="button" onClick=${answer.retry}>Try again</button></div>`;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const several = (number) =>
  `${number.toLocaleString("en")} ${number === 1 ? known.noun : known.nouns}`;

export function signed(value) {
  const text = Math.abs(value).toFixed(2);
  if (text === "0.00") return text;
  return (value > 0 ? "+" : "\u2212") + text;
}

// A colour for a value, always the same.
export function hue(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 3600;
  return { "--hue": sum / 10 };
}
