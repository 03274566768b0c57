// A farm of two gateways over a Consul of its own, made with the command line as its operator would: jerry-gateway with
// the agents jerry and mallory, bobby-gateway with bobby. The rules let jerry and bobby write to each other; mallory may
// not, so what she writes ends as a dead letter. All of it lives in one folder and on free ports of this machine.
import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PATIENCE_MS = 30_000;
export const TOKEN = 'a-token-of-the-test';

export async function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Asks again until the answer is true, or says what was waited for. */
export async function until(what, ask, patience = PATIENCE_MS) {
  const end = Date.now() + patience;
  while (Date.now() < end) {
    const answer = await Promise.resolve().then(ask).catch(() => null);
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${what}: not within ${patience / 1000} s`);
}

export class Farm {
  #program;
  #folder = mkdtempSync(join(tmpdir(), 'clawstead-farm-'));
  #running = new Map();
  ports = {};

  constructor(program) {
    this.#program = program;
  }

  #home(name) {
    return join(this.#folder, name);
  }

  #configure(name, agents) {
    const port = this.ports[name];
    const entries = Object.fromEntries(agents.map((agent) => [agent, { workspace: `~/.openclaw/workspace-${agent}` }]));
    const several = agents.length > 1;
    const config = {
      gateway: { mode: 'local', port, bind: 'loopback', auth: { mode: 'token', token: TOKEN } },
      agents: {
        ...(several ? { ownership: 'explicit' } : {}),
        defaults: {
          model: { primary: 'demo/echo' }, skipBootstrap: true,
          heartbeat: { every: '0m', ...(several ? { agentId: agents[0] } : {}) },
          ...(several ? { systemAgent: { agentId: agents[0] } } : {}),
        },
        entries,
      },
      tools: { agentToAgent: { enabled: true } },
      update: { checkOnStart: false },
      discovery: { mdns: { mode: 'off' } },
    };
    mkdirSync(join(this.#home(name), '.openclaw'), { recursive: true });
    writeFileSync(join(this.#home(name), '.openclaw', 'openclaw.json'), JSON.stringify(config, null, 2));
  }

  /** Only what a program needs: keys of model hosts must not leak into a test. */
  #env(name) {
    return { PATH: process.env.PATH, LANG: process.env.LANG, HOME: this.#home(name) };
  }

  #start(name, program, args, cwd) {
    const child = spawn(program, args, { env: this.#env(name), cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    const sink = createWriteStream(join(this.#folder, `${name}.log`), { flags: 'a' });
    child.stdout.pipe(sink, { end: false });
    child.stderr.pipe(sink, { end: false });
    const ended = new Promise((resolve) => {
      child.once('exit', resolve);
      child.once('error', resolve);
    });
    this.#running.set(name, { child, ended });
    return ended;
  }

  /** A command as a person of this node types it; what it printed. */
  run(name, args) {
    return new Promise((resolve, reject) => {
      const child = spawn(this.#program, args, { env: this.#env(name), stdio: ['ignore', 'pipe', 'pipe'] });
      let out = '';
      let err = '';
      child.stdout.on('data', (text) => (out += text));
      child.stderr.on('data', (text) => (err += text));
      child.once('error', reject);
      child.once('exit', (code) => (code === 0 ? resolve(out) : reject(new Error(`openclaw ${args.join(' ')}: ${code}\n${out}${err}`))));
    });
  }

  /** Lets an agent write to another one, without waiting for the answer of the model. */
  ask(name, agent, to, message, timeoutSeconds = 20) {
    const call = `use tool sessions_send ${JSON.stringify({ agentId: to, message, timeoutSeconds })}`;
    return this.run(name, ['agent', '--agent', agent, '--message', call]);
  }

  async gateway(name) {
    let over = false;
    void this.#start(name, this.#program, ['gateway'], this.#home(name)).then(() => (over = true));
    await until(`${name} is ready`, async () => {
      if (over) throw new Error('it ended');
      return (await fetch(`http://127.0.0.1:${this.ports[name]}/readyz`)).ok;
    });
  }

  /** Ends a gateway: SIGKILL leaves it silent, SIGTERM lets it say that it stops. */
  async end(name, signal) {
    const { child, ended } = this.#running.get(name) ?? {};
    if (!child) return;
    child.kill(signal);
    await ended;
    this.#running.delete(name);
  }

  async make(consul) {
    const [http, server, lan, wan] = [await freePort(), await freePort(), await freePort(), await freePort()];
    const data = this.#home('consul');
    mkdirSync(data, { recursive: true });
    const ports = `ports { dns = -1 grpc = -1 http = ${http} server = ${server} serf_lan = ${lan} serf_wan = ${wan} }`;
    void this.#start('consul', consul, ['agent', '-dev', '-client', '127.0.0.1', '-bind', '127.0.0.1', '-data-dir', data, '-hcl', ports], data);
    const coord = `http://127.0.0.1:${http}`;
    await until('Consul has a leader', async () => (await (await fetch(`${coord}/v1/status/leader`)).text()).includes(':'));

    for (const [name, agents] of [['alone', ['main']], ['jerry', ['jerry', 'mallory']], ['bobby', ['bobby']]]) {
      this.ports[name] = await freePort();
      this.#configure(name, agents);
    }
    const engines = ['--coord', 'consul', '--coord-addr', coord, '--bus', 'consul'];
    const listen = async () => ['--peer-listen', `127.0.0.1:${await freePort()}`];
    await this.run('jerry', ['farm', 'init', '--id', 'octant', '--gateway', 'jerry-gateway', ...engines, ...(await listen()), '--agent', 'bobby', '--yes', '--json']);
    const [pin] = JSON.parse(await this.run('jerry', ['config', 'get', 'farm.roots', '--json']));
    await this.run('bobby', ['farm', 'enroll', '--id', 'octant', '--gateway', 'bobby-gateway', ...engines, '--root', pin, ...(await listen()), '--agent', 'jerry', '--json']);
    await this.run('jerry', ['farm', 'approve', 'bobby-gateway', '--yes', '--json']);
    await Promise.all(['alone', 'jerry', 'bobby'].map((name) => this.gateway(name)));
    await until('jerry’s gateway knows bobby', async () => {
      const status = JSON.parse(await this.run('jerry', ['farm', 'status', '--json']));
      return status.agents.some((agent) => agent.id === 'bobby' && agent.gateway === 'bobby-gateway' && agent.healthy);
    });
  }

  logs() {
    return ['jerry', 'bobby'].map((name) => {
      const text = readFileSync(join(this.#folder, `${name}.log`), 'utf8');
      return `---- ${name} ----\n${text.split('\n').slice(-25).join('\n')}`;
    }).join('\n');
  }

  async close() {
    for (const name of [...this.#running.keys()]) await this.end(name, name === 'consul' ? 'SIGKILL' : 'SIGTERM');
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
