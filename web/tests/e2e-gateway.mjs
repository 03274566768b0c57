// Starts a gateway of its own (fresh state folder, free port, demo model) and drives the page through it.
//
//   CLAWSTEAD_BIN=../target/debug/openclaw node tests/e2e-gateway.mjs [options of e2e.mjs]
//
// CLAWSTEAD_CHROMIUM names the browser. Ends as e2e.mjs does.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createWriteStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const READY_MS = 20_000;

const program = process.env.CLAWSTEAD_BIN;
if (!program) {
  console.error('CLAWSTEAD_BIN is not set: the path of the openclaw program to test');
  process.exit(2);
}

const port = await new Promise((resolve, reject) => {
  const server = createServer();
  server.once('error', reject);
  server.listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});
const folder = mkdtempSync(join(tmpdir(), 'clawstead-e2e-'));
const token = randomBytes(16).toString('hex');
const config = join(folder, 'openclaw.json');
writeFileSync(config, JSON.stringify({
  gateway: { mode: 'local', port, auth: { mode: 'token', token } },
  agents: { defaults: { model: 'demo/echo' } },
}));

// Only what a program needs: keys of model hosts must not leak into a test.
const { PATH, HOME, LANG } = process.env;
const log = join(folder, 'gateway.log');
const gateway = spawn(program, ['gateway'], {
  env: { PATH, HOME, LANG, OPENCLAW_STATE_DIR: folder, OPENCLAW_CONFIG_PATH: config },
  stdio: ['ignore', 'pipe', 'pipe'],
});
const sink = createWriteStream(log);
gateway.stdout.pipe(sink, { end: false });
gateway.stderr.pipe(sink, { end: false });
const ended = new Promise((resolve) => {
  gateway.once('exit', (code, signal) => resolve(code ?? signal));
  gateway.once('error', (error) => resolve(error.message));
});
let over = null;
void ended.then((how) => { over = how; });

async function ready() {
  const until = Date.now() + READY_MS;
  while (over === null && Date.now() < until) {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => null);
    if (answer?.ok) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}

let code = 1;
if (await ready()) {
  const chromium = process.env.CLAWSTEAD_CHROMIUM ? ['--chromium', process.env.CLAWSTEAD_CHROMIUM] : [];
  const script = fileURLToPath(new URL('e2e.mjs', import.meta.url));
  const args = [script, '--url', `http://127.0.0.1:${port}/`, '--token', token, ...chromium, ...process.argv.slice(2)];
  const test = spawn(process.execPath, args, { stdio: 'inherit' });
  code = await new Promise((resolve) => test.once('exit', (exit) => resolve(exit ?? 1)));
} else {
  console.log(`the gateway is not ready${over === null ? '' : `: it ended with ${over}`}`);
}
gateway.kill('SIGTERM');
await ended;
if (code !== 0) console.log(readFileSync(log, 'utf8').split('\n').slice(-40).join('\n'));
rmSync(folder, { recursive: true, force: true });
process.exit(code);
