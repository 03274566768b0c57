import { describe, expect, it } from 'vitest';
import type { AgentEvent, ChatEvent, TranscriptMessage } from './protocol';
import { entriesOf, entryOfRun, mergedText, mergeMessages, newRun, onAgent, onChat, resumedRun, withoutRun, type LiveRun } from './transcript';

const chat = (fields: Partial<ChatEvent>): ChatEvent => ({ runId: 'r', sessionKey: 'agent:main:main', state: 'delta', ...fields });
const agent = (stream: string, data: Record<string, unknown>, ts = 0): AgentEvent => ({ runId: 'r', stream, data, ts });
const said = (text: string) => ({ role: 'assistant', content: [{ type: 'text', text }] });
const texts = (run: LiveRun) => run.blocks.map((block) => (block.kind === 'tool' ? `[${block.tool.name} ${block.tool.status}]` : block.text));
const message = (role: string, seq: number, content: TranscriptMessage['content'], extra: Partial<TranscriptMessage> = {}): TranscriptMessage => ({
  role, content, timestamp: seq * 1_000, ...extra, __openclaw: { id: `m${seq}`, seq, ...extra.__openclaw },
});

describe('streaming', () => {
  it('appends deltas, obeys a replacement, and believes a snapshot', () => {
    expect(mergedText('Hel', { deltaText: 'lo' })).toBe('Hello');
    expect(mergedText('Hello', { deltaText: 'Bye', replace: true })).toBe('Bye');
    expect(mergedText('Hel', { deltaText: 'p', message: said('Help me') })).toBe('Help me');
  });

  it('comes to the same text by deltas alone and by snapshots', () => {
    const words = ['One ', 'two ', 'three'];
    let byDelta = newRun('r', 0, 0);
    let bySnapshot = newRun('r', 0, 0);
    words.forEach((word, index) => {
      byDelta = onChat(byDelta, chat({ seq: index + 1, deltaText: word }));
      bySnapshot = onChat(bySnapshot, chat({ seq: index + 1, deltaText: word, message: said(words.slice(0, index + 1).join('')) }));
    });
    expect(texts(byDelta)).toEqual(['One two three']);
    expect(texts(bySnapshot)).toEqual(['One two three']);
  });

  it('ignores a repeated or late delta', () => {
    let run = onChat(newRun('r', 0, 0), chat({ seq: 4, deltaText: 'a' }));
    run = onChat(run, chat({ seq: 4, deltaText: 'a' }));
    run = onChat(run, chat({ seq: 3, deltaText: 'z' }));
    expect(texts(run)).toEqual(['a']);
  });

  for (const [name, after] of [['the whole run', 'Before. After.'], ['this message only', 'After.']] as const) {
    it(`keeps text before a tool above it when snapshots hold ${name}`, () => {
      let run = onChat(newRun('r', 0, 0), chat({ seq: 1, deltaText: 'Before. ', message: said('Before. ') }));
      run = onAgent(run, agent('tool', { phase: 'start', name: 'exec', toolCallId: 't1', args: { command: 'ls' } }, 100));
      expect(texts(run)).toEqual(['Before. ', '[exec running]']);
      run = onAgent(run, agent('tool', { phase: 'result', toolCallId: 't1', isError: false, result: { content: [{ type: 'text', text: 'ok' }] } }, 350));
      run = onChat(run, chat({ seq: 2, deltaText: 'After.', message: said(after) }));
      run = onChat(run, chat({ seq: 3, state: 'final', message: said(after) }));
      expect(texts(run)).toEqual(['Before. ', '[exec done]', 'After.']);
      const tool = run.blocks[1];
      expect(tool?.kind === 'tool' && tool.tool).toMatchObject({ output: 'ok', durationMs: 250 });
    });
  }

  it('marks a failed tool and takes exit code and duration from the details', () => {
    let run = onAgent(newRun('r', 0, 0), agent('tool', { phase: 'start', name: 'exec', toolCallId: 't', args: {} }));
    run = onAgent(run, agent('tool', { phase: 'result', toolCallId: 't', isError: true, result: { content: [{ type: 'text', text: 'no' }], details: { exitCode: 2, durationMs: 9 } } }));
    const block = run.blocks[0];
    expect(block?.kind === 'tool' && block.tool).toMatchObject({ status: 'error', exitCode: 2, durationMs: 9, output: 'no' });
  });

  it('ends as aborted with what was said, and as failed with the gateway’s words', () => {
    const begun = onChat(newRun('r', 0, 0), chat({ seq: 1, deltaText: 'Half' }));
    expect(entryOfRun(onChat(begun, chat({ state: 'aborted', stopReason: 'rpc' })))).toMatchObject({ note: 'Stopped', live: false });
    // The second report of a failure comes with a small sequence number and still counts.
    const failed = onChat(begun, chat({ state: 'error', seq: 1, errorMessage: 'LLM request failed' }));
    expect(entryOfRun(failed)).toMatchObject({ error: 'LLM request failed', live: false });
  });

  it('takes up a run the history reports', () => {
    const run = onChat(resumedRun({ runId: 'r', text: 'This is' }, 3, 0), chat({ seq: 9, deltaText: ' it' }));
    expect(texts(run)).toEqual(['This is it']);
  });
});

describe('history', () => {
  const call = message('assistant', 2, [{ type: 'text', text: 'Looking.' }, { type: 'toolCall', id: 't1', name: 'exec', arguments: { command: 'ls' } }], { __openclaw: { runId: 'r' } });
  const result = message('toolResult', 3, [{ type: 'text', text: 'a b' }], { toolCallId: 't1', toolName: 'exec' });
  const answer = message('assistant', 4, [{ type: 'text', text: 'Two files.' }], { model: 'm', provider: 'p', usage: { output: 7 }, __openclaw: { runId: 'r' } });

  it('joins call, result and answer to one turn under the run’s key', () => {
    const entries = entriesOf([message('user', 1, 'ls?'), call, result, answer]);
    expect(entries.map((entry) => entry.id)).toEqual(['m1', 'run:r']);
    const turn = entries[1];
    if (turn?.kind !== 'assistant') throw new Error('no turn');
    expect(turn.blocks.map((block) => block.kind)).toEqual(['text', 'tool', 'text']);
    expect(turn).toMatchObject({ model: 'p/m', tokens: 7 });
    const tool = turn.blocks[1];
    expect(tool?.kind === 'tool' && tool.tool).toMatchObject({ status: 'done', output: 'a b', durationMs: 1_000 });
  });

  it('shows a result without its call, and a call without its result', () => {
    const [orphan] = entriesOf([result]);
    expect(orphan?.kind === 'assistant' && orphan.blocks[0]).toMatchObject({ tool: { name: 'exec', status: 'done' } });
    const [open] = entriesOf([call]);
    expect(open?.kind === 'assistant' && open.blocks[1]).toMatchObject({ tool: { status: 'unknown' } });
  });

  it('never gives two entries one key', () => {
    const entries = entriesOf([message('user', 1, 'a'), call, message('user', 5, 'b'), message('assistant', 6, 'c', { __openclaw: { runId: 'r' } })]);
    expect(new Set(entries.map((entry) => entry.id)).size).toBe(entries.length);
  });

  it('merges pages in order, each message once', () => {
    const merged = mergeMessages([answer, message('user', 1, 'old')], [message('user', 1, 'new'), call, result]);
    expect(merged.map((m) => m.__openclaw?.seq)).toEqual([1, 2, 3, 4]);
    expect(merged[0]?.content).toBe('new');
  });

  it('leaves out what a live run already shows, but no user message', () => {
    expect(withoutRun([message('user', 1, 'a'), call, message('user', 5, 'b')], 1).map((m) => m.__openclaw?.seq)).toEqual([1, 5]);
  });

  it('gives back the very same entries for unchanged messages, and a new one for a changed turn', () => {
    const first = [message('user', 1, 'ls?'), call];
    const before = entriesOf(first);
    const after = entriesOf([...first, result]);
    expect(after[0]).toBe(before[0]);
    expect(after[1]).not.toBe(before[1]);
    expect(entriesOf([...first, result])[1]).toStrictEqual(after[1]);
  });

  it('groups 2,000 messages in a blink', () => {
    const many = Array.from({ length: 2_000 }, (_, index) => message(index % 2 ? 'assistant' : 'user', index + 1, `text ${index}`));
    expect(entriesOf(many)).toHaveLength(2_000);
  });
});
