/**
 * The part of the gateway's protocol (version 4) that this page speaks, written by hand from the reference.
 * Fields are optional wherever an older or smaller gateway may leave them out.
 */

/** The one protocol version this page understands. */
export const PROTOCOL_VERSION = 4;

export interface ErrorShape {
  code: string;
  message: string;
  details?: unknown;
  retryable?: boolean;
  /** Milliseconds to wait before trying again. */
  retryAfterMs?: number;
}

export interface RequestFrame {
  type: 'req';
  id: string;
  method: string;
  params?: unknown;
}

export interface ResponseFrame {
  type: 'res';
  id: string;
  ok: boolean;
  payload?: unknown;
  error?: ErrorShape;
}

export interface EventFrame {
  type: 'event';
  event: string;
  payload?: unknown;
  /** Counts broadcast frames of this connection from 1; frames sent to one client only have none. */
  seq?: number;
}

export type ServerFrame = ResponseFrame | EventFrame;

export interface ChallengePayload {
  nonce: string;
  /** Server time, Unix milliseconds; signed by the device. */
  ts: number;
}

export interface PresenceEntry {
  ts?: number;
  host?: string;
  clientId?: string;
  ip?: string;
  version?: string;
  platform?: string;
  mode?: string;
  reason?: string;
  text?: string;
  deviceId?: string;
  instanceId?: string;
  roles?: string[];
  onlineSince?: number;
}

export interface HelloOk {
  type: 'hello-ok';
  protocol: number;
  server: { version: string; connId: string; buildId?: string; bootId?: string };
  features: { methods: string[]; events: string[]; capabilities?: string[] };
  snapshot: {
    presence?: PresenceEntry[];
    health?: Partial<HealthSummary>;
    uptimeMs?: number;
    sessionDefaults?: { defaultAgentId?: string; mainKey?: string; mainSessionKey?: string };
    configPath?: string;
    stateDir?: string;
    authMode?: string;
  };
  auth: { method?: string; role: string; scopes: string[]; deviceToken?: string };
  policy: { maxPayload: number; maxBufferedBytes: number; tickIntervalMs: number };
}

export interface AgentRow {
  id: string;
  name?: string;
  workspace?: string;
  workspaceGit?: boolean;
  model?: { primary?: string; fallbacks?: string[] } | string;
  agentRuntime?: { id?: string };
  thinkingDefault?: string;
  defaultPermissionMode?: string;
  /** The other gateway of the farm it lives on; none for the agents of this one. */
  gateway?: string;
  /** Whether that gateway is healthy. */
  healthy?: boolean;
}

export interface AgentsList {
  defaultId: string;
  mainKey?: string;
  agents: AgentRow[];
}

export interface AgentIdentity {
  agentId: string;
  name: string;
  nameSource?: string;
  avatar?: string;
}

export interface SessionRow {
  key: string;
  sessionId?: string;
  agentId?: string;
  kind?: string;
  classification?: string;
  isMain?: boolean;
  isBackground?: boolean;
  label?: string | null;
  displayName?: string | null;
  derivedTitle?: string | null;
  lastMessagePreview?: string | null;
  updatedAt?: number | null;
  lastInteractionAt?: number | null;
  pinned?: boolean;
  unread?: boolean;
  archived?: boolean;
  status?: string | null;
  hasActiveRun?: boolean;
  activeRunIds?: string[];
  abortedLastRun?: boolean;
  inputTokens?: number;
  outputTokens?: number;
  totalTokens?: number;
  contextTokens?: number;
  modelProvider?: string;
  model?: string;
  channel?: string;
}

export interface SessionsList {
  count: number;
  totalCount?: number;
  hasMore?: boolean;
  nextOffset?: number | null;
  sessions: SessionRow[];
}

export type ContentPart =
  | { type: 'text'; text: string }
  | { type: 'thinking'; thinking?: string; text?: string }
  | { type: 'toolCall'; id: string; name: string; arguments?: unknown }
  | { type: string; [field: string]: unknown };

export interface TranscriptMessage {
  role: string;
  content: string | ContentPart[];
  timestamp?: number;
  model?: string;
  provider?: string;
  usage?: { input?: number; output?: number; totalTokens?: number };
  stopReason?: string;
  errorMessage?: string;
  idempotencyKey?: string;
  toolCallId?: string;
  toolName?: string;
  isError?: boolean;
  details?: unknown;
  /** Present on what was kept of a stopped run. */
  openclawAbort?: { aborted?: boolean };
  __openclaw?: { id?: string; seq?: number; runId?: string; kind?: string };
}

export interface HistoryResult {
  sessionKey: string;
  sessionId?: string;
  messages: TranscriptMessage[];
  nextOffset?: number | null;
  hasMore?: boolean;
  totalMessages?: number;
  sessionInfo?: SessionRow;
  inFlightRun?: { runId: string; text?: string; startedAt?: number };
}

export interface ChatEvent {
  runId: string;
  sessionKey: string;
  agentId?: string;
  seq?: number;
  state: 'status' | 'delta' | 'final' | 'aborted' | 'error' | string;
  phase?: string;
  deltaText?: string;
  replace?: boolean;
  message?: TranscriptMessage;
  stopReason?: string;
  errorMessage?: string;
  retry?: { attempt: number; maxAttempts: number; reason?: string };
}

export interface AgentEvent {
  runId: string;
  sessionKey?: string;
  agentId?: string;
  seq?: number;
  stream: string;
  ts?: number;
  data: Record<string, unknown>;
}

export interface SessionMessageEvent {
  sessionKey: string;
  message: TranscriptMessage;
  messageId?: string;
  messageSeq?: number;
  session?: SessionRow;
}

export interface SessionsChangedEvent {
  sessionKey?: string;
  reason?: string;
  phase?: string;
  session?: Partial<SessionRow> & { key?: string };
}

export type CronSchedule =
  | { kind: 'at'; at: string }
  | { kind: 'every'; everyMs: number; anchorMs?: number }
  | { kind: 'cron'; expr: string; tz?: string }
  | { kind: string; [field: string]: unknown };

export interface CronJob {
  id: string;
  name: string;
  displayName?: string;
  declarationKey?: string;
  description?: string;
  agentId?: string;
  effectiveAgentId?: string;
  enabled: boolean;
  schedule: CronSchedule;
  sessionTarget?: string;
  wakeMode?: string;
  payload?: { kind: string; message?: string; text?: string };
  delivery?: { mode?: string; channel?: string; to?: string };
  nextRunAtMs?: number | null;
  lastRunAtMs?: number;
  lastRunStatus?: string;
  lastRunError?: string;
  state?: {
    nextRunAtMs?: number;
    runningAtMs?: number;
    lastRunAtMs?: number;
    lastRunStatus?: string;
    lastStatus?: string;
    lastDurationMs?: number;
    lastError?: string;
  };
}

export interface CronRunEntry {
  ts: number;
  jobId: string;
  action?: string;
  status?: string;
  error?: string;
  summary?: string;
  runId?: string;
  runAtMs?: number;
  durationMs?: number;
  model?: string;
  provider?: string;
  deliveryStatus?: string;
  sessionKey?: string;
}

export interface CronStatus {
  enabled: boolean;
  jobs: number;
  nextWakeAtMs?: number | null;
}

export interface PairingRequest {
  requestId: string;
  deviceId: string;
  platform?: string;
  clientId?: string;
  clientMode?: string;
  role?: string;
  scopes?: string[];
  isRepair?: boolean;
  ts?: number;
}

export interface PairedDevice {
  deviceId: string;
  displayName?: string;
  label?: string;
  platform?: string;
  deviceFamily?: string;
  clientId?: string;
  clientMode?: string;
  role?: string;
  scopes?: string[];
  approvedVia?: string;
  approvedAtMs?: number;
  createdAtMs?: number;
  lastSeenAtMs?: number;
  connected?: boolean;
}

export interface PairingList {
  pending: PairingRequest[];
  paired: PairedDevice[];
}

export interface HealthSummary {
  ok: boolean;
  ts: number;
  durationMs?: number;
  plugins?: { loaded?: string[]; errors?: unknown[] };
  channels?: Record<string, unknown>;
  channelOrder?: string[];
  channelLabels?: Record<string, string>;
  heartbeatSeconds?: number;
  agents?: { agentId: string; sessions?: { count?: number } }[];
  sessions?: { count?: number };
  eventLoop?: { degraded?: boolean; delayP99Ms?: number; utilization?: number };
}

export interface StatusResult {
  runtimeVersion?: string;
  pid?: number;
  processMemory?: { rssBytes?: number };
  tasks?: { total?: number; active?: number; failures?: number };
  sessions?: { count?: number; defaults?: { model?: string; contextTokens?: number } };
  heartbeat?: { agents?: { agentId: string; enabled?: boolean; every?: string }[] };
  eventLoop?: { degraded?: boolean; delayP99Ms?: number; utilization?: number };
}

export interface LogsTail {
  file?: string;
  cursor: number;
  size?: number;
  lines: string[];
  truncated?: boolean;
  reset?: boolean;
}
