// A small stand-in for the gateway, for work on the page: serves `dist`, speaks enough of protocol 4, and does what a
// healthy gateway seldom does. It keeps nothing and runs no agent; the page's end-to-end test is meant for a real one.
//
//   node tests/fake-gateway.mjs --port 18799 --token demo [--refusals N]
//
// With --refusals a new device is told N times that it needs approval, and then counts as approved.
//
// It starts with a session of 1,000 messages and one device that waits for approval. Messages with a meaning:
//   "use tool ..."   a tool call, which fails when the text says "fail"
//   "slow ..."       an answer of several seconds
//   "gap"            event numbers are skipped
//   "restart"        all connections close with 1012
//   "fail"           the run ends in an error
import { createHash, createPublicKey, randomUUID, verify } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { WebSocketServer } from 'ws';

const { values: args } = parseArgs({ options: { port: { type: 'string', default: '18799' }, token: { type: 'string', default: 'demo' }, refusals: { type: 'string', default: '0' } } });
const DIST = fileURLToPath(new URL('../dist/', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };
const DER = Buffer.from('302a300506032b6570032100', 'hex');
const started = Date.now();

const agents = [
  { id: 'main', workspace: '~/.openclaw/workspace', model: { primary: 'demo/one' } },
  { id: 'research', workspace: '~/.openclaw/workspace-research', model: { primary: 'demo/two' } },
];
const names = { main: 'Ada', research: 'Rosalind' };
const sessions = new Map();
const runs = new Map();
const jobs = new Map();
const jobRuns = [];
const log = ['{"time":"2026-01-01T00:00:00Z","level":"INFO","message":"started"}'];
let pending = [{ requestId: randomUUID(), deviceId: 'a'.repeat(64), platform: 'MacIntel', clientId: 'openclaw-control-ui', role: 'operator', scopes: ['operator.read'], ts: Date.now() }];
const paired = new Map();
const asks = new Map();
const sockets = new Set();

function session(key) {
  let s = sessions.get(key);
  if (!s) {
    s = { row: { key, sessionId: randomUUID(), agentId: key.split(':')[1] ?? 'main', isMain: key.endsWith(':main'), updatedAt: Date.now(), contextTokens: 128_000, totalTokens: 9_000, modelProvider: 'demo', model: 'one' }, messages: [], seq: 0 };
    sessions.set(key, s);
  }
  return s;
}

function store(key, message) {
  const s = session(key);
  const stored = { timestamp: Date.now(), ...message, __openclaw: { id: randomUUID(), seq: ++s.seq, ...(message.__openclaw ?? {}) } };
  s.messages.push(stored);
  s.row.updatedAt = Date.now();
  s.row.lastMessagePreview = typeof stored.content === 'string' ? stored.content : (stored.content.find((p) => p.type === 'text')?.text ?? s.row.lastMessagePreview);
  broadcast('session.message', { sessionKey: key, message: stored });
  changed(key, 'send');
  return stored;
}

const changed = (key, reason) => broadcast('sessions.changed', { sessionKey: key, reason, ts: Date.now(), session: sessions.get(key)?.row });

function broadcast(event, payload) {
  for (const c of sockets) c.ws.send(JSON.stringify({ type: 'event', event, payload, seq: ++c.seq }));
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function run(key, runId, text) {
  const state = { aborted: false };
  runs.set(runId, { key, state });
  const base = { runId, sessionKey: key, agentId: session(key).row.agentId };
  let seq = 0;
  const chat = (fields) => broadcast('chat', { ...base, seq: ++seq, ...fields });
  const agent = (stream, data) => broadcast('agent', { ...base, seq: ++seq, stream, ts: Date.now(), data });
  const tag = { __openclaw: { runId } };
  session(key).row.hasActiveRun = true;
  store(key, { role: 'user', content: text, idempotencyKey: `${runId}:user` });
  chat({ state: 'status', phase: 'starting_model' });
  await wait(150);
  if (/restart/i.test(text)) for (const c of [...sockets]) c.ws.close(1012, 'service restart');
  if (/gap/i.test(text)) for (const c of sockets) c.seq += 3;
  let error = '';
  if (/use tool/i.test(text)) {
    const bad = /fail/i.test(text);
    const call = { type: 'toolCall', id: `call_${runId}`, name: 'session_status', arguments: { detail: 'full' } };
    store(key, { role: 'assistant', content: [call], ...tag });
    agent('tool', { phase: 'start', name: call.name, toolCallId: call.id, args: call.arguments });
    await wait(400);
    const content = [{ type: 'text', text: bad ? 'No such session.' : 'status: idle\nmodel: demo/one' }];
    agent('tool', { phase: 'result', name: call.name, toolCallId: call.id, isError: bad, result: { content } });
    store(key, { role: 'toolResult', toolCallId: call.id, toolName: call.name, content, isError: bad, ...tag });
  } else if (/^fail/i.test(text)) {
    error = 'LLM request failed: the provider refused the request.';
  }
  const words = (/slow/i.test(text) ? 'A slow answer goes on and on. '.repeat(60) : `You said: ${text}. That is noted, and here is a longer thought about it.`).match(/\S+\s*/g) ?? [];
  let said = '';
  for (const word of error ? [] : words) {
    if (state.aborted) break;
    said += word;
    chat({ state: 'delta', deltaText: word, message: { role: 'assistant', content: [{ type: 'text', text: said }] } });
    await wait(/slow/i.test(text) ? 60 : 25);
  }
  runs.delete(runId);
  session(key).row.hasActiveRun = false;
  if (said) store(key, { role: 'assistant', content: [{ type: 'text', text: said }], provider: 'demo', model: 'one', usage: { output: words.length }, stopReason: state.aborted ? 'aborted' : 'stop', ...tag });
  const message = { role: 'assistant', content: [{ type: 'text', text: said }] };
  if (error) chat({ state: 'error', errorMessage: error });
  else chat({ state: state.aborted ? 'aborted' : 'final', message });
  changed(key, 'run');
}

class Refusal extends Error {
  constructor(code, message, details) {
    super(message);
    this.shape = { code, message, ...(details ? { details } : {}) };
  }
}

const METHODS = {
  health: () => ({ ok: true, ts: Date.now(), channels: {}, sessions: { count: sessions.size }, heartbeatSeconds: 1800, eventLoop: { delayP99Ms: 3 } }),
  status: () => ({ runtimeVersion: '2026.9.6', pid: process.pid, processMemory: { rssBytes: process.memoryUsage().rss }, tasks: { active: runs.size, failures: 0 } }),
  'agents.list': () => ({ defaultId: 'main', mainKey: 'main', agents }),
  'agent.identity.get': ({ agentId }) => ({ agentId, name: names[agentId] ?? agentId, avatar: 'A' }),
  'sessions.subscribe': () => ({ subscribed: true }),
  'sessions.messages.subscribe': ({ key }) => ({ subscribed: true, key }),
  'sessions.messages.unsubscribe': ({ key }) => ({ subscribed: false, key }),
  'sessions.list': () => ({ count: sessions.size, hasMore: false, sessions: [...sessions.values()].map((s) => s.row) }),
  'sessions.create': ({ agentId }) => {
    const key = `agent:${agentId}:dashboard:${randomUUID()}`;
    session(key);
    return { ok: true, key };
  },
  'sessions.patch': ({ key, ...patch }) => {
    Object.assign(session(key).row, patch);
    changed(key, 'patch');
    return { ok: true, key };
  },
  'sessions.reset': ({ key }) => {
    session(key).messages = [];
    changed(key, 'reset');
    return { ok: true, key };
  },
  'sessions.delete': ({ key }) => {
    const deleted = sessions.delete(key);
    broadcast('sessions.changed', { sessionKey: key, reason: 'delete', ts: Date.now() });
    return { ok: true, key, deleted, archived: [] };
  },
  'chat.history': ({ sessionKey, limit = 80, offset = 0 }) => {
    const s = session(sessionKey);
    const end = s.messages.length - offset;
    const messages = s.messages.slice(Math.max(0, end - limit), end);
    const nextOffset = offset + messages.length;
    const hasMore = nextOffset < s.messages.length;
    const inFlight = [...runs].find(([, r]) => r.key === sessionKey);
    return { sessionKey, sessionId: s.row.sessionId, messages, hasMore, ...(hasMore ? { nextOffset } : {}), totalMessages: s.messages.length, ...(inFlight ? { inFlightRun: { runId: inFlight[0], text: '' } } : {}) };
  },
  'chat.send': ({ sessionKey, message, idempotencyKey }) => {
    void run(sessionKey, idempotencyKey, message);
    return { runId: idempotencyKey, status: 'started' };
  },
  'chat.abort': ({ sessionKey }) => {
    const runIds = [...runs].filter(([, r]) => r.key === sessionKey).map(([id, r]) => ((r.state.aborted = true), id));
    return { ok: true, aborted: runIds.length > 0, runIds };
  },
  'cron.status': () => ({ enabled: true, jobs: jobs.size, nextWakeAtMs: Date.now() + 600_000 }),
  'cron.list': () => ({ jobs: [...jobs.values()], hasMore: false }),
  'cron.add': (job) => {
    const made = { id: randomUUID(), enabled: true, ...job, state: { nextRunAtMs: Date.now() + 3_600_000 } };
    jobs.set(made.id, made);
    broadcast('cron', { jobId: made.id, action: 'added', job: made });
    return made;
  },
  'cron.update': ({ id, patch }) => Object.assign(job(id), patch),
  'cron.run': ({ id }) => {
    job(id);
    jobRuns.unshift({ ts: Date.now(), jobId: id, status: 'ok', runAtMs: Date.now(), durationMs: 12, summary: 'Done.', runId: randomUUID() });
    broadcast('cron', { jobId: id, action: 'finished', job: job(id) });
    return { ok: true, enqueued: true };
  },
  'cron.runs': ({ id }) => ({ entries: jobRuns.filter((r) => r.jobId === id) }),
  'cron.remove': ({ id }) => ({ ok: true, removed: jobs.delete(id) }),
  'device.pair.list': () => ({ pending, paired: [...paired.values()] }),
  'device.pair.approve': ({ requestId }) => resolvePairing(requestId, 'approved'),
  'device.pair.reject': ({ requestId }) => resolvePairing(requestId, 'rejected'),
  'device.pair.remove': ({ deviceId }) => (paired.delete(deviceId), { deviceId }),
  'logs.tail': ({ cursor = 0 }) => ({ file: 'demo.log', cursor: log.length, lines: log.slice(cursor) }),
};

function job(id) {
  const found = jobs.get(id);
  if (!found) throw new Refusal('INVALID_REQUEST', `unknown cron job: ${id}`, { code: 'CRON_JOB_NOT_FOUND' });
  return found;
}

function resolvePairing(requestId, decision) {
  const request = pending.find((p) => p.requestId === requestId);
  if (!request) throw new Refusal('INVALID_REQUEST', 'unknown requestId');
  pending = pending.filter((p) => p !== request);
  if (decision === 'approved') paired.set(request.deviceId, { ...request, connected: false, lastSeenAtMs: Date.now() });
  broadcast('device.pair.resolved', { requestId, deviceId: request.deviceId, decision, ts: Date.now() });
  return { requestId, deviceId: request.deviceId };
}

/** Checks the handshake as the real gateway does: credentials first, then the device's signature. */
function hello(params, nonce) {
  const { auth = {}, device, client, role, scopes } = params;
  const raw = Buffer.from(device.publicKey, 'base64url');
  const text = ['v3', device.id, client.id, client.mode, role, scopes.join(','), device.signedAt, auth.token ?? auth.deviceToken ?? '', nonce, client.platform.toLowerCase(), ''].join('|');
  if (createHash('sha256').update(raw).digest('hex') !== device.id) throw new Refusal('INVALID_REQUEST', 'device identity mismatch', { code: 'DEVICE_AUTH_DEVICE_ID_MISMATCH' });
  const key = createPublicKey({ key: Buffer.concat([DER, raw]), format: 'der', type: 'spki' });
  if (!verify(null, Buffer.from(text), key, Buffer.from(device.signature, 'base64url'))) throw new Refusal('INVALID_REQUEST', 'device signature invalid', { code: 'DEVICE_AUTH_SIGNATURE_INVALID' });
  const own = createHash('sha256').update(`${device.id}:${args.token}`).digest('base64url');
  if (auth.token !== args.token && auth.deviceToken !== own) throw new Refusal('INVALID_REQUEST', 'unauthorized: gateway token mismatch', { code: 'AUTH_TOKEN_MISMATCH' });
  const asked = (asks.get(device.id) ?? 0) + 1;
  asks.set(device.id, asked);
  if (asked <= Number(args.refusals)) {
    throw new Refusal('NOT_PAIRED', 'pairing required: device is not approved yet', { code: 'PAIRING_REQUIRED', reason: 'not-paired', requestId: 'request-1', deviceId: device.id });
  }
  paired.set(device.id, { deviceId: device.id, clientId: client.id, platform: client.platform, role, scopes, connected: true, lastSeenAtMs: Date.now() });
  return {
    type: 'hello-ok', protocol: 4, server: { version: '2026.9.6', connId: randomUUID() },
    features: { methods: Object.keys(METHODS), events: [] },
    snapshot: { presence: [{ host: 'demo', mode: 'gateway', instanceId: 'self' }], health: METHODS.health(), uptimeMs: Date.now() - started, sessionDefaults: { defaultAgentId: 'main', mainKey: 'main', mainSessionKey: 'agent:main:main' } },
    auth: { method: 'token', role, scopes, deviceToken: own }, policy: { maxPayload: 26_214_400, maxBufferedBytes: 52_428_800, tickIntervalMs: 30_000 },
  };
}

const server = createServer(async (request, response) => {
  const path = normalize(new URL(request.url, 'http://x').pathname);
  const file = extname(path) ? path : '/index.html';
  try {
    const body = await readFile(join(DIST, file));
    response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream', 'cache-control': 'no-cache', 'x-content-type-options': 'nosniff' });
    response.end(body);
  } catch {
    response.writeHead(404).end('Not Found');
  }
});

new WebSocketServer({ server, perMessageDeflate: false }).on('connection', (ws) => {
  const connection = { ws, seq: 0 };
  const nonce = randomUUID();
  let open = false;
  ws.send(JSON.stringify({ type: 'event', event: 'connect.challenge', payload: { nonce, ts: Date.now() } }));
  ws.on('message', (data) => {
    const { id, method, params = {} } = JSON.parse(data);
    log.push(JSON.stringify({ time: new Date().toISOString(), level: 'INFO', target: 'ws', message: `request ${method}` }));
    try {
      const known = open ? METHODS[method] : method === 'connect' ? (p) => hello(p, nonce) : null;
      if (!known) throw new Refusal('INVALID_REQUEST', `unknown method: ${method}`);
      const payload = known(params);
      if (!open) sockets.add(connection);
      open = true;
      ws.send(JSON.stringify({ type: 'res', id, ok: true, payload }));
    } catch (error) {
      const shape = error.shape ?? { code: 'UNAVAILABLE', message: String(error.message) };
      ws.send(JSON.stringify({ type: 'res', id, ok: false, error: shape }));
      if (!open) ws.close(1008, shape.message.slice(0, 120));
    }
  });
  ws.on('close', () => sockets.delete(connection));
});

setInterval(() => broadcast('tick', { ts: Date.now() }), 30_000).unref();
for (let n = 1; n <= 1_000; n += 1) {
  store('agent:main:long', n % 2 ? { role: 'user', content: `Question ${n}` } : { role: 'assistant', content: [{ type: 'text', text: `Answer **${n}** with \`code\`.\n\n- one\n- two` }] });
}
session('agent:main:long').row.label = 'A long history';
session('agent:main:main');
server.listen(Number(args.port), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/#token=${args.token}`));
