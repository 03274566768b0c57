import { keep, kept } from './keep';

export type ThemeChoice = 'system' | 'light' | 'dark';
const ORDER: ThemeChoice[] = ['system', 'light', 'dark'];
const KEY = 'clawstead.theme';

class Theme {
  choice = $state<ThemeChoice>(ORDER.find((known) => known === kept('localStorage', KEY)) ?? 'system');

  constructor() {
    this.#apply();
  }

  next(): void {
    this.choice = ORDER[(ORDER.indexOf(this.choice) + 1) % ORDER.length] ?? 'system';
    keep('localStorage', KEY, this.choice);
    this.#apply();
  }

  #apply(): void {
    if (this.choice === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = this.choice;
  }
}

export const theme = new Theme();
