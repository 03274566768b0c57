import * as ed from '@noble/ed25519';
import { sha256, sha512 } from '@noble/hashes/sha2.js';

ed.hashes.sha512 = sha512;

export const publicKey = (seed: Uint8Array): Uint8Array => ed.getPublicKey(seed);
export const sign = (text: Uint8Array, seed: Uint8Array): Uint8Array => ed.sign(text, seed);
export { sha256 };
