/** podman from Debian with berth-oci as its runtime: user namespaces, pods, hooks, health checks, restarts, and what a container may do. */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { assertAdopted, readProcess, runtimeProcesses, skipWithout, until } from './callers-host.ts';
import { Podman, image, waiting } from './callers-podman-host.ts';

describe('podman', { skip: skipWithout('podman', 'conmon', 'script') }, () => {
  let host: Podman;
  before(async () => {
    host = new Podman();
    await host.ok(['import', host.place.tar(), image]);
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
  });

  test('a user namespace with mappings: root inside is nobody outside', async () => {
    const maps = ['--uidmap', '0:100000:65536', '--gidmap', '0:200000:65536'];
    const { stdout, stderr } = await host.shell(
      "id -u; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; stat -c %u /etc/passwd; touch /tmp/x && stat -c %u:%g /tmp/x; hostname -s",
      [...maps, '--hostname', 'inside'],
    );
    assert.equal(stdout, '0\n 0 100000 65536\n 0 200000 65536\n0\n0:0\ninside\n', stderr);
    const pid = await host.detached('mapped', 'exec sleep 1000', maps);
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^Uid:\t100000\t/m);
    assert.match(readFileSync(`/proc/${pid}/status`, 'utf8'), /^Gid:\t200000\t/m);
    assert.equal(await host.ok(['exec', 'mapped', 'id', '-u']), '0');
    assert.equal(await host.ok(['exec', '-u', 'alice', 'mapped', 'id', '-u']), '1000');
    await host.ok(['stop', '-t', '0', 'mapped']);
    await host.ok(['rm', 'mapped']);
  });

  test('hooks run at their moments with the state on standard input', async () => {
    const log = host.place.scratch('hooks-log');
    const hooks = host.place.scratch('hooks.d');
    const stages = ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop'];
    for (const stage of stages) {
      // startContainer runs in the container's root, which has a shell too; the others see the host's files.
      const inside = stage === 'startContainer';
      const script = `cat > ${inside ? '/tmp' : log}/${stage}`;
      const hook = { version: '1.0.0', hook: { path: '/bin/sh', args: ['sh', '-c', script] }, when: { annotations: { '^hooked$': '^yes$' } }, stages: [stage] };
      writeFileSync(`${hooks}/${stage}.json`, JSON.stringify(hook));
    }
    const options = ['--cgroup-parent', host.place.cgroupParent, '--network', 'none', '--annotation', 'hooked=yes'];
    await host.ok(['--hooks-dir', hooks, 'run', '--name', 'hooked', ...options, image, 'cat', '/tmp/startContainer']);
    const id = await host.inspect('hooked', '{{.Id}}');
    await host.ok(['--hooks-dir', hooks, 'rm', 'hooked']);
    await until('all hooks have run', () => readdirSync(log).length === stages.length - 1);
    for (const stage of readdirSync(log)) {
      // SAFETY: the runtime's words; each field that is read is compared.
      const state = JSON.parse(readFileSync(`${log}/${stage}`, 'utf8')) as Record<string, unknown>;
      assert.equal(state['id'], id, stage);
      assert.equal(typeof state['ociVersion'], 'string', stage);
      assert.match(String(state['bundle']), new RegExp(`^${host.place.directory}/store/.*${id}`), stage);
      // The container is being created until its program may start; runc and crun say "created" there already, and tests of the specification want it.
      const expected = { poststart: /^running$/, poststop: /^stopped$/ }[stage] ?? /^creat(ing|ed)$/;
      assert.match(String(state['status']), expected, stage);
      // SAFETY: compared at once.
      assert.equal((state['annotations'] as Record<string, unknown>)['hooked'], 'yes', stage);
    }
  });

  test('a failing hook fails the start with its words, and nothing stays', async () => {
    const hooks = host.place.scratch('bad-hooks.d');
    const hook = { version: '1.0.0', hook: { path: '/bin/sh', args: ['sh', '-c', 'echo the reason >&2; exit 5'] }, when: { always: true }, stages: ['createRuntime'] };
    writeFileSync(`${hooks}/bad.json`, JSON.stringify(hook));
    const { status, stderr } = await host.podman(['--hooks-dir', hooks, 'run', '--rm', '--cgroup-parent', host.place.cgroupParent, '--network', 'none', image, 'true']);
    assert.notEqual(status, 0);
    assert.match(stderr, /hook/);
    assert.match(stderr, /the reason/);
    assert.deepEqual(runtimeProcesses(), []);
  });

  test('health checks run by exec and count failures', async () => {
    const checked = async (): Promise<number | null> => (await host.podman(['healthcheck', 'run', 'checked'])).status;
    await host.detached('checked', 'touch /tmp/well; exec sleep 1000', ['--health-cmd', 'test -e /tmp/well', '--health-interval', 'disable', '--health-retries', '1']);
    await until('it is well', async () => (await checked()) === 0);
    assert.equal(await host.inspect('checked', '{{.State.Health.Status}}'), 'healthy');
    await host.ok(['exec', 'checked', 'rm', '/tmp/well']);
    assert.equal(await checked(), 1);
    assert.equal(await host.inspect('checked', '{{.State.Health.Status}}'), 'unhealthy');
    await host.ok(['rm', '-f', '-t', '0', 'checked']);
  });

  test('restart starts the same container again; --restart does so by itself', async () => {
    const first = await host.detached('again', waiting);
    await host.ok(['restart', '-t', '0', 'again']);
    const second = Number(await host.inspect('again', '{{.State.Pid}}'));
    assert.notEqual(first, second);
    assert.equal(readProcess(first), undefined);
    await assertAdopted(second, /^conmon /);
    await host.ok(['rm', '-f', '-t', '0', 'again']);
    await host.detached('stubborn', 'echo try; exit 1', ['--restart', 'on-failure:2']);
    await until('it gave up', async () => (await host.ok(['logs', 'stubborn'])) === 'try\ntry\ntry');
    await host.ok(['rm', '-f', '-t', '0', 'stubborn']);
  });

  test('a pod shares namespaces by path', async () => {
    await host.ok([
      'pod',
      'create',
      '--name',
      'shared',
      '--network',
      'none',
      '--share',
      'net,ipc,uts,pid',
      '--hostname',
      'podname',
      '--infra-image',
      image,
      '--infra-command',
      '/bin/sleep 1000',
      '--cgroup-parent',
      host.place.cgroupParent,
    ]);
    await host.ok(['run', '-d', '--pod', 'shared', '--name', 'one', image, 'sleep', '1111']);
    const { stdout, stderr } = await host.podman(['run', '--rm', '--pod', 'shared', image, 'sh', '-c', 'hostname; ps -o args']);
    assert.match(stdout, /^podname\n/, stderr);
    assert.match(stdout, /sleep 1111/);
    await host.ok(['pod', 'rm', '-f', '-t', '0', 'shared']);
    await host.detached('lender', 'exec sleep 1112', ['--hostname', 'lent']);
    const joined = await host.shell('hostname; ps -o args', [
      '--network',
      'container:lender',
      '--pid',
      'container:lender',
      '--uts',
      'container:lender',
      '--ipc',
      'container:lender',
    ]);
    assert.match(joined.stdout, /^lent\n[^]*sleep 1112/, joined.stderr);
    await host.ok(['rm', '-f', '-t', '0', 'lender']);
  });

  test('capabilities, privileges, limits and kernel settings are those asked for', async () => {
    const script = "grep -E 'CapEff|CapInh|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'";
    const few = await host.shell(script, ['--cap-drop', 'all', '--cap-add', 'net_admin', '--security-opt', 'no-new-privileges']);
    assert.equal(few.stdout, 'CapInh:0000000000000000\nCapEff:0000000000001000\nNoNewPrivs:1\nSeccomp:2\n', few.stderr);
    const all = await host.shell(script, ['--privileged']);
    assert.match(all.stdout, /^CapInh:0+\nCapEff:000001ff[0-9a-f]{8}\nNoNewPrivs:0\nSeccomp:0\n/, all.stderr);
    const set = await host.shell('ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax; hostname; cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2', [
      '--ulimit', 'nofile=99:100', '--ulimit', 'nproc=100:100', '--sysctl', 'net.ipv4.ip_unprivileged_port_start=7', '--sysctl', 'kernel.shmmax=4096', '--hostname', 'named', '--oom-score-adj', '500', '--shm-size', '2m',
    ]); // prettier-ignore
    assert.equal(set.stdout, '99\n7\n4096\nnamed\n500\n2048\n', set.stderr);
    const devices = await host.shell(
      'ls /dev; echo ok > /dev/null && head -c4 /dev/mine | wc -c; dd if=/dev/full of=/dev/null bs=1 count=1 2>/dev/null && echo full; ls /sys/firmware | wc -l; echo x > /proc/sys/kernel/domainname || echo readonly',
      ['--device', '/dev/zero:/dev/mine:r'],
    );
    assert.match(devices.stdout, /\bmine\n[^]*\n4\nfull\n0\nreadonly\n$/, devices.stderr);
    const profile = host.place.write(
      'seccomp.json',
      JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', architectures: ['SCMP_ARCH_X86_64'], syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 }] }),
    );
    const seccomp = await host.shell('mkdir /tmp/x', ['--security-opt', `seccomp=${profile}`]);
    assert.equal(seccomp.status, 1);
    assert.match(seccomp.stderr, /Function not implemented/);
  });

  test('the network of the bridge is there, the host’s too', async () => {
    // podman leaves its bridge and rules for the next container, so it gets a network of its own to leave them in.
    const words = ['run', '--rm', '--cgroup-parent', host.place.cgroupParent, '--network', 'podman', image, 'ip', '-o', '-4', 'addr', 'show', 'eth0'];
    const bridged = await host.start(words, {}, ['unshare', '-n']).finished;
    assert.match(bridged.stdout, /10\.88\./, bridged.stderr);
    const open = await host.shell('ip -o link | wc -l; ps | wc -l', ['--network', 'host', '--pid', 'host', '--ipc', 'host', '--uts', 'host']);
    assert.equal(open.status, 0, open.stderr);
    assert.ok(Number(open.stdout.split('\n')[1]) > 3, open.stdout);
  });

  test('descriptors of the caller are passed on, others are not', async () => {
    const { stdout, stderr } = await host.shell('ls /proc/self/fd | tr "\\n" " "');
    // ls has its own descriptor of the directory.
    assert.equal(stdout, '0 1 2 3 ', stderr);
  });
});
