import { describe, expect, it } from 'vitest';
import { highlight } from './highlight';
import { renderBlocks, sanitize } from './markdown';

const html = (text: string) => renderBlocks(text).join('\n');
/** The rendered text as the browser would build it. */
function built(text: string): HTMLElement {
  const root = document.createElement('div');
  root.innerHTML = html(text);
  return root;
}

const ATTACKS = [
  '<script>alert(1)</script>',
  '<img src=x onerror=alert(1)>',
  '<svg onload=alert(1)><animate onbegin=alert(1)>',
  '<iframe src="javascript:alert(1)"></iframe>',
  '[click](javascript:alert(1))',
  '[click](  JaVaScRiPt:alert(1))',
  '[click](data:text/html,<script>alert(1)</script>)',
  '![x](javascript:alert(1))',
  '![x"onerror="alert(1)](https://a.test/b.png)',
  '[a](https://a.test/"onmouseover="alert(1))',
  '```"><img src=x onerror=alert(1)>\ncode\n```',
  '```js\n</code></pre><script>alert(1)</script>\n```',
  '| <b onclick=alert(1)>x</b> |\n| --- |\n| <img src=x onerror=alert(1)> |',
  '<style>body{display:none}</style>',
  '<form action="https://a.test"><input name=token></form>',
  '<a href="https://a.test" style="position:fixed;inset:0">x</a>',
  '<math><mi xlink:href="javascript:alert(1)">x</mi></math>',
  '[x]: javascript:alert(1)\n\n[x]',
];

describe('safe markdown', () => {
  for (const attack of ATTACKS) {
    it(`disarms ${JSON.stringify(attack.slice(0, 50))}`, () => {
      const root = built(attack);
      expect(root.querySelector('script, img, svg, iframe, style, form, math, object, link')).toBeNull();
      for (const element of root.querySelectorAll('*')) {
        for (const { name, value } of element.attributes) {
          expect(name).not.toMatch(/^(on|style|src)/);
          if (name === 'href') expect(value).toMatch(/^(https?:|mailto:)/);
        }
      }
    });
  }

  it('shows raw HTML as the text it is', () => {
    expect(built('a <b>bold</b> b').textContent).toContain('<b>bold</b>');
  });

  it('sanitises even what did not come from the renderer', () => {
    expect(sanitize('<p onclick="x()">a<script>b</script></p>')).toBe('<p>a</p>');
  });

  it('turns an image into a link, so that nothing is fetched', () => {
    const root = built('![chart](https://a.test/c.png)');
    expect(root.querySelector('img')).toBeNull();
    expect(root.querySelector('a')?.getAttribute('href')).toBe('https://a.test/c.png');
  });

  it('opens links elsewhere and tells the other page nothing', () => {
    const link = built('[a](https://a.test)').querySelector('a');
    expect(link?.getAttribute('target')).toBe('_blank');
    expect(link?.getAttribute('rel')).toContain('noopener');
  });

  it('gives code a copy button and keeps its text exactly', () => {
    const code = 'const a = "<b>" && 1; // done';
    const root = built(`\`\`\`ts\n${code}\n\`\`\``);
    expect(root.querySelector('code')?.textContent).toBe(code);
    expect(root.querySelector('button[data-copy]')).not.toBeNull();
    expect(root.querySelector('.tok-comment')?.textContent).toBe('// done');
  });

  it('renders lists, tables and quotes', () => {
    const root = built('- a\n- b\n\n| x | y |\n| --- | ---: |\n| 1 | 2 |\n\n> q');
    expect(root.querySelectorAll('li')).toHaveLength(2);
    expect(root.querySelector('td[align=right]')?.textContent).toBe('2');
    expect(root.querySelector('blockquote')?.textContent?.trim()).toBe('q');
  });

  it('keeps earlier blocks as they were while the text grows', () => {
    const short = renderBlocks('# One\n\nTwo');
    const long = renderBlocks('# One\n\nTwo and more');
    expect(long[0]).toBe(short[0]);
    expect(long).toHaveLength(2);
  });
});

describe('colour for code', () => {
  for (const [language, code] of [['rust', 'fn main() { println!("hi"); }'], ['sh', 'echo "x" # note'], ['json', '{"a": 1}'], ['diff', '+a\n-b\n c'], ['', '<b>&']]) {
    it(`never changes the text (${language || 'plain'})`, () => {
      const root = document.createElement('div');
      root.innerHTML = highlight(code ?? '', language ?? '');
      expect(root.textContent).toBe(code);
    });
  }
});
