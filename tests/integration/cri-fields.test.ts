/**
 * Fields of the CRI that no other suite is about: what a creator says of a pod and a container, as its processes see it and as every answer
 * gives it back. The table of all fields is tests/cri-fields.json.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { mkdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import { status as grpcStatus } from '@grpc/grpc-js';
import { ContainerState, ImageService, NamespaceMode, PodSandboxState, Protocol, RuntimeService, Signal, SupplementalGroupsPolicy } from '#gen/cri-v1_pb.js';
import { busybox, image, patienceMs, skipReason } from './berth-host.ts';
import { CriHost } from './cri-host.ts';

const {
  runPodSandbox,
  stopPodSandbox,
  removePodSandbox,
  podSandboxStatus,
  listPodSandbox,
  streamPodSandboxes,
  createContainer,
  startContainer,
  stopContainer,
  removeContainer,
  containerStatus,
  listContainers,
  streamContainers,
  execSync,
  runtimeConfig,
  status: runtimeStatus,
  version,
} = RuntimeService.method;

describe('fields of the CRI', { skip: skipReason() }, () => {
  let cri: CriHost;
  before(async () => void (cri = await CriHost.open()));
  after(async () => cri[Symbol.asyncDispose]());

  const shell = async (containerId: string, script: string): Promise<string> => {
    const { stdout, stderr, exitCode } = await cri.call(execSync, { containerId, cmd: [busybox, 'sh', '-c', script] });
    assert.equal(exitCode, 0, Buffer.from(stderr).toString());
    return Buffer.from(stdout).toString();
  };

  test('a pod has the name, the resolver, the labels and the annotations of its creator, and every answer gives them back unchanged', async () => {
    const labels = { app: 'web', 'example.com/tier': 'front' };
    const annotations = { 'example.com/note': 'two\nlines and ü', empty: '' };
    const dnsConfig = { servers: ['192.0.2.53', '192.0.2.54'], searches: ['shop.example', 'example'], options: ['ndots:5', 'timeout:1'] };
    const config = cri.podConfig({ hostname: 'web-0', labels, annotations, dnsConfig });
    const metadata = { ...config.metadata, attempt: 3 };
    const before = BigInt(Date.now()) * 1_000_000n;
    const { podSandboxId } = await cri.call(runPodSandbox, { config: { ...config, metadata }, runtimeHandler: 'native' });
    const { containerId } = await cri.call(createContainer, { podSandboxId, config: cri.containerConfig('sleep 1000'), sandboxConfig: config });
    await cri.call(startContainer, { containerId });
    assert.equal(
      await shell(containerId, 'hostname; cat /etc/resolv.conf'),
      'web-0\nsearch shop.example example\nnameserver 192.0.2.53\nnameserver 192.0.2.54\noptions ndots:5 timeout:1\n',
    );

    const { status } = await cri.call(podSandboxStatus, { podSandboxId });
    const { items } = await cri.call(listPodSandbox, { filter: { id: podSandboxId.slice(0, 12), state: { state: PodSandboxState.SANDBOX_READY }, labelSelector: { app: 'web' } } });
    assert.equal(items.length, 1);
    for (const found of [status, items[0]]) {
      assert.ok(found !== undefined);
      const { name, uid, namespace, attempt } = found.metadata ?? {};
      assert.deepEqual({ name, uid, namespace, attempt }, metadata);
      assert.deepEqual({ ...found.labels }, labels);
      assert.deepEqual({ ...found.annotations }, annotations);
      assert.deepEqual([found.id, found.state, found.runtimeHandler], [podSandboxId, PodSandboxState.SANDBOX_READY, 'native']);
      assert.ok(found.createdAt >= before - 1_000_000_000n && found.createdAt <= BigInt(Date.now()) * 1_000_000n + 1_000_000_000n, `made at ${found.createdAt}`);
    }
    const { network, pid, ipc } = status?.linux?.namespaces?.options ?? {};
    assert.deepEqual([network, pid, ipc], [NamespaceMode.POD, NamespaceMode.POD, NamespaceMode.POD]);
    assert.ok((await shell(containerId, 'ip -4 -o addr show eth0 || cat /proc/net/fib_trie')).includes(status?.network?.ip ?? 'none'));

    const none = await Promise.all(
      [{ labelSelector: { app: 'other' } }, { state: { state: PodSandboxState.SANDBOX_NOTREADY } }, { id: 'ffffffffffff' }].map(async (filter) =>
        cri.call(listPodSandbox, { filter }),
      ),
    );
    assert.deepEqual(
      none.map((answer) => answer.items.length),
      [0, 0, 0],
    );
    const streamed: string[] = [];
    for await (const { podSandboxes } of cri.client.stream(streamPodSandboxes, { filter: { labelSelector: { app: 'web' } } }))
      streamed.push(...podSandboxes.map(({ id }: { readonly id: string }) => id));
    assert.deepEqual(streamed, [podSandboxId]);

    await cri.call(stopPodSandbox, { podSandboxId });
    const stopped = await cri.call(podSandboxStatus, { podSandboxId });
    assert.equal(stopped.status?.state, PodSandboxState.SANDBOX_NOTREADY);
    await cri.call(removePodSandbox, { podSandboxId });
    await assert.rejects(cri.call(podSandboxStatus, { podSandboxId }), { code: grpcStatus.NOT_FOUND });
  });

  test('a port of the host leads to the pod, at the address that was asked for and at no other', async () => {
    const free = createServer();
    await new Promise<void>((resolve) => void free.listen(0, '127.0.0.1', resolve));
    const address = free.address();
    const hostPort = typeof address === 'object' && address !== null ? address.port : 0;
    await new Promise((resolve) => free.close(resolve));
    const portMappings = [
      { protocol: Protocol.TCP, containerPort: 8080, hostPort, hostIp: '127.0.0.1' },
      { protocol: Protocol.UDP, containerPort: 9090, hostPort, hostIp: '' },
    ];
    const { podSandboxId, containerId } = await cri.startContainer(`while true; do echo answer | ${busybox} nc -l -p 8080; done`, { pod: { portMappings } });
    const ask = (target: string): string => {
      try {
        return execFileSync('sh', ['-c', `${busybox} nc -w 2 ${target} ${hostPort} < /dev/null 2>/dev/null`], { encoding: 'utf8' });
      } catch {
        return '';
      }
    };
    const deadline = performance.now() + patienceMs;
    while (ask('127.0.0.1') !== 'answer\n') {
      assert.ok(performance.now() < deadline, 'nobody answers at 127.0.0.1');
      await sleep(50);
    }
    assert.equal(ask('127.0.0.2'), '', 'the mapping is for one address');

    // The image has no program that takes datagrams, so one is started in the pod's network from outside.
    const { info } = await cri.call(containerStatus, { containerId, verbose: true });
    const pid: unknown = JSON.parse(info['info'] ?? '').pid;
    const program = `const s = require('dgram').createSocket('udp4'); s.on('message', (text) => { console.log(String(text)); s.close(); }); s.bind(9090, () => console.log('bound'))`;
    const receiver = spawn('nsenter', [`--net=/proc/${String(pid)}/ns/net`, process.execPath, '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    const sender = createSocket('udp4');
    try {
      let received = '';
      receiver.stdout.on('data', (chunk: Buffer) => void (received += chunk.toString()));
      while (!received.includes('hello')) {
        assert.ok(performance.now() < deadline, `no datagram arrives: ${received}`);
        if (received.includes('bound')) sender.send('hello', hostPort, '127.0.0.1');
        await sleep(50);
      }
    } finally {
      sender.close();
      receiver.kill('SIGKILL');
    }
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('a container runs the command and arguments of the request in its directory, with its variables, and logs where it was told', async () => {
    const logDirectory = cri.host.scratch('fields/logs');
    mkdirSync(`${logDirectory}/main`);
    const pod = cri.podConfig({ logDirectory });
    const { podSandboxId } = await cri.call(runPodSandbox, { config: pod });
    const labels = { role: 'main' };
    const annotations = { 'example.com/hash': 'abc', empty: '' };
    const config = {
      ...cri.containerConfig(''),
      metadata: { name: 'main', attempt: 2 },
      image: { image, userSpecifiedImage: 'busybox:mine', annotations: { 'example.com/source': 'manifest' } },
      command: [busybox, 'sh'],
      args: ['-c', 'pwd; echo "$A|$B"; echo error >&2; exit 7'],
      workingDir: '/made/for/it',
      envs: [
        { key: 'A', value: Buffer.from('with = and ü') },
        { key: 'B', value: Buffer.from('') },
      ],
      labels,
      annotations,
      logPath: 'main/2.log',
    };
    const { containerId } = await cri.call(createContainer, { podSandboxId, config, sandboxConfig: pod });
    const created = await cri.call(containerStatus, { containerId });
    assert.deepEqual([created.status?.state, created.status?.startedAt, created.status?.finishedAt], [ContainerState.CONTAINER_CREATED, 0n, 0n]);
    await cri.call(startContainer, { containerId });
    const status = await cri.ended(containerId);
    const entries = readFileSync(`${logDirectory}/main/2.log`, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map((line) => line.replace(/^\S+ /, ''));
    assert.deepEqual(entries.toSorted(), ['stderr F error', 'stdout F /made/for/it', 'stdout F with = and ü|']);
    assert.equal(status.logPath, `${logDirectory}/main/2.log`);
    assert.deepEqual([status.exitCode, status.reason, status.state], [7, 'Error', ContainerState.CONTAINER_EXITED]);
    assert.ok(status.createdAt > 0n && status.startedAt >= status.createdAt && status.finishedAt >= status.startedAt);

    const [listed] = (
      await cri.call(listContainers, { filter: { id: containerId.slice(0, 12), podSandboxId, state: { state: ContainerState.CONTAINER_EXITED }, labelSelector: labels } })
    ).containers;
    assert.equal(listed?.podSandboxId, podSandboxId);
    const imageStatus = await cri.call(ImageService.method.imageStatus, { image: { image } });
    for (const found of [status, listed]) {
      assert.deepEqual({ name: found?.metadata?.name, attempt: found?.metadata?.attempt }, { name: 'main', attempt: 2 });
      assert.deepEqual([{ ...found?.labels }, { ...found?.annotations }], [labels, annotations]);
      // The id of the image, and the digest form; they differ where the image has a repository.
      assert.equal(found?.imageId, imageStatus.image?.id);
      assert.equal(found?.imageRef, imageStatus.image?.spec?.imageRef);
      assert.equal(found?.image?.image, image);
      assert.equal(found?.image?.userSpecifiedImage, 'busybox:mine');
      assert.deepEqual({ ...found?.image?.annotations }, { 'example.com/source': 'manifest' });
    }
    const streamed: string[] = [];
    for await (const { containers } of cri.client.stream(streamContainers, { filter: { podSandboxId } })) streamed.push(...containers.map(({ id }: { readonly id: string }) => id));
    assert.deepEqual(streamed, [containerId]);
    const others = await cri.call(listContainers, { filter: { podSandboxId, labelSelector: { role: 'other' } } });
    assert.deepEqual(others.containers, []);
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('a stop begins with the signal of the request, which status tells; the user is told with its groups', async () => {
    const { podSandboxId, containerId } = await cri.startContainer(
      `trap 'echo INT > /tmp/signal; exit 5' INT; trap 'exit 6' TERM; mkdir -p /tmp; touch /tmp/ready; while true; do sleep 0.05; done`,
      {
        container: {
          stopSignal: Signal.SIGINT,
          linux: {
            securityContext: { runAsUser: { value: 0n }, runAsGroup: { value: 0n }, supplementalGroups: [4242n], supplementalGroupsPolicy: SupplementalGroupsPolicy.Strict },
          },
        },
      },
    );
    const deadline = performance.now() + patienceMs;
    while ((await shell(containerId, 'ls /tmp')) !== 'ready\n') assert.ok(performance.now() < deadline, 'the program does not begin');
    const { status } = await cri.call(containerStatus, { containerId });
    assert.equal(status?.stopSignal, Signal.SIGINT);
    assert.deepEqual([status?.user?.linux?.uid, status?.user?.linux?.gid, status?.user?.linux?.supplementalGroups], [0n, 0n, [0n, 4242n]]);
    await cri.call(stopContainer, { containerId, timeout: 3600n });
    assert.equal((await cri.ended(containerId)).exitCode, 5);
    await cri.call(removeContainer, { containerId });
    await assert.rejects(cri.call(containerStatus, { containerId }), { code: grpcStatus.NOT_FOUND });
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('a terminal is one output in the log, and standard input is open where it was asked for', async () => {
    const logDirectory = cri.host.scratch('fields/terminal');
    const { podSandboxId, containerId } = await cri.startContainer('[ -t 0 ] && [ -t 1 ] && echo terminal; echo again >&2', {
      pod: { logDirectory },
      container: { tty: true, stdin: true, logPath: 'tty.log' },
    });
    await cri.ended(containerId);
    const entries = readFileSync(`${logDirectory}/tty.log`, 'utf8').split('\n').slice(0, -1);
    assert.deepEqual(
      entries.map((line) => line.replace(/^\S+ /, '').replace('\r', '')),
      ['stdout F terminal', 'stdout F again'],
    );
    await cri.call(removePodSandbox, { podSandboxId });
  });

  test('what the runtime says of itself: versions, conditions, handlers with features, driver of cgroups, facts as JSON', async () => {
    const told = await cri.call(version, { version: 'v1' });
    assert.deepEqual([told.version, told.runtimeName, told.runtimeApiVersion], ['0.1.0', 'berth', 'v1']);
    assert.match(told.runtimeVersion, /^\d+\.\d+\.\d+/);
    const brief = await cri.call(runtimeStatus, {});
    assert.deepEqual({ ...brief.info }, {});
    const { status, info, runtimeHandlers, features } = await cri.call(runtimeStatus, { verbose: true });
    assert.deepEqual(
      status?.conditions.map(({ type, status: holds, reason, message }) => [type, holds, reason, message]),
      [
        ['RuntimeReady', true, '', ''],
        ['NetworkReady', true, '', ''],
      ],
    );
    // A kubelet looks its own handler up by the empty name.
    assert.deepEqual(runtimeHandlers.map(({ name }) => name).toSorted(), ['', 'native']);
    const [one, other] = runtimeHandlers;
    assert.deepEqual({ ...one?.features }, { ...other?.features });
    assert.deepEqual([features?.supplementalGroupsPolicy, features?.mountOptions, features?.userNamespacesHostNetwork], [true, true, false]);
    assert.equal(typeof JSON.parse(info['info'] ?? ''), 'object');
    assert.equal((await cri.call(runtimeConfig, {})).linux?.cgroupDriver, 1);
  });
});
