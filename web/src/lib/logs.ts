/** Log lines as the gateway stores them (JSON, one object a line) to rows for the page. */
import { isRecord } from './failure';

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error';

export interface LogRow {
  id: number;
  time: string;
  level: LogLevel;
  subsystem: string;
  message: string;
}

const LEVELS: LogLevel[] = ['trace', 'debug', 'info', 'warn', 'error'];

/** Reads one line; a line that is not JSON becomes an `info` row as it stands. */
export function parseLogLine(line: string, id: number): LogRow {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    parsed = null;
  }
  if (!isRecord(parsed)) return { id, time: '', level: 'info', subsystem: '', message: line };
  const meta = isRecord(parsed._meta) ? parsed._meta : {};
  const named = String(meta.logLevelName ?? parsed.level ?? 'info').toLowerCase();
  const level = LEVELS.find((candidate) => candidate === named) ?? (named === 'fatal' ? 'error' : named === 'warning' ? 'warn' : 'info');
  const fields = isRecord(parsed.fields) ? parsed.fields : {};
  const message = firstText(parsed.message, fields.message, parsed.msg, parsed['1'], parsed['2'], parsed['0']) || line;
  return {
    id,
    level,
    message,
    time: firstText(parsed.time, meta.date, parsed.timestamp, parsed.ts),
    subsystem: subsystemOf(parsed['0']) || firstText(parsed.subsystem, parsed.target),
  };
}

function subsystemOf(value: unknown): string {
  if (typeof value !== 'string' || !value.startsWith('{')) return '';
  try {
    const inner: unknown = JSON.parse(value);
    return isRecord(inner) && typeof inner.subsystem === 'string' ? inner.subsystem : '';
  } catch {
    return '';
  }
}

function firstText(...values: unknown[]): string {
  for (const value of values) if (typeof value === 'string' && value !== '') return value;
  return '';
}
