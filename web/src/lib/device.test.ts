// @vitest-environment node
import { describe, expect, it } from 'vitest';
import { identityFromSeed, loadIdentity, nativeIdentity, portableIdentity, signedConnectText } from './device';

// The known answer of the protocol reference: seed bytes 00..1f.
const SEED = Uint8Array.from({ length: 32 }, (_, index) => index);
const PUBLIC_KEY = 'A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg';
const DEVICE_ID = '56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c';
const TEXT = `v3|${DEVICE_ID}|cli|cli|operator|operator.read,operator.write|1737264000000|GATEWAY_TOKEN|11111111-2222-4333-8444-555555555555|linux|`;
const SIGNATURE = 'Q3nh5eUT5XoZburB0hIUMOlhb1GM0ufs0-6QI2Z16pqvm_T56LHV7sBcJq6JTAIA9X_h6s3CdEGib2SHEE95Aw';

describe('device identity', () => {
  it('writes the signed text as the gateway reads it', () => {
    const text = signedConnectText({
      deviceId: DEVICE_ID, clientId: 'cli', clientMode: 'cli', role: 'operator', scopes: ['operator.read', 'operator.write'],
      signedAt: 1737264000000, token: 'GATEWAY_TOKEN', nonce: '11111111-2222-4333-8444-555555555555', platform: ' Linux ',
    });
    expect(text).toBe(TEXT);
  });

  for (const [name, make] of [['native', nativeIdentity], ['portable', portableIdentity]] as const) {
    it(`signs the known answer with the ${name} implementation`, async () => {
      const identity = await make(SEED);
      expect(identity?.publicKey).toBe(PUBLIC_KEY);
      expect(identity?.deviceId).toBe(DEVICE_ID);
      expect(await identity?.sign(TEXT)).toBe(SIGNATURE);
    });
  }

  it('keeps one identity across loads, and a broken one is replaced', async () => {
    const kept = new Map<string, string>();
    const storage = { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => void kept.set(key, value) };
    const first = await loadIdentity(storage);
    expect((await loadIdentity(storage)).deviceId).toBe(first.deviceId);
    for (const key of kept.keys()) kept.set(key, '%%%');
    expect((await loadIdentity(storage)).deviceId).not.toBe(first.deviceId);
  });

  it('lives without storage', async () => {
    const refusing = { getItem: () => { throw new Error('no'); }, setItem: () => { throw new Error('no'); } };
    expect((await loadIdentity(refusing)).deviceId).toHaveLength(64);
    expect((await identityFromSeed(SEED)).deviceId).toBe(DEVICE_ID);
  });
});
