/**
 * What else a document says of a container and its processes: scheduling, memory, personality, network devices, device nodes, kernel parameters, Intel RDT. What a host cannot do is refused with its place in the
 * document, and nothing is left.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { type OciDocument, OciHost, runtimePrograms, skipReason } from './oci-host.ts';

const skip = skipReason();
const ip = ['/usr/sbin/ip', '/sbin/ip', '/usr/bin/ip', '/bin/ip'].find((path) => existsSync(path));
const sameIds = [{ containerID: 0, hostID: 0, size: 65_536 }];
function addUsers(document: OciDocument): void {
  document.linux.namespaces.push({ type: 'user' });
  Object.assign(document.linux, { uidMappings: sameIds, gidMappings: sameIds });
}
const inProcess = (fields: object) => (document: OciDocument) => void Object.assign(document.process, fields);
const inLinux = (fields: object) => (document: OciDocument) => void Object.assign(document.linux, fields);

describe('processes and the rest of a document', { skip }, () => {
  let host: OciHost;
  before(() => {
    host = new OciHost();
  });
  after(async () => host[Symbol.asyncDispose]());

  /** What a script prints in a container of its own. */
  async function output(script: string, ...changes: readonly ((document: OciDocument) => void)[]): Promise<string> {
    const { status, stdout, stderr } = await host.run(['sh', '-c', script], (document) => {
      for (const change of changes) change(document);
    });
    assert.equal(status, 0, stderr + stdout);
    return stdout;
  }
  /** Runs a process document in a container. */
  async function exec(id: string, args: readonly string[], fields: object): Promise<string> {
    const path = `${host.directory}/process.json`;
    writeFileSync(path, JSON.stringify({ args, cwd: '/', env: ['PATH=/bin'], ...fields }));
    return host.ok(['exec', '--process', path, id]);
  }
  /** Policy and nice value: fields 41 and 19 of proc_pid_stat(5); the name of this process has no space. */
  const scheduled = 'set -- $(cat /proc/self/stat); shift 18; echo nice $1; shift 22; echo policy $1';

  test('schedulers, of the first process and of those that follow, with and without a user namespace', async () => {
    assert.equal(await output(scheduled), 'nice 0\npolicy 0\n');
    assert.equal(await output(scheduled, inProcess({ scheduler: { policy: 'SCHED_BATCH', nice: 5 } })), 'nice 5\npolicy 3\n');
    assert.equal(await output(scheduled, inProcess({ scheduler: { policy: 'SCHED_OTHER', nice: -5 } }), addUsers), 'nice -5\npolicy 0\n');
    assert.equal(await output(scheduled, inProcess({ scheduler: { policy: 'SCHED_IDLE' } }), addUsers), 'nice 0\npolicy 5\n');
    const deadline = { policy: 'SCHED_DEADLINE', runtime: 10_000_000, deadline: 30_000_000, period: 30_000_000, flags: ['SCHED_FLAG_RESET_ON_FORK'] };
    const { status, stdout, stderr } = await host.run(['cat', '/proc/self/stat'], inProcess({ scheduler: deadline }));
    assert.equal(status, 0, stderr);
    assert.equal(stdout.split(' ')[40], '6');
    const id = await host.start(['sleep', '10000']);
    // The shell forks for `cat`: a process that resets on a fork has children with policy 0.
    assert.equal(await exec(id, ['sh', '-c', scheduled], { scheduler: { policy: 'SCHED_BATCH', nice: 3 } }), 'nice 3\npolicy 3\n');
    const own = (await exec(id, ['cat', '/proc/self/stat'], { scheduler: { policy: 'SCHED_BATCH', nice: 3, flags: ['SCHED_FLAG_RESET_ON_FORK'] } })).split(' ');
    assert.deepEqual([own[18], own[40]], ['3', '3']);
    writeFileSync(`${host.directory}/process.json`, JSON.stringify({ args: ['true'], cwd: '/', scheduler: deadline }));
    assert.match(
      await host.fails(['exec', '--process', `${host.directory}/process.json`, id], 255),
      /process\.scheduler\.policy: not supported \(SCHED_DEADLINE in a PID namespace that is joined/,
    );
  });

  test('I/O priority', async () => {
    const priority = async (fields: object, ...more: readonly ((document: OciDocument) => void)[]): Promise<string> => {
      const id = await host.start(['sleep', '10000'], (document) => {
        for (const change of [inProcess(fields), ...more]) change(document);
      });
      return execFileSync('ionice', ['-p', String((await host.state(id)).pid)], { encoding: 'utf8' }).trim();
    };
    assert.equal(await priority({ ioPriority: { class: 'IOPRIO_CLASS_IDLE' } }), 'idle');
    assert.equal(await priority({ ioPriority: { class: 'IOPRIO_CLASS_BE', priority: 6 } }), 'best-effort: prio 6');
    assert.equal(await priority({ ioPriority: { class: 'IOPRIO_CLASS_RT', priority: 2 } }, addUsers), 'realtime: prio 2');
  });

  test('the CPUs of an exec', async () => {
    const id = await host.start(['sleep', '10000']);
    const list = ['grep', 'Cpus_allowed_list', '/proc/self/status'];
    const all = await exec(id, list, {});
    // Before Linux 6.2 a process that enters a group gets all CPUs of the group again.
    assert.ok(['Cpus_allowed_list:\t0\n', all].includes(await exec(id, list, { execCPUAffinity: { initial: '0' } })));
    assert.equal(await exec(id, list, { execCPUAffinity: { final: '0' } }), 'Cpus_allowed_list:\t0\n');
    if (!/:\t0$/m.test(all)) assert.equal(await exec(id, list, { execCPUAffinity: { initial: '0', final: '1' } }), 'Cpus_allowed_list:\t1\n');
    writeFileSync(`${host.directory}/process.json`, JSON.stringify({ args: ['true'], cwd: '/', execCPUAffinity: { final: '9999' } }));
    assert.match(await host.fails(['exec', '--process', `${host.directory}/process.json`, id], 255), /\/process\/execCPUAffinity\/final: run on the CPUs 9999: EINVAL/);
  });

  test('CPUs that the caller is bound to are no matter of the container', async () => {
    const list = ['grep', 'Cpus_allowed_list', '/proc/self/status'];
    const all = (await host.run(list)).stdout;
    assert.match(all, /^Cpus_allowed_list:\t0/);
    const env = { PATH: process.env['PATH'], BERTH_OCI_ENGINE: 'none' };
    const bound = ['-c', '0', runtimePrograms.berth, '--root', host.stateRoot, 'run', '--bundle', host.makeBundle(list), host.newId()];
    assert.equal(execFileSync('taskset', bound, { encoding: 'utf8', env }), all);
  });

  test('memory policy, of the first process and of those that follow', async () => {
    const policy = inLinux({ memoryPolicy: { mode: 'MPOL_INTERLEAVE', nodes: '0', flags: ['MPOL_F_STATIC_NODES'] } });
    const maps = 'head -n 1 /proc/self/numa_maps';
    const found = await output(maps, policy);
    assert.match(found, / interleave=static:0 /);
    const id = await host.start(['sleep', '10000'], policy);
    assert.match(await host.ok(['exec', id, 'sh', '-c', maps]), / interleave=static:0 /);
    assert.match(
      (await host.run(['true'], inLinux({ memoryPolicy: { mode: 'MPOL_BIND', nodes: '900' } }))).stderr,
      /\/linux\/memoryPolicy: set the memory policy 0x2 of the nodes 900: EINVAL/,
    );
  });

  test('the personality that uname and others look at', async () => {
    const machine = async (domain: string): Promise<string> => output('cat /proc/self/personality', inLinux({ personality: { domain } }));
    assert.deepEqual([await machine('LINUX'), await machine('LINUX32')], ['00000000\n', '00000008\n']);
  });

  test('network devices come with their addresses, under a new name where one is given', { skip: ip === undefined ? 'needs ip' : false }, async () => {
    assert.ok(ip !== undefined);
    const run = (...args: readonly string[]): string => execFileSync(ip, args, { encoding: 'utf8' });
    const names = [1, 2].map((number) => `bt${process.pid % 100_000}x${number}`);
    const [first = '', second = ''] = names;
    for (const name of names) run('link', 'add', name, 'type', 'veth', 'peer', 'name', `${name}p`);
    try {
      run('addr', 'add', '10.9.8.7/24', 'dev', first);
      run('addr', 'add', 'fd00:9::7/64', 'dev', first, 'nodad');
      run('link', 'set', first, 'up');
      const id = await host.start(['sleep', '10000'], inLinux({ netDevices: { [first]: { name: 'eth0' }, [second]: {} } }));
      const { pid } = await host.state(id);
      const inside = execFileSync('nsenter', ['-n', '-t', String(pid), ip, '-o', 'addr'], { encoding: 'utf8' });
      assert.match(inside, /eth0 +inet 10\.9\.8\.7\/24 /);
      assert.match(inside, /eth0 +inet6 fd00:9::7\/64 /);
      assert.match(execFileSync('nsenter', ['-n', '-t', String(pid), ip, 'link', 'show', second], { encoding: 'utf8' }), /[<,]UP[,>]/);
      assert.doesNotMatch(run('-o', 'link'), new RegExp(`${first}[@:]`));
      await host.ok(['delete', '--force', id]);
      // Below a user namespace too, where the container's process could not reach it.
      const third = `bt${process.pid % 100_000}x3`;
      run('link', 'add', third, 'type', 'veth', 'peer', 'name', `${third}p`);
      names.push(third);
      assert.match(await output('cat /proc/net/dev', inLinux({ netDevices: { [third]: { name: 'net1' } } }), addUsers), /^ *net1:/m);
    } finally {
      for (const name of names) {
        try {
          run('link', 'delete', `${name}p`);
        } catch {
          // Gone with the container's end of it.
        }
      }
    }
    assert.match((await host.run(['true'], inLinux({ netDevices: { nosuch: {} } }))).stderr, /\/linux\/netDevices\/nosuch: move the network device nosuch .*: ENODEV/);
    assert.match(
      (
        await host.run(['true'], (document) => {
          inLinux({ netDevices: { lo: {} } })(document);
          document.linux.namespaces = document.linux.namespaces.filter(({ type }) => type !== 'network');
        })
      ).stderr,
      /linux\.netDevices\.lo: needs a network namespace/,
    );
  });

  test('device nodes of every kind, with mode and owner; those that every container has', async () => {
    const devices = inLinux({
      devices: [
        { type: 'c', path: '/dev/own/zero', major: 1, minor: 5, fileMode: 0o640, uid: 7, gid: 8 },
        { type: 'u', path: '/dev/unbuffered', major: 1, minor: 3 },
        { type: 'b', path: '/dev/disk', major: 7, minor: 200, fileMode: 0o060_600 },
        { type: 'p', path: '/dev/fifo', fileMode: 0o622, gid: 9 },
        { type: 'c', path: '/dev/null', major: 1, minor: 3, fileMode: 0o600 },
        { type: 'c', path: '/dev/ptmx', major: 5, minor: 2, fileMode: 0o666 },
      ],
    });
    const script =
      'cd /dev; stat -c "%n %F %a %u:%g %t:%T" own/zero unbuffered disk fifo null zero full random urandom tty; for l in fd stdin stdout stderr ptmx; do readlink $l; done';
    const expected = [
      'own/zero character special file 640 7:8 1:5',
      'unbuffered character special file 666 0:0 1:3',
      'disk block special file 600 0:0 7:c8',
      'fifo fifo 622 0:9 0:0',
      'null character special file 600 0:0 1:3',
      'zero character special file 666 0:0 1:5',
      'full character special file 666 0:0 1:7',
      'random character special file 666 0:0 1:8',
      'urandom character special file 666 0:0 1:9',
      'tty character special file 666 0:0 5:0',
    ].join('\n');
    const links = '/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n';
    for (const more of [() => undefined, addUsers]) {
      const found = await output(script, devices, more);
      assert.equal(found, `${expected}\n${links}`);
    }
    // The host's own /dev stays as it is.
    const bound = await output('test ! -e /dev/own && test -c /dev/null', devices, (document) => {
      document.mounts = document.mounts.filter(({ destination }) => !destination.startsWith('/dev'));
      document.mounts.push({ destination: '/dev', type: 'bind', source: '/dev', options: ['rbind', 'rprivate'] });
    });
    assert.equal(bound, '');
    assert.ok(!existsSync('/dev/own'));
  });

  test('kernel parameters in both spellings, those of a user namespace too', async () => {
    const sysctl = { 'net.ipv4.ip_forward': '1', 'net/ipv4/conf/lo/forwarding': '0', 'kernel.shm_rmid_forced': '1', 'user.max_uts_namespaces': '7' };
    const files = ['net/ipv4/ip_forward', 'net/ipv4/conf/lo/forwarding', 'kernel/shm_rmid_forced', 'user/max_uts_namespaces'];
    assert.equal(await output(`cd /proc/sys; cat ${files.join(' ')}`, inLinux({ sysctl }), addUsers), '1\n0\n1\n7\n');
    assert.match(
      (await host.run(['true'], inLinux({ sysctl: { 'user.max_uts_namespaces': '7' } }))).stderr,
      /linux\.sysctl\[.*user\.max_uts_namespaces.*\]: needs an own user namespace/,
    );
  });

  const refusals: readonly (readonly [change: (document: OciDocument) => void, message: RegExp])[] = [
    [inProcess({ scheduler: { policy: 'SCHED_ISO' } }), /\/process\/scheduler: set the scheduler to policy 4, .*: EINVAL/],
    [inProcess({ scheduler: { policy: 'SCHED_FIFO' } }), /process\.scheduler\.priority: 0 is outside 1 to 99/],
    [inProcess({ ioPriority: { class: 'IOPRIO_CLASS_BE', priority: -1 } }), /process\.ioPriority\.priority: -1 is outside 0 to 7/],
    [inLinux({ personality: { domain: 'SOLARIS' } }), /linux\.personality\.domain: unknown personality/],
    [inLinux({ memoryPolicy: { mode: 'MPOL_SOMEWHERE' } }), /linux\.memoryPolicy\.mode: unknown memory policy mode/],
    [inLinux({ netDevices: { 'two words': {} } }), /linux\.netDevices\[.*\]: is no name of a network device/],
  ];
  for (const [index, [change, message]] of refusals.entries())
    test(`refusal ${index} has its place in the document, and leaves nothing`, async () => {
      const id = host.newId();
      assert.match(await host.fails(['create', '--bundle', host.makeBundle(['true'], change), id]), message);
      assert.match(await host.fails(['state', id]), /does not exist/);
    });

  test('Intel RDT where the host has none', { skip: existsSync('/sys/fs/resctrl/schemata') ? 'this host has it' : false }, async () => {
    assert.match(
      (await host.run(['true'], inLinux({ intelRdt: { closID: 'gold', schemata: ['L3:0=f'] } }))).stderr,
      /linux\.intelRdt: this host has no resctrl file system mounted/,
    );
  });
});
