/** The time of day for "5 min ago" labels, moving on every half minute. */
const STEP_MS = 30_000;

class Now {
  ms = $state(Date.now());

  constructor() {
    setInterval(() => (this.ms = Date.now()), STEP_MS);
  }
}

export const now = new Now();
