/** Browser storage that never throws: private windows and full disks count as "nothing kept". */

export function storageOf(kind: 'localStorage' | 'sessionStorage'): Storage | null {
  try {
    return globalThis[kind] ?? null;
  } catch {
    return null;
  }
}

export function keep(kind: 'localStorage' | 'sessionStorage', key: string, value: string | null): void {
  try {
    const storage = storageOf(kind);
    if (value === null) storage?.removeItem(key);
    else storage?.setItem(key, value);
  } catch {
    // Not kept; the page works without.
  }
}

export function kept(kind: 'localStorage' | 'sessionStorage', key: string): string | null {
  try {
    return storageOf(kind)?.getItem(key) ?? null;
  } catch {
    return null;
  }
}
