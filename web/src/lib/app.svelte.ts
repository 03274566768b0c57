/** What the whole page shares: the connection, agents, sessions, pending devices. */
import { GatewayClient, randomId, type ConnectionState, type Credentials, type SocketLike } from './client';
import { ChatStore } from './chat.svelte';
import { loadIdentity, type DeviceIdentity } from './device';
import { isRecord, messageOf } from './failure';
import { agentOfKey } from './format';
import { keep, kept, storageOf } from './keep';
import { baseFrom, secretsFromHash, socketUrl } from './place';
import { notices } from './notices.svelte';
import { router } from './router.svelte';
import type {
  AgentEvent, AgentIdentity, AgentRow, AgentsList, ChatEvent, HealthSummary, HelloOk, PairingList, PresenceEntry, SessionMessageEvent,
  SessionRow, SessionsChangedEvent, SessionsList,
} from './protocol';

const SECRET_KEY = 'clawstead.secret';
const DEVICE_TOKEN_KEY = 'clawstead.deviceToken';
const REMEMBER_KEY = 'clawstead.remember';
const SESSION_KEY = 'clawstead.session';
/** Sessions asked for at one time. */
const SESSIONS_PAGE = 200;
/** Conversations kept in memory; the longest unused goes first. */
const CHATS_MAX = 8;
/** Changes that arrive together cause one fetch, milliseconds. */
const REFRESH_DELAY_MS = 250;
/** How often agents of other gateways are looked at again, milliseconds: no event tells of them. */
const FARM_AGENTS_MS = 15_000;
/** Agents whose identity is asked for one by one. */
const IDENTITIES_MAX = 100;

declare const __APP_VERSION__: string;

class App {
  connection = $state.raw<ConnectionState>({ phase: 'idle' });
  /** The last hello; kept while reconnecting, so that the page stays as it is. */
  hello = $state.raw<HelloOk | null>(null);
  agents = $state.raw<AgentRow[]>([]);
  defaultAgentId = $state('');
  identities = $state.raw<Record<string, AgentIdentity>>({});
  sessions = $state.raw<SessionRow[]>([]);
  sessionsLoaded = $state(false);
  sessionsMore = $state(false);
  sessionsError = $state('');
  pendingDevices = $state(0);
  health = $state.raw<Partial<HealthSummary> | null>(null);
  presence = $state.raw<PresenceEntry[]>([]);
  /** The current session's key, whichever view is open. */
  sessionKey = $state('');
  agentFilter = $state('');
  remember = $state(kept('localStorage', REMEMBER_KEY) === '1');
  /** Grows by one with every change of cron jobs, devices: views that show them fetch again. */
  cronEpoch = $state(0);
  devicesEpoch = $state(0);

  /** Whether the gateway is one of a farm. */
  inFarm = $state(false);

  readonly client: GatewayClient;
  readonly #chats = new Map<string, ChatStore>();
  readonly #endings = new Map<string, () => void>();
  #identity: Promise<DeviceIdentity> | null = null;
  #credentials: Credentials = {};
  #sessionsTimer: ReturnType<typeof setTimeout> | null = null;

  constructor() {
    const base = baseFrom(import.meta.url, location.href);
    this.client = new GatewayClient({
      url: socketUrl(base),
      identity: () => (this.#identity ??= loadIdentity(storageOf('localStorage'))),
      openSocket: (url) => new WebSocket(url) as unknown as SocketLike,
      version: __APP_VERSION__,
      platform: navigator.platform || 'web',
      instanceId: randomId(),
      timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone,
      locale: navigator.language,
      userAgent: navigator.userAgent,
      onState: (state) => this.#onState(state),
      onGap: () => this.#refetch(),
    });
    this.#listen();
    setInterval(() => {
      if (this.inFarm && this.ready && document.visibilityState === 'visible') void this.refreshAgents();
    }, FARM_AGENTS_MS);
    addEventListener('online', () => this.client.retryNow());
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible' && this.connection.phase === 'waiting' && this.connection.verdict.kind === 'retry') {
        this.client.retryNow();
      }
    });
  }

  /** Takes the secret from the address or from this tab's memory and connects, if there is one. */
  begin(): void {
    this.#takeHash();
    addEventListener('hashchange', () => {
      if (this.#takeHash()) this.client.start(this.#credentials);
    });
    const secret = kept('sessionStorage', SECRET_KEY) ?? '';
    const deviceToken = kept('localStorage', DEVICE_TOKEN_KEY) ?? '';
    if (secret || deviceToken) this.#start({ secret, deviceToken });
  }

  /** Logs in with what the person typed; empty is right for a gateway without authentication. */
  login(secret: string, remember: boolean): void {
    this.remember = remember;
    keep('localStorage', REMEMBER_KEY, remember ? '1' : null);
    if (!remember) keep('localStorage', DEVICE_TOKEN_KEY, null);
    keep('sessionStorage', SECRET_KEY, secret || null);
    this.#start({ secret });
  }

  logout(): void {
    keep('sessionStorage', SECRET_KEY, null);
    keep('localStorage', DEVICE_TOKEN_KEY, null);
    this.#credentials = {};
    this.hello = null;
    this.agents = [];
    this.sessions = [];
    this.sessionsLoaded = false;
    this.sessionKey = '';
    for (const key of [...this.#chats.keys()]) this.#dropChat(key);
    this.client.stop();
  }

  get ready(): boolean {
    return this.connection.phase === 'ready';
  }

  /** Whether the gateway offers this method. */
  can(method: string): boolean {
    return this.hello?.features.methods.includes(method) ?? false;
  }

  request<T>(method: string, params: unknown = {}): Promise<T> {
    return this.client.request<T>(method, params);
  }

  agentName(id: string): string {
    return this.identities[id]?.name || this.agents.find((agent) => agent.id === id)?.name || id || 'Agent';
  }

  agent(id: string): AgentRow | undefined {
    return this.agents.find((agent) => agent.id === id);
  }

  session(key: string): SessionRow | undefined {
    return this.sessions.find((row) => row.key === key);
  }

  /** The conversation of a session, made on first use. */
  chat(key: string): ChatStore {
    let chat = this.#chats.get(key);
    if (chat) {
      this.#chats.delete(key);
    } else {
      chat = this.#newChat(key);
      if (this.#chats.size >= CHATS_MAX) {
        const [oldest] = this.#chats.keys();
        if (oldest !== undefined) this.#dropChat(oldest);
      }
    }
    this.#chats.set(key, chat);
    return chat;
  }

  openSession(key: string): void {
    this.sessionKey = key;
    keep('sessionStorage', SESSION_KEY, key);
    router.go('chat', key);
  }

  mainKeyOf(agentId: string): string {
    return `agent:${agentId}:${this.hello?.snapshot.sessionDefaults?.mainKey ?? 'main'}`;
  }

  async newSession(agentId: string): Promise<void> {
    await notices.attempt(async () => {
      if (this.can('sessions.create')) {
        const made = await this.request<{ key: string }>('sessions.create', { agentId });
        await this.loadSessions();
        this.openSession(made.key);
      } else {
        this.openSession(`agent:${agentId}:web-${randomId().slice(0, 8)}`);
      }
    });
  }

  async loadSessions(): Promise<void> {
    try {
      const list = await this.request<SessionsList>('sessions.list', this.#sessionsQuery(0));
      this.sessions = list.sessions;
      this.sessionsMore = list.hasMore ?? false;
      this.sessionsLoaded = true;
      this.sessionsError = '';
    } catch (error) {
      this.sessionsError = messageOf(error);
    }
  }

  async loadMoreSessions(): Promise<void> {
    const list = await this.request<SessionsList>('sessions.list', this.#sessionsQuery(this.sessions.length));
    const known = new Set(this.sessions.map((row) => row.key));
    this.sessions = [...this.sessions, ...list.sessions.filter((row) => !known.has(row.key))];
    this.sessionsMore = list.hasMore ?? false;
  }

  forgetSession(key: string): void {
    this.sessions = this.sessions.filter((row) => row.key !== key);
    this.#dropChat(key);
    if (this.sessionKey === key) {
      const agentId = agentOfKey(key) || this.defaultAgentId;
      this.sessionKey = this.mainKeyOf(agentId);
      if (router.view === 'chat') router.replace('chat', this.sessionKey);
    }
  }

  async loadPendingDevices(): Promise<void> {
    if (!this.can('device.pair.list')) return;
    try {
      this.pendingDevices = (await this.request<PairingList>('device.pair.list')).pending.length;
    } catch {
      this.pendingDevices = 0; // The badge is a convenience; the Devices page reports the failure itself.
    }
  }

  #start(credentials: Credentials): void {
    this.#credentials = credentials;
    this.client.start(credentials);
  }

  #takeHash(): boolean {
    const { token, session, rest } = secretsFromHash(location.hash);
    if (session) this.sessionKey = session;
    if (!token) return false;
    history.replaceState(null, '', `${location.pathname}${location.search}${rest ? `#${rest}` : ''}`);
    keep('sessionStorage', SECRET_KEY, token);
    this.#credentials = { secret: token };
    return true;
  }

  #onState(state: ConnectionState): void {
    if (state.phase === 'ready') this.#onHello(state.hello);
    if (state.phase === 'stopped' && state.verdict.kind === 'auth') {
      const { secret, deviceToken } = this.#credentials;
      if (secret && deviceToken && state.verdict.deviceTokenMayWork) {
        // The shared token changed, but this device's own token may still be good.
        this.connection = state;
        this.#start({ deviceToken });
        return;
      }
      keep('sessionStorage', SECRET_KEY, null);
      if (!secret) keep('localStorage', DEVICE_TOKEN_KEY, null);
    }
    this.connection = state;
  }

  #onHello(hello: HelloOk): void {
    this.hello = hello;
    this.health = hello.snapshot.health ?? null;
    this.presence = hello.snapshot.presence ?? [];
    const { deviceToken } = hello.auth;
    if (deviceToken && this.remember) keep('localStorage', DEVICE_TOKEN_KEY, deviceToken);
    const defaults = hello.snapshot.sessionDefaults;
    this.defaultAgentId = defaults?.defaultAgentId ?? this.defaultAgentId;
    if (!this.sessionKey || this.sessionKey === 'main') {
      const routed = router.view === 'chat' ? router.detail : '';
      this.sessionKey = routed || kept('sessionStorage', SESSION_KEY) || defaults?.mainSessionKey || this.mainKeyOf(this.defaultAgentId || 'main');
    }
    if (router.view === 'chat' && !router.detail) router.replace('chat', this.sessionKey);
    // The state must read "ready" before requests go out; it is set right after this call.
    queueMicrotask(() => this.#refetch());
  }

  /** Everything again: after each connect, and when events were lost. */
  #refetch(): void {
    if (!this.ready) return;
    if (this.can('sessions.subscribe')) this.request('sessions.subscribe').catch(() => undefined);
    void this.loadSessions();
    void this.#loadAgents();
    void this.loadPendingDevices();
    void this.#askFarm();
    this.cronEpoch += 1;
    this.devicesEpoch += 1;
    for (const chat of this.#chats.values()) chat.resync();
  }

  /** The agents again without a word when it fails: who lives elsewhere, and whether that gateway is healthy. */
  async refreshAgents(): Promise<void> {
    const list = await this.request<AgentsList>('agents.list').catch(() => null);
    if (!list) return;
    const isNew = list.agents.some((agent) => !this.agent(agent.id));
    if (isNew) return this.#loadAgents();
    this.agents = list.agents;
    this.defaultAgentId = list.defaultId;
  }

  async #askFarm(): Promise<void> {
    if (!this.can('farm.gateways')) return;
    // Without a farm this is refused, which is all that is asked.
    this.inFarm = await this.request('farm.gateways').then(() => true, () => false);
  }

  async #loadAgents(): Promise<void> {
    try {
      const list = await this.request<AgentsList>('agents.list');
      this.agents = list.agents;
      this.defaultAgentId = list.defaultId;
      if (!this.can('agent.identity.get')) return;
      const found = await Promise.all(
        list.agents.slice(0, IDENTITIES_MAX).map((agent) =>
          this.request<AgentIdentity>('agent.identity.get', { agentId: agent.id }).catch(() => null),
        ),
      );
      const identities: Record<string, AgentIdentity> = {};
      for (const identity of found) {
        if (!identity) continue;
        // A gateway calls its only agent by one name for all when it has none: among several gateways the id says more.
        const isNameless = identity.nameSource === 'default' && Boolean(this.agent(identity.agentId)?.gateway);
        identities[identity.agentId] = isNameless ? { ...identity, name: identity.agentId } : identity;
      }
      this.identities = identities;
    } catch (error) {
      notices.say(messageOf(error), 'bad');
    }
  }

  #sessionsQuery(offset: number): object {
    return {
      limit: SESSIONS_PAGE, includeGlobal: true, includeUnknown: true, includeDerivedTitles: true, includeLastMessage: true,
      ...(offset ? { offset } : {}),
    };
  }

  #listen(): void {
    const { client } = this;
    client.on<ChatEvent>('chat', (event) => this.#chats.get(event.sessionKey)?.onChat(event));
    client.on<AgentEvent>('agent', (event) => event.sessionKey && this.#chats.get(event.sessionKey)?.onAgent(event));
    client.on<SessionMessageEvent>('session.message', (event) => this.#chats.get(event.sessionKey)?.onMessage(event));
    client.on<SessionsChangedEvent>('sessions.changed', (event) => this.#onSessionsChanged(event));
    client.on<Partial<HealthSummary>>('health', (health) => (this.health = health));
    client.on<{ presence: PresenceEntry[] }>('presence', (event) => (this.presence = event.presence ?? []));
    client.on('cron', () => (this.cronEpoch += 1));
    for (const name of ['device.pair.requested', 'device.pair.resolved', 'device.pair.changed']) {
      client.on(name, () => {
        this.devicesEpoch += 1;
        void this.loadPendingDevices();
      });
    }
    client.on('config.changed', () => void this.#loadAgents());
  }

  #onSessionsChanged(event: SessionsChangedEvent): void {
    const key = event.sessionKey;
    if (key && event.reason === 'delete') {
      this.sessions = this.sessions.filter((row) => row.key !== key);
      return;
    }
    if (key && event.reason === 'reset') this.#chats.get(key)?.reload();
    const row = event.session;
    const known = key ? this.session(key) : undefined;
    if (known && isRecord(row) && typeof row.updatedAt === 'number') {
      // An event's row may lack what only a list computes (title, preview): those stay.
      this.sessions = this.sessions.map((old) => (old.key === key ? ({ ...old, ...row, key: old.key } as SessionRow) : old));
      return;
    }
    this.#sessionsTimer ??= setTimeout(() => {
      this.#sessionsTimer = null;
      if (this.ready) void this.loadSessions();
    }, REFRESH_DELAY_MS);
  }

  #newChat(key: string): ChatStore {
    let made: ChatStore | undefined;
    // Its derived values must outlive the view that happens to ask first; hence a root of its own.
    this.#endings.set(key, $effect.root(() => {
      made = new ChatStore(this, key);
    }));
    return made as unknown as ChatStore;
  }

  #dropChat(key: string): void {
    this.#chats.get(key)?.close();
    this.#chats.delete(key);
    this.#endings.get(key)?.();
    this.#endings.delete(key);
  }
}

export const app = new App();
export type { App };
