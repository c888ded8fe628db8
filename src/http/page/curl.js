// The command line that asks the same, for a POSIX shell.

import { address, hasKey } from './service.js';

export function curlOf(pictures, texts) {
  const examples = pictures.filter(({ example }) => example).map(({ name }) => word(address(`page/${name}`)));
  const lines = [`curl -sS ${word(address('similarity'))}`];
  if (hasKey()) lines.push('-H "authorization: Bearer $CLIPSERVE_API_KEY"');
  lines.push(...pictures.map(({ name }) => `-F ${word(`image=@${fileName(name)}`)}`));
  // Of -F, a text that begins with @ or < would be the name of a file.
  lines.push(...texts.map((text) => `--form-string ${word(`text=${text}`)}`));
  const fetched = examples.length ? `curl -sS --remote-name-all ${examples.join(' ')}\n` : '';
  return fetched + lines.join(' \\\n  ');
}

// As one word of the shell.
function word(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// As curl reads the name of a file: it goes on behind a comma or a semicolon only in quotes.
function fileName(name) {
  return /^[\w. -]+$/.test(name) ? name : `"${name.replace(/[\\"]/g, '\\$&')}"`;
}
