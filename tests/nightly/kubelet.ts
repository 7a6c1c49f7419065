/**
 * A real kubelet with Berth, without an API server: static pods of many kinds, then changes, restarts of either side, statistics and streams. Takes some
 * minutes and a kubelet to build, so it is not part of `npm test`: `npm run nightly:kubelet`. What is asserted comes from the kubelet's own
 * server and from Berth. `BERTH_KEEP_KUBELET_LOG=FILE` keeps the kubelet's log.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { after, before, describe, test } from 'node:test';
import { ContainerState, ImageService, RuntimeService } from '#gen/cri-v1_pb.js';
import { busybox, image } from '../integration/berth-host.ts';
import { Registry, freePort } from '../integration/image-host.ts';
import { SpdyClient } from '../integration/stream-clients.ts';
import { summaryOf, talk } from './kubelet-clients.ts';
import { type ContainerStatus, type KubeletPod, KubeletNode, nodeAddress } from './kubelet-host.ts';
import { lasting, podSpecs } from './kubelet-pods.ts';

const { listContainers, listPodSandbox, containerStatus } = RuntimeService.method;

/** The one container of that name, or the first. */
function container(status: KubeletPod['status'], name?: string): ContainerStatus | undefined {
  return status.containerStatuses?.find((each) => name === undefined || each.name === name);
}
const isRunning = (status: KubeletPod['status']): boolean =>
  status.phase === 'Running' && status.containerStatuses?.every(({ state, ready }) => state.running !== undefined && ready) === true;
const idOf = (status: ContainerStatus | undefined): string => status?.containerID?.replace(/^\w+:\/\//, '') ?? '';

describe('a real kubelet', () => {
  let node: KubeletNode;
  let registry: Registry;
  let traces = '';
  let [hostPort, nodePort] = [0, 0];
  let specs: ReturnType<typeof podSpecs> = {};

  before(async () => {
    node = await KubeletNode.open();
    registry = await Registry.start();
    traces = node.cri.host.scratch('traces');
    [hostPort, nodePort] = [await freePort(), await freePort()];
    const pulled = `${registry.address}/pulled:1`;
    // Another image than the local one: what was pulled once may only be used by pods that could pull it.
    await node.cri.host.ok(['image', 'from-host', 'localhost/other:latest', busybox, process.execPath]);
    await node.cri.host.ok(['push', 'localhost/other:latest', pulled]);
    specs = podSpecs({ traces, hostPort, nodePort, pulled });
    for (const [name, spec] of Object.entries(specs)) node.put(name, spec, { labels: { app: name } });
    await node.start();
  });
  after(async () => {
    await node[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
  });

  /** The pod's first container runs this script through the kubelet's ExecSync. */
  const say = async (pod: string, command: string, name = 'main'): Promise<string> => node.run(pod, name, `${busybox} ${command}`);

  test('runs a pod with limits, environment, hosts, DNS and a downward volume', async () => {
    const { status, metadata } = await node.untilPod('plain', 'runs', isRunning);
    assert.equal(status.qosClass, 'Guaranteed');
    assert.match(status.podIP ?? '', /^10\./);
    assert.match(await node.logs('plain', 'main'), /^hello\n/m);
    assert.match(await node.logs('plain', 'main'), /^trouble\n/m);
    assert.match(await say('plain', 'env'), new RegExp(`^POD_IP=${status.podIP}$`, 'm'));
    assert.match(await say('plain', 'cat /etc/resolv.conf'), /nameserver 192\.0\.2\.53/);
    assert.match(await say('plain', 'cat /etc/hosts'), new RegExp(`^${status.podIP?.replaceAll('.', '\\.')}\tplain-node$`, 'm'));
    assert.match(await say('plain', 'cat /etc/hosts'), /192\.0\.2\.77\talias\.example/);
    assert.equal(await say('plain', 'cat /about/labels'), 'app="plain"');
    const id = idOf(container(status));
    const { status: berth } = await node.cri.call(containerStatus, { containerId: id });
    assert.equal(berth?.state, ContainerState.CONTAINER_RUNNING);
    assert.equal(berth?.resources?.linux?.memoryLimitInBytes, 64n * 1024n * 1024n);
    assert.equal(container(status)?.imageID, berth?.imageRef);
    // The pod is in the group that the kubelet made for it.
    const groups = readFileSync(`/proc/${await pidOf(id)}/cgroup`, 'utf8');
    assert.match(groups, new RegExp(`/kubepods/pod${metadata.uid}/.*${id}`), groups);
  });

  async function pidOf(containerId: string): Promise<number> {
    const { info } = await node.cri.call(containerStatus, { containerId, verbose: true });
    // SAFETY: verbose container info is a JSON object with the pid.
    return (JSON.parse(info['info'] ?? '{}') as { readonly pid: number }).pid;
  }

  test('runs init containers, a sidecar, and two containers with volumes and a process namespace of theirs', async () => {
    const { status } = await node.untilPod('shared', 'is ready', (now) => isRunning(now) && now.initContainerStatuses?.[1]?.ready === true);
    assert.equal(status.initContainerStatuses?.[0]?.state.terminated?.reason, 'Completed');
    assert.equal(await say('shared', 'cat /other/first /other/beside', 'other'), 'from first\nfrom beside\n');
    assert.match(await say('shared', 'ps', 'other'), /httpd -f -p 8080/);
    assert.match(await say('shared', 'mount', 'web'), /^tmpfs on \/memory type tmpfs .*size=1024k/m);
    await say('shared', 'touch /part/made', 'other');
    assert.equal(await say('shared', 'ls /data/deep/er', 'web'), 'made\n');
    assert.equal(await (await fetch(`http://${status.podIP}:8080/`)).text(), 'shared-node\n');
  });

  test('restarts a container whose liveness probe fails', async () => {
    const { status } = await node.untilPod(
      'liveness',
      'was restarted',
      ({ containerStatuses }) => (containerStatuses?.[0]?.restartCount ?? 0) >= 1 && containerStatuses?.[0]?.state.running !== undefined,
    );
    assert.equal(container(status)?.lastState.terminated?.exitCode, 0);
    const { containers } = await node.cri.call(listContainers, { filter: { labelSelector: { 'io.kubernetes.pod.name': 'liveness-node' } } });
    assert.ok(containers.some(({ metadata }) => (metadata?.attempt ?? 0) >= 1));
  });

  test('runs a pod in the node’s network', async () => {
    await node.untilPod('hostnet', 'runs', isRunning);
    await node.until('its server answers', async () => (await fetch(`http://127.0.0.1:${nodePort}/`).catch(() => undefined))?.ok === true);
    assert.match(await say('hostnet', 'ip addr'), new RegExp(nodeAddress.replaceAll('.', '\\.')));
  });

  test('tells that a container was killed for memory', async () => {
    const { status } = await node.untilPod('hungry', 'has failed', ({ phase }) => phase === 'Failed');
    const { exitCode, reason } = container(status)?.state.terminated ?? {};
    assert.deepEqual([exitCode, reason], [137, 'OOMKilled']);
  });

  test('tells termination messages of files and logs', async () => {
    const { status } = await node.untilPod('messages', 'has failed', ({ phase }) => phase === 'Failed');
    const told = ['file', 'log'].map((name) => container(status, name)?.state.terminated).map((end) => [end?.exitCode, end?.reason, end?.message]);
    assert.deepEqual(told, [
      [3, 'Error', 'the reason'],
      [4, 'Error', 'last words\n'],
    ]);
  });

  test('repeats what fails until it succeeds', async () => {
    const { status } = await node.untilPod('again', 'has succeeded', ({ phase }) => phase === 'Succeeded');
    assert.equal(container(status)?.restartCount, 1);
  });

  test('publishes a port on the node', async () => {
    const { status } = await node.untilPod('ports', 'runs', isRunning);
    for (const address of [nodeAddress, '127.0.0.1']) {
      await node.until(`${address} answers`, async () => (await fetch(`http://${address}:${hostPort}/`).catch(() => undefined))?.ok === true);
      assert.equal(await (await fetch(`http://${address}:${hostPort}/`)).text(), 'ports-node\n');
    }
    assert.notEqual(status.podIP, nodeAddress);
  });

  test('confines a container as its security context says', async () => {
    await node.untilPod('secure', 'runs', isRunning);
    assert.match(await say('secure', 'id'), /^uid=1234 gid=2345 groups=2345,3456,4567\n?$/);
    const process = await say('secure', 'cat /proc/1/status');
    for (const line of [/^Seccomp:\t2$/m, /^NoNewPrivs:\t1$/m, /^CapEff:\t0{16}$/m, /^CapBnd:\t0{16}$/m]) assert.match(process, line);
    assert.match(await say('secure', 'mount'), /^overlay on \/ type overlay \(ro,/m);
    await say('secure', 'touch /data/file');
    assert.match(await say('secure', 'stat -c %u:%g /data/file'), /^1234:3456$/m);
    assert.equal((await say('secure', 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start')).trim(), '80');
  });

  test('runs a pod in a user namespace of its own, with a volume', async () => {
    const { metadata } = await node.untilPod('userns', 'runs', isRunning);
    assert.match(await say('userns', 'cat /proc/self/uid_map'), /^\s*0\s+[1-9]\d+\s+65536$/m);
    assert.equal((await say('userns', 'stat -c %u /data/mine')).trim(), '0');
    assert.equal(statSync(`${node.cri.host.directory}/kubelet/pods/${metadata.uid}/volumes/kubernetes.io~empty-dir/data/mine`).uid, 0);
  });

  test('runs a privileged pod with the node’s processes and a volume that propagates', async () => {
    await node.untilPod('privileged', 'runs', isRunning);
    await say('privileged', 'mkdir /traces/inner');
    await say('privileged', 'mount -t tmpfs inner /traces/inner');
    assert.match(readFileSync('/proc/self/mountinfo', 'utf8'), new RegExp(` ${traces}/inner `));
    await say('privileged', 'umount /traces/inner');
    assert.match(await say('privileged', 'ps'), /kubelet --config/);
  });

  test('mounts an image as a volume, and pulls an image from a registry', async () => {
    await node.untilPod('imagevolume', 'runs', isRunning);
    assert.match(await say('imagevolume', 'ls /image/usr/bin'), /busybox/);
    const { status } = await node.untilPod('pulled', 'runs', isRunning);
    assert.equal(container(status)?.image, `${registry.address}/pulled:1`);
    const { image: found } = await node.cri.call(ImageService.method.imageStatus, { image: { image: `${registry.address}/pulled:1` } });
    assert.ok(found?.repoDigests.includes(container(status)?.imageID ?? '') === true, container(status)?.imageID ?? 'no image id');
  });

  test('tells why a container cannot be made or started', async () => {
    const absent = await node.untilPod('absent', 'waits', ({ containerStatuses }) => containerStatuses?.[0]?.state.waiting?.reason === 'ErrImageNeverPull');
    assert.equal(absent.status.phase, 'Pending');
    const wrong = await node.untilPod('wrong', 'fails', ({ containerStatuses }) => /no\/such\/program/.test(JSON.stringify(containerStatuses)));
    assert.match(JSON.stringify(wrong.status), /CreateContainerError|RunContainerError|StartError|CrashLoopBackOff/);
  });

  /** Waits until the pod that prints has printed that many more lines. A log that was rotated just now has none. */
  async function untilLines(count: number): Promise<void> {
    const last = async (): Promise<number> => Number(/line (\d+) /.exec(await node.logs('chatty', 'main', '?tailLines=1'))?.[1] ?? 0);
    let first = 0;
    await node.until('a line', async () => (first = await last()) > 0);
    await node.until(`${count} more lines`, async () => (await last()) > first + count);
  }

  test('rotates logs and goes on reading them', async () => {
    const { metadata } = await node.untilPod('chatty', 'runs', isRunning);
    const directory = `${node.cri.host.directory}/pod-logs/default_chatty-node_${metadata.uid}/main`;
    await node.until('three files', () => readdirSync(directory).length >= 3);
    await untilLines(100);
  });

  test('replaces a pod whose manifest changes', async () => {
    const before = await node.untilPod('ports', 'runs', isRunning);
    node.put('ports', { containers: [{ name: 'main', image, imagePullPolicy: 'Never', command: [busybox, 'sh', '-c', `echo changed; ${lasting}`] }] });
    const after = await node.untilPod('ports', 'is another one', (status, { metadata }) => metadata.uid !== before.metadata.uid && isRunning(status));
    assert.match(await node.logs('ports', 'main'), /^changed\n/);
    await node.until('the old one is gone', async () => {
      const { items } = await node.cri.call(listPodSandbox, {});
      return items.every(({ metadata }) => metadata?.uid !== before.metadata.uid);
    });
    assert.notEqual(idOf(container(after.status)), idOf(container(before.status)));
    await assert.rejects(fetch(`http://${nodeAddress}:${hostPort}/`));
  });

  test('runs hooks, and kills and cleans a pod whose manifest goes', async () => {
    const { metadata, status } = await node.untilPod('hooks', 'runs', isRunning);
    await node.until('the first hook', () => existsSync(`${traces}/order`) && readFileSync(`${traces}/order`, 'utf8') === 'started\n');
    node.remove('hooks');
    await node.until('Berth has neither pod nor container', async () => {
      const { items } = await node.cri.call(listPodSandbox, {});
      return items.every(({ metadata: each }) => each?.uid !== metadata.uid);
    });
    assert.equal(readFileSync(`${traces}/order`, 'utf8'), 'started\nstopping\nasked\n');
    const { containers } = await node.cri.call(listContainers, {});
    assert.ok(containers.every(({ id }) => id !== idOf(container(status))));
    await node.until(
      'its groups are gone',
      () => node.podCgroups().every((path) => !path.includes(metadata.uid)),
      () => node.podCgroups().join('\n'),
    );
    await node.until('its directory is gone', () => !readdirSync(`${node.cri.host.directory}/kubelet/pods`).includes(metadata.uid));
  });

  /** What must stay as it is while either side restarts: of pods that neither end nor are restarted by themselves. */
  const steady = ['plain', 'shared', 'hostnet', 'hungry', 'messages', 'again', 'secure', 'userns', 'privileged', 'chatty', 'imagevolume', 'pulled'];
  async function snapshot(): Promise<Record<string, unknown>> {
    const all = await node.pods();
    return Object.fromEntries(
      steady.map((name) => {
        const status = all.find(({ metadata }) => metadata.name === `${name}-node`)?.status;
        const facts = [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])].map(({ name: each, containerID, restartCount, state }) => ({
          each,
          containerID,
          restartCount,
          state,
        }));
        // A kubelet that starts does not learn the address of a pod that has ended.
        return [name, { phase: status?.phase, podIP: status?.phase === 'Running' ? status.podIP : undefined, facts }];
      }),
    );
  }
  /** Waits until the kubelet tells the same as before, and then looks for some seconds whether it stays so. */
  async function stays(before: Record<string, unknown>): Promise<void> {
    let different: unknown[] = [];
    const isSame = async (): Promise<boolean> => {
      const found = await snapshot();
      different = steady.filter((name) => !isDeepStrictEqual(found[name], before[name])).map((name) => [before[name], found[name]]);
      return different.length === 0;
    };
    await node.until('everything is as before', isSame, () => JSON.stringify(different, null, 1));
    await untilLines(250);
    assert.deepEqual(await snapshot(), before);
  }

  test('finds everything after it was killed, and restarts nothing', async () => {
    const before = await snapshot();
    await node.kill();
    await node.start();
    await stays(before);
  });

  test('restarts nothing after Berth was killed', async () => {
    const before = await snapshot();
    await node.cri.restart('SIGKILL');
    await stays(before);
    assert.equal((await say('plain', 'echo here')).trim(), 'here');
  });

  test('shows usage of nodes, pods and containers', async () => {
    await node.until('usage of a container', async () => {
      const found = await summaryOf(node, 'plain');
      return (found?.containers[0]?.cpu?.usageCoreNanoSeconds ?? 0) > 0 && (found?.containers[0]?.memory?.workingSetBytes ?? 0) > 0;
    });
    const { cpu, memory, containers } = (await summaryOf(node, 'plain')) ?? { containers: [] };
    assert.ok((cpu?.usageCoreNanoSeconds ?? 0) > 0 && (memory?.workingSetBytes ?? 0) > 0, 'of the pod');
    assert.ok((containers[0]?.rootfs?.usedBytes ?? 0) > 0, 'of the writable layer');
    assert.match(await node.get('/metrics/resource'), /^container_memory_working_set_bytes\{container="main",namespace="default",pod="plain-node"\} \d/m);
  });

  test('runs commands over SPDY and WebSocket, and tells how they end', async () => {
    const query = new URLSearchParams([
      ['input', '1'],
      ['output', '1'],
      ['error', '1'],
      ...[busybox, 'sh', '-c', 'cat; echo problem >&2; exit 7'].map((word) => ['command', word]),
    ]);
    const url = `${node.url}${node.path('exec', 'plain', 'main')}?${query.toString()}`;
    const spdy = await SpdyClient.open(url, ['v4.channel.k8s.io']);
    const [error, stdin, stdout, stderr] = ['error', 'stdin', 'stdout', 'stderr'].map((streamtype) => spdy.stream({ streamtype }));
    assert.ok(error !== undefined && stdin !== undefined && stdout !== undefined && stderr !== undefined);
    spdy.write(stdin, 'over SPDY', true);
    await node.until('its end', () => error.text !== '' && stdout.isEnded);
    assert.deepEqual([stdout.text, stderr.text], ['over SPDY', 'problem\n']);
    assert.match(error.text, /"reason":"NonZeroExitCode".*"message":"7"/);
    spdy.socket.destroy();

    // The fifth version is what the kubelet itself speaks to clients; the one before goes through to Berth.
    for (const [protocol, script] of [
      ['v5.channel.k8s.io', 'cat; echo problem >&2; exit 7'],
      ['v4.channel.k8s.io', 'head -c 14; echo problem >&2; exit 7'],
    ] as const) {
      query.delete('command');
      for (const word of [busybox, 'sh', '-c', script]) query.append('command', word);
      const channels = await talk(
        node,
        `${node.url}${node.path('exec', 'plain', 'main')}?${query.toString()}`,
        protocol,
        [[0, 'over WebSocket'], ...(protocol.startsWith('v5') ? [[255, '\0'] as const] : [])],
        (got) => got[3] !== '',
      );
      assert.deepEqual([channels[1], channels[2]], ['over WebSocket', 'problem\n'], protocol);
      assert.match(channels[3] ?? '', /"reason":"NonZeroExitCode".*"message":"7"/, protocol);
    }
  });

  test('attaches to a container, and forwards a port', async () => {
    const attached = await SpdyClient.open(`${node.url}${node.path('attach', 'chatty', 'main')}?output=1&error=1`, ['v4.channel.k8s.io']);
    const [, output] = ['error', 'stdout', 'stderr'].map((streamtype) => attached.stream({ streamtype }));
    await node.until('output of the container', () => /line \d+ x/.test(output?.text ?? ''));
    attached.socket.destroy();

    const forwarded = await SpdyClient.open(`${node.url}${node.path('portForward', 'shared')}`, ['portforward.k8s.io']);
    const headers = { port: '8080', requestid: '0' };
    forwarded.stream({ ...headers, streamtype: 'error' });
    const data = forwarded.stream({ ...headers, streamtype: 'data' });
    forwarded.write(data, 'GET / HTTP/1.0\r\n\r\n', true);
    await node.until(
      'an answer of the pod',
      () => data.text.endsWith('shared-node\n'),
      () => data.text,
    );
    forwarded.socket.destroy();
    const port = Buffer.from([8080 & 0xff, 8080 >> 8]).toString('latin1');
    const channels = await talk(
      node,
      `${node.url}${node.path('portForward', 'shared')}?port=8080`,
      'v4.channel.k8s.io',
      [[0, 'GET / HTTP/1.0\r\n\r\n']],
      (got) => got[0]?.endsWith('shared-node\n') === true,
    );
    assert.equal(channels[1], port);
  });

  test('takes statistics and metrics from Berth alone when told to', async () => {
    const before = await snapshot();
    await node.kill();
    await node.start({ PodAndContainerStatsFromCRI: true });
    await stays(before);
    await node.until('usage of the pod’s network and processes', async () => {
      const found = await summaryOf(node, 'shared');
      return (found?.network?.rxBytes ?? 0) > 0 && (found?.process_stats?.process_count ?? 0) > 3 && (found?.cpu?.usageCoreNanoSeconds ?? 0) > 0;
    });
    const metrics = await node.get('/metrics/cadvisor');
    assert.match(metrics, /^container_memory_working_set_bytes\{[^}]*container="web"[^}]*pod="shared-node"[^}]*\} [1-9]/m);
    assert.match(metrics, /^container_network_receive_bytes_total\{[^}]*pod="shared-node"[^}]*\} [1-9]/m);
    assert.match(metrics, /^container_oom_events_total\{/m);
  });

  test('follows Berth’s events when told to', async () => {
    // With this gate, which is alpha, the kubelet runs init containers of running pods again: it takes none of them for active.
    node.remove('shared');
    await node.until('no such pod', async () => (await node.pod('shared')) === undefined);
    steady.splice(steady.indexOf('shared'), 1);
    const before = await snapshot();
    await node.kill();
    await node.start({ EventedPLEG: true });
    await stays(before);
    assert.match(await node.get('/metrics'), /^kubelet_evented_pleg_connection_success_count [1-9]/m);
    // An end that nobody asked for comes as an event.
    const { status } = await node.untilPod('imagevolume', 'runs', isRunning);
    process.kill(await pidOf(idOf(container(status))), 'SIGKILL');
    const { status: again } = await node.untilPod('imagevolume', 'runs again', (now) => isRunning(now) && container(now)?.restartCount === 1);
    assert.equal(container(again)?.lastState.terminated?.exitCode, 137);
  });

  test('ends every pod, and nothing of them is left', async () => {
    for (const name of Object.keys(specs)) if (name !== 'hooks' && name !== 'shared') node.remove(name);
    await node.until(
      'no pod',
      async () => (await node.cri.call(listPodSandbox, {})).items.length === 0,
      () => execFileSync('ls', [`${node.cri.host.directory}/kubelet/pods`], { encoding: 'utf8' }),
    );
    await node.until(
      'no group',
      () => node.podCgroups().length === 0,
      () => node.podCgroups().join('\n'),
    );
    assert.deepEqual(await node.pods(), []);
  });
});
