/** The ImageService through a gRPC client: first over a stand-in for the engine, then `berth daemon` with images from a registry. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { MessageShape } from '@bufbuild/protobuf';
import { create } from '@bufbuild/protobuf';
import { status } from '@grpc/grpc-js';
import { ImageService, RuntimeService } from '#gen/cri-v1_pb.js';
import { errorCode, errorMessage } from '#core';
import { type CallReport, startCriServer } from '#cri';
import type { ImageSummary } from '#pod';
import { fakeEngine } from '../fake-engine.ts';
import { BerthHost, type Running, busybox, skipReason as berthSkipReason } from './berth-host.ts';
import { CriClient } from './cri-host.ts';
import { Layout, Registry, shell, skipReason as imageSkipReason, tarOf } from './image-host.ts';

const { streamImages, listImages, imageStatus, pullImage, removeImage, imageFsInfo } = ImageService.method;
const { runPodSandbox, removePodSandbox, createContainer, containerStatus, listContainers } = RuntimeService.method;

describe('a stream of images', () => {
  const imageCount = 20_000;
  const images = Array.from({ length: imageCount }, (_, index): ImageSummary => ({
    id: `sha256:${String(index).padStart(64, '0')}`,
    names: [`registry.example.com/${'x'.repeat(200)}:${index}`],
    digests: [],
    sizeBytes: index,
    createdAtNs: 0n,
    pinned: false,
  }));
  const lines: string[] = [];
  const noteFailure = ({ method, error }: CallReport): void => void (error !== undefined && lines.push(`${method}: ${errorCode(error)}: ${errorMessage(error)}`));
  let directory: string;
  let server: Awaited<ReturnType<typeof startCriServer>>;
  let socketPath: string;

  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'berth-cri-images-'));
    socketPath = join(directory, 'berth.sock');
    server = await startCriServer({ engine: fakeEngine({ listImages: async () => images }), socketPath, version: '0', onCall: noteFailure });
  });
  after(async () => {
    await server.close();
    rmSync(directory, { recursive: true });
  });

  test('arrives whole and in order at a reader that rests', async () => {
    await using client = new CriClient(socketPath);
    const stream = client.stream(streamImages, {});
    const ids: string[] = [];
    let messages = 0;
    for await (const message of stream) {
      messages += 1;
      // SAFETY: the stream's messages are decoded as this method's output.
      ids.push(...(message as MessageShape<typeof streamImages.output>).images.map(({ id }) => id));
      if (messages === 3) await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.equal(messages, imageCount / 100);
    assert.deepEqual(
      ids,
      images.map(({ id }) => id),
    );
  });

  test('ends with a client that goes away, and harms nobody else', async () => {
    await using client = new CriClient(socketPath);
    const stream = client.stream(streamImages, {});
    const ended = Promise.withResolvers<unknown>();
    stream.on('error', ended.resolve);
    stream.once('data', () => stream.cancel());
    const error = await ended.promise;
    assert.ok(error instanceof Error && 'code' in error);
    assert.equal(error.code, status.CANCELLED);
    assert.equal((await client.call(listImages, {})).images.length, imageCount);
    assert.deepEqual(
      lines.filter((line) => !line.startsWith('ImageService/StreamImages: cancelled: ')),
      [],
    );
  });

  test('an engine that fails is the status of the stream', async () => {
    await using client = new CriClient(socketPath);
    const failed = Promise.withResolvers<unknown>();
    const stream = client.stream(streamImages, { filter: { image: { image: 'busybox' } } });
    stream.on('data', () => undefined);
    stream.on('error', failed.resolve);
    const error = await failed.promise;
    assert.ok(error instanceof Error && 'code' in error && 'details' in error);
    assert.deepEqual([error.code, error.details], [status.UNIMPLEMENTED, 'fake engine: imageStatus']);
  });
});

const skip = berthSkipReason() || imageSkipReason();

describe('the daemon and a registry', { skip }, () => {
  let host: BerthHost;
  let registry: Registry;
  let daemon: Running;
  let client: CriClient;
  /** The same registry under two names, as two registries with one image. */
  let here: string;
  let there: string;

  before(async () => {
    host = new BerthHost();
    registry = await Registry.start();
    [here, there] = [`${registry.address}/test`, `${registry.address.replace('127.0.0.1', 'localhost')}/test`];
    const layout = new Layout(join(host.scratch('layout'), 'l'));
    const base = tarOf(`mkdir -p bin etc; cp ${busybox} bin/busybox; printf 'root:x:0:0::/:/bin/sh\\nwww-data:x:33:33::/:/bin/sh\\n' > etc/passwd`);
    const users = { 'user-uid': '1002', 'user-name': 'www-data', 'user-uid-group': '1003:users', 'user-name-group': 'www-data:100', same: '' };
    for (const [name, user] of Object.entries(users)) layout.add(layout.manifest({ layers: [base], config: { User: user, Cmd: ['/bin/busybox', 'sleep', '1000'] } }), name);
    for (const name of Object.keys(users)) shell(`skopeo copy -q --insecure-policy --dest-tls-verify=false oci:${layout.dir}:${name} docker://${here}/${name}:1`);
    shell(`skopeo copy -q --insecure-policy --src-tls-verify=false --dest-tls-verify=false docker://${here}/same:1 docker://${here}/same:2`);
    daemon = host.start(['daemon', '--socket', `${host.run}/berth.sock`]);
    await daemon.untilOutput('"message":"ready"');
    client = new CriClient(`${host.run}/berth.sock`);
  });

  after(async () => {
    await client[Symbol.asyncDispose]();
    daemon.child.kill('SIGTERM');
    await daemon.finished;
    await registry[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
  });

  const pull = async (image: string): Promise<string> => (await client.call(pullImage, { image: { image } })).imageRef;
  const statusOf = async (image: string) => (await client.call(imageStatus, { image: { image } })).image;

  test('one image is listed once with all its tags and digests, whatever it was pulled as', async () => {
    const names = [`${here}/same:1`, `${here}/same:2`, `${there}/same:1`];
    const ids = [];
    for (const name of names) ids.push(await pull(name));
    assert.deepEqual(new Set(ids).size, 1);
    const { images } = await client.call(listImages, {});
    assert.equal(images.length, 1);
    const [image] = images;
    assert.ok(image);
    assert.deepEqual([image.id, [...image.repoTags].sort()], [ids[0], [...names].sort()]);
    assert.equal(image.repoDigests.length, 2);
    assert.ok(image.size > 0n);
    for (const name of [image.id, image.id.slice(7, 20), ...image.repoTags, ...image.repoDigests]) assert.deepEqual(await statusOf(name), image, name);
    const streamed = await Array.fromAsync(client.stream(streamImages, { filter: { image: { image: image.repoDigests[1] ?? '' } } }));
    assert.deepEqual(streamed, [create(streamImages.output, { images: [image] })]);
  });

  test('a container of it has the same id and reference in every answer, and the name of the manifest', async () => {
    const id = await pull(`${here}/same:1`);
    const image = await statusOf(id);
    const { podSandboxId } = await client.call(runPodSandbox, {
      config: { metadata: { name: 'p', uid: 'u', namespace: 'default' }, linux: { securityContext: { namespaceOptions: { network: 2 } } } },
    });
    try {
      const annotations = { 'example.com/a': 'b' };
      const spec = { image: id, userSpecifiedImage: `${here}/same:1`, annotations };
      const { containerId } = await client.call(createContainer, { podSandboxId, config: { metadata: { name: 'c' }, image: spec, linux: {} }, sandboxConfig: {} });
      const { status: shown } = await client.call(containerStatus, { containerId });
      const [listed] = (await client.call(listContainers, {})).containers;
      assert.ok(shown && listed && image);
      assert.deepEqual([shown.imageId, listed.imageId], [id, id]);
      assert.deepEqual([shown.imageRef, listed.imageRef, shown.image?.imageRef, listed.image?.imageRef], Array(4).fill(image.spec?.imageRef));
      assert.match(shown.imageRef, /^127\.0\.0\.1:\d+\/test\/same@sha256:[0-9a-f]{64}$/);
      for (const { image: its } of [shown, listed]) assert.deepEqual([its?.image, its?.userSpecifiedImage, its?.annotations], [`${here}/same:1`, `${here}/same:1`, annotations]);
      // What a container uses goes with it: the name goes now, the content later.
      await client.call(removeImage, { image: { image: `${here}/same:2` } });
      assert.equal(await statusOf(id), undefined);
      assert.equal((await client.call(containerStatus, { containerId })).status?.imageId, id);
    } finally {
      await client.call(removePodSandbox, { podSandboxId });
    }
    assert.equal(await pull(`${here}/same:1`), id);
  });

  test('removal by one name takes all of them, and absence is success', async () => {
    const names = [`${here}/same:1`, `${there}/same:1`];
    for (const name of names) await pull(name);
    const id = (await statusOf(`${here}/same:1`))?.id ?? '';
    await client.call(removeImage, { image: { image: `${there}/same:1` } });
    for (const name of [...names, id]) assert.equal(await statusOf(name), undefined, name);
    await client.call(removeImage, { image: { image: id } });
    assert.deepEqual((await client.call(listImages, { filter: { image: { image: id } } })).images, []);
  });

  test('an image that was pulled by digest has no tag and that digest', async () => {
    await pull(`${here}/same:1`);
    const [digest = ''] = (await statusOf(`${here}/same:1`))?.repoDigests ?? [];
    await client.call(removeImage, { image: { image: digest } });
    const id = await pull(digest);
    const image = await statusOf(digest);
    assert.deepEqual([image?.id, image?.repoTags, image?.repoDigests, image?.spec?.image], [id, [], [digest], digest]);
  });

  test('the user of an image is a number or a name', async () => {
    const seen = [];
    for (const name of ['user-uid', 'user-name', 'user-uid-group', 'user-name-group']) {
      await pull(`${here}/${name}:1`);
      const image = await statusOf(`${here}/${name}:1`);
      seen.push([image?.uid?.value ?? null, image?.username]);
    }
    assert.deepEqual(seen, [
      [1002n, ''],
      [null, 'www-data'],
      [1003n, ''],
      [null, 'www-data'],
    ]);
  });

  test('a pin of the command line is seen by the kubelet', async () => {
    await pull(`${here}/user-uid:1`);
    await host.ok(['image', 'pin', `${here}/user-uid:1`]);
    assert.equal((await statusOf(`${here}/user-uid:1`))?.pinned, true);
    await host.ok(['image', 'unpin', `${here}/user-uid:1`]);
    assert.equal((await statusOf(`${here}/user-uid:1`))?.pinned, false);
  });

  test('both file systems are measured', async () => {
    await pull(`${here}/same:1`);
    const { imageFilesystems, containerFilesystems } = await client.call(imageFsInfo, {});
    assert.deepEqual([imageFilesystems.length, containerFilesystems.length], [1, 1]);
    assert.equal(imageFilesystems[0]?.fsId?.mountpoint, `${host.root}/images`);
    assert.ok((imageFilesystems[0]?.usedBytes?.value ?? 0n) > 100_000n);
    assert.equal(containerFilesystems[0]?.fsId?.mountpoint, `${host.root}/images`, 'one disk has one name');
    assert.ok((containerFilesystems[0]?.timestamp ?? 0n) > 0n);
  });

  test('what cannot be pulled says why with the code that fits', async () => {
    const refusal = async (image: Record<string, string>): Promise<{ readonly code: unknown; readonly details: unknown }> => {
      const error: unknown = await client.call(pullImage, { image }).then(
        () => assert.fail('it was pulled'),
        (reason: unknown) => reason,
      );
      assert.ok(error instanceof Error && 'code' in error && 'details' in error);
      return { code: error.code, details: error.details };
    };
    const absent = await refusal({ image: `${here}/none:1` });
    assert.equal(absent.code, status.NOT_FOUND);
    assert.match(String(absent.details), /^pull 127\.0\.0\.1:\d+\/test\/none:1: /);
    assert.deepEqual(await refusal({ image: `${here}/same:1`, runtimeHandler: 'kata' }), {
      code: status.NOT_FOUND,
      details: 'image.runtime_handler: runtime handler "kata": not configured',
    });
    const bad = await refusal({ image: 'UPPER' });
    assert.equal(bad.code, status.INVALID_ARGUMENT);
    // Nobody listens on port 1.
    const unreachable = await refusal({ image: '127.0.0.1:1/test/same:1' });
    assert.equal(unreachable.code, status.UNAVAILABLE);
    assert.match(String(unreachable.details), /^RegistryUnavailable: pull 127\.0\.0\.1:1\/test\/same:1: /);
  });
});
