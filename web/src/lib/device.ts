/**
 * This browser's device identity: an Ed25519 key whose public half the gateway knows.
 *
 * The browser's own Ed25519 is used where it exists. Pages opened over plain HTTP from another host have no
 * `crypto.subtle`; for them a JavaScript implementation is loaded on demand.
 */

const STORAGE_KEY = 'clawstead.device.v1';
/** DER header of a PKCS#8 Ed25519 private key; the 32-byte seed follows. */
const PKCS8_PREFIX = Uint8Array.from([
  0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
]);

export interface DeviceIdentity {
  /** Lowercase hex SHA-256 of the raw public key, 64 characters. */
  deviceId: string;
  /** Raw public key, base64url without padding. */
  publicKey: string;
  /** Signs UTF-8 text; answers base64url without padding. */
  sign(text: string): Promise<string>;
}

/** Everything the gateway checks a device signature against. */
export interface SignedConnect {
  deviceId: string;
  clientId: string;
  clientMode: string;
  role: string;
  scopes: string[];
  signedAt: number;
  /** The token sent in the same request, or empty; the password is not part of the text. */
  token: string;
  nonce: string;
  platform?: string;
  deviceFamily?: string;
}

/** The text a device signs when it connects (third version of the format). */
export function signedConnectText(c: SignedConnect): string {
  return [
    'v3', c.deviceId, c.clientId, c.clientMode, c.role, c.scopes.join(','), String(c.signedAt), c.token, c.nonce,
    asciiLower(c.platform), asciiLower(c.deviceFamily),
  ].join('|');
}

/** Trims and lowercases A-Z only, as the gateway does; other letters stay as they are. */
function asciiLower(text: string | undefined): string {
  return (text ?? '').trim().replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

export function base64url(bytes: Uint8Array): string {
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
}

export function fromBase64url(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The identity of a 32-byte seed, by whichever implementation this browser has. */
export async function identityFromSeed(seed: Uint8Array): Promise<DeviceIdentity> {
  return (await nativeIdentity(seed)) ?? portableIdentity(seed);
}

/** The browser's own Ed25519, or `null` where there is none. */
export async function nativeIdentity(seed: Uint8Array): Promise<DeviceIdentity | null> {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) return null;
  try {
    const pkcs8 = new Uint8Array(PKCS8_PREFIX.length + seed.length);
    pkcs8.set(PKCS8_PREFIX);
    pkcs8.set(seed, PKCS8_PREFIX.length);
    const exportable = await subtle.importKey('pkcs8', pkcs8, 'Ed25519', true, ['sign']);
    const { x } = await subtle.exportKey('jwk', exportable);
    if (!x) return null;
    const key = await subtle.importKey('pkcs8', pkcs8, 'Ed25519', false, ['sign']);
    const raw = fromBase64url(x);
    const digest = new Uint8Array(await subtle.digest('SHA-256', raw));
    return {
      deviceId: hex(digest),
      publicKey: base64url(raw),
      sign: async (text) => base64url(new Uint8Array(await subtle.sign('Ed25519', key, new TextEncoder().encode(text)))),
    };
  } catch {
    return null;
  }
}

/** The JavaScript Ed25519, for pages without `crypto.subtle`. */
export async function portableIdentity(seed: Uint8Array): Promise<DeviceIdentity> {
  const { publicKey, sha256, sign } = await import('./device-portable');
  const raw = publicKey(seed);
  return {
    deviceId: hex(sha256(raw)),
    publicKey: base64url(raw),
    sign: async (text) => base64url(sign(new TextEncoder().encode(text), seed)),
  };
}

/**
 * This browser's identity, created on first use and kept in local storage. Where storage is refused (private
 * windows) the identity lasts as long as the page.
 */
export async function loadIdentity(storage: Pick<Storage, 'getItem' | 'setItem'> | null): Promise<DeviceIdentity> {
  let seed: Uint8Array | null = null;
  try {
    const stored = storage?.getItem(STORAGE_KEY);
    if (stored) seed = fromBase64url(stored);
  } catch {
    seed = null;
  }
  if (seed?.length !== 32) {
    seed = globalThis.crypto.getRandomValues(new Uint8Array(32));
    try {
      storage?.setItem(STORAGE_KEY, base64url(seed));
    } catch {
      // Storage is full or refused; the identity then lives in memory only.
    }
  }
  return identityFromSeed(seed);
}
