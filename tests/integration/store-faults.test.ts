/**
 * Registries that misbehave: a real one behind a proxy that does one thing wrong. After each failure the error names registry, reference and blob,
 * nothing of the image is committed, and the next pull succeeds. Needs root and Debian's docker-registry; everything is on loopback.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { limits } from '#core';
import type { ImageStore } from '#image';
import { isDigest } from '#oci';
import { RegistryClient } from '../../src/image/registry/client.io.ts';
import { directAccess } from '../../src/image/registry/direct-access.ts';
import { failsWith } from './expect-failure.ts';
import { type Exchange, type Fault, FaultyProxy, answerWith, dropAfter } from './faulty-proxy.ts';
import { Registry, StoreHost, describeOverlay, digestOf, skipReason } from './image-host.ts';
import { RawRepository, type RawDescriptor, assertSound, randomLayer, textLayer } from './raw-images.ts';

const layerBytes = 3 * 1024 * 1024;

/** Numbers of a `range` header: the first byte, and the last where there is one. */
function rangeOf({ asked }: Exchange): { readonly first: number; readonly last: number | undefined } | undefined {
  const range = /^bytes=(\d+)-(\d*)$/.exec(asked.headers.range ?? '');
  return range === null ? undefined : { first: Number(range[1]), last: range[2] === '' ? undefined : Number(range[2]) };
}

/** The real answer to a range, with another `content-range`. */
const lieAboutRange = (exchange: Exchange, contentRange: string, body = exchange.real.body): true => answerWith(exchange, body, { 'content-range': contentRange }, 206);

describe('a registry that misbehaves', { skip: skipReason() }, () => {
  const host = new StoreHost();
  const faults: { current: Fault } = { current: 'none' };
  let store: ImageStore;
  let registry: Registry;
  let proxy: FaultyProxy;
  let reference: string;
  let config: RawDescriptor;
  let large: RawDescriptor;

  before(async () => {
    registry = await Registry.start();
    const repository = new RawRepository(registry.address, 'team/app');
    const image = await repository.image([randomLayer(layerBytes), textLayer('hello')]);
    await repository.push('1', image.manifest);
    config = image.config;
    const [first] = image.layers;
    assert.ok(first !== undefined);
    large = first;
    proxy = await FaultyProxy.start(registry.address, faults);
    reference = `${proxy.address}/team/app:1`;
    store = await host.open();
  });
  after(async () => {
    await proxy?.[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
  });

  // A test that fails must not make those after it fail.
  afterEach(async () => {
    faults.current = 'none';
    proxy.requests.length = 0;
    for (const lease of store.leases()) store.release(lease);
    for (const image of store.list()) await store.remove(image.id);
    await store.collect({ all: true });
  });

  /** The image is whole, its files are there, and once it is removed nothing is left. */
  const succeeds = async (name = reference): Promise<void> => {
    const image = await store.pull(name);
    const lines = describeOverlay(store.lease(image.id, 'look'));
    store.release('look');
    assert.ok(
      lines.some((line) => line.startsWith(`random type=f mode=644 `) && line.includes(` size=${layerBytes} `)),
      lines.join('\n'),
    );
    assert.ok(lines.some((line) => line.startsWith('etc/text ')));
    await assertSound(store, `${host.dir}/state`);
    await store.remove(image.id);
    await store.collect({ all: true });
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  };

  const about = (text: string): RegExp => new RegExp(`^pull ${reference}: ${text}`);
  /** Pulls through the fault, which must fail so, and then without it. */
  const failsThenSucceeds = async (fault: Fault, code: string, message: RegExp, name = reference): Promise<void> => {
    faults.current = fault;
    proxy.requests.length = 0;
    await assert.rejects(store.pull(name), failsWith(code, message));
    assert.deepEqual(store.list(), [], 'no image is there');
    await assertSound(store, `${host.dir}/state`);
    faults.current = 'none';
    await succeeds(name);
  };
  const isLarge = ({ asked }: Exchange): boolean => asked.url.includes(large.digest);

  test('an altered layer is refused by its digest', async () => {
    const fault = (exchange: Exchange): boolean =>
      isLarge(exchange) && answerWith(exchange, Buffer.from(exchange.real.body.map((byte, at) => (at === 2_000_000 ? byte ^ 1 : byte))));
    await failsThenSucceeds(fault, 'dataLoss', about(`.*${large.digest}.*the content is sha256:`));
  });

  test('an altered config is refused by its digest', async () => {
    const fault = (exchange: Exchange): boolean =>
      exchange.asked.url.includes(config.digest) && answerWith(exchange, Buffer.from(exchange.real.body.map((byte) => (byte === 0x22 ? 0x27 : byte))));
    await failsThenSucceeds(fault, 'dataLoss', about(`.*${config.digest}: the content is sha256:`));
  });

  test('a manifest that is not what its digest says is refused', async () => {
    const { digests } = await store.pull(reference);
    await store.remove(reference);
    const byDigest = digests[0] ?? '';
    const digest = byDigest.split('@')[1] ?? '';
    const fault = (exchange: Exchange): boolean => exchange.isManifest && answerWith(exchange, Buffer.concat([exchange.real.body, Buffer.from(' ')]));
    await failsThenSucceeds(fault, 'dataLoss', new RegExp(`^pull ${byDigest}: .*${digest}.*the content is sha256:`), byDigest);
  });

  test('a layer that ends early is refused, whether the registry knows it or not', async () => {
    const half = (exchange: Exchange): Buffer => exchange.real.body.subarray(0, exchange.real.body.length / 2);
    await failsThenSucceeds((exchange) => isLarge(exchange) && answerWith(exchange, half(exchange)), 'dataLoss', about(`.*${large.digest}.*bytes`));
    // It promises the whole, gives a part, and then nothing more however often it is asked.
    const stubborn = (exchange: Exchange): boolean => isLarge(exchange) && dropAfter(exchange, rangeOf(exchange) === undefined ? 1_000_000 : 0);
    await failsThenSucceeds(stubborn, 'unavailable', about(`.*${large.digest}.*${proxy.address}`));
    const has = (exchange: Exchange): boolean =>
      isLarge(exchange) && (rangeOf(exchange) === undefined ? dropAfter(exchange, 1_000_000) : answerWith(exchange, Buffer.alloc(0), {}, 416));
    await failsThenSucceeds(has, 'dataLoss', about(`.*${large.digest}.*less than the ${large.size} bytes`));
  });

  test('a layer that goes on after its end is refused', async () => {
    const longer = (exchange: Exchange): boolean => isLarge(exchange) && answerWith(exchange, Buffer.concat([exchange.real.body, Buffer.alloc(100_000)]));
    await failsThenSucceeds(longer, 'dataLoss', about(`.*${large.digest}.*${large.size}`));
    const endless = (exchange: Exchange): boolean =>
      isLarge(exchange) && answerWith(exchange, Buffer.concat([exchange.real.body, Buffer.alloc(100_000)]), { 'content-length': undefined });
    await failsThenSucceeds(endless, 'dataLoss', about(`.*${large.digest}.*${large.size}`));
  });

  test('a broken connection is taken up where it broke', async () => {
    faults.current = (exchange) => isLarge(exchange) && exchange.earlier < 3 && dropAfter(exchange, 700_000);
    proxy.requests.length = 0;
    await succeeds();
    const asked = proxy.requests.filter(({ url }) => url.includes(large.digest)).map(({ headers }) => headers.range);
    assert.equal(asked.length, 4, String(asked));
    // How much of a dropped answer arrives is the network's affair; no byte is asked for twice from the beginning.
    const starts = asked.slice(1).map((range) => Number(/^bytes=(\d+)-/.exec(range ?? '')?.[1]));
    assert.ok(
      starts.every((start, index) => start > (starts[index - 1] ?? 0)),
      String(asked),
    );
  });

  test('a download that stalls is taken up where it stalled', async () => {
    const misdeed = (exchange: Exchange): boolean => {
      if (!isLarge(exchange) || exchange.earlier > 1) return false;
      exchange.answer.writeHead(exchange.real.status, exchange.real.headers);
      exchange.answer.write(exchange.real.body.subarray(0, 900_000));
      return true;
    };
    faults.current = misdeed;
    using client = new RegistryClient({ access: directAccess(proxy.address, 'team/app'), stallTimeoutMs: 3000 });
    const received = Buffer.alloc(large.size);
    const write = async (offset: number, chunk: Uint8Array): Promise<void> => {
      received.set(chunk, offset);
    };
    const { digest, size } = large;
    assert.ok(isDigest(digest));
    await client.download({ digest, sizeBytes: size }, { haveBytes: 0, write }, AbortSignal.timeout(35_000));
    assert.equal(digestOf(received), digest);
    const asked = proxy.requests.filter(({ url }) => url.includes(digest)).map(({ headers }) => headers.range);
    assert.ok(asked.length >= 3 && asked.slice(1).every((range) => /^bytes=[1-9]\d*-/.test(range ?? '')), String(asked));
  });

  test('a registry that answers a range with everything is read from the beginning', async () => {
    let whole = 0;
    faults.current = (exchange) => {
      if (!isLarge(exchange)) return false;
      if (exchange.earlier === 0) return dropAfter(exchange, 700_000);
      if (rangeOf(exchange) === undefined) return false;
      whole += 1;
      // The proxy has only the part; the real registry gives the whole to whoever asks for no range.
      void fetch(`http://${registry.address}${exchange.asked.url}`).then(async (answer) =>
        answerWith(exchange, Buffer.from(await answer.arrayBuffer()), { 'content-range': undefined }, 200),
      );
      return true;
    };
    await succeeds();
    assert.ok(whole > 0, 'a range was asked for');
  });

  test('lies about ranges are refused, and a resumed download is right in the end', async () => {
    const afterDrop =
      (lie: (exchange: Exchange, first: number) => boolean) =>
      (exchange: Exchange): boolean => {
        if (!isLarge(exchange)) return false;
        const range = rangeOf(exchange);
        return range === undefined ? dropAfter(exchange, 700_000) : lie(exchange, range.first);
      };
    const size = large.size;
    const named = about(`.*${large.digest}`);
    const other = afterDrop((exchange, first) => lieAboutRange(exchange, `bytes ${first - 100}-${size - 1}/${size}`));
    await failsThenSucceeds(other, 'dataLoss', named);
    const total = afterDrop((exchange, first) => lieAboutRange(exchange, `bytes ${first}-${size - 1}/${size + 5}`));
    await failsThenSucceeds(total, 'dataLoss', named);
    const nothing = afterDrop((exchange) => lieAboutRange(exchange, 'what you like'));
    await failsThenSucceeds(nothing, 'dataLoss', named);
    const longer = afterDrop((exchange, first) => lieAboutRange(exchange, `bytes ${first}-${size - 1}/${size}`, Buffer.concat([exchange.real.body, Buffer.alloc(1000)])));
    await failsThenSucceeds(longer, 'dataLoss', named);
  });

  test('a large layer comes in several ranges, over connections that break; one wrong range is found by the digest', async () => {
    const repository = new RawRepository(registry.address, 'team/large');
    const image = await repository.image([randomLayer(limits.rangedBlobBytesMin)]);
    await repository.push('1', image.manifest);
    const digest = image.layers[0]?.digest ?? '';
    const name = `${proxy.address}/team/large:1`;
    const isLayer = ({ asked }: Exchange): boolean => asked.url.includes(digest);
    const altered = (exchange: Exchange): boolean => {
      if (!isLayer(exchange) || (rangeOf(exchange)?.first ?? 0) === 0) return false;
      exchange.real.body.writeUInt8(exchange.real.body.readUInt8(5) ^ 1, 5);
      return answerWith(exchange, exchange.real.body);
    };
    faults.current = altered;
    await assert.rejects(store.pull(name), failsWith('dataLoss', new RegExp(`^pull ${name}: .*${digest}: the content is sha256:`)));
    assert.deepEqual(store.list(), []);
    await assertSound(store, `${host.dir}/state`);
    proxy.requests.length = 0;
    faults.current = (exchange) => isLayer(exchange) && exchange.earlier < 6 && dropAfter(exchange, 5_000_000);
    const { id } = await store.pull(name);
    const firsts = proxy.requests.filter(({ url }) => url.includes(digest)).map(({ headers }) => headers.range);
    assert.ok(firsts.length > 6 && firsts.every((range) => range !== undefined && range !== 'bytes=0-'), String(firsts));
    await store.remove(id);
    await store.collect({ all: true });
    assert.deepEqual(host.contents(), { blobs: 0, layers: 0 });
  });

  test('a page of a portal instead of content is no image', async () => {
    await failsThenSucceeds('html', 'invalidArgument', about('.*(not JSON|text/html)'));
    const escapes = (exchange: Exchange): boolean => exchange.isManifest && answerWith(exchange, Buffer.from('\u001b[2J\r\nwelcome'), { 'docker-content-digest': undefined }, 200);
    await failsThenSucceeds(escapes, 'invalidArgument', about('.*not JSON'));
    const page = (exchange: Exchange): boolean => exchange.isBlob && answerWith(exchange, Buffer.from('<html>please log in</html>'), { 'content-type': 'text/html' }, 200);
    await failsThenSucceeds(page, 'dataLoss', about(`.*${config.digest}`));
    const layerPage = (exchange: Exchange): boolean => isLarge(exchange) && page(exchange);
    await failsThenSucceeds(layerPage, 'dataLoss', about(`.*${large.digest}`));
  });

  test('redirects in a circle, to other kinds of addresses and to nowhere end', async () => {
    await failsThenSucceeds('loop', 'unavailable', about('.*redirects more than 5 times'));
    const location =
      (address: string) =>
      ({ isBlob, answer }: Exchange): boolean => {
        if (isBlob) answer.writeHead(307, { location: address }).end();
        return isBlob;
      };
    await failsThenSucceeds(location('file:///etc/passwd'), 'unavailable', about(`.*${config.digest}.*redirects to no address`));
    await failsThenSucceeds(location('http://['), 'unavailable', about(`.*${config.digest}.*redirects to no address`));
    await failsThenSucceeds(location('http://127.0.0.1:1/blob'), 'unavailable', about(`.*${config.digest}.*127\\.0\\.0\\.1:1`));
    const blobLoop = (exchange: Exchange): boolean => isLarge(exchange) && location(exchange.asked.url)(exchange);
    await failsThenSucceeds(blobLoop, 'unavailable', about(`.*${large.digest}.*redirects more than 5 times`));
  });

  test('a blob that is refused, missing or never well is named with the registry’s words', async () => {
    const status =
      (code: number, body = '') =>
      (exchange: Exchange): boolean =>
        isLarge(exchange) && answerWith(exchange, Buffer.from(body), { 'content-type': 'application/json' }, code);
    await failsThenSucceeds(status(404, '{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown\\u001b[31m"}]}'), 'notFound', about(`.*${large.digest}.*blob unknown \\[31m$`));
    await failsThenSucceeds(status(403, '{"errors":[{"code":"DENIED"}]}'), 'permissionDenied', about(`.*${large.digest}.*denied`));
    await failsThenSucceeds(status(500), 'unavailable', about(`.*${large.digest}.*500`));
    assert.ok(proxy.requests.length < 60, 'a registry that is down is asked a bounded number of times');
  });

  test('a registry that asks for patience gets it', async () => {
    const begin = process.hrtime.bigint();
    faults.current = (exchange) => isLarge(exchange) && exchange.earlier < 2 && answerWith(exchange, Buffer.from(''), { 'retry-after': '1' }, exchange.earlier === 0 ? 429 : 503);
    await succeeds();
    assert.ok(process.hrtime.bigint() - begin > 1_900_000_000n, 'two seconds were waited for');
  });

  test('credentials that are demanded and then refused end the pull, without a circle', async () => {
    const challenge = (exchange: Exchange, realm: string): true =>
      answerWith(exchange, Buffer.from('{}'), { 'www-authenticate': `Bearer realm="${realm}",service="test",scope="repository:team/app:pull"` }, 401);
    const isToken = ({ asked }: Exchange): boolean => asked.url.startsWith('/token');
    const realm = (): string => `http://${proxy.address}/token`;
    const auth = { username: 'user', password: 'hunter2' };
    const refused = async (fault: Fault, message: RegExp): Promise<void> => {
      faults.current = fault;
      proxy.requests.length = 0;
      await assert.rejects(store.pull(reference, { auth }), (error) => {
        assert.ok(failsWith('unauthenticated', message)(error));
        assert.doesNotMatch(String(error), /hunter2|dG9rZW4|token-of-the-test/);
        return true;
      });
      assert.ok(proxy.requests.length <= 8, `${proxy.requests.length} requests`);
      assert.deepEqual(store.list(), []);
    };
    // The token server refuses the credentials.
    await refused(
      (exchange) => (isToken(exchange) ? answerWith(exchange, Buffer.from('{"errors":[{"code":"DENIED"}]}'), {}, 401) : challenge(exchange, realm())),
      about('get a token from 127'),
    );
    // It gives a token, and the registry does not take it.
    await refused((exchange) => (isToken(exchange) ? answerWith(exchange, Buffer.from('{"token":"token-of-the-test"}'), {}, 200) : challenge(exchange, realm())), about('.'));
    // It gives something that is no token, or the token server is a stranger's.
    await refused(
      (exchange) => (isToken(exchange) ? answerWith(exchange, Buffer.from('{"token":"a\\r\\nx: y"}'), {}, 200) : challenge(exchange, realm())),
      about('.*no token in the answer'),
    );
    await refused((exchange) => challenge(exchange, 'http://stranger.example/token'), about('.*token server that is not reached by https'));
    // Nothing that is understood is asked for.
    await refused((exchange) => answerWith(exchange, Buffer.from(''), { 'www-authenticate': 'Negotiate' }, 401), about('.*not supported'));
    // In the middle of a pull: the manifest was open to all.
    await refused((exchange) => exchange.isBlob && answerWith(exchange, Buffer.from(''), { 'www-authenticate': 'Basic realm="x"' }, 401), about(`.*${config.digest}`));
    faults.current = 'none';
    await succeeds();
  });
});
