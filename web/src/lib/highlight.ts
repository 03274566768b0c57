/**
 * Just enough colour for code: comments, strings, numbers and the words most languages share. The answer is escaped
 * HTML with `<span class="tok-…">` around the pieces.
 */
const WORDS = new Set(
  ('as async await break case catch class const continue def default do elif else enum except export extends false finally fn for ' +
    'from func function if impl import in interface is let loop match mod mut new nil none not null or and package pass pub raise ' +
    'return self static struct super switch this throw trait true try type undefined use var void where while with yield select ' +
    'insert update delete into values create table then fi done esac echo').split(' '),
);
const HASH_COMMENT = new Set(['bash', 'sh', 'shell', 'zsh', 'python', 'py', 'ruby', 'rb', 'yaml', 'yml', 'toml', 'dockerfile', 'make', 'ini', 'conf']);
const PLAIN = new Set(['', 'text', 'txt', 'plain', 'markdown', 'md', 'log', 'output', 'console', 'diff', 'patch']);
/** Longer code is left uncoloured, characters. */
const CODE_MAX = 40_000;

const escape = (text: string) => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
const span = (kind: string, text: string) => `<span class="tok-${kind}">${escape(text)}</span>`;

export function highlight(code: string, language: string): string {
  if (language === 'diff' || language === 'patch') return highlightDiff(code);
  if (PLAIN.has(language) || code.length > CODE_MAX) return escape(code);
  const comment = HASH_COMMENT.has(language) ? '#[^\\n]*' : language === 'sql' || language === 'lua' ? '--[^\\n]*' : '\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)';
  const pattern = new RegExp(
    `(${comment})|("(?:\\\\.|[^"\\\\\\n])*"|'(?:\\\\.|[^'\\\\\\n])*'|\`(?:\\\\.|[^\`\\\\])*\`)|(\\b\\d[\\w.]*\\b)|([A-Za-z_$][\\w$]*)`,
    'g',
  );
  let out = '';
  let at = 0;
  for (const match of code.matchAll(pattern)) {
    out += escape(code.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[1]) out += span('comment', match[0]);
    else if (match[2]) out += span('string', match[0]);
    else if (match[3]) out += span('number', match[0]);
    else if (WORDS.has(match[0].toLowerCase()) && language !== 'json') out += span('word', match[0]);
    else if (code[at] === '(') out += span('call', match[0]);
    else out += escape(match[0]);
  }
  return out + escape(code.slice(at));
}

function highlightDiff(code: string): string {
  return code
    .split('\n')
    .map((line) => (line.startsWith('+') ? span('add', line) : line.startsWith('-') ? span('remove', line) : escape(line)))
    .join('\n');
}
