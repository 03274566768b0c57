/** A farm as `farm.*` tells of it: shapes, and the words the page has for them. Without framework. */
import { GatewayError, isRecord } from './failure';
import { duration } from './format';

export type Health = 'healthy' | 'silent' | 'stopped' | 'unknown';

export interface FarmGateway {
  name: string;
  self?: boolean;
  health: Health | string;
  healthy?: boolean;
  /** How long it has been so, milliseconds, as far as the answering gateway watched. */
  sinceMs?: number;
  url?: string;
  version?: string;
  lastHeartbeat?: string;
  agents?: string[];
  /** How many keys it has that are believed. */
  keys?: number;
  problems?: string[];
}

export interface FarmAgent {
  id: string;
  gateway?: string;
  healthy?: boolean;
  epoch?: number;
  capabilities?: string[];
  model?: string;
}

export interface FarmEngine {
  engine: string;
  ok: boolean;
  why?: string;
}

export interface FarmPeer {
  gateway: string;
  links?: { direction?: string; address?: string; rttUs?: number | null }[];
  failures?: number;
  /** When and why the last attempt failed or the last link was lost. */
  lastError?: [number, string] | null;
}

export interface FarmStatus {
  farm: string;
  gateway: string;
  key?: string;
  coord: FarmEngine;
  bus: FarmEngine;
  gateways: FarmGateway[];
  agents: FarmAgent[];
  letters: { queued: number; inFlight: number; delivered: number; dead: number };
  heartbeats?: { sent: number; missed: number };
  events?: Record<string, number>;
  problems?: string[];
  /** Only where the gateway has links of its own with the others. */
  links?: { listen?: string | null; peers?: FarmPeer[] };
}

/** One transition of a letter; which fields are there depends on `event`. */
export interface LetterEvent {
  /** Unix milliseconds, by the clock of the gateway that answers. */
  at: number;
  event: string;
  attempt?: number;
  reason?: string;
  delay_ms?: number;
  code?: string;
  retryable?: boolean;
  failed?: string | null;
  crashes?: number;
}

export interface FarmLetter {
  direction: 'in' | 'out' | string;
  messageId: string;
  correlationId?: string;
  causationId?: string;
  state: string;
  kind?: string;
  from: string;
  to: string;
  session?: string;
  capability?: string;
  createdAt: number;
  expiresAt?: number;
  attempts?: number;
  /** The other gateway. */
  gateway?: string;
  run?: string;
  lastError?: string;
  history?: LetterEvent[];
}

export interface DeadLetter {
  messageId: string;
  reason: string;
  from: string;
  to: string;
  kind?: string;
  capability?: string;
  /** When it was given up. */
  at: number;
  createdAt: number;
  replayedAs?: string | null;
}

/** What `farm.dlq.show` answers. */
export interface DeadLetterDetail {
  reason: string;
  letter?: { content_type?: string; body?: unknown; body_ref?: { hash: string; size: number }; session_key?: string; target_gateway?: string };
  history?: LetterEvent[];
  at: number;
  replayed_as?: string | null;
}

export type Tone = '' | 'good' | 'warn' | 'bad';

/** Whether a refusal means that there is no farm, and not that something of it does not answer. */
export function isWithoutFarm(error: unknown): boolean {
  return error instanceof GatewayError && error.code === 'UNAVAILABLE' && /no part of a farm/.test(error.message);
}

export function healthTone(health: string): Tone {
  if (health === 'healthy') return 'good';
  return health === 'silent' ? 'bad' : health === 'stopped' ? 'warn' : '';
}

/** "Healthy for 3 min", "Silent for 12 s", "Stopped": a stop is not dated. */
export function healthWords(gateway: FarmGateway): string {
  const word = gateway.health.charAt(0).toUpperCase() + gateway.health.slice(1);
  return gateway.sinceMs ? `${word} for ${span(gateway.sinceMs)}` : word;
}

const ENGINES: Record<string, string> = { consul: 'Consul', redis: 'Redis', nats: 'NATS', postgres: 'PostgreSQL', peer: 'Peer link' };

export function engineName(engine: string): string {
  return ENGINES[engine] ?? engine;
}

/** A time span without split seconds: "0 s", "12 s", "3 min 5 s". */
export function span(ms: number): string {
  const whole = Math.floor(Math.max(0, ms) / 1_000) * 1_000;
  return whole < 60_000 ? `${whole / 1_000} s` : duration(whole);
}

/** The agents a card of this gateway shows: those that are held there; where nobody holds one, those it lists. */
export function agentsAt(gateway: FarmGateway, agents: FarmAgent[]): FarmAgent[] {
  return agents.filter((agent) => (agent.gateway ? agent.gateway === gateway.name : gateway.agents?.includes(agent.id)));
}

/** Everything that is wrong, in one list of lines; the whole farm's first. */
export function problemsOf(status: FarmStatus): string[] {
  const lines = [...(status.problems ?? [])];
  if (!status.coord.ok && lines.length === 0) lines.push(`The coordination store does not answer${status.coord.why ? `: ${status.coord.why}` : ''}`);
  if (!status.bus.ok) lines.push(`Letters are not carried now: ${status.bus.why ?? `${engineName(status.bus.engine)} does not answer`}`);
  for (const gateway of status.gateways) {
    for (const problem of gateway.problems ?? []) lines.push(`${gateway.name}: ${problem}`);
    if (gateway.health === 'silent') lines.push(`${gateway.name} is silent: letters for its agents wait`);
  }
  return [...new Set(lines)];
}

const STATES: Record<string, { word: string; tone: Tone; open: boolean }> = {
  queued: { word: 'Queued', tone: 'warn', open: true },
  delivered: { word: 'Delivered', tone: '', open: true },
  processing: { word: 'Being worked on', tone: '', open: true },
  acked: { word: 'Done', tone: 'good', open: false },
  failed: { word: 'Failed', tone: 'bad', open: false },
  dead_letter: { word: 'Given up', tone: 'bad', open: false },
};

/** State names come as `dead_letter`, `DEAD_LETTER` or `deadletter`, depending on the version. */
function state(letter: FarmLetter): { word: string; tone: Tone; open: boolean } {
  const name = letter.state.toLowerCase().replace(/-/g, '_').replace(/^deadletter$/, 'dead_letter');
  return STATES[name] ?? { word: letter.state, tone: '', open: true };
}

export const stateWord = (letter: FarmLetter): string =>
  // A letter that was sent at least once waits for its receipt, one that never was waits for its turn.
  letter.direction === 'out' && letter.state.toLowerCase() === 'queued' && (letter.attempts ?? 0) > 0 ? 'On its way' : state(letter).word;
export const stateTone = (letter: FarmLetter): Tone => state(letter).tone;
/** Whether it is still under way; a failed letter that we sent is tried again. */
export const isOpen = (letter: FarmLetter): boolean => state(letter).open || (letter.direction === 'out' && letter.state.toLowerCase() === 'failed');

export const letterKey = (letter: FarmLetter): string => `${letter.direction} ${letter.messageId}`;

/** Letters under way and those that ended, each once, in the order they came. */
export function sortLetters(letters: FarmLetter[]): { open: FarmLetter[]; ended: FarmLetter[] } {
  const each = [...new Map(letters.map((letter) => [letterKey(letter), letter])).values()];
  return { open: each.filter(isOpen), ended: each.filter((letter) => !isOpen(letter)) };
}

/** A code as words: `policy_denied` as "policy denied". */
export function codeWords(code: string | null | undefined): string {
  return (code ?? '').replace(/[_-]+/g, ' ');
}

const because = (code: string | null | undefined): string => (code ? `: ${codeWords(code)}` : '');

/** What a letter says: the text of a message, if it is one. */
export function letterText(body: unknown): string {
  if (typeof body === 'string') return body;
  const parts = isRecord(body) && Array.isArray(body.body) ? (body.body as unknown[]) : [];
  return parts.flatMap((part) => (isRecord(part) && typeof part.text === 'string' ? [part.text] : [])).join('\n');
}

/** What happened, for the timeline of a letter. */
export function eventWords(event: LetterEvent): { text: string; tone: Tone } {
  switch (event.event) {
    case 'queued': return { text: 'Written and kept in the outbox', tone: '' };
    case 'sent': return { text: `Sent, attempt ${(event.attempt ?? 0) + 1}`, tone: '' };
    case 'delivered': return { text: 'In the receiver’s inbox', tone: '' };
    case 'retry': return { text: `To be sent again in ${duration(event.delay_ms)}${because(event.reason)}`, tone: 'warn' };
    case 'dead_letter': return { text: `Given up${because(event.reason)}`, tone: 'bad' };
    case 'acked': return { text: 'The receiver is done with it', tone: 'good' };
    case 'failed': return { text: `The receiver could not do it${because(event.code)}${event.retryable ? ', it may be tried again' : ''}`, tone: 'bad' };
    case 'redeliver': return { text: `Delivered again${because(event.reason)}`, tone: 'warn' };
    case 'replayed': return { text: 'Sent again as a new letter', tone: '' };
    case 'received': return { text: 'Received and kept in the inbox', tone: '' };
    case 'duplicate': return { text: 'Came again; not done twice', tone: '' };
    case 'reopened': return { text: 'Came again after a failure; tried once more', tone: 'warn' };
    case 'rejected': return { text: `Not taken${because(event.reason)}`, tone: 'bad' };
    case 'processing': return { text: 'Work began', tone: '' };
    case 'completed': return event.failed ? { text: `Ended${because(event.failed)}`, tone: 'bad' } : { text: 'Done', tone: 'good' };
    case 'recovered': return { text: `Taken up again after a crash (${event.crashes ?? 1} so far)`, tone: 'warn' };
    default: return { text: codeWords(event.event), tone: '' };
  }
}
