// Asks the service, and says in words what it refused. Nothing here knows of the page's elements.

const KEY = 'clipserve.key';

// Also without storage, which a browser may forbid: then the key lives as long as the page.
let key = '';
try {
  key = sessionStorage.getItem(KEY) ?? '';
} catch {}

const WORDS = {
  0: 'The service does not answer. Is it still running, and is there a network?',
  401: 'That is not the key of this service.',
  404: 'The service has no such route. Is it of another version than this page?',
  408: 'The pictures came too slowly.',
  413: 'That is too much for one request.',
  415: 'That is no kind of picture that the service reads.',
  429: 'The service is busy.',
  500: 'The service failed at this. That is its fault, not yours.',
  501: 'The model that is served cannot do this.',
  504: 'The service took longer than it may.',
};
const WORDS_BY_CODE = {
  invalid_image: 'A picture cannot be read.',
  invalid_text: 'A text cannot be taken.',
  not_ready: 'The model is still loading.',
  shutting_down: 'The service is shutting down.',
  out_of_memory: 'The service is short of memory.',
};

// What the service refused: `message` is ours, `detail` its own, `index` of the item, `after` milliseconds to come back in.
export class Refusal extends Error {
  constructor({ status = 0, code = '', detail = '', index = null, after = 1000, id = '' }) {
    super(WORDS_BY_CODE[code] ?? WORDS[status] ?? `The service answered with status ${status}.`);
    Object.assign(this, { status, code, detail, index, after, id });
  }
}

export function address(path) {
  return new URL(path, document.baseURI).href;
}

export function hasKey() {
  return key !== '';
}

// Of printable ASCII without blanks, as every key is; false where it is not.
export function useKey(value) {
  if (!/^[\x21-\x7e]*$/.test(value)) return false;
  key = value;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {}
  return true;
}

// The answer of `path`, which is a good one; else throws a Refusal, or an AbortError where `signal` says so.
export async function ask(path, { method = 'GET', body, signal } = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(address(path), { method, body, signal, headers, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal({});
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status, headers } = response;
  // Something between us and the service may have answered, in its own way.
  const { error = {} } = await response.json().catch(() => ({}));
  const after = Number(headers.get('retry-after-ms')) || Number(headers.get('retry-after')) * 1000 || 1000;
  const { code, message: detail, index } = error;
  return new Refusal({ status, code, detail, index, after, id: headers.get('x-request-id') ?? '' });
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, milliseconds);
    signal?.addEventListener('abort', () => reject(signal.reason));
  });
}
