import { describe, expect, it } from 'vitest';
import { duration, relative, schedule, sessionTitle, until } from './format';
import { parseLogLine } from './logs';
import { baseFrom, secretsFromHash, socketUrl } from './place';

describe('where the page is', () => {
  it('finds its folder from its script, whatever the page’s path', () => {
    expect(baseFrom('https://h/x/y/assets/index-1.js', 'https://h/x/y/deep/page')).toBe('https://h/x/y/');
    expect(baseFrom('http://h:1/assets/index-1.js', 'http://h:1/')).toBe('http://h:1/');
    expect(baseFrom('http://h:1/src/app.ts', 'http://h:1/')).toBe('http://h:1/');
  });

  it('makes the socket’s address of it', () => {
    expect(socketUrl('https://h/x/?a#b')).toBe('wss://h/x/');
    expect(socketUrl('http://h:18789/')).toBe('ws://h:18789/');
  });

  it('takes the secret out of the hash and leaves the route', () => {
    expect(secretsFromHash('#token=a%2Bb')).toEqual({ token: 'a+b', session: '', rest: '' });
    expect(secretsFromHash('#token=t&session=agent%3Amain%3Amain')).toMatchObject({ token: 't', session: 'agent:main:main', rest: '' });
    expect(secretsFromHash('#/status?token=t&x=1')).toMatchObject({ token: 't', rest: '/status?x=1' });
    expect(secretsFromHash('#/chat/agent%3Amain%3Amain')).toMatchObject({ token: '', rest: '/chat/agent%3Amain%3Amain' });
    expect(secretsFromHash('')).toEqual({ token: '', session: '', rest: '' });
  });
});

describe('words for numbers', () => {
  it('tells times and durations', () => {
    expect([340, 2_400, 61_000, 7_200_000, 93_600_000].map(duration)).toEqual(['340 ms', '2.4 s', '1 min 1 s', '2 h', '1 d 2 h']);
    expect(relative(1_000_000 - 300_000, 1_000_000)).toBe('5 min ago');
    expect(relative(1_000_000 + 9_000, 1_000_000)).toBe('just now');
    expect(until(1_000_000 + 7_200_000, 1_000_000)).toBe('in 2 h');
    expect(schedule({ kind: 'every', everyMs: 3_600_000 })).toBe('Every 1 h');
    expect(schedule({ kind: 'cron', expr: '0 9 * * *', tz: 'UTC' })).toBe('0 9 * * * (UTC)');
  });

  it('names sessions', () => {
    expect(sessionTitle({ key: 'agent:main:main' })).toBe('Main');
    expect(sessionTitle({ key: 'agent:main:proj', label: null, derivedTitle: 'T' })).toBe('T');
    expect(sessionTitle({ key: 'agent:main:proj:1' })).toBe('proj:1');
  });
});

describe('log lines', () => {
  it('reads the stored form', () => {
    const line = '{"0":"{\\"subsystem\\":\\"gateway/ws\\"}","1":"res ok","_meta":{"logLevelName":"WARN"},"time":"2026-11-20T11:38:56.030+00:00","message":"res ok"}';
    expect(parseLogLine(line, 1)).toEqual({ id: 1, level: 'warn', subsystem: 'gateway/ws', message: 'res ok', time: '2026-11-20T11:38:56.030+00:00' });
  });

  it('reads a plainer JSON line, and shows anything else as it stands', () => {
    expect(parseLogLine('{"timestamp":"t","level":"ERROR","target":"gateway","fields":{"message":"m"}}', 2)).toMatchObject({ level: 'error', subsystem: 'gateway', message: 'm' });
    expect(parseLogLine('not json', 3)).toMatchObject({ level: 'info', message: 'not json' });
  });
});
