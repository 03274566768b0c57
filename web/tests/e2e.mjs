// Drives a real browser through the page of a running gateway.
//
//   node tests/e2e.mjs --url http://127.0.0.1:18789/ --token SECRET --shots /tmp/shots
//
// Texts may be adapted to the model behind the gateway:
//   --say "hello"        any text the model answers (streamed)
//   --rich-text "..."    text that makes the model answer with markdown (only for the pictures)
//   --tool-text "..."    text that makes the model call a tool; "" skips the step
//   --slow-text "..."    text that makes the model talk for several seconds; "" skips the step
//   --timeout-ms N        longest wait for anything, default 15000
//   --chromium PATH      browser to use, default /usr/bin/chromium
//
// Ends with "N passed, N failed" and a non-zero code if anything failed, console errors and foreign requests included.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const { values: args } = parseArgs({
  options: {
    url: { type: 'string', default: 'http://127.0.0.1:18789/' },
    token: { type: 'string', default: '' },
    shots: { type: 'string', default: '' },
    say: { type: 'string', default: 'Hello from the dashboard test' },
    'rich-text': { type: 'string', default: '' },
    'tool-text': { type: 'string', default: 'use tool session_status {}' },
    'slow-text': { type: 'string', default: '' },
    'timeout-ms': { type: 'string', default: '15000' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
  },
});

const TIMEOUT_MS = Number(args['timeout-ms']);
let passed = 0;
let failed = 0;
const complaints = [];

async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error?.message ?? error).split('\n').slice(0, 6).join('\n      ')}`);
    const told = await page.evaluate(() => window.__bad?.splice(0)).catch(() => []);
    if (told?.length) console.log(`      the page said: ${told.join(' | ')}`);
    await shot(`failed-${failed}`);
  }
}

async function finish() {
  await browser.close();
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

function expect(condition, words) {
  if (!condition) throw new Error(words);
}

const browser = await chromium.launch({
  executablePath: args.chromium,
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

/** A fresh profile, watched for errors and foreign requests. The built page brings its own strict policy. */
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 820 }, colorScheme: 'light', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  await page.addInitScript(() => {
    window.__bad = [];
    new MutationObserver((records) => {
      for (const { addedNodes } of records) for (const node of addedNodes) if (node.classList?.contains('bad') && node.classList.contains('notice')) window.__bad.push(node.textContent.trim());
    }).observe(document, { subtree: true, childList: true });
  });
  const home = new URL(args.url);
  page.on('console', (message) => {
    if (message.type() === 'error' || /Content Security Policy/i.test(message.text())) complaints.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => complaints.push(`page: ${error.message}`));
  page.on('request', (request) => {
    const target = new URL(request.url());
    if (target.protocol.startsWith('http') && target.host !== home.host) complaints.push(`foreign request: ${request.url()}`);
  });
  return page;
}

let page = await open();
async function shot(name) {
  if (!args.shots) return;
  mkdirSync(args.shots, { recursive: true });
  await page.screenshot({ path: join(args.shots, `${name}.png`), animations: 'disabled' }).catch(() => undefined);
}

const composer = () => page.locator('#message');
const lastAnswer = () => page.locator('article.agent').last();
const idle = () => page.waitForFunction(() => !document.querySelector('article.agent.live') && !document.querySelector('.go.stop'), null, { timeout: TIMEOUT_MS });
const nav = (name) => page.locator('nav .links').getByRole('link', { name, exact: false }).click();

/** Waits until the conversation is loaded, then sends. */
async function say(text) {
  await page.waitForFunction(() => document.querySelector('.hello') || document.querySelector('article'));
  await composer().fill(text);
  await page.keyboard.press('Enter');
}

await check('the login page comes first', async () => {
  await page.goto(args.url);
  await page.getByLabel('Gateway token or password').waitFor();
  await shot('01-login');
});

if (args.token) {
  await check('a wrong token is refused in the gateway’s words', async () => {
    await page.getByLabel('Gateway token or password').fill('certainly-not-the-token');
    await page.getByRole('button', { name: 'Connect' }).click();
    const alert = page.getByRole('alert');
    await alert.waitFor();
    expect(/unauthorized/i.test(await alert.innerText()), `said: ${await alert.innerText()}`);
    await shot('02-login-refused');
  });
}

await check('the right token lets in', async () => {
  await page.getByLabel('Gateway token or password').fill(args.token);
  await page.getByRole('button', { name: 'Connect' }).click();
  await page.locator('nav .state.up').waitFor();
  await composer().waitFor();
});
if (failed > 0) await finish();

await check('a message is answered, word by word', async () => {
  await page.evaluate(() => {
    window.__sizes = new Set();
    new MutationObserver(() => {
      const live = document.querySelector('article.agent.live .md');
      if (live) window.__sizes.add(live.textContent.length);
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  const before = await page.locator('article.agent').count();
  await say(args.say);
  await page.locator('article.user').last().getByText(args.say).waitFor();
  await page.waitForFunction((n) => document.querySelectorAll('article.agent').length > n, before);
  await page.waitForFunction(() => document.querySelector('article.agent:last-of-type .md')?.textContent.trim().length > 0);
  await idle();
  const sizes = await page.evaluate(() => window.__sizes.size);
  expect(sizes >= 2, `the text was seen at ${sizes} different lengths while it streamed`);
  expect((await lastAnswer().innerText()).trim().length > 0, 'the answer is empty');
  expect((await page.locator('article.user.pending').count()) === 0, 'the message still waits for the gateway');
  await shot('03-chat');
});

if (args['tool-text']) {
  await check('a tool call shows as a card with arguments and result', async () => {
    const before = await page.locator('[data-tool]').count();
    await say(args['tool-text']);
    await page.waitForFunction((n) => document.querySelectorAll('[data-tool]').length > n, before);
    await page.waitForFunction(() => ['done', 'error'].includes([...document.querySelectorAll('[data-tool]')].at(-1)?.dataset.status));
    await idle();
    const card = page.locator('[data-tool]').last();
    await card.getByRole('button').click();
    await card.getByRole('heading', { name: 'Result' }).waitFor();
    expect((await card.locator('pre').last().innerText()).trim().length > 0, 'the card is empty');
    await shot('04-tool');
    await card.getByRole('button').click();
  });
}

if (args['rich-text']) {
  await check('markdown is rendered and raw HTML stays text', async () => {
    await say(args['rich-text']);
    await page.locator('article.agent .code').last().waitFor();
    await idle();
    expect((await page.locator('article.agent img').count()) === 0, 'an image came through');
    await page.locator('article.agent .code').last().getByRole('button', { name: 'Copy' }).waitFor();
    await shot('05-markdown');
  });
}

if (args['slow-text']) {
  await check('a run can be stopped', async () => {
    await say(args['slow-text']);
    await page.locator('article.agent.live .md').waitFor();
    await shot('06-streaming');
    await page.getByRole('button', { name: 'Stop' }).click();
    await idle();
    await lastAnswer().getByText('Stopped').waitFor();
  });
  await check('scrolling up lets go of the end', async () => {
    await say(args['slow-text']);
    await page.locator('article.agent.live .md').waitFor();
    await page.waitForFunction(() => { const s = document.querySelector('.scroll'); return s.scrollHeight > s.clientHeight + 200; });
    await page.mouse.move(700, 400);
    await page.mouse.wheel(0, -500);
    await page.getByRole('button', { name: 'To the newest message' }).waitFor();
    const top = await page.locator('.scroll').evaluate((s) => s.scrollTop);
    const size = await lastAnswer().evaluate((a) => a.textContent.length);
    await page.waitForFunction((n) => [...document.querySelectorAll('article.agent')].at(-1).textContent.length > n + 20, size);
    expect(Math.abs((await page.locator('.scroll').evaluate((s) => s.scrollTop)) - top) < 4, 'the page scrolled by itself');
    await page.getByRole('button', { name: 'To the newest message' }).click();
    await page.getByRole('button', { name: 'Stop' }).click();
    await idle();
  });
}

const title = `Test ${Date.now().toString(36)}`;
let firstKey = '';
await check('a new session opens, is renamed and found by search', async () => {
  firstKey = await page.evaluate(() => location.hash);
  await page.getByRole('button', { name: 'New session' }).first().click();
  await page.waitForFunction((old) => location.hash.startsWith('#/chat/') && location.hash !== old, firstKey);
  await page.locator('.hello').waitFor();
  await shot('07-empty-session');
  await say(args.say);
  await page.waitForFunction(() => document.querySelector('article.agent .md')?.textContent.trim().length > 0);
  await idle();
  await page.locator('.chat header').getByRole('button', { name: /^Actions for/ }).click();
  await page.getByRole('menuitem', { name: 'Rename' }).click();
  await page.getByRole('textbox', { name: 'Name' }).fill(title);
  await page.getByRole('button', { name: 'Save' }).click();
  await page.locator('.chat h1', { hasText: title }).waitFor();
  await page.getByLabel('Search sessions').first().fill(title);
  await page.locator('[data-session]', { hasText: title }).waitFor();
  expect((await page.locator('[data-session]').count()) === 1, 'the search shows other sessions too');
  await page.getByLabel('Search sessions').first().fill('');
});

await check('switching sessions shows the other conversation', async () => {
  await page.evaluate((hash) => { location.hash = hash; }, firstKey);
  await page.waitForFunction((t) => document.querySelector('.chat h1')?.textContent !== t, title);
  await page.locator('article.user').first().waitFor();
  await page.locator('[data-session]', { hasText: title }).click();
  await page.locator('.chat h1', { hasText: title }).waitFor();
});

await check('the session is reset', async () => {
  await page.locator('.chat header').getByRole('button', { name: /^Actions for/ }).click();
  await page.getByRole('menuitem', { name: 'Reset' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Reset' }).click();
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await page.waitForFunction(() => document.querySelectorAll('article.user').length === 0);
});

await check('the Sessions page lists and deletes', async () => {
  await nav('Sessions');
  await page.getByRole('heading', { name: 'Sessions', level: 1 }).waitFor();
  const row = page.locator('.page li', { hasText: title });
  await row.waitFor();
  await shot('08-sessions');
  await row.getByRole('button', { name: /^Actions for/ }).click();
  await page.getByRole('menuitem', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await row.waitFor({ state: 'detached' });
});

await check('the Agents page shows every agent, and one can be talked to', async () => {
  await nav('Agents');
  const cards = page.locator('.page li.card');
  await cards.first().waitFor();
  await shot('09-agents');
  await cards.last().getByRole('button', { name: 'Chat' }).click();
  await page.waitForFunction(() => location.hash.startsWith('#/chat/'));
  await say(args.say);
  await page.waitForFunction(() => [...document.querySelectorAll('article.agent .md')].at(-1)?.textContent.trim().length > 0);
  await idle();
  const agents = await page.locator('select[aria-label="Agent"] option').evaluateAll((options) => options.map((o) => o.value));
  if (agents.length > 1) {
    await page.locator('nav select[aria-label="Agent"]').selectOption(agents[0]);
    await page.waitForFunction((id) => location.hash.includes(encodeURIComponent(`agent:${id}:`)), agents[0]);
  }
});

await check('a job is added, switched, run and removed', async () => {
  await nav('Automations');
  await page.getByRole('button', { name: 'Add job' }).click();
  await page.getByRole('textbox', { name: 'Name' }).fill(title);
  await page.getByLabel('What the agent is told').fill(args.say);
  await shot('10-cron-add');
  await page.getByRole('dialog').getByRole('button', { name: 'Add job' }).click();
  const row = page.locator(`[data-job="${title}"]`);
  await row.waitFor();
  const toggle = row.getByRole('switch');
  await toggle.click();
  await page.waitForFunction((t) => document.querySelector(`[data-job="${t}"] [role=switch]`)?.getAttribute('aria-checked') === 'false', title);
  await toggle.click();
  await page.waitForFunction((t) => document.querySelector(`[data-job="${t}"] [role=switch]`)?.getAttribute('aria-checked') === 'true', title);
  await row.getByRole('button', { name: /^Actions for/ }).click();
  await page.getByRole('menuitem', { name: 'Run now' }).click();
  await row.locator('.job button[aria-expanded]').first().click();
  await row.locator('.runs ol li').first().waitFor({ timeout: 60_000 });
  await shot('11-cron');
  await row.getByRole('button', { name: /^Actions for/ }).click();
  await page.getByRole('menuitem', { name: 'Remove' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
  await row.waitFor({ state: 'detached' });
});

await check('the Devices page knows this browser', async () => {
  await nav('Devices');
  await page.locator('.page li', { hasText: 'Dashboard' }).first().waitFor();
  await shot('12-devices');
});

await check('the Status page shows health and the log', async () => {
  await nav('Status');
  await page.getByText('Healthy').waitFor();
  await page.locator('.lines .line').first().waitFor();
  await shot('13-status');
});

await check('a reload stays signed in, and the address bar holds no secret', async () => {
  await page.reload();
  await page.locator('nav .state.up').waitFor();
  expect(!args.token || !page.url().includes(args.token), 'the token is in the address');
});

await check('the dark theme and the keyboard work', async () => {
  await nav('Chat');
  await composer().waitFor();
  const button = page.getByRole('button', { name: /^Theme:/ });
  await button.click();
  await button.click();
  expect((await page.evaluate(() => document.documentElement.dataset.theme)) === 'dark', 'the theme did not change');
  await page.keyboard.press('Tab');
  const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  expect(ring === 'solid', `the focus is not visible (${ring})`);
  await page.locator('article').first().waitFor();
  await shot('14-chat-dark');
  for (const [name, file] of [['Sessions', '15-sessions-dark'], ['Agents', '16-agents-dark'], ['Farm', '28-farm-dark'], ['Automations', '17-cron-dark'], ['Devices', '18-devices-dark'], ['Status', '19-status-dark']]) {
    await nav(name);
    await page.waitForFunction(() => document.querySelector('.page .card'));
    await shot(file);
  }
});

await check('signing out leads back to the login', async () => {
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Gateway token or password').waitFor();
  await shot('20-login-dark');
  await page.reload();
  await page.getByLabel('Gateway token or password').waitFor();
});

await check('on a phone: #token= signs in, the menu opens, nothing is cut off', async () => {
  await page.context().close();
  page = await open({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
  await page.goto(`${args.url}#token=${encodeURIComponent(args.token)}`);
  await composer().waitFor();
  expect(!args.token || !page.url().includes(args.token), 'the token stayed in the address');
  await page.locator('article, .hello').first().waitFor();
  await shot('21-phone-chat');
  const views = [['Sessions', '22-phone-sessions'], ['Agents', '23-phone-agents'], ['Farm', '29-phone-farm'], ['Automations', '24-phone-cron'], ['Devices', '25-phone-devices'], ['Status', '26-phone-status']];
  for (const [name, file] of views) {
    await page.getByRole('button', { name: 'Open the menu' }).click();
    await page.locator('nav .links').waitFor();
    if (name === 'Sessions') {
      await page.waitForFunction(() => document.querySelector('.side').getBoundingClientRect().left >= 0);
      await shot('27-phone-menu');
    }
    await nav(name);
    await page.waitForFunction(() => document.querySelector('.page .card'));
    await page.waitForFunction(() => document.querySelector('.side').getBoundingClientRect().right <= 1);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth || document.querySelector('.page').scrollWidth > innerWidth);
    expect(!wide, `${name} is wider than the screen`);
    await shot(file);
  }
});

await check('no console errors and no foreign requests', async () => {
  expect(complaints.length === 0, complaints.slice(0, 8).join('\n'));
});

await finish();
