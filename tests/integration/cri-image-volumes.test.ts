/** Images as volumes, and options of mounts, through the CRI door: the official crictl with `image` in a mount, and a gRPC client for what crictl does not know yet. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Client, credentials, status } from '@grpc/grpc-js';
import {
  ContainerStatusRequestSchema,
  ContainerStatusResponseSchema,
  CreateContainerRequestSchema,
  CreateContainerResponseSchema,
  ExecSyncRequestSchema,
  ExecSyncResponseSchema,
  StartContainerRequestSchema,
  StartContainerResponseSchema,
  StatusRequestSchema,
  StatusResponseSchema,
} from '#gen/cri-v1_pb.js';
import { readFacts } from '../facts.ts';
import { BerthHost, type Running, busybox, image, skipReason } from './berth-host.ts';
import { Layout, tarOf } from './image-host.ts';

const run = promisify(execFile);
const repository = fileURLToPath(new URL('../..', import.meta.url));
const skip = readFacts()['no-go'] ? 'Go is not installed' : false;
const data = 'localhost/models:1';

/** Each test is skipped by itself, so that each is counted. */
function goTest(name: string, body: () => Promise<void>): void {
  test(name, { skip }, body);
}

describe('image volumes over CRI', { skip: skipReason() }, () => {
  let host: BerthHost;
  let daemon: Running;
  let client: Client;
  let podId = '';

  async function crictl(...args: readonly string[]): Promise<string> {
    const { stdout } = await run(`${repository}build/go/crictl`, ['--config', `${host.directory}/crictl.yaml`, '--timeout', '60s', ...args], { timeout: 90_000 });
    return stdout.trim();
  }

  const file = (name: string, content: unknown): string => {
    writeFileSync(`${host.directory}/${name}`, JSON.stringify(content));
    return `${host.directory}/${name}`;
  };
  const pod = (): string => file('pod.json', { metadata: { name: 'web', uid: 'uid-1', namespace: 'default', attempt: 0 }, log_directory: host.scratch('logs') });
  const container = (name: string, mounts: readonly unknown[]): string =>
    file(`${name}.json`, { metadata: { name }, image: { image }, command: [busybox, 'sleep', '1000'], log_path: `${name}.log`, mounts });

  async function call<I extends DescMessage, O extends DescMessage>(method: string, input: I, output: O, request: MessageInitShape<I>): Promise<MessageShape<O>> {
    const answer = Promise.withResolvers<MessageShape<O>>();
    client.makeUnaryRequest(
      `/runtime.v1.RuntimeService/${method}`,
      (message: MessageShape<I>) => Buffer.from(toBinary(input, message)),
      (bytes) => fromBinary(output, bytes),
      create(input, request),
      (error, response) => (error === null && response !== undefined ? answer.resolve(response) : answer.reject(error)),
    );
    return answer.promise;
  }

  before(async () => {
    if (skip !== false) return;
    await run(`${repository}scripts/build-go-tools.sh`, { timeout: 280_000 });
    host = await BerthHost.open();
    const layout = new Layout(host.scratch('layout'));
    const files = `mkdir -p weights/small; echo w > weights/small/a; printf '#!%s sh\\necho executed\\n' ${busybox} > weights/run; chmod 755 weights/run; ln -s weights/small short`;
    layout.add(layout.manifest({ layers: [tarOf(files), tarOf('mkdir weights; echo top > weights/top')] }), data);
    await host.ok(['image', 'import', layout.dir]);
    const socket = `${host.run}/berth.sock`;
    writeFileSync(`${host.directory}/crictl.yaml`, `runtime-endpoint: unix://${socket}\nimage-endpoint: unix://${socket}\n`);
    daemon = host.start(['daemon', '--socket', socket]);
    while (!readFileSync('/proc/net/unix', 'utf8').includes(socket)) {
      assert.equal(daemon.child.exitCode, null, 'the daemon has ended');
      await sleep(50);
    }
    client = new Client(`unix://${socket}`, credentials.createInsecure());
    podId = await crictl('runp', pod());
  });

  after(async () => {
    if (skip !== false) return;
    client.close();
    await crictl('rmp', '--all', '--force');
    daemon.child.kill('SIGTERM');
    await daemon.finished;
    await host[Symbol.asyncDispose]();
  });

  goTest('crictl creates containers with an image, its parts and links; status tells of it by reference', async () => {
    const id = await crictl(
      'create',
      podId,
      container('one', [
        { container_path: '/models', image: { image: data, user_specified_image: 'models' }, readonly: true },
        { container_path: '/part', image: { image: data }, image_sub_path: 'short', readonly: true },
        { container_path: '/file', image: { image: data }, image_sub_path: '/weights/top', readonly: true },
      ]),
      pod(),
    );
    await crictl('start', id);
    const look = 'cat /models/weights/top /part/a /file; /models/weights/run; touch /models/x /part/x 2>&1; grep -c " ro,nosuid,nodev,relatime - overlay" /proc/self/mountinfo';
    const output = await crictl('exec', '-s', id, busybox, 'sh', '-c', look);
    assert.deepEqual(output.split('\n'), ['top', 'w', 'top', 'executed', 'touch: /models/x: Read-only file system', 'touch: /part/x: Read-only file system', '3']);
    const [summary] = (await host.json(['images'])).filter(({ names }) => Array.isArray(names) && names.includes(data));
    const { status: seen } = await call('ContainerStatus', ContainerStatusRequestSchema, ContainerStatusResponseSchema, { containerId: id });
    assert.deepEqual(
      seen?.mounts.map(({ containerPath, hostPath, readonly, imageSubPath, image: spec }) => [containerPath, hostPath, readonly, imageSubPath, spec?.image, spec?.imageRef]),
      [
        ['/models', '', true, '', data, summary?.['id']],
        ['/part', '', true, 'short', data, summary?.['id']],
        ['/file', '', true, '/weights/top', data, summary?.['id']],
      ],
    );
    assert.equal(seen?.mounts[0]?.image?.userSpecifiedImage, 'models');
    await crictl('rm', '--force', id);
  });

  goTest('a part that is missing, an image that is missing and a host path beside an image fail in CreateContainer, and leave nothing', async () => {
    const refused: readonly (readonly [unknown, RegExp])[] = [
      [
        { container_path: '/m', image: { image: data }, image_sub_path: 'weights/none' },
        /ImageVolumeMountFailed: config.mounts\[0\].image_sub_path: the image "localhost\/models:1" has no "weights\/none"/,
      ],
      [{ container_path: '/m', image: { image: 'localhost/nothing:1' } }, /ImageVolumeMountFailed: config.mounts\[0\].image: image "localhost\/nothing:1": not found/],
      [{ container_path: '/m', host_path: '/etc', image: { image: data } }, /config.mounts\[0\].host_path: must be empty beside an image/],
    ];
    for (const [mount, message] of refused) {
      await assert.rejects(
        crictl('create', podId, container('bad', [mount]), pod()),
        (error) => error instanceof Error && 'stderr' in error && message.test(String(error.stderr).replaceAll('\\"', '"')),
      );
    }
    assert.equal(await crictl('ps', '-aq'), '');
  });

  goTest('mount options take execution away, from images and from host paths', async () => {
    const { features } = await call('Status', StatusRequestSchema, StatusResponseSchema, {});
    assert.equal(features?.mountOptions, true);
    const directory = host.scratch('given');
    writeFileSync(`${directory}/run`, `#!${busybox} sh\necho executed\n`, { mode: 0o755 });
    const config = {
      metadata: { name: 'options', attempt: 0 },
      image: { image },
      command: [busybox, 'sleep', '1000'],
      mounts: [
        { containerPath: '/models', image: { image: data }, mountOptions: ['noexec'] },
        { containerPath: '/given', hostPath: directory, mountOptions: ['noexec', 'nosuid', 'nodev'] },
      ],
    };
    const sandboxConfig = { metadata: { name: 'web', uid: 'uid-1', namespace: 'default', attempt: 0 } };
    const { containerId } = await call('CreateContainer', CreateContainerRequestSchema, CreateContainerResponseSchema, { podSandboxId: podId, config, sandboxConfig });
    await call('StartContainer', StartContainerRequestSchema, StartContainerResponseSchema, { containerId });
    const cmd = [busybox, 'sh', '-c', '/models/weights/run; /given/run; cat /models/weights/top'];
    const { stdout, stderr } = await call('ExecSync', ExecSyncRequestSchema, ExecSyncResponseSchema, { containerId, cmd });
    assert.equal(Buffer.from(stdout).toString(), 'top\n');
    assert.equal(
      Buffer.from(stderr)
        .toString()
        .match(/Permission denied/g)?.length,
      2,
    );
    const { status: seen } = await call('ContainerStatus', ContainerStatusRequestSchema, ContainerStatusResponseSchema, { containerId });
    assert.deepEqual(
      seen?.mounts.map(({ mountOptions }) => mountOptions),
      [['noexec'], ['noexec', 'nosuid', 'nodev']],
    );
    await crictl('rm', '--force', containerId);
    const lifted = { ...config, mounts: [{ containerPath: '/models', image: { image: data }, mountOptions: ['exec'] }] };
    await assert.rejects(call('CreateContainer', CreateContainerRequestSchema, CreateContainerResponseSchema, { podSandboxId: podId, config: lifted, sandboxConfig }), {
      code: status.INVALID_ARGUMENT,
      details: 'config.mounts[0].mount_options[0]: must be one of noexec, nosuid, nodev, not "exec"',
    });
  });

  goTest('a read-only mount may be so for what is mounted below it, too', async () => {
    const directory = host.scratch('tree');
    mkdirSync(`${directory}/below`);
    await run('mount', ['-t', 'tmpfs', 'tmpfs', `${directory}/below`]);
    try {
      const mounts = [
        { containerPath: '/plain', hostPath: directory, readonly: true },
        { containerPath: '/all', hostPath: directory, readonly: true, recursiveReadOnly: true },
      ];
      const config = { metadata: { name: 'recursive', attempt: 0 }, image: { image }, command: [busybox, 'sleep', '1000'], mounts };
      const sandboxConfig = { metadata: { name: 'web', uid: 'uid-1', namespace: 'default', attempt: 0 } };
      const { containerId } = await call('CreateContainer', CreateContainerRequestSchema, CreateContainerResponseSchema, { podSandboxId: podId, config, sandboxConfig });
      await call('StartContainer', StartContainerRequestSchema, StartContainerResponseSchema, { containerId });
      const script = 'for file in /plain/x /plain/below/x /all/x /all/below/y; do touch $file 2>/dev/null && echo $file; done';
      const { stdout } = await call('ExecSync', ExecSyncRequestSchema, ExecSyncResponseSchema, { containerId, cmd: [busybox, 'sh', '-c', script] });
      assert.equal(Buffer.from(stdout).toString(), '/plain/below/x\n');
      await crictl('rm', '--force', containerId);
    } finally {
      await run('umount', [`${directory}/below`]);
    }
  });

  goTest('RemoveImage while a volume uses the image harms nobody; its layers go with the last container, across a restart of the daemon', async () => {
    const layers = (): number => readdirSync(`${host.root}/images/layers`).length;
    const mount = { container_path: '/models', image: { image: data }, readonly: true };
    const ids = [await crictl('create', podId, container('first', [mount]), pod()), await crictl('create', podId, container('second', [mount]), pod())];
    for (const id of ids) await crictl('start', id);
    const before = layers();
    await crictl('rmi', data);
    daemon.child.kill('SIGKILL');
    await daemon.finished;
    const socket = `${host.run}/berth.sock`;
    daemon = host.start(['daemon', '--socket', socket]);
    await daemon.untilOutput('"ready"');
    assert.equal(layers(), before);
    for (const id of ids) assert.equal(await crictl('exec', '-s', id, busybox, 'cat', '/models/weights/top'), 'top');
    await crictl('rm', '--force', ids[0] ?? '');
    assert.equal(layers(), before);
    await crictl('rm', '--force', ids[1] ?? '');
    while (layers() !== before - 2) await sleep(50);
  });
});
