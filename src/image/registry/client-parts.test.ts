/** The parts of the registry client that need no network: retries, slots, proxies, pieces, lists. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RuntimeError, limits } from '#core';
import { parseDigest } from '#oci';
import { directAccess, upstreamOnly } from './direct-access.ts';
import { planPieces } from './download.io.ts';
import { decodeReferrers, decodeTags, referrersTag } from './lists.ts';
import { proxyHeaders, proxyOf } from './proxy.io.ts';
import { TransientFailure, backoffMs, retrying } from './retry.io.ts';
import { Slots } from './slots.ts';

const signal = new AbortController().signal;
const digest = parseDigest(`sha256:${'ab'.repeat(32)}`);

describe('trying again', () => {
  test('pauses double up to a bound, and half of each is chance', () => {
    assert.deepEqual(
      [1, 2, 3, 4].map((failures) => backoffMs(failures, 1)),
      [200, 400, 800, 1600],
    );
    assert.equal(backoffMs(3, 0), 400);
    assert.equal(backoffMs(60, 1), 10_000);
  });

  test('a failure that no try would mend is final, a transient one is not, and progress begins the count anew', async () => {
    let tries = 0;
    let bytes = 0;
    const fail = async (error: Error): Promise<never> => {
      tries += 1;
      throw error;
    };
    await assert.rejects(
      retrying(() => fail(new RuntimeError('notFound', 'no')), { triesMax: 3, signal }),
      { code: 'notFound' },
    );
    assert.equal(tries, 1);
    tries = 0;
    await assert.rejects(
      retrying(() => fail(new TransientFailure('unavailable', 'busy')), { triesMax: 2, signal }),
      { code: 'unavailable', message: 'busy' },
    );
    assert.equal(tries, 2);
    tries = 0;
    const partly = async (): Promise<number> => {
      tries += 1;
      bytes += tries < 4 ? 1 : 0;
      if (tries < 6) throw new TransientFailure('unavailable', 'broken');
      return tries;
    };
    await assert.rejects(retrying(partly, { triesMax: 2, signal, progress: () => bytes }), { message: 'broken' });
    assert.equal(tries, 4, 'three tries brought something, the fourth was the second in a row without');
  });

  test('a registry that asks for more patience than there is ends it, and a cancellation ends a pause', async () => {
    const late = new TransientFailure('resourceExhausted', 'busy', { retryAfterMs: limits.retryAfterMsMax + 1 });
    await assert.rejects(
      retrying(() => Promise.reject(late), { triesMax: 3, signal }),
      { code: 'resourceExhausted', message: 'busy (and wants to be asked again in 61 s)' },
    );
    const controller = new AbortController();
    const pausing = retrying(() => Promise.reject(new TransientFailure('unavailable', 'busy', { retryAfterMs: 50_000 })), { triesMax: 3, signal: controller.signal });
    const reason = new Error('the caller has gone');
    setImmediate(() => controller.abort(reason));
    await assert.rejects(pausing, (error) => error === reason);
  });
});

test('slots are given out in order, given back once, and not waited for after a cancellation', async () => {
  const slots = new Slots(1);
  const first = await slots.take(signal);
  const order: string[] = [];
  const controller = new AbortController();
  const second = slots.take(controller.signal);
  const third = slots.take(signal).then((slot) => {
    order.push('third');
    return slot;
  });
  controller.abort();
  await assert.rejects(second, { name: 'AbortError' });
  assert.deepEqual(order, []);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  const held = await third;
  let taken = false;
  const fourth = slots.take(signal).then((slot) => {
    taken = true;
    return slot;
  });
  await new Promise(setImmediate);
  assert.equal(taken, false, 'a slot that is given back twice is still one');
  held[Symbol.dispose]();
  (await fourth)[Symbol.dispose]();
});

describe('proxies', () => {
  const settings = { httpProxy: 'plain.proxy:3128', httpsProxy: 'http://u:p%40ss@tls.proxy' };
  const hostFor = (url: string, noProxy?: string): string | undefined => proxyOf(new URL(url), { ...settings, ...(noProxy === undefined ? {} : { noProxy }) })?.host;

  test('credentials that are not encoded as in URLs are refused before anything connects, and not shown', () => {
    const refused = { code: 'failedPrecondition', message: 'use the proxy proxy.example:3128: its credentials are not percent-encoded' };
    assert.throws(() => proxyOf(new URL('https://a.example/'), { httpsProxy: 'http://user:100%@proxy.example:3128' }), refused);
  });

  test('the scheme decides which one, and loopback needs none', () => {
    assert.equal(hostFor('https://reg.example/v2/'), 'tls.proxy');
    assert.equal(hostFor('http://reg.example/v2/'), 'plain.proxy:3128');
    for (const url of ['http://localhost/', 'http://127.0.0.1:5000/', 'https://[::1]/']) assert.equal(hostFor(url), undefined, url);
    assert.equal(proxyOf(new URL('https://reg.example'), {}), undefined);
    assert.deepEqual(proxyHeaders(new URL(settings.httpsProxy)), { 'proxy-authorization': `Basic ${Buffer.from('u:p@ss').toString('base64')}` });
    assert.throws(() => proxyOf(new URL('https://reg.example'), { httpsProxy: 'socks5://secret@x' }), {
      code: 'failedPrecondition',
      message: 'use the proxy for https: not an http or https URL',
    });
  });

  test('exempt are names with what is below them, suffixes, addresses, subnets and single ports', () => {
    const exempt: readonly (readonly [string, string])[] = [
      ['https://reg.example/', 'reg.example'],
      ['https://a.reg.example/', 'other, reg.example'],
      ['https://a.reg.example/', '.reg.example'],
      ['https://a.reg.example/', '*.reg.example'],
      ['https://REG.example/', 'Reg.Example'],
      ['https://reg.example:8443/', 'reg.example:8443'],
      ['https://10.1.2.3/', '10.0.0.0/8'],
      ['https://10.1.2.3/', '10.1.2.3'],
      ['https://[fd00::1]/', 'fd00::/8'],
      ['https://anything/', '*'],
    ];
    for (const [url, noProxy] of exempt) assert.equal(hostFor(url, noProxy), undefined, `${url} ${noProxy}`);
    const others: readonly (readonly [string, string])[] = [
      ['https://reg.example/', '.reg.example'],
      ['https://myreg.example/', 'reg.example'],
      ['https://reg.example/', 'reg.example:8443'],
      ['https://11.1.2.3/', '10.0.0.0/8'],
      ['https://10.1.2.3/', '10.0.0.0/99'],
      ['https://reg.example/', '10.0.0.0/8'],
      ['https://reg.example/', ''],
    ];
    for (const [url, noProxy] of others) assert.equal(hostFor(url, noProxy), 'tls.proxy', `${url} ${noProxy}`);
  });
});

test('a small blob is one piece, a large one windows in order, after what is there', () => {
  assert.deepEqual(planPieces({ digest, sizeBytes: 100 }, 0), [{ at: 0, end: 100 }]);
  assert.deepEqual(planPieces({ digest, sizeBytes: 100 }, 40), [{ at: 40, end: 100 }]);
  assert.deepEqual(planPieces({ digest, sizeBytes: 100 }, 100), []);
  assert.deepEqual(planPieces({ digest, sizeBytes: 0 }, 0), []);
  const large = planPieces({ digest, sizeBytes: limits.rangedBlobBytesMin + 1 }, 5);
  assert.equal(large[0]?.at, 5);
  assert.equal(large.at(-1)?.end, limits.rangedBlobBytesMin + 1);
  for (const [index, piece] of large.entries()) assert.equal(piece.at, index === 0 ? 5 : large[index - 1]?.end);
  assert.ok(large.every(({ at, end }) => end > at && end - at <= limits.rangeWindowBytes));
});

test('lists are decoded strictly', () => {
  const tags = (text: string): readonly string[] => decodeTags(Buffer.from(text), 'tags of a');
  assert.deepEqual(tags('{"name":"a","tags":["1.0","_x"]}'), ['1.0', '_x']);
  assert.deepEqual(tags('{"name":"a","tags":null}'), []);
  assert.throws(() => tags('{"tags":["../x"]}'), { code: 'invalidArgument', message: 'tags of a.tags[0]: "../x" is no tag' });
  assert.throws(() => tags('<html>'), { code: 'invalidArgument', message: /^tags of a: not JSON/ });
  const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":"${digest}","size":1},"layers":[]}`;
  assert.throws(() => decodeReferrers(Buffer.from(manifest), 'referrers'), { code: 'invalidArgument' });
  assert.equal(referrersTag(digest), `sha256-${'ab'.repeat(32)}`);
  assert.equal(referrersTag(parseDigest(`sha512:${'cd'.repeat(64)}`)), `sha512-${'cd'.repeat(32)}`);
});

test('a registry without configuration is its own only host; without mirrors it is alone again', () => {
  const access = directAccess('docker.io', 'library/busybox', { registryToken: 't' });
  assert.deepEqual(
    access.hosts.map(({ url, isUpstream }) => [url, isUpstream]),
    [['https://registry-1.docker.io/v2/', true]],
  );
  const [upstream] = access.hosts;
  assert.ok(upstream !== undefined);
  const mirrored = { ...access, hosts: [{ ...upstream, url: 'https://mirror/v2/', isUpstream: false }, upstream] };
  assert.deepEqual(upstreamOnly(mirrored).hosts, [upstream]);
  assert.deepEqual(upstreamOnly({ ...access, hosts: [] }).hosts, []);
});
