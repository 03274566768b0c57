#!/usr/bin/env python3
"""Builds `src/schema.tsv`, the table of known configuration keys, from a Markdown reference with rows
`| `path` | type in March | type now |` under headings that name the block. Run it only when the reference changes:

    build_schema.py reference.md > src/schema.tsv

Columns: path (segments joined by dots, `*` for any key or list position), type, era (b both, m March only, n now only).
Type: alternatives joined by `|`. b bool, s text, S secret, i whole number, n number, o object with known keys only,
m object with free keys, x anything, 0 null, T true, F false, =a,b one of, ~a,b open list of names, [..] list,
@path same shape as another path. `s#min,max` bounds a length, `i>=1<=9` a number.
"""
import re, sys

def split_top(text, sep):
    out, depth, cur = [], 0, ''
    i = 0
    while i < len(text):
        ch = text[i]
        if ch in '<{': depth += 1
        if ch in '>}' and depth and not (ch == '>' and text[i:i+2] in ('>0', '>=') ): depth -= 1
        if depth == 0 and text.startswith(sep, i):
            out.append(cur); cur = ''; i += len(sep); continue
        cur += ch; i += 1
    out.append(cur)
    return [p.strip() for p in out if p.strip()]

WORDS = {'bool': 'b', 'str': 's', 'secret': 'S', 'int': 'i', 'number': 'n', '{}': 'o', 'object': 'm', 'null': '0', 'true': 'T', 'false': 'F', '?': 'x', 'any': 'x'}

def bounds(kind, inner):
    lo = re.search(r'>(=?)(-?[\d.]+)', inner); hi = re.search(r'<(=?)(-?[\d.]+)', inner)
    if kind == 's':
        a = re.search(r'minLength=(\d+)', inner); b = re.search(r'maxLength=(\d+)', inner)
        if not a and not b: return ''
        return '#%s,%s' % (a.group(1) if a else '0', b.group(1) if b else '')
    text = ''
    if lo: text += '>' + lo.group(1) + lo.group(2)
    if hi: text += '<' + hi.group(1) + hi.group(2)
    return text

def convert(text):
    text = text.strip()
    open_enum = text.endswith('...')
    if open_enum:
        text = text[:-3]
        depth = text.count('array<') > text.count('>')
        text = text.rsplit('/', 1)[0] + ('>' if depth else '')
    text = text.replace(' or ', ' / ').replace('http/protobuf', 'http|protobuf').replace(' & ', ' / ')
    alts, names = [], []
    if text.startswith('str {') and 'pattern' in text:
        b = bounds('s', text); return ['s' + b] + (['0'] if text.endswith('/ null') else [])
    sep = ' / ' if ' / ' in text and '<' not in text.split(' / ')[0][:6] else '/'
    parts = []
    for p in split_top(text, ' / '):
        if p.startswith('array<') or '{' in p: parts.append(p)
        else: parts += split_top(p, '/')
    for p in parts:
        m = re.match(r'^array<(.*)>(?:\s*\{.*\})?$', p)
        if m:
            inner = convert(m.group(1) + ('...' if open_enum else ''))
            alts.append('[' + '|'.join(inner) + ']'); continue
        m = re.match(r'^(int|number|str)\s*\{(.*)\}?$', p)
        if m:
            k = WORDS[m.group(1)]; alts.append(k + bounds(k, m.group(2))); continue
        if p in WORDS: alts.append(WORDS[p]); continue
        names.append(p.replace('http|protobuf', 'http/protobuf'))
    if names: alts.append(('~' if open_enum else '=') + ','.join(names))
    return alts

SAME = {
    'agents.list.*': 'agents.entries.*', 'agents.entries.*.tools': 'tools', 'agents.entries.*.sandbox': 'agents.defaults.sandbox',
    'agents.entries.*.heartbeat': 'agents.defaults.heartbeat', 'agents.entries.*.memory': 'memory',
    'agents.entries.*.memorySearch': 'agents.defaults.memorySearch', 'agents.entries.*.tts': 'tts', 'messages.tts': 'tts',
    'channels.slack.accounts.*': 'channels.slack', 'channels.discord.accounts.*': 'channels.discord',
    'channels.telegram.accounts.*': 'channels.telegram', 'channels.whatsapp.accounts.*': 'channels.whatsapp',
}

def main():
    rows, block, seen = {}, '', False
    for line in open(sys.argv[1], encoding='utf-8'):
        h = re.match(r'^### (\S+)\s*$', line)
        if h: block = h.group(1); continue
        if line.startswith('## '):
            seen = 'Appendix A' in line; continue
        m = re.match(r'^\| `([^`]+)` \| (.*?) \| (.*) \|\s*$', line)
        if not seen or not m: continue
        path, mar, now = m.groups()
        if block.startswith('channels.') and path != block and not path.startswith(block): path = block + '.' + path
        path = path.replace('[]', '.*')
        era = 'b' if mar != '-' and now != '-' else ('m' if now == '-' else 'n')
        alts = []
        for t in (mar, now):
            if t in ('-', '='): continue
            for a in convert(t):
                if a not in alts: alts.append(a)
        rows[path] = (alts, era)
    extra = [l.rstrip('\n').split('\t') for l in open(sys.argv[2])] if len(sys.argv) > 2 else []
    for path, kind, era in extra: rows[path] = (kind.split('|') if not kind.startswith('=') else [kind], era)
    for path, same in SAME.items(): rows[path] = (['@' + same], rows.get(path, ([], 'b'))[1])
    # every parent exists; an object whose children are not listed is free
    for path in list(rows):
        parts = path.split('.')
        for n in range(1, len(parts)):
            p = '.'.join(parts[:n])
            if p not in rows: rows[p] = (['m' if parts[n] == '*' else 'o'], 'b')
    parents = {p.rsplit('.', 1)[0] for p in rows if '.' in p}
    for path, (alts, era) in rows.items():
        merged = []
        enums = [a for a in alts if a[0] in '=~']
        if len(enums) > 1:
            names = []
            for e in enums:
                for n in e[1:].split(','):
                    if n not in names: names.append(n)
            alts = [a for a in alts if a[0] not in '=~'] + [('~' if any(e[0] == '~' for e in enums) else '=') + ','.join(names)]
        for a in alts:
            if a == 'o' and path not in parents: a = 'm'
            if a == '[o]' and path + '.*' not in parents and path + '.*' not in SAME: a = '[m]'
            if a not in merged: merged.append(a)
        if 'm' in merged and 'o' in merged: merged.remove('o')
        rows[path] = (merged or ['x'], era)
    for path in sorted(rows, key=lambda p: p.encode()):
        alts, era = rows[path]
        print(f"{path}\t{'|'.join(alts)}\t{era}")

main()
