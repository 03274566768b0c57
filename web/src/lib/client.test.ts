// @vitest-environment node
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { backoffMs } from './backoff';
import { GatewayClient, type ClientOptions, type ConnectionState, type SocketLike } from './client';
import { identityFromSeed } from './device';
import type { HelloOk } from './protocol';

const HELLO: HelloOk = {
  type: 'hello-ok', protocol: 4, server: { version: '2026.9.6', connId: 'c1' }, features: { methods: ['health'], events: [] }, snapshot: {},
  auth: { role: 'operator', scopes: [] }, policy: { maxPayload: 1, maxBufferedBytes: 1, tickIntervalMs: 30_000 },
};

class FakeSocket implements SocketLike {
  onopen: SocketLike['onopen'] = null;
  onmessage: SocketLike['onmessage'] = null;
  onclose: SocketLike['onclose'] = null;
  onerror: SocketLike['onerror'] = null;
  sent: { id: string; method: string; params: Record<string, never> }[] = [];
  closed: number | undefined;
  send(data: string): void {
    this.sent.push(JSON.parse(data));
  }
  close(code?: number): void {
    this.closed = code ?? 1005;
  }
  say(frame: object): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
  drop(code: number, reason = ''): void {
    this.onclose?.({ code, reason });
  }
}

function setup(extra: Partial<ClientOptions> = {}) {
  const sockets: FakeSocket[] = [];
  const states: ConnectionState[] = [];
  const identity = identityFromSeed(Uint8Array.from({ length: 32 }, (_, index) => index));
  const client = new GatewayClient({
    url: 'ws://gateway/', identity: () => identity, version: '0', platform: 'Linux x86_64', instanceId: 'i', random: () => 1,
    openSocket: () => {
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket;
    },
    onState: (state) => states.push(state),
    ...extra,
  });
  const socket = () => {
    const last = sockets.at(-1);
    if (!last) throw new Error('no socket yet');
    return last;
  };
  /** Plays the gateway's side of the handshake up to the request. */
  async function challenge() {
    socket().say({ type: 'event', event: 'connect.challenge', payload: { nonce: 'n1', ts: 1_000 } });
    await vi.waitFor(() => expect(socket().sent.length).toBeGreaterThan(0));
    const request = socket().sent[0];
    if (!request) throw new Error('no connect');
    return request;
  }
  async function connect() {
    client.start({ secret: 'S' });
    const request = await challenge();
    socket().say({ type: 'res', id: request.id, ok: true, payload: HELLO });
    await vi.waitFor(() => expect(client.state.phase).toBe('ready'));
    return request;
  }
  async function refuse(error: object) {
    client.start({ secret: 'S' });
    const request = await challenge();
    socket().say({ type: 'res', id: request.id, ok: false, error });
    await vi.waitFor(() => expect(client.state.phase).not.toBe('connecting'));
  }
  return { client, sockets, states, socket, challenge, connect, refuse };
}

beforeEach(() => vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] }));
afterEach(() => vi.useRealTimers());

describe('handshake', () => {
  it('sends the secret in both fields, all scopes, and a signature over the challenge', async () => {
    const { connect } = setup();
    const { method, params } = (await connect()) as { method: string; params: any };
    expect(method).toBe('connect');
    expect(params.auth).toEqual({ token: 'S', password: 'S' });
    expect([params.minProtocol, params.maxProtocol]).toEqual([4, 4]);
    expect(params.client).toMatchObject({ id: 'openclaw-control-ui', mode: 'webchat', buildId: 'dev' });
    expect(params.scopes).toContain('operator.pairing');
    expect(params.caps).toContain('tool-events');
    expect(params.device).toMatchObject({ nonce: 'n1', signedAt: 1_000 });
    expect(params.device.signature).toMatch(/^[\w-]{86}$/);
  });

  it('connects with a device token alone', async () => {
    const { client, challenge } = setup();
    client.start({ deviceToken: 'D' });
    expect(((await challenge()).params as any).auth).toEqual({ deviceToken: 'D' });
  });

  it('gives up on a gateway that never answers, and tries again', async () => {
    const { client, sockets } = setup();
    client.start({});
    await vi.advanceTimersByTimeAsync(15_000);
    expect(client.state.phase).toBe('waiting');
    await vi.advanceTimersByTimeAsync(1_000);
    expect(sockets).toHaveLength(2);
  });
});

describe('refusals', () => {
  it('stops on a wrong token and keeps the gateway’s words', async () => {
    const { client, refuse, sockets } = setup();
    await refuse({ code: 'INVALID_REQUEST', message: 'unauthorized: gateway token mismatch', details: { code: 'AUTH_TOKEN_MISMATCH', canRetryWithDeviceToken: true } });
    expect(client.state).toMatchObject({ phase: 'stopped', verdict: { kind: 'auth', message: 'unauthorized: gateway token mismatch', deviceTokenMayWork: true } });
    await vi.advanceTimersByTimeAsync(120_000);
    expect(sockets).toHaveLength(1);
  });

  it('waits as long as the rate limit says', async () => {
    const { client, refuse, sockets } = setup();
    await refuse({ code: 'INVALID_REQUEST', message: 'unauthorized: too many', retryable: true, retryAfterMs: 300_000, details: { code: 'AUTH_RATE_LIMITED' } });
    expect(client.state).toMatchObject({ phase: 'waiting', verdict: { kind: 'rate-limit' } });
    await vi.advanceTimersByTimeAsync(299_000);
    expect(sockets).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(sockets).toHaveLength(2);
  });

  it('keeps asking while a device waits for approval', async () => {
    const { client, refuse, sockets } = setup();
    await refuse({ code: 'NOT_PAIRED', message: 'pairing required: device is not approved yet', details: { code: 'PAIRING_REQUIRED', requestId: 'r1', deviceId: 'd1' } });
    expect(client.state).toMatchObject({ phase: 'waiting', verdict: { kind: 'pairing', requestId: 'r1' } });
    await vi.advanceTimersByTimeAsync(3_000);
    expect(sockets).toHaveLength(2);
  });

  it('comes back to a gateway that is starting, after the time it named', async () => {
    const { client, refuse, sockets } = setup();
    await refuse({ code: 'UNAVAILABLE', message: 'gateway starting; retry shortly', retryable: true, retryAfterMs: 500 });
    expect(client.state.phase).toBe('waiting');
    await vi.advanceTimersByTimeAsync(500);
    expect(sockets).toHaveLength(2);
  });

  it('stops where trying again cannot help', async () => {
    const { client, refuse } = setup();
    await refuse({ code: 'INVALID_REQUEST', message: 'origin not allowed', details: { code: 'CONTROL_UI_ORIGIN_NOT_ALLOWED' } });
    expect(client.state).toMatchObject({ phase: 'stopped', verdict: { kind: 'fatal', code: 'CONTROL_UI_ORIGIN_NOT_ALLOWED' } });
  });
});

describe('an open connection', () => {
  it('matches answers that arrive out of order, and rejects in the gateway’s words', async () => {
    const { client, socket, connect } = setup();
    await connect();
    const first = client.request('a');
    const second = client.request('b').catch((error) => error);
    const [, a, b] = socket().sent;
    socket().say({ type: 'res', id: b?.id, ok: false, error: { code: 'FORBIDDEN', message: 'missing scope: operator.write' } });
    socket().say({ type: 'res', id: a?.id, ok: true, payload: 1 });
    expect(await first).toBe(1);
    expect(await second).toMatchObject({ code: 'FORBIDDEN', message: 'missing scope: operator.write' });
  });

  it('reports a gap in the sequence once, and none across a reconnect', async () => {
    const gaps: [number, number][] = [];
    const { client, socket, connect } = setup({ onGap: (expected, got) => gaps.push([expected, got]) });
    await connect();
    const seen: unknown[] = [];
    client.on('chat', (payload) => seen.push(payload));
    for (const seq of [1, 2, 5, 6]) socket().say({ type: 'event', event: 'chat', payload: seq, seq });
    socket().say({ type: 'event', event: 'chat', payload: 'direct' });
    expect(gaps).toEqual([[3, 5]]);
    expect(seen).toEqual([1, 2, 5, 6, 'direct']);
    socket().drop(1006);
    await connect();
    socket().say({ type: 'event', event: 'chat', payload: 1, seq: 1 });
    expect(gaps).toHaveLength(1);
  });

  it('rejects what waits when the connection drops, then backs off further each time', async () => {
    const { client, socket, connect, sockets } = setup();
    await connect();
    const lost = client.request('slow').catch((error) => error);
    socket().drop(1006);
    expect(await lost).toMatchObject({ code: 'DISCONNECTED' });
    for (const wait of [1_000, 2_000, 4_000]) {
      const count = sockets.length;
      await vi.advanceTimersByTimeAsync(wait - 1);
      expect(sockets).toHaveLength(count);
      await vi.advanceTimersByTimeAsync(1);
      expect(sockets).toHaveLength(count + 1);
      socket().drop(1006);
    }
  });

  it('returns quickly after a restart and at once after a change of credentials', async () => {
    for (const code of [1012, 4001]) {
      const { client, socket, connect, sockets } = setup();
      await connect();
      socket().drop(code, 'service restart');
      expect(client.state).toMatchObject({ phase: 'waiting', verdict: { kind: 'retry', message: 'service restart' } });
      await vi.advanceTimersByTimeAsync(500);
      expect(sockets).toHaveLength(2);
      client.stop();
    }
  });

  it('leaves a gateway that was silent for two ticks', async () => {
    const { client, socket, connect } = setup();
    await connect();
    await vi.advanceTimersByTimeAsync(59_000);
    socket().say({ type: 'event', event: 'tick', payload: {}, seq: 1 });
    await vi.advanceTimersByTimeAsync(59_000);
    expect(client.state.phase).toBe('ready');
    const silent = socket();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(silent.closed).toBe(4000);
    expect(client.state.phase).toBe('waiting');
  });

  it('refuses requests while there is no connection', async () => {
    const { client } = setup();
    await expect(client.request('health')).rejects.toMatchObject({ code: 'NOT_CONNECTED' });
  });
});

describe('back-off', () => {
  it('doubles from one second to thirty, never more than the plan and never less than half', () => {
    expect([0, 1, 2, 3, 4, 5, 50].map((attempt) => backoffMs(attempt, 1))).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    expect(backoffMs(3, 0)).toBe(4_000);
  });
});
