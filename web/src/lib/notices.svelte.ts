import { messageOf } from './failure';

export interface Notice {
  id: number;
  tone: 'good' | 'bad';
  text: string;
}

/** Notices on screen at one time; the oldest makes room. */
const SHOWN_MAX = 4;
/** How long a notice stays, milliseconds. Bad news stays longer. */
const GOOD_MS = 3_500;
const BAD_MS = 9_000;

class Notices {
  list = $state<Notice[]>([]);
  #next = 1;

  say(text: string, tone: Notice['tone'] = 'good'): void {
    const id = this.#next++;
    this.list = [...this.list.slice(-(SHOWN_MAX - 1)), { id, tone, text }];
    setTimeout(() => this.drop(id), tone === 'good' ? GOOD_MS : BAD_MS);
  }

  drop(id: number): void {
    this.list = this.list.filter((notice) => notice.id !== id);
  }

  /** Runs an action; its failure is shown in the gateway's words. Answers whether it worked. */
  async attempt(action: () => Promise<unknown>, done = ''): Promise<boolean> {
    try {
      await action();
      if (done) this.say(done);
      return true;
    } catch (error) {
      this.say(messageOf(error), 'bad');
      return false;
    }
  }
}

export const notices = new Notices();
