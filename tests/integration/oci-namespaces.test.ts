/**
 * Namespaces of the OCI runtime: new, joined by path, and left as they are, each kind with the others; what is not possible is refused before anything exists. Joined are those of another container.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, readlinkSync, statSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { type OciDocument, OciHost, skipReason } from './oci-host.ts';

const skip = skipReason();
const files = { pid: 'pid', network: 'net', mount: 'mnt', ipc: 'ipc', uts: 'uts', user: 'user', cgroup: 'cgroup', time: 'time' } as const;
type Kind = keyof typeof files;

/** Gives the document this namespace: at a path, a new one (empty), or that of the runtime. */
function setNamespace(document: OciDocument, type: Kind, path?: string): void {
  document.linux.namespaces = document.linux.namespaces.filter((namespace) => namespace.type !== type);
  if (path !== undefined) document.linux.namespaces.push(path === '' ? { type } : { type, path });
}

/** Everything on the host as it is inside: root stays root. */
const sameIds = [{ containerID: 0, hostID: 0, size: 65_536 }];
function addUsers(document: OciDocument, mappings: readonly object[] = sameIds): void {
  setNamespace(document, 'user', '');
  document.linux['uidMappings'] = mappings;
  document.linux['gidMappings'] = mappings;
}
const namespaceOf = (pid: number | 'self', kind: Kind): string => readlinkSync(`/proc/${pid}/ns/${files[kind]}`);

describe('namespaces', { skip }, () => {
  let host: OciHost;
  /** A container with a namespace of every kind, to be joined. */
  let owner: number;
  before(async () => {
    host = new OciHost();
    const id = await host.start(['sleep', '10000'], (document) => {
      addUsers(document);
      setNamespace(document, 'time', '');
      document['hostname'] = 'owner';
    });
    owner = (await host.state(id)).pid;
  });
  after(async () => host[Symbol.asyncDispose]());

  /** Starts a container that sleeps, and compares each of its namespaces with those of others. */
  async function assertNamespaces(change: (document: OciDocument) => void, expected: Readonly<Record<Kind, 'new' | 'joined' | 'host'>>): Promise<string> {
    const id = await host.start(['sleep', '10000'], change);
    const { pid } = await host.state(id);
    const found = Object.keys(files).map((kind) => {
      // SAFETY: the keys of the literal above.
      const own = namespaceOf(pid, kind as Kind);
      return [kind, own === namespaceOf(owner, kind as Kind) ? 'joined' : own === namespaceOf('self', kind as Kind) ? 'host' : 'new'];
    });
    assert.deepEqual(Object.fromEntries(found), expected);
    return id;
  }

  test('new ones of every kind', async () => {
    const id = await assertNamespaces(
      (document) => {
        addUsers(document);
        setNamespace(document, 'time', '');
      },
      { pid: 'new', network: 'new', mount: 'new', ipc: 'new', uts: 'new', user: 'new', cgroup: 'new', time: 'new' },
    );
    assert.match(await host.ok(['exec', id, 'cat', '/sys/class/net/lo/operstate']), /unknown/, 'loopback is up');
  });

  test("none at all: the mounts are the host's while the container exists, its root is its own, and nothing is left", async () => {
    const id = await assertNamespaces(
      (document) => {
        document.linux.namespaces = [];
        document.mounts = document.mounts.filter(({ type }) => type === 'proc' || type === 'tmpfs');
      },
      { pid: 'host', network: 'host', mount: 'host', ipc: 'host', uts: 'host', user: 'host', cgroup: 'host', time: 'host' },
    );
    const { bundle } = await host.state(id);
    assert.match(readFileSync('/proc/self/mountinfo', 'utf8'), new RegExp(`${String(bundle)}/rootfs/proc `));
    assert.equal(await host.ok(['exec', id, 'ls', '/']), 'bin\ndata\ndev\netc\nproc\nroot\nsrv\nsys\ntmp\n');
    assert.doesNotMatch(await host.ok(['exec', id, 'sh', '-c', 'echo /proc/[0-9]*']), /^\/proc\/1$/, 'processes of the host');
    await host.ok(['delete', '--force', id]);
    assert.doesNotMatch(readFileSync('/proc/self/mountinfo', 'utf8'), new RegExp(String(bundle)));
  });

  for (const kind of ['network', 'ipc', 'uts', 'cgroup', 'time'] as const)
    test(`one of kind ${kind} that is joined`, async () => {
      const others = { pid: 'new', network: 'new', mount: 'new', ipc: 'new', uts: 'new', user: 'host', cgroup: 'new', time: 'host' } as const;
      const id = await assertNamespaces((document) => setNamespace(document, kind, `/proc/${owner}/ns/${files[kind]}`), { ...others, [kind]: 'joined' });
      if (kind === 'uts') assert.equal(await host.ok(['exec', id, 'hostname']), 'owner\n');
    });

  test('a PID namespace by any path: its procfs shows what is in it', async () => {
    // A process of this machine that is in the PID namespace and shares the mounts of the host: only a new procfs can show the namespace.
    const id = await host.start(['sleep', '10000']);
    const { pid } = await host.state(id);
    const script = `mount --bind /proc/${pid}/ns/pid "$0"`;
    const pin = `${host.directory}/pid-namespace`;
    execFileSync('touch', [pin]);
    execFileSync('sh', ['-c', script, pin]);
    try {
      const { status, stdout, stderr } = await host.run(
        ['sh', '-c', 'readlink -f /proc/self >/dev/null; for p in /proc/[0-9]*; do cat $p/cmdline | tr "\\0" " "; echo; done'],
        (document) => setNamespace(document, 'pid', pin),
      );
      assert.equal(status, 0, stderr);
      assert.match(stdout, /^sleep 10000 $/m);
      assert.match(stdout, /^sh -c readlink/m);
      assert.ok(stdout.split('\n').length < 10, stdout);
    } finally {
      execFileSync('umount', [pin]);
    }
  });

  test('a mount namespace that is joined gets the root of the container', async () => {
    const id = await host.start(['sleep', '10000']);
    const target = (await host.state(id)).pid;
    const join = (document: OciDocument): void => setNamespace(document, 'mount', `/proc/${target}/ns/mnt`);
    // The root is looked for at its path in that namespace.
    assert.match((await host.run(['true'], join)).stderr, /\/root: attach the mount of slot \d+ at \/run\/berth-oci-test-[^ ]+\/rootfs: ENOENT/);
    const bundle = host.makeBundle(['sh', '-c', 'readlink /proc/self/ns/mnt; ls /'], join);
    execFileSync('mkdir', ['-p', `/proc/${target}/root${bundle}/rootfs`]);
    const wanted = namespaceOf(target, 'mount');
    const { status, stdout, stderr } = await host.call(['run', '--bundle', bundle, host.newId()]);
    assert.equal(status, 0, stderr);
    assert.equal(stdout, `${wanted}\nbin\ndata\ndev\netc\nproc\nroot\nsrv\nsys\ntmp\n`);
  });

  test('a user namespace that is joined, with its mapping found out, and processes that follow', async () => {
    const path = `/proc/${owner}/ns/user`;
    const id = await assertNamespaces((document) => setNamespace(document, 'user', path), {
      pid: 'new',
      network: 'new',
      mount: 'new',
      ipc: 'new',
      uts: 'new',
      user: 'joined',
      cgroup: 'new',
      time: 'host',
    });
    assert.match(await host.ok(['exec', id, 'cat', '/proc/self/uid_map']), /^\s+0\s+0\s+65536$/m);
    // Callers give the mapping too; another one is a mistake.
    const both = (hostID: number) => (document: OciDocument) => {
      addUsers(document, [{ containerID: 0, hostID, size: 65_536 }]);
      setNamespace(document, 'user', path);
    };
    assert.equal((await host.run(['true'], both(0))).status, 0);
    assert.match((await host.run(['true'], both(100_000))).stderr, /linux\.uidMappings: differ from those of the user namespace that is joined/);
  });

  test('a user namespace beside the PID or network namespace of the host', async () => {
    for (const kind of ['pid', 'network'] as const) {
      const { status, stdout, stderr } = await host.run(
        ['sh', '-c', 'cat /proc/self/uid_map; test -d /sys/kernel && for n in net pid; do readlink /proc/self/ns/$n; done && test -e /proc/1/comm'],
        (document) => {
          addUsers(document, [{ containerID: 0, hostID: 100_000, size: 65_536 }]);
          setNamespace(document, kind);
        },
      );
      assert.equal(status, 0, stderr);
      assert.match(stdout, /^\s+0\s+100000\s+65536$/m);
      assert.ok(stdout.includes(`${namespaceOf('self', kind)}\n`), stdout);
    }
  });

  test('clocks that are shifted', async () => {
    const { status, stdout, stderr } = await host.run(['sh', '-c', 'cat /proc/self/timens_offsets /proc/uptime'], (document) => {
      setNamespace(document, 'time', '');
      document.linux['timeOffsets'] = { boottime: { secs: 864_000 }, monotonic: { secs: 5, nanosecs: 7 } };
    });
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^monotonic +5 +7\nboottime +864000 +0\n/);
    assert.ok(Number(stdout.split('\n')[2]?.split(' ')[0]) > 864_000, stdout);
    // With a user namespace, and for processes that follow.
    const id = await host.start(['sleep', '10000'], (document) => {
      addUsers(document);
      setNamespace(document, 'time', '');
      document.linux['timeOffsets'] = { boottime: { secs: 864_000 } };
    });
    assert.match(await host.ok(['exec', id, 'cat', '/proc/self/timens_offsets']), /^boottime +864000 +0$/m);
  });

  test('names of the host and of the NIS domain', async () => {
    const { stdout, stderr } = await host.run(['sh', '-c', 'cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname'], (document) => {
      document['hostname'] = 'inside';
      document['domainname'] = 'example.org';
    });
    assert.equal(stdout, 'inside\nexample.org\n', stderr);
  });

  const refusals: readonly (readonly [what: string, change: (document: OciDocument) => void, message: RegExp])[] = [
    ['a file of another kind', (document) => setNamespace(document, 'ipc', '/proc/self/ns/net'), /\/linux\/namespaces\/5: enter the ipc namespace of slot \d+: EINVAL/],
    ['a path that leads nowhere', (document) => setNamespace(document, 'network', '/proc/0/ns/net'), /\/linux\/namespaces\/5: open \/proc\/0\/ns\/net .*: ENOENT/],
    ['a user namespace that leads nowhere', (document) => setNamespace(document, 'user', '/proc/0/ns/user'), /\/proc\/0\/ns\/user/],
    ['a user namespace without mappings', (document) => setNamespace(document, 'user', ''), /linux\.uidMappings: required with a user namespace/],
    ['mappings without a user namespace', (document) => (document.linux['uidMappings'] = sameIds), /linux\.uidMappings: needs a user namespace/],
    [
      'a user namespace with the mounts of the host',
      (document) => {
        addUsers(document);
        setNamespace(document, 'mount');
      },
      /linux\.namespaces\[\d\]: not supported \(a user namespace without a mount namespace of its own\)/,
    ],
    ['offsets without a time namespace', (document) => (document.linux['timeOffsets'] = { boottime: { secs: 1 } }), /linux\.timeOffsets: needs a time namespace/],
    [
      'offsets for clocks that others see',
      (document) => {
        setNamespace(document, 'time', '/proc/self/ns/time');
        document.linux['timeOffsets'] = { boottime: { secs: 1 } };
      },
      /linux\.timeOffsets: the clocks of linux\.namespaces\[\d\]\.path cannot be shifted any more/,
    ],
    [
      'a host name without a uts namespace',
      (document) => {
        setNamespace(document, 'uts');
        document['hostname'] = 'x';
      },
      /hostname: needs a uts namespace/,
    ],
  ];
  for (const [what, change, message] of refusals)
    test(`refuses ${what}, and leaves nothing`, async () => {
      const bundle = host.makeBundle(['true'], change);
      const id = host.newId();
      assert.match(await host.fails(['create', '--bundle', bundle, id]), message);
      assert.match(await host.fails(['state', id]), /does not exist/);
      assert.throws(() => statSync(`${host.stateRoot}/${id}`), { code: 'ENOENT' });
    });
});
