import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { pacer } from './pacer';

describe('pacer', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('runs at once, then keeps its distance, and loses no wish', () => {
    const run = vi.fn();
    const { wish } = pacer(500, run);
    wish();
    vi.advanceTimersByTime(0);
    expect(run).toHaveBeenCalledTimes(1);
    for (let n = 0; n < 20; n += 1) wish();
    vi.advanceTimersByTime(499);
    expect(run).toHaveBeenCalledTimes(1);
    vi.advanceTimersByTime(1);
    expect(run).toHaveBeenCalledTimes(2);
    vi.advanceTimersByTime(10_000);
    expect(run).toHaveBeenCalledTimes(2);
  });

  it('forgets a wish when it is stopped', () => {
    const run = vi.fn();
    const paced = pacer(500, run);
    paced.wish();
    paced.stop();
    vi.advanceTimersByTime(1_000);
    expect(run).not.toHaveBeenCalled();
  });
});
