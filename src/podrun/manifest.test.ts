/** What a manifest may say, and the refusal of everything else with its path. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RuntimeError } from '#core';
import { decodeManifest } from './manifest.ts';
import type { PodManifest } from './manifest-types.ts';
import { editDistance, fieldNamesOf } from './schema.ts';

type Json = Readonly<Record<string, unknown>>;

const app: Json = { name: 'app', image: 'busybox:1' };

function pod(spec: Json, metadata: Json = {}): Json {
  return { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'web', ...metadata }, spec: { containers: [app], ...spec } };
}

function decode(spec: Json, ...others: readonly unknown[]): PodManifest {
  return decodeManifest([pod(spec), ...others]);
}

function refusal(documents: readonly unknown[]): string {
  try {
    decodeManifest(documents);
  } catch (error) {
    assert.ok(error instanceof RuntimeError);
    assert.equal(error.code, 'invalidArgument');
    return error.message;
  }
  return assert.fail('the manifest was accepted');
}

const specRefusal = (spec: Json): string => refusal([pod(spec)]);
const containerRefusal = (fields: Json): string => specRefusal({ containers: [{ ...app, ...fields }] });

test('a minimal pod gets the defaults of Kubernetes', () => {
  const manifest = decode({});
  assert.equal(manifest.namespace, 'default');
  assert.equal(manifest.restartPolicy, 'Always');
  assert.equal(manifest.terminationGracePeriodSeconds, 30);
  assert.equal(manifest.containers[0]?.imagePullPolicy, 'IfNotPresent');
  assert.equal(manifest.dnsPolicy, 'host');
});

test('the default pull policy follows the tag, and images made on this host are never pulled', () => {
  const policies = ['busybox', 'busybox:latest', 'busybox:1', `busybox@sha256:${'a'.repeat(64)}`, 'localhost/app:latest', 'localhost:5000/app', 'a'.repeat(64)].map(
    (image) => decode({ containers: [{ name: 'app', image }] }).containers[0]?.imagePullPolicy,
  );
  assert.deepEqual(policies, ['Always', 'Always', 'IfNotPresent', 'IfNotPresent', 'Never', 'Always', 'Never']);
});

const supportedFields = {
  PodSpec: [
    'containers',
    'initContainers',
    'volumes',
    'restartPolicy',
    'terminationGracePeriodSeconds',
    'securityContext',
    'hostNetwork',
    'hostPID',
    'hostIPC',
    'hostUsers',
    'shareProcessNamespace',
    'dnsPolicy',
    'dnsConfig',
    'hostAliases',
    'hostname',
  ],
  Container: [
    'name',
    'image',
    'imagePullPolicy',
    'command',
    'args',
    'workingDir',
    'env',
    'resources',
    'securityContext',
    'volumeMounts',
    'ports',
    'stdin',
    'stdinOnce',
    'tty',
    'restartPolicy',
  ],
  PodSecurityContext: ['runAsUser', 'runAsGroup', 'runAsNonRoot', 'supplementalGroups', 'supplementalGroupsPolicy', 'seccompProfile', 'appArmorProfile', 'sysctls'],
  SecurityContext: [
    'runAsUser',
    'runAsGroup',
    'runAsNonRoot',
    'privileged',
    'capabilities',
    'readOnlyRootFilesystem',
    'allowPrivilegeEscalation',
    'seccompProfile',
    'appArmorProfile',
  ],
  Volume: ['name', 'emptyDir', 'hostPath', 'configMap', 'image'],
  ObjectMeta: ['name', 'namespace', 'uid', 'labels', 'annotations'],
  VolumeMount: ['name', 'mountPath', 'readOnly', 'subPath', 'mountPropagation'],
  ContainerPort: ['containerPort', 'hostPort', 'hostIP', 'protocol', 'name'],
} as const;

/** Builds a pod with one field of an object set, and the path that must be in the refusal. */
const places: Readonly<Record<keyof typeof supportedFields, (field: string) => readonly [Json, string]>> = {
  PodSpec: (field) => [pod({ [field]: {} }), `spec.${field}`],
  Container: (field) => [pod({ containers: [{ ...app, [field]: {} }] }), `spec.containers[0].${field}`],
  PodSecurityContext: (field) => [pod({ securityContext: { [field]: {} } }), `spec.securityContext.${field}`],
  SecurityContext: (field) => [pod({ containers: [{ ...app, securityContext: { [field]: {} } }] }), `spec.containers[0].securityContext.${field}`],
  Volume: (field) => [pod({ volumes: [{ name: 'v', [field]: {} }] }), `spec.volumes[0].${field}`],
  ObjectMeta: (field) => [pod({}, { [field]: 'x' }), `metadata.${field}`],
  VolumeMount: (field) => [pod({ containers: [{ ...app, volumeMounts: [{ name: 'v', mountPath: '/v', [field]: 'x' }] }] }), `spec.containers[0].volumeMounts[0].${field}`],
  ContainerPort: (field) => [pod({ containers: [{ ...app, ports: [{ containerPort: 80, [field]: 'x' }] }] }), `spec.containers[0].ports[0].${field}`],
};

for (const [kind, supported] of Object.entries(supportedFields) as [keyof typeof supportedFields, readonly string[]][]) {
  test(`every other field of ${kind} is refused with its path`, () => {
    const refused = fieldNamesOf(kind).filter((field) => !supported.includes(field));
    for (const field of refused) {
      const [document, path] = places[kind](field);
      assert.match(refusal([document]), new RegExp(`^${path.replaceAll(/[[\].]/g, '\\$&')}: not supported(: .+)?$`));
    }
  });
}

test('a field that is null counts as absent, as kubectl writes creationTimestamp', () => {
  assert.equal(decodeManifest([pod({ affinity: null }, { creationTimestamp: null })]).name, 'web');
});

test('unknown fields are refused with the nearest known name', () => {
  assert.equal(containerRefusal({ comand: ['x'] }), 'spec.containers[0].comand: unknown field, did you mean command?');
  assert.equal(specRefusal({ hostNetwrok: true }), 'spec.hostNetwrok: unknown field, did you mean hostNetwork?');
  assert.equal(specRefusal({ zzzzzz: 1 }), 'spec.zzzzzz: unknown field');
  assert.equal(refusal([{ ...pod({}), __proto_: 1 }]), '__proto_: unknown field');
  assert.equal(editDistance('abdc', 'abcd'), 1);
});

const containerCases: readonly (readonly [Json, string])[] = [
  [{ name: undefined }, 'spec.containers[0].name: required'],
  [{ name: 'A' }, 'spec.containers[0].name: "A" must be at most 63 lower-case letters, digits or "-", and start and end with a letter or digit'],
  [{ image: 'Bad Image' }, 'spec.containers[0].image: image reference "Bad Image": repository must be lower case'],
  [{ imagePullPolicy: 'Sometimes' }, 'spec.containers[0].imagePullPolicy: unknown pull policy "Sometimes" (Always, IfNotPresent, Never)'],
  [{ restartPolicy: 'Always' }, 'spec.containers[0].restartPolicy: not supported: only the pod and its init containers have one'],
  [{ command: 'sh' }, 'spec.containers[0].command: must be an array, not string'],
  [{ args: ['a', 1] }, 'spec.containers[0].args[1]: must be a string, not number'],
  [{ workingDir: 'x' }, 'spec.containers[0].workingDir: must be an absolute path, not "x"'],
  [{ env: [{ name: 'A=B' }] }, 'spec.containers[0].env[0].name: "A=B" must be printable ASCII without "="'],
  [{ env: [{ name: 'A', value: 1 }] }, 'spec.containers[0].env[0].value: must be a string, not number'],
  [{ env: [{ name: 'A', valueFrom: { secretKeyRef: {} } }] }, 'spec.containers[0].env[0].valueFrom.secretKeyRef: not supported'],
  [
    { env: [{ name: 'A', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } }] },
    "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: \"spec.nodeName\" is not supported (metadata.name, metadata.namespace, metadata.uid, status.podIP, status.podIPs, metadata.labels['KEY'], metadata.annotations['KEY'])",
  ],
  [{ env: [{ name: 'A', value: 'x', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }] }, 'spec.containers[0].env[0].valueFrom: cannot be set beside value'],
  [{ resources: { limits: { cpu: 'x' } } }, 'spec.containers[0].resources.limits.cpu: "x" is no quantity, such as 500m or 64Mi'],
  [{ resources: { limits: { memory: '-1' } } }, 'spec.containers[0].resources.limits.memory: -1 must not be negative'],
  [{ resources: { limits: { cpu: 1 }, requests: { cpu: 2 } } }, 'spec.containers[0].resources.requests.cpu: must not be greater than the limit'],
  [{ resources: { limits: { 'nvidia.com/gpu': 1 } } }, 'spec.containers[0].resources.limits["nvidia.com/gpu"]: not supported: only cpu and memory have limits'],
  [{ resources: { limits: { memroy: 1 } } }, 'spec.containers[0].resources.limits.memroy: unknown resource, did you mean memory?'],
  [{ resources: { claims: [] } }, 'spec.containers[0].resources.claims: not supported'],
  [{ securityContext: { runAsUser: 4294967295 } }, 'spec.containers[0].securityContext.runAsUser: 4294967295 is outside 0 to 4294967294'],
  [{ securityContext: { runAsUser: '0' } }, 'spec.containers[0].securityContext.runAsUser: must be a number, not string'],
  [{ securityContext: { runAsUser: 0, runAsNonRoot: true } }, 'spec.containers[0].securityContext.runAsUser: is 0 although runAsNonRoot is set'],
  [{ securityContext: { capabilities: { add: ['NET_ADMN'] } } }, 'spec.containers[0].securityContext.capabilities.add[0]: unknown capability "NET_ADMN", did you mean NET_ADMIN?'],
  [
    { securityContext: { privileged: true, allowPrivilegeEscalation: false } },
    'spec.containers[0].securityContext.allowPrivilegeEscalation: cannot be false with privileged: true',
  ],
  [{ securityContext: { appArmorProfile: { type: 'Localhost' } } }, 'spec.containers[0].securityContext.appArmorProfile.localhostProfile: required with type Localhost'],
  [
    { securityContext: { appArmorProfile: { type: 'Localhost', localhostProfile: 'a b' } } },
    'spec.containers[0].securityContext.appArmorProfile.localhostProfile: "a b" is no name of a profile',
  ],
  [{ securityContext: { seccompProfile: { type: 'Localhost' } } }, 'spec.containers[0].securityContext.seccompProfile.localhostProfile: required with type Localhost'],
  [
    { securityContext: { seccompProfile: { type: 'Localhost', localhostProfile: '../x' } } },
    'spec.containers[0].securityContext.seccompProfile.localhostProfile: "../x" must be a relative path without ".."',
  ],
  [{ volumeMounts: [{ name: 'v', mountPath: '/v' }] }, 'spec.containers[0].volumeMounts[0].name: no volume "v" in spec.volumes'],
  [{ volumeMounts: [{ name: 'v', mountPath: 'v' }] }, 'spec.containers[0].volumeMounts[0].mountPath: must be an absolute path, not "v"'],
  [{ volumeMounts: [{ name: 'v', mountPath: '/' }] }, 'spec.containers[0].volumeMounts[0].mountPath: must not be the root'],
  [
    {
      volumeMounts: [
        { name: 'v', mountPath: '/a' },
        { name: 'w', mountPath: '/a/' },
      ],
    },
    'spec.containers[0].volumeMounts[1].mountPath: "/a" is mounted twice',
  ],
  [
    { volumeMounts: [{ name: 'v', mountPath: '/a', mountPropagation: 'Bidirectional' }] },
    'spec.containers[0].volumeMounts[0].mountPropagation: Bidirectional needs securityContext.privileged: true',
  ],
  [{ ports: [{ containerPort: 0 }] }, 'spec.containers[0].ports[0].containerPort: 0 is outside 1 to 65535'],
  [{ ports: [{ containerPort: 80, hostIP: '1.2.3' }] }, 'spec.containers[0].ports[0].hostIP: "1.2.3" is no IP address'],
  [
    {
      ports: [
        { containerPort: 80, hostPort: 80 },
        { containerPort: 81, hostPort: 80, hostIP: '127.0.0.1' },
      ],
    },
    'spec.containers[0].ports[1].hostPort: 80/tcp is taken by spec.containers[0].ports[0].hostPort already',
  ],
  [
    {
      ports: [
        { containerPort: 80, hostPort: 80, hostIP: '127.0.0.1' },
        { containerPort: 81, hostPort: 80 },
      ],
    },
    'spec.containers[0].ports[1].hostPort: 80/tcp is taken by spec.containers[0].ports[0].hostPort already',
  ],
];

for (const [fields, message] of containerCases) test(`container ${JSON.stringify(fields)} is refused`, () => assert.equal(containerRefusal(fields), message));

const specCases: readonly (readonly [Json, string])[] = [
  [{ containers: [] }, 'spec.containers: must have at least one container'],
  [{ containers: [app, app] }, 'spec.containers[1].name: "app" names spec.containers[0] too; container names must differ'],
  [{ initContainers: [app] }, 'spec.containers[0].name: "app" names spec.initContainers[0] too; container names must differ'],
  [{ initContainers: [{ name: 'i', image: 'a', restartPolicy: 'Never' }] }, 'spec.initContainers[0].restartPolicy: unknown restart policy of an init container "Never" (Always)'],
  [{ restartPolicy: 'never' }, 'spec.restartPolicy: unknown restart policy "never" (Always, OnFailure, Never)'],
  [{ terminationGracePeriodSeconds: -1 }, 'spec.terminationGracePeriodSeconds: -1 is outside 0 to 31536000'],
  [{ hostNetwork: 'yes' }, 'spec.hostNetwork: must be true or false, not string'],
  [{ hostPID: true, shareProcessNamespace: true }, 'spec.shareProcessNamespace: cannot be set with hostPID'],
  [{ hostPID: true, hostUsers: false }, 'spec.hostUsers: cannot be false with hostPID'],
  [{ hostIPC: true, hostUsers: false }, 'spec.hostUsers: cannot be false with hostIPC'],
  [
    { hostNetwork: true, containers: [{ ...app, ports: [{ containerPort: 80, hostPort: 81 }] }] },
    'spec.containers[0].ports[0].hostPort: must be the containerPort 80 with hostNetwork',
  ],
  [
    { hostNetwork: true, securityContext: { sysctls: [{ name: 'net.core.somaxconn', value: '1' }] } },
    'spec.securityContext.sysctls["net.core.somaxconn"]: would change the host, as hostNetwork is set',
  ],
  [
    { hostIPC: true, securityContext: { sysctls: [{ name: 'kernel.shmmax', value: '1' }] } },
    'spec.securityContext.sysctls["kernel.shmmax"]: would change the host, as hostIPC is set',
  ],
  [{ securityContext: { sysctls: [{ name: 'kernel.shm+x', value: '1' }] } }, 'spec.securityContext.sysctls[0].name: "kernel.shm+x" is no sysctl name'],
  [
    { securityContext: { sysctls: [{ name: 'kernel.sem', value: '1\nkernel.core_pattern=|/x' }] } },
    'spec.securityContext.sysctls[0].value: must be one line of printable characters',
  ],
  [
    {
      securityContext: {
        sysctls: [
          { name: 'kernel.sem', value: '1' },
          { name: 'kernel/sem', value: '2' },
        ],
      },
    },
    'spec.securityContext.sysctls[1].name: "kernel.sem" is set twice',
  ],
  [{ securityContext: { fsGroup: 1 } }, 'spec.securityContext.fsGroup: not supported: volumes keep their own group; use supplementalGroups or runAsGroup'],
  [{ dnsPolicy: 'None' }, 'spec.dnsConfig.nameservers: at least one is required with dnsPolicy: None'],
  [{ dnsConfig: { nameservers: ['1.1.1.1', '1.1.1.1', '1.1.1.1', '1.1.1.1'] } }, 'spec.dnsConfig.nameservers: 4 items, at most 3'],
  [{ dnsConfig: { options: [{ name: 'a b' }] } }, 'spec.dnsConfig.options[0].name: "a b" must be one word'],
  [{ hostAliases: [{ ip: '::g' }] }, 'spec.hostAliases[0].ip: "::g" is no IP address'],
  [{ hostname: 'a.b' }, 'spec.hostname: "a.b" must be at most 63 lower-case letters, digits or "-", and start and end with a letter or digit'],
  [{ volumes: [{ name: 'v' }, { name: 'v' }] }, 'spec.volumes[1].name: "v" names spec.volumes[0] too; volume names must differ'],
  [{ volumes: [{ name: 'v', emptyDir: {}, hostPath: { path: '/x' } }] }, 'spec.volumes[0]: has more than one source'],
  [{ volumes: [{ name: 'v', emptyDir: { sizeLimit: '1Gi' } }] }, 'spec.volumes[0].emptyDir.sizeLimit: not supported: nothing here would enforce it'],
  [{ volumes: [{ name: 'v', emptyDir: { medium: 'HugePages' } }] }, 'spec.volumes[0].emptyDir.medium: unknown medium "HugePages" (, Memory)'],
  [{ volumes: [{ name: 'v', hostPath: { path: '/a/../b' } }] }, 'spec.volumes[0].hostPath.path: must not contain "..", found "/a/../b"'],
  [
    { volumes: [{ name: 'v', hostPath: { path: '/a', type: 'Dir' } }] },
    'spec.volumes[0].hostPath.type: unknown host path type "Dir" (, DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice)',
  ],
  [{ volumes: [{ name: 'v', image: {} }] }, 'spec.volumes[0].image.reference: required'],
  [{ volumes: [{ name: 'v', image: { reference: 'Bad Image' } }] }, 'spec.volumes[0].image.reference: image reference "Bad Image": repository must be lower case'],
  [{ volumes: [{ name: 'v', image: { reference: 'a', pullPolicy: 'Maybe' } }] }, 'spec.volumes[0].image.pullPolicy: unknown pull policy "Maybe" (Always, IfNotPresent, Never)'],
  [{ volumes: [{ name: 'v', image: { reference: 'a', refrence: 'b' } }] }, 'spec.volumes[0].image.refrence: unknown field, did you mean reference?'],
  [
    { volumes: [{ name: 'v', image: { reference: 'a' } }], containers: [{ ...app, volumeMounts: [{ name: 'v', mountPath: '/v', mountPropagation: 'HostToContainer' }] }] },
    'spec.containers[0].volumeMounts[0].mountPropagation: must be None for an image volume',
  ],
  [
    { volumes: [{ name: 'v', image: { reference: 'a' } }], containers: [{ ...app, volumeMounts: [{ name: 'v', mountPath: '/v', subPath: '../x' }] }] },
    'spec.containers[0].volumeMounts[0].subPath: "../x" must be a relative path without ".."',
  ],
  [{ volumes: [{ name: 'v', configMap: { name: 'm' } }] }, 'spec.volumes[0].configMap.name: no ConfigMap "m" in this file'],
  [
    { volumes: [{ name: 'v', emptyDir: {} }], containers: [{ ...app, volumeMounts: [{ name: 'v', mountPath: '/v', subPath: 'x' }] }] },
    'spec.containers[0].volumeMounts[0].subPath: not supported: only files of configMap volumes and parts of images can be mounted alone',
  ],
];

for (const [spec, message] of specCases) test(`spec ${JSON.stringify(spec)} is refused`, () => assert.equal(specRefusal(spec), message));

test('documents other than one Pod and ConfigMaps are refused', () => {
  assert.equal(refusal([]), 'no Pod in this file');
  assert.equal(refusal([pod({}), pod({})]), '2 Pods in this file, at most one');
  assert.equal(refusal([{ apiVersion: 'apps/v1', kind: 'Deployment' }]), 'kind: "Deployment" is not supported (Pod, ConfigMap)');
  assert.equal(refusal(['text']), 'document: must be an object, not string');
  assert.equal(refusal([{ ...pod({}), apiVersion: 'v2' }]), 'apiVersion: unknown API version of a Pod "v2" (v1)');
  assert.equal(refusal([{ ...pod({}), status: {} }]), 'status: not supported');
  assert.equal(refusal([pod({}, { uid: '../x' })]), 'metadata.uid: "../x" may have letters, digits, "_", "." and "-", at most 128');
});

const configMap = (fields: Json): Json => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'm' }, ...fields });
const volume = (source: Json): Json => ({ volumes: [{ name: 'v', configMap: { name: 'm', ...source } }] });

test('a configMap volume has the files of its ConfigMap with their modes', () => {
  const document = configMap({ data: { 'a.txt': 'A' }, binaryData: { b: 'AAE=' } });
  const all = decode(volume({}), document).volumes[0];
  assert.deepEqual(all?.kind === 'configMap' ? all.files.map(({ path, mode, content }) => [path, mode, [...content]]) : undefined, [
    ['a.txt', 0o644, [65]],
    ['b', 0o644, [0, 1]],
  ]);
  const items = decode(
    volume({
      defaultMode: 0o600,
      items: [
        { key: 'a.txt', path: 'x/y' },
        { key: 'b', path: 'z', mode: 0o400 },
      ],
    }),
    document,
  ).volumes[0];
  assert.deepEqual(items?.kind === 'configMap' ? items.files.map(({ path, mode }) => [path, mode]) : undefined, [
    ['x/y', 0o600],
    ['z', 0o400],
  ]);
});

test('bad ConfigMaps and items are refused with their path', () => {
  assert.equal(refusal([pod({}), configMap({ data: { '../x': 'A' } })]), 'ConfigMap.data["../x"]: a key may have letters, digits, "-", "_" and ".", and must not start with ".."');
  assert.equal(refusal([pod({}), configMap({ data: { a: 'A' }, binaryData: { a: 'AAE=' } })]), 'ConfigMap.binaryData.a: is in data too');
  assert.equal(refusal([pod({}), configMap({ binaryData: { a: '*' } })]), 'ConfigMap.binaryData.a: is not base64');
  assert.equal(refusal([pod({}), configMap({ data: { a: 'x'.repeat(1024 * 1024 + 1) } })]), 'ConfigMap.data.a: the files together are larger than 1048576 bytes');
  assert.equal(refusal([pod({}), configMap({}), configMap({})]), 'ConfigMap.metadata.name: "m" is there twice');
  assert.equal(
    refusal([pod(volume({ items: [{ key: 'a', path: '../x' }] })), configMap({ data: { a: 'A' } })]),
    'spec.volumes[0].configMap.items[0].path: "../x" must be a relative path without ".."',
  );
  assert.equal(
    refusal([pod(volume({ items: [{ key: 'b', path: 'x' }] })), configMap({ data: { a: 'A' } })]),
    'spec.volumes[0].configMap.items[0].key: the ConfigMap "m" has no key "b"',
  );
  assert.equal(
    refusal([
      pod(
        volume({
          items: [
            { key: 'a', path: 'x' },
            { key: 'a', path: 'x/y' },
          ],
        }),
      ),
      configMap({ data: { a: 'A' } }),
    ]),
    'spec.volumes[0].configMap.items: "x" and "x/y" cannot both be files',
  );
});

test('an optional ConfigMap or key may be missing', () => {
  const absent = decode(volume({ optional: true })).volumes[0];
  assert.deepEqual(absent?.kind === 'configMap' ? absent.files : undefined, []);
});

test('the keys of labels are data, also __proto__', () => {
  const labels = JSON.parse('{"__proto__": "x", "a": "b"}') as unknown;
  assert.deepEqual(Object.entries(decodeManifest([pod({}, { labels })]).labels), [
    ['__proto__', 'x'],
    ['a', 'b'],
  ]);
});
