// Drives the Farm page through a farm of two gateways over a real Consul, in a real browser.
//
//   CLAWSTEAD_BIN=../target/debug/openclaw CLAWSTEAD_CONSUL=/usr/bin/consul node tests/e2e-farm.mjs [--shots DIR] [--timeout-ms N]
//
// CLAWSTEAD_CHROMIUM names the browser. Without Consul the test says that it was skipped. Ends with "N passed, N failed"
// and a non-zero code if anything failed, console errors and foreign requests included.
import { appendFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { Farm, TOKEN, until } from './farm-of-two.mjs';

const { values: args } = parseArgs({ options: { shots: { type: 'string', default: '' }, 'timeout-ms': { type: 'string', default: '20000' } } });
const { CLAWSTEAD_BIN, CLAWSTEAD_CONSUL, CLAWSTEAD_CHROMIUM, CLAWSTEAD_SKIPS } = process.env;
if (!CLAWSTEAD_BIN) {
  console.error('CLAWSTEAD_BIN is not set: the path of the openclaw program to test');
  process.exit(2);
}
if (!CLAWSTEAD_CONSUL || !existsSync(CLAWSTEAD_CONSUL)) {
  const why = 'CLAWSTEAD_CONSUL names no program';
  console.log(`SKIPPED: web e2e-farm: consul: ${why}\n0 passed, 0 failed`);
  if (CLAWSTEAD_SKIPS) appendFileSync(CLAWSTEAD_SKIPS, `web e2e-farm\tconsul\t${why}\n`);
  process.exit(0);
}

const TIMEOUT_MS = Number(args['timeout-ms']);
let passed = 0;
let failed = 0;
let page;
const complaints = [];
const homes = new Set();

async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error?.message ?? error).split('\n').slice(0, 6).join('\n      ')}`);
    await shot(`farm-failed-${failed}`);
  }
}

function expect(condition, words) {
  if (!condition) throw new Error(words);
}

async function shot(name, fullPage = false) {
  if (!args.shots || !page) return;
  mkdirSync(args.shots, { recursive: true });
  if (fullPage) {
    // The page scrolls inside its frame: for the picture the window grows to what is in it.
    const size = page.viewportSize();
    const height = await page.evaluate(() => document.querySelector('.page')?.scrollHeight ?? innerHeight);
    await page.setViewportSize({ width: size.width, height: Math.min(4_000, height + 60) });
    await page.screenshot({ path: join(args.shots, `${name}.png`), animations: 'disabled' }).catch(() => undefined);
    await page.setViewportSize(size);
    return;
  }
  await page.screenshot({ path: join(args.shots, `${name}.png`), animations: 'disabled' }).catch(() => undefined);
}

const browser = await chromium.launch({
  executablePath: CLAWSTEAD_CHROMIUM || '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

/** Requests of one kind that wait for their answer, seen at the socket. */
function watchRequests(page, method) {
  const seen = { waiting: new Set(), most: 0, sent: 0 };
  page.on('websocket', (socket) => {
    socket.on('framesent', ({ payload }) => {
      const frame = JSON.parse(payload);
      if (frame.method !== method) return;
      seen.sent += 1;
      seen.waiting.add(frame.id);
      seen.most = Math.max(seen.most, seen.waiting.size);
    });
    socket.on('framereceived', ({ payload }) => {
      const frame = JSON.parse(payload);
      if (frame.type === 'res') seen.waiting.delete(frame.id);
    });
  });
  return seen;
}

/** A fresh profile, watched for errors and foreign requests. */
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: 'light', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  page.on('console', (message) => {
    if (message.type() === 'error' || /Content Security Policy/i.test(message.text())) complaints.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => complaints.push(`page: ${error.message}`));
  page.on('request', (request) => {
    const target = new URL(request.url());
    if (target.protocol.startsWith('http') && !homes.has(target.host)) complaints.push(`foreign request: ${request.url()}`);
  });
  return page;
}

const farm = new Farm(CLAWSTEAD_BIN);
const address = (name) => `http://127.0.0.1:${farm.ports[name]}/`;
const nav = (name) => page.locator('nav .links').getByRole('link', { name }).click();
const gateway = (name, health) => page.locator(`[data-gateway="${name}-gateway"]${health ? `[data-health="${health}"]` : ''}`);
const table = (label) => page.getByRole('table', { name: label });
const dead = () => page.locator('[data-dead]');
const idle = () => page.waitForFunction(() => !document.querySelector('article.agent.live') && !document.querySelector('.go.stop'));

async function say(text) {
  await page.waitForFunction(() => document.querySelector('.hello') || document.querySelector('article'));
  await page.locator('#message').fill(text);
  await page.keyboard.press('Enter');
}

try {
  await farm.make(CLAWSTEAD_CONSUL);
  for (const name of Object.keys(farm.ports)) homes.add(new URL(address(name)).host);

  page = await open();
  await check('a gateway without a farm explains what one is and how to make it', async () => {
    await page.goto(`${address('alone')}#token=${TOKEN}`);
    await page.locator('nav .state.up').waitFor();
    await nav('Farm');
    await page.locator('[data-farm="none"]').waitFor();
    const text = await page.locator('[data-farm="none"]').innerText();
    expect(text.includes('openclaw farm init'), text);
    expect((await page.getByRole('alert').count()) === 0, 'it is shown as a failure');
    await shot('farm-01-none');
    await page.context().close();
  });

  page = await open();
  const polls = watchRequests(page, 'farm.status');
  await check('the map shows both gateways with their agents, and which one this is', async () => {
    await page.goto(`${address('jerry')}#token=${TOKEN}`);
    await page.locator('nav .state.up').waitFor();
    await nav('Farm');
    await gateway('jerry', 'healthy').waitFor();
    await gateway('bobby', 'healthy').waitFor();
    const names = (name) => gateway(name).locator('[data-agent]').evaluateAll((links) => links.map((link) => link.dataset.agent));
    expect(String(await names('jerry')) === 'jerry,mallory', `at jerry-gateway: ${await names('jerry')}`);
    expect(String(await names('bobby')) === 'bobby', `at bobby-gateway: ${await names('bobby')}`);
    expect((await gateway('jerry').getByText('This one').count()) === 1 && (await gateway('bobby').getByText('This one').count()) === 0, 'the wrong one is marked');
    expect(/\d+\.\d+\.\d+/.test(await gateway('bobby').innerText()), 'the version is missing');
    expect(/Healthy for \d+ (s|min)/.test(await gateway('bobby').innerText()), 'since when is missing');
    expect(/octant/.test(await page.locator('.page-head').innerText()), 'the farm has no name');
    expect(/answers/.test(await page.locator('[data-engine="consul"]').first().innerText()), 'the engine’s state is missing');
    await page.getByText('All well').waitFor();
    await page.getByText('No letter is under way.').waitFor();
  });

  await check('an agent of another gateway carries its name in the list, the menu and the chat', async () => {
    await nav('Agents');
    const card = page.locator('.page li.card', { has: page.locator('[data-at="bobby-gateway"]') });
    await card.waitFor();
    expect((await card.getByRole('heading').innerText()).toLowerCase().includes('bobby'), 'the wrong card has the name');
    expect((await page.locator('[data-at]').count()) === 1, 'agents of this gateway carry a name too');
    expect(/bobby-gateway/.test(await page.locator('nav select option[value="bobby"]').textContent()), 'the menu lacks the name');
    await shot('farm-02-agents');
    await card.getByRole('button', { name: 'Chat' }).click();
    await page.locator('.chat header', { hasText: 'at bobby-gateway' }).waitFor();
    await say('Hello from the other gateway');
    await page.waitForFunction(() => [...document.querySelectorAll('article.agent .md')].at(-1)?.textContent.includes('Hello from the other gateway'));
    await idle();
    await shot('farm-03-chat');
  });

  await check('a letter is listed, and opens as a timeline with the keyboard', async () => {
    await page.locator('nav select[aria-label="Agent"]').selectOption('jerry');
    await page.waitForFunction(() => location.hash.includes('jerry'));
    await say('use tool sessions_send {"agentId":"bobby","message":"Please check the nomad status","timeoutSeconds":20}');
    await page.locator('[data-tool][data-status="done"]').waitFor();
    await nav('Farm');
    const row = table('Letters that ended lately').locator('tr', { hasText: 'sessions.send' });
    await row.getByText('Done').waitFor();
    const button = row.getByRole('button', { name: /jerry\s+to\s+bobby/ });
    await button.focus();
    await page.keyboard.press('Enter');
    const life = page.getByRole('dialog');
    await life.getByText('In the receiver’s inbox').waitFor();
    const steps = await life.locator('ol li').allInnerTexts();
    expect(steps.length === 4 && /^Written/.test(steps[0]) && /^Sent, attempt 1/.test(steps[1]) && /done with it/.test(steps[3]), steps.join(' | '));
    await shot('farm-04-letter');
    await page.keyboard.press('Escape');
    await life.waitFor({ state: 'detached' });
    expect(await button.evaluate((node) => node === document.activeElement), 'the focus did not come back');
    // The answer that came in is a letter of its own.
    await table('Letters that ended lately').locator('tr', { hasText: 'reply' }).getByText('In', { exact: true }).waitFor();
  });

  await check('a letter that nobody may take is dead, and can be read', async () => {
    await farm.ask('jerry', 'mallory', 'bobby', 'Give me everything', 5);
    await dead().first().waitFor();
    expect(/forbidden/.test(await dead().first().innerText()), await dead().first().innerText());
    await page.locator('tr[data-state="dead-letter"]').getByText('Given up').waitFor();
    await dead().first().getByRole('button', { name: /^Show/ }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByText('Give me everything').first().waitFor();
    await dialog.getByText('Given up: forbidden').waitFor();
    await shot('farm-05-dead');
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
  });

  await check('a replay asks first, and sends a new letter', async () => {
    const replay = dead().first().getByRole('button', { name: /^Replay/ });
    await replay.click();
    const dialog = page.getByRole('dialog');
    await shot('farm-06-replay');
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    await dialog.waitFor({ state: 'detached' });
    const kept = JSON.parse(await farm.run('jerry', ['farm', 'dlq', 'list', '--json'])).letters;
    expect(kept.length === 1 && !kept[0].replayedAs, 'a cancelled replay was done');
    await replay.click();
    await dialog.getByRole('button', { name: 'Replay' }).click();
    await dialog.waitFor({ state: 'detached' });
    // The rules are as they were: the new letter is dead as well.
    await page.waitForFunction(() => document.querySelectorAll('[data-dead]').length === 2);
    await page.locator('[data-dead]', { hasText: 'Replayed' }).waitFor();
    expect((await page.getByRole('button', { name: /^Replay/ }).count()) === 1, 'what was replayed can be replayed again');
  });

  await check('a drop asks first, and removes', async () => {
    const row = page.locator('[data-dead]', { hasText: 'Replayed' });
    await row.getByRole('button', { name: /^Drop/ }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Drop' }).click();
    await row.waitFor({ state: 'detached' });
    expect((await dead().count()) === 1, 'the other one is gone too');
    expect(JSON.parse(await farm.run('jerry', ['farm', 'dlq', 'list', '--json'])).letters.length === 1, 'the gateway still has it');
  });

  let asked;
  await check('a gateway that died is silent, its agent is marked, and letters for it wait', async () => {
    await farm.end('bobby', 'SIGKILL');
    asked = farm.ask('jerry', 'jerry', 'bobby', 'Are you there?', 60);
    asked.catch(() => undefined);
    await gateway('bobby', 'silent').waitFor({ timeout: 60_000 });
    await page.locator('[aria-label="Problems"]').getByText('bobby-gateway is silent').waitFor();
    await gateway('bobby').getByText('does not answer').waitFor();
    await table('Letters under way').locator('tr', { hasText: 'sessions.send' }).waitFor();
    expect((await page.locator('.page').getAttribute('data-farm-live')) === 'true', 'the page does not follow the events of the farm');
    await shot('farm-07-silent', true);
    await page.waitForFunction(() => document.querySelector('nav select option[value="bobby"]')?.textContent.includes('away'));
    await nav('Agents');
    await page.locator('[data-at="bobby-gateway"].bad').waitFor();
    await page.evaluate(() => { location.hash = `#/chat/${encodeURIComponent('agent:bobby:main')}`; });
    await page.locator('.chat .away').waitFor();
  });

  await check('it comes back: the chat goes on, and the letter that waited is done', async () => {
    // After a reload nothing of the conversation is here, and its gateway cannot be asked.
    await page.reload();
    await page.locator('.chat').getByRole('alert').waitFor();
    await shot('farm-08-chat-silent');
    await farm.gateway('bobby');
    await page.locator('article', { hasText: 'Hello from the other gateway' }).first().waitFor({ timeout: 60_000 });
    expect((await page.locator('.chat .away').count()) === 0, 'the warning stayed');
    await nav('Farm');
    await gateway('bobby', 'healthy').waitFor({ timeout: 60_000 });
    await asked;
    await page.getByText('No letter is under way.').waitFor({ timeout: 30_000 });
    await page.locator('[aria-label="Problems"]').waitFor({ state: 'detached' });
    await shot('farm-09-again', true);
  });

  await check('the page looks again by itself, one look at a time, and not while it is hidden', async () => {
    expect(polls.most === 1, `${polls.most} looks at a time`);
    const before = polls.sent;
    await until('two more looks', () => polls.sent >= before + 2, 15_000);
    const pretend = (state) => page.evaluate((state) => {
      Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, state);
    await until('no look under way', () => polls.waiting.size === 0);
    await pretend('hidden');
    const hidden = polls.sent;
    // More than two intervals, by the page's own clock: what is watched for is that nothing happens.
    await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 7_000)));
    expect(polls.sent === hidden, `${polls.sent - hidden} looks while hidden`);
    await pretend('visible');
    await until('a look when it is seen again', () => polls.sent > hidden, 5_000);
  });

  await check('the dark theme', async () => {
    const theme = page.getByRole('button', { name: /^Theme:/ });
    await theme.click();
    await theme.click();
    expect((await page.evaluate(() => document.documentElement.dataset.theme)) === 'dark', 'the theme did not change');
    await shot('farm-10-dark', true);
    await table('Letters that ended lately').locator('tbody tr').first().click();
    await page.getByRole('dialog').waitFor();
    await shot('farm-11-dark-letter');
    await page.keyboard.press('Escape');
  });

  await check('on a phone nothing is cut off, and a letter opens', async () => {
    await page.context().close();
    page = await open({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
    await page.goto(`${address('jerry')}#token=${TOKEN}`);
    await page.locator('#message').waitFor();
    await page.getByRole('button', { name: 'Open the menu' }).click();
    await nav('Farm');
    await gateway('bobby').waitFor();
    await page.waitForFunction(() => document.querySelector('.side').getBoundingClientRect().right <= 1);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth || document.querySelector('.page').scrollWidth > innerWidth);
    expect(!wide, 'the page is wider than the screen');
    const rows = table('Letters that ended lately').locator('tbody tr');
    const cut = await rows.evaluateAll((rows) => rows.flatMap((row) => [...row.children]).filter((cell) => cell.getBoundingClientRect().right > innerWidth).length);
    expect(cut === 0, `${cut} cells are cut off`);
    await shot('farm-12-phone', true);
    await rows.first().tap();
    const dialog = page.getByRole('dialog');
    await dialog.locator('ol li').first().waitFor();
    const box = await dialog.boundingBox();
    expect(box.x >= 0 && box.x + box.width <= 390, 'the dialog is wider than the screen');
    await shot('farm-13-phone-letter');
    await page.keyboard.press('Escape');
  });

  await check('a gateway that was told to stop is stopped, not silent', async () => {
    await farm.end('bobby', 'SIGTERM');
    await gateway('bobby', 'stopped').waitFor({ timeout: 30_000 });
    await gateway('bobby').getByText('Stopped').waitFor();
    await shot('farm-14-stopped');
  });

  await check('without the coordination store the page says so, and keeps what was known', async () => {
    await farm.end('consul', 'SIGKILL');
    const engine = page.locator('[data-engine="consul"]').first();
    await engine.getByText('does not answer').waitFor({ timeout: 60_000 });
    await page.locator('[aria-label="Problems"]').getByText('the coordination store does not answer').waitFor();
    expect((await page.locator('[data-gateway]').count()) === 2, 'the gateways are gone');
    expect((await dead().count()) === 1, 'the dead letters are gone');
    await page.locator('.page').evaluate((page) => page.scrollTo(0, 0));
    await shot('farm-15-no-store');
  });

  await check('no console errors and no foreign requests', async () => {
    expect(complaints.length === 0, complaints.slice(0, 8).join('\n'));
  });
} catch (error) {
  failed += 1;
  console.log(`FAIL  the farm\n      ${String(error?.message ?? error)}`);
}
await browser.close();
if (failed > 0) console.log(farm.logs());
await farm.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
