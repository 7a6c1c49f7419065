/** Manifests as sandbox and container configurations, quantities, variables. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerConfig } from '#pod';
import { expandVariables } from './expand.ts';
import { decodeManifest } from './manifest.ts';
import { buildContainerConfig } from './plan-container.ts';
import { planPod } from './plan.ts';
import type { PodPlan } from './plan-types.ts';
import { cpuQuotaOf, cpuSharesOf, oomScoreAdjOf, parseQuantity, planResources } from './quantity.ts';
import { parseResolvConf } from './resolv.ts';
import { parseSubordinateIds, placeUsers, userMappingsOf } from './user-range.ts';

type Json = Readonly<Record<string, unknown>>;

const facts = {
  uid: 'u1',
  memoryBytes: 8n << 30n,
  dns: { servers: ['10.0.0.1'], searches: ['lan'], options: ['ndots:1', 'rotate'] },
  podsDirectory: '/var/lib/berth/podrun',
  memoryPodsDirectory: '/run/berth/podrun',
  seccompDirectory: '/var/lib/berth/seccomp',
  subordinateIds: [],
};

function planOf(spec: Json, metadata: Json = {}, ...others: readonly unknown[]): PodPlan {
  const containers = [{ name: 'app', image: 'busybox:1' }];
  return planPod(decodeManifest([{ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'web', ...metadata }, spec: { containers, ...spec } }, ...others]), facts);
}

function configOf(container: Json, spec: Json = {}, metadata: Json = {}, image: { uid?: number; username?: string } = {}): ContainerConfig {
  const plan = planOf({ ...spec, containers: [{ name: 'app', image: 'busybox:1', ...container }] }, metadata);
  const [first] = plan.containers;
  assert.ok(first !== undefined);
  return buildContainerConfig(plan, first, { attempt: 2, podIps: ['10.88.0.2', 'fd00::2'], image });
}

test('the sandbox of a plain pod', () => {
  assert.deepEqual(planOf({}, { labels: { a: 'b' }, annotations: { c: 'd' } }).podConfig, {
    metadata: { name: 'web', uid: 'u1', namespace: 'default', attempt: 0 },
    hostname: 'web',
    logDirectory: '/var/lib/berth/podrun/u1/logs',
    portMappings: [],
    hostAliases: [],
    labels: { a: 'b', 'berth.run/uid': 'u1' },
    annotations: { c: 'd' },
    cgroupParent: '',
    sysctls: {},
    security: {
      namespaces: { network: 'pod', pid: 'container', ipc: 'pod' },
      readonlyRootfs: false,
      supplementalGroups: [],
      privileged: false,
      seccomp: { kind: 'runtimeDefault' },
    },
  });
});

test('a container with everything', () => {
  const config = configOf(
    {
      command: ['sh', '-c', 'echo $(GREETING) $$(GREETING) $(UNKNOWN)'],
      args: ['$(IP)'],
      workingDir: '/srv',
      stdin: true,
      tty: true,
      env: [
        { name: 'NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
        { name: 'GREETING', value: 'hello $(NAME)' },
        { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
        { name: 'TIER', valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath: "metadata.labels['tier']" } } },
        { name: 'NAME', value: 'later' },
      ],
      resources: { requests: { cpu: '250m', memory: '1Gi' }, limits: { cpu: '1.5', memory: '2Gi' } },
      securityContext: {
        runAsUser: 1000,
        runAsGroup: 1001,
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { add: ['cap_net_admin'], drop: ['ALL'] },
      },
    },
    { securityContext: { supplementalGroups: [5], seccompProfile: { type: 'Localhost', localhostProfile: 'p.json' } } },
    { labels: { tier: 'front' } },
  );
  assert.deepEqual(config, {
    metadata: { name: 'app', attempt: 2 },
    image: 'busybox:1',
    userSpecifiedImage: 'busybox:1',
    command: ['sh', '-c', 'echo hello web $(GREETING) $(UNKNOWN)'],
    args: ['10.88.0.2'],
    workingDir: '/srv',
    env: [
      { key: 'NAME', value: 'later' },
      { key: 'GREETING', value: 'hello web' },
      { key: 'IP', value: '10.88.0.2' },
      { key: 'TIER', value: 'front' },
    ],
    mounts: [],
    devices: [],
    labels: {
      'io.kubernetes.container.name': 'app',
      'io.kubernetes.pod.name': 'web',
      'io.kubernetes.pod.namespace': 'default',
      'io.kubernetes.pod.uid': 'u1',
      'berth.run/uid': 'u1',
    },
    annotations: {},
    logPath: 'app/2.log',
    stdin: true,
    stdinOnce: false,
    tty: true,
    resources: { cpuShares: 256n, cpuPeriod: 100_000n, cpuQuota: 150_000n, memoryLimitBytes: 2n << 30n, oomScoreAdj: 875 },
    security: {
      capabilities: { add: ['NET_ADMIN'], drop: ['ALL'], addAmbient: [] },
      privileged: false,
      namespaces: { network: 'pod', pid: 'container', ipc: 'pod' },
      runAsUser: 1000,
      runAsGroup: 1001,
      readonlyRootfs: true,
      supplementalGroups: [5],
      supplementalGroupsPolicy: 'merge',
      noNewPrivileges: true,
      seccomp: { kind: 'localhost', path: '/var/lib/berth/seccomp/p.json' },
    },
  });
});

test("an AppArmor profile is the container's, else the pod's", () => {
  const pod = { securityContext: { appArmorProfile: { type: 'Localhost', localhostProfile: 'mine' } } };
  assert.deepEqual(configOf({}, pod).security.apparmor, { kind: 'localhost', name: 'mine' });
  assert.deepEqual(configOf({ securityContext: { appArmorProfile: { type: 'Unconfined' } } }, pod).security.apparmor, { kind: 'unconfined' });
  assert.equal(configOf({}).security.apparmor, undefined);
});

test('host namespaces, ports, aliases and DNS reach the sandbox', () => {
  const { podConfig } = planOf({
    shareProcessNamespace: true,
    hostIPC: true,
    hostname: 'other',
    dnsConfig: { nameservers: ['1.1.1.1'], searches: ['lan', 'corp'], options: [{ name: 'ndots', value: '5' }] },
    hostAliases: [{ ip: '127.0.0.1', hostnames: ['a', 'b'] }],
    containers: [
      {
        name: 'app',
        image: 'a',
        ports: [
          { containerPort: 80, hostPort: 8080, hostIP: '127.0.0.1' },
          { containerPort: 53, protocol: 'UDP', name: 'dns' },
        ],
      },
    ],
  });
  assert.deepEqual(podConfig.security.namespaces, { network: 'pod', pid: 'pod', ipc: 'node' });
  assert.deepEqual(podConfig.portMappings, [
    { containerPort: 80, hostPort: 8080, hostIp: '127.0.0.1', protocol: 'tcp' },
    { containerPort: 53, hostPort: 0, protocol: 'udp' },
  ]);
  assert.deepEqual(podConfig.dns, { servers: ['10.0.0.1', '1.1.1.1'], searches: ['lan', 'corp'], options: ['rotate', 'ndots:5'] });
  assert.equal(podConfig.hostname, 'other');
  assert.deepEqual(podConfig.hostAliases, [{ ip: '127.0.0.1', hostnames: ['a', 'b'] }]);
});

test('a pod with users of its own has one range for itself, its containers and its volumes', () => {
  const plan = planOf({ hostUsers: false, volumes: [{ name: 'data' }], containers: [{ name: 'app', image: 'a', volumeMounts: [{ name: 'data', mountPath: '/data' }] }] });
  const { user } = plan.podConfig.security.namespaces;
  const [range] = user?.uids ?? [];
  assert.deepEqual([range?.containerId, range?.size, (range?.hostId ?? 1) % 65_536], [0, 65_536, 0]);
  assert.ok(range !== undefined && range.hostId >= 131_072 && range.hostId + range.size <= 2 ** 31);
  assert.deepEqual(user?.gids, user?.uids);
  assert.deepEqual(plan.containers[0]?.mounts[0]?.idMappings, user);
  assert.equal(planOf({}).podConfig.security.namespaces.user, undefined);
  assert.notDeepEqual(userMappingsOf('another'), user);
  assert.deepEqual(configOf({}, { hostUsers: false }).security.namespaces, plan.podConfig.security.namespaces);
});

test('users of a pod overlap neither those of another one nor what the host lends to its users', () => {
  const plan = planOf({ hostUsers: false, volumes: [{ name: 'data' }], containers: [{ name: 'app', image: 'a', volumeMounts: [{ name: 'data', mountPath: '/data' }] }] });
  const { namespaces } = plan.podConfig.security;
  const first = namespaces.user?.uids[0]?.hostId ?? 0;
  assert.deepEqual(placeUsers(plan, []), plan);
  // Another pod overlaps by its last group alone, the next range is lent to somebody.
  const groups = { uids: [{ containerId: 0, hostId: 0, size: 1 }], gids: [{ containerId: 0, hostId: first - 9, size: 10 }] };
  const lent = parseSubordinateIds(`# lent\nalice:${first + 65_536}:65536\nbad:x:1\nbob:1:2:3\n`);
  assert.deepEqual(lent, [{ first: first + 65_536, count: 65_536 }]);
  const placed = placeUsers({ ...plan, facts: { ...plan.facts, subordinateIds: lent } }, [{ namespaces: { network: 'pod', pid: 'pod', ipc: 'pod', user: groups } }]);
  const range = [{ containerId: 0, hostId: first + 2 * 65_536, size: 65_536 }];
  const user = { uids: range, gids: range };
  const [container] = placed.containers;
  assert.ok(container !== undefined);
  assert.deepEqual(placed.podConfig.security.namespaces, { ...namespaces, user });
  assert.deepEqual(container.mounts[0]?.idMappings, user);
  assert.deepEqual(buildContainerConfig(placed, container, { attempt: 0, podIps: [], image: {} }).security.namespaces.user, user);
  assert.throws(() => userMappingsOf('u1', [{ first: 0, count: 2 ** 32 }]), { code: 'resourceExhausted', message: 'spec.hostUsers: every range of users of the host is taken' });
});

test('with host network there is neither a host name nor a port mapping', () => {
  const { podConfig } = planOf({ hostNetwork: true, hostPID: true, containers: [{ name: 'app', image: 'a', ports: [{ containerPort: 80 }] }] });
  assert.equal(podConfig.hostname, '');
  assert.deepEqual(podConfig.portMappings, []);
  assert.deepEqual(podConfig.security.namespaces, { network: 'node', pid: 'node', ipc: 'pod' });
});

test('dnsPolicy None takes nothing from the host', () => {
  assert.deepEqual(planOf({ dnsPolicy: 'None', dnsConfig: { nameservers: ['9.9.9.9'] } }).podConfig.dns, { servers: ['9.9.9.9'], searches: [], options: [] });
});

test('a long pod name is cut for the host name', () => {
  assert.equal(planOf({}, { name: `${'a'.repeat(62)}.bcd` }).podConfig.hostname, 'a'.repeat(62));
});

test('volumes become host paths and mounts', () => {
  const plan = planOf(
    {
      volumes: [
        { name: 'data' },
        { name: 'fast', emptyDir: { medium: 'Memory' } },
        { name: 'host', hostPath: { path: '/srv', type: 'Directory' } },
        { name: 'conf', configMap: { name: 'm' } },
      ],
      containers: [
        {
          name: 'app',
          image: 'a',
          securityContext: { privileged: true },
          volumeMounts: [
            { name: 'data', mountPath: '/data' },
            { name: 'fast', mountPath: '/fast', readOnly: true },
            { name: 'host', mountPath: '/host', mountPropagation: 'Bidirectional' },
            { name: 'conf', mountPath: '/conf' },
            { name: 'conf', mountPath: '/etc/a', subPath: 'a' },
          ],
        },
      ],
    },
    {},
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'm' }, data: { a: 'A' } },
  );
  assert.deepEqual(
    plan.volumes.map(({ kind, path }) => `${kind} ${path}`),
    ['emptyDir /var/lib/berth/podrun/u1/volumes/data', 'emptyDir /run/berth/podrun/u1/volumes/fast', 'hostPath /srv', 'configMap /var/lib/berth/podrun/u1/volumes/conf'],
  );
  assert.deepEqual(plan.containers[0]?.mounts, [
    { containerPath: '/data', hostPath: '/var/lib/berth/podrun/u1/volumes/data', readonly: false, propagation: 'private' },
    { containerPath: '/fast', hostPath: '/run/berth/podrun/u1/volumes/fast', readonly: true, propagation: 'private' },
    { containerPath: '/host', hostPath: '/srv', readonly: false, propagation: 'bidirectional' },
    { containerPath: '/conf', hostPath: '/var/lib/berth/podrun/u1/volumes/conf', readonly: true, propagation: 'private' },
    { containerPath: '/etc/a', hostPath: '/var/lib/berth/podrun/u1/volumes/conf/a', readonly: true, propagation: 'private' },
  ]);
});

test('an image volume is mounted by the engine, read-only, and fetched like the others', () => {
  const plan = planOf({
    volumes: [{ name: 'models', image: { reference: 'models:1', pullPolicy: 'Always' } }],
    containers: [
      {
        name: 'app',
        image: 'a:1',
        volumeMounts: [
          { name: 'models', mountPath: '/models' },
          { name: 'models', mountPath: '/one', subPath: 'x/y' },
        ],
      },
    ],
  });
  assert.deepEqual(plan.volumes, []);
  assert.deepEqual(plan.images, [
    { name: 'a:1', pullPolicy: 'IfNotPresent' },
    { name: 'models:1', pullPolicy: 'Always' },
  ]);
  const image = { image: 'models:1', userSpecifiedImage: 'models:1' };
  assert.deepEqual(plan.containers[0]?.mounts, [
    { containerPath: '/models', hostPath: '', readonly: true, propagation: 'private', image: { ...image, subPath: '' } },
    { containerPath: '/one', hostPath: '', readonly: true, propagation: 'private', image: { ...image, subPath: 'x/y' } },
  ]);
});

test('each image is fetched once, with the strictest policy', () => {
  const plan = planOf({
    initContainers: [{ name: 'i', image: 'a:1' }],
    containers: [
      { name: 'x', image: 'a:1', imagePullPolicy: 'Always' },
      { name: 'y', image: 'b:1', imagePullPolicy: 'Never' },
    ],
  });
  assert.deepEqual(plan.images, [
    { name: 'a:1', pullPolicy: 'Always' },
    { name: 'b:1', pullPolicy: 'Never' },
  ]);
});

test("a group without a user brings the image's user along", () => {
  assert.deepEqual(pick(configOf({}, { securityContext: { runAsGroup: 7 } }, {}, { uid: 33 })), { runAsUser: 33, runAsGroup: 7 });
  assert.deepEqual(pick(configOf({}, { securityContext: { runAsGroup: 7 } }, {}, { username: 'www-data' })), { runAsUsername: 'www-data', runAsGroup: 7 });
  assert.deepEqual(pick(configOf({}, {}, {}, { uid: 33 })), {});
});

function pick({ security }: ContainerConfig): Json {
  return Object.fromEntries(Object.entries(security).filter(([key]) => key.startsWith('runAs')));
}

test('runAsNonRoot accepts a numeric user of the image and refuses root and names', () => {
  assert.deepEqual(pick(configOf({ securityContext: { runAsNonRoot: true } }, {}, {}, { uid: 33 })), {});
  assert.throws(() => configOf({ securityContext: { runAsNonRoot: true } }, {}, {}, { username: 'www-data' }), {
    code: 'failedPrecondition',
    message: 'create container app: runAsNonRoot is set, but the user "www-data" is not numeric, so it cannot be verified',
  });
  assert.throws(() => configOf({}, { securityContext: { runAsNonRoot: true } }), {
    code: 'failedPrecondition',
    message: 'create container app: runAsNonRoot is set, but the image busybox:1 runs as root',
  });
});

test('a privileged container runs without seccomp filter', () => {
  assert.deepEqual(configOf({ securityContext: { privileged: true } }).security.seccomp, { kind: 'unconfined' });
});

test('quantities are exact and round up', () => {
  const cases: readonly (readonly [string, bigint | undefined])[] = [
    ['500m', 500n],
    ['1', 1000n],
    ['0.1', 100n],
    ['1.0005', 1001n],
    ['1e3', 1_000_000n],
    ['2E', 2n * 10n ** 21n],
    ['1u', 1n],
    ['.5', 500n],
    ['5.', 5000n],
    ['-1', -1000n],
    ['', undefined],
    ['.', undefined],
    ['1mi', undefined],
    ['1 Mi', undefined],
    ['0x10', undefined],
  ];
  for (const [text, milli] of cases) assert.equal(parseQuantity(text, 1000n), milli, text);
  assert.equal(parseQuantity('64Mi', 1n), 64n << 20n);
  assert.equal(parseQuantity('1.5Gi', 1n), 3n << 29n);
  assert.equal(parseQuantity('100M', 1n), 100_000_000n);
});

test('resources become shares, quota and limits as the kubelet computes them', () => {
  assert.equal(cpuSharesOf(0n), 2n);
  assert.equal(cpuSharesOf(1n), 2n);
  assert.equal(cpuSharesOf(1_000_000n), 262_144n);
  assert.equal(cpuQuotaOf(1n), 1000n);
  assert.deepEqual(planResources({ cpuLimitMilli: 500n }), { cpuShares: 512n, cpuPeriod: 100_000n, cpuQuota: 50_000n });
  assert.deepEqual(planResources({ memoryLimitBytes: 5n }), { memoryLimitBytes: 5n });
  assert.deepEqual(planResources({ cpuRequestMilli: 0n }), { cpuShares: 2n });
  assert.deepEqual(planResources({}), {});
});

test('the OOM score follows the quality of service', () => {
  assert.equal(configOf({}).resources?.oomScoreAdj, 1000);
  assert.equal(configOf({ resources: { limits: { cpu: '1', memory: '1Gi' } } }).resources?.oomScoreAdj, -997);
  assert.equal(configOf({ resources: { requests: { cpu: '1' } } }).resources?.oomScoreAdj, 999);
  assert.equal(oomScoreAdjOf({ memoryRequestBytes: 16n }, 'burstable', 16n), 3);
});

test('variables are replaced once and unknown ones stay', () => {
  const variables = new Map([
    ['A', '$(B)'],
    ['B', 'b'],
  ]);
  assert.equal(expandVariables('$(A) $(B) $(C) $$(B) $$$(B) $A $(', variables), '$(B) b $(C) $(B) $b $A $(');
});

test('resolv.conf is read as resolv.conf(5) says', () => {
  assert.deepEqual(parseResolvConf('# c\nnameserver 1.1.1.1 ; x\nsearch a\nsearch b c\noptions ndots:2 rotate\nnameserver ::1\n'), {
    servers: ['1.1.1.1', '::1'],
    searches: ['b', 'c'],
    options: ['ndots:2', 'rotate'],
  });
});
