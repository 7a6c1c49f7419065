/**
 * The registry client against Debian's docker-registry, behind a proxy that does things wrong. Everything is on loopback.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Digest, mediaTypes, parseDigest } from '#oci';
import { RegistryClient } from '../../src/image/registry/client.io.ts';
import { directAccess } from '../../src/image/registry/direct-access.ts';
import type { BlobSink, ProxySettings, RegistryAuth, RegistryHost, WantedBlob } from '../../src/image/registry/types.ts';
import { failsWith } from './expect-failure.ts';
import { type Exchange, type Fault, FaultyProxy, answerWith, dropAfter } from './faulty-proxy.ts';
import { Layout, Registry, StoreHost, run, skipReason, tarOf } from './image-host.ts';

const signal = new AbortController().signal;

const digestOf = (bytes: Uint8Array): Digest => parseDigest(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);
const wantedOf = (bytes: Uint8Array): WantedBlob => ({ digest: digestOf(bytes), sizeBytes: bytes.length });
const opener = (bytes: Uint8Array) =>
  async function* (): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += 256 * 1024) yield bytes.subarray(at, at + 256 * 1024);
  };

/** A manifest whose config is `config` and whose layers are `layers`. */
function manifestOf(config: Uint8Array, layers: readonly Uint8Array[], more: object = {}): Buffer {
  const describe = (bytes: Uint8Array, mediaType: string): object => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: describe(config, mediaTypes.ociConfig),
      layers: layers.map((layer) => describe(layer, mediaTypes.ociLayer)),
      ...more,
    }),
  );
}

/** A sink in memory that notes the order of what it gets and refuses to get a byte twice. */
class MemorySink implements BlobSink {
  readonly bytes: Buffer;
  readonly haveBytes: number;
  readonly offsets: number[] = [];
  #received = 0;

  constructor(blob: WantedBlob, have: Uint8Array = Buffer.alloc(0)) {
    this.bytes = Buffer.alloc(blob.sizeBytes);
    this.bytes.set(have);
    this.haveBytes = have.length;
  }

  get received(): number {
    return this.#received;
  }

  async write(offset: number, chunk: Uint8Array): Promise<void> {
    this.offsets.push(offset);
    this.bytes.set(chunk, offset);
    this.#received += chunk.length;
  }
}

/** With ordinary prototypes, as literals have them. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
const hostOf = (url: string, more: Partial<RegistryHost> = {}): RegistryHost => ({
  url,
  capabilities: ['pull', 'resolve', 'push'],
  headers: {},
  clientCertificates: [],
  skipVerify: false,
  isUpstream: true,
  ...more,
});
const clientOf = (address: string, repository: string, auth?: RegistryAuth): RegistryClient => new RegistryClient({ access: directAccess(address, repository, auth) });
const clientOfHosts = (hosts: readonly RegistryHost[], more: { readonly auth?: RegistryAuth; readonly proxy?: ProxySettings } = {}): RegistryClient =>
  new RegistryClient({
    access: { registry: 'registry.test', repository: 'team/app', hosts, proxy: more.proxy ?? {}, ...(more.auth === undefined ? {} : { auth: more.auth }) },
    retries: 1,
  });

const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [] } }));
const layer = randomBytes(3_000_000);

/** Config, one layer and a manifest, tagged. */
async function pushImage(client: RegistryClient, tag: string): Promise<Buffer> {
  for (const bytes of [config, layer]) await client.uploadBlob(wantedOf(bytes), opener(bytes), {}, signal);
  const manifest = manifestOf(config, [layer]);
  await client.putManifest(tag, manifest, mediaTypes.ociManifest, signal);
  return manifest;
}

describe('a client of a registry', { skip: skipReason() }, () => {
  let registry: Registry;
  let manifest: Buffer;

  before(async () => {
    registry = await Registry.start();
    using client = clientOf(registry.address, 'team/app');
    manifest = await pushImage(client, '1');
  });
  after(() => registry[Symbol.asyncDispose]());

  test('what is pushed comes back by tag and by digest, byte for byte', async () => {
    using client = clientOf(registry.address, 'team/app');
    const byTag = await client.manifest('1', signal);
    assert.deepEqual([byTag.bytes, byTag.mediaType, byTag.digest], [manifest, mediaTypes.ociManifest, digestOf(manifest)]);
    assert.deepEqual((await client.manifest(byTag.digest, signal)).bytes, manifest);
    assert.deepEqual(await client.blobBytes(digestOf(layer), layer.length, signal), layer);
    await assert.rejects(client.blobBytes(digestOf(layer), 1000, signal), failsWith('resourceExhausted', /^the answer has more than 1000 bytes$/));
    await assert.rejects(client.manifest('none', signal), failsWith('notFound', /^manifest unknown$/));
    await assert.rejects(client.manifest(`sha256:${'0'.repeat(64)}`, signal), failsWith('notFound', /^manifest unknown$/));
  });

  test('a blob is sent once: what is there is left, and what another repository has is taken over', async () => {
    using client = clientOf(registry.address, 'team/app');
    const never = (): AsyncIterable<Uint8Array> => assert.fail('nothing is to be sent');
    assert.equal(await client.uploadBlob(wantedOf(layer), never, {}, signal), 'present');
    using other = clientOf(registry.address, 'team/other');
    assert.equal(await other.hasBlob(digestOf(layer), signal), false);
    assert.equal(await other.uploadBlob(wantedOf(layer), never, { mountFrom: 'team/app' }, signal), 'mounted');
    assert.equal(await other.hasBlob(digestOf(layer), signal), true);
    const fresh = randomBytes(1_000_000);
    let sent = 0;
    const onBytes = (count: number): void => void (sent += count);
    assert.equal(await other.uploadBlob(wantedOf(fresh), opener(fresh), { mountFrom: 'team/app', onBytes }, signal), 'uploaded');
    assert.equal(sent, fresh.length);
    const announced = { digest: digestOf(Buffer.from('other')), sizeBytes: fresh.length };
    await assert.rejects(other.uploadBlob(announced, opener(fresh), {}, signal), failsWith('unknown', /digest did not match/));
    await assert.rejects(other.uploadBlob({ ...announced, sizeBytes: 10 }, opener(fresh), {}, signal), failsWith('dataLoss', /more than the 10 bytes that it should have$/));
    const broken = async function* (): AsyncGenerator<Uint8Array> {
      yield fresh.subarray(0, 10);
      throw new Error('the disk is gone');
    };
    await assert.rejects(other.uploadBlob({ ...announced, sizeBytes: 20 }, broken, {}, signal), { message: 'the disk is gone' });
  });

  test('tags are listed, and referrers from the tag that stands for their list', async () => {
    using client = clientOf(registry.address, 'team/app');
    await client.putManifest('2', manifest, mediaTypes.ociManifest, signal);
    assert.deepEqual([...(await client.tags(signal))].sort(), ['1', '2']);
    using none = clientOf(registry.address, 'nobody');
    await assert.rejects(none.tags(signal), failsWith('notFound', /^repository name not known to registry$/));
    assert.deepEqual(await client.referrers(digestOf(manifest), {}, signal), []);
    const entries = ['sbom', 'signature'].map((kind) => {
      const bytes = manifestOf(config, [], {
        artifactType: `application/${kind}`,
        annotations: { kind },
        subject: { mediaType: mediaTypes.ociManifest, digest: digestOf(manifest), size: manifest.length },
      });
      return { bytes, descriptor: { mediaType: mediaTypes.ociManifest, digest: digestOf(bytes), size: bytes.length, artifactType: `application/${kind}`, annotations: { kind } } };
    });
    for (const { bytes, descriptor } of entries) assert.deepEqual(await client.putManifest(descriptor.digest, bytes, mediaTypes.ociManifest, signal), { listsReferrers: false });
    assert.deepEqual(
      plain(await client.referrers(digestOf(manifest), {}, signal)),
      entries.map(({ descriptor }) => descriptor),
    );
    assert.deepEqual(plain(await client.referrers(digestOf(manifest), { artifactType: 'application/sbom' }, signal)), [entries[0]?.descriptor]);
  });

  /** Downloads the layer through a proxy with this fault; gives the sink and the ranges that were asked for. */
  async function downloadWith(
    fault: Fault,
    options: { readonly blob?: Buffer; readonly have?: number } = {},
  ): Promise<{ readonly sink: MemorySink; readonly ranges: (string | undefined)[] }> {
    const { blob = layer, have = 0 } = options;
    await using proxy = await FaultyProxy.start(registry.address, { current: fault });
    using client = clientOf(proxy.address, 'team/app');
    const sink = new MemorySink(wantedOf(blob), blob.subarray(0, have));
    await client.download(wantedOf(blob), sink, signal);
    assert.ok(sink.bytes.equals(blob), 'the blob is what it was');
    return { sink, ranges: proxy.requests.map(({ headers }) => headers.range) };
  }

  test('a broken download goes on where it ended, and one that was begun earlier after what is there', async () => {
    const broken = await downloadWith((exchange) => exchange.earlier === 0 && dropAfter(exchange, 1_000_000));
    assert.equal(broken.ranges[0], undefined);
    assert.equal(broken.ranges.length, 2);
    const from = Number(/^bytes=(\d+)-2999999$/.exec(broken.ranges[1] ?? '')?.[1]);
    assert.ok(from > 0 && from <= 1_000_000, String(broken.ranges[1]));
    assert.equal(broken.sink.received, layer.length, 'no byte twice');
    const resumed = await downloadWith('none', { have: 2_000_000 });
    assert.deepEqual([resumed.ranges, resumed.sink.received], [['bytes=2000000-2999999'], 1_000_000]);
    assert.deepEqual((await downloadWith('none', { have: layer.length })).ranges, [], 'nothing is asked for what is whole');
  });

  test('a registry that knows no ranges is read from the start, and what is there is thrown away', async () => {
    // The proxy asks for the whole again, as the part that it was given does not do.
    const wholeOf = (exchange: Exchange): true => answerWith(exchange, layer, { 'content-range': undefined }, 200);
    const { sink } = await downloadWith(wholeOf, { have: 1_234_567 });
    assert.deepEqual([sink.offsets[0], sink.received], [1_234_567, layer.length - 1_234_567]);
  });

  test('ranges and lengths that contradict what was announced are refused', async () => {
    const cases: readonly (readonly [string, (exchange: Exchange) => true, RegExp])[] = [
      [
        'another place',
        (exchange) => answerWith(exchange, exchange.real.body, { 'content-range': `bytes 0-1999999/${layer.length}` }),
        /answers bytes 0 to 2000000 where 1000000 to 3000000/,
      ],
      ['another size', (exchange) => answerWith(exchange, exchange.real.body, { 'content-range': 'bytes 1000000-2999999/4000000' }), /has 4000000 bytes, 3000000 were announced/],
      ['no place', (exchange) => answerWith(exchange, exchange.real.body, { 'content-range': undefined }), /without saying which one/],
      ['another length', (exchange) => answerWith(exchange, exchange.real.body.subarray(1)), /sends 1999999 bytes as bytes 1000000 to 3000000/],
      ['a whole of another length', (exchange) => answerWith(exchange, layer.subarray(1), { 'content-range': undefined }, 200), /has 2999999 bytes, 3000000 were announced/],
      ['nothing there', (exchange) => answerWith(exchange, Buffer.alloc(0), {}, 416), /has less than the 3000000 bytes/],
    ];
    for (const [name, fault, message] of cases) await assert.rejects(downloadWith(fault, { have: 1_000_000 }), failsWith('dataLoss', message), name);
  });

  test('a large blob comes in ranges, four at a time, in the order of their places, over broken connections too', async () => {
    const large = Buffer.alloc(70 * 1024 * 1024);
    for (let at = 0; at < large.length; at += 4096) large.writeUInt32LE(at, at);
    using client = clientOf(registry.address, 'team/app');
    await client.uploadBlob(wantedOf(large), opener(large), {}, signal);
    const held: Exchange[] = [];
    let isHolding = true;
    const release = (): void => {
      isHolding = false;
      for (const exchange of held) {
        if (exchange.asked.headers.range?.startsWith('bytes=33554432-') === true) dropAfter(exchange, 5_000_000);
        else answerWith(exchange, exchange.real.body);
      }
    };
    const { sink, ranges } = await downloadWith(
      (exchange) => {
        // The first shows that there are ranges. Nothing further is answered before three are asked for: a client that asked one after the other
        // would wait for ever. What is asked for beyond four has time to show itself.
        if (exchange.asked.headers.range?.startsWith('bytes=0-') === true) return false;
        if (isHolding && held.push(exchange) === 3) setTimeout(release, 200);
        return isHolding;
      },
      { blob: large },
    );
    assert.ok(held.length <= 4, `${held.length} at once`);
    assert.equal(sink.received, large.length);
    const starts = ranges.map((range) => Number(/^bytes=(\d+)-/.exec(range ?? '')?.[1]));
    assert.equal(starts[0], 0);
    const window = 16 * 1024 * 1024;
    assert.deepEqual(
      starts.filter((start) => start % window === 0).sort((one, other) => one - other),
      [0, 1, 2, 3, 4].map((count) => count * window),
    );
    assert.ok(
      starts.some((start) => start > 2 * window && start < 3 * window),
      'the broken range went on inside',
    );
  });

  test('a sink that fails ends the download with its own words, and is not held against the registry', async () => {
    using client = new RegistryClient({
      access: { ...directAccess(registry.address, 'team/app'), hosts: [hostOf('http://127.0.0.1:1/v2/'), ...directAccess(registry.address, 'x').hosts] },
    });
    const sink: BlobSink = { haveBytes: 0, write: () => Promise.reject(new Error('no space')) };
    await assert.rejects(client.download(wantedOf(layer), sink, signal), { message: 'no space' });
  });

  test('a busy registry is asked again when it says, five times at most; a refusal is final', async () => {
    const faults: { current: Fault } = { current: 'none' };
    await using proxy = await FaultyProxy.start(registry.address, faults);
    using client = clientOf(proxy.address, 'team/app');
    const times: number[] = [];
    const busy =
      (upTo: number, status: number, retryAfter?: string) =>
      (exchange: Exchange): boolean => {
        times.push(performance.now());
        return (
          times.length <= upTo && answerWith(exchange, Buffer.from('{"errors":[{"message":"too busy"}]}'), retryAfter === undefined ? {} : { 'retry-after': retryAfter }, status)
        );
      };
    faults.current = busy(2, 429, '1');
    assert.equal((await client.manifest('1', signal)).digest, digestOf(manifest));
    assert.equal(times.length, 3);
    assert.ok((times[1] ?? 0) - (times[0] ?? 0) >= 990 && (times[2] ?? 0) - (times[1] ?? 0) >= 990, 'it waits as long as it is told');
    times.length = 0;
    faults.current = busy(99, 503);
    await assert.rejects(client.manifest('1', signal), failsWith('unavailable', /^too busy$/));
    assert.equal(times.length, 5);
    times.length = 0;
    faults.current = busy(99, 429, '3600');
    await assert.rejects(client.manifest('1', signal), failsWith('resourceExhausted', /^too busy \(and wants to be asked again in 3600 s\)$/));
    assert.equal(times.length, 1);
    times.length = 0;
    faults.current = busy(99, 400);
    await assert.rejects(client.manifest('1', signal), failsWith('unknown', /^too busy$/));
    assert.equal(times.length, 1);
  });

  test('mirrors come first, and each one that fails, lies or is not there is followed by the next', async () => {
    const lies = Buffer.from(manifest.toString().replace('"schemaVersion":2', '"schemaVersion":3'));
    await using liar = await FaultyProxy.start(registry.address, { current: (exchange) => exchange.isManifest && answerWith(exchange, lies) });
    await using last = await FaultyProxy.start(registry.address, { current: 'none' });
    const mirror = { isUpstream: false, namespace: 'registry.test', headers: { 'x-mirror': ['yes'] } };
    const hosts = [hostOf('http://127.0.0.1:1/v2/', mirror), hostOf(`http://${liar.address}/v2/`, mirror), hostOf(`http://${last.address}/v2/`)];
    using client = clientOfHosts(hosts, { auth: { registryToken: 'secret' } });
    assert.deepEqual((await client.manifest(digestOf(manifest), signal)).bytes, manifest);
    assert.deepEqual(
      liar.requests.map(({ url, headers }) => [url, headers['x-mirror'], headers.authorization]),
      [[`/v2/team/app/manifests/${digestOf(manifest)}?ns=registry.test`, 'yes', undefined]],
    );
    assert.deepEqual(
      last.requests.map(({ url, headers }) => [url, headers['x-mirror'], headers.authorization]),
      [[`/v2/team/app/manifests/${digestOf(manifest)}`, undefined, 'Bearer secret']],
    );
    // A mirror that breaks in the middle: the rest comes from the next one.
    await using weak = await FaultyProxy.start(registry.address, { current: (exchange) => dropAfter(exchange, exchange.earlier === 0 ? 1_000_000 : 0) });
    using other = clientOfHosts([hostOf(`http://${weak.address}/v2/`, mirror), hostOf(`http://${last.address}/v2/`)]);
    const sink = new MemorySink(wantedOf(layer));
    await other.download(wantedOf(layer), sink, signal);
    assert.ok(sink.bytes.equals(layer) && sink.received === layer.length);
    await assert.rejects(client.manifest('none', signal), failsWith('notFound', new RegExp(`^manifest unknown \\(at ${last.address}; before it ${liar.address}: `)));
    using pullOnly = clientOfHosts([hostOf(`http://${last.address}/v2/`, { capabilities: ['pull'] })]);
    await assert.rejects(pullOnly.manifest('1', signal), failsWith('failedPrecondition', /^no host of registry\.test is configured for resolve$/));
    await assert.rejects(pullOnly.hasBlob(digestOf(layer), signal), failsWith('failedPrecondition', /^no host of registry\.test is configured for push$/));
  });

  test('a layer that a mirror has altered comes from the registry itself, and the image is stored', async () => {
    await using host = new StoreHost();
    const layout = new Layout(join(host.dir, 'layout'));
    layout.add(layout.manifest({ layers: [tarOf('echo hello > hello'), tarOf('echo there > there')] }), 'lies');
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${layout.dir}:lies`, `docker://${registry.address}/lies:1`]);
    await using mirror = await FaultyProxy.start(registry.address, { current: 'altered' });
    const access = async (reference: { readonly registry: string; readonly repository: string }) => {
      const direct = directAccess(reference.registry, reference.repository);
      return { ...direct, hosts: [hostOf(`http://${mirror.address}/v2/`, { isUpstream: false, namespace: reference.registry }), ...direct.hosts] };
    };
    const store = await host.open({ registries: { access } });
    const image = await store.pull(`${registry.address}/lies:1`);
    const layers = store.lease(image.id, 'look');
    assert.deepEqual(
      layers.lower.map((lower) => ['hello', 'there'].find((name) => existsSync(join(layers.storeDir, lower, name)))),
      ['there', 'hello'],
    );
    assert.equal(mirror.requests.filter(({ url }) => url.includes('/blobs/')).length, 3, 'each blob was asked of the mirror once');
    store.release('look');
  });
});
