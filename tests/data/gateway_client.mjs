// Drives a gateway with the original's published client library and prints what happened as one JSON line.
// Environment: CLAWSTEAD_GATEWAY_CLIENT (the package's folder), GATEWAY_URL, GATEWAY_TOKEN.
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomUUID, sign } from "node:crypto";
import { pathToFileURL } from "node:url";

const folder = process.env.CLAWSTEAD_GATEWAY_CLIENT;
const { GatewayClient } = await import(pathToFileURL(`${folder}/dist/index.mjs`).href);
const url = process.env.GATEWAY_URL;
const token = process.env.GATEWAY_TOKEN;

const rawPublicKey = (pem) => createPublicKey(pem).export({ format: "der", type: "spki" }).subarray(-32);

/** A new device, with a store for its tokens. */
function device() {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const publicKeyPem = publicKey.export({ type: "spki", format: "pem" });
  const identity = {
    deviceId: createHash("sha256").update(rawPublicKey(publicKeyPem)).digest("hex"),
    privateKeyPem: privateKey.export({ type: "pkcs8", format: "pem" }),
    publicKeyPem,
  };
  const tokens = new Map();
  const hostDeps = {
    signDevicePayload: (pem, payload) => sign(null, Buffer.from(payload, "utf8"), createPrivateKey(pem)).toString("base64url"),
    publicKeyRawBase64UrlFromPem: (pem) => rawPublicKey(pem).toString("base64url"),
    loadDeviceAuthToken: ({ role }) => tokens.get(role) ?? null,
    storeDeviceAuthToken: ({ role, token, scopes }) => tokens.set(role, { token, scopes }),
    clearDeviceAuthToken: ({ role }) => tokens.delete(role),
  };
  return { identity, hostDeps, tokens };
}

/** Connects; rejects with the gateway's own error. */
function connect(options) {
  return new Promise((resolve, reject) => {
    const events = [];
    const gaps = [];
    const listeners = new Set();
    const client = new GatewayClient({
      url,
      minProtocol: 4,
      maxProtocol: 4,
      clientVersion: "2026.9.6",
      ...options,
      onHelloOk: (hello) => resolve({ client, hello, events, gaps, listeners }),
      onConnectError: (error) => {
        // In this order: stopping reports an error of its own.
        reject(error);
        client.stop();
      },
      onEvent: (event) => {
        events.push(event);
        for (const listener of listeners) listener(event);
      },
      onGap: (gap) => gaps.push(gap),
    });
    client.start();
  });
}

/** chat.send and its events until the end. */
async function chat({ client, listeners }, sessionKey, message) {
  const states = [];
  let text = "";
  const key = randomUUID();
  const end = new Promise((resolve) => {
    const listener = ({ event, payload }) => {
      if (event !== "chat" || payload.runId !== key) return;
      states.push(payload.state);
      const said = (payload.message?.content ?? []).filter((part) => part.type === "text").map((part) => part.text).join("");
      if (said) text = said;
      if (["final", "error", "aborted"].includes(payload.state)) {
        listeners.delete(listener);
        resolve();
      }
    };
    listeners.add(listener);
  });
  const accepted = await client.request("chat.send", { sessionKey, message, idempotencyKey: key });
  await end;
  return { accepted: accepted.status, state: states.at(-1), deltas: states.filter((state) => state === "delta").length, text };
}

const result = {};
const watchdog = setTimeout(() => {
  console.log(JSON.stringify({ ...result, error: "did not end in 90 s" }));
  process.exit(1);
}, 90_000);

try {
  // The owner: shared token, no device.
  const owner = await connect({ token, scopes: ["operator.admin", "operator.read", "operator.write", "operator.pairing"] });
  result.owner = { protocol: owner.hello.protocol, role: owner.hello.auth.role, scopes: owner.hello.auth.scopes, version: owner.hello.server.version };

  // A new device has to be approved.
  const phone = device();
  const asPhone = {
    token,
    clientName: "openclaw-ios",
    mode: "ui",
    platform: "ios",
    deviceFamily: "iPhone",
    deviceIdentity: phone.identity,
    hostDeps: phone.hostDeps,
    scopes: ["operator.read", "operator.write"],
  };
  const refusal = await connect(asPhone).then(
    () => null,
    (error) => error,
  );
  result.refusal = refusal && { code: refusal.gatewayCode ?? refusal.code, reason: refusal.details?.reason, requestId: typeof refusal.details?.requestId };
  const { pending } = await owner.client.request("device.pair.list", {});
  result.pending = pending.map((request) => ({ mine: request.deviceId === phone.identity.deviceId, role: request.role, scopes: request.scopes }));
  const requestId = pending.find((request) => request.deviceId === phone.identity.deviceId)?.requestId;
  if (requestId) await owner.client.request("device.pair.approve", { requestId });
  const paired = await connect(asPhone);
  result.paired = { scopes: paired.hello.auth.scopes, hasToken: typeof paired.hello.auth.deviceToken === "string", stored: phone.tokens.has("operator") };

  // It streams.
  result.chat = await chat(paired, "agent:main:phone", "!pace 20 !pieces 6 !say one two three four five six");
  const history = await paired.client.request("chat.history", { sessionKey: "agent:main:phone", limit: 10 });
  result.roles = history.messages.map((message) => message.role);
  result.admin = await paired.client.request("device.pair.list", {}).then(
    () => "allowed",
    (error) => error.gatewayCode ?? error.code ?? String(error),
  );
  await paired.client.stopAndWait();

  // It comes back with its own token and without the shared one.
  const again = await connect({ ...asPhone, token: undefined });
  result.again = { method: again.hello.auth.method, scopes: again.hello.auth.scopes };
  const run = await again.client.request(
    "agent",
    { agentId: "main", message: "!say by the agent method", idempotencyKey: randomUUID() },
    { expectFinal: true, timeoutMs: 30_000 },
  );
  result.agent = { status: run.status, text: run.result?.payloads?.[0]?.text };
  result.gaps = owner.gaps.length + paired.gaps.length + again.gaps.length;

  // A revoked device is out.
  await owner.client.request("device.pair.remove", { deviceId: phone.identity.deviceId });
  const out = await connect({ ...asPhone, token: undefined }).then(
    () => "still let in",
    (error) => error.details?.code ?? error.gatewayCode ?? String(error),
  );
  result.removed = out;
  await again.client.stopAndWait();
  await owner.client.stopAndWait();
} catch (error) {
  result.error = String(error?.stack ?? error);
}
clearTimeout(watchdog);
console.log(JSON.stringify(result));
process.exit(0);
