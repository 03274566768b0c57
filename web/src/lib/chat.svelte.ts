/** One session's conversation: stored messages, the run in flight, what waits to be sent. */
import type { App } from './app.svelte';
import { randomId } from './client';
import { GatewayError, messageOf } from './failure';
import { agentOfKey } from './format';
import { notices } from './notices.svelte';
import type { AgentEvent, ChatEvent, HistoryResult, SessionMessageEvent, TranscriptMessage } from './protocol';
import {
  entriesOf, entryOfRun, highestSeq, mergeMessages, newRun, onAgent, onChat, resumedRun, withoutRun, type Entry, type LiveRun,
} from './transcript';

/** Messages fetched at one time. */
const PAGE = 80;
/** Most bytes of history in one answer. */
const PAGE_BYTES = 262_144;
/** Messages that may wait for the gateway's echo. */
const PENDING_MAX = 50;

interface PendingInput {
  runId: string;
  text: string;
  at: number;
}

export class ChatStore {
  messages = $state.raw<TranscriptMessage[]>([]);
  live = $state.raw<LiveRun | null>(null);
  pending = $state.raw<PendingInput[]>([]);
  /** Runs that failed before anything was stored, shown at the end until the next message. */
  failure = $state('');
  loaded = $state(false);
  loading = $state(false);
  error = $state('');
  hasMore = $state(false);
  total = $state(0);
  draft = $state('');

  // Stored turns do not depend on the words that stream in, so a long history is not grouped anew for each of them.
  readonly #baseSeq = $derived(this.live?.baseSeq ?? null);
  readonly #stored = $derived(entriesOf(withoutRun(this.messages, this.#baseSeq)));
  readonly entries: Entry[] = $derived.by(() => {
    const entries = [...this.#stored];
    for (const input of this.pending) {
      entries.push({ kind: 'user', id: `pending:${input.runId}`, text: input.text, at: input.at, pending: true, attachments: [], from: '' });
    }
    if (this.live) entries.push(entryOfRun(this.live));
    return entries;
  });

  readonly running = $derived(this.live?.state === 'running');

  readonly key: string;
  readonly #app: App;
  #sessionId = '';
  #nextOffset: number | null = null;
  #subscribed = '';
  #loadTicket = 0;

  constructor(app: App, key: string) {
    this.#app = app;
    this.key = key;
  }

  /** Fetches the newest page if that has not happened yet. */
  open(): void {
    if (!this.loaded && !this.loading) void this.load();
  }

  /** After a reconnect or lost events: subscribe again and compare with the store. */
  resync(): void {
    this.#subscribed = '';
    if (this.loaded || this.error) void this.load();
  }

  /** Forgets everything shown and fetches anew: the session was reset. */
  reload(): void {
    this.messages = [];
    this.live = null;
    this.pending = [];
    this.failure = '';
    void this.load();
  }

  async load(): Promise<void> {
    if (!this.#app.ready) return;
    const ticket = ++this.#loadTicket;
    this.loading = true;
    try {
      void this.#subscribe();
      const page = await this.#app.request<HistoryResult>('chat.history', { sessionKey: this.key, limit: PAGE, maxBytes: PAGE_BYTES });
      if (ticket !== this.#loadTicket) return;
      this.#takeNewest(page);
      this.error = '';
      this.loaded = true;
    } catch (error) {
      if (ticket !== this.#loadTicket) return;
      this.error = messageOf(error);
    } finally {
      if (ticket === this.#loadTicket) this.loading = false;
    }
  }

  async loadOlder(): Promise<void> {
    if (!this.hasMore || this.loading || this.#nextOffset === null) return;
    this.loading = true;
    try {
      const page = await this.#app.request<HistoryResult>('chat.history', {
        sessionKey: this.key, limit: PAGE, maxBytes: PAGE_BYTES, offset: this.#nextOffset,
      });
      const before = this.messages.length;
      this.messages = mergeMessages(page.messages, this.messages);
      this.#nextOffset = page.nextOffset ?? null;
      this.hasMore = (page.hasMore ?? false) && this.#nextOffset !== null && this.messages.length > before;
    } catch (error) {
      notices.say(messageOf(error), 'bad');
    } finally {
      this.loading = false;
    }
  }

  /** Sends the text; the run's id is also the key under which a repeat is the same message. */
  async send(text: string): Promise<boolean> {
    if (this.pending.length >= PENDING_MAX) {
      notices.say('Too many messages are waiting to be sent.', 'bad');
      return false;
    }
    const runId = randomId();
    this.failure = '';
    this.pending = [...this.pending, { runId, text, at: Date.now() }];
    if (!this.live || this.live.state !== 'running') this.live = newRun(runId, highestSeq(this.messages), Date.now());
    try {
      await this.#app.request('chat.send', {
        sessionKey: this.key, message: text, deliver: false, idempotencyKey: runId, ...(this.#sessionId ? { sessionId: this.#sessionId } : {}),
      });
      return true;
    } catch (error) {
      this.pending = this.pending.filter((input) => input.runId !== runId);
      if (this.live?.runId === runId) this.live = null;
      const lost = error instanceof GatewayError && (error.code === 'DISCONNECTED' || error.code === 'TIMEOUT');
      notices.say(lost ? `${messageOf(error)} Your message may have been received; the history will show it.` : messageOf(error), 'bad');
      return false;
    }
  }

  async abort(): Promise<void> {
    const runId = this.live?.runId;
    await notices.attempt(() => this.#app.request('chat.abort', { sessionKey: this.key, ...(runId ? { runId } : {}) }));
  }

  onChat(event: ChatEvent): void {
    if (event.state === 'error' && !this.live) {
      // Often the second report of a failure that is shown already; the later one is written for people.
      if (this.messages.at(-1)?.stopReason !== 'error') this.failure = event.errorMessage ?? this.failure;
      return;
    }
    const run = this.#runFor(event.runId, event.state === 'status' || event.state === 'delta');
    if (!run) return;
    const next = onChat(run, event);
    this.live = next;
    if (next.state !== 'running') void this.#settle(next);
  }

  onAgent(event: AgentEvent): void {
    const starts = event.stream === 'tool' || event.stream === 'thinking' || (event.stream === 'lifecycle' && event.data.phase === 'start');
    const run = this.#runFor(event.runId, starts);
    if (run && run.state === 'running') this.live = onAgent(run, event);
  }

  onMessage(event: SessionMessageEvent): void {
    this.#sawUser(event.message);
    if (this.loaded) this.messages = mergeMessages(this.messages, [event.message]);
  }

  close(): void {
    if (this.#subscribed && this.#app.ready) {
      this.#app.request('sessions.messages.unsubscribe', { key: this.key }).catch(() => undefined);
    }
  }

  /** The live run with this id. A run started elsewhere is taken up when none is in flight here. */
  #runFor(runId: string, begins: boolean): LiveRun | null {
    if (this.live?.runId === runId) return this.live;
    if (this.live?.state === 'running' && this.live.blocks.length > 0) return null;
    if (!begins) return null;
    return newRun(runId, highestSeq(this.messages), Date.now());
  }

  /** A run ended: once the store has its messages they take its place. */
  async #settle(run: LiveRun): Promise<void> {
    try {
      const page = await this.#app.request<HistoryResult>('chat.history', { sessionKey: this.key, limit: PAGE, maxBytes: PAGE_BYTES });
      if (this.live?.runId !== run.runId || this.live.state === 'running') return;
      this.#takeNewest(page, true);
    } catch {
      // What the run showed stays on the page; the next load replaces it.
    }
  }

  #takeNewest(page: HistoryResult, ended = false): void {
    this.#sessionId = page.sessionId ?? this.#sessionId;
    this.total = page.totalMessages ?? page.messages.length;
    const newest = page.messages[0]?.__openclaw?.seq;
    const oldTail = this.messages.at(-1)?.__openclaw?.seq;
    const joins = this.messages.length > 0 && newest !== undefined && oldTail !== undefined && newest <= oldTail + 1;
    // Pages that do not touch what is shown would leave a hole: start from the new page then.
    const base = joins ? this.messages.filter((message) => (message.__openclaw?.seq ?? 0) < newest) : [];
    if (!joins || base.length === 0) {
      this.hasMore = page.hasMore ?? false;
      this.#nextOffset = page.nextOffset ?? null;
    }
    const messages = mergeMessages(base, page.messages);
    for (const message of page.messages) this.#sawUser(message);

    const live = this.live;
    const inFlight = page.inFlightRun;
    if (ended && live) {
      const stored = messages.some((message) => message.role !== 'user' && (message.__openclaw?.seq ?? Infinity) > live.baseSeq);
      this.pending = this.pending.filter((input) => input.runId !== live.runId);
      if (live.state === 'error') {
        const told = messages.at(-1)?.stopReason === 'error';
        this.failure = told ? '' : live.error;
        this.live = stored || live.blocks.length === 0 ? null : live;
      } else if (stored || live.blocks.length === 0) {
        this.live = null;
      }
    } else if (inFlight) {
      if (live?.runId !== inFlight.runId) {
        const user = messages.findLast((message) => message.role === 'user');
        this.live = resumedRun(inFlight, user?.__openclaw?.seq ?? highestSeq(messages), Date.now());
      }
    } else if (live && !this.pending.some((input) => input.runId === live.runId)) {
      this.live = null;
    }
    this.messages = messages;
  }

  /** The gateway's copy of a sent message takes the place of ours. */
  #sawUser(message: TranscriptMessage): void {
    if (message.role !== 'user' || this.pending.length === 0) return;
    const key = message.idempotencyKey ?? '';
    this.pending = this.pending.filter((input) => key !== input.runId && key !== `${input.runId}:user`);
  }

  async #subscribe(): Promise<void> {
    if (this.#subscribed || !this.#app.can('sessions.messages.subscribe')) return;
    this.#subscribed = this.key;
    try {
      await this.#app.request('sessions.messages.subscribe', { key: this.key, ...(agentOfKey(this.key) ? {} : { agentId: this.#app.defaultAgentId }) });
    } catch {
      this.#subscribed = '';
    }
  }
}
