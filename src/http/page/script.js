// The page: what is chosen and typed, when the service is asked, and what is said meanwhile.

import { curlOf } from './curl.js';
import { element, showBars, showHeat, showTimes } from './results.js';
import { Refusal, ask, hasKey, pause, useKey } from './service.js';

const MOST_TRIES = 4;
const POLL = 1000;

const at = Object.fromEntries([...document.querySelectorAll('[id]')].map((found) => [found.id, found]));
const examples = [...document.querySelectorAll('.example')];

// { name, blob, url, example }: the address is one of this tab's own, for showing the picture.
let pictures = [];
// What /info says, once the model is there.
let info = null;
// Ends the request that is under way, for the next one.
let running = new AbortController();

// ---- what runs, the key, the model that loads ----

let meeting = null;

// One at a time, however often it is asked for.
function meet() {
  meeting ??= learn().finally(() => { meeting = null; });
  return meeting;
}

async function learn() {
  for (;;) {
    try {
      info = await (await ask('info')).json();
      at.model.textContent = describe(info);
      at['key-form'].hidden = true;
      if (info.model.towers.length < 2) {
        fail(new Refusal({ status: 501, detail: 'a comparison takes an encoder of pictures and one of texts, and it has not both' }));
      }
      return;
    } catch (error) {
      if (error.status === 401) return wantKey();
      at.model.textContent = error.status === 503 ? `${error.message} This page goes on by itself.` : error.message;
      if (error.status !== 503 && error.status !== 0) return;
      await ready();
    }
  }
}

// When /readyz says so; it needs no key and counts as no refusal.
async function ready() {
  for (;;) {
    await pause(POLL);
    if (await ask('readyz').then(() => true, () => false)) return;
  }
}

function describe({ model, provider, precision, versions }) {
  const parts = [model.name, `on ${provider}`, `in ${precision}`];
  if (model.dim) parts.push(`${model.dim} dimensions`);
  return `${parts.join(', ')} · clipserve ${versions.clipserve}`;
}

function wantKey() {
  if (hasKey()) fail(new Refusal({ status: 401 }));
  useKey('');
  at.model.textContent = 'Nothing is known of the model without the key.';
  at['key-form'].hidden = false;
  at.key.focus();
}

at['key-form'].addEventListener('submit', (event) => {
  event.preventDefault();
  clear();
  const typed = at.key.value.trim();
  at.key.value = '';
  if (useKey(typed)) {
    meet();
  } else {
    fail(new Refusal({ status: 401, detail: 'a key has printable ASCII characters and no blanks' }));
  }
});

// ---- pictures ----

function add(files) {
  clear();
  const chosen = [...files];
  // A browser does not know every kind; what it does not know the service is asked.
  const strange = chosen.filter(({ type }) => type && !type.startsWith('image/'));
  if (strange.length) fail(new Error(`No picture: ${strange.map(({ name }) => name).join(', ')}`));
  for (const blob of chosen.filter((file) => !strange.includes(file))) keep({ name: blob.name || 'pasted.png', blob });
}

function keep({ name, blob, example = false }) {
  pictures.push({ name, blob, example, url: URL.createObjectURL(blob) });
  showPictures();
}

function showPictures() {
  at.pictures.replaceChildren(...pictures.map((picture, index) => {
    const remove = element('button', { type: 'button', className: 'remove', ariaLabel: `Remove ${picture.name}`, title: 'Remove' }, '×');
    remove.addEventListener('click', () => {
      pictures = pictures.filter((other) => other !== picture);
      showPictures();
      // The focus was on what is gone.
      (at.pictures.querySelectorAll('.remove')[Math.min(index, pictures.length - 1)] ?? at.files).focus();
    });
    const image = element('img', { src: picture.url, alt: '', width: 72, height: 72 });
    return element('li', { className: 'picture' }, image, element('span', { className: 'name' }, picture.name), remove);
  }));
}

at.files.addEventListener('change', () => {
  add(at.files.files);
  // So that the same one can be chosen again.
  at.files.value = '';
});

document.addEventListener('paste', (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  add(event.clipboardData.files);
});

for (const kind of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    document.body.classList.toggle('dragging', kind === 'dragover');
    if (kind === 'drop') add(event.dataTransfer.files);
  });
}

for (const button of examples) {
  button.addEventListener('click', async () => {
    clear();
    const image = button.querySelector('img');
    const name = image.src.split('/').pop();
    if (!texts().length) at.texts.value = examples.map(({ textContent }) => textContent).join('\n');
    try {
      if (!pictures.some((picture) => picture.example && picture.name === name)) {
        const blob = await (await ask(`page/${name}`)).blob();
        keep({ name, blob, example: true });
      }
      await compare();
    } catch (error) {
      fail(error);
    }
  });
}

// ---- comparing ----

function texts() {
  return at.texts.value.split('\n').map((text) => text.trim()).filter(Boolean);
}

// What is wrong with the request before it is sent, with the element where it is mended.
function lack(typed) {
  const bytes = pictures.reduce((sum, { blob }) => sum + blob.size, 0);
  if (!pictures.length) return ['Choose a picture first.', at.files];
  if (!typed.length) return ['Type a text first.', at.texts];
  const { max_images, max_texts, max_body_bytes } = info?.limits ?? {};
  const over = (count, what, limit) => `There are ${count} ${what}, and the service takes ${limit} at a time.`;
  if (pictures.length > max_images) return [over(pictures.length, 'pictures', max_images), at.files];
  if (typed.length > max_texts) return [over(typed.length, 'texts', max_texts), at.texts];
  if (bytes > max_body_bytes) return [over(bytes, 'bytes of pictures', max_body_bytes), at.files];
  return null;
}

async function compare() {
  clear();
  const [asked, typed] = [[...pictures], texts()];
  const missing = lack(typed);
  if (missing) {
    fail(new Error(missing[0]));
    missing[1].focus();
    return;
  }
  running.abort();
  running = new AbortController();
  const { signal } = running;
  at.status.textContent = 'Comparing …';
  try {
    const { answer, timing, took } = await send(asked, typed, signal);
    at.scale.textContent = answer.logit_scale;
    showBars(at.bars, answer, asked, typed);
    showHeat(at.heat, answer, asked, typed);
    showTimes(at.times, timing, took);
    at.curl.textContent = curlOf(asked, typed);
    at.results.hidden = false;
    at.status.textContent = `Compared: pictures ${asked.length}, texts ${typed.length}, ${took.toFixed(0)} ms.`;
  } catch (error) {
    if (error.name === 'AbortError') return;
    at.status.textContent = '';
    fail(error, asked);
    if (error.status === 401) wantKey();
    if (error.status === 503) meet();
  }
}

async function send(asked, typed, signal) {
  const body = new FormData();
  for (const { blob, name } of asked) body.append('image', blob, name);
  for (const text of typed) body.append('text', text);
  for (let tries = 1; ; tries += 1) {
    const started = performance.now();
    try {
      const response = await ask('similarity', { method: 'POST', body, signal });
      const answer = await response.json();
      return { answer, timing: response.headers.get('server-timing'), took: performance.now() - started };
    } catch (error) {
      if (error.status !== 429 || tries === MOST_TRIES) throw error;
      at.status.textContent = `${error.message} Asking again in ${(error.after / 1000).toFixed(1)} s …`;
      await pause(error.after, signal);
    }
  }
}

at.inputs.addEventListener('submit', (event) => {
  event.preventDefault();
  compare();
});

at.texts.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) at.inputs.requestSubmit();
});

at.copy.addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(at.curl.textContent);
    at.status.textContent = 'Copied.';
  } catch {
    // Only pages of a secure origin may copy by themselves.
    getSelection().selectAllChildren(at.curl);
    at.status.textContent = 'Selected: copy it with the keyboard or the menu.';
  }
});

// ---- what went wrong ----

function fail(error, asked = []) {
  const { message, detail, index, code, status, id } = error;
  const item = code === 'invalid_text' ? `Text ${index + 1}` : `Picture ${index + 1} (${asked[index]?.name})`;
  const where = Number.isInteger(index) ? `${item}: ` : '';
  at.error.replaceChildren(element('strong', {}, message));
  if (detail) at.error.append(element('p', {}, where + detail));
  if (status >= 500 && id) at.error.append(element('p', { className: 'note' }, `Request id ${id}`));
  at.error.hidden = false;
  if (where && code !== 'invalid_text') at.pictures.children[index]?.classList.add('bad');
}

function clear() {
  at.error.hidden = true;
  at.error.replaceChildren();
  at.pictures.querySelectorAll('.bad').forEach((bad) => bad.classList.remove('bad'));
}

meet();
