import type { ErrorShape } from './protocol';

/** A request the gateway refused, or one that never reached it. `message` holds the gateway's own words. */
export class GatewayError extends Error {
  readonly code: string;
  readonly details: Record<string, unknown>;
  readonly retryAfterMs: number | undefined;

  constructor(shape: ErrorShape) {
    super(shape.message);
    this.name = 'GatewayError';
    this.code = shape.code;
    this.details = isRecord(shape.details) ? shape.details : {};
    this.retryAfterMs = shape.retryAfterMs;
  }

  /** The finer code inside `details`, or empty. */
  get detailCode(): string {
    return typeof this.details.code === 'string' ? this.details.code : '';
  }
}

/** What to do after a connection attempt failed or an open connection closed. */
export type Verdict =
  /** Credentials are wrong or missing: ask the person, do not try again by itself. */
  | { kind: 'auth'; code: string; message: string; deviceTokenMayWork: boolean }
  /** Too many failures: wait, then one more try. */
  | { kind: 'rate-limit'; message: string; afterMs: number }
  /** Somebody has to approve this device; keep asking now and then. */
  | { kind: 'pairing'; message: string; requestId: string; deviceId: string; hint: string; afterMs: number }
  /** Trying again cannot help until something else changes. */
  | { kind: 'fatal'; code: string; message: string }
  /** A passing state; reconnect. `afterMs` is set when the gateway said when. */
  | { kind: 'retry'; message: string; afterMs?: number };

/** How often a device that waits for approval asks again, milliseconds. */
export const PAIRING_POLL_MS = 3_000;
/** Wait after a rate limit without a stated time, milliseconds. */
const RATE_LIMIT_DEFAULT_MS = 60_000;
/** Wait before the first reconnect to a gateway that said it restarts, milliseconds. */
const RESTART_FIRST_MS = 400;
/** Wait before asking a gateway that changed its credentials, milliseconds. */
const CHANGED_FIRST_MS = 250;

/** Reads the refusal of a `connect` request. */
export function judgeRefusal(error: GatewayError): Verdict {
  const code = error.detailCode;
  if (code === 'AUTH_RATE_LIMITED') {
    return { kind: 'rate-limit', message: error.message, afterMs: error.retryAfterMs ?? RATE_LIMIT_DEFAULT_MS };
  }
  if (code === 'PAIRING_REQUIRED') {
    return {
      kind: 'pairing',
      message: error.message,
      requestId: text(error.details.requestId),
      deviceId: text(error.details.deviceId),
      hint: text(error.details.remediationHint),
      afterMs: error.retryAfterMs ?? PAIRING_POLL_MS,
    };
  }
  if (code === 'DEVICE_AUTH_SIGNATURE_EXPIRED' || code === 'DEVICE_AUTH_NONCE_MISMATCH' || code === 'DEVICE_AUTH_NONCE_REQUIRED') {
    return { kind: 'retry', message: error.message };
  }
  if (code.startsWith('AUTH_')) {
    return { kind: 'auth', code, message: error.message, deviceTokenMayWork: error.details.canRetryWithDeviceToken === true };
  }
  if (error.code === 'UNAVAILABLE' && code !== 'PROTOCOL_MISMATCH') {
    return { kind: 'retry', message: error.message, ...(error.retryAfterMs ? { afterMs: error.retryAfterMs } : {}) };
  }
  return { kind: 'fatal', code: code || error.code, message: error.message };
}

/** Reads the close of a connection whose last words were not a refusal. */
export function judgeClose(code: number, reason: string): Verdict {
  if (code === 1012) return { kind: 'retry', message: reason || 'The gateway is restarting.', afterMs: RESTART_FIRST_MS };
  if (code === 1013) return { kind: 'retry', message: reason || 'The gateway is starting.', afterMs: RESTART_FIRST_MS };
  if (code === 4001) {
    // Credentials or policy changed. The next handshake says what exactly, so ask at once.
    return { kind: 'retry', message: reason || 'The gateway changed its credentials.', afterMs: CHANGED_FIRST_MS };
  }
  return { kind: 'retry', message: reason || 'The connection to the gateway was lost.' };
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Any thrown value as one line for a person. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
