/** Where this page was served from, and the secrets its address may carry. */

/**
 * The folder the page's files live in, with a trailing slash. Taken from this script's own address, so that it is
 * right under any `gateway.controlUi.basePath` and on any path the gateway answers with the page.
 */
export function baseFrom(scriptUrl: string, pageUrl: string): string {
  const script = new URL(scriptUrl);
  const at = script.pathname.lastIndexOf('/assets/');
  if (at >= 0) return `${script.origin}${script.pathname.slice(0, at + 1)}`;
  return new URL('.', pageUrl).href;
}

/** The gateway's socket address for a page served from `base`. */
export function socketUrl(base: string): string {
  const url = new URL(base);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.search = '';
  url.hash = '';
  return url.href;
}

export interface HashSecrets {
  token: string;
  /** Session key to open first, or empty. */
  session: string;
  /** The hash with the secret taken out. */
  rest: string;
}

/** Reads `#token=...` (also `#/route?token=...`) and says what the hash should become. */
export function secretsFromHash(hash: string): HashSecrets {
  const body = hash.replace(/^#/, '');
  const query = body.includes('?') ? body.slice(body.indexOf('?') + 1) : body.startsWith('/') ? '' : body;
  const route = body.includes('?') ? body.slice(0, body.indexOf('?')) : body.startsWith('/') ? body : '';
  const params = new URLSearchParams(query);
  const token = params.get('token') ?? params.get('password') ?? '';
  const session = params.get('session') ?? '';
  if (!token) return { token: '', session, rest: body };
  for (const name of ['token', 'password', 'session']) params.delete(name);
  const left = params.toString();
  return { token, session, rest: route + (left && route ? `?${left}` : '') };
}
