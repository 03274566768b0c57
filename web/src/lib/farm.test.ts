import { describe, expect, it } from 'vitest';
import { GatewayError } from './failure';
import { agentsAt, eventWords, healthWords, isOpen, isWithoutFarm, letterText, problemsOf, sortLetters, span, stateWord, type FarmLetter, type FarmStatus } from './farm';

const letter = (fields: Partial<FarmLetter>): FarmLetter => ({ direction: 'out', messageId: 'a', state: 'queued', from: 'jerry', to: 'bobby', createdAt: 1, ...fields });
const status = (fields: Partial<FarmStatus> = {}): FarmStatus => ({
  farm: 'octant', gateway: 'one', coord: { engine: 'consul', ok: true }, bus: { engine: 'nats', ok: true }, gateways: [], agents: [],
  letters: { queued: 0, inFlight: 0, delivered: 0, dead: 0 }, ...fields,
});

describe('a farm in words', () => {
  it('tells a gateway without a farm from a farm that does not answer', () => {
    expect(isWithoutFarm(new GatewayError({ code: 'UNAVAILABLE', message: 'this gateway is no part of a farm (openclaw farm init)' }))).toBe(true);
    expect(isWithoutFarm(new GatewayError({ code: 'UNAVAILABLE', message: 'the gateway is starting' }))).toBe(false);
    expect(isWithoutFarm(new Error('this gateway is no part of a farm'))).toBe(false);
  });

  it('counts time in whole seconds', () => {
    expect([-5, 999, 12_700, 185_900].map(span)).toEqual(['0 s', '0 s', '12 s', '3 min 5 s']);
    expect(healthWords({ name: 'a', health: 'silent', sinceMs: 12_000 })).toBe('Silent for 12 s');
    expect(healthWords({ name: 'a', health: 'stopped', sinceMs: 0 })).toBe('Stopped');
  });

  it('shows an agent where it is held, and only there', () => {
    const agents = [{ id: 'jerry', gateway: 'two' }, { id: 'lost' }];
    expect(agentsAt({ name: 'one', health: 'healthy', agents: ['jerry', 'lost'] }, agents).map((agent) => agent.id)).toEqual(['lost']);
    expect(agentsAt({ name: 'two', health: 'healthy', agents: [] }, agents).map((agent) => agent.id)).toEqual(['jerry']);
  });

  it('collects what is wrong, each thing once', () => {
    expect(problemsOf(status())).toEqual([]);
    const lines = problemsOf(status({
      coord: { engine: 'consul', ok: false, why: 'refused' },
      bus: { engine: 'nats', ok: false, why: 'no answer within 3 s' },
      gateways: [
        { name: 'two', health: 'silent', sinceMs: 4_000, problems: ['two processes use this name', 'two processes use this name'] },
        { name: 'three', health: 'stopped', problems: [] },
      ],
    }));
    expect(lines).toEqual([
      'The coordination store does not answer: refused',
      'Letters are not carried now: no answer within 3 s',
      'two: two processes use this name',
      'two is silent: letters for its agents wait',
    ]);
    expect(problemsOf(status({ bus: { engine: 'nats', ok: false } }))).toEqual(['Letters are not carried now: NATS does not answer']);
    const told = 'the coordination store does not answer: refused';
    expect(problemsOf(status({ coord: { engine: 'consul', ok: false }, problems: [told] }))).toEqual([told]);
  });
});

describe('letters in words', () => {
  it('knows which are under way', () => {
    const states = ['queued', 'delivered', 'processing', 'acked', 'failed', 'dead_letter'];
    expect(states.filter((state) => isOpen(letter({ direction: 'in', state })))).toEqual(['queued', 'delivered', 'processing']);
    expect(isOpen(letter({ state: 'failed' }))).toBe(true);
    expect(isOpen(letter({ state: 'DEAD_LETTER' }))).toBe(false);
    expect([letter({}), letter({ attempts: 2 }), letter({ state: 'odd' })].map(stateWord)).toEqual(['Queued', 'On its way', 'odd']);
  });

  it('keeps a letter of both directions twice, and one of the same direction once', () => {
    const sorted = sortLetters([letter({}), letter({ direction: 'in', state: 'acked' }), letter({})]);
    expect([sorted.open.length, sorted.ended.length]).toEqual([1, 1]);
  });

  it('reads the text out of a body', () => {
    expect(letterText({ kind: 'request', body: [{ type: 'text', text: 'one' }, { type: 'image' }, { type: 'text', text: 'two' }] })).toBe('one\ntwo');
    expect([letterText('plain'), letterText({ other: 1 }), letterText(undefined)]).toEqual(['plain', '', '']);
  });

  it('tells every transition', () => {
    const told = (event: string, more = {}) => eventWords({ at: 1, event, ...more }).text;
    expect(told('sent', { attempt: 0 })).toBe('Sent, attempt 1');
    expect(told('retry', { reason: 'no_receipt', delay_ms: 1_500 })).toBe('To be sent again in 1.5 s: no receipt');
    expect(told('dead_letter', { reason: 'policy_denied' })).toBe('Given up: policy denied');
    expect(told('failed', { code: 'busy', retryable: true })).toBe('The receiver could not do it: busy, it may be tried again');
    expect([told('completed', { failed: null }), told('completed', { failed: 'internal' })]).toEqual(['Done', 'Ended: internal']);
    expect(told('something_new')).toBe('something new');
  });
});
