/** The page's address: `#/chat/<session key>`, `#/sessions`, ... Hash routes need nothing from the server. */

export const VIEWS = ['chat', 'sessions', 'agents', 'farm', 'cron', 'devices', 'status'] as const;
export type View = (typeof VIEWS)[number];

class Router {
  view = $state<View>('chat');
  /** What follows the view, decoded; empty when nothing does. */
  detail = $state('');

  constructor() {
    this.#read();
    addEventListener('hashchange', () => this.#read());
  }

  go(view: View, detail = ''): void {
    location.hash = href(view, detail);
  }

  /** Changes the address without a new entry in the browser's history. */
  replace(view: View, detail = ''): void {
    history.replaceState(null, '', href(view, detail));
    this.#read();
  }

  #read(): void {
    const [, view = '', ...rest] = location.hash.replace(/^#/, '').split('?')[0]?.split('/') ?? [];
    this.view = VIEWS.find((known) => known === view) ?? 'chat';
    try {
      this.detail = decodeURIComponent(rest.join('/'));
    } catch {
      this.detail = '';
    }
  }
}

export function href(view: View, detail = ''): string {
  return detail ? `#/${view}/${encodeURIComponent(detail)}` : `#/${view}`;
}

export const router = new Router();
