/**
 * A model's text to safe HTML. Two walls: raw HTML in the text is shown as text, never parsed; and whatever comes out
 * passes DOMPurify with a short list of allowed elements. Images become links, so that an answer cannot make this
 * page call a foreign host.
 */
import DOMPurify from 'dompurify';
import { Marked, type Token, type Tokens } from 'marked';
import { highlight } from './highlight';

/** Rendered blocks kept for reuse; the oldest goes first. */
const CACHE_MAX = 800;
/** A block longer than this is shown as plain text: parsing it would stall the page. Characters. */
const BLOCK_MAX = 200_000;

const ALLOWED_TAGS = [
  'a', 'blockquote', 'br', 'button', 'code', 'del', 'div', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'input', 'li', 'ol', 'p',
  'pre', 'span', 'strong', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul',
];
const ALLOWED_ATTR = ['align', 'checked', 'class', 'data-copy', 'disabled', 'href', 'rel', 'start', 'target', 'title', 'type', 'tabindex'];

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escapeHtml(text),
    image: ({ href, text }) => link(href, `🖼 ${escapeHtml(text || href)}`),
    link({ href, tokens }) {
      return link(href, this.parser.parseInline(tokens));
    },
    code({ text, lang }) {
      const name = (lang ?? '').split(/\s+/)[0]?.toLowerCase() ?? '';
      return (
        `<div class="code"><div class="code-head"><span>${escapeHtml(name || 'text')}</span>` +
        `<button type="button" class="code-copy" data-copy="1">Copy</button></div>` +
        `<pre tabindex="0"><code>${highlight(text, name)}</code></pre></div>`
      );
    },
    table(token) {
      return `<div class="table-scroll" tabindex="0">${renderTable(token, (cell) => this.parser.parseInline(cell.tokens))}</div>`;
    },
  },
});

function renderTable(token: Tokens.Table, inline: (cell: Tokens.TableCell) => string): string {
  const cell = (tag: string, c: Tokens.TableCell) => `<${tag}${c.align ? ` align="${c.align}"` : ''}>${inline(c)}</${tag}>`;
  const head = token.header.map((c) => cell('th', c)).join('');
  const body = token.rows.map((row) => `<tr>${row.map((c) => cell('td', c)).join('')}</tr>`).join('');
  return `<table><thead><tr>${head}</tr></thead><tbody>${body}</tbody></table>`;
}

function link(href: string, inner: string): string {
  if (!/^(https?:|mailto:)/i.test(href.trim())) return inner;
  return `<a href="${escapeHtml(href.trim())}" target="_blank" rel="noopener noreferrer nofollow">${inner}</a>`;
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

export function sanitize(html: string): string {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS,
    ALLOWED_ATTR,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    // DOMPurify holds every value against the pattern below; only `href` is an address.
    ADD_URI_SAFE_ATTR: ALLOWED_ATTR.filter((name) => name !== 'href'),
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  });
}

const cache = new Map<string, string>();

/**
 * The text as a list of safe HTML blocks. While an answer grows only its last block changes, so the earlier ones
 * keep their place in the page, with selection and all.
 */
export function renderBlocks(text: string): string[] {
  if (text.length > BLOCK_MAX) return [`<pre>${escapeHtml(text)}</pre>`];
  const tokens = marked.lexer(text);
  const cacheable = Object.keys(tokens.links).length === 0;
  const blocks: string[] = [];
  for (const token of tokens) {
    if (token.type === 'space' || token.type === 'def') continue;
    blocks.push(cacheable ? cached(token) : sanitize(marked.parser([token])));
  }
  return blocks;
}

function cached(token: Token): string {
  const key = `${token.type}:${token.raw}`;
  const hit = cache.get(key);
  if (hit !== undefined) return hit;
  const html = sanitize(marked.parser([token]));
  if (cache.size >= CACHE_MAX) {
    const oldest = cache.keys().next();
    if (!oldest.done) cache.delete(oldest.value);
  }
  cache.set(key, html);
  return html;
}
