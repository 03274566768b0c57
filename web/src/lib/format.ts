/** Numbers, times and schedules as people read them. */
import type { AgentRow, CronSchedule, SessionRow } from './protocol';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** A past moment: "just now", "5 min ago"; a week and more as a date. Clocks that disagree a little are forgiven. */
export function relative(at: number | null | undefined, now: number): string {
  if (!at) return 'never';
  const size = distance(now - at);
  return size === '' ? 'just now' : size ? `${size} ago` : day(at);
}

/** A moment to come: "in a moment", "in 2 h"; a week and more as a date. */
export function until(at: number | null | undefined, now: number): string {
  if (!at) return 'never';
  const size = distance(at - now);
  return size === '' ? 'in a moment' : size ? `in ${size}` : day(at);
}

/** "5 min", "2 h", "3 d"; empty for less than a minute, null for a week and more. */
function distance(ms: number): string | null {
  if (ms < 45_000) return '';
  if (ms < HOUR) return `${Math.round(ms / MINUTE)} min`;
  if (ms < DAY) return `${Math.round(ms / HOUR)} h`;
  return ms < 7 * DAY ? `${Math.round(ms / DAY)} d` : null;
}

function day(at: number): string {
  return new Date(at).toLocaleDateString(undefined, { day: 'numeric', month: 'short', year: 'numeric' });
}

export function clock(at: number): string {
  return at ? new Date(at).toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' }) : '';
}

export function dateTime(at: number | null | undefined): string {
  return at ? new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' }) : '–';
}

/** Milliseconds as "340 ms", "2.4 s", "3 min 5 s", "2 h 10 min", "4 d 2 h". */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return '–';
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < MINUTE) return `${(ms / 1_000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  const two = (big: number, bigUnit: string, small: number, unit: string) => (small ? `${big} ${bigUnit} ${small} ${unit}` : `${big} ${bigUnit}`);
  if (ms < HOUR) return two(Math.floor(ms / MINUTE), 'min', Math.floor((ms % MINUTE) / 1_000), 's');
  if (ms < DAY) return two(Math.floor(ms / HOUR), 'h', Math.floor((ms % HOUR) / MINUTE), 'min');
  return two(Math.floor(ms / DAY), 'd', Math.floor((ms % DAY) / HOUR), 'h');
}

export function bytes(count: number | null | undefined): string {
  if (count === null || count === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(value >= 100 || unit === 0 ? 0 : 1)} ${units[unit]}`;
}

/** 950, 12.4k, 1.2M. */
export function compact(count: number): string {
  if (count < 1_000) return String(count);
  if (count < 1_000_000) return `${(count / 1_000).toFixed(count < 100_000 ? 1 : 0)}k`;
  return `${(count / 1_000_000).toFixed(1)}M`;
}

export function schedule(s: CronSchedule): string {
  if (s.kind === 'every') return `Every ${duration(Number(s.everyMs))}`;
  if (s.kind === 'at') return `Once, ${dateTime(Date.parse(String(s.at)))}`;
  if (s.kind === 'cron') return `${String(s.expr)}${s.tz ? ` (${String(s.tz)})` : ''}`;
  return s.kind;
}

export function sessionTitle(row: SessionRow): string {
  const title = row.label || row.displayName || row.derivedTitle;
  if (title) return title;
  if (row.isMain || row.key.endsWith(':main')) return 'Main';
  return row.key.replace(/^agent:[^:]+:/, '');
}

/** The agent a session key belongs to: `agent:<id>:...`, else empty. */
export function agentOfKey(key: string): string {
  return /^agent:([^:]+):/.exec(key)?.[1] ?? '';
}

export function modelOf(agent: AgentRow): string {
  return (typeof agent.model === 'string' ? agent.model : agent.model?.primary) ?? '';
}

export function initials(name: string): string {
  return ([...name.trim()][0] ?? '?').toUpperCase();
}
