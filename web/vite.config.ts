import { readFileSync } from 'node:fs';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

// The build is embedded by the gateway and served under `gateway.controlUi.basePath`, with a policy that allows
// neither inline scripts nor inline styles. Hence: relative URLs, no inlined assets, no preload shim.
const { version } = JSON.parse(readFileSync(new URL('./package.json', import.meta.url), 'utf8')) as { version: string };

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'";

export default defineConfig({
  define: { __APP_VERSION__: JSON.stringify(version) },
  base: './',
  plugins: [
    svelte(),
    {
      name: 'strict-policy',
      apply: 'build',
      // The policy travels with the page, so it holds whatever headers stand in front of the gateway.
      transformIndexHtml: () => [
        { tag: 'meta', attrs: { 'http-equiv': 'Content-Security-Policy', content: POLICY }, injectTo: 'head-prepend' },
      ],
    },
  ],
  build: {
    target: ['chrome123', 'firefox121', 'safari17.5'],
    outDir: process.env.WEB_OUT_DIR ?? 'dist',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    sourcemap: false,
  },
  test: {
    environment: 'jsdom',
    include: ['src/**/*.test.ts'],
  },
  // Svelte ships separate server and browser builds; tests run in jsdom and need the browser one.
  resolve: process.env.VITEST ? { conditions: ['browser'] } : {},
});
