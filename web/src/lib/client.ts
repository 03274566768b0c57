/**
 * One lasting connection to the gateway: handshake, requests, events, reconnects. Knows nothing of the page.
 */
import { backoffMs } from './backoff';
import type { DeviceIdentity } from './device';
import { signedConnectText } from './device';
import { GatewayError, judgeClose, judgeRefusal, type Verdict } from './failure';
import {
  PROTOCOL_VERSION,
  type ChallengePayload,
  type EventFrame,
  type HelloOk,
  type ResponseFrame,
  type ServerFrame,
} from './protocol';

export const CLIENT_ID = 'openclaw-control-ui';
export const CLIENT_MODE = 'webchat';
const SCOPES = [
  'operator.admin', 'operator.read', 'operator.write', 'operator.approvals', 'operator.questions', 'operator.pairing',
];
const CAPS = ['agent-kind', 'tool-events'];

/** Longest wait for the challenge and for the answer to `connect`, milliseconds. */
const HANDSHAKE_TIMEOUT_MS = 15_000;
/** Longest wait for the answer to a request, milliseconds. */
const REQUEST_TIMEOUT_MS = 30_000;
/** Requests that may wait for an answer at one time. */
const PENDING_MAX = 256;
/** Close code for "no frame for two ticks", as the gateway's other clients use it. */
const CLOSE_SILENT = 4000;
/** The gateway's tick when it does not name one, milliseconds. */
const TICK_DEFAULT_MS = 30_000;

export interface Credentials {
  /** The shared token or password, as typed. */
  secret?: string;
  /** A token that belongs to this device alone. */
  deviceToken?: string;
}

export type ConnectionState =
  | { phase: 'idle' }
  | { phase: 'connecting'; attempt: number }
  | { phase: 'ready'; hello: HelloOk }
  | { phase: 'waiting'; attempt: number; untilMs: number; verdict: Verdict }
  | { phase: 'stopped'; verdict: Verdict };

export interface SocketLike {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

export interface ClientOptions {
  url: string;
  identity: () => Promise<DeviceIdentity>;
  openSocket: (url: string) => SocketLike;
  /** What this page calls itself. */
  version: string;
  platform: string;
  instanceId: string;
  timeZone?: string;
  locale?: string;
  userAgent?: string;
  now?: () => number;
  random?: () => number;
  newId?: () => string;
  onState?: (state: ConnectionState) => void;
  /** The gateway skipped event numbers `expected..got`: what was shown may be stale. */
  onGap?: (expected: number, got: number) => void;
}

interface Pending {
  method: string;
  resolve: (payload: unknown) => void;
  reject: (error: GatewayError) => void;
  timer: ReturnType<typeof setTimeout>;
}

type Listener = (payload: unknown, frame: EventFrame) => void;

export class GatewayClient {
  state: ConnectionState = { phase: 'idle' };

  readonly #options: ClientOptions;
  readonly #listeners = new Map<string, Set<Listener>>();
  readonly #pending = new Map<string, Pending>();
  #credentials: Credentials = {};
  #socket: SocketLike | null = null;
  #counter = 0;
  #attempt = 0;
  #lastSeq = 0;
  #refusal: Verdict | null = null;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #silence: ReturnType<typeof setTimeout> | null = null;
  #tickMs = TICK_DEFAULT_MS;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** Connects with these credentials, dropping any connection there was. */
  start(credentials: Credentials): void {
    this.#credentials = credentials;
    this.#attempt = 0;
    this.#open();
  }

  /** Closes for good; `start` begins anew. */
  stop(): void {
    this.#dropSocket(1000, '');
    this.#failPending('The page disconnected.');
    this.#set({ phase: 'idle' });
  }

  /** Ends a wait now: the person pressed the button, or the network came back. */
  retryNow(): void {
    if (this.state.phase === 'waiting' || this.state.phase === 'stopped') this.#open();
  }

  /** Listens to one event name; the answer stops listening. */
  on<T>(event: string, listener: (payload: T, frame: EventFrame) => void): () => void {
    const set = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, set);
    set.add(listener as Listener);
    return () => set.delete(listener as Listener);
  }

  /** Calls a method. Rejects with `GatewayError`, also when there is no connection. */
  request<T>(method: string, params: unknown = {}, timeoutMs = REQUEST_TIMEOUT_MS): Promise<T> {
    if (this.state.phase !== 'ready') {
      return Promise.reject(new GatewayError({ code: 'NOT_CONNECTED', message: 'Not connected to the gateway.' }));
    }
    return this.#send(method, params, timeoutMs) as Promise<T>;
  }

  #send(method: string, params: unknown, timeoutMs: number): Promise<unknown> {
    const socket = this.#socket;
    if (!socket || this.#pending.size >= PENDING_MAX) {
      return Promise.reject(new GatewayError({ code: 'BUSY', message: 'Too many requests are waiting for the gateway.' }));
    }
    const id = `${++this.#counter}:${this.#newId()}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new GatewayError({ code: 'TIMEOUT', message: `The gateway did not answer ${method} in ${Math.round(timeoutMs / 1000)} s.` }));
      }, timeoutMs);
      this.#pending.set(id, { method, resolve, reject, timer });
      socket.send(JSON.stringify({ type: 'req', id, method, params }));
    });
  }

  #open(): void {
    this.#dropSocket(1000, '');
    this.#failPending('The connection was replaced.');
    this.#refusal = null;
    this.#lastSeq = 0;
    this.#set({ phase: 'connecting', attempt: this.#attempt });

    let socket: SocketLike;
    try {
      socket = this.#options.openSocket(this.#options.url);
    } catch (error) {
      this.#closed({ kind: 'fatal', code: 'BAD_URL', message: error instanceof Error ? error.message : String(error) });
      return;
    }
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#abandon(socket, 'The gateway did not finish the handshake.'), HANDSHAKE_TIMEOUT_MS);
    socket.onopen = null;
    socket.onerror = null;
    socket.onmessage = (event) => {
      if (this.#socket === socket && typeof event.data === 'string') this.#receive(socket, event.data);
    };
    socket.onclose = (event) => {
      if (this.#socket !== socket) return;
      this.#closed(this.#refusal ?? judgeClose(event.code, event.reason));
    };
  }

  #receive(socket: SocketLike, data: string): void {
    let frame: ServerFrame;
    try {
      frame = JSON.parse(data) as ServerFrame;
    } catch {
      return;
    }
    if (frame.type === 'res') {
      this.#watchSilence(socket);
      this.#answer(frame);
    } else if (frame.type === 'event') {
      this.#watchSilence(socket);
      if (frame.event === 'connect.challenge') void this.#connect(socket, frame.payload as ChallengePayload);
      else this.#event(frame);
    }
  }

  async #connect(socket: SocketLike, challenge: ChallengePayload): Promise<void> {
    try {
      const params = await this.#connectParams(challenge);
      if (this.#socket !== socket) return;
      const hello = (await this.#send('connect', params, HANDSHAKE_TIMEOUT_MS)) as HelloOk;
      if (this.#socket !== socket) return;
      this.#clearTimer();
      this.#attempt = 0;
      this.#tickMs = hello.policy?.tickIntervalMs ?? TICK_DEFAULT_MS;
      this.#watchSilence(socket);
      this.#set({ phase: 'ready', hello });
    } catch (error) {
      if (this.#socket !== socket) return;
      if (error instanceof GatewayError && error.code !== 'TIMEOUT') {
        this.#refusal = judgeRefusal(error);
        // The gateway closes after a refusal; close from this side too, in case it does not.
        this.#dropSocket(1000, '');
        this.#closed(this.#refusal);
      } else {
        this.#abandon(socket, error instanceof Error ? error.message : String(error));
      }
    }
  }

  async #connectParams(challenge: ChallengePayload): Promise<object> {
    const { secret, deviceToken } = this.#credentials;
    const o = this.#options;
    const identity = await o.identity();
    const token = secret || deviceToken || '';
    const signature = await identity.sign(
      signedConnectText({
        deviceId: identity.deviceId, clientId: CLIENT_ID, clientMode: CLIENT_MODE, role: 'operator', scopes: SCOPES,
        signedAt: challenge.ts, token, nonce: challenge.nonce, platform: o.platform,
      }),
    );
    return {
      minProtocol: PROTOCOL_VERSION,
      maxProtocol: PROTOCOL_VERSION,
      client: {
        id: CLIENT_ID, version: o.version, buildId: 'dev', platform: o.platform, mode: CLIENT_MODE, instanceId: o.instanceId,
        ...(o.timeZone ? { timeZone: o.timeZone } : {}),
      },
      role: 'operator',
      scopes: SCOPES,
      caps: CAPS,
      device: {
        id: identity.deviceId, publicKey: identity.publicKey, signature, signedAt: challenge.ts, nonce: challenge.nonce,
      },
      auth: secret ? { token: secret, password: secret } : deviceToken ? { deviceToken } : {},
      ...(o.locale ? { locale: o.locale } : {}),
      ...(o.userAgent ? { userAgent: o.userAgent } : {}),
    };
  }

  #answer(frame: ResponseFrame): void {
    const pending = this.#pending.get(frame.id);
    if (!pending) return;
    this.#pending.delete(frame.id);
    clearTimeout(pending.timer);
    if (frame.ok) pending.resolve(frame.payload);
    else pending.reject(new GatewayError(frame.error ?? { code: 'UNKNOWN', message: `${pending.method} failed.` }));
  }

  #event(frame: EventFrame): void {
    if (typeof frame.seq === 'number') {
      const expected = this.#lastSeq + 1;
      this.#lastSeq = Math.max(this.#lastSeq, frame.seq);
      if (frame.seq > expected) this.#options.onGap?.(expected, frame.seq);
    }
    for (const listener of [...(this.#listeners.get(frame.event) ?? [])]) listener(frame.payload, frame);
  }

  #closed(verdict: Verdict): void {
    this.#socket = null;
    this.#clearTimer();
    this.#failPending(verdict.message);
    if (verdict.kind === 'auth' || verdict.kind === 'fatal') {
      this.#set({ phase: 'stopped', verdict });
      return;
    }
    const attempt = this.#attempt++;
    const planned = backoffMs(attempt, (this.#options.random ?? Math.random)());
    // A stated time holds for the first try only; a gateway that stays away is asked ever more rarely.
    const stated = 'afterMs' in verdict ? verdict.afterMs : undefined;
    const wait = stated === undefined ? planned : verdict.kind === 'retry' && attempt > 0 ? Math.max(stated, planned) : stated;
    this.#timer = setTimeout(() => this.#open(), wait);
    this.#set({ phase: 'waiting', attempt, untilMs: this.#now() + wait, verdict });
  }

  #abandon(socket: SocketLike, message: string): void {
    if (this.#socket !== socket) return;
    this.#dropSocket(CLOSE_SILENT, '');
    this.#closed({ kind: 'retry', message });
  }

  /** Restarts the wait for the next frame; a connection silent for two ticks is dead. */
  #watchSilence(socket: SocketLike): void {
    if (this.#silence) clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#abandon(socket, 'The gateway went silent.'), this.#tickMs * 2);
  }

  #dropSocket(code: number, reason: string): void {
    this.#clearTimer();
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onmessage = null;
    socket.onclose = null;
    try {
      socket.close(code, reason);
    } catch {
      // A socket that never opened may refuse; it is forgotten either way.
    }
  }

  #clearTimer(): void {
    if (this.#timer) clearTimeout(this.#timer);
    if (this.#silence) clearTimeout(this.#silence);
    this.#timer = null;
    this.#silence = null;
  }

  #failPending(message: string): void {
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of waiting) {
      clearTimeout(pending.timer);
      pending.reject(new GatewayError({ code: 'DISCONNECTED', message }));
    }
  }

  #set(state: ConnectionState): void {
    this.state = state;
    this.#options.onState?.(state);
  }

  #now(): number {
    return (this.#options.now ?? Date.now)();
  }

  #newId(): string {
    return (this.#options.newId ?? randomId)();
  }
}

/** A random UUID, also on pages without a secure context. */
export function randomId(): string {
  if (typeof crypto.randomUUID === 'function') return crypto.randomUUID();
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = ((b[6] ?? 0) & 0x0f) | 0x40;
  b[8] = ((b[8] ?? 0) & 0x3f) | 0x80;
  const h = Array.from(b, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20)}`;
}
