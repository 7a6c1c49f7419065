/** Lists that come in pages. In: a host and where a list begins. Out: all its entries, within bounds. Source: distribution-spec v1.1; RFC 8288. */
import { RuntimeError, limits } from '#core';
import { nextLink, resolveLocation } from './protocol.ts';
import { retrying } from './retry.io.ts';
import type { HostSession } from './session.io.ts';

/** A list and how to read a page of it. */
export interface HostList<T> {
  /** Below the host's prefix. */
  readonly target: string;
  /** Names the list in errors. */
  readonly what: string;
  readonly accept?: string;
  readonly decode: (body: Buffer, what: string) => readonly T[];
}

/** All entries, or undefined where the host knows no such list. Throws resourceExhausted for a list that does not end within the bounds. */
export async function pagesOf<T>(session: HostSession, list: HostList<T>, options: { readonly triesMax: number; readonly signal: AbortSignal }): Promise<readonly T[] | undefined> {
  const { what, accept = '*/*', decode } = list;
  const found: T[] = [];
  const seen = new Set<string>();
  let target: string | URL = list.target;
  for (let page = 0; page < limits.registryListPagesMax; page += 1) {
    const call = { target, headers: { accept } };
    const read = await retrying(
      async () => {
        using answer = await session.expect(page === 0 ? [200, 404] : [200], call, options.signal);
        const body = await answer.bytes(limits.manifestBytesMax);
        return answer.status === 404 ? undefined : { entries: decode(body, what), next: nextLink([answer.headers['link'] ?? ''].flat().join(', ')), url: answer.url };
      },
      { triesMax: options.triesMax, signal: options.signal },
    );
    if (read === undefined) return undefined;
    found.push(...read.entries);
    if (found.length > limits.registryListEntriesMax) throw new RuntimeError('resourceExhausted', `list ${what}: more than ${limits.registryListEntriesMax} entries`);
    if (read.next === undefined) return found;
    target = resolveLocation(read.next, read.url, 'goes on with the list');
    // The rest of a list is where its beginning was: nobody is sent elsewhere, with or without credentials.
    if (!session.isOwn(target)) throw new RuntimeError('unavailable', `list ${what}: the registry goes on at another host, ${target.host}`);
    if (seen.has(target.href)) throw new RuntimeError('unavailable', `list ${what}: the registry goes round in a circle`);
    seen.add(target.href);
  }
  throw new RuntimeError('resourceExhausted', `list ${what}: more than ${limits.registryListPagesMax} pages`);
}
