// Shows an answer: bars, heat map, times. Every number of the answer stands whole in the `value` of its element, rounded in its text.

const MOST_BARS = 8;
const MOST_COLUMNS = 200;

const STAGES = {
  preprocess: 'Decoding, resizing, tokenizing',
  queue: 'Waiting for a place in a batch',
  inference: 'The encoders',
  rest: 'The network, the browser and the rest',
};

// An element with its properties and children.
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function showBars(place, { probs }, pictures, texts) {
  place.replaceChildren(...probs.map((shares, row) => cardOf(pictures[row], shares, texts)));
  if (texts.length === 1) {
    place.append(element('p', { className: 'note' }, 'A single text has everything. Type more, to see which one is chosen.'));
  }
}

function cardOf(picture, shares, texts) {
  const ranked = shares.map((share, column) => ({ share, text: texts[column] })).sort((a, b) => b.share - a.share);
  const bars = ranked.slice(0, MOST_BARS).map(({ share, text }) => barOf(text, share, percent(share)));
  const list = element('ol', { className: 'bars' }, ...bars);
  const others = ranked.slice(MOST_BARS);
  if (others.length) {
    const together = others.reduce((sum, { share }) => sum + share, 0);
    list.append(element('li', { className: 'note' }, `${others.length} more, together ${percent(together)}`));
  }
  const image = element('img', { src: picture.url, alt: '', width: 72, height: 72 });
  return element('article', { className: 'card' }, image, element('div', {}, element('h3', {}, picture.name), list));
}

// A bar as long as `share` (0 to 1) says, which those who do not see it are told by `shown`.
function barOf(text, share, shown) {
  const bar = element('span', { className: 'bar', ariaHidden: 'true' });
  bar.style.setProperty('--share', share);
  return element('li', {}, element('span', { className: 'name' }, text), bar, element('data', { value: String(share) }, shown));
}

export function showHeat(place, { logits_per_image: logits }, pictures, texts) {
  const all = logits.flat();
  const low = all.reduce((a, b) => Math.min(a, b));
  const high = all.reduce((a, b) => Math.max(a, b));
  const shown = texts.slice(0, MOST_COLUMNS);
  const head = element('tr', {}, element('td'), ...shown.map((text) => element('th', { scope: 'col' }, text)));
  const rows = logits.map((row, index) => {
    const { name, url } = pictures[index];
    const image = element('img', { src: url, alt: '', width: 32, height: 32 });
    const cells = row.slice(0, MOST_COLUMNS).map((logit) => {
      const cell = element('td', {}, element('data', { value: String(logit) }, logit.toFixed(2)));
      cell.style.setProperty('--heat', high > low ? (logit - low) / (high - low) : 1);
      return cell;
    });
    return element('tr', {}, element('th', { scope: 'row' }, image, element('span', {}, name)), ...cells);
  });
  const caption = shown.length < texts.length ? `The first ${MOST_COLUMNS} of ${texts.length} texts.` : '';
  const table = element('table', {}, element('caption', {}, caption), element('thead', {}, head), element('tbody', {}, ...rows));
  place.replaceChildren(table);
}

// `header` is the answer's server-timing, `total` what the whole took from here, both in milliseconds.
export function showTimes(place, header, total) {
  const stages = (header ?? '').split(',').map((stage) => /^\s*(\w+);dur=([\d.]+)/.exec(stage)).filter(Boolean);
  const times = stages.map(([, name, duration]) => [name, Number(duration)]);
  times.push(['rest', Math.max(0, total - times.reduce((sum, [, time]) => sum + time, 0))]);
  const whole = times.reduce((sum, [, time]) => sum + time, 0) || 1;
  const bars = times.map(([name, time]) => {
    const bar = barOf(STAGES[name] ?? name, time / whole, `${time.toFixed(1)} ms`);
    bar.querySelector('data').value = String(time);
    return bar;
  });
  const sum = element('p', { className: 'note' }, `${total.toFixed(1)} ms in all, as seen from here.`);
  place.replaceChildren(element('ul', { className: 'bars' }, ...bars), sum);
}

function percent(share) {
  return share > 0 && share < 0.0005 ? '< 0.1 %' : `${(share * 100).toFixed(1)} %`;
}
