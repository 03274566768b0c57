// Builds the page into a temporary folder and compares it, byte by byte, with the committed `dist`.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const fresh = mkdtempSync(join(tmpdir(), 'web-dist-'));

function files(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(folder.length + 1))
    .sort();
}

try {
  const vite = join(root, 'node_modules', 'vite', 'bin', 'vite.js');
  const build = spawnSync(process.execPath, [vite, 'build', '--logLevel', 'error'], {
    cwd: root,
    env: { ...process.env, WEB_OUT_DIR: fresh },
    stdio: 'inherit',
  });
  if (build.status !== 0) process.exit(build.status ?? 1);
  const dist = join(root, 'dist');
  const wanted = files(fresh);
  const have = files(dist);
  const stale = [
    ...wanted.filter((name) => !have.includes(name)).map((name) => `missing: ${name}`),
    ...have.filter((name) => !wanted.includes(name)).map((name) => `left over: ${name}`),
    ...wanted
      .filter((name) => have.includes(name) && !readFileSync(join(fresh, name)).equals(readFileSync(join(dist, name))))
      .map((name) => `differs: ${name}`),
  ];
  if (stale.length > 0) {
    console.error(`web/dist is not what the sources build to; run "npm run build" and commit it.\n  ${stale.join('\n  ')}`);
    process.exitCode = 1;
  } else {
    console.log(`web/dist is fresh (${wanted.length} files)`);
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
