/**
 * Lists, uploads and redirects of registries that Debian's docker-registry is not: with pages, with a list of referrers, with uploads elsewhere, and
 * hostile ones. The registries are servers of the test, on loopback.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '#core';
import { type Digest, mediaTypes, parseDigest } from '#oci';
import { RegistryClient } from '../../src/image/registry/client.io.ts';
import { directAccess } from '../../src/image/registry/direct-access.ts';
import { failsWith } from './expect-failure.ts';
import { TestServer } from './registry-servers.ts';

const signal = new AbortController().signal;
const digestOf = (bytes: Uint8Array): Digest => parseDigest(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);
const subject = digestOf(Buffer.from('subject'));

/** A registry that answers by this table of `METHOD path`, and the requests it got. */
async function startRegistry(
  answers: Readonly<Record<string, (answer: ServerResponse, incoming: IncomingMessage) => void>>,
): Promise<AsyncDisposable & { readonly address: string; readonly requests: { readonly what: string; readonly authorization: string | undefined }[] }> {
  const requests: { readonly what: string; readonly authorization: string | undefined }[] = [];
  const server = await TestServer.start((incoming, answer) => {
    const what = `${incoming.method} ${incoming.url}`;
    requests.push({ what, authorization: incoming.headers.authorization });
    const known = answers[what] ?? answers[what.split('?')[0] ?? ''];
    incoming.resume().once('end', () => (known === undefined ? answer.writeHead(404).end('{}') : known(answer, incoming)));
  });
  return { address: server.address, requests, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

const clientOf = (address: string): RegistryClient => new RegistryClient({ access: directAccess(address, 'a/b', { registryToken: 'secret' }), retries: 1 });
const json = (answer: ServerResponse, body: unknown, headers: Readonly<Record<string, string>> = {}): void => {
  answer.writeHead(200, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
};
const tagsPage = (tags: readonly string[], next?: string) => (answer: ServerResponse) =>
  json(answer, { name: 'a/b', tags }, next === undefined ? {} : { link: `<${next}>; rel="next"` });

describe('lists in pages', () => {
  test('all pages are read, from the registry alone', async () => {
    await using registry = await startRegistry({
      'GET /v2/a/b/tags/list?n=1000': tagsPage(['1', '2'], '/v2/a/b/tags/list?n=1000&last=2'),
      'GET /v2/a/b/tags/list?n=1000&last=2': tagsPage(['3'], 'list?last=3'),
      'GET /v2/a/b/tags/list?last=3': tagsPage([]),
    });
    using client = clientOf(registry.address);
    assert.deepEqual(await client.tags(signal), ['1', '2', '3']);
  });

  test('a list that goes elsewhere, in a circle or on for ever is refused, and a tag that is none', async () => {
    const first = 'GET /v2/a/b/tags/list?n=1000';
    let page = 0;
    const cases: readonly (readonly [Parameters<typeof startRegistry>[0], string, RegExp])[] = [
      [{ [first]: tagsPage(['1'], 'http://127.0.0.2:1/v2/a/b/tags/list') }, 'unavailable', /^list tags of a\/b: the registry goes on at another host, 127\.0\.0\.2:1$/],
      [{ 'GET /v2/a/b/tags/list': tagsPage(['1'], '?n=1') }, 'unavailable', /^list tags of a\/b: the registry goes round in a circle$/],
      [
        {
          'GET /v2/a/b/tags/list': (answer) =>
            tagsPage(
              Array.from({ length: 10_000 }, (_, index) => `t${index}`),
              `?n=${(page += 1)}`,
            )(answer),
        },
        'resourceExhausted',
        /^list tags of a\/b: more than 100000 entries$/,
      ],
      [{ [first]: tagsPage(['a b']) }, 'invalidArgument', /^tags of a\/b\.tags\[0\]: "a b" is no tag$/],
      [{ [first]: (answer) => void answer.end('<html>') }, 'invalidArgument', /^tags of a\/b: not JSON/],
    ];
    for (const [answers, code, message] of cases) {
      await using registry = await startRegistry(answers);
      using client = clientOf(registry.address);
      await assert.rejects(client.tags(signal), failsWith(code, message));
    }
  });

  test('referrers come from the registry’s list, filtered here where the registry does not', async () => {
    const entry = (kind: string) => ({ mediaType: mediaTypes.ociManifest, digest: digestOf(Buffer.from(kind)), size: 7, artifactType: `test/${kind}` });
    const page = (kinds: readonly string[], next?: string) => (answer: ServerResponse) =>
      json(answer, { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: kinds.map(entry) }, next === undefined ? {} : { link: `<${next}>; rel="next"` });
    const list = `GET /v2/a/b/referrers/${subject}`;
    await using registry = await startRegistry({ [list]: page(['sbom', 'signature'], '?page=2'), [`${list}?page=2`]: page(['sbom2']) });
    using client = clientOf(registry.address);
    const kinds = async (artifactType?: string) =>
      (await client.referrers(subject, artifactType === undefined ? {} : { artifactType }, signal)).map((descriptor) => descriptor.artifactType);
    assert.deepEqual(await kinds(), ['test/sbom', 'test/signature', 'test/sbom2']);
    registry.requests.length = 0;
    assert.deepEqual(await kinds('test/sbom'), ['test/sbom']);
    assert.equal(registry.requests[0]?.what, `${list}?artifactType=test%2Fsbom`);
  });
});

describe('uploads', () => {
  const blob = Buffer.from('content');
  const open = async function* (): AsyncGenerator<Uint8Array> {
    yield blob;
  };
  const upload = async (client: RegistryClient, onBytes: (count: number) => void = () => undefined) =>
    client.uploadBlob({ digest: digestOf(blob), sizeBytes: blob.length }, open, { onBytes }, signal);

  test('an upload may be elsewhere, which then gets no credentials', async () => {
    await using storage = await startRegistry({ 'PUT /store': (answer) => void answer.writeHead(201).end() });
    await using registry = await startRegistry({
      'POST /v2/a/b/blobs/uploads/': (answer) => void answer.writeHead(202, { location: `http://name:word@${storage.address}/store?state=x%2Fy` }).end(),
    });
    using client = clientOf(registry.address);
    assert.equal(await upload(client), 'uploaded');
    const [put] = storage.requests;
    assert.equal(put?.what, `PUT /store?state=x%2Fy&digest=${encodeURIComponent(digestOf(blob))}`);
    assert.equal(put?.authorization, undefined);
    assert.deepEqual([...new Set(registry.requests.map(({ authorization }) => authorization))], ['Bearer secret']);
  });

  test('an upload that fails is begun anew, and the counts say so', async () => {
    let tries = 0;
    await using registry = await startRegistry({
      'POST /v2/a/b/blobs/uploads/': (answer) => void answer.writeHead(202, { location: `/upload/${(tries += 1)}` }).end(),
      'PUT /upload/1': (answer) => void answer.writeHead(502).end(),
      'PUT /upload/2': (answer) => void answer.writeHead(201).end(),
    });
    using client = clientOf(registry.address);
    const counts: number[] = [];
    assert.equal(await upload(client, (count) => void counts.push(count)), 'uploaded');
    assert.deepEqual(counts, [blob.length, -blob.length, blob.length]);
  });

  test('an upload that is redirected after it was sent counts once', async () => {
    await using registry = await startRegistry({
      'POST /v2/a/b/blobs/uploads/': (answer) => void answer.writeHead(202, { location: '/upload' }).end(),
      'PUT /upload': (answer) => void answer.writeHead(307, { location: '/store' }).end(),
      'PUT /store': (answer) => void answer.writeHead(201).end(),
    });
    using client = clientOf(registry.address);
    const counts: number[] = [];
    assert.equal(await upload(client, (count) => void counts.push(count)), 'uploaded');
    assert.deepEqual(counts, [blob.length, -blob.length, blob.length]);
  });

  test('content of an upload that is given up is closed, though the registry takes nothing', async () => {
    await using server = await TestServer.start((incoming, answer) => {
      // The content is never read, and nothing is answered to it.
      if (incoming.method === 'HEAD') answer.writeHead(404).end();
      if (incoming.method === 'POST') answer.writeHead(202, { location: '/v2/app/blobs/uploads/one' }).end();
    });
    using client = new RegistryClient({ access: directAccess(server.address, 'app') });
    const closed = Promise.withResolvers<void>();
    const piece = Buffer.alloc(1 << 20);
    const content = async function* (): AsyncGenerator<Uint8Array> {
      try {
        for (let count = 0; count < 64; count += 1) yield piece;
      } finally {
        closed.resolve();
      }
    };
    const given = new AbortController();
    const onBytes = (): void => given.abort();
    await assert.rejects(client.uploadBlob({ digest: subject, sizeBytes: 64 << 20 }, content, { onBytes }, given.signal), { name: 'AbortError' });
    await closed.promise;
  });

  test('an upload without an address, or a manifest stored as another one, is an error', async () => {
    const bytes = Buffer.from('{}');
    await using registry = await startRegistry({
      'POST /v2/a/b/blobs/uploads/': (answer) => void answer.writeHead(202).end(),
      'PUT /v2/a/b/manifests/1': (answer) => void answer.writeHead(201, { 'docker-content-digest': subject }).end(),
      'PUT /v2/a/b/manifests/2': (answer) => void answer.writeHead(201, { 'docker-content-digest': digestOf(bytes), 'oci-subject': subject }).end(),
      'PUT /v2/a/b/manifests/3': (answer) => void answer.writeHead(302, { location: '/elsewhere' }).end(),
    });
    using client = clientOf(registry.address);
    await assert.rejects(upload(client), failsWith('unavailable', /^the registry leads an upload to no address$/));
    await assert.rejects(
      client.putManifest('1', bytes, mediaTypes.ociManifest, signal),
      failsWith('dataLoss', new RegExp(`^push manifest ${digestOf(bytes)}: the registry stored "${subject}"$`)),
    );
    assert.deepEqual(await client.putManifest('2', bytes, mediaTypes.ociManifest, signal), { listsReferrers: true });
    await assert.rejects(client.putManifest('3', bytes, mediaTypes.ociManifest, signal), failsWith('unavailable', /^the registry redirects a PUT with 302$/));
    await assert.rejects(client.putManifest(subject, bytes, mediaTypes.ociManifest, signal), failsWith('invalidArgument', /the content is sha256:/));
  });
});

describe('tokens', () => {
  test('a request that is given up while it asks for a token takes no other with it', async () => {
    const manifest = Buffer.from('{"schemaVersion":2}');
    let asked = 0;
    const asking = Promise.withResolvers<void>();
    await using registry = await startRegistry({
      'GET /v2/a/b/manifests/1': (answer, { headers }) => {
        if (headers.authorization === 'Bearer second') answer.writeHead(200).end(manifest);
        else answer.writeHead(401, { 'www-authenticate': `Bearer realm="http://${headers.host}/token"` }).end();
      },
      // The first one stays without an answer.
      'GET /token': (answer) => {
        asked += 1;
        if (asked === 1) asking.resolve();
        else json(answer, { token: 'second' });
      },
    });
    using client = new RegistryClient({ access: directAccess(registry.address, 'a/b') });
    const reason = new RuntimeError('cancelled', 'not wanted any more');
    const leaving = new AbortController();
    const first = client.manifest('1', leaving.signal);
    await asking.promise;
    const second = client.manifest('1', signal);
    // The second one has been refused too, and waits for the token.
    while (registry.requests.filter(({ what }) => what.includes('/manifests/')).length < 2) await sleep(10);
    await sleep(50);
    leaving.abort(reason);
    await assert.rejects(first, (error) => error === reason);
    assert.deepEqual((await second).bytes, manifest);
    assert.equal(asked, 2);
  });
});

describe('hostile answers', () => {
  test('a client that is closed makes no further connection', async () => {
    await using registry = await startRegistry({});
    const client = clientOf(registry.address);
    client[Symbol.dispose]();
    await assert.rejects(client.manifest('1', signal), failsWith('cancelled', /^talk to 127\.0\.0\.1:\d+: the client is closed$/));
    assert.deepEqual(registry.requests, []);
  });

  test('a registry that changes to another protocol has not answered', async () => {
    await using registry = await startRegistry({
      'GET /v2/a/b/manifests/1': (answer) => void answer.socket?.end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nhello'),
    });
    using client = clientOf(registry.address);
    await assert.rejects(client.manifest('1', signal), failsWith('unavailable', /^talk to 127\.0\.0\.1:\d+: the connection ended without an answer$/));
    assert.equal(registry.requests.length, 2);
  });

  test('a tag’s manifest must be what the registry says it is, and small', async () => {
    await using registry = await startRegistry({
      'GET /v2/a/b/manifests/1': (answer) => json(answer, {}, { 'docker-content-digest': subject }),
      'GET /v2/a/b/manifests/2': (answer) => void answer.end(Buffer.alloc(4 * 1024 * 1024 + 1)),
      'GET /v2/a/b/manifests/3': (answer) => void answer.writeHead(200, { 'content-length': '10' }).write('{', () => setImmediate(() => answer.destroy())),
      'GET /v2/a/b/manifests/4': (answer) => void answer.writeHead(307, { location: 'file:///etc/passwd' }).end(),
      'GET /v2/a/b/manifests/5': (answer) => void answer.socket?.end('nonsense\r\n\r\n'),
    });
    using client = clientOf(registry.address);
    await assert.rejects(client.manifest('1', signal), failsWith('dataLoss', new RegExp(`^verify manifest ${subject}: the content is sha256:`)));
    await assert.rejects(client.manifest('2', signal), failsWith('resourceExhausted', /^the answer has more than 4194304 bytes$/));
    await assert.rejects(client.manifest('3', signal), failsWith('unavailable', /^talk to 127\.0\.0\.1:\d+: the connection ended before the content did$/));
    await assert.rejects(client.manifest('4', signal), failsWith('unavailable', /^the registry redirects to no address$/));
    await assert.rejects(client.manifest('5', signal), failsWith('unavailable', /^talk to 127\.0\.0\.1:\d+: Parse Error/));
  });

  test('a blob that has more than was announced ends there, and a registry that stalls is given up', async () => {
    const blob = Buffer.alloc(100_000, 7);
    const path = `GET /v2/a/b/blobs/${digestOf(blob)}`;
    await using registry = await startRegistry({ [path]: (answer) => void answer.writeHead(200).end(Buffer.concat([blob, blob])) });
    using client = clientOf(registry.address);
    const received: number[] = [];
    const sink = { haveBytes: 0, write: async (offset: number, chunk: Uint8Array) => void received.push(offset + chunk.length) };
    const wanted = { digest: digestOf(blob), sizeBytes: blob.length };
    await assert.rejects(
      client.download(wanted, sink, signal),
      failsWith('dataLoss', new RegExp(`^verify blob ${digestOf(blob)}: more than the 100000 bytes that were announced$`)),
    );
    assert.equal(Math.max(...received), blob.length, 'nothing was written beyond');
    await using slow = await startRegistry({ [path]: (answer) => void answer.writeHead(200, { 'content-length': String(blob.length) }).write(blob.subarray(0, 10)) });
    using impatient = new RegistryClient({ access: directAccess(slow.address, 'a/b'), stallTimeoutMs: 200, retries: 0 });
    await assert.rejects(impatient.download(wanted, sink, signal), failsWith('deadlineExceeded', new RegExp(`^no answer from ${slow.address} for 200 ms$`)));
    await using mute = await startRegistry({ 'GET /v2/a/b/manifests/1': () => undefined });
    using waiting = new RegistryClient({ access: directAccess(mute.address, 'a/b'), stallTimeoutMs: 200, retries: 0 });
    await assert.rejects(waiting.manifest('1', signal), failsWith('deadlineExceeded', /^no answer from .* for 200 ms$/));
  });
});
