/** Calls `run` soon after each wish, but no more often than every `gapMs`: wishes in between are one. */
export function pacer(gapMs: number, run: () => void, now: () => number = Date.now): { wish: () => void; stop: () => void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = Number.NEGATIVE_INFINITY;
  return {
    wish() {
      if (timer !== undefined) return;
      timer = setTimeout(() => {
        timer = undefined;
        last = now();
        run();
      }, Math.max(0, last + gapMs - now()));
    },
    stop() {
      clearTimeout(timer);
      timer = undefined;
    },
  };
}
