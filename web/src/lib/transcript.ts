/**
 * From stored messages and live events to what the page shows. Plain functions over plain values, no framework.
 */
import type { AgentEvent, ChatEvent, ContentPart, TranscriptMessage } from './protocol';
import { isRecord } from './failure';

export interface ToolCall {
  id: string;
  name: string;
  args: unknown;
  status: 'running' | 'done' | 'error' | 'unknown';
  /** What the tool answered, as text; empty while it runs. */
  output: string;
  startedAt?: number;
  durationMs?: number;
  exitCode?: number;
}

export type Block =
  | { kind: 'text'; id: string; text: string }
  | { kind: 'thinking'; id: string; text: string }
  | { kind: 'tool'; id: string; tool: ToolCall };

export type Entry =
  | { kind: 'user'; id: string; text: string; at: number; pending: boolean; attachments: string[]; from: string }
  | {
      kind: 'assistant';
      id: string;
      blocks: Block[];
      at: number;
      model: string;
      tokens: number;
      note: string;
      error: string;
      live: boolean;
    }
  | { kind: 'notice'; id: string; text: string; at: number };

/** A run in flight, or one that just ended and is not yet seen in the stored history. */
export interface LiveRun {
  runId: string;
  /** Highest stored sequence number when the run began; later answers belong to it. */
  baseSeq: number;
  startedAt: number;
  phase: string;
  blocks: Block[];
  /** Everything the chat stream said so far. */
  said: string;
  /** The part of `said` that earlier text blocks already show. */
  settled: string;
  lastChatSeq: number;
  model: string;
  state: 'running' | 'final' | 'aborted' | 'error';
  error: string;
}

/** The key under which a message is the same message, however it arrived. */
export function messageKey(message: TranscriptMessage, index: number): string {
  const id = message.__openclaw?.id;
  if (id) return id;
  const seq = message.__openclaw?.seq;
  if (seq !== undefined) return `seq:${seq}`;
  return `${message.role}:${message.timestamp ?? 0}:${index}`;
}

/** Puts a page of history and single messages together: one of each, in stored order. */
export function mergeMessages(have: TranscriptMessage[], add: TranscriptMessage[]): TranscriptMessage[] {
  const byKey = new Map<string, TranscriptMessage>();
  for (const list of [have, add]) {
    list.forEach((message, index) => byKey.set(messageKey(message, index), message));
  }
  const merged = [...byKey.values()];
  if (merged.every((message) => message.__openclaw?.seq !== undefined)) {
    merged.sort((a, b) => (a.__openclaw?.seq ?? 0) - (b.__openclaw?.seq ?? 0));
  } else {
    merged.sort((a, b) => (a.timestamp ?? 0) - (b.timestamp ?? 0));
  }
  return merged;
}

export function highestSeq(messages: TranscriptMessage[]): number {
  let highest = 0;
  for (const message of messages) highest = Math.max(highest, message.__openclaw?.seq ?? 0);
  return highest;
}

/** The plain text of a message's content. */
export function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return '';
  return (content as ContentPart[])
    .map((part) => (isRecord(part) && part.type === 'text' && typeof part.text === 'string' ? part.text : ''))
    .filter(Boolean)
    .join('\n\n');
}

const ASSISTANT_ROLES = new Set(['assistant', 'toolResult', 'tool']);

/** Groups stored messages into turns: what a person said, and everything the agent did about it. */
export function entriesOf(messages: TranscriptMessage[]): Entry[] {
  const entries: Entry[] = [];
  const used = new Set<string>();
  const sources = new Map<Entry, TranscriptMessage[]>();
  let turn: Extract<Entry, { kind: 'assistant' }> | null = null;
  let tools = new Map<string, ToolCall>();

  messages.forEach((message, index) => {
    const key = messageKey(message, index);
    const at = message.timestamp ?? 0;
    if (message.role === 'user') {
      turn = null;
      const entry: Entry = {
        kind: 'user', id: key, text: textOf(message.content), at, pending: false, attachments: attachmentsOf(message.content), from: '',
      };
      entries.push(entry);
      sources.set(entry, [message]);
      return;
    }
    if (!ASSISTANT_ROLES.has(message.role)) {
      const text = textOf(message.content);
      if (!text) return;
      turn = null;
      const entry: Entry = { kind: 'notice', id: key, text, at };
      entries.push(entry);
      sources.set(entry, [message]);
      return;
    }
    const runId = message.__openclaw?.runId;
    if (!turn) {
      tools = new Map();
      turn = {
        kind: 'assistant', id: runId ? `run:${runId}` : key, blocks: [], at, model: '', tokens: 0, note: '', error: '', live: false,
      };
      // Two turns of one run (a person wrote in between) must not share a key.
      if (used.has(turn.id)) turn.id = key;
      used.add(turn.id);
      entries.push(turn);
      sources.set(turn, []);
    }
    sources.get(turn)?.push(message);
    if (message.role === 'assistant') addAssistant(turn, message, key, tools);
    else addToolResult(turn, message, key, tools);
  });
  return entries
    .filter((entry) => entry.kind !== 'assistant' || entry.blocks.length > 0 || entry.error || entry.note)
    .map((entry) => reused(entry, sources.get(entry) ?? []));
}

/** The entry last made of each first message, with all the messages it was made of. */
const made = new WeakMap<TranscriptMessage, { entry: Entry; from: TranscriptMessage[] }>();

/** The very same entry as before when nothing it is made of changed, so that the page has nothing to redraw. */
function reused(entry: Entry, from: TranscriptMessage[]): Entry {
  const [first] = from;
  if (!first) return entry;
  const before = made.get(first);
  if (before && before.entry.id === entry.id && before.from.length === from.length && before.from.every((message, index) => message === from[index])) {
    return before.entry;
  }
  made.set(first, { entry, from });
  return entry;
}

function addAssistant(
  turn: Extract<Entry, { kind: 'assistant' }>,
  message: TranscriptMessage,
  key: string,
  tools: Map<string, ToolCall>,
): void {
  const parts: ContentPart[] = typeof message.content === 'string' ? [{ type: 'text', text: message.content }] : (message.content ?? []);
  parts.forEach((part, index) => {
    const id = `${key}:${index}`;
    if (part.type === 'text' && typeof part.text === 'string') {
      if (part.text.trim()) turn.blocks.push({ kind: 'text', id, text: part.text });
    } else if (part.type === 'thinking') {
      const text = String((part as { thinking?: unknown }).thinking ?? (part as { text?: unknown }).text ?? '');
      if (text.trim()) turn.blocks.push({ kind: 'thinking', id, text });
    } else if (part.type === 'toolCall' || part.type === 'tool_use') {
      const call = part as { id?: string; name?: string; arguments?: unknown; input?: unknown };
      const tool: ToolCall = {
        id: call.id ?? id, name: call.name ?? 'tool', args: call.arguments ?? call.input ?? {}, status: 'unknown', output: '',
        startedAt: message.timestamp,
      };
      tools.set(tool.id, tool);
      turn.blocks.push({ kind: 'tool', id: `tool:${tool.id}`, tool });
    }
  });
  // Text the gateway itself put in (a stopped run's remains) carries its name as the model: no model said it.
  if (message.model && message.provider !== 'openclaw') turn.model = message.provider ? `${message.provider}/${message.model}` : message.model;
  turn.tokens += message.usage?.output ?? 0;
  turn.at = message.timestamp ?? turn.at;
  if (message.stopReason === 'error') turn.error = message.errorMessage ?? 'The run failed.';
  if (message.stopReason === 'aborted' || message.openclawAbort) turn.note = 'Stopped';
}

function addToolResult(
  turn: Extract<Entry, { kind: 'assistant' }>,
  message: TranscriptMessage,
  key: string,
  tools: Map<string, ToolCall>,
): void {
  let tool = tools.get(message.toolCallId ?? '');
  if (!tool) {
    tool = { id: message.toolCallId ?? key, name: message.toolName ?? 'tool', args: {}, status: 'unknown', output: '' };
    tools.set(tool.id, tool);
    turn.blocks.push({ kind: 'tool', id: `tool:${tool.id}`, tool });
  }
  applyResult(tool, { content: message.content, details: message.details }, message.isError === true);
  if (tool.durationMs === undefined && tool.startedAt && message.timestamp && message.timestamp >= tool.startedAt) {
    tool.durationMs = message.timestamp - tool.startedAt;
  }
}

function applyResult(tool: ToolCall, result: unknown, isError: boolean): void {
  const shape = isRecord(result) ? result : {};
  const details = isRecord(shape.details) ? shape.details : {};
  tool.output = textOf(shape.content) || (typeof result === 'string' ? result : '');
  tool.status = isError || details.status === 'failed' || details.status === 'error' ? 'error' : 'done';
  if (typeof details.durationMs === 'number') tool.durationMs = details.durationMs;
  if (typeof details.exitCode === 'number') tool.exitCode = details.exitCode;
}

function attachmentsOf(content: unknown): string[] {
  if (!Array.isArray(content)) return [];
  return (content as ContentPart[])
    .filter((part) => isRecord(part) && part.type !== 'text')
    .map((part) => String((part as { fileName?: unknown }).fileName ?? (part as { mimeType?: unknown }).mimeType ?? part.type));
}

export function newRun(runId: string, baseSeq: number, startedAt: number): LiveRun {
  return {
    runId, baseSeq, startedAt, phase: '', blocks: [], said: '', settled: '', lastChatSeq: 0, model: '', state: 'running', error: '',
  };
}

/** A run the history says is in flight: what it said before this page looked. */
export function resumedRun(inFlight: { runId: string; text?: string; startedAt?: number }, baseSeq: number, now: number): LiveRun {
  const run = newRun(inFlight.runId, baseSeq, inFlight.startedAt ?? now);
  return inFlight.text ? withText(run, inFlight.text) : run;
}

/** The run after one `chat` event. A repeated or late event changes nothing. */
export function onChat(run: LiveRun, event: ChatEvent): LiveRun {
  const next: LiveRun = { ...run };
  switch (event.state) {
    case 'status':
      next.phase = event.retry ? `retry ${event.retry.attempt} of ${event.retry.maxAttempts}` : (event.phase ?? '');
      return next;
    case 'delta': {
      if (event.seq !== undefined && event.seq <= run.lastChatSeq) return run;
      next.lastChatSeq = event.seq ?? run.lastChatSeq;
      next.phase = '';
      return withText(next, mergedText(run.said, event));
    }
    case 'final':
    case 'aborted': {
      next.state = event.state;
      next.phase = '';
      const text = event.message ? textOf(event.message.content) : '';
      return settleTools(text ? withText(next, text) : next, event.state === 'final' ? 'done' : 'unknown');
    }
    case 'error':
      next.state = 'error';
      next.phase = '';
      next.error = event.errorMessage ?? 'The run failed.';
      return settleTools(next, 'unknown');
    default:
      return run;
  }
}

/**
 * The whole text after a delta. A snapshot in the event is the truth; without one `deltaText` is appended, or takes
 * the place of everything when `replace` is set.
 */
export function mergedText(said: string, event: Pick<ChatEvent, 'deltaText' | 'replace' | 'message'>): string {
  const snapshot = event.message ? textOf(event.message.content) : '';
  if (snapshot) return snapshot;
  if (event.replace) return event.deltaText ?? '';
  return said + (event.deltaText ?? '');
}

/** Puts the text into the last text block; text that came before a tool call stays above it. */
function withText(run: LiveRun, said: string): LiveRun {
  // The stream counts either from the start of the run or from the start of this message; both are understood.
  const continues = run.settled !== '' && said.startsWith(run.settled);
  const shown = continues ? said.slice(run.settled.length) : said;
  const blocks = [...run.blocks];
  const last = blocks.at(-1);
  if (last?.kind === 'text') {
    blocks[blocks.length - 1] = { ...last, text: shown };
  } else if (shown.trim() && !blocks.some((block) => block.kind === 'text' && block.text === said)) {
    blocks.push({ kind: 'text', id: `live:${blocks.length}`, text: shown });
  }
  return { ...run, said, settled: continues || run.settled === '' ? run.settled : '', blocks };
}

function settleTools(run: LiveRun, status: ToolCall['status']): LiveRun {
  if (!run.blocks.some((block) => block.kind === 'tool' && block.tool.status === 'running')) return run;
  return {
    ...run,
    blocks: run.blocks.map((block) =>
      block.kind === 'tool' && block.tool.status === 'running' ? { ...block, tool: { ...block.tool, status } } : block,
    ),
  };
}

/** The run after one `agent` event: tools, thinking and the model in use. Its text comes by way of `chat`. */
export function onAgent(run: LiveRun, event: AgentEvent): LiveRun {
  const { data } = event;
  if (event.stream === 'lifecycle' && data.phase === 'model' && typeof data.model === 'string') {
    return { ...run, model: typeof data.provider === 'string' ? `${data.provider}/${data.model}` : data.model };
  }
  if (event.stream === 'thinking') return onThinking(run, data);
  if (event.stream === 'tool') return onTool(run, event);
  if (event.stream === 'command_output' && typeof data.toolCallId === 'string') {
    return changeTool(run, data.toolCallId, (tool) => {
      if (typeof data.output === 'string' && tool.status === 'running') tool.output = data.output;
      if (typeof data.exitCode === 'number') tool.exitCode = data.exitCode;
      if (typeof data.durationMs === 'number') tool.durationMs = data.durationMs;
    });
  }
  return run;
}

function onThinking(run: LiveRun, data: Record<string, unknown>): LiveRun {
  const blocks = [...run.blocks];
  const last = blocks.at(-1);
  const before = last?.kind === 'thinking' ? last.text : '';
  const text = typeof data.text === 'string' ? data.text : before + (typeof data.delta === 'string' ? data.delta : '');
  if (!text) return run;
  if (last?.kind === 'thinking') blocks[blocks.length - 1] = { ...last, text };
  else blocks.push({ kind: 'thinking', id: `live:${blocks.length}`, text });
  return { ...run, blocks };
}

function onTool(run: LiveRun, event: AgentEvent): LiveRun {
  const { data } = event;
  const id = typeof data.toolCallId === 'string' ? data.toolCallId : '';
  if (!id) return run;
  const known = run.blocks.some((block) => block.kind === 'tool' && block.tool.id === id);
  let next = run;
  if (!known) {
    const tool: ToolCall = {
      id, name: typeof data.name === 'string' ? data.name : 'tool', args: data.args ?? {}, status: 'running', output: '', startedAt: event.ts,
    };
    next = { ...run, settled: run.said, phase: '', blocks: [...run.blocks, { kind: 'tool', id: `tool:${id}`, tool }] };
  }
  if (data.phase === 'update' && isRecord(data.partialResult)) {
    const { content } = data.partialResult;
    return changeTool(next, id, (tool) => (tool.output = textOf(content) || tool.output));
  }
  if (data.phase === 'result') {
    return changeTool(next, id, (tool) => {
      applyResult(tool, data.result, data.isError === true);
      if (tool.durationMs === undefined && tool.startedAt && event.ts) tool.durationMs = Math.max(0, event.ts - tool.startedAt);
    });
  }
  return next;
}

function changeTool(run: LiveRun, id: string, change: (tool: ToolCall) => void): LiveRun {
  return {
    ...run,
    blocks: run.blocks.map((block) => {
      if (block.kind !== 'tool' || block.tool.id !== id) return block;
      const tool = { ...block.tool };
      change(tool);
      return { ...block, tool };
    }),
  };
}

/** The turn a live run shows as. */
export function entryOfRun(run: LiveRun): Extract<Entry, { kind: 'assistant' }> {
  return {
    kind: 'assistant', id: `run:${run.runId}`, blocks: run.blocks, at: run.startedAt, model: run.model, tokens: 0,
    note: run.state === 'aborted' ? 'Stopped' : '', error: run.error, live: run.state === 'running',
  };
}

/** Stored messages that a live run begun after `baseSeq` already shows are left out. */
export function withoutRun(messages: TranscriptMessage[], baseSeq: number | null): TranscriptMessage[] {
  if (baseSeq === null) return messages;
  return messages.filter(
    (message) => message.role === 'user' || message.__openclaw?.seq === undefined || message.__openclaw.seq <= baseSeq,
  );
}
