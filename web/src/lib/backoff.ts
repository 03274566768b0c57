/** First wait before a reconnect, milliseconds. */
export const BACKOFF_FIRST_MS = 1_000;
/** Longest wait between two reconnects, milliseconds. */
export const BACKOFF_MAX_MS = 30_000;

/**
 * How long to wait before reconnect number `attempt` (from 0): doubling from one second to thirty, spread over the
 * upper half so that many pages do not return in the same instant. `random` is in [0, 1).
 */
export function backoffMs(attempt: number, random: number): number {
  const full = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
  return Math.round(full / 2 + (full / 2) * random);
}
