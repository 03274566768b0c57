// What a healthy gateway seldom does, played by the stand-in gateway: long histories, lost events, restarts, failed
// runs, devices that wait. Starts its own gateway on a free port.
//
//   node tests/e2e-faults.mjs [--shots DIR] [--chromium PATH]
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const { values: args } = parseArgs({ options: { shots: { type: 'string', default: '' }, chromium: { type: 'string', default: '/usr/bin/chromium' } } });
const gateway = spawn(process.execPath, [fileURLToPath(new URL('fake-gateway.mjs', import.meta.url)), '--port', '0', '--refusals', '2'], { stdio: ['ignore', 'pipe', 'inherit'] });
const url = await new Promise((resolve) => gateway.stdout.once('data', (data) => resolve(String(data).trim())));
const browser = await chromium.launch({ executablePath: args.chromium, args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'] });
const context = await browser.newContext({ viewport: { width: 1280, height: 820 } });
const page = await context.newPage();
page.setDefaultTimeout(10_000);
const complaints = [];
page.on('pageerror', (error) => complaints.push(error.message));
page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
let passed = 0;
let failed = 0;

async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error?.message ?? error).slice(0, 400)}`);
    await shot(`failed-${failed}`);
  }
}

function expect(condition, words) {
  if (!condition) throw new Error(words);
}

async function shot(name) {
  if (!args.shots) return;
  mkdirSync(args.shots, { recursive: true });
  await page.screenshot({ path: join(args.shots, `${name}.png`) });
}

async function say(text) {
  await page.locator('#message').fill(text);
  await page.keyboard.press('Enter');
}
const idle = () => page.waitForFunction(() => !document.querySelector('article.agent.live') && !document.querySelector('.go.stop'));

await check('a new device is told how to get approved, waits, and goes in by itself', async () => {
  await page.goto(url.split('#')[0]);
  await page.getByLabel('Gateway token or password').fill('demo');
  await page.getByLabel(/Stay signed in/).check();
  await page.getByRole('button', { name: 'Connect' }).click();
  await page.getByText('openclaw devices approve request-1').waitFor();
  await shot('f0-pairing');
  await page.locator('nav .state.up').waitFor({ timeout: 15_000 });
});

await check('a new tab of a remembered browser signs in with the device’s own token', async () => {
  const tab = await context.newPage();
  await tab.goto(url.split('#')[0]);
  await tab.locator('nav .state.up').waitFor();
  const kept = await tab.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
  expect(!kept.includes('"demo"'), 'the shared token was kept');
  await tab.close();
});

await check('a history of 1,000 messages opens at its end and pages back to its start, keeping the place', async () => {
  await page.goto(url);
  await page.locator('[data-session="agent:main:long"]').click();
  await page.getByText('Answer 1000').waitFor();
  expect((await page.locator('article').count()) <= 80, 'more than one page was put into the document');
  const scroller = page.locator('.scroll');
  for (let turn = 0; turn < 40 && !(await page.getByText('Question 1', { exact: true }).count()); turn += 1) {
    const before = await page.locator('article').count();
    await scroller.evaluate((s) => (s.scrollTop = 0));
    await page.waitForFunction((n) => document.querySelectorAll('article').length > n || !document.querySelector('.older'), before);
    if (turn === 0) expect((await scroller.evaluate((s) => s.scrollTop)) > 500, 'the page jumped to the older messages');
  }
  expect((await page.locator('article').count()) === 1_000, `${await page.locator('article').count()} messages are shown`);
});

await check('a message in a long history is quick', async () => {
  await page.getByRole('button', { name: 'To the newest message' }).click();
  const started = Date.now();
  await say('quick?');
  await page.locator('article.user').last().getByText('quick?').waitFor();
  const tookMs = Date.now() - started;
  await idle();
  expect(tookMs < 1_500, `it took ${tookMs} ms to show`);
});

await check('skipped event numbers lead to a fetch, and the answer is whole and single', async () => {
  await page.locator('[data-session="agent:main:main"]').click();
  await page.locator('.hello').waitFor();
  await say('gap please');
  await page.getByText('You said: gap please').waitFor();
  await idle();
  await page.waitForFunction(() => document.querySelectorAll('article.agent').length === 1);
  expect((await page.locator('article.user').count()) === 1, 'the message shows twice');
});

await check('a failed run shows the gateway’s words once', async () => {
  await say('fail now');
  await page.getByText('LLM request failed: the provider refused the request.').waitFor();
  await idle();
  expect((await page.getByText('LLM request failed').count()) === 1, 'the failure shows more than once');
  await shot('f1-failed-run');
});

await check('a failed tool is marked', async () => {
  await say('use tool and fail');
  await page.locator('[data-status="error"]').waitFor();
  await idle();
  await page.locator('[data-status="error"]').getByRole('button').click();
  await page.getByText('No such session.').waitFor();
  await shot('f2-failed-tool');
});

await check('a restart in the middle of a run: the page comes back and has the whole answer', async () => {
  await say('restart please');
  await page.waitForFunction(() => !document.querySelector('nav .state.up'));
  await page.locator('nav .state.up').waitFor();
  await page.getByText('You said: restart please. That is noted, and here is a longer thought about it.').waitFor();
  await idle();
  expect((await page.getByText('You said: restart please').count()) === 1, 'the answer shows twice');
});

await check('a waiting device is announced, and approved', async () => {
  await page.locator('nav .count').waitFor();
  await page.locator('nav .links').getByRole('link', { name: 'Devices' }).click();
  await shot('f3-device-waits');
  await page.getByRole('button', { name: 'Approve' }).click();
  await page.getByText('No device is waiting').waitFor();
  await page.locator('nav .count').waitFor({ state: 'detached' });
});

await check('without the gateway the page says so, keeps trying, and recovers nothing it should not', async () => {
  gateway.kill();
  await page.getByText(/Trying again/).waitFor();
  expect(await page.locator('nav').isVisible(), 'the page fell back to the login');
  await shot('f4-no-gateway');
});

await check('no errors in the page', async () => {
  // The refused connections after the gateway's end are the browser's own words, not the page's.
  const own = complaints.filter((text) => !/WebSocket connection to .* failed|ERR_CONNECTION_REFUSED/.test(text));
  expect(own.length === 0, own.join('\n'));
});

gateway.kill();
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
